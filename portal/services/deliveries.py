"""What waits for an account's receivers: the receipts of its messages, and what handsets have sent it (MO)."""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from portal.db import immediate
from portal.services import credits
from portal.services.messages import DELIVERED, DELIVERIES_VALID_MS


@dataclass(slots=True)
class Receipt:
    """A delivery receipt (SMPP 3.4, appendix B); `id` is its place among what waits for its account."""

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
        return credits.time_of(self.message_id)


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


def wants_receipt(registered_delivery: int, state: int) -> bool:
    """Whether a final state is to be told. SMPP 3.4, 5.2.17: 1 asks for success and failure, 2 for failure only."""
    # 3 is reserved; asking for more is safer.
    return registered_delivery in (1, 3) or (registered_delivery == 2 and state != DELIVERED)


def add_receipts(conn: sqlite3.Connection, messages: Sequence[tuple[int, int]], now: int) -> set[int]:
    """Let the receipts of messages, (account id, message id), wait; returns the ids of these accounts."""
    return _add(conn, "message_id", messages, now)


def add_received(conn: sqlite3.Connection, messages: Sequence[tuple[int, int]], now: int) -> set[int]:
    """Let messages from handsets, (account id, id), wait; returns the ids of these accounts."""
    return _add(conn, "received_id", messages, now)


def _add(conn: sqlite3.Connection, column: str, messages: Sequence[tuple[int, int]], now: int) -> set[int]:
    by_account: dict[int, list[int]] = defaultdict(list)
    for account_id, row_id in messages:
        by_account[account_id].append(row_id)
    for account_id, row_ids in by_account.items():
        last = conn.execute("SELECT max(id) FROM deliveries WHERE account_id = ?", (account_id,)).fetchone()[0] or 0
        first = max(credits.first_id_at(now), last + 1)
        conn.executemany(
            f"INSERT INTO deliveries (account_id, id, {column}, next_attempt_at) VALUES (?, ?, ?, ?)",
            [(account_id, delivery_id, row_id, now) for delivery_id, row_id in enumerate(row_ids, first)],
        )
    return set(by_account)


def due(conn: sqlite3.Connection, account_id: int, now: int, limit: int) -> list[Deliverable]:
    """What an account's receivers may be offered at this moment (milliseconds), in order."""
    found: list[tuple[int, Deliverable]] = []
    rows = conn.execute(
        "SELECT id, message_id, received_id, attempts FROM deliveries"
        " WHERE account_id = ? AND next_attempt_at <= ? ORDER BY id LIMIT ?",
        (account_id, now, limit),
    ).fetchall()
    for delivery_id, message_id, received_id, attempts in rows:
        if message_id is not None:
            row = conn.execute(
                "SELECT source, source_ton, source_npi, destination, text, reference, parts, state, ptt, done_at"
                " FROM messages WHERE id = ?",
                (message_id,),
            ).fetchone()
            if row:
                found.append((delivery_id, Receipt(delivery_id, account_id, message_id, attempts, *row)))
        else:
            row = conn.execute(
                "SELECT source, destination, text, body, udh, data_coding FROM received WHERE id = ?", (received_id,)
            ).fetchone()
            if row:
                found.append((delivery_id, Incoming(delivery_id, account_id, received_id, attempts, *row)))
    return [each for _, each in found]


def done(conn: sqlite3.Connection, accepted: Iterable[Deliverable]) -> None:
    """Forget what an ESME has accepted."""
    with immediate(conn):
        conn.executemany(
            "DELETE FROM deliveries WHERE account_id = ? AND id = ?", [(each.account_id, each.id) for each in accepted]
        )


def failed(conn: sqlite3.Connection, retries: Iterable[tuple[Deliverable, int]]) -> None:
    """Note failed attempts, each with the time (milliseconds) of the next one."""
    with immediate(conn):
        conn.executemany(
            "UPDATE deliveries SET attempts = attempts + 1, next_attempt_at = ? WHERE account_id = ? AND id = ?",
            [(at, each.account_id, each.id) for each, at in retries],
        )


def expire(conn: sqlite3.Connection, now: int) -> int:
    """Give up what nobody has accepted for seven days; returns how much that was."""
    oldest = credits.first_id_at(now - DELIVERIES_VALID_MS)
    with immediate(conn):
        return conn.execute("DELETE FROM deliveries WHERE id < ?", (oldest,)).rowcount
