"""What query_sm asks of messages, and cancel_sm does to them (SMPP 3.4, 4.8 and 4.9)."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

from portal.core.clock import now_ms
from portal.core.db import write_transaction
from portal.services.common import addresses
from portal.services.common.message_states import DELETED, ENROUTE, PTT_DELETED
from portal.services.messages import message_parts
from portal.services.messages.deliveries import DeliveryReceipt
from portal.services.messages.outcomes import MessageOutcome, finish_messages, refund_messages
from portal.services.upstreams import queue


@dataclass(frozen=True, slots=True)
class MessageStatus:
    """What query_sm and cancel_sm need to know of a message (SMPP 3.4, 4.8, 4.9). Times in milliseconds.

    `is_scheduled`: the date on which it is to be sent is still to come. `is_queued`: it waits for an upstream.
    `upstream`: the one that has it, if any.
    """

    id: int
    source: str
    destination: str
    state: int
    ptt: int
    done_at: int | None
    is_scheduled: bool
    is_queued: bool = False
    upstream: int | None = None


@dataclass(slots=True)
class CancelResult:
    """For each message whether it was cancelled, the receipts that were queued, and what was given back (thousandths of
    a credit).
    """

    was_cancelled: list[bool] = field(default_factory=list)
    receipts: list[DeliveryReceipt] = field(default_factory=list)
    refunded: int = 0


_SELECT_STATUS = (
    "SELECT id, source, destination, state, ptt, done_at,"
    " scheduled_at IS NOT NULL AND due_at IS scheduled_at,"
    f" {queue.IS_WAITING_SQL}, upstream FROM messages WHERE"
)


def find_message_status(conn: sqlite3.Connection, account_id: int, message_id: int | None) -> MessageStatus | None:
    """A message of an account; None where it has none with that id."""
    row = conn.execute(f"{_SELECT_STATUS} id = ? AND account_id = ?", (message_id, account_id)).fetchone()
    return MessageStatus(*row) if row else None


def find_unfinished_messages(
    conn: sqlite3.Connection, account_id: int, source: str, destination: str
) -> list[MessageStatus]:
    """The messages of an account from one address to another that have no final state.

    Args:
        source: however it is written.
        destination: without a plus or 00.
    """
    # Not by the account's own index, which contains all that it has ever sent. What has not ended is less, even where
    # much waits for an upstream.
    condition = (
        "account_id = :account AND destination = :destination AND source IN (SELECT value FROM json_each(:sources))"
    )
    rows = conn.execute(
        f"{_SELECT_STATUS} state = {ENROUTE} AND due_at IS NOT NULL AND {condition} UNION ALL"
        f" {_SELECT_STATUS} state = {ENROUTE} AND due_at IS NULL AND +{condition} ORDER BY id",
        {"account": account_id, "sources": json.dumps(addresses.list_spellings(source)), "destination": destination},
    )
    return [MessageStatus(*row) for row in rows]


def cancel_messages(conn: sqlite3.Connection, candidates: Sequence[MessageStatus]) -> CancelResult:
    """Cancel messages and give back what they cost.

    The caller has made sure that no upstream sends them. A scheduled one is cancelled only if its date is still to
    come, and one that was sent only if no upstream may have it, or a part of it.
    """
    cancelled = CancelResult()
    ended: dict[int, tuple[int, int, int]] = {}
    with write_transaction(conn):
        for each in candidates:
            row = conn.execute(
                "SELECT account_id, price, scheduled_at IS NOT NULL AND due_at IS scheduled_at AS is_scheduled,"
                f" {queue.IS_WAITING_SQL} AS is_queued FROM messages WHERE id = ? AND state = ?"
                f" AND NOT {queue.MAY_BE_SENT_SQL} AND NOT {message_parts.IS_CUT_SQL}",
                (each.id, ENROUTE),
            ).fetchone()
            # What was to be sent later, or waited, may be on its way meanwhile.
            can_cancel = (
                row is not None
                and each.id not in ended
                and (row["is_scheduled"] or row["is_queued"] or not (each.is_scheduled or each.is_queued))
            )
            cancelled.was_cancelled.append(bool(can_cancel))
            if can_cancel:
                ended[each.id] = (row["account_id"], each.id, row["price"])
        now = now_ms()
        cancelled.receipts = finish_messages(conn, [MessageOutcome(each, DELETED, PTT_DELETED, now) for each in ended])
        queue.remove_waiting_messages(conn, [*ended])
        refund_messages(conn, ended.values())
        cancelled.refunded = sum(price for *_, price in ended.values())
    return cancelled
