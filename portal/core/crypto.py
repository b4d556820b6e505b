"""The installation's secret key, and what is derived from it.

One file, `secret.key` (0600), in the data folder and in no backup of the database: whoever has only the database can
neither check SMPP passwords nor read TOTP secrets.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FILE_NAME = "secret.key"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class KeyFileError(Exception):
    """The key file is missing or unusable; the text says what to do."""


class Keys:
    """The keys for each purpose, derived from the secret by HKDF (RFC 5869), so that no two purposes share a key."""

    def __init__(self, secret: bytes) -> None:
        self._smpp_key = _derive_key(secret, b"smpp password digest")
        self._recovery_key = _derive_key(secret, b"recovery code digest")
        self._aead = AESGCM(_derive_key(secret, b"sealed columns"))
        self.cookie_key = _derive_key(secret, b"web cookies")
        self.known_browser_key = _derive_key(secret, b"known browsers")

    @classmethod
    def load(cls, data: Path) -> "Keys":
        """Load the secret key of a data folder.

        Raises:
            KeyFileError: there is none, or it is damaged.
        """
        file = data / FILE_NAME
        try:
            secret = bytes.fromhex(file.read_text().strip())
        except FileNotFoundError:
            raise KeyFileError(f"{file} is missing: put back the key that belongs to this database") from None
        except (ValueError, UnicodeDecodeError):
            raise KeyFileError(f"{file} is damaged: put back the key that belongs to this database") from None
        if len(secret) != _KEY_BYTES:
            raise KeyFileError(f"{file} must hold {_KEY_BYTES} bytes in hexadecimal")
        return cls(secret)

    @staticmethod
    def create(data: Path) -> None:
        """Create the key file of a new data folder; an existing one stays."""
        try:
            fd = os.open(data / FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def digest_smpp_password(self, password: str | bytes) -> bytes:
        """Return the HMAC-SHA256 of an SMPP password.

        A fast digest is sufficient: the passwords are random (47.6 bits), the key isn't in the database, and a thousand
        clients may bind in the same second.
        """
        if isinstance(password, str):
            password = password.encode()
        return hmac.digest(self._smpp_key, password, "sha256")

    def digest_recovery_code(self, user_id: int, code_hash: bytes) -> bytes:
        """Return the HMAC-SHA512 of a user's recovery code (64 octets).

        Args:
            code_hash: the SHA-256 of the code. Until codes were keyed, that was all that was stored.
        """
        return hmac.digest(self._recovery_key, user_id.to_bytes(8) + code_hash, "sha512")

    def encrypt_column(self, plaintext: bytes) -> bytes:
        """Encrypt a value for storage in a column (AES-256-GCM; the result begins with the random nonce)."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, plaintext, None)

    def decrypt_column(self, ciphertext: bytes) -> bytes:
        """Decrypt what `encrypt_column` has returned.

        Raises:
            cryptography.exceptions.InvalidTag: it was encrypted with another key, or altered, or cut off.
        """
        if len(ciphertext) < _NONCE_BYTES:
            # AESGCM has another error for a nonce that is too short.
            raise InvalidTag
        return self._aead.decrypt(ciphertext[:_NONCE_BYTES], ciphertext[_NONCE_BYTES:], None)


def hash_token(token: str) -> bytes:
    """Return the hash under which a random token is stored (login session, one-time link): it can't be used as one."""
    return hashlib.sha256(token.encode()).digest()


def _derive_key(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=_KEY_BYTES, salt=None, info=b"smpp-portal " + purpose).derive(secret)
