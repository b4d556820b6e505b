"""The installation's secret key, and what is derived from it.

One file, `secret.key` (0600), in the data folder and in no backup of the database: whoever has only the database can
neither check SMPP passwords nor read TOTP secrets.
"""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FILE_NAME = "secret.key"
_KEY_BYTES = 32
_NONCE_BYTES = 12


class KeyFileError(Exception):
    """The key file is missing or unusable; the text says what to do."""


class Keys:
    """Keys for each purpose, derived from the one secret by HKDF (RFC 5869), so that no two purposes share one."""

    def __init__(self, secret: bytes) -> None:
        self._smpp = _derive(secret, b"smpp password digest")
        self._sealing = AESGCM(_derive(secret, b"sealed columns"))
        self.cookie = _derive(secret, b"web cookies")

    @classmethod
    def load(cls, data: Path) -> "Keys":
        """Read the key of a data folder.

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
        """Make a key for a new data folder; one that is already there stays."""
        try:
            fd = os.open(data / FILE_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def smpp_digest(self, password: str | bytes) -> bytes:
        """HMAC-SHA256 of an SMPP password.

        A fast digest is right here: the passwords are random (47.6 bits), the key isn't in the database, and a
        thousand clients may bind in the same second.
        """
        if isinstance(password, str):
            password = password.encode()
        return hmac.digest(self._smpp, password, "sha256")

    def seal(self, plain: bytes) -> bytes:
        """Encrypt for storage in a column (AES-256-GCM, random nonce in front)."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._sealing.encrypt(nonce, plain, None)

    def unseal(self, sealed: bytes) -> bytes:
        """Undo `seal`.

        Raises:
            cryptography.exceptions.InvalidTag: sealed under another key, or altered.
        """
        return self._sealing.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)


def token_hash(token: str) -> bytes:
    """What is stored of a random token (login session, one-time link): enough to recognise it, not to use it."""
    return hashlib.sha256(token.encode()).digest()


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=_KEY_BYTES, salt=None, info=b"smpp-portal " + purpose).derive(secret)
