"""What is sent twice happens once: each form that must not be repeated carries an idempotency key."""

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.common.errors import Refused

_MAX_KEY_LENGTH = 64
# Longer than any browser keeps a form that it could send again.
_RETENTION_MS = 30 * DAY_MS


class FormAlreadySent(Refused):
    sentence = N_("This form was sent before, and what it asked for has been done. It was not done a second time.")


def new_idempotency_key() -> str:
    """An idempotency key for one form."""
    return secrets.token_urlsafe(16)


def use_idempotency_key(conn: sqlite3.Connection, key: str) -> None:
    """Use up an idempotency key, in the transaction of what may happen only once: if that fails, the key is still good.

    Args:
        key: from `new_idempotency_key`; an empty one (a caller without a form) is never used up. Only the first 64
            characters count.

    Raises:
        FormAlreadySent
    """
    if not key:
        return
    now = now_ms()
    with write_transaction(conn):
        conn.execute("DELETE FROM spent_forms WHERE at < ?", (now - _RETENTION_MS,))
        try:
            conn.execute("INSERT INTO spent_forms VALUES (?, ?)", (key[:_MAX_KEY_LENGTH], now))
        except sqlite3.IntegrityError:
            raise FormAlreadySent() from None


@contextmanager
def once(conn: sqlite3.Connection, key: str) -> Iterator[None]:
    """Run a block in a transaction that uses up an idempotency key. Raises: FormAlreadySent, before the block."""
    with write_transaction(conn):
        use_idempotency_key(conn, key)
        yield
