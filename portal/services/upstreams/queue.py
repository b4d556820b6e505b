"""What waits to go out: rows that are claimed in batches, by whoever has room for them.

A message that waits has a row in `queued_messages`, or in `held_messages` where an upstream has refused it for the
moment, or has so refused another of its account to the same destination. The whole of it is in `messages`, whose
`upstream` is NULL until it is claimed. Everything here is called inside `write_transaction()`.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from portal.core.clock import now_ms
from portal.core.db import BulkInsert
from portal.services.common.message_states import ENROUTE

HIGHEST_PRIORITY = 3
_INSERT_QUEUED = BulkInsert("queued_messages", "account_id, priority_rank, message_id")
_RANK_SQL = f"{HIGHEST_PRIORITY} - min(coalesce(messages.priority, 0), {HIGHEST_PRIORITY})"
# Of an account's share of a claim some may have to wait behind a held message. What is left of the room is then shared
# again, in so many rounds at most.
_MAX_ROUNDS = 8
# So many that are left behind a claim are counted: some ten microseconds.
_MAX_COUNTED = 1_000
SIMULATOR = "simulator"
"""The kind of an upstream that sends nothing."""
SIMULATED_BIND = 0
"""What stands in `messages.bind` from the beginning where a simulator has a message: it has no binds."""
MAX_UNANSWERED = 4
"""A message to which an upstream has not answered so often is not sent to it again: each time may have been a copy."""
_FIRST_RETRY_MS, _LONGEST_RETRY_MS = 5_000, 600_000

IS_WAITING_SQL = f"""(messages.upstream IS NULL AND (
    EXISTS (SELECT 1 FROM queued_messages AS q WHERE q.account_id = messages.account_id
        AND q.priority_rank = {_RANK_SQL} AND q.message_id = messages.id)
    OR EXISTS (SELECT 1 FROM held_messages AS h WHERE h.account_id = messages.account_id
        AND h.destination = messages.destination AND h.message_id = messages.id)))"""
"""Whether a row of `messages` waits, as an expression."""
MAY_BE_SENT_SQL = """EXISTS (SELECT 1 FROM held_messages AS h WHERE h.account_id = messages.account_id
    AND h.destination = messages.destination AND h.message_id = messages.id AND h.unanswered > 0)"""
"""Whether a carrier may have a row of `messages` that waits, or is tried again: it has not answered."""


@dataclass(slots=True)
class ClaimedIds:
    """What one upstream takes now.

    `message_ids`: in the order in which they are to be sent. `retried_ids`: those that are tried again.
    `emptied_account_ids`: the accounts that have had something that waits, and have nothing more. `left_count`: how
    many are left that could be claimed at once; None: some, and it is not known how many. `last_account_id`: whose turn
    it was last; 0: that of what is tried again.
    """

    message_ids: list[int]
    emptied_account_ids: list[int]
    left_count: int | None
    last_account_id: int
    retried_ids: set[int] = field(default_factory=set)


def rank_from_priority(priority: int) -> int:
    """The place of a priority_flag (SMPP 3.4, 5.2.14) in an account's queue; lower ones come first."""
    return HIGHEST_PRIORITY - min(priority, HIGHEST_PRIORITY)


def enqueue_messages(conn: sqlite3.Connection, rows: Sequence[tuple[int, int, int]]) -> None:
    """Let messages wait, each given as its account's id, its priority_flag and its id."""
    _INSERT_QUEUED.run(
        conn, [(account_id, rank_from_priority(priority), row_id) for account_id, priority, row_id in rows]
    )


def put_back_messages(conn: sqlite3.Connection, message_ids: Sequence[int], now: int) -> None:
    """Let messages wait again that were claimed and not sent, each in its place. Ended ones are left out."""
    ids_json = json.dumps(message_ids)
    if has_held_messages(conn):
        retried = conn.execute(
            "SELECT ?, account_id, destination, id FROM messages WHERE id IN (SELECT value FROM json_each(?))",
            (now, ids_json),
        ).fetchall()
        conn.executemany(
            "UPDATE held_messages SET not_before = ? WHERE account_id = ? AND destination = ? AND message_id = ?"
            " AND attempts > 0",
            retried,
        )
    conn.execute(
        f"INSERT INTO queued_messages SELECT account_id, {_RANK_SQL}, id FROM messages"
        f" WHERE id IN (SELECT value FROM json_each(?)) AND +state = {ENROUTE} AND upstream IS NOT NULL AND NOT EXISTS"
        " (SELECT 1 FROM held_messages AS h WHERE h.account_id = messages.account_id"
        "  AND h.destination = messages.destination AND h.message_id = messages.id)",
        (ids_json,),
    )
    conn.execute(
        "UPDATE messages SET upstream = NULL, bind = NULL WHERE id IN (SELECT value FROM json_each(?))"
        f" AND +state = {ENROUTE} AND upstream_id IS NULL",
        (ids_json,),
    )


def claim_message_ids(
    conn: sqlite3.Connection, upstream_id: int, limit: int, after_account_id: int, now: int
) -> ClaimedIds:
    """Take messages that wait for an upstream: what is to be tried again, and each account's in turn.

    Args:
        limit: how many, at least 1.
        after_account_id: whose turn it was last (`ClaimedIds.last_account_id`); 0: that of what is tried again.
        now: this moment (milliseconds).
    """
    claimed = ClaimedIds([], [], 0, after_account_id)
    # What is tried again has a turn as if it were another account's, behind the last one.
    turns: list[int | None] = [*_list_waiting_accounts(conn, after_account_id, limit)]
    if len(turns) < limit:
        turns.append(None)
        turns += [each for each in _list_waiting_accounts(conn, 0, limit) if each <= after_account_id]
    for _ in range(_MAX_ROUNDS):
        remaining = limit - len(claimed.message_ids)
        if not turns or not remaining:
            break
        share = -(-remaining // len(turns))
        unfinished: list[int | None] = []
        for account_id in turns:
            count = min(share, limit - len(claimed.message_ids))
            if not count:
                unfinished.append(account_id)
                continue
            if account_id is None:
                is_finished = _claim_retries(conn, count, now, claimed)
                claimed.last_account_id = 0
            else:
                is_finished = _claim_of_account(conn, account_id, count, claimed)
                claimed.last_account_id = account_id
            if not is_finished:
                unfinished.append(account_id)
        turns = unfinished
    (queued_count,) = conn.execute(
        "SELECT count(*) FROM (SELECT 1 FROM queued_messages LIMIT ?)", (_MAX_COUNTED + 1,)
    ).fetchone()
    claimed.left_count = None if None in turns or queued_count > _MAX_COUNTED else queued_count
    if claimed.message_ids:
        conn.execute(
            f"UPDATE messages SET upstream = ?1, bind = (SELECT {SIMULATED_BIND} FROM upstreams WHERE id = ?1"
            f" AND kind = '{SIMULATOR}') WHERE id IN (SELECT value FROM json_each(?2)) AND +state = {ENROUTE}",
            (upstream_id, json.dumps(claimed.message_ids)),
        )
    return claimed


def _list_waiting_accounts(conn: sqlite3.Connection, after_account_id: int, limit: int) -> list[int]:
    """The accounts behind one in the order of their ids that have something queued: one look-up in the index each."""
    rows = conn.execute(
        "WITH RECURSIVE waiting (id) AS (SELECT min(account_id) FROM queued_messages WHERE account_id > ?"
        " UNION ALL SELECT (SELECT min(account_id) FROM queued_messages WHERE account_id > waiting.id) FROM waiting"
        " WHERE waiting.id IS NOT NULL) SELECT id FROM waiting WHERE id IS NOT NULL LIMIT ?",
        (after_account_id, limit),
    )
    return [row[0] for row in rows]


def _claim_retries(conn: sqlite3.Connection, count: int, now: int, claimed: ClaimedIds) -> bool:
    """Claim what is to be tried again now; returns whether there is no more of it."""
    rows = conn.execute(
        "SELECT account_id, destination, message_id FROM held_messages WHERE not_before IS NOT NULL"
        " AND not_before <= ? ORDER BY not_before LIMIT ?",
        (now, count),
    ).fetchall()
    conn.executemany(
        "UPDATE held_messages SET not_before = NULL WHERE account_id = ? AND destination = ? AND message_id = ?", rows
    )
    retried_ids = [row[2] for row in rows]
    claimed.message_ids += retried_ids
    claimed.retried_ids.update(retried_ids)
    return len(rows) < count


def _claim_of_account(conn: sqlite3.Connection, account_id: int, count: int, claimed: ClaimedIds) -> bool:
    """Claim an account's next messages; returns whether it has no more of them in `queued_messages`."""
    # A row without its message, which nothing should leave, is removed with the others.
    rows = conn.execute(
        "SELECT q.priority_rank, message_id, destination, EXISTS (SELECT 1 FROM held_messages AS h"
        "  WHERE h.account_id = q.account_id AND h.destination = messages.destination)"
        " FROM queued_messages AS q LEFT JOIN messages ON id = message_id WHERE q.account_id = ?"
        " ORDER BY priority_rank, message_id LIMIT ?",
        (account_id, count),
    ).fetchall()
    # What another one of theirs to that destination is in front of waits for it.
    conn.executemany(
        "INSERT INTO held_messages (account_id, destination, message_id) VALUES (?, ?, ?)",
        [(account_id, destination, message_id) for _, message_id, destination, is_held in rows if is_held],
    )
    conn.executemany(
        "DELETE FROM queued_messages WHERE account_id = ? AND priority_rank = ? AND message_id = ?",
        [(account_id, rank, message_id) for rank, message_id, *_ in rows],
    )
    claimed.message_ids += [
        message_id for _, message_id, destination, is_held in rows if destination is not None and not is_held
    ]
    (has_more,) = conn.execute(
        "SELECT EXISTS (SELECT 1 FROM queued_messages WHERE account_id = ?)", (account_id,)
    ).fetchone()
    if not has_more and not has_waiting_messages(conn, account_id):
        claimed.emptied_account_ids.append(account_id)
    return not has_more


def has_waiting_messages(conn: sqlite3.Connection, account_id: int) -> bool:
    """Whether an account has any message that waits, or holds up others."""
    row = conn.execute(
        "SELECT EXISTS (SELECT 1 FROM queued_messages WHERE account_id = ?1)"
        " OR EXISTS (SELECT 1 FROM held_messages WHERE account_id = ?1)",
        (account_id,),
    ).fetchone()
    return bool(row[0])


def hold_message(
    conn: sqlite3.Connection, message_id: int, error: str, now: int, *, is_unanswered: bool = False
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
        f"SELECT account_id, destination FROM messages WHERE id = ? AND +state = {ENROUTE}", (message_id,)
    ).fetchone()
    if row is None:
        return True
    flow = tuple(row)
    attempts, unanswered_count = conn.execute(
        "INSERT INTO held_messages (account_id, destination, message_id, attempts, unanswered, error)"
        " VALUES (?, ?, ?, 1, ?, ?) ON CONFLICT DO UPDATE SET attempts = attempts + 1,"
        " unanswered = unanswered + excluded.unanswered, error = excluded.error RETURNING attempts, unanswered",
        (*flow, message_id, int(is_unanswered), error),
    ).fetchone()
    if unanswered_count >= MAX_UNANSWERED:
        return False  # it ends as that upstream's
    conn.execute("UPDATE messages SET upstream = NULL, bind = NULL WHERE id = ?", (message_id,))
    delay = min(_FIRST_RETRY_MS << min(attempts - 1, 20), _LONGEST_RETRY_MS)
    if is_unanswered and attempts == 1:
        delay = 0
    # Of several that were under way together, the first is tried again, and the others after it.
    tried = conn.execute(
        "SELECT message_id, not_before, upstream IS NOT NULL FROM held_messages"
        " INDEXED BY held_messages_tried JOIN messages ON id = message_id WHERE held_messages.account_id = ?"
        " AND held_messages.destination = ? AND attempts > 0 ORDER BY message_id",
        flow,
    ).fetchall()
    first_id, not_before, _ = tried[0]
    if not_before is None and not any(is_under_way for *_, is_under_way in tried):
        conn.execute(
            "UPDATE held_messages INDEXED BY held_messages_tried SET not_before = CASE message_id WHEN ? THEN ? END"
            " WHERE account_id = ? AND destination = ? AND attempts > 0",
            (first_id, now + delay, *flow),
        )
    return True


def list_unanswered_ids(conn: sqlite3.Connection, message_ids: Collection[int]) -> set[int]:
    """Those of these messages that have been sent without an answer and are to be tried again: an upstream may have
    them.
    """
    if not has_held_messages(conn):
        return set()
    rows = conn.execute(
        "SELECT id FROM messages JOIN held_messages AS h ON h.account_id = messages.account_id"
        " AND h.destination = messages.destination AND message_id = id"
        " WHERE id IN (SELECT value FROM json_each(?)) AND unanswered > 0",
        (json.dumps([*message_ids]),),
    )
    return {row[0] for row in rows}


def release_held_messages(conn: sqlite3.Connection, message_ids: Collection[int]) -> list[int]:
    """What was tried again, and is decided, holds up nothing more: the next of them that was tried is tried again now;
    where there is none, what waited for it waits in the queue.

    Returns the accounts for which that leaves nothing that waits.
    """
    emptied_account_ids = []
    for message_id in message_ids:
        flow = conn.execute(
            "DELETE FROM held_messages WHERE message_id = ?1 AND (account_id, destination) ="
            " (SELECT account_id, destination FROM messages WHERE id = ?1) RETURNING account_id, destination",
            (message_id,),
        ).fetchone()
        if flow is None:
            continue
        # Others that were tried, too, go one by one: of each it stays known how often it was not answered.
        tried = conn.execute(
            "SELECT message_id, not_before IS NOT NULL OR upstream IS NOT NULL FROM held_messages AS h"
            f" INDEXED BY held_messages_tried JOIN messages ON id = message_id AND state = {ENROUTE}"
            " WHERE h.account_id = ? AND h.destination = ? AND attempts > 0 ORDER BY message_id",
            flow,
        ).fetchall()
        if not tried:
            conn.execute(
                f"INSERT INTO queued_messages SELECT h.account_id, {_RANK_SQL}, message_id FROM held_messages AS h"
                f" JOIN messages ON id = message_id AND state = {ENROUTE} WHERE h.account_id = ? AND h.destination = ?",
                flow,
            )
            conn.execute("DELETE FROM held_messages WHERE account_id = ? AND destination = ?", flow)
        elif not any(is_active for _, is_active in tried):
            conn.execute(
                "UPDATE held_messages SET not_before = ? WHERE account_id = ? AND destination = ? AND message_id = ?",
                (now_ms(), *flow, tried[0][0]),
            )
        if not has_waiting_messages(conn, flow[0]):
            emptied_account_ids.append(flow[0])
    return emptied_account_ids


def has_queued_messages(conn: sqlite3.Connection) -> bool:
    """Whether anything could be claimed at once."""
    return bool(conn.execute("SELECT EXISTS (SELECT 1 FROM queued_messages)").fetchone()[0])


def has_held_messages(conn: sqlite3.Connection) -> bool:
    """Whether anything was refused for the moment."""
    return bool(conn.execute("SELECT EXISTS (SELECT 1 FROM held_messages)").fetchone()[0])


def remove_waiting_messages(conn: sqlite3.Connection, message_ids: Sequence[int]) -> None:
    """Let messages that have ended wait no more."""
    if not has_queue(conn):
        return
    conn.execute(
        "DELETE FROM queued_messages WHERE (account_id, priority_rank, message_id) IN"
        f" (SELECT account_id, {_RANK_SQL}, id FROM messages WHERE id IN (SELECT value FROM json_each(?)))",
        (json.dumps(message_ids),),
    )
    release_held_messages(conn, message_ids)


def has_queue(conn: sqlite3.Connection) -> bool:
    """Whether anything waits, or holds up others."""
    return has_queued_messages(conn) or has_held_messages(conn)


def list_waiting_accounts(conn: sqlite3.Connection) -> set[int]:
    """The ids of all accounts that have anything that waits, or holds up others: one look-up in an index each."""
    return {*_iterate_distinct_accounts(conn, "queued_messages"), *_iterate_distinct_accounts(conn, "held_messages")}


def _iterate_distinct_accounts(conn: sqlite3.Connection, table: str) -> Iterator[int]:
    account_id = 0
    while True:
        (account_id,) = conn.execute(
            f"SELECT min(account_id) FROM {table} WHERE account_id > ?", (account_id,)
        ).fetchone()
        if account_id is None:
            return
        yield account_id


def get_next_retry_time(conn: sqlite3.Connection) -> int | None:
    """When (milliseconds) the next message is to be tried again; None: there is none."""
    row = conn.execute("SELECT min(not_before) FROM held_messages WHERE not_before IS NOT NULL").fetchone()
    return None if row is None else row[0]


def count_waiting_messages(conn: sqlite3.Connection) -> int:
    """How many messages wait; some tens of milliseconds for a million."""
    row = conn.execute(
        "SELECT (SELECT count(*) FROM queued_messages) + (SELECT count(*) FROM held_messages JOIN messages"
        " ON id = message_id WHERE upstream IS NULL)"
    ).fetchone()
    return int(row[0])
