"""What an account sent on a day (UTC), counted in the transaction in which it happens."""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache

from portal.core.db import DAY_MS, Inserts

_COLUMNS = ("sent", "delivered", "failed", "stopped", "refused", "parts", "price")
_ADD = Inserts(
    "daily_totals",
    f"account_id, day, {', '.join(_COLUMNS)}",
    "ON CONFLICT (account_id, day) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _COLUMNS),
)


def add(conn: sqlite3.Connection, amounts: Mapping[tuple[int, int], Counter[str]]) -> None:
    """Add to days' totals.

    Args:
        amounts: columns of `daily_totals` by account id and day (days since 1970); `price` in thousandths of a credit.
    """
    rows = [(*account_and_day, *(counts[name] for name in _COLUMNS)) for account_and_day, counts in amounts.items()]
    _ADD.run(conn, rows)


@cache
def month_of(day: int) -> int:
    """The month that a day (days since 1970) is in, counted from the year 0: years times twelve, and months from 0."""
    date = datetime.fromtimestamp(day * DAY_MS / 1000, UTC)
    return date.year * 12 + date.month - 1
