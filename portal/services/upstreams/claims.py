"""Claims: what waits is taken by an upstream, account by account. Called inside `write_transaction()`."""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from typing import Any

from portal.services.common.message_states import ENROUTE
from portal.services.upstreams import holds, paths, queue
from portal.services.upstreams.paths import SIMULATED_BIND, UNDER_WAY, ChoosePath, UpstreamPath, choose_default_path

# Of an account's share of a claim some may have to wait behind a held message. What is left of the room is then shared
# again, in so many rounds at most.
_MAX_ROUNDS = 8
# So many that are left behind a claim are counted: some ten microseconds.
_MAX_COUNTED = 1_000
# So many destinations of an account that messages are held to are told.
_MAX_HELD = 200
# So long after each look what is to be tried again of an account on hold is looked at again.
_HOLD_RETRY_MS = 60_000


@dataclass(frozen=True, slots=True)
class Claim:
    """What an upstream asks for: `limit` messages, at least 1, of those that wait on the `paths` that it takes.

    `after_account_id`: whose turn it was last (`ClaimedIds.last_account_id`); 0: that of what is tried again.
    `holds_followers`: whether what comes behind them to the same destinations waits until they are answered, as another
    upstream takes it.
    """

    upstream_id: int
    paths: Collection[UpstreamPath]
    limit: int
    after_account_id: int = 0
    holds_followers: bool = False


@dataclass(slots=True)
class ClaimedIds:
    """What one upstream takes now.

    `message_ids`: in the order in which they are to be sent. `retried_ids`: those that are tried again.
    `emptied_account_ids`: the accounts that have had something that waits, and have nothing more on any path.
    `left_count`: how many are left that could be claimed at once; None: some, and it is not known how many.
    `last_account_id`: whose turn it was last; 0: that of what is tried again. `emptied_paths`: paths, each with an
    account that has had something that waits there, and has nothing more on it, nor anything that is held.
    `held_destinations`: those of what is held of an account that has nothing else on a path, by path and account, if
    they are few. `moved_paths`: paths, each with an account of which something waits there from now on.
    """

    message_ids: list[int]
    emptied_account_ids: list[int]
    left_count: int | None
    last_account_id: int
    retried_ids: set[int] = field(default_factory=set)
    emptied_paths: list[tuple[UpstreamPath, int]] = field(default_factory=list)
    held_destinations: dict[tuple[UpstreamPath, int], Collection[str]] = field(default_factory=dict)
    moved_paths: set[tuple[UpstreamPath, int]] = field(default_factory=set)


def claim_message_ids(
    conn: sqlite3.Connection, claim: Claim, now: int, choose_path: ChoosePath = choose_default_path
) -> ClaimedIds:
    """Take messages that wait for an upstream at this moment (milliseconds): what is to be tried again, and each
    account's in turn.
    """
    upstream_id, limit, after_account_id = claim.upstream_id, claim.limit, claim.after_account_id
    claimed = ClaimedIds([], [], 0, after_account_id)
    path_ids = {path_id: path for path, path_id in paths.find_path_ids(conn, claim.paths).items()}
    # What is tried again has a turn as if it were another account's, behind the last one.
    waiting = _find_waiting_accounts(conn, path_ids, after_account_id, limit)
    turns: list[int | None] = [*waiting]
    if len(turns) < limit:
        turns.append(None)
        others = _find_waiting_accounts(conn, path_ids, 0, limit)
        turns += [each for each in others if each <= after_account_id]
        waiting = others | waiting
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
                is_finished = _claim_retries(conn, upstream_id, path_ids, count, now, claimed)
                claimed.last_account_id = 0
            else:
                is_finished = _claim_of_account(conn, path_ids, waiting[account_id], account_id, count, claimed)
                claimed.last_account_id = account_id
            if not is_finished:
                unfinished.append(account_id)
        turns = unfinished
    queued_count = sum(queue.count_queued_messages(conn, each, _MAX_COUNTED + 1) for each in path_ids)
    claimed.left_count = None if None in turns or queued_count > _MAX_COUNTED else queued_count
    if claimed.message_ids:
        conn.execute(
            f"UPDATE messages SET upstream = ?1, bind = (SELECT {SIMULATED_BIND} FROM upstreams WHERE id = ?1"
            f" AND kind = '{queue.SIMULATOR}') WHERE id IN (SELECT value FROM json_each(?2)) AND +state = {ENROUTE}",
            (upstream_id, json.dumps(claimed.message_ids)),
        )
        if claim.holds_followers:
            paths.hold_followers_of_messages(conn, claimed.message_ids, choose_path)
    return claimed


def _find_waiting_accounts(
    conn: sqlite3.Connection, path_ids: Iterable[int], after_account_id: int, limit: int
) -> dict[int, list[int]]:
    """The accounts behind one in the order of their ids that have something queued on these paths, each with those on
    which it has; but for those on hold.
    """
    found: dict[int, list[int]] = {}
    for path_id in path_ids:
        for account_id in queue.list_claimable_accounts(conn, path_id, after_account_id, limit):
            found.setdefault(account_id, []).append(path_id)
    # What a path has behind its first `limit` accounts is behind all of these, too.
    return dict(sorted(found.items())[:limit])


def _take_first_rows(cursors: Sequence[sqlite3.Cursor], count: int, key: Callable[[Any], Any]) -> list[sqlite3.Row]:
    """The first rows of all cursors, each of which is in the order of `key`; of all together hardly more are read."""
    rows = [*islice(merge(*cursors, key=key), count)]
    for each in cursors:
        each.close()
    return rows


def _claim_retries(
    conn: sqlite3.Connection, upstream_id: int, path_ids: Collection[int], count: int, now: int, claimed: ClaimedIds
) -> bool:
    """Claim what is to be tried again now; returns whether there is no more of it. That of accounts on hold is put off.

    A text of which another upstream, which there still is, has taken parts is put on the path of that one alone.
    """
    cursors = [
        conn.execute(
            "SELECT not_before, account_id, destination, message_id FROM held_messages WHERE path = ?"
            " AND not_before IS NOT NULL AND not_before <= ? ORDER BY not_before, account_id, destination, message_id",
            (each, now),
        )
        for each in path_ids
    ]
    rows = [tuple(row)[1:] for row in _take_first_rows(cursors, count, tuple)]
    is_last = len(rows) < count
    held_account_ids = holds.list_held_account_ids(conn)
    if held_account_ids:
        conn.executemany(
            "UPDATE held_messages SET not_before = ? WHERE account_id = ? AND destination = ? AND message_id = ?",
            [(now + _HOLD_RETRY_MS, *row) for row in rows if row[0] in held_account_ids],
        )
        rows = [row for row in rows if row[0] not in held_account_ids]
    if paths.has_cut_messages(conn):
        own_path: UpstreamPath = (upstream_id,)
        begun = [(paths.choose_begun_path(conn, row[2], own_path), row) for row in rows]
        moved = [(path, row) for path, row in begun if path != own_path]
        path_ids_of_others = paths.get_path_ids(conn, {path for path, _ in moved})
        conn.executemany(
            "UPDATE held_messages SET path = ? WHERE account_id = ? AND destination = ? AND message_id = ?",
            [(path_ids_of_others[path], *row) for path, row in moved],
        )
        claimed.moved_paths.update((path, row[0]) for path, row in moved)
        rows = [row for path, row in begun if path == own_path]
    conn.executemany(
        f"UPDATE held_messages SET not_before = {UNDER_WAY}"
        " WHERE account_id = ? AND destination = ? AND message_id = ?",
        rows,
    )
    retried_ids = [row[2] for row in rows]
    claimed.message_ids += retried_ids
    claimed.retried_ids.update(retried_ids)
    return is_last


def _claim_of_account(
    conn: sqlite3.Connection,
    path_ids: Mapping[int, UpstreamPath],
    waiting_ids: Collection[int],
    account_id: int,
    count: int,
    claimed: ClaimedIds,
) -> bool:
    """Claim an account's next messages, of which there are some on the paths `waiting_ids`; returns whether it has no
    more of them in `queued_messages`.
    """
    # A row without its message, which nothing should leave, is removed with the others.
    cursors = [
        conn.execute(
            "SELECT q.priority_rank, message_id, q.path, destination, EXISTS (SELECT 1 FROM held_messages AS h"
            "  WHERE h.account_id = q.account_id AND h.destination = messages.destination)"
            " FROM queued_messages AS q LEFT JOIN messages ON id = message_id WHERE q.path = ? AND q.account_id = ?"
            " ORDER BY priority_rank, message_id",
            (each, account_id),
        )
        for each in waiting_ids
    ]
    rows = _take_first_rows(cursors, count, lambda row: (row[0], row[1]))
    # What another one of theirs to that destination is in front of waits for it.
    conn.executemany(
        "INSERT INTO held_messages (path, account_id, destination, message_id) VALUES (?, ?, ?, ?)",
        [(path_id, account_id, destination, row_id) for _, row_id, path_id, destination, is_held in rows if is_held],
    )
    conn.executemany(
        "DELETE FROM queued_messages WHERE path = ? AND account_id = ? AND priority_rank = ? AND message_id = ?",
        [(path_id, account_id, rank, row_id) for rank, row_id, path_id, *_ in rows],
    )
    claimed.message_ids += [
        row_id for _, row_id, _, destination, is_held in rows if destination is not None and not is_held
    ]
    emptied_ids = [
        each
        for each in path_ids
        if each not in waiting_ids
        or not conn.execute(
            "SELECT EXISTS (SELECT 1 FROM queued_messages WHERE path = ? AND account_id = ?)", (each, account_id)
        ).fetchone()[0]
    ]
    held = queue.list_held_destinations(conn, account_id, _MAX_HELD + 1) if emptied_ids else []
    if held and len(held) <= _MAX_HELD:
        claimed.held_destinations.update({(path_ids[each], account_id): held for each in emptied_ids})
    elif emptied_ids and not queue.has_held_messages_of(conn, account_id):
        claimed.emptied_paths += [(path_ids[each], account_id) for each in emptied_ids]
        if not queue.has_waiting_messages(conn, account_id):
            claimed.emptied_account_ids.append(account_id)
    return len(emptied_ids) == len(path_ids)
