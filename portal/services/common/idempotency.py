"""What is sent twice happens once: each form of a kind that must not be repeated carries a number used once."""

import secrets
import sqlite3

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import immediate
from portal.core.i18n import N_
from portal.services.common.errors import Refused

_LENGTH = 64
# Longer than any browser keeps a form that it could send again.
_KEPT_MS = 30 * DAY_MS


class AlreadySent(Refused):
    sentence = N_("This form was sent before, and what it asked for has been done. It was not done a second time.")


def new() -> str:
    """A number for one form."""
    return secrets.token_urlsafe(16)


def spend(conn: sqlite3.Connection, number: str) -> None:
    """Use a number up, in the transaction of what may happen only once: if that fails, the number is still good.

    Args:
        number: from `new`; an empty one (a caller who has no form) is never used up. Of a longer one, which nobody was
            given, the beginning counts.

    Raises:
        AlreadySent
    """
    if not number:
        return
    now = now_ms()
    with immediate(conn):
        conn.execute("DELETE FROM spent_forms WHERE at < ?", (now - _KEPT_MS,))
        try:
            conn.execute("INSERT INTO spent_forms VALUES (?, ?)", (number[:_LENGTH], now))
        except sqlite3.IntegrityError:
            raise AlreadySent() from None
