"""How many messages wait for upstreams, by path and account; where a great many do, counted before pages ask."""

import sqlite3
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from portal.core.clock import DAY_MS, HOUR_MS, MINUTE_MS, now_ms
from portal.services.common import ids
from portal.services.upstreams import paths
from portal.services.upstreams.paths import UNDER_WAY, UpstreamPath

AGES_MS = (DAY_MS, HOUR_MS, 10 * MINUTE_MS)
"""Longer than each of these ago messages were submitted that a list by age shows together."""
MAX_MESSAGE_ID = (1 << 63) - 1
# Fewer are counted when a page asks: in some milliseconds, and some more where they are of thousands of accounts.
# What is kept is counted anew after so many times as long as that took.
_QUICKLY_COUNTED, _PAUSE_FACTOR = 1_000, 10
# What upstreams have at this moment doesn't wait.
_BEGUN_SQL = f"held_messages INDEXED BY held_messages_begun WHERE not_before = {UNDER_WAY}"
_HELD_SQL = "held_messages INDEXED BY held_messages_path"


@dataclass(frozen=True, slots=True)
class WaitingGroup:
    """How many messages of an account wait on a path, and the id of the oldest. `path`: as `paths` has it."""

    path_id: int
    path: UpstreamPath
    account_id: int
    count: int
    oldest_id: int


@dataclass(frozen=True, slots=True)
class _KeptGroups:
    """What was counted at a moment (seconds, monotonic), which took so many seconds: all, and what is of each age."""

    at: float
    seconds: float
    by_age: Mapping[int | None, Sequence[WaitingGroup]]


_kept: _KeptGroups | None = None


def keep_waiting_groups(conn: sqlite3.Connection) -> None:
    """Count what waits for this process's pages, where that takes long: they would have to wait. To be called every
    second or so, by one thread.
    """
    global _kept
    (count,) = conn.execute(
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM queued_messages LIMIT ?1))"
        " + (SELECT count(*) FROM (SELECT 1 FROM held_messages LIMIT ?1))",
        (_QUICKLY_COUNTED,),
    ).fetchone()
    began_at = time.monotonic()
    if count < _QUICKLY_COUNTED:
        _kept = None
    elif _kept is None or began_at - _kept.at > _PAUSE_FACTOR * _kept.seconds:
        by_age = _count_by_age(conn, (None, *AGES_MS))
        _kept = _KeptGroups(began_at, time.monotonic() - began_at, by_age)


def are_counts_kept() -> bool:
    """Whether pages of this process are told what was counted some seconds ago."""
    return _kept is not None


def list_waiting_groups(
    conn: sqlite3.Connection, older_ms: int | None = None, before_id: int | None = None
) -> Sequence[WaitingGroup]:
    """All that waits, by path and account: counted now, or where a great many wait, as it was some seconds ago.

    Args:
        older_ms: only what was submitted longer ago than that; None: all.
        before_id: only what has an id below that; of what was counted before all.
    """
    kept = _kept
    if kept is not None and older_ms in kept.by_age:
        return kept.by_age[older_ms]
    (groups,) = _count_groups(conn, [_find_before_id(older_ms) if before_id is None else before_id])
    return groups


def list_groups_by_age(conn: sqlite3.Connection) -> Mapping[int | None, Sequence[WaitingGroup]]:
    """The same of each of AGES_MS."""
    kept = _kept
    return _count_by_age(conn, AGES_MS) if kept is None else kept.by_age


def _count_by_age(conn: sqlite3.Connection, ages: Sequence[int | None]) -> Mapping[int | None, Sequence[WaitingGroup]]:
    return dict(zip(ages, _count_groups(conn, [_find_before_id(each) for each in ages]), strict=True))


def _find_before_id(older_ms: int | None) -> int:
    return MAX_MESSAGE_ID if older_ms is None else ids.min_id_at_time(now_ms() - older_ms)


def _count_groups(conn: sqlite3.Connection, before_ids: Sequence[int]) -> list[list[WaitingGroup]]:
    """What waits of ids below each of these. Each table is read once, in the order of an index."""
    columns = range(1, len(before_ids) + 1)
    tables = " UNION ALL ".join(
        f"SELECT path, account_id, {oldest} AS oldest,"
        f" {', '.join(f'{sign}sum(message_id < ?{each}) AS count_{each}' for each in columns)}"
        f" FROM {sql} GROUP BY path, account_id"
        for sql, sign, oldest in (
            ("queued_messages", "", "min(message_id)"),
            (_HELD_SQL, "", "min(message_id)"),
            (_BEGUN_SQL, "-", "NULL"),
        )
    )
    sums = ", ".join(f"sum(count_{each})" for each in columns)
    rows = conn.execute(
        f"SELECT path, account_id, min(oldest), {sums} FROM ({tables}) GROUP BY path, account_id", before_ids
    ).fetchall()
    known = paths.list_paths(conn)
    return [
        [
            WaitingGroup(path_id, known[path_id], account_id, counts[column], oldest_id)
            for path_id, account_id, oldest_id, *counts in rows
            if counts[column] > 0 and path_id in known
        ]
        for column in range(len(before_ids))
    ]


def read_path_counts(conn: sqlite3.Connection) -> Mapping[UpstreamPath, int]:
    """What `count_waiting_messages_by_path` returns; in the process of the pages, where a great many wait, as it was
    some seconds ago.
    """
    kept = _kept
    if kept is None:
        return count_waiting_messages_by_path(conn)
    counts: Counter[UpstreamPath] = Counter()
    for group in kept.by_age[None]:
        counts[group.path] += group.count
    return counts


def count_waiting_messages_by_path(conn: sqlite3.Connection) -> dict[UpstreamPath, int]:
    """How many messages wait on each path, as far as any do. A million that are queued take some tens of milliseconds,
    and 100,000 that are held some ten.
    """
    rows = conn.execute(
        "SELECT upstream_ids, (SELECT count(*) FROM queued_messages WHERE path = path_id)"
        f" + (SELECT count(*) FROM {_HELD_SQL} WHERE path = path_id)"
        f" - (SELECT count(*) FROM {_BEGUN_SQL} AND path = path_id)"
        " FROM (SELECT id AS path_id, upstream_ids FROM queue_paths)"
    )
    return {paths.parse_path(upstream_ids): count for upstream_ids, count in rows if count}
