"""Taking messages in: each is stored in the transaction that charges it."""

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from portal.core.clock import DAY_MS
from portal.core.db import Inserts, immediate
from portal.services.billing import auto_recredit
from portal.services.common import ids
from portal.services.common.message_states import ENROUTE, PTT_BLACKLISTED, PTT_NO_CREDIT, PTT_PENDING, REJECTED
from portal.services.credits import alerts
from portal.services.messages import blacklist, deliveries, text_policy
from portal.services.messages.deliveries import Receipt
from portal.services.messages.validation import Segment, Submit, ToSend
from portal.services.statistics import daily_totals

_USUAL = (
    "id, account_id, source, source_ton, source_npi, destination, country, text, data_coding, registered_delivery,"
    " parts, price, state, ptt, session_id"
)
_STATE = _USUAL.split(", ").index("state")
_INSERT = Inserts(
    "messages",
    f"{_USUAL}, udh, reference, done_at, body, subunit, segment_reference, segment_total, segment_number, scheduled_at,"
    " expires_at, due_at",
)
# Most messages have nothing but these, and Python takes a third of a microsecond to bind a None.
_INSERT_USUAL = Inserts("messages", _USUAL)
_INSERT_USAGE = Inserts(
    "movements",
    "id, account_id, kind, amount, balance_after, actor, messages, first_message_id, last_message_id",
)
# Clients number the texts that they cut up in one or two octets, and begin again.
SEGMENTS_TOGETHER_MS = 10 * 60_000
"""How far apart two segments may be that belong together; ids say how far they are."""
# One that numbers all its texts alike must not hold up the others.
_SEGMENTS_LOOKED_AT = 16


@dataclass(slots=True)
class Stored:
    """What became of submits: for each its message id, or None where the credits didn't cover it; what an upstream is
    to be given at once; the receipts that wait already.
    """

    ids: list[int | None] = field(default_factory=list)
    to_send: list[ToSend] = field(default_factory=list)
    waiting: list[Receipt] = field(default_factory=list)


@dataclass(slots=True)
class _Bill:
    """One account's messages of a batch: what they leave of its credits, and how many they are.

    `before` is the balance that they are charged to, after the automatic re-credits that they cause.
    """

    before: int
    left: int
    alert_below: int | None
    recredit_below: int | None
    first_id: int = 0
    last_id: int = 0
    sent: int = 0
    parts: int = 0
    refused: int = 0
    stopped: int = 0


def store(conn: sqlite3.Connection, submits: Sequence[Submit], now: int | None = None) -> Stored:
    """Store messages with their debits: all in one transaction, which is on disk when this returns.

    Submits are taken in their order. One that its account's credits don't cover is kept in the history as refused (ptt
    10) and costs nothing; the others don't suffer. One to a number on the account's blacklist is taken, ends at once
    (ptt 53) and costs nothing.

    The number of statements does not grow with that of accounts: see `db.Inserts`.

    Args:
        now: when they were submitted (milliseconds), for a history that is written afterwards; None: at this moment.

    Raises:
        sqlite3.Error: nothing was stored.
    """
    stored = Stored()
    with immediate(conn):
        first = ids.next_ids(conn, "messages", len(submits), now)
        at = ids.time_of(first)
        bills = _bills(conn, submits)
        stopped = blacklist.among(conn, submits)
        _recredit(conn, bills, submits, stopped, at)
        rows: list[tuple[Any, ...]] = []
        usual: list[tuple[object, ...]] = []
        segments = []
        for message_id, each in enumerate(submits, first):
            bill = bills[each.account_id]
            if stopped and (each.account_id, each.destination) in stopped:
                bill.stopped += 1
                stored.ids.append(message_id)
                rows.append(_row(message_id, each, 0, REJECTED, PTT_BLACKLISTED))
                if deliveries.wants_receipt(each.registered_delivery, REJECTED):
                    stored.waiting.append(_receipt(message_id, each, PTT_BLACKLISTED))
            elif each.price <= bill.left:
                bill.left -= each.price
                bill.first_id = bill.first_id or message_id
                bill.last_id = message_id
                bill.sent += 1
                bill.parts += each.parts
                stored.ids.append(message_id)
                if _is_usual(each):
                    usual.append(_usual_row(message_id, each, each.price, ENROUTE, PTT_PENDING))
                else:
                    rows.append(_row(message_id, each, each.price, ENROUTE, PTT_PENDING))
                if each.scheduled_at is None:
                    stored.to_send.append(_to_send(message_id, each))
            else:
                bill.refused += 1
                stored.ids.append(None)
                rows.append(_row(message_id, each, 0, REJECTED, PTT_NO_CREDIT))
            if each.segment is not None:
                segments.append((message_id, each, each.segment))
        _INSERT_USUAL.run(conn, usual)
        _INSERT.run(conn, rows)
        if any(bill.refused or bill.stopped for bill in bills.values()):
            _let_go(conn, bills, rows, stored.waiting)
        for segment in segments:
            _join_segment(conn, *segment)
        _charge(conn, bills, at)
        if stored.waiting:
            deliveries.add_receipts(conn, stored.waiting, at)
    return stored


def _bills(conn: sqlite3.Connection, submits: Sequence[Submit]) -> dict[int, _Bill]:
    account_ids = {each.account_id for each in submits}
    (rows,) = conn.execute(
        "SELECT json_group_array(json_array(id, balance, alert_below, recredit_below)) FROM accounts"
        " WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(account_ids)),),
    ).fetchone()
    return {
        account_id: _Bill(balance, balance, alert_below, recredit_below)
        for account_id, balance, alert_below, recredit_below in json.loads(rows)
    }


def _recredit(
    conn: sqlite3.Connection,
    bills: Mapping[int, _Bill],
    submits: Sequence[Submit],
    stopped: Collection[tuple[int, str]],
    at: int,
) -> None:
    """Buy a pack for an account with each message that would take it below its threshold.

    Before they are charged, so that none of them is refused for credits that come a moment later.
    """
    watched = {account_id: bill.recredit_below for account_id, bill in bills.items() if bill.recredit_below is not None}
    if not watched:
        return
    due = [
        each for each in submits if each.account_id in watched and (each.account_id, each.destination) not in stopped
    ]
    wanted: Counter[int] = Counter()
    for each in due:
        wanted[each.account_id] += each.price
    low = [account_id for account_id, price in wanted.items() if bills[account_id].before - price < watched[account_id]]
    if not low:
        return
    buying = auto_recredit.ready(conn, low, at)
    spent: Counter[int] = Counter()
    # One after the other, as if each came alone: what is bought must not depend on how many arrive together.
    for each in due:
        if each.account_id not in buying:
            continue
        bill = bills[each.account_id]
        left = bill.before - spent[each.account_id]
        if left - each.price < watched[each.account_id]:
            balance = auto_recredit.look(conn, each.account_id, at)
            if balance == bill.before:
                # Nothing was bought, and nothing will be for the others.
                buying.remove(each.account_id)
                continue
            left += balance - bill.before
            bill.before = bill.left = balance
        if each.price <= left:
            spent[each.account_id] += each.price


def _is_usual(submit: Submit) -> bool:
    """Whether a message has none of the columns that are not in `_USUAL`, as long as it waits for its outcome."""
    return (
        submit.udh is None
        and submit.reference is None
        and submit.body is None
        and submit.subunit is None
        and submit.segment is None
        and submit.scheduled_at is None
        and submit.expires_at is None
    )


def _usual_row(message_id: int, submit: Submit, price: int, state: int, ptt: int) -> tuple[object, ...]:
    return (
        message_id,
        submit.account_id,
        submit.source,
        submit.source_ton,
        submit.source_npi,
        submit.destination,
        submit.country,
        submit.text,
        submit.data_coding,
        submit.registered_delivery,
        submit.parts,
        price,
        state,
        ptt,
        submit.session_id,
    )


def _row(message_id: int, submit: Submit, price: int, state: int, ptt: int) -> tuple[object, ...]:
    waits = state == ENROUTE
    return (
        *_usual_row(message_id, submit, price, state, ptt),
        submit.udh,
        submit.reference,
        None if waits else ids.time_of(message_id),
        submit.body,
        submit.subunit,
        *(submit.segment or (None, None, None)),
        submit.scheduled_at,
        submit.expires_at,
        (submit.scheduled_at or submit.expires_at) if waits else None,
    )


def _let_go(
    conn: sqlite3.Connection, account_ids: Collection[int], rows: Sequence[tuple[Any, ...]], told: Sequence[Receipt]
) -> None:
    """Remove the texts of messages that have ended as they came, where they aren't kept; not what a receipt quotes."""
    not_kept = text_policy.not_kept(conn, account_ids)
    if not_kept:
        quoted = {each.message_id for each in told}
        ended = [row[0] for row in rows if row[1] in not_kept and row[_STATE] == REJECTED and row[0] not in quoted]
        text_policy.blank(conn, "messages", ended)


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


def _receipt(message_id: int, submit: Submit, ptt: int) -> Receipt:
    """That of a message which is rejected as it comes."""
    return Receipt(
        0,
        submit.account_id,
        message_id,
        0,
        submit.source,
        submit.source_ton,
        submit.source_npi,
        submit.destination,
        submit.text,
        submit.reference,
        submit.parts,
        REJECTED,
        ptt,
        ids.time_of(message_id),
    )


def _join_segment(conn: sqlite3.Connection, message_id: int, submit: Submit, segment: Segment) -> None:
    """Let a segment but the first to come know the first one's message, so that a text is read as one."""
    values = {
        "id": message_id,
        "account": submit.account_id,
        "source": submit.source,
        "destination": submit.destination,
        "reference": segment.reference,
        "total": segment.total,
        "number": segment.number,
        "since": message_id - ids.first_id_at(SEGMENTS_TOGETHER_MS),
    }
    row = conn.execute(
        "SELECT coalesce(joined_to, id) FROM (SELECT id, joined_to, source, segment_total FROM messages"
        "  WHERE account_id = :account AND destination = :destination AND segment_reference = :reference"
        f"  AND id < :id AND id > :since ORDER BY id DESC LIMIT {_SEGMENTS_LOOKED_AT})"
        " WHERE segment_total = :total AND source = :source ORDER BY id DESC LIMIT 1",
        values,
    ).fetchone()
    if row is None:
        return
    # A segment that is there already begins another text, or is sent again.
    conn.execute(
        "UPDATE messages SET joined_to = :first WHERE id = :id"
        " AND NOT EXISTS (SELECT 1 FROM messages AS first WHERE first.id = :first AND first.segment_number = :number)"
        " AND NOT EXISTS (SELECT 1 FROM messages AS same WHERE same.joined_to = :first"
        "  AND same.segment_number = :number)",
        values | {"first": row[0]},
    )


def _charge(conn: sqlite3.Connection, bills: Mapping[int, _Bill], at: int) -> None:
    """The debits of one batch: for each account its balance, one line in the ledger, the day's totals."""
    charged = {account_id: bill for account_id, bill in bills.items() if bill.sent}
    if charged:
        conn.execute(
            "UPDATE accounts SET balance = debited.value FROM json_each(?) AS debited"
            " WHERE accounts.id = CAST(debited.key AS INTEGER)",
            (json.dumps({account_id: bill.left for account_id, bill in charged.items()}),),
        )
        # At the messages' own moment: a month's usage in the ledger is that of the month's messages.
        first = ids.next_ids(conn, "movements", len(charged), at)
        _INSERT_USAGE.run(
            conn,
            [
                (
                    row_id,
                    account_id,
                    "usage",
                    bill.left - bill.before,
                    bill.left,
                    "system",
                    bill.sent,
                    bill.first_id,
                    bill.last_id,
                )
                for row_id, (account_id, bill) in enumerate(charged.items(), first)
            ],
        )
        for account_id, bill in charged.items():
            if alerts.is_crossed(bill.alert_below, bill.before, bill.left):
                alerts.note(conn, account_id, alerts.LOW, at, bill.left)
    daily_totals.add(
        conn,
        {
            (account_id, at // DAY_MS): Counter(
                sent=bill.sent,
                parts=bill.parts,
                price=bill.before - bill.left,
                stopped=bill.stopped,
                refused=bill.refused,
            )
            for account_id, bill in bills.items()
        },
    )
