"""What waits to go out: rows that are claimed in batches (`claims`), by whoever takes their path and has room for them.

A message that waits has a row in `queued_messages`, or in `held_messages` where an upstream has refused it for the
moment, or has so refused another of its account to the same destination, or has another of them that it has not
answered while the next upstream takes over. The whole of it is in `messages`, whose `upstream` is NULL until it is
claimed. Everything here is called inside `write_transaction()`.

Of what an account has in `held_messages` to a destination, those with `attempts` hold up the others and each other, in
the order of their ids. Either upstreams have some of them at this moment, or the first has a time when it is tried
again (`schedule_first_tried`), also where operators hold it, so that nobody takes it. No other one has a time then.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence

from portal.core.clock import now_ms
from portal.core.db import BulkInsert
from portal.core.i18n import N_
from portal.services.common.message_states import ENROUTE
from portal.services.upstreams import holds, paths
from portal.services.upstreams.paths import UNDER_WAY, ChoosePath, UpstreamPath, choose_default_path

HIGHEST_PRIORITY = 3
_INSERT_QUEUED = BulkInsert("queued_messages", "path, account_id, priority_rank, message_id")
SIMULATOR = "simulator"
"""The kind of an upstream that sends nothing."""
MAX_UNANSWERED = 4
"""A message to which an upstream has not answered so often is not sent to it again: each time may have been a copy."""
_FIRST_RETRY_MS, _LONGEST_RETRY_MS = 5_000, 600_000
HELD_BY_OPERATOR, MOVED_BY_OPERATOR = N_("held by an operator"), N_("moved by an operator")
"""What stands as the error of one that no upstream has refused, and that operators have put where it waits."""


def _build_rank_sql(table: str) -> str:
    return f"{HIGHEST_PRIORITY} - min(coalesce({table}.priority, 0), {HIGHEST_PRIORITY})"


def _build_queued_sql(table: str) -> str:
    """Whether a row `q` of `queued_messages` is, on its path, that of a row of `messages`."""
    rank = _build_rank_sql(table)
    return f"q.account_id = {table}.account_id AND q.priority_rank = {rank} AND q.message_id = {table}.id"


def _build_held_sql(table: str) -> str:
    """Whether a row `h` of `held_messages` is that of a row of `messages`, by the columns of its primary key."""
    return f"h.account_id = {table}.account_id AND h.destination = {table}.destination AND h.message_id = {table}.id"


def build_waiting_sql(table: str) -> str:
    """Whether a row of `messages` waits, as an expression; `table` is the name that `messages` has in the query."""
    return f"""({table}.upstream IS NULL AND (
    EXISTS (SELECT 1 FROM queued_messages AS q WHERE q.path IN {_PATHS_SQL} AND {_build_queued_sql(table)})
    OR EXISTS (SELECT 1 FROM held_messages AS h WHERE {_build_held_sql(table)})))"""


_PATHS_SQL = "(SELECT id FROM queue_paths)"
_RANK_SQL = _build_rank_sql("messages")
_IS_HELD_SQL = _build_held_sql("messages")
IS_WAITING_SQL = build_waiting_sql("messages")
"""`build_waiting_sql` of `messages` itself."""
MAY_BE_SENT_SQL = f"EXISTS (SELECT 1 FROM held_messages AS h WHERE {_IS_HELD_SQL} AND h.unanswered > 0)"
"""Whether a carrier may have a row of `messages` that waits, or is tried again: it has not answered."""
FIRST_UPSTREAM_SQL = f"""coalesce(
    (SELECT first_upstream FROM queue_paths CROSS JOIN queued_messages AS q ON q.path = queue_paths.id
        WHERE {_build_queued_sql("messages")}),
    (SELECT first_upstream FROM held_messages AS h JOIN queue_paths ON queue_paths.id = h.path WHERE {_IS_HELD_SQL}))"""
"""The upstream that comes first on the path of a row of `messages` that waits; NULL: the default one does."""
_FIND_PATH_SQL = f"""
SELECT upstream_ids FROM messages CROSS JOIN queue_paths ON queue_paths.id = coalesce(
    (SELECT q.path FROM queue_paths AS p CROSS JOIN queued_messages AS q ON q.path = p.id
        WHERE {_build_queued_sql("messages")}),
    (SELECT h.path FROM held_messages AS h WHERE {_IS_HELD_SQL}))
WHERE messages.id = ?
"""
# Of a row of `held_messages`: it has only held up what comes behind it (`paths.hold_followers`) until now.
_IS_UNTRIED_SQL = "attempts = 1 AND error = ''"
IS_FIRST_TRY_SQL = f"attempts = 1 AND error IN ('', '{HELD_BY_OPERATOR}', '{MOVED_BY_OPERATOR}')"
"""Whether that, or what operators have done to it, is all that a row of `held_messages` says."""


def enqueue_messages(conn: sqlite3.Connection, rows: Sequence[tuple[UpstreamPath, int, int, int]]) -> None:
    """Let messages wait, each given as its path, its account's id, its priority_flag (SMPP 3.4, 5.2.14) and its id."""
    if not rows:
        return
    path_ids = paths.get_path_ids(conn, {path for path, *_ in rows})
    _INSERT_QUEUED.run(
        conn,
        [
            (path_ids[path], account_id, HIGHEST_PRIORITY - min(priority, HIGHEST_PRIORITY), row_id)
            for path, account_id, priority, row_id in rows
        ],
    )


def route_messages(
    conn: sqlite3.Connection, rows: Sequence[tuple[int, str, str, str, int, int]], choose_path: ChoosePath
) -> set[tuple[UpstreamPath, int]]:
    """Let messages wait on the paths that they take, each given as its account's id, its destination, country, source,
    priority_flag and id. Returns these paths, with their accounts.
    """
    queued = [(choose_path(*row[:4]), row[0], row[4], row[5]) for row in rows]
    enqueue_messages(conn, queued)
    return {(path, account_id) for path, account_id, *_ in queued}


def put_back_messages(
    conn: sqlite3.Connection, message_ids: Sequence[int], now: int, choose_path: ChoosePath = choose_default_path
) -> set[tuple[UpstreamPath, int]]:
    """Let messages wait again that were claimed and not sent, each in its place. Ended ones are left out. Returns their
    paths, with their accounts.
    """
    ids_json = json.dumps(message_ids)
    is_claimed = f"messages.id IN (SELECT value FROM json_each(?)) AND +state = {ENROUTE} AND upstream IS NOT NULL"
    # One that has only held up what comes behind it has not been tried: an earlier one may be put back after it.
    unbegun_ids = find_held_messages(
        conn, message_ids, f"+state = {ENROUTE} AND upstream IS NOT NULL AND {_IS_UNTRIED_SQL} AND unanswered = 0"
    )
    release_held_messages(conn, unbegun_ids)
    tried = conn.execute(
        "SELECT DISTINCT h.account_id, h.destination, upstream_ids FROM messages JOIN held_messages AS h"
        f" ON {_IS_HELD_SQL} AND attempts > 0 JOIN queue_paths ON queue_paths.id = h.path WHERE {is_claimed}",
        (ids_json,),
    ).fetchall()
    untried = conn.execute(
        "SELECT account_id, destination, country, source, coalesce(priority, 0), id FROM messages WHERE"
        f" {is_claimed} AND upstream_id IS NULL AND NOT EXISTS (SELECT 1 FROM held_messages AS h WHERE {_IS_HELD_SQL})",
        (ids_json,),
    ).fetchall()
    waiting = route_messages(conn, [tuple(row) for row in untried], choose_path)
    conn.execute(
        "UPDATE messages SET upstream = NULL, bind = NULL WHERE id IN (SELECT value FROM json_each(?))"
        f" AND +state = {ENROUTE} AND upstream_id IS NULL",
        (ids_json,),
    )
    conn.execute(
        "UPDATE held_messages SET not_before = NULL WHERE (account_id, destination, message_id) IN"
        " (SELECT account_id, destination, id FROM messages"
        "  WHERE id IN (SELECT value FROM json_each(?)) AND upstream IS NULL)",
        (ids_json,),
    )
    for account_id, destination, _ in tried:
        schedule_first_tried(conn, (account_id, destination), now)
    return waiting | {(paths.parse_path(upstream_ids), account_id) for account_id, _, upstream_ids in tried}


def schedule_first_tried(conn: sqlite3.Connection, flow: tuple[int, str], at: int) -> bool:
    """Of what was tried of an account to a destination, the first is tried again then, unless it has a time for that;
    not while an upstream has any of them: what becomes of that decides about the others. There may be a hundred
    thousand, of which no more than some are read.

    Returns:
        Whether there are any.
    """
    first = conn.execute(
        "SELECT message_id, not_before FROM held_messages AS h INDEXED BY held_messages_tried"
        f" CROSS JOIN messages ON id = message_id AND state = {ENROUTE} WHERE h.account_id = ? AND h.destination = ?"
        " AND attempts > 0 ORDER BY message_id LIMIT 1",
        flow,
    ).fetchone()
    if first is None:
        return False
    if first[1] not in (None, UNDER_WAY):
        return True
    timed = conn.execute(
        f"SELECT message_id, not_before = {UNDER_WAY} AND EXISTS (SELECT 1 FROM messages WHERE id = message_id"
        f"  AND state = {ENROUTE} AND upstream IS NOT NULL) FROM held_messages INDEXED BY held_messages_timed"
        " WHERE account_id = ? AND destination = ? AND not_before IS NOT NULL",
        flow,
    ).fetchall()
    if not any(is_under_way for _, is_under_way in timed):
        conn.executemany(
            "UPDATE held_messages SET not_before = ? WHERE account_id = ? AND destination = ? AND message_id = ?",
            [*((None, *flow, message_id) for message_id, _ in timed), (at, *flow, first[0])],
        )
    return True


def has_held_messages_of(conn: sqlite3.Connection, account_id: int) -> bool:
    """Whether an account has anything that was refused for the moment, or holds up others, or waits for that."""
    row = conn.execute("SELECT EXISTS (SELECT 1 FROM held_messages WHERE account_id = ?)", (account_id,)).fetchone()
    return bool(row[0])


def list_held_destinations(conn: sqlite3.Connection, account_id: int, limit: int) -> list[str]:
    """The first destinations of an account's messages that were refused for the moment, or hold up others."""
    rows = conn.execute(
        "SELECT DISTINCT destination FROM held_messages INDEXED BY held_messages_tried"
        " WHERE account_id = ? AND attempts > 0 LIMIT ?",
        (account_id, limit),
    )
    return [row[0] for row in rows]


def has_waiting_messages(conn: sqlite3.Connection, account_id: int) -> bool:
    """Whether an account has any message that waits, or holds up others."""
    row = conn.execute(
        f"SELECT EXISTS (SELECT 1 FROM queued_messages WHERE path IN {_PATHS_SQL} AND account_id = ?1)"
        " OR EXISTS (SELECT 1 FROM held_messages WHERE account_id = ?1)",
        (account_id,),
    ).fetchone()
    return bool(row[0])


def hold_message(
    conn: sqlite3.Connection,
    message_id: int,
    error: str,
    now: int,
    choose_path: ChoosePath = choose_default_path,
    *,
    is_unanswered: bool = False,
) -> bool:
    """Let a claimed message wait for another try, and all of its account to the same destination for it.

    The pause is five seconds at first and doubles each time, to ten minutes; after the first time without an answer
    there is none.

    Args:
        error: why it was not taken, for operators.
        is_unanswered: whether the upstream may have it.

    Returns:
        False where it had no answer MAX_UNANSWERED times, and is not to be tried again.
    """
    row = conn.execute(
        "SELECT account_id, destination, country, source, (SELECT upstream_ids FROM held_messages AS h"
        f"  JOIN queue_paths ON queue_paths.id = h.path WHERE {_IS_HELD_SQL})"
        f" FROM messages WHERE id = ? AND +state = {ENROUTE}",
        (message_id,),
    ).fetchone()
    if row is None:
        return True
    path = paths.parse_path(row[4] or "")
    if not paths.is_steered_path(path):
        path = choose_path(*row[:4])
    path = paths.choose_begun_path(conn, message_id, path)
    flow = tuple(row)[:2]
    # Without an error it has only held up what comes behind it (`hold_followers`), and this was its first try.
    attempts, unanswered_count = conn.execute(
        "INSERT INTO held_messages (path, account_id, destination, message_id, attempts, unanswered, error)"
        " VALUES (?, ?, ?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET path = excluded.path,"
        f" attempts = attempts + CASE WHEN {IS_FIRST_TRY_SQL} THEN 0 ELSE 1 END, not_before = NULL,"
        " unanswered = unanswered + excluded.unanswered, error = excluded.error RETURNING attempts, unanswered",
        (paths.get_path_ids(conn, [path])[path], *flow, message_id, int(is_unanswered), error),
    ).fetchone()
    if unanswered_count >= MAX_UNANSWERED:
        return False  # it ends as that upstream's
    conn.execute("UPDATE messages SET upstream = NULL, bind = NULL WHERE id = ?", (message_id,))
    delay = min(_FIRST_RETRY_MS << min(attempts - 1, 20), _LONGEST_RETRY_MS)
    if is_unanswered and attempts == 1:
        delay = 0
    # Of several that were under way together, the first is tried again, and the others after it.
    schedule_first_tried(conn, flow, now + delay)
    return True


def count_as_unanswered(conn: sqlite3.Connection, message_id: int) -> None:
    """An upstream may have a message that is being tried again."""
    conn.execute(
        "UPDATE held_messages SET unanswered = unanswered + 1 WHERE message_id = ?1 AND (account_id, destination) ="
        " (SELECT account_id, destination FROM messages WHERE id = ?1)",
        (message_id,),
    )


def list_unanswered_ids(conn: sqlite3.Connection, message_ids: Collection[int]) -> set[int]:
    """Those of these messages that have been sent without an answer and are to be tried again: an upstream may have
    them.
    """
    return set(find_held_messages(conn, message_ids, "unanswered > 0"))


def release_held_messages(conn: sqlite3.Connection, message_ids: Collection[int]) -> list[int]:
    """What was tried again, and is decided, holds up nothing more: the next of them that was tried is tried again now;
    where there is none, what waited for it waits in the queue.

    Returns the accounts for which that leaves nothing that waits.
    """
    flows: dict[tuple[int, str], None] = {}
    for message_id in message_ids:
        flow = conn.execute(
            "DELETE FROM held_messages WHERE message_id = ?1 AND (account_id, destination) ="
            " (SELECT account_id, destination FROM messages WHERE id = ?1) RETURNING account_id, destination",
            (message_id,),
        ).fetchone()
        if flow is not None:
            flows[tuple(flow)] = None
    for flow in flows:
        _release_flow(conn, flow)
    return [each for each in {account_id for account_id, _ in flows} if not has_waiting_messages(conn, each)]


def release_followers(conn: sqlite3.Connection, account_id: int, destinations: Collection[str]) -> None:
    """What has waited for messages of an account to these destinations, which hold it up no longer, goes on."""
    rows = conn.execute(
        "SELECT DISTINCT destination FROM held_messages WHERE account_id = ?"
        " AND destination IN (SELECT value FROM json_each(?))",
        (account_id, json.dumps([*destinations])),
    ).fetchall()
    for (destination,) in rows:
        _release_flow(conn, (account_id, destination))


def _release_flow(conn: sqlite3.Connection, flow: tuple[int, str]) -> None:
    # Others that were tried, too, go one by one: of each it stays known how often it was not answered.
    if not schedule_first_tried(conn, flow, now_ms()):
        conn.execute(
            "INSERT INTO queued_messages (path, account_id, priority_rank, message_id)"
            f" SELECT h.path, h.account_id, {_RANK_SQL}, message_id FROM held_messages AS h"
            f" JOIN messages ON id = message_id AND state = {ENROUTE} WHERE h.account_id = ? AND h.destination = ?",
            flow,
        )
        conn.execute("DELETE FROM held_messages WHERE account_id = ? AND destination = ?", flow)


def has_held_messages(conn: sqlite3.Connection) -> bool:
    """Whether anything was refused for the moment, or holds up others."""
    return bool(conn.execute("SELECT EXISTS (SELECT 1 FROM held_messages)").fetchone()[0])


def find_held_messages(conn: sqlite3.Connection, message_ids: Collection[int], condition: str = "true") -> list[int]:
    """Those of these messages that were refused for the moment, or hold up others, and that meet a condition."""
    if not has_held_messages(conn):
        return []
    rows = conn.execute(
        "SELECT h.message_id FROM json_each(?) AS given CROSS JOIN messages ON messages.id = given.value"
        f" JOIN held_messages AS h ON {_IS_HELD_SQL} WHERE {condition}",
        (json.dumps([*message_ids]),),
    )
    return [row[0] for row in rows]


def count_queued_messages(conn: sqlite3.Connection, path_id: int, most: int) -> int:
    """How many messages of a path could be claimed at once; no more than `most` are counted."""
    query = (
        f"{_QUEUED_ACCOUNTS_SQL} SELECT count(*) FROM (SELECT 1 FROM waiting CROSS JOIN queued_messages AS q"
        f" ON q.path = ?1 AND q.account_id = waiting.id WHERE {_IS_CLAIMABLE_SQL} LIMIT ?3)"
    )
    return int(conn.execute(query, (path_id, 0, most)).fetchone()[0])


def remove_waiting_messages(conn: sqlite3.Connection, message_ids: Sequence[int]) -> None:
    """Let messages that have ended wait no more."""
    if not has_queue(conn):
        return
    conn.execute(
        "DELETE FROM queued_messages WHERE (path, account_id, priority_rank, message_id) IN"
        f" (SELECT queue_paths.id, account_id, {_RANK_SQL}, messages.id FROM messages CROSS JOIN queue_paths"
        "  WHERE messages.id IN (SELECT value FROM json_each(?)))",
        (json.dumps(message_ids),),
    )
    release_held_messages(conn, message_ids)


def has_queue(conn: sqlite3.Connection) -> bool:
    """Whether anything waits, or holds up others."""
    return conn.execute("SELECT 1 FROM queued_messages LIMIT 1").fetchone() is not None or has_held_messages(conn)


def list_waiting_accounts(conn: sqlite3.Connection) -> set[tuple[UpstreamPath, int]]:
    """All paths with the accounts that have anything that waits there, or holds up others: one look-up in the index for
    each.
    """
    return {
        (path, each)
        for path_id, path in paths.list_paths(conn).items()
        for is_held in (False, True)
        for each in iterate_accounts(conn, path_id, is_held=is_held)
    }


def _build_accounts_sql(table: str) -> str:
    """The accounts behind one (?2) that have something in a table on a path (?1), in the order of their ids: one
    look-up in the index for each.
    """
    next_sql = f"SELECT min(account_id) FROM {table} WHERE path = ?1 AND account_id >"
    return (
        f"WITH RECURSIVE waiting (id) AS ({next_sql} ?2"
        f" UNION ALL SELECT ({next_sql} waiting.id) FROM waiting WHERE waiting.id IS NOT NULL)"
    )


_QUEUED_ACCOUNTS_SQL = _build_accounts_sql("queued_messages")
_HELD_ACCOUNTS_SQL = _build_accounts_sql("held_messages INDEXED BY held_messages_path")
_IS_CLAIMABLE_SQL = f"waiting.id IS NOT NULL AND waiting.id NOT {holds.IS_ON_HOLD_SQL}"


def iterate_accounts(
    conn: sqlite3.Connection, path_id: int, after_account_id: int = 0, *, is_held: bool
) -> Iterator[int]:
    """The accounts behind one that have something on a path in `queued_messages`, or where it `is_held` in
    `held_messages`, in the order of their ids.
    """
    sql = _HELD_ACCOUNTS_SQL if is_held else _QUEUED_ACCOUNTS_SQL
    rows = conn.execute(f"{sql} SELECT id FROM waiting WHERE id IS NOT NULL", (path_id, after_account_id))
    return (row[0] for row in rows)


def list_oldest_ids(conn: sqlite3.Connection, account_id: int) -> list[tuple[UpstreamPath, int | None, int | None]]:
    """The paths on which anything of an account waits, each with the id of its oldest message that was never tried, and
    of the oldest that was, or that waits for such a one, or that operators hold. A few look-ups for each path.
    """
    queued_sql = " UNION ALL ".join(
        f"SELECT min(message_id) AS id FROM queued_messages WHERE path = p.id AND account_id = ?1"
        f" AND priority_rank = {rank}"
        for rank in range(HIGHEST_PRIORITY + 1)
    )
    rows = conn.execute(
        f"SELECT upstream_ids, (SELECT min(id) FROM ({queued_sql})), (SELECT min(message_id) FROM held_messages"
        " INDEXED BY held_messages_path WHERE path = p.id AND account_id = ?1) FROM queue_paths AS p ORDER BY p.id",
        (account_id,),
    )
    return [(paths.parse_path(upstream_ids), *oldest) for upstream_ids, *oldest in rows if any(oldest)]


def find_waiting_path(conn: sqlite3.Connection, message_id: int) -> UpstreamPath | None:
    """The path on which a message waits; None: it doesn't."""
    row = conn.execute(_FIND_PATH_SQL, (message_id,)).fetchone()
    return None if row is None else paths.parse_path(row[0])


def list_claimable_accounts(conn: sqlite3.Connection, path_id: int, after_account_id: int, limit: int) -> list[int]:
    """Those of them behind one that are not on hold, `limit` at most."""
    query = f"{_QUEUED_ACCOUNTS_SQL} SELECT id FROM waiting WHERE {_IS_CLAIMABLE_SQL} LIMIT ?3"
    return [row[0] for row in conn.execute(query, (path_id, after_account_id, limit))]


def get_next_retry_time(conn: sqlite3.Connection, waiting_paths: Collection[UpstreamPath] | None = None) -> int | None:
    """When (milliseconds) the next message of these paths is to be tried again; None: there is none.

    Args:
        waiting_paths: None: all.
    """
    known = {path: path_id for path_id, path in paths.list_paths(conn).items() if not paths.is_held_path(path)}
    path_ids = (known if waiting_paths is None else paths.find_path_ids(conn, waiting_paths)).values()
    query = f"SELECT min(not_before) FROM held_messages WHERE path = ? AND not_before < {UNDER_WAY}"
    times = (conn.execute(query, (each,)).fetchone()[0] for each in path_ids)
    return min((each for each in times if each is not None), default=None)


def list_waiting_paths(conn: sqlite3.Connection) -> list[UpstreamPath]:
    """The paths on which anything waits for an upstream to take it; not those that operators hold. Cheap."""
    rows = conn.execute(
        "SELECT upstream_ids FROM queue_paths WHERE EXISTS (SELECT 1 FROM queued_messages WHERE path = queue_paths.id)"
        " OR EXISTS (SELECT 1 FROM held_messages WHERE path = queue_paths.id"
        f"  AND not_before < {UNDER_WAY}) ORDER BY id"
    )
    listed = [paths.parse_path(row[0]) for row in rows]
    return [each for each in listed if not paths.is_held_path(each)]
