"""What an account sent on a day (UTC), counted in the transaction in which it happens."""

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache

from portal.core.clock import DAY_MS, now_ms
from portal.services.statistics.message_counts import COLUMNS_SQL, SUMS_SQL, MessageCounts, build_counts_upsert

_UPSERT_TOTALS = build_counts_upsert("daily_totals", "account_id, day")


def add_daily_totals(conn: sqlite3.Connection, amounts: Sequence[tuple[int, ...]]) -> None:
    """Add to days' totals.

    Args:
        amounts: account id, day (days since 1970), and what to add to the columns of `MessageCounts`, in their order.
    """
    _UPSERT_TOTALS.run(conn, amounts)


@cache
def month_from_day(day: int) -> int:
    """The month that a day (days since 1970) is in, counted from the year 0: years times twelve, and months from 0."""
    date = datetime.fromtimestamp(day * DAY_MS / 1000, UTC)
    return date.year * 12 + date.month - 1


def build_month_sql(day_sql: str) -> str:
    """The SQL expression of `month_from_day` for a day that is an SQL expression."""
    year, month = (f"strftime('%{each}', ({day_sql}) * 86400, 'unixepoch')" for each in "Ym")
    return f"({year} * 12 + {month} - 1)"


def sum_daily_totals(conn: sqlite3.Connection, account_id: int, days: int | None) -> MessageCounts:
    """Totals of the last days, today (UTC) included; None: of all time."""
    first = now_ms() // DAY_MS - days + 1 if days is not None else 0
    row = conn.execute(
        f"SELECT {SUMS_SQL} FROM daily_totals WHERE account_id = ? AND day >= ?", (account_id, first)
    ).fetchone()
    return MessageCounts(*(value or 0 for value in row))


def list_daily_totals(conn: sqlite3.Connection, account_id: int, days: int) -> list[tuple[int, MessageCounts]]:
    """One (start of the day in milliseconds, totals) for each of the last days, oldest first, empty ones included."""
    today = now_ms() // DAY_MS
    rows = conn.execute(
        f"SELECT day, {COLUMNS_SQL} FROM daily_totals WHERE account_id = ? AND day > ?",
        (account_id, today - days),
    )
    counts_by_day = {row["day"]: MessageCounts(*tuple(row)[1:]) for row in rows}
    return [(day * DAY_MS, counts_by_day.get(day, MessageCounts())) for day in range(today - days + 1, today + 1)]
