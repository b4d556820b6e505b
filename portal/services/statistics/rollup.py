"""The statistics, gathered behind the messages: what there was by hour, day, month, country and sender; how it ended.

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
from portal.core.db import Connection, Inserts, immediate
from portal.services.common.message_states import DELIVERED, PTT_BLACKLISTED, PTT_NO_CREDIT
from portal.services.statistics.daily_totals import month_of

HOUR, DAY, MONTH = 0, 1, 2
"""The lengths of time that are counted: their beginnings are hours and days since 1970, and `totals.month_of`, UTC."""


# Some 5 ms of reading, and a transaction of one or two.
_MESSAGES_AT_ONCE = 1_000
# Where nearly each message has a sender of its own, fewer: so many rows take 10 ms, in which nobody else can write.
_ROWS_AT_ONCE = 2_000

_AMOUNTS = ("sent", "delivered", "failed", "stopped", "refused", "parts", "price")
_ADD = Inserts(
    "statistics",
    f"account_id, length, begins, country, source, {', '.join(_AMOUNTS)}",
    "ON CONFLICT (account_id, length, begins, country, source) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _AMOUNTS),
)
_ADD_ENDINGS, _ADD_TIMES = (
    Inserts(
        table,
        f"account_id, length, begins, {key}, messages",
        f"ON CONFLICT (account_id, length, begins, {key}) DO UPDATE SET messages = messages + excluded.messages",
    )
    for table, key in (("statistics_endings", "ptt"), ("statistics_times", "bucket"))
)

# Account, length, beginning, and what else is told apart.
_Key = tuple[int | str, ...]

_NEW = f"""
SELECT account_id, (id >> 20) / {HOUR_MS}, country, source, sum(price > 0), 0, 0,
    sum(price = 0 AND ptt = {PTT_BLACKLISTED}), sum(price = 0 AND ptt = {PTT_NO_CREDIT}),
    sum(iif(price > 0, parts, 0)), sum(price)
FROM messages WHERE id > :after AND id <= :last GROUP BY 1, 2, 3, 4
"""
_ENDED = f"""
SELECT account_id, (messages.id >> 20) / {HOUR_MS}, country, source, ptt, state = {DELIVERED},
    iif(state = {DELIVERED}, bucket(done_at - coalesce(scheduled_at, messages.id >> 20)), NULL), count(*)
FROM json_each(:ids) AS ended CROSS JOIN messages ON messages.id = ended.value GROUP BY 1, 2, 3, 4, 5, 6, 7
"""


def note_ended(conn: sqlite3.Connection, message_ids: Iterable[int]) -> None:
    """Let messages that have just got their final states be counted. In the transaction that gives them these."""
    # Left to itself, SQLite would begin anew with 1 whenever all has been counted.
    conn.execute(
        "INSERT INTO ended (id, messages)"
        " SELECT max(coalesce((SELECT max(id) FROM ended), 0), (SELECT ended_id FROM gathered)) + 1, ?",
        (array("q", message_ids).tobytes(),),
    )


def gather(conn: Connection) -> bool:
    """Count what has come and ended since the last time; at most a thousand messages or so, in one short transaction.

    In an open `immediate()` block it takes part in that.

    Returns:
        Whether there may be more.

    Raises:
        sqlite3.OperationalError: nothing was counted; the next time counts it.
    """
    conn.teach("bucket", 1, bucket)
    before = after, noted_before = _state(conn)
    at_once = _MESSAGES_AT_ONCE
    while True:
        last = _last(conn, after, at_once)
        noted, ended = _ended(conn, noted_before, at_once)
        if (last, noted) == before:
            return False
        amounts, endings, times = _counted(conn, after, last, ended)
        if len(amounts) <= _ROWS_AT_ONCE or at_once == 1:
            break
        at_once = max(at_once * _ROWS_AT_ONCE // len(amounts), 1)
    with immediate(conn):
        if _state(conn) != before:
            # Another process has counted these meanwhile.
            return True
        _ADD.run(conn, amounts)
        _ADD_ENDINGS.run(conn, endings)
        _ADD_TIMES.run(conn, times)
        conn.execute("DELETE FROM ended WHERE id <= ?", (noted,))
        conn.execute("UPDATE gathered SET message_id = ?, ended_id = ?", (last, noted))
    return len(ended) >= at_once or _last(conn, last, 1) != last


def catch_up(conn: Connection) -> Iterator[None]:
    """Count all that has come and ended by now, step by step: however much comes meanwhile, it ends."""
    (last, noted) = conn.execute("SELECT (SELECT max(id) FROM messages), (SELECT max(id) FROM ended)").fetchone()
    more = True
    while more:
        message_id, ended_id = _state(conn)
        if message_id >= (last or 0) and ended_id >= (noted or 0):
            return
        more = gather(conn)
        yield


def gather_all(conn: Connection) -> None:
    """Count all that has come and ended by now, at once."""
    for _ in catch_up(conn):
        pass


def reaches(conn: sqlite3.Connection) -> int:
    """The id of the last message that has been counted."""
    return _state(conn)[0]


def bucket(milliseconds: int) -> int:
    """Which of the times that are told apart one is in: each is an eighth to a sixteenth longer than the one before."""
    milliseconds = max(milliseconds, 0)
    halvings = max(milliseconds.bit_length() - 4, 0)
    return 8 * halvings + (milliseconds >> halvings)


def bounds(number: int) -> tuple[int, int]:
    """A bucket's shortest time, and the shortest one that is too long for it (milliseconds)."""
    halvings = max(number // 8 - 1, 0)
    shortest = number - 8 * halvings
    return shortest << halvings, (shortest + 1) << halvings


def _state(conn: sqlite3.Connection) -> tuple[int, int]:
    row = conn.execute("SELECT message_id, ended_id FROM gathered").fetchone()
    return row[0], row[1]


def _last(conn: sqlite3.Connection, after: int, at_once: int) -> int:
    """The last message of the next step, which begins after this one."""
    row = conn.execute(
        "SELECT coalesce((SELECT id FROM messages WHERE id > ?1 ORDER BY id LIMIT 1 OFFSET ?2),"
        " (SELECT max(id) FROM messages))",
        (after, at_once - 1),
    ).fetchone()
    # The newest ones may have been deleted.
    return max(row[0] or 0, after)


def _ended(conn: sqlite3.Connection, noted: int, at_once: int) -> tuple[int, Sequence[int]]:
    """The last row of `ended` that belongs to the next step, which begins after this one; the messages of all these."""
    message_ids = array("q")
    rows = conn.execute("SELECT id, messages FROM ended ORDER BY id")
    while len(message_ids) < at_once and (row := rows.fetchone()):
        noted = row[0]
        message_ids.frombytes(row[1])
    rows.close()
    return noted, message_ids


def _counted(
    conn: sqlite3.Connection, after: int, last: int, ended: Sequence[int]
) -> tuple[list[_Key], list[_Key], list[_Key]]:
    """What is to be added to each of the three tables, in the order of its key."""
    amounts: dict[_Key, list[int]] = defaultdict(lambda: [0] * len(_AMOUNTS))
    endings: dict[_Key, list[int]] = defaultdict(lambda: [0])
    times: dict[_Key, list[int]] = defaultdict(lambda: [0])

    def add(to: dict[_Key, list[int]], account_id: int, hour: int, key: _Key, *counts: int) -> None:
        day = hour // (DAY_MS // HOUR_MS)
        for length, begins in ((HOUR, hour), (DAY, day), (MONTH, month_of(day))):
            sums = to[account_id, length, begins, *key]
            for place, count in enumerate(counts):
                sums[place] += count

    for account_id, hour, country, source, *counts in conn.execute(_NEW, {"after": after, "last": last}):
        add(amounts, account_id, hour, (country, source), *counts)
    rows = conn.execute(_ENDED, {"ids": json.dumps(list(ended))})
    for account_id, hour, country, source, ptt, delivered, time, count in rows:
        add(amounts, account_id, hour, (country, source), 0, *((count, 0) if delivered else (0, count)))
        add(endings, account_id, hour, (ptt,), count)
        if delivered:
            add(times, account_id, hour, (time,), count)
    return _rows(amounts), _rows(endings), _rows(times)


def _rows(counted: dict[_Key, list[int]]) -> list[_Key]:
    """In the order of their key: so they change each page of the table once."""
    return [(*key, *counts) for key, counts in sorted(counted.items())]
