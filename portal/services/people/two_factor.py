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
        # Sealed under a key that was lost. A recovery code is good without it.
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


def replace_recovery_codes(conn: sqlite3.Connection, user_id: int) -> list[str]:
    """Replace a user's recovery codes.

    Returns:
        The new ones, to be shown once; only their hashes are kept.
    """
    codes = [
        "-".join("".join(secrets.choice(_CODE_ALPHABET) for _ in range(5)) for _ in range(2))
        for _ in range(RECOVERY_CODE_COUNT)
    ]
    with write_transaction(conn):
        conn.execute("DELETE FROM recovery_codes WHERE user_id = ?", (user_id,))
        conn.executemany(
            "INSERT INTO recovery_codes (user_id, code_hash) VALUES (?, ?)",
            [(user_id, hash_token(_normalize_code(code))) for code in codes],
        )
    return codes


def use_recovery_code(conn: sqlite3.Connection, user_id: int, code: str) -> bool:
    """Use up a recovery code; False when it isn't one, or was used before."""
    with write_transaction(conn):
        used = conn.execute(
            "UPDATE recovery_codes SET used_at = ? WHERE user_id = ? AND code_hash = ? AND used_at IS NULL",
            (now_ms(), user_id, hash_token(_normalize_code(code))),
        )
        return used.rowcount == 1


def count_unused_recovery_codes(conn: sqlite3.Connection, user_id: int) -> int:
    row = conn.execute("SELECT count(*) FROM recovery_codes WHERE user_id = ? AND used_at IS NULL", (user_id,))
    return int(row.fetchone()[0])


def _normalize_code(code: str) -> str:
    return code.strip().lower().replace("-", "").replace(" ", "")
