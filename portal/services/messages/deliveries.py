"""What waits for an account's receivers: the receipts of its messages, and what handsets have sent it (MO)."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from portal.core.clock import now_ms
from portal.core.db import Inserts, immediate
from portal.services.common import ids
from portal.services.common.message_states import DELIVERED
from portal.services.messages import text_policy
from portal.services.messages.validation import DELIVERIES_VALID_MS

_ADD_RECEIPTS = Inserts("deliveries", "account_id, id, message_id, next_attempt_at")
_ADD_RECEIVED = Inserts("deliveries", "account_id, id, received_id, next_attempt_at")
# How many of the columns that `due` reads are a receipt's.
_OF_RECEIPT = 10

HOLDS_ATTEMPTS = 8
"""What was not accepted is waited for by what is behind it, so that the order stays; after so many attempts no more."""
LONGEST_WAIT_MS = 600_000
"""The longest time between two attempts."""
EXPIRED_AT_ONCE = 5_000
"""How much is given up in one transaction: some tens of milliseconds."""


@dataclass(slots=True)
class Receipt:
    """A delivery receipt (SMPP 3.4, appendix B); `id` is its place among what waits for its account (0: none yet)."""

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

    @property
    def submitted_at(self) -> int:
        return ids.time_of(self.message_id)


@dataclass(slots=True)
class Incoming:
    """What a handset has sent (MO). `body` is what it carries where that is no text (binary)."""

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


Deliverable = Receipt | Incoming
# Its place among what waits for its account; the id of its message, or of what was received.
_Waits = tuple[int, int | None, int | None]


@dataclass(slots=True)
class Deliveries:
    """What is to be offered `now`, in order; `held`: whether what is behind it has to wait; `then`: when it is time to
    look again (milliseconds) for something that was not accepted.
    """

    now: list[Deliverable]
    held: bool
    then: int | None


def wants_receipt(registered_delivery: int, state: int) -> bool:
    """Whether a final state is to be told. SMPP 3.4, 5.2.17: 1 asks for success and failure, 2 for failure only."""
    # 3 is reserved; asking for more is safer.
    return registered_delivery in (1, 3) or (registered_delivery == 2 and state != DELIVERED)


def add_receipts(conn: sqlite3.Connection, receipts: Sequence[Receipt], now: int) -> None:
    """Let receipts wait, in their order; each gets its `id`."""
    places = _places(conn, {each.account_id for each in receipts}, now)
    for each in receipts:
        each.id = next(places[each.account_id])
    _ADD_RECEIPTS.run(conn, [(each.account_id, each.id, each.message_id, now) for each in receipts])


def add_received(conn: sqlite3.Connection, messages: Sequence[tuple[int, int]], now: int) -> set[int]:
    """Let messages from handsets, (account id, id), wait; returns the ids of these accounts."""
    places = _places(conn, {account_id for account_id, _ in messages}, now)
    rows = [(account_id, next(places[account_id]), received_id, now) for account_id, received_id in messages]
    _ADD_RECEIVED.run(conn, rows)
    return set(places)


def _places(conn: sqlite3.Connection, account_ids: Iterable[int], now: int) -> dict[int, Iterator[int]]:
    """The ids to come of what waits for each account: they grow, with time too."""
    # One row for all: Python lets go of its lock (GIL) for each row.
    (last,) = conn.execute(
        "SELECT json_group_array(json_array(value, (SELECT max(id) FROM deliveries WHERE account_id = value)))"
        " FROM json_each(?)",
        (json.dumps(list(account_ids)),),
    ).fetchone()
    first = ids.first_id_at(now)
    return {account_id: count(max(first, (highest or 0) + 1)) for account_id, highest in json.loads(last)}


# Whether the next attempt is still to come. Never longer than the longest wait: the clock may have been set back.
_WAITS = "(attempts > 0 AND next_attempt_at > :now AND next_attempt_at <= :now + :longest_wait)"


def due(conn: sqlite3.Connection, account_id: int, now: int, limit: int, but: Collection[int] = ()) -> Deliveries:
    """What an account's receivers may be offered at this moment (milliseconds), `but` for those ids."""
    values = {
        "account": account_id,
        "now": now,
        "oldest": ids.first_id_at(now - DELIVERIES_VALID_MS),
        "longest_wait": LONGEST_WAIT_MS,
        "holds": HOLDS_ATTEMPTS,
        "but": json.dumps(list(but)),
        "limit": limit,
    }
    found: list[Deliverable] = []
    held = False
    rows = conn.execute(
        f"SELECT deliveries.id, message_id, received_id, attempts, iif({_WAITS}, next_attempt_at, NULL),"
        " messages.source, source_ton, source_npi, messages.destination, messages.text, reference, parts, state, ptt,"
        " done_at, received.source, received.destination, received.text, received.body, received.udh,"
        " received.data_coding FROM deliveries"
        " LEFT JOIN messages ON messages.id = message_id LEFT JOIN received ON received.id = received_id"
        " WHERE deliveries.account_id = :account AND deliveries.id >= :oldest"
        f" AND NOT (attempts >= :holds AND {_WAITS}) AND coalesce(messages.id, received.id) IS NOT NULL"
        " AND deliveries.id NOT IN (SELECT value FROM json_each(:but)) ORDER BY deliveries.id LIMIT :limit",
        values,
    )
    for delivery_id, message_id, received_id, attempts, waits_until, *fields in rows:
        if waits_until is not None:
            held = True
            break
        if message_id is not None:
            found.append(Receipt(delivery_id, account_id, message_id, attempts, *fields[:_OF_RECEIPT]))
        else:
            found.append(Incoming(delivery_id, account_id, received_id, attempts, *fields[_OF_RECEIPT:]))
    then = conn.execute(
        f"SELECT min(next_attempt_at) FROM deliveries WHERE account_id = :account AND id >= :oldest AND {_WAITS}",
        values,
    ).fetchone()[0]
    return Deliveries(found, held, then)


def done(conn: sqlite3.Connection, accepted: Iterable[Deliverable], now: int | None = None) -> None:
    """Forget what an ESME has accepted, and write down when it has (milliseconds; None: now) where that is shown."""
    by_account: dict[int, list[_Waits]] = defaultdict(list)
    received = []
    for each in accepted:
        if isinstance(each, Incoming):
            received.append(each.received_id)
            by_account[each.account_id].append((each.id, None, each.received_id))
        else:
            by_account[each.account_id].append((each.id, each.message_id, None))
    with immediate(conn):
        if received:
            conn.execute(
                "UPDATE received SET ended_at = ? WHERE id IN (SELECT value FROM json_each(?))",
                (now_ms() if now is None else now, json.dumps(received)),
            )
        _forget(conn, by_account)


def failed(conn: sqlite3.Connection, retries: Iterable[tuple[Deliverable, int]]) -> None:
    """Note how many attempts have failed, and the time (milliseconds) of the next one."""
    with immediate(conn):
        conn.executemany(
            "UPDATE deliveries SET attempts = ?, next_attempt_at = ? WHERE account_id = ? AND id = ?",
            [(each.attempts, at, each.account_id, each.id) for each, at in retries],
        )


def expire(conn: sqlite3.Connection, now: int) -> int:
    """Give up what nobody has accepted for seven days, EXPIRED_AT_ONCE at most; returns how much that was."""
    by_account: dict[int, list[_Waits]] = defaultdict(list)
    with immediate(conn):
        # Account by account: what waits is in the order of each one's ids.
        rows = conn.execute(
            "SELECT account_id, deliveries.id, message_id, received_id FROM accounts"
            " CROSS JOIN deliveries ON account_id = accounts.id AND deliveries.id < ? LIMIT ?",
            (ids.first_id_at(now - DELIVERIES_VALID_MS), EXPIRED_AT_ONCE),
        )
        for account_id, *waits in rows.fetchall():
            by_account[account_id].append(tuple(waits))
        received = [each[2] for some in by_account.values() for each in some if each[2] is not None]
        if received:
            conn.execute(
                "UPDATE received SET ended_at = ?, given_up = 1 WHERE id IN (SELECT value FROM json_each(?))",
                (now, json.dumps(received)),
            )
        _forget(conn, by_account)
    return sum(map(len, by_account.values()))


def _forget(conn: sqlite3.Connection, by_account: Mapping[int, Sequence[_Waits]]) -> None:
    """Let nothing of it wait any more, and remove the texts that only these needed, where they aren't kept."""
    for account_id in text_policy.not_kept(conn, by_account):
        for table, place in (("messages", 1), ("received", 2)):
            text_policy.blank(conn, table, [each[place] for each in by_account[account_id] if each[place] is not None])
    for account_id, some in by_account.items():
        conn.execute(
            "DELETE FROM deliveries WHERE account_id = ? AND id IN (SELECT value FROM json_each(?))",
            (account_id, json.dumps([delivery_id for delivery_id, *_ in some])),
        )
