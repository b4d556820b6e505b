"""Whether upstreams are given messages, as the SMPP server sees it and pages and commands show it; and what it counts
of each, since that was created.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from portal.core.db import write_transaction
from portal.services.accounts import session_records

GOOD, FAILING, TRYING = "good", "failing", "trying"
"""It is given messages; the next upstream of their path is, instead; it has failed, and is given one to see."""


@dataclass(frozen=True, slots=True)
class UpstreamHealth:
    """One of the three states above, since when (milliseconds; 0: not known), and why it isn't good."""

    state: str
    since: int = 0
    reason: str = ""


def record_health(conn: sqlite3.Connection, upstream_id: int, health: UpstreamHealth) -> None:
    """Store the state of an upstream. One that has been removed meanwhile has none."""
    with write_transaction(conn):
        conn.execute(
            "INSERT INTO upstream_health (upstream, state, since, reason)"
            " SELECT id, ?2, ?3, ?4 FROM upstreams WHERE id = ?1"
            " ON CONFLICT (upstream) DO UPDATE SET state = ?2, since = ?3, reason = ?4",
            (upstream_id, health.state, health.since, health.reason),
        )


def clear_health(conn: sqlite3.Connection) -> None:
    """Forget all states: a process that starts knows of none."""
    with write_transaction(conn):
        conn.execute("DELETE FROM upstream_health")


def list_health(conn: sqlite3.Connection) -> dict[int, UpstreamHealth]:
    """The states by the ids of their upstreams, as far as any are known. Without a running SMPP server none is."""
    if not session_records.is_component_alive(conn, "smsc"):
        return {}
    rows = conn.execute("SELECT upstream, state, since, reason FROM upstream_health")
    return {upstream_id: UpstreamHealth(*values) for upstream_id, *values in rows}


# --- what is counted

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
