"""The paths of messages: upstreams in the order in which one takes over from another, and which of them takes what."""

import sqlite3
from collections.abc import Callable, Collection, Mapping

from portal.services.upstreams.health import FAILING, GOOD, TRYING

UpstreamPath = tuple[int, ...]
"""The ids of upstreams, the first choice first."""
DEFAULT_PATH: UpstreamPath = ()
"""That of the default upstream, whichever that is: what waits for it need not be rewritten when another becomes it."""
DEFAULT_PATH_ID = 0
SIMULATED_BIND = 0
"""What stands in `messages.bind` from the beginning where a simulator has a message: it has no binds."""
ChoosePath = Callable[[int, str, str, str], UpstreamPath]
"""Takes a message's account id, destination, country and source, and returns its path."""


def choose_default_path(_account_id: int, _destination: str, _country: str, _source: str) -> UpstreamPath:
    """The `ChoosePath` of an installation that has no routes."""
    return DEFAULT_PATH


def choose_taker(path: UpstreamPath, health: Mapping[int, str]) -> int | None:
    """Which upstream takes what waits on a path: the first that is not failing. Where all are, the first of them, so
    that nothing is given up.

    Args:
        path: not DEFAULT_PATH, but what that means.
        health: of each upstream that may be given messages, its state (`health`).
    """
    for state in (GOOD, TRYING, FAILING):
        for upstream_id in path:
            if health.get(upstream_id) == state:
                return upstream_id
    return None


def parse_path(upstream_ids: str) -> UpstreamPath:
    """A path as `queue_paths` has it."""
    return tuple(map(int, upstream_ids.split(","))) if upstream_ids else DEFAULT_PATH


def format_path(path: UpstreamPath) -> str:
    """A path as `queue_paths` has it."""
    return ",".join(map(str, path))


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
                (format_path(path), path[0]),
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


def remove_empty_paths(conn: sqlite3.Connection) -> None:
    """Remove the paths on which nothing waits any more. The caller is inside `write_transaction()`."""
    conn.execute(
        "DELETE FROM queue_paths WHERE id <> ? AND NOT EXISTS"
        " (SELECT 1 FROM queued_messages WHERE path = queue_paths.id)"
        " AND id NOT IN (SELECT path FROM held_messages)",
        (DEFAULT_PATH_ID,),
    )
