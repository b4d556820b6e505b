"""What is counted of each upstream, since it was created, and some of it by the hour."""

import sqlite3
from collections.abc import Mapping

from portal.core.clock import HOUR_MS, now_ms
from portal.core.db import write_transaction

COUNTERS = (
    "submitted",
    "accepted",
    "throttled",
    "retried",
    "failed",
    "unsure",
    "resent",
    "receipts",
    "delivered",
    "undelivered",
    "unmatched",
    "unknown_answers",
    "answers_without_id",
    "malformed",
)
# What came of messages, the last days of which are compared, and the receipts (`load`).
_BY_THE_HOUR = frozenset(("delivered", "undelivered", "failed", "receipts"))


def add_to_counters(conn: sqlite3.Connection, upstream_id: int, amounts: Mapping[str, int]) -> None:
    """Add to an upstream's counters, by their names in COUNTERS."""
    with write_transaction(conn):
        conn.executemany(
            "INSERT INTO upstream_counters (upstream, name, value) VALUES (?1, ?2, ?3)"
            " ON CONFLICT DO UPDATE SET value = value + ?3",
            [(upstream_id, name, amount) for name, amount in amounts.items() if amount],
        )
        hour = now_ms() // HOUR_MS
        added = [(upstream_id, hour, *each) for each in amounts.items() if each[1] and each[0] in _BY_THE_HOUR]
        if added:
            conn.executemany(
                "INSERT INTO upstream_hours (upstream, hour, name, value) VALUES (?1, ?2, ?3, ?4)"
                " ON CONFLICT DO UPDATE SET value = value + ?4",
                added,
            )


def add_unroutable_submits(conn: sqlite3.Connection, count: int) -> None:
    """Count messages that were refused because no route takes their number, and there is no default upstream."""
    with write_transaction(conn):
        conn.execute("UPDATE counters SET value = value + ? WHERE name = 'unroutable_submits'", (count,))


def get_counters(conn: sqlite3.Connection, upstream_id: int) -> dict[str, int]:
    """All of COUNTERS, in their order."""
    stored = dict(conn.execute("SELECT name, value FROM upstream_counters WHERE upstream = ?", (upstream_id,)))
    return {name: stored.get(name, 0) for name in COUNTERS}
