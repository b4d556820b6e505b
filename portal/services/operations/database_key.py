"""Whether `secret.key` belongs to a database: with another one every login and every bind would fail."""

import sqlite3
from pathlib import Path

from cryptography.exceptions import InvalidTag

from portal.core.crypto import FILE_NAME, KeyFileError, Keys


def require_key_of_database(conn: sqlite3.Connection, data: Path) -> None:
    """Make sure that a data folder's key, where there is one, belongs to its database.

    For whoever has locked the folder: a restore replaces the database.

    Args:
        conn: the database, of any version.

    Raises:
        KeyFileError: it doesn't, or is damaged.
        sqlite3.Error: the database can't be read.
    """
    if not is_key_of_database(conn, data):
        raise KeyFileError("secret.key belongs to another database: put back the key that belongs to this one")


def is_key_of_database(conn: sqlite3.Connection, data: Path) -> bool:
    """Whether any TOTP secret of a database, of any version, opens with the key of a data folder.

    Also where there is no secret, or no key yet: it can be put there after the database.

    Raises:
        KeyFileError: the key is damaged.
        sqlite3.Error
    """
    if not (data / FILE_NAME).exists():
        return True
    # Some are left of another key where users have begun anew under this one.
    opens = _try_secrets(conn, Keys.load(data))
    return any(opens) or not opens


def count_unopened_secrets(conn: sqlite3.Connection, keys: Keys) -> int:
    """How many users' TOTP secrets a key doesn't open: they can't log in until they get a new link.

    Raises:
        sqlite3.Error
    """
    return _try_secrets(conn, keys).count(False)


def _try_secrets(conn: sqlite3.Connection, keys: Keys) -> list[bool]:
    """Of each TOTP secret whether the key opens it."""
    return [
        can_open_secret(keys, row[0])
        for row in conn.execute("SELECT totp_secret FROM users WHERE totp_secret IS NOT NULL")
    ]


def can_open_secret(keys: Keys, sealed_secret: bytes) -> bool:
    """Whether a secret was sealed under a key, and is whole."""
    try:
        keys.decrypt_column(sealed_secret)
    except InvalidTag:
        return False
    return True
