"""The queue of deliver_sm for an account's receivers: receipts of its messages, and messages from handsets (MO)."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from portal.core.clock import now_ms
from portal.core.db import BulkInsert, write_transaction
from portal.services.common import ids
from portal.services.common.message_states import DELIVERED
from portal.services.messages import text_policy
from portal.services.messages.validation import DELIVERY_VALIDITY_MS

_INSERT_RECEIPTS = BulkInsert("deliveries", "account_id, id, message_id, next_attempt_at")
_INSERT_INBOUND = BulkInsert("deliveries", "account_id, id, received_id, next_attempt_at")
# How many of the columns that `list_due_deliveries` reads belong to a receipt.
_RECEIPT_COLUMN_COUNT = 11

MAX_BLOCKING_ATTEMPTS = 8
"""A delivery that was not accepted blocks those behind it, to keep their order; after so many attempts no more."""
MAX_RETRY_DELAY_MS = 600_000
"""The longest time between two attempts."""
EXPIRY_BATCH_SIZE = 5_000
"""How many deliveries are given up in one transaction, which takes some tens of milliseconds."""


@dataclass(slots=True)
class DeliveryReceipt:
    """A delivery receipt (SMPP 3.4, appendix B); `id` is its place in its account's queue (0: not queued yet).

    `hex_id`: its message's id of eight hexadecimal digits, by which its client knows it; None: it has none.
    """

    id: int
    account_id: int
    message_id: int
    attempts: int
    source: str
    source_ton: int
    source_npi: int
    destination: str
    text: str
    reference: int | None
    parts: int
    state: int
    ptt: int
    done_at: int
    hex_id: int | None = None

    @property
    def submitted_at(self) -> int:
        return ids.time_from_id(self.message_id)


@dataclass(slots=True)
class InboundDelivery:
    """A message from a handset (MO) in the queue. `text` and `body` as in `MobileOriginatedMessage`."""

    id: int
    account_id: int
    received_id: int
    attempts: int
    source: str
    destination: str
    text: str
    body: bytes | None
    udh: bytes | None
    data_coding: int


Deliverable = DeliveryReceipt | InboundDelivery


@dataclass(slots=True)
class DueDeliveries:
    """The deliveries that can be sent now (`ready`), in their order.

    `is_blocked`: those behind them wait for one that was not accepted. `next_attempt_at`: when (milliseconds) the next
    retry is due; None: there is none.
    """

    ready: list[Deliverable]
    is_blocked: bool
    next_attempt_at: int | None


def wants_receipt(registered_delivery: int, state: int) -> bool:
    """Whether a final state needs a receipt. SMPP 3.4, 5.2.17: 1 asks for success and failure, 2 for failure only."""
    # 3 is reserved; sending the receipt is safer.
    return registered_delivery in (1, 3) or (registered_delivery == 2 and state != DELIVERED)


def enqueue_receipts(conn: sqlite3.Connection, receipts: Sequence[DeliveryReceipt], now: int) -> None:
    """Queue receipts, in their order; each gets its `id`."""
    next_ids = _get_next_delivery_ids(conn, {each.account_id for each in receipts}, now)
    for each in receipts:
        each.id = next(next_ids[each.account_id])
    _INSERT_RECEIPTS.run(conn, [(each.account_id, each.id, each.message_id, now) for each in receipts])


def enqueue_inbound_deliveries(conn: sqlite3.Connection, messages: Sequence[tuple[int, int]], now: int) -> set[int]:
    """Queue messages from handsets, each as (account id, received id); returns the ids of these accounts."""
    next_ids = _get_next_delivery_ids(conn, {account_id for account_id, _ in messages}, now)
    rows = [(account_id, next(next_ids[account_id]), received_id, now) for account_id, received_id in messages]
    _INSERT_INBOUND.run(conn, rows)
    return set(next_ids)


def _get_next_delivery_ids(conn: sqlite3.Connection, account_ids: Iterable[int], now: int) -> dict[int, Iterator[int]]:
    """The next delivery ids of each account: greater than those in its queue, and growing with time."""
    # One row for all: Python releases the GIL for each row.
    (highest_ids,) = conn.execute(
        "SELECT json_group_array(json_array(value, (SELECT max(id) FROM deliveries WHERE account_id = value)))"
        " FROM json_each(?)",
        (json.dumps(list(account_ids)),),
    ).fetchone()
    first_id = ids.min_id_at_time(now)
    return {account_id: count(max(first_id, (highest or 0) + 1)) for account_id, highest in json.loads(highest_ids)}


# Whether the next attempt is still to come. One too far ahead counts as due: the clock may have been set back.
_RETRY_NOT_DUE = "(attempts > 0 AND next_attempt_at > :now AND next_attempt_at <= :now + :longest_wait)"


def list_due_deliveries(
    conn: sqlite3.Connection, account_id: int, now: int, limit: int, excluded_ids: Collection[int] = ()
) -> DueDeliveries:
    """The deliveries that an account's receivers may get at this moment (milliseconds), except `excluded_ids`."""
    values = {
        "account": account_id,
        "now": now,
        "oldest": ids.min_id_at_time(now - DELIVERY_VALIDITY_MS),
        "longest_wait": MAX_RETRY_DELAY_MS,
        "max_blocking": MAX_BLOCKING_ATTEMPTS,
        "excluded": json.dumps(list(excluded_ids)),
        "limit": limit,
    }
    deliverables: list[Deliverable] = []
    is_blocked = False
    rows = conn.execute(
        "SELECT deliveries.id, deliveries.message_id, received_id, attempts,"
        f" iif({_RETRY_NOT_DUE}, next_attempt_at, NULL), messages.source, source_ton, source_npi, messages.destination,"
        " messages.text, reference, parts, state, ptt, done_at, hex_id, received.source, received.destination,"
        " received.text, received.body, received.udh, received.data_coding FROM deliveries"
        " LEFT JOIN messages ON messages.id = deliveries.message_id LEFT JOIN received ON received.id = received_id"
        " LEFT JOIN hex_ids ON hex_ids.message_id = deliveries.message_id"
        " WHERE deliveries.account_id = :account AND deliveries.id >= :oldest"
        f" AND NOT (attempts >= :max_blocking AND {_RETRY_NOT_DUE}) AND coalesce(messages.id, received.id) IS NOT NULL"
        " AND deliveries.id NOT IN (SELECT value FROM json_each(:excluded)) ORDER BY deliveries.id LIMIT :limit",
        values,
    )
    for delivery_id, message_id, received_id, attempts, retry_at, *fields in rows:
        if retry_at is not None:
            is_blocked = True
            break
        if message_id is not None:
            deliverables.append(
                DeliveryReceipt(delivery_id, account_id, message_id, attempts, *fields[:_RECEIPT_COLUMN_COUNT])
            )
        else:
            deliverables.append(
                InboundDelivery(delivery_id, account_id, received_id, attempts, *fields[_RECEIPT_COLUMN_COUNT:])
            )
    next_attempt_at = conn.execute(
        "SELECT min(next_attempt_at) FROM deliveries WHERE account_id = :account AND id >= :oldest"
        f" AND {_RETRY_NOT_DUE}",
        values,
    ).fetchone()[0]
    return DueDeliveries(deliverables, is_blocked, next_attempt_at)


def remove_accepted_deliveries(
    conn: sqlite3.Connection, accepted: Iterable[Deliverable], now: int | None = None
) -> None:
    """Remove the deliveries that an ESME has accepted from the queue.

    Args:
        now: when (milliseconds), which is stored for messages from handsets; None: this moment.
    """
    rows = [
        (each.account_id, each.id, None, each.received_id)
        if isinstance(each, InboundDelivery)
        else (each.account_id, each.id, each.message_id, None)
        for each in accepted
    ]
    with write_transaction(conn):
        _end_deliveries(conn, rows, now_ms() if now is None else now)


def schedule_retries(conn: sqlite3.Connection, retries: Iterable[tuple[Deliverable, int]]) -> None:
    """Store the number of failed attempts of deliveries, and the time (milliseconds) of the next one."""
    with write_transaction(conn):
        conn.executemany(
            "UPDATE deliveries SET attempts = ?, next_attempt_at = ? WHERE account_id = ? AND id = ?",
            [(each.attempts, at, each.account_id, each.id) for each, at in retries],
        )


def expire_deliveries(conn: sqlite3.Connection, now: int, *, batch_size: int = EXPIRY_BATCH_SIZE) -> int:
    """Give up deliveries older than DELIVERY_VALIDITY_MS at `now`, `batch_size` at most; returns how many."""
    with write_transaction(conn):
        # Account by account: the table is in the order of account and id.
        rows = conn.execute(
            "SELECT account_id, deliveries.id, message_id, received_id FROM accounts"
            " CROSS JOIN deliveries ON account_id = accounts.id AND deliveries.id < ? LIMIT ?",
            (ids.min_id_at_time(now - DELIVERY_VALIDITY_MS), batch_size),
        ).fetchall()
        _end_deliveries(conn, rows, now, are_given_up=True)
    return len(rows)


def _end_deliveries(
    conn: sqlite3.Connection, rows: Sequence[Sequence[Any]], at: int, *, are_given_up: bool = False
) -> None:
    """Remove deliveries from the queue, and the texts that only they needed where texts aren't kept.

    Args:
        rows: each one's account id, its id, and that of its message (receipt) or of its received message (MO).
        at: when (milliseconds), which is stored for messages from handsets.
    """
    received_ids = [row[3] for row in rows if row[3] is not None]
    if received_ids:
        conn.execute(
            "UPDATE received SET ended_at = ?, given_up = max(given_up, ?)"
            " WHERE id IN (SELECT value FROM json_each(?))",
            (at, int(are_given_up), json.dumps(received_ids)),
        )
    discarding_ids = text_policy.find_accounts_discarding_texts(conn, {row[0] for row in rows})
    if discarding_ids:
        for table, column in (("messages", 2), ("received", 3)):
            text_policy.blank_texts(
                conn, table, [row[column] for row in rows if row[0] in discarding_ids and row[column] is not None]
            )
    ids_by_account: dict[int, list[int]] = defaultdict(list)
    for account_id, delivery_id, *_ in rows:
        ids_by_account[account_id].append(delivery_id)
    conn.executemany(
        "DELETE FROM deliveries WHERE account_id = ? AND id IN (SELECT value FROM json_each(?))",
        [(account_id, json.dumps(delivery_ids)) for account_id, delivery_ids in ids_by_account.items()],
    )
