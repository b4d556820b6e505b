"""The event log of a database: triggers log all changes that concern credits, in the order of the commits.

An event is logged in the transaction of its change, so a crash undoes both or neither. It contains the key of the
operation that its connection was doing, whatever rows the services write for it.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

_CREATE_TABLE = """
CREATE TABLE event_log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    key TEXT NOT NULL,
    what TEXT NOT NULL,
    facts TEXT NOT NULL
) STRICT
"""
# Kind of event: when it is logged, and which values of the row.
_LOGGED_EVENTS = {
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
    # A minute's usage is one movement. What is added to it is logged as one of its own.
    "usage": (
        "UPDATE ON movements WHEN NEW.id = OLD.id AND NEW.kind = 'usage' AND NEW.amount < OLD.amount",
        "NEW.id, NEW.account_id, OLD.kind, NEW.amount - OLD.amount, NEW.balance_after, NEW.counterpart_id,"
        " NEW.messages - OLD.messages, (SELECT min(id) FROM messages WHERE account_id = OLD.account_id"
        " AND id > OLD.last_message_id AND price > 0), NEW.last_message_id",
    ),
    "movement changed": (
        "UPDATE ON movements WHEN NEW.id <> OLD.id OR NEW.kind <> 'usage' OR NEW.amount >= OLD.amount"
        " OR NEW.first_message_id <> OLD.first_message_id OR NEW.account_id <> OLD.account_id",
        "NEW.id",
    ),
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


def create_triggers(conn: sqlite3.Connection) -> None:
    """Log all changes of a database from now on; each connection that writes needs a `Recorder`."""
    conn.execute(_CREATE_TABLE)
    for number, (what, (event, facts)) in enumerate(_LOGGED_EVENTS.items()):
        conn.execute(
            f"CREATE TRIGGER event_log_{number} AFTER {event} BEGIN"
            " INSERT INTO event_log (at, key, what, facts) VALUES"
            f" (strftime('%s', 'now') * 1000, operation_key(), '{what}', json_array({facts})); END"
        )


class Recorder:
    """Gives the triggers the key of the operation that a connection is doing."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.key = ""
        conn.create_function("operation_key", 0, lambda: self.key)


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    seq: int
    at: int
    key: str
    kind: str
    values: tuple[Any, ...]


def latest_seq(conn: sqlite3.Connection) -> int:
    return int(conn.execute("SELECT coalesce(max(seq), 0) FROM event_log").fetchone()[0])


def iterate_operations(conn: sqlite3.Connection, after: int = 0) -> Iterator[tuple[str, list[LoggedEvent]]]:
    """Yield each operation's key and its events, in the order of the log."""
    rows = conn.execute("SELECT seq, at, key, what, facts FROM event_log WHERE seq > ? ORDER BY seq", (after,))
    lines = (LoggedEvent(seq, at, key, kind, tuple(json.loads(values))) for seq, at, key, kind, values in rows)
    for key, group in groupby(lines, key=lambda line: line.key):
        yield key, list(group)
