"""The paths of messages: upstreams in the order in which one takes over from another, and which of them takes what.

With what goes to other paths after routes have changed, and what must not be passed where another upstream takes over.
"""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from portal.core.clock import now_ms
from portal.services.common.message_states import ENROUTE
from portal.services.upstreams.health import FAILING, GOOD, TRYING
from portal.services.upstreams.message_ids import UNANSWERED_SQL

UpstreamPath = tuple[int, ...]
"""The ids of upstreams, the first choice first. Where operators hold what waits, they are negative, or one 0 for the
default one's, so that nobody takes it; where operators have given it to one upstream alone, a 0 stands behind its id.
Where the route has quiet hours, its mark stands at the end, which is larger than all ids (`mark_quiet_path`).
"""
DEFAULT_PATH: UpstreamPath = ()
"""That of the default upstream, whichever that is: what waits for it need not be rewritten when another becomes it."""
DEFAULT_PATH_ID = 0
# Marks of quiet hours are the ids of routes above this; in the database `q` stands before them instead.
_QUIET_MARKS = 1 << 40
UNDER_WAY = 1 << 50
"""In place of the time when one of `held_messages` is tried again, which is less: an upstream has it at this moment."""
SIMULATED_BIND = 0
"""What stands in `messages.bind` from the beginning where a simulator has a message: it has no binds."""
ChoosePath = Callable[[int, str, str, str], UpstreamPath]
"""Takes a message's account id, destination, country and source, and returns its path."""


def mark_quiet_path(path: UpstreamPath, route_id: int) -> UpstreamPath:
    """That path for a route with quiet hours, in which nobody takes it."""
    return (*path, _QUIET_MARKS + route_id)


def get_quiet_route(path: UpstreamPath) -> int | None:
    """The id of the route whose quiet hours a path keeps; None: of none."""
    return path[-1] - _QUIET_MARKS if path and path[-1] > _QUIET_MARKS else None


def choose_default_path(_account_id: int, _destination: str, _country: str, _source: str) -> UpstreamPath:
    """The `ChoosePath` of an installation that has no routes."""
    return DEFAULT_PATH


def choose_taker(path: Sequence[int], health: Mapping[int, str]) -> int | None:
    """Which upstream takes what waits on a path: the first that is not failing. Where all are, the first of them, so
    that nothing is given up.

    Args:
        path: ids of upstreams, the first choice first; in place of DEFAULT_PATH that of the default one.
        health: of each upstream that may be given messages, its state (`health`).
    """
    for state in (GOOD, TRYING, FAILING):
        for upstream_id in path:
            if health.get(upstream_id) == state:
                return upstream_id
    return None


def parse_path(upstream_ids: str) -> UpstreamPath:
    """A path as `queue_paths` has it."""
    listed = upstream_ids.split(",") if upstream_ids else ()
    return tuple(_QUIET_MARKS + int(each[1:]) if each[:1] == "q" else int(each) for each in listed)


def format_path(path: UpstreamPath) -> str:
    """A path as `queue_paths` has it."""
    return ",".join(f"q{each - _QUIET_MARKS}" if each > _QUIET_MARKS else str(each) for each in path)


def hold_path(path: UpstreamPath) -> UpstreamPath:
    """The path of what operators hold of another one: nobody takes it, for no upstream has such ids."""
    return tuple(each if each > _QUIET_MARKS else -each for each in path) or (0,)


def pin_path(path: UpstreamPath, upstream_id: int) -> UpstreamPath:
    """The path of what operators have given from another one to one upstream alone, which keeps its quiet hours. It
    isn't that of a route to this upstream.
    """
    return (upstream_id, 0, *(each for each in path[-1:] if each > _QUIET_MARKS))


def is_held_path(path: UpstreamPath) -> bool:
    """Whether operators hold what waits there."""
    return bool(path) and path[0] <= 0


def is_steered_path(path: UpstreamPath) -> bool:
    """Whether operators have put there what waits: routes have nothing to say about it."""
    return is_held_path(path) or may_be_of_any_route(path)


def may_be_of_any_route(path: UpstreamPath) -> bool:
    """Whether what waits there may be of any route: operators have moved it, or hold it for the default upstream."""
    return 0 in path


def get_path_upstreams(path: UpstreamPath) -> UpstreamPath:
    """The upstreams of a path, or of the one from which operators hold what waits on it; none for the default one's."""
    return tuple(abs(each) for each in path if each and each <= _QUIET_MARKS)


def list_paths(conn: sqlite3.Connection) -> dict[int, UpstreamPath]:
    """All paths on which anything may wait, by their ids."""
    rows = conn.execute("SELECT id, upstream_ids FROM queue_paths ORDER BY id")
    return {path_id: parse_path(upstream_ids) for path_id, upstream_ids in rows}


def find_path_ids(conn: sqlite3.Connection, paths: Collection[UpstreamPath]) -> dict[UpstreamPath, int]:
    """The ids of those of these paths on which anything may wait."""
    found = {}
    for path in paths:
        if path == DEFAULT_PATH:
            found[path] = DEFAULT_PATH_ID
            continue
        row = conn.execute("SELECT id FROM queue_paths WHERE upstream_ids = ?", (format_path(path),)).fetchone()
        if row is not None:
            found[path] = row[0]
    return found


def get_path_ids(conn: sqlite3.Connection, paths: Collection[UpstreamPath]) -> dict[UpstreamPath, int]:
    """The ids of these paths; those that are new get one. The caller is inside `write_transaction()`."""
    path_ids = find_path_ids(conn, paths)
    for path in paths:
        if path not in path_ids:
            (path_ids[path],) = conn.execute(
                "INSERT INTO queue_paths (id, upstream_ids, first_upstream)"
                " SELECT max(id) + 1, ?, ? FROM queue_paths RETURNING id",
                (format_path(path), next(iter(get_path_upstreams(path)), None)),
            ).fetchone()
    return path_ids


def has_cut_messages(conn: sqlite3.Connection) -> bool:
    """Whether there are any, so that others' statements need not look for those of each message."""
    return bool(conn.execute("SELECT EXISTS (SELECT 1 FROM cut_messages)").fetchone()[0])


def choose_begun_path(conn: sqlite3.Connection, message_id: int, path: UpstreamPath) -> UpstreamPath:
    """Return the path of a message that is to be tried again: the one that its routes give it, or, where an upstream
    has taken parts of it, that of this upstream alone, which gets the others, too, whoever takes over from it.
    """
    row = conn.execute(
        "SELECT upstream FROM cut_messages JOIN upstreams ON id = upstream WHERE message_id = ? AND removed_at IS NULL",
        (message_id,),
    ).fetchone()
    return path if row is None else (row[0],)


def free_begun_messages(conn: sqlite3.Connection, upstream_id: int) -> None:
    """Let texts of which an upstream has taken parts, and which wait for it alone, wait for the default one: it is
    being removed. Without a default one they stay, and it can't be removed. The caller is inside `write_transaction()`.
    """
    conn.execute(
        "UPDATE held_messages SET path = ? WHERE path = (SELECT id FROM queue_paths WHERE upstream_ids = ?)"
        " AND EXISTS (SELECT 1 FROM cut_messages AS c WHERE c.message_id = held_messages.message_id AND c.upstream = ?)"
        " AND EXISTS (SELECT 1 FROM upstreams WHERE is_default)",
        (DEFAULT_PATH_ID, format_path((upstream_id,)), upstream_id),
    )


# --- after routes have changed


@dataclass(frozen=True, slots=True)
class ReroutingPosition:
    """How far it has come: the path, account and message of the last row of `held_messages`, and, once all of these are
    done, the key of the last one of `queued_messages`.
    """

    held: tuple[int, int, int] | None = (-1, 0, 0)
    queued: tuple[Any, ...] = (-1, 0, 0, 0)


def reroute_messages(
    conn: sqlite3.Connection, after: ReroutingPosition, limit: int, choose_path: ChoosePath
) -> ReroutingPosition | None:
    """Put the next of what waits on the path that it takes now. The caller is inside `write_transaction()`.

    Args:
        limit: how many messages are looked at, at most.

    Returns:
        Where to go on; None: all is done, and paths on which nothing waits any more are removed.
    """
    if after.held is not None:
        return ReroutingPosition(_reroute_held_messages(conn, after.held, limit, choose_path), after.queued)
    rows = conn.execute(
        "SELECT q.account_id, destination, country, source, q.path, q.account_id, q.priority_rank, q.message_id FROM"
        " queued_messages AS q LEFT JOIN messages ON id = message_id"
        " WHERE (q.path, q.account_id, q.priority_rank, q.message_id)"
        " > (?, ?, ?, ?) ORDER BY q.path, q.account_id, q.priority_rank, q.message_id LIMIT ?",
        (*after.queued, limit),
    ).fetchall()
    # A row without its message, which nothing should leave, stays where it is.
    moved = _list_moved(conn, [row for row in rows if row["destination"] is not None], choose_path)
    conn.executemany(
        "UPDATE queued_messages SET path = ?"
        " WHERE path = ? AND account_id = ? AND priority_rank = ? AND message_id = ?",
        [(path_id, *key) for key, path_id in moved],
    )
    if len(rows) == limit:
        return ReroutingPosition(None, tuple(rows[-1][4:]))
    conn.execute(
        "DELETE FROM queue_paths WHERE id <> ? AND NOT EXISTS"
        " (SELECT 1 FROM queued_messages WHERE path = queue_paths.id)"
        " AND NOT EXISTS (SELECT 1 FROM held_messages WHERE path = queue_paths.id)",
        (DEFAULT_PATH_ID,),
    )
    return None


def _reroute_held_messages(
    conn: sqlite3.Connection, after: tuple[int, int, int], limit: int, choose_path: ChoosePath
) -> tuple[int, int, int] | None:
    path_id = after[0]
    # What operators have put somewhere stays there, and may be a million.
    others = [each for each, path in list_paths(conn).items() if each > path_id and not is_steered_path(path)]
    rows = conn.execute(
        "SELECT h.account_id, h.destination, country, source, h.path, h.account_id, h.destination, h.message_id"
        " FROM held_messages AS h INDEXED BY held_messages_path"
        " JOIN messages ON id = message_id WHERE h.path = ? AND (h.account_id, h.message_id) > (?, ?)"
        " ORDER BY h.account_id, h.message_id LIMIT ?",
        (*after, limit),
    ).fetchall()
    moved = _list_moved(conn, rows, choose_path, may_have_begun=True)
    # What another upstream has refused for the moment is tried again there without its pause.
    now = now_ms()
    conn.executemany(
        "UPDATE held_messages SET path = ?, not_before = CASE not_before"
        f" WHEN {UNDER_WAY} THEN not_before ELSE min(not_before, ?) END"
        " WHERE account_id = ? AND destination = ? AND message_id = ?",
        [(path_id, now, *key[1:]) for key, path_id in moved],
    )
    if len(rows) == limit:
        return path_id, rows[-1]["account_id"], rows[-1]["message_id"]
    return (others[0], 0, 0) if others else None


def _list_moved(
    conn: sqlite3.Connection, rows: Sequence[sqlite3.Row], choose_path: ChoosePath, *, may_have_begun: bool = False
) -> list[tuple[tuple[Any, ...], int]]:
    """The keys of those of these rows that are on another path now, with its id. Each row has the four values that
    decide about the path, and its key, which begins with the id of its path, and ends with that of its message.

    Args:
        may_have_begun: whether upstreams may have parts of them.
    """
    chosen = [(tuple(row[4:]), choose_path(*row[:4])) for row in rows]
    if may_have_begun:
        chosen = [(key, choose_begun_path(conn, key[-1], path)) for key, path in chosen]
    path_ids = get_path_ids(conn, {path for _, path in chosen})
    return [(key, path_ids[path]) for key, path in chosen if path_ids[path] != key[0]]


# --- where another upstream takes over


def hold_followers(
    conn: sqlite3.Connection, upstream_ids: Iterable[int], choose_path: ChoosePath = choose_default_path
) -> set[tuple[UpstreamPath, int]]:
    """Have what these upstreams have not answered hold up what comes behind it, of its account to its destination:
    another upstream takes that from now on, and must not pass it. The caller is inside `write_transaction()`.

    Returns:
        Paths with accounts of which something waits there from now on, or holds up others.
    """
    condition = f"upstream = ? AND {UNANSWERED_SQL}"
    hint = "INDEXED BY messages_upstream"
    return set().union(*(_hold_followers(conn, condition, each, choose_path, hint) for each in upstream_ids))


def hold_followers_of_messages(conn: sqlite3.Connection, message_ids: Sequence[int], choose_path: ChoosePath) -> None:
    """The same of single messages: an upstream is given them beside the one that takes what comes behind them, or they
    are texts of which some parts are to be sent again. The caller is inside `write_transaction()`.
    """
    _hold_followers(conn, "id IN (SELECT value FROM json_each(?))", json.dumps(message_ids), choose_path)


def _hold_followers(
    conn: sqlite3.Connection, condition: str, value: object, choose_path: ChoosePath, hint: str = ""
) -> set[tuple[UpstreamPath, int]]:
    rows = conn.execute(
        f"SELECT account_id, destination, country, source, id FROM messages {hint} WHERE state = {ENROUTE}"
        f" AND upstream IS NOT NULL AND bind IS NOT {SIMULATED_BIND} AND {condition}",
        (value,),
    ).fetchall()
    chosen = [(choose_path(*row[:4]), row) for row in map(tuple, rows)]
    found = {(path, row[0]) for path, row in chosen}
    path_ids = get_path_ids(conn, {path for path, _ in found})
    conn.executemany(
        "INSERT INTO held_messages (path, account_id, destination, message_id, attempts, not_before)"
        f" VALUES (?, ?, ?, ?, 1, {UNDER_WAY}) ON CONFLICT DO NOTHING",
        [(path_ids[path], row[0], row[1], row[4]) for path, row in chosen],
    )
    return found


def retry_held_messages_now(conn: sqlite3.Connection, path: UpstreamPath, now: int) -> None:
    """Another upstream takes a path, and does well: what was refused for the moment is tried again at once.
    The caller is inside `write_transaction()`.
    """
    for path_id in find_path_ids(conn, [path]).values():
        conn.execute(
            "UPDATE held_messages SET not_before = ?1"
            f" WHERE path = ?2 AND not_before > ?1 AND not_before < {UNDER_WAY}",
            (now, path_id),
        )
