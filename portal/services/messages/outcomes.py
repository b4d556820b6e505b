"""What becomes of messages once they are taken in: their final states, their dates, and calling them back."""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import immediate
from portal.services.common import ids
from portal.services.common.message_states import (
    DELETED,
    DELIVERED,
    ENROUTE,
    EXPIRED,
    PTT_BLACKLISTED,
    PTT_DELETED,
    PTT_EXPIRED,
    REJECTED,
)
from portal.services.credits import expiry
from portal.services.messages import blacklist, deliveries, text_policy
from portal.services.messages.deliveries import Receipt
from portal.services.messages.validation import VALIDITY_MS, Segment, ToSend
from portal.services.statistics import daily_totals, rollup

_MOST_AT_ONCE = 1_000


@dataclass(slots=True)
class Outcome:
    """What became of a message: its final message_state, its ptt code, and when (milliseconds).

    With what the upstream said, where it has sent it: the id by which it knows the message, and its status in its own
    words.
    """

    message_id: int
    state: int
    ptt: int
    at: int
    upstream_id: str | None = None
    upstream_status: str | None = None


@dataclass(slots=True)
class Due:
    """What has become due: messages that an upstream is to be given, those that have expired, and the receipts that
    wait now.
    """

    to_send: list[ToSend] = field(default_factory=list)
    expired: list[int] = field(default_factory=list)
    waiting: list[Receipt] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What query_sm and cancel_sm ask of a message (SMPP 3.4, 4.8, 4.9). Times in milliseconds."""

    id: int
    source: str
    destination: str
    state: int
    ptt: int
    done_at: int | None
    waits_for_date: bool


@dataclass(slots=True)
class Cancelled:
    """For each message that was to be called back whether it was, and the receipts that wait now."""

    done: list[bool] = field(default_factory=list)
    waiting: list[Receipt] = field(default_factory=list)


# What is to be known of the messages that end, in one row: Python lets go of its lock (GIL) for each row, and beside a
# busy event loop that costs more than reading all of them.
_ENDING = f"""
SELECT json_group_array(iif(registered_delivery = 0,
    json_array(messages.id, account_id, 0),
    json_array(messages.id, account_id, registered_delivery,
        source, source_ton, source_npi, destination, text, reference, parts)))
FROM json_each(?) AS ending CROSS JOIN messages ON messages.id = ending.value WHERE state = {ENROUTE}
"""


def finish(conn: sqlite3.Connection, outcomes: Sequence[Outcome]) -> list[Receipt]:
    """Write final states, the days' totals and the receipts that were asked for. What comes twice counts once.

    Returns:
        The receipts, which wait now for their accounts' receivers.
    """
    receipts = []
    first = {each.message_id: each for each in reversed(outcomes)}
    ended: dict[tuple[int, int, int, str | None, bool], dict[int, str | None]] = defaultdict(dict)
    counts: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    with immediate(conn):
        (ending,) = conn.execute(_ENDING, (json.dumps([*reversed(first)]),)).fetchone()
        found = json.loads(ending)
        not_kept = text_policy.not_kept(conn, {account_id for _, account_id, *_ in found})
        for message_id, account_id, registered_delivery, *fields in found:
            each = first[message_id]
            told = deliveries.wants_receipt(registered_delivery, each.state)
            # A receipt quotes the text.
            alike = each.state, each.ptt, each.at, each.upstream_status, told or account_id not in not_kept
            ended[alike][message_id] = each.upstream_id
            day = ids.time_of(message_id) // DAY_MS
            counts[account_id, day]["delivered" if each.state == DELIVERED else "failed"] += 1
            if told:
                receipts.append(Receipt(0, account_id, message_id, 0, *(*fields, each.state, each.ptt, each.at)))
        for (*result, kept), upstream_ids in ended.items():
            also = "" if kept else f", {text_policy.BLANK}"
            conn.execute(
                "UPDATE messages SET state = ?, ptt = ?, done_at = ?, upstream_status = ?, upstream_id = ended.value,"
                f" due_at = NULL{also} FROM json_each(?) AS ended WHERE messages.id = CAST(ended.key AS INTEGER)",
                (*result, json.dumps(upstream_ids)),
            )
        daily_totals.add(conn, counts)
        if counts:
            rollup.note_ended(conn, chain.from_iterable(ended.values()))
        if receipts:
            deliveries.add_receipts(conn, receipts, now_ms())
    return receipts


_TO_SEND = (
    "id, account_id, source, destination, text, udh, data_coding, body, subunit,"
    " segment_reference, segment_total, segment_number"
)


def _to_send(row: Sequence[Any]) -> ToSend:
    message = ToSend(*row[:-3])
    if row[-1] is not None:
        message.segment = Segment(*row[-3:])
    return message


# In all of these the state stands in the text, and is not bound: only so does SQLite see that the partial index fits.


def unfinished(conn: sqlite3.Connection) -> list[int]:
    """The ids of messages without a final state, in the order of their acceptance: what an upstream is given again at
    start.

    Those whose date is still to come are not among them.
    """
    # Left alone, SQLite would read the whole table, because that is in the order of ids.
    rows = conn.execute(
        f"SELECT id FROM messages INDEXED BY messages_unfinished WHERE state = {ENROUTE}"
        " AND (due_at IS NULL OR due_at IS NOT scheduled_at) ORDER BY id"
    )
    return [row[0] for row in rows]


def to_send(conn: sqlite3.Connection, message_ids: Sequence[int]) -> list[ToSend]:
    """Those of these messages that have no final state, by id."""
    rows = conn.execute(
        f"SELECT {_TO_SEND} FROM messages WHERE id IN (SELECT value FROM json_each(?)) AND +state = {ENROUTE}"
        " ORDER BY id",
        (json.dumps(message_ids),),
    )
    return [_to_send(row) for row in rows]


def anything_due(conn: sqlite3.Connection, now: int) -> bool:
    """Whether `take_due` has something to do at this moment (milliseconds). Cheap."""
    row = conn.execute(
        f"SELECT EXISTS (SELECT 1 FROM messages WHERE state = {ENROUTE} AND due_at <= ?)"
        f" OR EXISTS (SELECT 1 FROM messages WHERE state = {ENROUTE} AND due_at IS NULL AND id < ?)",
        (now, ids.first_id_at(now - VALIDITY_MS)),
    ).fetchone()
    return bool(row[0])


def take_due(conn: sqlite3.Connection, now: int) -> Due:
    """Let messages whose date has come be sent, and those whose validity has ended expire (ptt 801).

    One to a number that has said STOP meanwhile is rejected (ptt 53), and what it cost is given back.
    One whose client named no validity has that of VALIDITY_MS. At most a thousand at once.
    """
    due = Due()
    with immediate(conn):
        rows = conn.execute(
            f"SELECT {_TO_SEND}, expires_at, due_at = scheduled_at AS begins FROM messages"
            f" WHERE state = {ENROUTE} AND due_at <= ? ORDER BY due_at LIMIT ?",
            (now, _MOST_AT_ONCE),
        ).fetchall()
        for *fields, expires_at, begins in rows:
            if expires_at is not None and expires_at <= now:
                due.expired.append(fields[0])
            elif begins:
                due.to_send.append(_to_send(fields))
        stopped = blacklist.among(conn, due.to_send)
        if stopped:
            unwanted = [each for each in due.to_send if (each.account_id, each.destination) in stopped]
            due.to_send = [each for each in due.to_send if (each.account_id, each.destination) not in stopped]
            due.waiting += finish(conn, [Outcome(each.id, REJECTED, PTT_BLACKLISTED, now) for each in unwanted])
            paid: dict[int, list[tuple[int, int]]] = defaultdict(list)
            for each in unwanted:
                (price,) = conn.execute("SELECT price FROM messages WHERE id = ?", (each.id,)).fetchone()
                paid[each.account_id].append((each.id, price))
            for account_id, messages in paid.items():
                expiry.give_back(conn, account_id, messages)
        conn.executemany("UPDATE messages SET due_at = expires_at WHERE id = ?", [(each.id,) for each in due.to_send])
        forgotten = conn.execute(
            f"SELECT id FROM messages WHERE state = {ENROUTE} AND due_at IS NULL AND id < ? LIMIT ?",
            (ids.first_id_at(now - VALIDITY_MS), _MOST_AT_ONCE),
        )
        due.expired += [row[0] for row in forgotten]
        due.waiting += finish(conn, [Outcome(each, EXPIRED, PTT_EXPIRED, now) for each in due.expired])
    return due


# --- asking after a message, and calling it back


_WHEREABOUTS = (
    "SELECT id, source, destination, state, ptt, done_at,"
    " scheduled_at IS NOT NULL AND due_at IS scheduled_at FROM messages WHERE"
)


def find(conn: sqlite3.Connection, account_id: int, message_id: int) -> Whereabouts | None:
    """A message of an account; None where it has none with that id."""
    row = conn.execute(f"{_WHEREABOUTS} id = ? AND account_id = ?", (message_id, account_id)).fetchone()
    return Whereabouts(*row) if row else None


def find_unfinished(conn: sqlite3.Connection, account_id: int, source: str, destination: str) -> list[Whereabouts]:
    """The messages of an account from one address to another, both without a plus, that have no final state."""
    # Not by the account's own index, which leads through all that it has ever sent. Few have no date: an upstream has
    # them, and they end within seconds.
    theirs = "account_id = :account AND destination = :destination AND ltrim(source, '+') = :source"
    rows = conn.execute(
        f"{_WHEREABOUTS} state = {ENROUTE} AND due_at IS NOT NULL AND {theirs} UNION ALL"
        f" {_WHEREABOUTS} state = {ENROUTE} AND due_at IS NULL AND +{theirs} ORDER BY id",
        {"account": account_id, "source": source, "destination": destination},
    )
    return [Whereabouts(*row) for row in rows]


def cancel(conn: sqlite3.Connection, found: Sequence[Whereabouts]) -> Cancelled:
    """Call messages back and give back what they cost.

    The caller has made sure that no upstream sends them. One that still waits for its date is called back only while it
    does so.
    """
    cancelled = Cancelled()
    paid: dict[int, list[tuple[int, int]]] = defaultdict(list)
    with immediate(conn):
        for each in found:
            row = conn.execute(
                "SELECT account_id, price, due_at IS scheduled_at AS waits FROM messages WHERE id = ? AND state = ?",
                (each.id, ENROUTE),
            ).fetchone()
            in_time = row is not None and (row["waits"] or not each.waits_for_date)
            cancelled.done.append(bool(in_time))
            if in_time:
                cancelled.waiting += finish(conn, [Outcome(each.id, DELETED, PTT_DELETED, now_ms())])
                paid[row["account_id"]].append((each.id, row["price"]))
        for account_id, messages in paid.items():
            expiry.give_back(conn, account_id, messages)
    return cancelled
