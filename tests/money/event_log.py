"""What really happened in a database, in the order in which it was committed: triggers write it down.

A row of the chronicle is in the transaction of what it tells, so a crash takes both or none. Each names the operation
that its connection was at, whatever rows the services write for it.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

_TABLE = """
CREATE TABLE chronicle (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    key TEXT NOT NULL,
    what TEXT NOT NULL,
    facts TEXT NOT NULL
) STRICT
"""
# What is told, when, and what of the row.
_TOLD = {
    "message": (
        "INSERT ON messages",
        "NEW.id, NEW.account_id, NEW.text, NEW.state, NEW.ptt, NEW.price, NEW.parts, NEW.country, NEW.source",
    ),
    "ended": ("UPDATE OF state ON messages WHEN NEW.state <> OLD.state", "NEW.id, NEW.state, NEW.ptt"),
    "sent": (
        "UPDATE OF due_at ON messages WHEN NEW.due_at IS NOT OLD.due_at AND NEW.state = OLD.state",
        "NEW.id",
    ),
    "price changed": ("UPDATE OF price ON messages WHEN NEW.price <> OLD.price", "NEW.id, NEW.price"),
    "movement": (
        "INSERT ON movements",
        "NEW.id, NEW.account_id, NEW.kind, NEW.amount, NEW.balance_after, NEW.counterpart_id, NEW.messages,"
        " NEW.first_message_id, NEW.last_message_id",
    ),
    "movement changed": ("UPDATE ON movements", "NEW.id"),
    "movement deleted": ("DELETE ON movements", "OLD.id"),
    "balance": ("UPDATE OF balance ON accounts", "NEW.id, OLD.balance, NEW.balance"),
    "order": ("INSERT ON orders", "NEW.id, NEW.account_id, NEW.origin, NEW.credits"),
    "credited": ("UPDATE OF movement_id ON orders", "NEW.id"),
    "paid": ("UPDATE OF paid_at ON orders", "NEW.id"),
    "cancelled": ("UPDATE OF cancelled_at ON orders", "NEW.id"),
    "lot": ("INSERT ON expiring_credits", "NEW.account_id, NEW.movement_id, NEW.expires_at, NEW.amount"),
    "ran out": ("UPDATE OF expired_at ON expiring_credits", "NEW.account_id, NEW.movement_id, NEW.expires_at"),
    "notice": ("INSERT ON credit_notices", "NEW.account_id, NEW.kind, NEW.balance"),
    "listed": ("INSERT ON blacklist", "NEW.account_id, NEW.number"),
    "unlisted": ("DELETE ON blacklist", "OLD.account_id, OLD.number"),
}


def begin(conn: sqlite3.Connection) -> None:
    """Have a database's changes told from now on; each connection that writes needs a `Pen`."""
    conn.execute(_TABLE)
    for number, (what, (event, facts)) in enumerate(_TOLD.items()):
        conn.execute(
            f"CREATE TRIGGER chronicle_{number} AFTER {event} BEGIN"
            " INSERT INTO chronicle (at, key, what, facts) VALUES"
            f" (strftime('%s', 'now') * 1000, whose(), '{what}', json_array({facts})); END"
        )


class Pen:
    """Tells the chronicle which operation a connection is at."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.key = ""
        conn.create_function("whose", 0, lambda: self.key)


@dataclass(frozen=True, slots=True)
class Line:
    seq: int
    at: int
    key: str
    what: str
    facts: tuple[Any, ...]


def latest(conn: sqlite3.Connection) -> int:
    return int(conn.execute("SELECT coalesce(max(seq), 0) FROM chronicle").fetchone()[0])


def read(conn: sqlite3.Connection, after: int = 0) -> Iterator[tuple[str, list[Line]]]:
    """What each operation did, in order: its key, and its lines."""
    rows = conn.execute("SELECT seq, at, key, what, facts FROM chronicle WHERE seq > ? ORDER BY seq", (after,))
    lines = (Line(*tuple(row)[:-1], tuple(json.loads(row[-1]))) for row in rows)
    for key, group in groupby(lines, key=lambda line: line.key):
        yield key, list(group)
