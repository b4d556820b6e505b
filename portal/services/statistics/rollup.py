"""Rolling up messages into the statistics: how many by hour, day, month, country and sender, and how they ended.

Not in the transactions that take messages in: a batch of seventy messages has about as many countries and senders, and
each would be a row to look up while clients wait. Ids only grow, so what has come since the last time is a range of
them; what has ended since then is noted by the transaction that ends it, a row a batch.
"""

import json
import sqlite3
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from portal.core.clock import DAY_MS, HOUR_MS
from portal.core.db import BulkInsert, Connection, write_transaction
from portal.services.common import ids
from portal.services.common.message_states import DELIVERED
from portal.services.statistics.daily_totals import COUNT_COLUMNS, MESSAGE_COUNT_SQL, build_upsert, month_from_day

HOUR, DAY, MONTH = 0, 1, 2
"""The lengths of time that are counted: hours and days since 1970, months by `daily_totals.month_from_day`; in UTC."""


# Some 5 ms of reading, and a transaction of one or two; a few more where they ended together.
_MESSAGES_PER_BATCH = 1_000
# Where nearly each message has a sender of its own, fewer: so many rows take 10 ms, in which nobody else can write.
_ROWS_PER_BATCH = 2_000

_UPSERT_COUNTS = build_upsert("statistics", "account_id, length, begins, country, source")
_UPSERT_STATUSES, _UPSERT_DELIVERY_TIMES = (
    BulkInsert(
        table,
        f"account_id, length, begins, {key}, messages",
        f"ON CONFLICT (account_id, length, begins, {key}) DO UPDATE SET messages = messages + excluded.messages",
    )
    for table, key in (("statistics_endings", "ptt"), ("statistics_times", "bucket"))
)

# Account, length, beginning, and the rest of the key.
_RollupKey = tuple[int | str, ...]

# How they have ended is counted from `ended`.
_NEW_COUNTS_SQL = ", ".join(
    "0" if name in ("delivered", "failed") else f"sum({sql})" for name, sql in MESSAGE_COUNT_SQL.items()
)
_NEW_MESSAGES_QUERY = f"""
SELECT account_id, {ids.build_time_sql("id")} / {HOUR_MS}, country, source, {_NEW_COUNTS_SQL}
FROM messages WHERE id > :after AND id <= :last GROUP BY 1, 2, 3, 4
"""
_SUBMITTED_AT = ids.build_time_sql("messages.id")
_ENDED_MESSAGES_QUERY = f"""
SELECT account_id, {_SUBMITTED_AT} / {HOUR_MS}, country, source, ptt, state = {DELIVERED},
    iif(state = {DELIVERED}, bucket(done_at - coalesce(scheduled_at, {_SUBMITTED_AT})), NULL), count(*)
FROM json_each(:ids) AS ended CROSS JOIN messages ON messages.id = ended.value GROUP BY 1, 2, 3, 4, 5, 6, 7
"""


def record_ended_messages(conn: sqlite3.Connection, message_ids: Iterable[int]) -> None:
    """Let messages that have just got their final states be counted. In the transaction that gives them these."""
    # Left to itself, SQLite would begin anew with 1 whenever all has been counted.
    conn.execute(
        "INSERT INTO ended (id, messages)"
        " SELECT max(coalesce((SELECT max(id) FROM ended), 0), (SELECT ended_id FROM gathered)) + 1, ?",
        (array("q", message_ids).tobytes(),),
    )


def roll_up_batch(conn: Connection) -> bool:
    """Count what has come and ended since the last time; some of it, in one short transaction.

    In an open `write_transaction()` block it takes part in that.

    Returns:
        Whether there may be more.

    Raises:
        sqlite3.OperationalError: nothing was counted; the next time counts it.
    """
    conn.register_function("bucket", 1, get_delivery_time_bucket)
    before = after, ended_before = _read_rollup_position(conn)
    batch_size = _MESSAGES_PER_BATCH
    while True:
        last = _find_last_id_of_batch(conn, after, batch_size)
        last_ended_id, ended = _read_ended_messages(conn, ended_before, batch_size)
        if (last, last_ended_id) == before:
            return False
        amounts, statuses, times = _count_messages(conn, after, last, ended)
        if len(amounts) <= _ROWS_PER_BATCH or batch_size == 1:
            break
        batch_size = max(batch_size * _ROWS_PER_BATCH // len(amounts), 1)
    with write_transaction(conn):
        if _read_rollup_position(conn) != before:
            # Another process has counted these meanwhile.
            return True
        _UPSERT_COUNTS.run(conn, amounts)
        _UPSERT_STATUSES.run(conn, statuses)
        _UPSERT_DELIVERY_TIMES.run(conn, times)
        conn.execute("DELETE FROM ended WHERE id <= ?", (last_ended_id,))
        conn.execute("UPDATE gathered SET message_id = ?, ended_id = ?", (last, last_ended_id))
    return len(ended) >= batch_size or _find_last_id_of_batch(conn, last, 1) != last


def roll_up_in_batches(conn: Connection) -> Iterator[None]:
    """Count all that has come and ended by now, step by step: however much comes meanwhile, it ends.

    A step is a call of `roll_up_batch`.
    """
    query = "SELECT (SELECT max(id) FROM messages), (SELECT max(id) FROM ended)"
    (last, last_ended_id) = conn.execute(query).fetchone()
    more = True
    while more:
        message_id, ended_id = _read_rollup_position(conn)
        if message_id >= (last or 0) and ended_id >= (last_ended_id or 0):
            return
        more = roll_up_batch(conn)
        yield


def roll_up_all(conn: Connection) -> None:
    """Count all that has come and ended by now."""
    for _ in roll_up_in_batches(conn):
        pass


def get_delivery_time_bucket(milliseconds: int) -> int:
    """The number of the bucket that a time is in: each is an eighth to a sixteenth longer than the one before."""
    milliseconds = max(milliseconds, 0)
    halvings = max(milliseconds.bit_length() - 4, 0)
    return 8 * halvings + (milliseconds >> halvings)


def get_delivery_bucket_bounds(number: int) -> tuple[int, int]:
    """A bucket's shortest time, and the shortest one that is too long for it (milliseconds)."""
    halvings = max(number // 8 - 1, 0)
    shortest = number - 8 * halvings
    return shortest << halvings, (shortest + 1) << halvings


def _read_rollup_position(conn: sqlite3.Connection) -> tuple[int, int]:
    row = conn.execute("SELECT message_id, ended_id FROM gathered").fetchone()
    return row[0], row[1]


def _find_last_id_of_batch(conn: sqlite3.Connection, after: int, batch_size: int) -> int:
    """The last message of the next step, which begins after this one."""
    row = conn.execute(
        "SELECT coalesce((SELECT id FROM messages WHERE id > ?1 ORDER BY id LIMIT 1 OFFSET ?2),"
        " (SELECT max(id) FROM messages))",
        (after, batch_size - 1),
    ).fetchone()
    # The newest ones may have been deleted.
    return max(row[0] or 0, after)


def _read_ended_messages(conn: sqlite3.Connection, last_ended_id: int, batch_size: int) -> tuple[int, Sequence[int]]:
    """The last row of `ended` that belongs to the next step, which begins after this one; the messages of all these."""
    message_ids = array("q")
    rows = conn.execute("SELECT id, messages FROM ended ORDER BY id")
    while len(message_ids) < batch_size and (row := rows.fetchone()):
        last_ended_id = row[0]
        message_ids.frombytes(row[1])
    rows.close()
    return last_ended_id, message_ids


def _count_messages(
    conn: sqlite3.Connection, after: int, last: int, ended_ids: Sequence[int]
) -> tuple[list[_RollupKey], list[_RollupKey], list[_RollupKey]]:
    """What is to be added to each of the three tables, in the order of its key."""
    amounts: dict[_RollupKey, list[int]] = defaultdict(lambda: [0] * len(COUNT_COLUMNS))
    statuses: dict[_RollupKey, list[int]] = defaultdict(lambda: [0])
    times: dict[_RollupKey, list[int]] = defaultdict(lambda: [0])

    def add_counts(
        target: dict[_RollupKey, list[int]], account_id: int, hour: int, key: _RollupKey, *counts: int
    ) -> None:
        day = hour // (DAY_MS // HOUR_MS)
        for length, begins in ((HOUR, hour), (DAY, day), (MONTH, month_from_day(day))):
            sums = target[account_id, length, begins, *key]
            for index, count in enumerate(counts):
                sums[index] += count

    for account_id, hour, country, source, *counts in conn.execute(_NEW_MESSAGES_QUERY, {"after": after, "last": last}):
        add_counts(amounts, account_id, hour, (country, source), *counts)
    rows = conn.execute(_ENDED_MESSAGES_QUERY, {"ids": json.dumps(list(ended_ids))})
    for account_id, hour, country, source, ptt, delivered, time, count in rows:
        add_counts(amounts, account_id, hour, (country, source), 0, *((count, 0) if delivered else (0, count)))
        add_counts(statuses, account_id, hour, (ptt,), count)
        if delivered:
            add_counts(times, account_id, hour, (time,), count)
    return _sort_rollup_rows(amounts), _sort_rollup_rows(statuses), _sort_rollup_rows(times)


def _sort_rollup_rows(counts_by_key: dict[_RollupKey, list[int]]) -> list[_RollupKey]:
    """In the order of their key: so they change each page of the table once."""
    return [(*key, *counts) for key, counts in sorted(counts_by_key.items())]
