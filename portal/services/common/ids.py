"""Ids of messages and movements: they grow with time and hold it, so that a period is a range of ids."""

import sqlite3

from portal.core.clock import now_ms

_TIME_SHIFT = 20
# Counters of the highest id that was ever deleted from these tables; triggers keep them. Movements are never deleted.
_DELETED_ID_COUNTERS = {"messages": "message_id", "received": "message_id", "movements": "movement_id"}


def time_from_id(row_id: int) -> int:
    """The time (milliseconds) in the id of a message or movement."""
    return row_id >> _TIME_SHIFT


def min_id_at_time(at: int) -> int:
    """The smallest id that a message or movement of this moment (milliseconds) can have."""
    return at << _TIME_SHIFT


LAST_ID_SQL = {
    table: f"max(coalesce((SELECT max(id) FROM {table}), 0), (SELECT value FROM counters WHERE name = '{counter}'))"
    for table, counter in _DELETED_ID_COUNTERS.items()
}
"""SQL for the highest id that a table has ever had."""


def next_id(last_id: int, now: int | None = None) -> int:
    """The id after `last_id`; `now` as in `allocate_ids`."""
    return max(min_id_at_time(now_ms() if now is None else now), last_id + 1)


def allocate_ids(conn: sqlite3.Connection, table: str, count: int, now: int | None = None) -> int:
    """Take ids that grow with time and are never given twice, not even when the clock is set back.

    Args:
        table: `messages`, `received` or `movements`.
        count: size of the block.
        now: the time that they hold (milliseconds), for a history that is written afterwards; None: this moment.

    Returns:
        The first of the block. The caller is inside `write_transaction()`.
    """
    (last_id,) = conn.execute(f"SELECT {LAST_ID_SQL[table]}").fetchone()
    return next_id(last_id, now)
