"""What keeps messages from reaching phones: that they go to a simulator, or that no upstream takes them."""

import sqlite3
from dataclasses import dataclass

from portal.services.accounts import session_records
from portal.services.upstreams import binds, queue
from portal.services.upstreams.binds import UpstreamState
from portal.services.upstreams.upstreams import SIMULATOR

# Why messages wait, beside the states of `binds`: there is no upstream, none is the default one, the default one takes
# no new messages, the SMPP server isn't running.
NO_UPSTREAM, NO_DEFAULT, DRAINING, SERVER_STOPPED = "no upstream", "no default", "draining", "server stopped"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why messages that wait go on waiting, and how many they are.

    `reason` is one of the four above, or `binds.DISABLED`, `REFUSED` or `UNBOUND`: the state of `upstream`, the default
    one. `error` is what keeps it from being bound.
    """

    reason: str
    waiting_count: int
    upstream: str = ""
    error: str = ""


def is_simulator_default(conn: sqlite3.Connection) -> bool:
    """Whether messages that come now end in a simulator: the built-in one, or one that is the default upstream and
    takes them.
    """
    (is_simulator,) = conn.execute(
        "SELECT coalesce((SELECT kind = ? AND enabled AND NOT draining FROM upstreams WHERE is_default),"
        " NOT EXISTS (SELECT 1 FROM upstreams))",
        (SIMULATOR,),
    ).fetchone()
    return bool(is_simulator)


def find_obstacle(conn: sqlite3.Connection) -> Obstacle | None:
    """Why what waits isn't sent; None where nothing waits, or the default upstream takes it.

    Cheap while nothing waits, and while what waits is taken; otherwise a million cost some tens of milliseconds.
    """
    if not queue.has_queue(conn):
        return None
    states = binds.list_upstream_states(conn)
    default = next((each for each in states if each.upstream.is_default), None)
    reason = (NO_DEFAULT if states else NO_UPSTREAM) if default is None else _find_reason(conn, default)
    if not reason or not (waiting_count := queue.count_waiting_messages(conn)):
        return None
    if default is None:
        return Obstacle(reason, waiting_count)
    error = next((each.error for each in default.binds if each.error and each.state == reason), "")
    return Obstacle(reason, waiting_count, default.upstream.name, error)


def _find_reason(conn: sqlite3.Connection, default: UpstreamState) -> str:
    """Why the default upstream takes nothing; empty where it does."""
    if default.upstream.draining:
        return DRAINING
    if default.state == binds.DISABLED:
        return default.state
    if not session_records.is_component_alive(conn, "smsc"):
        return SERVER_STOPPED
    if default.state != binds.PARTLY:
        return "" if default.state == binds.BOUND else default.state
    # Nothing is sent on a receiver.
    sending_states = {each.state for each in default.binds if each.kind != "rx"}
    if binds.BOUND in sending_states:
        return ""
    return binds.REFUSED if binds.REFUSED in sending_states else binds.UNBOUND
