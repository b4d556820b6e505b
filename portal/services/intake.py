"""Taking messages in: each is stored in the transaction that charges it."""

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from portal.db import immediate
from portal.services import blacklist, credits, deliveries, totals
from portal.services.messages import (
    DAY_MS,
    ENROUTE,
    PTT_BLACKLISTED,
    PTT_NO_CREDIT,
    PTT_PENDING,
    REJECTED,
    Submit,
    ToSend,
)

_COLUMNS = (
    "id, account_id, source, source_ton, source_npi, destination, country, text, udh, data_coding, registered_delivery,"
    " reference, parts, price, state, ptt, done_at, body, subunit, segment_reference, segment_total, segment_number,"
    " scheduled_at, expires_at, due_at"
)
_INSERT = f"INSERT INTO messages ({_COLUMNS}) VALUES ({', '.join('?' * len(_COLUMNS.split(',')))})"
# Clients number the texts that they cut up in one or two octets, and begin again.
_SEGMENTS_TOGETHER_MS = 10 * 60_000


@dataclass(slots=True)
class Stored:
    """What became of submits: for each its message id, or None where the credits didn't cover it; what an upstream is
    to be given at once; the accounts for which a receipt waits already.
    """

    ids: list[int | None] = field(default_factory=list)
    to_send: list[ToSend] = field(default_factory=list)
    waiting: set[int] = field(default_factory=set)


def store(conn: sqlite3.Connection, submits: Sequence[Submit], now: int | None = None) -> Stored:
    """Store messages with their debits: all in one transaction, which is on disk when this returns.

    Submits are taken in their order. One that its account's credits don't cover is kept in the history as refused (ptt
    10) and costs nothing; the others don't suffer. One to a number on the account's blacklist is taken, ends at once
    (ptt 53) and costs nothing.

    Args:
        now: when they were submitted (milliseconds), for a history that is written afterwards; None: at this moment.

    Raises:
        sqlite3.Error: nothing was stored.
    """
    stored = Stored()
    with immediate(conn):
        first = credits.next_ids(conn, "messages", len(submits), now)
        account_ids = {each.account_id for each in submits}
        balances = {account_id: credits.balance(conn, account_id) for account_id in account_ids}
        stopped = blacklist.among(conn, submits)
        left = dict(balances)
        rows = []
        charged: dict[int, list[tuple[int, Submit]]] = defaultdict(list)
        uncharged: dict[int, dict[str, int]] = defaultdict(lambda: {"refused": 0, "stopped": 0})
        receipts = []
        for message_id, each in enumerate(submits, first):
            remaining = left[each.account_id] - each.price
            if (each.account_id, each.destination) in stopped:
                uncharged[each.account_id]["stopped"] += 1
                stored.ids.append(message_id)
                rows.append(_row(message_id, each, 0, REJECTED, PTT_BLACKLISTED))
                if deliveries.wants_receipt(each.registered_delivery, REJECTED):
                    receipts.append((each.account_id, message_id))
            elif remaining >= 0:
                left[each.account_id] = remaining
                charged[each.account_id].append((message_id, each))
                stored.ids.append(message_id)
                rows.append(_row(message_id, each, each.price, ENROUTE, PTT_PENDING))
                if each.scheduled_at is None:
                    stored.to_send.append(_to_send(message_id, each))
            else:
                uncharged[each.account_id]["refused"] += 1
                stored.ids.append(None)
                rows.append(_row(message_id, each, 0, REJECTED, PTT_NO_CREDIT))
        conn.executemany(_INSERT, rows)
        _join_segments(conn, submits, first)
        for account_id, messages in charged.items():
            _charge(conn, account_id, balances[account_id], left[account_id], messages, now)
        for account_id, counts in uncharged.items():
            totals.add(conn, account_id, credits.time_of(first) // DAY_MS, **counts)
        stored.waiting = deliveries.add_receipts(conn, receipts, credits.time_of(first))
    return stored


def _row(message_id: int, submit: Submit, price: int, state: int, ptt: int) -> tuple[object, ...]:
    waits = state == ENROUTE
    return (
        message_id,
        submit.account_id,
        submit.source,
        submit.source_ton,
        submit.source_npi,
        submit.destination,
        submit.country,
        submit.text,
        submit.udh,
        submit.data_coding,
        submit.registered_delivery,
        submit.reference,
        submit.parts,
        price,
        state,
        ptt,
        None if waits else credits.time_of(message_id),
        submit.body,
        submit.subunit,
        *(submit.segment or (None, None, None)),
        submit.scheduled_at,
        submit.expires_at,
        (submit.scheduled_at or submit.expires_at) if waits else None,
    )


def _to_send(message_id: int, submit: Submit) -> ToSend:
    return ToSend(
        message_id,
        submit.account_id,
        submit.source,
        submit.destination,
        submit.text,
        submit.udh,
        submit.data_coding,
        submit.body,
        submit.subunit,
        submit.segment,
    )


def _join_segments(conn: sqlite3.Connection, submits: Sequence[Submit], first_id: int) -> None:
    """Let each segment but the first to come know the first one's message, so that a text is read as one."""
    for message_id, each in enumerate(submits, first_id):
        if each.segment is None:
            continue
        conn.execute(
            "UPDATE messages SET joined_to = (SELECT coalesce(joined_to, id) FROM messages AS earlier"
            " WHERE account_id = :account AND destination = :destination AND segment_reference = :reference"
            " AND segment_total = :total AND source = :source AND id < :id AND id > :since"
            # A segment that is there already begins another text, or is sent again.
            " AND NOT EXISTS (SELECT 1 FROM messages AS same WHERE same.segment_number = :number AND same.id < :id"
            "  AND same.segment_reference = :reference AND same.account_id = :account"
            "  AND same.destination = :destination"
            "  AND coalesce(same.joined_to, same.id) = coalesce(earlier.joined_to, earlier.id))"
            " ORDER BY id DESC LIMIT 1) WHERE id = :id",
            {
                "id": message_id,
                "account": each.account_id,
                "source": each.source,
                "destination": each.destination,
                "reference": each.segment.reference,
                "total": each.segment.total,
                "number": each.segment.number,
                "since": message_id - credits.first_id_at(_SEGMENTS_TOGETHER_MS),
            },
        )


def _charge(
    conn: sqlite3.Connection,
    account_id: int,
    before: int,
    after: int,
    messages: list[tuple[int, Submit]],
    now: int | None,
) -> None:
    """The debit of one account's messages of one batch: balance, one line in the ledger, the day's totals."""
    conn.execute("UPDATE accounts SET balance = ? WHERE id = ?", (after, account_id))
    conn.execute(
        "INSERT INTO movements (id, account_id, kind, amount, balance_after, actor, messages, first_message_id,"
        " last_message_id) VALUES (?, ?, 'usage', ?, ?, 'system', ?, ?, ?)",
        (
            credits.next_ids(conn, "movements", 1, now),
            account_id,
            after - before,
            after,
            len(messages),
            messages[0][0],
            messages[-1][0],
        ),
    )
    parts = sum(each.parts for _, each in messages)
    day = credits.time_of(messages[0][0]) // DAY_MS
    totals.add(conn, account_id, day, sent=len(messages), parts=parts, price=before - after)
