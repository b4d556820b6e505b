"""What waits is put on the paths that it takes after routes have changed, in batches."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from portal.core.clock import now_ms
from portal.services.upstreams import paths
from portal.services.upstreams.paths import ChoosePath


@dataclass(frozen=True, slots=True)
class ReroutingPosition:
    """How far it has come: the last row of `held_messages`, and, once all of these are done, of `queued_messages`."""

    held: tuple[Any, ...] | None = (0, "", 0)
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
    paths.remove_empty_paths(conn)
    return None


def _reroute_held_messages(
    conn: sqlite3.Connection, after: tuple[Any, ...], limit: int, choose_path: ChoosePath
) -> tuple[Any, ...] | None:
    rows = conn.execute(
        "SELECT h.account_id, h.destination, country, source, h.path, h.account_id, h.destination, h.message_id"
        " FROM held_messages AS h"
        " JOIN messages ON id = message_id WHERE (h.account_id, h.destination, h.message_id) > (?, ?, ?)"
        " ORDER BY h.account_id, h.destination, h.message_id LIMIT ?",
        (*after, limit),
    ).fetchall()
    moved = _list_moved(conn, rows, choose_path, may_have_begun=True)
    # What another upstream has refused for the moment is tried again there without its pause.
    now = now_ms()
    conn.executemany(
        "UPDATE held_messages SET path = ?, not_before = min(not_before, ?) WHERE account_id = ? AND destination = ?"
        " AND message_id = ?",
        [(path_id, now, *key[1:]) for key, path_id in moved],
    )
    return None if len(rows) < limit else tuple(rows[-1][5:])


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
        chosen = [(key, paths.choose_begun_path(conn, key[-1], path)) for key, path in chosen]
    path_ids = paths.get_path_ids(conn, {path for _, path in chosen})
    return [(key, path_ids[path]) for key, path in chosen if path_ids[path] != key[0]]
