"""Taking messages out of the history, in short transactions, so that what was charged and counted stays provable.

What is left of them: the balance, the ledger, the days' totals and the statistics, as they were; and sums of what went,
which the check adds to what it finds (`deleted_days`, `deleted_charges`, `deleted_refunds`).
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

from portal.core.clock import DAY_MS
from portal.core.db import Inserts, immediate
from portal.services.common import ids
from portal.services.common.message_states import DELIVERED, ENROUTE, PTT_BLACKLISTED, PTT_NO_CREDIT

AT_ONCE = 250
"""How many messages go in one transaction: a few milliseconds, in which the SMPP server has to wait."""

_AMOUNTS = ("sent", "delivered", "failed", "stopped", "refused", "parts", "price")
_ADD_DAYS = Inserts(
    "deleted_days",
    f"account_id, day, country, source, {', '.join(_AMOUNTS)}",
    "ON CONFLICT (account_id, day, country, source) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _AMOUNTS),
)
_ADD_CHARGES = Inserts(
    "deleted_charges",
    "account_id, charged_from, first_id, last_id, messages, price",
    "ON CONFLICT (account_id, charged_from) DO UPDATE SET first_id = min(first_id, excluded.first_id),"
    " last_id = max(last_id, excluded.last_id), messages = messages + excluded.messages,"
    " price = price + excluded.price",
)
_NO_CHARGE = 0
_FURTHEST = (1 << 63) - 1


@dataclass(slots=True)
class Look:
    """What may go of some texts, each as the ids of its messages, the first one first; and the first messages of those
    that stay: because a message of them is under way, or because a receipt of one waits for a client.
    """

    texts: list[list[int]] = field(default_factory=list)
    underway: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)


def look(conn: sqlite3.Connection, account_id: int, lines: Sequence[int], at: float = inf) -> Look:
    """Tell which of the texts that begin with these messages of an account had ended by a moment (milliseconds).

    One that isn't there, or is another account's, is nothing.
    """
    rows = conn.execute(
        "SELECT id AS line, id, state, done_at FROM messages WHERE id IN (SELECT value FROM json_each(:lines))"
        " AND +account_id = :account AND joined_to IS NULL"
        " UNION ALL SELECT joined_to, id, state, done_at FROM messages"
        " WHERE joined_to IN (SELECT value FROM json_each(:lines)) AND +account_id = :account",
        {"lines": json.dumps(lines), "account": account_id},
    ).fetchall()
    texts: dict[int, list[int]] = {}
    underway = set()
    for line, message_id, state, done_at in rows:
        texts.setdefault(line, []).append(message_id)
        if state == ENROUTE or (done_at or 0) > at:
            underway.add(line)
    found = Look()
    waiting = _waiting(conn, account_id, [each for text in texts.values() for each in text])
    for line, text in texts.items():
        if line in underway:
            found.underway.append(line)
        elif waiting and not waiting.isdisjoint(text):
            found.waiting.append(line)
        else:
            found.texts.append(text)
    return found


def _waiting(conn: sqlite3.Connection, account_id: int, message_ids: Sequence[int]) -> set[int]:
    """Those of a few messages, and of others between them, of which a receipt waits.

    All that waits for the account is read, which is nothing or little, or its clients haven't come for days.
    """
    if not message_ids:
        return set()
    rows = conn.execute(
        "SELECT message_id FROM deliveries WHERE account_id = ? AND message_id >= ? AND message_id <= ?",
        (account_id, min(message_ids), max(message_ids)),
    )
    return {row[0] for row in rows}


def portions(texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Texts, in their order, as `take` shall get them: with AT_ONCE messages, or a few more.

    The time that SQLite takes for a DELETE grows with the square of its rows where the table has a trigger: 250
    texts in 255 segments each took five minutes, in which the SMPP server could write nothing.
    """
    some: list[Sequence[int]] = []
    how_many = 0
    for text in texts:
        some.append(text)
        how_many += len(text)
        if how_many >= AT_ONCE:
            yield some
            some, how_many = [], 0
    if some:
        yield some


def take(conn: sqlite3.Connection, account_id: int, texts: Sequence[Sequence[int]], *, sums: bool = True) -> int:
    """Remove texts that `look` has found, all of which the statistics have counted since (`tally.gather_all`).

    Args:
        sums: leave behind what the check needs; not where it leaves out the days that they are of.

    Returns:
        How many were there.
    """
    message_ids = [each for text in texts for each in text]
    if not message_ids:
        return 0
    charges = _charges(conn, account_id, message_ids) if sums else {}
    with immediate(conn):
        late = _late(conn, texts, message_ids)
        if late:
            message_ids = [each for text in texts if text[0] not in late for each in text]
        _keep_highest(conn, message_ids)
        rows = conn.execute(
            "DELETE FROM messages WHERE id IN (SELECT value FROM json_each(?)) AND +account_id = ?"
            " RETURNING id, country, source, state, ptt, parts, price",
            (json.dumps(message_ids), account_id),
        ).fetchall()
        if sums:
            _leave_days(conn, account_id, rows)
            _leave_charges(conn, account_id, rows, charges)
            _leave_refunds(conn, account_id, rows)
        gone = {row[0] for row in rows}
        _drop_chunks(conn, account_id, gone)
        _count(conn, account_id, len(gone))
    return sum(text[0] in gone for text in texts)


def take_received(conn: sqlite3.Connection, account_id: int, received_ids: Sequence[int]) -> int:
    """Remove messages from handsets, but for those that still wait for a client; returns how many there were.

    A number on the blacklist keeps the words with which it said STOP.
    """
    values = {"ids": json.dumps(received_ids), "account": account_id}
    which = "received.id IN (SELECT value FROM json_each(:ids)) AND +received.account_id = :account"
    with immediate(conn):
        conn.execute(
            "UPDATE blacklist SET said = received.text FROM received"
            f" WHERE {which} AND ended_at IS NOT NULL AND blacklist.account_id = :account"
            " AND number = received.source AND received_id = received.id",
            values,
        )
        _keep_highest(conn, received_ids)
        rows = conn.execute(
            f"DELETE FROM received WHERE {which} AND ended_at IS NOT NULL RETURNING id", values
        ).fetchall()
        _count(conn, account_id, len(rows))
    return len(rows)


def _late(conn: sqlite3.Connection, texts: Sequence[Sequence[int]], message_ids: Sequence[int]) -> set[int]:
    """Texts to which another segment has come since they were looked at: without its first one it would be lost."""
    rows = conn.execute(
        "SELECT joined_to FROM messages WHERE joined_to IN (SELECT value FROM json_each(?))"
        " AND id NOT IN (SELECT value FROM json_each(?))",
        (json.dumps([text[0] for text in texts]), json.dumps(message_ids)),
    )
    return {row[0] for row in rows}


def _keep_highest(conn: sqlite3.Connection, row_ids: Sequence[int]) -> None:
    # As the trigger would with each row, if they go in the order of their ids.
    conn.execute("UPDATE counters SET value = ?1 WHERE name = 'message_id' AND value < ?1", (max(row_ids, default=0),))


def _count(conn: sqlite3.Connection, account_id: int, removed: int) -> None:
    if removed:
        conn.execute("UPDATE accounts SET removed_messages = removed_messages + ? WHERE id = ?", (removed, account_id))


def _drop_chunks(conn: sqlite3.Connection, account_id: int, gone: set[int]) -> None:
    """Remove the chunks of the search's index of whose messages none is left."""
    conn.execute(
        "DELETE FROM history_chunks WHERE id IN (SELECT (SELECT id FROM history_chunks"
        " WHERE account_id = :account AND last_id >= value ORDER BY last_id LIMIT 1) FROM json_each(:gone))"
        " AND NOT EXISTS (SELECT 1 FROM messages INDEXED BY messages_account WHERE messages.account_id = :account"
        " AND messages.id >= first_id AND messages.id <= last_id)",
        {"account": account_id, "gone": json.dumps(sorted(gone))},
    )


# --- what the check needs

# Of a message: id, country, source, state, ptt, parts, price.
_Row = Sequence[int | str]


def _charges(conn: sqlite3.Connection, account_id: int, message_ids: Sequence[int]) -> dict[int, int]:
    """Of each message that cost something, by its id, the first one that its usage movement names."""
    found: dict[int, int] = {}
    ahead: list[_Charge] = []
    begin = 0
    for message_id in sorted(message_ids):
        ahead = [each for each in ahead if each[2] >= message_id]
        if not ahead:
            # A movement has the time of the first message that it charges, unless movements have run ahead; the
            # messages of one have the same time, or, once in a million, the millisecond after.
            begin = max(begin, ids.first_id_at(ids.time_of(message_id) - 1))
            rows = _usage(conn, account_id, begin, _AHEAD)
            ahead = [each for each in rows if each[2] >= message_id]
            if not ahead and len(rows) == _AHEAD:
                begin = _place(conn, account_id, rows[-1][0] + 1, message_id)
                ahead = _usage(conn, account_id, begin, _AHEAD)
        if ahead and ahead[0][1] <= message_id:
            found[message_id] = ahead[0][1]
    return found


# The id of a usage movement, and the first and the last message that it charges.
_Charge = tuple[int, int, int]
_AHEAD = 16


def _usage(conn: sqlite3.Connection, account_id: int, begin: int, limit: int) -> list[_Charge]:
    """The usage movements of an account from this id on."""
    rows = conn.execute(
        "SELECT id, first_message_id, last_message_id FROM movements INDEXED BY movements_account"
        " WHERE account_id = ? AND id >= ? AND kind = 'usage' AND last_message_id IS NOT NULL ORDER BY id LIMIT ?",
        (account_id, begin, limit),
    )
    return [(row[0], row[1] or 0, row[2]) for row in rows]


def _place(conn: sqlite3.Connection, account_id: int, low: int, message_id: int) -> int:
    """From which id on the movements are that charge this message or later ones: they are in its order."""
    high = _FURTHEST
    while low < high:
        middle = (low + high) // 2
        rows = _usage(conn, account_id, middle, 1)
        if rows and rows[0][2] < message_id:
            low = rows[0][0] + 1
        else:
            high = middle
    return low


def _leave_days(conn: sqlite3.Connection, account_id: int, rows: Sequence[_Row]) -> None:
    days: dict[tuple[int, str, str], list[int]] = defaultdict(lambda: [0] * len(_AMOUNTS))
    for message_id, country, source, state, ptt, parts, price in rows:
        sums = days[ids.time_of(int(message_id)) // DAY_MS, str(country), str(source)]
        if price:
            delivered = int(state == DELIVERED)
            counts = [1, delivered, 1 - delivered, 0, 0, int(parts), int(price)]
        else:
            counts = [0, 0, 0, int(ptt == PTT_BLACKLISTED), int(ptt == PTT_NO_CREDIT), 0, 0]
        for place, count in enumerate(counts):
            sums[place] += count
    _ADD_DAYS.run(conn, [(account_id, *day, *sums) for day, sums in sorted(days.items())])


def _leave_charges(conn: sqlite3.Connection, account_id: int, rows: Sequence[_Row], charges: dict[int, int]) -> None:
    sums: dict[int, list[int]] = {}
    for message_id, *_, price in rows:
        if price:
            first, price = int(message_id), int(price)
            charge = charges.get(first, _NO_CHARGE)
            if charge in sums:
                found = sums[charge]
                found[:] = min(found[0], first), max(found[1], first), found[2] + 1, found[3] + price
            else:
                sums[charge] = [first, first, 1, price]
    _ADD_CHARGES.run(conn, [(account_id, charge, *found) for charge, found in sorted(sums.items())])


def _leave_refunds(conn: sqlite3.Connection, account_id: int, rows: Sequence[_Row]) -> None:
    paid = {row[0]: row for row in rows if row[-1]}
    refunded = conn.execute(
        "SELECT first_message_id FROM movements WHERE kind = 'refund'"
        " AND first_message_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(paid)),),
    ).fetchall()
    conn.executemany(
        "INSERT INTO deleted_refunds (message_id, account_id, price, state, ptt) VALUES (?, ?, ?, ?, ?)",
        [(row[0], account_id, row[6], row[3], row[4]) for row in (paid[each] for (each,) in refunded)],
    )
