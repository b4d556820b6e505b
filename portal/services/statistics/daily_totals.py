"""What an account sent on a day (UTC), counted in the transaction in which it happens."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import BulkInsert

_COLUMNS = ("sent", "delivered", "failed", "stopped", "refused", "parts", "price")
_UPSERT_TOTALS = BulkInsert(
    "daily_totals",
    f"account_id, day, {', '.join(_COLUMNS)}",
    "ON CONFLICT (account_id, day) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _COLUMNS),
)


@dataclass(frozen=True, slots=True)
class MessageCounts:
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


def sum_daily_totals(conn: sqlite3.Connection, account_id: int, days: int | None) -> MessageCounts:
    """Totals of the last days, today (UTC) included; None: of all time."""
    first = now_ms() // DAY_MS - days + 1 if days is not None else 0
    row = conn.execute(
        "SELECT sum(sent), sum(delivered), sum(failed), sum(stopped), sum(refused), sum(parts), sum(price)"
        " FROM daily_totals WHERE account_id = ? AND day >= ?",
        (account_id, first),
    ).fetchone()
    return MessageCounts(*(value or 0 for value in row))


def list_daily_totals(conn: sqlite3.Connection, account_id: int, days: int) -> list[tuple[int, MessageCounts]]:
    """One (start of the day in milliseconds, totals) for each of the last days, oldest first, empty ones included."""
    today = now_ms() // DAY_MS
    rows = conn.execute(
        "SELECT day, sent, delivered, failed, stopped, refused, parts, price FROM daily_totals"
        " WHERE account_id = ? AND day > ?",
        (account_id, today - days),
    )
    counts_by_day = {row["day"]: MessageCounts(*tuple(row)[1:]) for row in rows}
    return [(day * DAY_MS, counts_by_day.get(day, MessageCounts())) for day in range(today - days + 1, today + 1)]
