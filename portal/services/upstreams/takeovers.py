"""What must not be passed where another upstream takes over. Everything here is called inside `write_transaction()`."""

import json
import sqlite3
from collections.abc import Iterable, Sequence

from portal.services.common.message_states import ENROUTE
from portal.services.upstreams import paths
from portal.services.upstreams.message_ids import UNANSWERED_SQL
from portal.services.upstreams.paths import SIMULATED_BIND, ChoosePath, UpstreamPath, choose_default_path


def hold_followers(
    conn: sqlite3.Connection, upstream_ids: Iterable[int], choose_path: ChoosePath = choose_default_path
) -> set[tuple[UpstreamPath, int]]:
    """Have what these upstreams have not answered hold up what comes behind it, of its account to its destination:
    another upstream takes that from now on, and must not pass it.

    Returns:
        Paths with accounts of which something waits there from now on, or holds up others.
    """
    condition = f"upstream = ? AND {UNANSWERED_SQL}"
    hint = "INDEXED BY messages_upstream"
    return set().union(*(_hold_followers(conn, condition, each, choose_path, hint) for each in upstream_ids))


def hold_followers_of_messages(conn: sqlite3.Connection, message_ids: Sequence[int], choose_path: ChoosePath) -> None:
    """The same of single messages: an upstream is given them beside the one that takes what comes behind them, or they
    are texts of which some parts are to be sent again.
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
    path_ids = paths.get_path_ids(conn, {path for path, _ in found})
    conn.executemany(
        "INSERT INTO held_messages (path, account_id, destination, message_id, attempts) VALUES (?, ?, ?, ?, 1)"
        " ON CONFLICT DO NOTHING",
        [(path_ids[path], row[0], row[1], row[4]) for path, row in chosen],
    )
    return found


def retry_held_messages_now(conn: sqlite3.Connection, path: UpstreamPath, now: int) -> None:
    """Another upstream takes a path, and does well: what was refused for the moment is tried again at once."""
    for path_id in paths.find_path_ids(conn, [path]).values():
        conn.execute("UPDATE held_messages SET not_before = ?1 WHERE path = ?2 AND not_before > ?1", (now, path_id))
