"""The binds of upstreams: their states, which the SMPP server writes and pages and commands show."""

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from portal.core.db import write_transaction
from portal.services.accounts import session_records
from portal.services.common.errors import require_found
from portal.services.upstreams import upstreams
from portal.services.upstreams.health import GOOD, UpstreamHealth, list_health
from portal.services.upstreams.upstreams import NoSuchUpstream, Upstream

# The states of a bind; the first, and `unbound` and `refused`, are those of an upstream, too.
BOUND, PARTLY, UNBOUND, REFUSED, DISABLED = "bound", "partly", "unbound", "refused", "disabled"
# The state after a change, until the SMPP server has taken that over; it is never stored.
PENDING = "pending"


@dataclass(frozen=True, slots=True)
class BindState:
    """A bind, `number` counting from 1.

    `kind` is trx, tx or rx. `state` is BOUND, REFUSED where the carrier has refused the last attempt, UNBOUND, or a
    word for what is neither of the first two (connecting). `since` is when it became so (milliseconds; 0: not known).
    `error` is why it isn't bound, and `status` the command_status of a refusal. `next_attempt_at` is when it is tried
    again (milliseconds; 0: not, or now). `host`: where it is bound, as host:port, if the upstream has two hosts.
    """

    number: int
    kind: str
    state: str
    since: int
    error: str = ""
    status: int = 0
    next_attempt_at: int = 0
    host: str = ""


_COLUMNS = ", ".join(each.name for each in fields(BindState))


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """An upstream as it is now: its state, which is one of the five above, or PENDING, the binds that it has or should
    have, and whether it is given messages.
    """

    upstream: Upstream
    state: str
    binds: tuple[BindState, ...]
    health: UpstreamHealth


# --- written by the SMPP server


def record_bind_states(conn: sqlite3.Connection, upstream_id: int, states: Sequence[BindState]) -> None:
    """Store all binds of an upstream, in place of those that were stored."""
    with write_transaction(conn):
        conn.execute("DELETE FROM upstream_binds WHERE upstream = ?", (upstream_id,))
        conn.executemany(
            f"INSERT INTO upstream_binds (upstream, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(upstream_id, *astuple(each)) for each in states],
        )


def clear_bind_states(conn: sqlite3.Connection) -> None:
    """Forget all binds: none outlives the process that holds it."""
    with write_transaction(conn):
        conn.execute("DELETE FROM upstream_binds")


# --- read by pages and commands


def list_upstream_states(conn: sqlite3.Connection) -> list[UpstreamState]:
    """All upstreams with their states, by name. Without a running SMPP server nothing is bound."""
    running = session_records.is_component_alive(conn, "smsc")
    stored = list_bind_states(conn) if running else {}
    known_health = list_health(conn)
    states = []
    for each in upstreams.list_upstreams(conn):
        kinds = each.settings.bind_kinds if each.kind == upstreams.SMPP else ()
        bound = {bind.number: bind for bind in stored.get(each.id, [])}
        binds = tuple(bound.get(at, BindState(at, kind, UNBOUND, 0)) for at, kind in enumerate(kinds, start=1))
        state = _summarize(each, [bind.state for bind in binds], running=running)
        states.append(UpstreamState(each, state, binds, known_health.get(each.id, UpstreamHealth(GOOD))))
    return states


def get_upstream_state(conn: sqlite3.Connection, upstream_id: int) -> UpstreamState:
    """Raises: NoSuchUpstream"""
    found = next((each for each in list_upstream_states(conn) if each.upstream.id == upstream_id), None)
    return require_found(found, NoSuchUpstream(name=upstream_id))


def list_bind_states(conn: sqlite3.Connection) -> dict[int, list[BindState]]:
    """The binds as the SMPP server has stored them, by the ids of their upstreams and in the order of their numbers."""
    stored: dict[int, list[BindState]] = defaultdict(list)
    rows = conn.execute(f"SELECT upstream, {_COLUMNS} FROM upstream_binds ORDER BY upstream, number")
    for upstream_id, *values in rows:
        stored[upstream_id].append(BindState(*values))
    return stored


def replace_state_by_pending(state: UpstreamState) -> UpstreamState:
    """What is known of an upstream just after a change: what is stored of its binds is from before it."""
    pending = tuple(BindState(each.number, each.kind, PENDING, 0) for each in state.binds)
    return UpstreamState(state.upstream, DISABLED if state.state == DISABLED else PENDING, pending, state.health)


def _summarize(upstream: Upstream, states: Sequence[str], *, running: bool) -> str:
    if not upstream.enabled:
        return DISABLED
    if running and all(each == BOUND for each in states):
        # A simulator has no binds, and is always ready.
        return BOUND
    if BOUND in states:
        return PARTLY
    return REFUSED if REFUSED in states else UNBOUND
