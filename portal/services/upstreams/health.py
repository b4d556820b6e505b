"""Whether upstreams are given messages, as the SMPP server sees it and pages and commands show it."""

import sqlite3
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
