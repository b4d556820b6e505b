"""Time-based one-time passwords (RFC 6238) and recovery codes."""

import hmac
import secrets
import sqlite3

import pyotp
from cryptography.exceptions import InvalidTag

from portal.core.clock import now_ms
from portal.core.crypto import Keys, hash_token
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.common.errors import Refused

RECOVERY_CODE_COUNT = 10
# Four groups of four characters: 80 bits.
_CODE_GROUPS, _GROUP_CHARACTERS = 4, 4
_CODE_CHARACTERS = _CODE_GROUPS * _GROUP_CHARACTERS
_SHORT_CODE_CHARACTERS = 10
_STEP_SECONDS = 30
# Codes of the step before and after count too: phones' clocks drift (RFC 6238, 5.2).
_DRIFT_STEPS = 1
# Crockford's base 32: no letter that is mistaken for a digit.
_CODE_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class WrongTotpCode(Refused, field="code"):
    sentence = N_("That code isn't right, or it was used already. Wait for the next one and enter it here.")


def new_totp_secret(keys: Keys) -> bytes:
    """A fresh secret, sealed for the database."""
    return keys.encrypt_column(pyotp.random_base32().encode())


def format_totp_secret(keys: Keys, sealed_secret: bytes) -> str:
    """The secret as people type it into an authenticator app (base 32)."""
    return keys.decrypt_column(sealed_secret).decode()


def format_totp_uri(keys: Keys, sealed_secret: bytes, email: str, issuer: str) -> str:
    """The `otpauth://` address that authenticator apps read from a QR code."""
    return pyotp.TOTP(format_totp_secret(keys, sealed_secret)).provisioning_uri(name=email, issuer_name=issuer)


def verify_totp_code(conn: sqlite3.Connection, keys: Keys, user_id: int, code: str) -> bool:
    """Check a code and use it up: each is good once (RFC 6238, 5.2), even when two requests bring it together."""
    row = conn.execute("SELECT totp_secret FROM users WHERE id = ?", (user_id,)).fetchone()
    if row is None or row["totp_secret"] is None:
        return False
    try:
        totp = pyotp.TOTP(format_totp_secret(keys, row["totp_secret"]))
    except InvalidTag:
        # Sealed under a key that was lost.
        return False
    digits = "".join(code.split())
    current_step = now_ms() // 1000 // _STEP_SECONDS
    for step in range(current_step - _DRIFT_STEPS, current_step + _DRIFT_STEPS + 1):
        if hmac.compare_digest(totp.at(step * _STEP_SECONDS).encode(), digits.encode()):
            with write_transaction(conn):
                # A last step that has yet to come was noted by a clock that went wrong; the codes of that time are not
                # good at this one, so nothing is lost by passing over it.
                updated = conn.execute(
                    "UPDATE users SET totp_last_step = ?1 WHERE id = ?2"
                    " AND (totp_last_step < ?1 OR totp_last_step > ?3)",
                    (step, user_id, current_step + _DRIFT_STEPS),
                )
                return updated.rowcount == 1
    return False


def replace_recovery_codes(conn: sqlite3.Connection, keys: Keys, user_id: int) -> list[str]:
    """Replace a user's recovery codes.

    Returns:
        The new ones, to be shown once; only their digests under the secret key are kept.
    """
    codes = [_new_recovery_code() for _ in range(RECOVERY_CODE_COUNT)]
    with write_transaction(conn):
        conn.execute("DELETE FROM recovery_codes WHERE user_id = ?", (user_id,))
        conn.executemany(
            "INSERT INTO recovery_codes (user_id, code_hash) VALUES (?, ?)",
            [(user_id, _digest_code(keys, user_id, code)) for code in codes],
        )
    return codes


def _new_recovery_code() -> str:
    characters = "".join(secrets.choice(_CODE_ALPHABET) for _ in range(_CODE_CHARACTERS))
    return "-".join(characters[at : at + _GROUP_CHARACTERS] for at in range(0, _CODE_CHARACTERS, _GROUP_CHARACTERS))


def key_old_recovery_codes(conn: sqlite3.Connection, keys: Keys) -> None:
    """Put codes under the secret key that an older version has stored as SHA-256, or a backup of one has brought.

    Whoever finds the database could otherwise try all of them: they have 50 bits.
    """
    # A digest is twice as long as a hash.
    unkeyed = "SELECT id, user_id, code_hash FROM recovery_codes WHERE length(code_hash) = 32"
    if conn.execute(unkeyed + " LIMIT 1").fetchone() is None:
        return
    with write_transaction(conn):
        conn.executemany(
            "UPDATE recovery_codes SET code_hash = ? WHERE id = ?",
            [(keys.digest_recovery_code(row["user_id"], row["code_hash"]), row["id"]) for row in conn.execute(unkeyed)],
        )


def use_recovery_code(conn: sqlite3.Connection, keys: Keys, user_id: int, code: str) -> bool:
    """Use up a recovery code; False when it isn't one, or was used before."""
    with write_transaction(conn):
        # The second one is what `key_old_recovery_codes` will put under the key.
        used = conn.execute(
            "UPDATE recovery_codes SET used_at = ? WHERE user_id = ? AND code_hash IN (?, ?) AND used_at IS NULL",
            (now_ms(), user_id, _digest_code(keys, user_id, code), hash_token(_normalize_code(code))),
        )
        return used.rowcount == 1


def is_short_recovery_code(code: str) -> bool:
    """Whether a code is as long as those with 50 bits that older versions made; one of an authenticator is not."""
    return len(_normalize_code(code)) == _SHORT_CODE_CHARACTERS


def count_unused_recovery_codes(conn: sqlite3.Connection, user_id: int) -> int:
    row = conn.execute("SELECT count(*) FROM recovery_codes WHERE user_id = ? AND used_at IS NULL", (user_id,))
    return int(row.fetchone()[0])


def _digest_code(keys: Keys, user_id: int, code: str) -> bytes:
    return keys.digest_recovery_code(user_id, hash_token(_normalize_code(code)))


def _normalize_code(code: str) -> str:
    return code.strip().lower().replace("-", "").replace(" ", "")
