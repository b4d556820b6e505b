"""The seven counts that days' totals and statistics have of messages: one place for their names, order and meaning."""

from collections.abc import Iterable
from typing import NamedTuple

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


def build_counts_upsert(table: str, key: str) -> BulkInsert:
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
