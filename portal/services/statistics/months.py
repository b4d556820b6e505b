"""Months (UTC), as they are typed and written, and those in which anything can have been sent."""

import sqlite3

from portal.core.clock import DAY_MS
from portal.core.i18n import N_
from portal.services.common import ids
from portal.services.common.errors import Refused
from portal.services.statistics.daily_totals import month_from_day


class InvalidMonth(Refused, field="month"):
    sentence = N_("“%(text)s” isn't a month. Example: 2026-11.")


def parse_month(text: str) -> int:
    """Read a month like 2026-11. Raises: InvalidMonth"""
    year, _, month = text.strip().partition("-")
    digits = year + month
    if (len(year), len(month)) != (4, 2) or not (digits.isascii() and digits.isdigit()) or not 1 <= int(month) <= 12:
        raise InvalidMonth(text=text)
    return int(year) * 12 + int(month) - 1


def format_month(month: int) -> str:
    """What `parse_month` reads."""
    return f"{month // 12:04}-{month % 12 + 1:02}"


def get_month(at: int) -> int:
    """The month of a moment (milliseconds)."""
    return month_from_day(at // DAY_MS)


def list_months(conn: sqlite3.Connection, now: int) -> list[int]:
    """The months since there is an account, or since the oldest message; the newest, that of `now` (milliseconds),
    first.
    """
    (first_account_at,) = conn.execute("SELECT created_at FROM accounts ORDER BY id LIMIT 1").fetchone() or (now,)
    (first_message_id,) = conn.execute("SELECT min(id) FROM messages").fetchone()
    first_message_at = now if first_message_id is None else ids.time_from_id(first_message_id)
    return [*range(get_month(now), get_month(min(first_account_at, first_message_at)) - 1, -1)]
