"""What keeps messages from reaching phones: that they go to a simulator, or that no upstream takes them."""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from portal.services.accounts import session_records
from portal.services.upstreams import binds, paths, queue, waiting_counts
from portal.services.upstreams.binds import UpstreamState
from portal.services.upstreams.health import FAILING
from portal.services.upstreams.paths import UpstreamPath
from portal.services.upstreams.upstreams import SIMULATOR, Upstream

# Why messages wait, beside the states of `binds`: there is no upstream, none is the default one, the upstream takes no
# new messages, the SMPP server isn't running, the upstream is bound and takes nothing.
NO_UPSTREAM, NO_DEFAULT, DRAINING, SERVER_STOPPED = "no upstream", "no default", "draining", "server stopped"
TAKES_NOTHING = "takes nothing"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why messages that wait go on waiting, and how many they are.

    `reason` is one of the five above, or `binds.DISABLED`, `REFUSED` or `UNBOUND`: the state of `upstream`, the one
    that they wait for; empty where the reason is of no upstream. `error` is what keeps it from being bound, or
    from taking anything.
    """

    reason: str
    waiting_count: int
    upstream: str = ""
    error: str = ""


def is_simulator_default(conn: sqlite3.Connection) -> bool:
    """Whether messages that come now end in a simulator: the default upstream is one, and takes them, or there has
    never been anything else.
    """
    (is_simulator,) = conn.execute(
        "SELECT EXISTS (SELECT 1 FROM upstreams WHERE is_default AND kind = ?1 AND enabled AND NOT draining)"
        " OR NOT EXISTS (SELECT 1 FROM upstreams WHERE kind <> ?1)",
        (SIMULATOR,),
    ).fetchone()
    return bool(is_simulator)


def list_obstacles(conn: sqlite3.Connection) -> list[Obstacle]:
    """Why what waits isn't sent, what keeps most messages first: one for each upstream, or other reason, that messages
    wait for. None where nothing waits, or an upstream takes it.

    Cheap while nothing waits, and while what waits is taken; otherwise it takes as long as
    `waiting_counts.read_path_counts`.
    """
    if not queue.has_queue(conn):
        return []
    blocked = find_blocked_paths(conn, queue.list_waiting_paths(conn))
    if not blocked:
        return []
    counts: Counter[Obstacle] = Counter()
    for path, count in waiting_counts.read_path_counts(conn).items():
        if path in blocked:
            counts[blocked[path]] += count
    return [replace(each, waiting_count=count) for each, count in counts.most_common() if count]


def find_blocked_paths(conn: sqlite3.Connection, waiting_paths: Sequence[UpstreamPath]) -> dict[UpstreamPath, Obstacle]:
    """Those of these paths that no upstream takes at this moment, with the reason; what waits there isn't counted."""
    is_running = session_records.is_component_alive(conn, "smsc")
    states = {each.upstream.id: each for each in binds.list_upstream_states(conn)}
    default_path = tuple(upstream_id for upstream_id, each in states.items() if each.upstream.is_default)
    found = {
        path: _find_obstacle_of(
            [states[each] for each in path or default_path if each in states],
            NO_DEFAULT if states else NO_UPSTREAM,
            is_running=is_running,
        )
        for path in waiting_paths
    }
    return {path: obstacle for path, obstacle in found.items() if obstacle is not None}


def _find_obstacle_of(states: Sequence[UpstreamState], reason: str, *, is_running: bool) -> Obstacle | None:
    """What is in the way of messages that these upstreams may take, in this order; None where one does.

    Args:
        reason: why there is none.
    """
    reasons = [_find_reason(each, is_running=is_running) for each in states]
    if "" in reasons:
        return None
    if not reasons:
        return Obstacle(reason, 0)
    # The one that it waits for is the same as in `upstreams.find_takers`.
    given = {
        each.upstream.id: each.health.state for each in states if each.upstream.enabled and not each.upstream.draining
    }
    taker_id = paths.choose_taker([each.upstream.id for each in states], given)
    at = next((at for at, each in enumerate(states) if each.upstream.id == taker_id), 0)
    blamed, found = states[at], reasons[at]
    error = next((bind.error for bind in blamed.binds if bind.error and bind.state == found), "")
    if found == TAKES_NOTHING:
        error = blamed.health.reason
    # That the server isn't running is the same for all upstreams.
    return Obstacle(found, 0, "" if found == SERVER_STOPPED else blamed.upstream.name, error)


def is_last_taker(conn: sqlite3.Connection, upstream: Upstream) -> bool:
    """Whether this upstream takes messages at this moment, and no other does."""
    is_running = session_records.is_component_alive(conn, "smsc")
    states = binds.list_upstream_states(conn)
    return [each.upstream.id for each in states if not _find_reason(each, is_running=is_running)] == [upstream.id]


def _find_reason(state: UpstreamState, *, is_running: bool) -> str:
    """Why an upstream takes nothing; empty where it does."""
    if state.upstream.draining:
        return DRAINING
    if state.state == binds.DISABLED:
        return state.state
    if not is_running:
        return SERVER_STOPPED
    # Nothing is sent on a receiver.
    sending_states = {each.state for each in state.binds if each.kind != "rx"}
    if state.state == binds.BOUND or binds.BOUND in sending_states:
        return TAKES_NOTHING if state.health.state == FAILING else ""
    if state.state != binds.PARTLY:
        return state.state
    return binds.REFUSED if binds.REFUSED in sending_states else binds.UNBOUND
