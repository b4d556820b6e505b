"""What an account sent on a day, and in a month by country and sender (UTC), counted as it happens."""

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache

from portal.db import DAY_MS, Inserts

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


_ADD_USAGE = Inserts(
    "monthly_usage",
    "account_id, month, country, source, messages, parts, price",
    "ON CONFLICT (account_id, month, country, source) DO UPDATE SET"
    " messages = messages + excluded.messages, parts = parts + excluded.parts, price = price + excluded.price",
)


def add_usage(conn: sqlite3.Connection, day: int, usage: Mapping[tuple[int, str, str], Sequence[int]]) -> None:
    """Add to what a month's messages cost.

    Args:
        day: when they were sent (days since 1970).
        usage: messages, parts and price (thousandths of a credit) by account id, country and sender.
    """
    month = month_of(day)
    _ADD_USAGE.run(conn, [(key[0], month, *key[1:], *amounts) for key, amounts in usage.items()])


@cache
def month_of(day: int) -> int:
    """The month that a day (days since 1970) is in, counted from the year 0: years times twelve, and months from 0."""
    date = datetime.fromtimestamp(day * DAY_MS / 1000, UTC)
    return date.year * 12 + date.month - 1
