"""What operators do to messages that wait: holding them, giving them to one upstream, letting them go their way again.

Those that are held or moved are in `held_messages`, on a path of their own (`paths.hold_path`, `pin_path`): so what
comes behind them, of their account to their destination, waits for them, whichever way it takes, and routes that change
leave them where they are. Everything here is called inside `write_transaction()`, but for what only reads.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from portal.services.common.message_states import ENROUTE
from portal.services.upstreams import paths, queue
from portal.services.upstreams.paths import ChoosePath, UpstreamPath
from portal.services.upstreams.queue import HELD_BY_OPERATOR, MOVED_BY_OPERATOR

_MARKS_SQL = f"('', '{HELD_BY_OPERATOR}', '{MOVED_BY_OPERATOR}')"
_IS_UNTRIED_SQL = f"(h.attempts = 1 AND h.unanswered = 0 AND h.error IN {_MARKS_SQL})"
# Another upstream has taken parts of a text, so that it goes on there alone.
_IS_BEGUN_SQL = (
    "EXISTS (SELECT 1 FROM cut_messages JOIN upstreams ON upstreams.id = cut_messages.upstream"
    " WHERE cut_messages.message_id = messages.id AND removed_at IS NULL AND cut_messages.upstream IS NOT ?)"
)


@dataclass(frozen=True, slots=True, order=True)
class WaitingRange:
    """What waits on a path of one account: of one priority in `queued_messages`, or all that is in `held_messages`."""

    path_id: int
    is_held: bool
    account_id: int
    rank: int = 0


def iterate_ranges(
    conn: sqlite3.Connection,
    path_ids: Iterable[int],
    account_ids: Sequence[int] | None = None,
    start: WaitingRange | None = None,
) -> Iterator[WaitingRange]:
    """Yield, in their order, the ranges on paths in which something may wait.

    Args:
        account_ids: only those of these accounts; None: of all.
        start: the first one; None: from the beginning.
    """
    for path_id in sorted(path_ids):
        for is_held in (False, True):
            first_id = 0
            if start is not None:
                if (path_id, is_held) < (start.path_id, start.is_held):
                    continue
                if (path_id, is_held) == (start.path_id, start.is_held):
                    first_id = start.account_id
            listed = queue.iterate_accounts(conn, path_id, first_id - 1, is_held=is_held)
            for account_id in listed if account_ids is None else account_ids:
                for rank in (0,) if is_held else range(queue.HIGHEST_PRIORITY + 1):
                    found = WaitingRange(path_id, is_held, account_id, rank)
                    if start is None or found >= start:
                        yield found


def _build_range_sql(of: WaitingRange) -> tuple[str, tuple[int, ...]]:
    if of.is_held:
        return "held_messages INDEXED BY held_messages_path WHERE path = ? AND account_id = ?", (
            of.path_id,
            of.account_id,
        )
    return (
        "queued_messages WHERE path = ? AND account_id = ? AND priority_rank = ?",
        (of.path_id, of.account_id, of.rank),
    )


def list_range_ids(conn: sqlite3.Connection, of: WaitingRange, after_id: int, before_id: int, limit: int) -> list[int]:
    """The first messages of a range between two ids."""
    sql, values = _build_range_sql(of)
    rows = conn.execute(
        f"SELECT message_id FROM {sql} AND message_id > ? AND message_id < ? ORDER BY message_id LIMIT ?",
        (*values, after_id, before_id, limit),
    )
    return [row[0] for row in rows]


def hold_messages(conn: sqlite3.Connection, of: WaitingRange, message_ids: Collection[int], now: int) -> int:
    """Hold messages of a range, on the path of its own that nobody takes; returns how many that were."""
    path = paths.hold_path(paths.list_paths(conn)[of.path_id])
    found_ids = _find_movable_ids(conn, message_ids)
    _put_on_path(conn, of, found_ids, path, HELD_BY_OPERATOR, now)
    return len(found_ids)


def move_messages(
    conn: sqlite3.Connection, of: WaitingRange, message_ids: Collection[int], upstream_id: int, now: int
) -> tuple[int, UpstreamPath]:
    """Let messages of a range wait for one upstream alone; returns how many that were, and on which path. A text
    of which another one has parts stays with that.
    """
    path = paths.pin_path(paths.list_paths(conn)[of.path_id], upstream_id)
    found_ids = _find_movable_ids(conn, message_ids, f"AND NOT {_IS_BEGUN_SQL}", upstream_id)
    _put_on_path(conn, of, found_ids, path, MOVED_BY_OPERATOR, now)
    return len(found_ids), path


def release_messages(
    conn: sqlite3.Connection, of: WaitingRange, message_ids: Collection[int], choose_path: ChoosePath, now: int
) -> tuple[int, set[UpstreamPath]]:
    """Let messages that were held or moved wait where their routes say; returns how many, and on which paths."""
    ids_json = json.dumps([*message_ids])
    rows = conn.execute(
        # To one number there may be a great many: what they have in front of them is looked for once.
        "WITH busy (destination) AS MATERIALIZED (SELECT destination FROM (SELECT DISTINCT destination"
        "   FROM held_messages INDEXED BY held_messages_path WHERE path = ?2 AND account_id = ?3"
        "   AND message_id IN (SELECT value FROM json_each(?1))) AS given"
        "  WHERE EXISTS (SELECT 1 FROM held_messages AS h INDEXED BY held_messages_tried WHERE h.account_id = ?3"
        "   AND h.destination = given.destination AND h.attempts > 0"
        f"   AND NOT (h.message_id IN (SELECT value FROM json_each(?1)) AND {_IS_UNTRIED_SQL})))"
        " SELECT h.account_id, h.destination, country, source, coalesce(priority, 0), h.message_id,"
        f" {_IS_UNTRIED_SQL} AND h.destination NOT IN (SELECT destination FROM busy)"
        " FROM held_messages AS h INDEXED BY held_messages_path"
        f" JOIN messages ON id = h.message_id AND state = {ENROUTE} AND upstream IS NULL"
        " WHERE h.path = ?2 AND h.account_id = ?3 AND h.message_id IN (SELECT value FROM json_each(?1))",
        (ids_json, of.path_id, of.account_id),
    ).fetchall()
    untried = [tuple(row)[:6] for row in rows if row[6]]
    conn.execute(
        "DELETE FROM held_messages WHERE path = ? AND account_id = ?"
        " AND message_id IN (SELECT value FROM json_each(?))",
        (of.path_id, of.account_id, json.dumps([row[5] for row in untried])),
    )
    queue.release_followers(conn, of.account_id, [row[1] for row in untried])
    found = {path for path, _ in queue.route_messages(conn, untried, choose_path)}
    # What was tried, or has another one in front of it, goes on being tried, one after the other.
    ids_by_path: dict[UpstreamPath, list[int]] = defaultdict(list)
    for row in rows:
        if not row[6]:
            path = paths.choose_begun_path(conn, row[5], choose_path(*row[:4]))
            ids_by_path[path].append(row[5])
    for path, tried_ids in ids_by_path.items():
        _put_on_path(conn, of, tried_ids, path, MOVED_BY_OPERATOR, now)
    return len(rows), found | {*ids_by_path}


def _find_movable_ids(
    conn: sqlite3.Connection, message_ids: Collection[int], condition: str = "", *values: int
) -> list[int]:
    """Those of these messages that no upstream has at this moment."""
    rows = conn.execute(
        "SELECT id FROM messages WHERE id IN (SELECT value FROM json_each(?))"
        f" AND +state = {ENROUTE} AND upstream IS NULL {condition}",
        (json.dumps([*message_ids]), *values),
    )
    return [row[0] for row in rows]


def _put_on_path(
    conn: sqlite3.Connection, of: WaitingRange, message_ids: Collection[int], path: UpstreamPath, error: str, now: int
) -> None:
    """Put messages of a range on a path, where they hold up what comes behind them. The first one to each of their
    destinations is tried now, as far as anybody takes its path; the others follow.

    Args:
        error: what is said of one that no upstream has refused.
    """
    path_id = paths.get_path_ids(conn, [path])[path]
    ids_json = json.dumps([*message_ids])
    if of.is_held:
        conn.execute(
            "UPDATE held_messages SET path = ?, attempts = max(attempts, 1), not_before = NULL,"
            f" error = CASE WHEN error IN {_MARKS_SQL} THEN ? ELSE error END"
            " WHERE path = ? AND account_id = ? AND message_id IN (SELECT value FROM json_each(?))",
            (path_id, error, of.path_id, of.account_id, ids_json),
        )
    else:
        conn.execute(
            "INSERT INTO held_messages (path, account_id, destination, message_id, attempts, error)"
            " SELECT ?, account_id, destination, id, 1, ? FROM messages WHERE id IN (SELECT value FROM json_each(?))",
            (path_id, error, ids_json),
        )
        conn.execute(
            "DELETE FROM queued_messages WHERE path = ? AND account_id = ? AND priority_rank = ?"
            " AND message_id IN (SELECT value FROM json_each(?))",
            (of.path_id, of.account_id, of.rank, ids_json),
        )
    rows = conn.execute(
        "SELECT DISTINCT destination FROM messages WHERE id IN (SELECT value FROM json_each(?))", (ids_json,)
    )
    for (destination,) in rows.fetchall():
        queue.schedule_first_tried(conn, (of.account_id, destination), now)
