"""The seven counts that days' totals and statistics have of messages, with their names, order and meaning; and what an
account sent on a day (UTC), counted in the transaction in which it happens.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import BulkInsert
from portal.services.common.message_states import DELIVERED, ENROUTE, PTT_BLACKLISTED, PTT_NO_CREDIT


class MessageCounts(NamedTuple):
    """What there was; `price` in thousandths of a credit.

    `sent` was charged and becomes `delivered` or `failed`; `stopped` was for the blacklist, and `refused` for want of
    credits: neither was sent.
    """

    sent: int = 0
    delivered: int = 0
    failed: int = 0
    stopped: int = 0
    refused: int = 0
    parts: int = 0
    price: int = 0

    @property
    def pending(self) -> int:
        """How many were sent and have no final state yet."""
        return max(self.sent - self.delivered - self.failed, 0)

    @property
    def delivery_rate(self) -> float | None:
        """The share that was delivered of those with a final state; None where there is none of these."""
        final_count = self.delivered + self.failed
        return self.delivered / final_count if final_count else None

    @property
    def submitted(self) -> int:
        """All that clients have submitted and was counted, sent or not."""
        return self.sent + self.stopped + self.refused


COUNT_COLUMNS = MessageCounts._fields
"""The columns of the tables that have them, in their order."""

COLUMNS_SQL = ", ".join(COUNT_COLUMNS)
SUMS_SQL = ", ".join(f"sum({name})" for name in COUNT_COLUMNS)

MESSAGE_COUNT_SQL = {
    "sent": "(price > 0)",
    "delivered": f"(price > 0 AND state = {DELIVERED})",
    "failed": f"(price > 0 AND state NOT IN ({ENROUTE}, {DELIVERED}))",
    "stopped": f"(price = 0 AND ptt = {PTT_BLACKLISTED})",
    "refused": f"(price = 0 AND ptt = {PTT_NO_CREDIT})",
    "parts": "iif(price > 0, parts, 0)",
    "price": "price",
}
"""What one row of `messages` adds to each count, in SQL."""


def build_upsert(table: str, key: str) -> BulkInsert:
    """The statement that adds counts to the rows of a table; `key`: the columns of its primary key."""
    return BulkInsert(
        table,
        f"{key}, {COLUMNS_SQL}",
        f"ON CONFLICT ({key}) DO UPDATE SET "
        + ", ".join(f"{name} = {name} + excluded.{name}" for name in COUNT_COLUMNS),
    )


def sum_counts(counts: Iterable[MessageCounts]) -> MessageCounts:
    """Add up, count by count."""
    return MessageCounts(*map(sum, zip(*counts, strict=True)))


# --- days

_UPSERT_TOTALS = build_upsert("daily_totals", "account_id, day")


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
    query = f"SELECT {SUMS_SQL} FROM daily_totals WHERE account_id = ? AND day >= ?"
    row = conn.execute(query, (account_id, first)).fetchone()
    return MessageCounts(*(value or 0 for value in row))


def list_daily_totals(conn: sqlite3.Connection, account_id: int, days: int) -> list[tuple[int, MessageCounts]]:
    """One (start of the day in milliseconds, totals) for each of the last days, oldest first, empty ones included."""
    today = now_ms() // DAY_MS
    query = f"SELECT day, {COLUMNS_SQL} FROM daily_totals WHERE account_id = ? AND day > ?"
    rows = conn.execute(query, (account_id, today - days))
    counts_by_day = {row["day"]: MessageCounts(*tuple(row)[1:]) for row in rows}
    return [(day * DAY_MS, counts_by_day.get(day, MessageCounts())) for day in range(today - days + 1, today + 1)]
