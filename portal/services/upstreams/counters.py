"""What is counted of each upstream, since it was created."""

import sqlite3
from collections.abc import Mapping

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
    "unmatched",
    "unknown_answers",
    "answers_without_id",
    "malformed",
)


def add_to_counters(conn: sqlite3.Connection, upstream_id: int, amounts: Mapping[str, int]) -> None:
    """Add to an upstream's counters, by their names in COUNTERS."""
    with write_transaction(conn):
        conn.executemany(
            "INSERT INTO upstream_counters (upstream, name, value) VALUES (?1, ?2, ?3)"
            " ON CONFLICT DO UPDATE SET value = value + ?3",
            [(upstream_id, name, amount) for name, amount in amounts.items() if amount],
        )


def add_unroutable_submits(conn: sqlite3.Connection, count: int) -> None:
    """Count messages that were refused because no route takes their number, and there is no default upstream."""
    with write_transaction(conn):
        conn.execute("UPDATE counters SET value = value + ? WHERE name = 'unroutable_submits'", (count,))


def get_counters(conn: sqlite3.Connection, upstream_id: int) -> dict[str, int]:
    """All of COUNTERS, in their order."""
    stored = dict(conn.execute("SELECT name, value FROM upstream_counters WHERE upstream = ?", (upstream_id,)))
    return {name: stored.get(name, 0) for name in COUNTERS}
