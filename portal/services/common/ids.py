"""Ids of messages, movements and deliveries: they grow with time and hold it, so that a period is a range of ids.

An id is the milliseconds since 2020, shifted by twelve bits, and a counter in these. So it stays below 2^53 until the
year 2089: programs that take all numbers for floating-point ones (JavaScript, spreadsheets) keep each digit. Only this
module knows the layout, and the migration that made ids short (`m0017_short_ids`).
"""

import sqlite3

from portal.core.clock import now_ms

_EPOCH_MS = 1_577_836_800_000
_COUNTER_BITS = 12
# Counters of the highest id that was ever deleted from these tables; triggers keep them. Movements are never deleted.
_DELETED_ID_COUNTERS = {"messages": "message_id", "received": "message_id", "movements": "movement_id"}


def time_from_id(row_id: int) -> int:
    """The time (milliseconds) in the id of a message, movement or delivery."""
    return (row_id >> _COUNTER_BITS) + _EPOCH_MS


def min_id_at_time(at: int) -> int:
    """The smallest id of this moment (milliseconds), or of a later one; 0 for all moments before 2020.

    For durations see `id_span`: an id has an epoch, a duration has none.
    """
    return max(at - _EPOCH_MS, 0) << _COUNTER_BITS


def id_span(duration_ms: int) -> int:
    """By how much two ids differ whose times are so far apart (milliseconds)."""
    return duration_ms << _COUNTER_BITS


def build_time_sql(id_sql: str) -> str:
    """The SQL expression of the time (milliseconds) in an id, which is an SQL expression, too."""
    return f"((({id_sql}) >> {_COUNTER_BITS}) + {_EPOCH_MS})"


LAST_ID_SQL = {
    table: f"max(coalesce((SELECT max(id) FROM {table}), 0), (SELECT value FROM counters WHERE name = '{counter}'))"
    for table, counter in _DELETED_ID_COUNTERS.items()
}
"""SQL for the highest id that a table has ever had."""


def next_id(last_id: int, now: int | None = None) -> int:
    """The id after `last_id`; `now` as in `allocate_id`."""
    return max(min_id_at_time(now_ms() if now is None else now), last_id + 1)


def allocate_id(conn: sqlite3.Connection, table: str, now: int | None = None) -> int:
    """Take an id that grows with time and is never given twice, not even when the clock is set back.

    Whoever stores several rows takes those after it as well; more than 4,096 in one millisecond get the times of the
    next ones.

    Args:
        table: `messages`, `received` or `movements`.
        now: the time that it holds (milliseconds), for a history that is written afterwards; None: this moment.

    Returns:
        The id. The caller is inside `write_transaction()`.
    """
    (last_id,) = conn.execute(f"SELECT {LAST_ID_SQL[table]}").fetchone()
    return next_id(last_id, now)
