"""How long messages are kept: so many months of the installation's, or of the customer's own.

What is older, whole days (UTC), is removed behind the messages that come, in short transactions. Each account knows
from which day on its messages are kept (`accounts.kept_since`); that is written first, and the check looks at nothing
older, whether it has gone yet or not. Balances, the ledger and the statistics stay.
"""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime

from portal.core.clock import DAY_MS
from portal.core.db import Connection, immediate
from portal.services.common import ids
from portal.services.common.periods import months_before
from portal.services.history import removal
from portal.services.statistics import rollup

_FIRST_DAY = date(1970, 1, 1)
_AT_ONCE = 2_000
_ROWS_AT_ONCE = 500


def months_of(conn: sqlite3.Connection, customer_id: int, usual: int) -> int:
    """How many months the messages of a customer's accounts are kept; `usual` is the installation's number."""
    (months,) = conn.execute("SELECT messages_months FROM customers WHERE id = ?", (customer_id,)).fetchone()
    return usual if months is None else int(months)


def first_day(months: int, now: int) -> int:
    """The first day (days since 1970, UTC) of which messages are kept for so many months at a moment (milliseconds)."""
    today = datetime.fromtimestamp(now / 1000, UTC).date()
    return max((months_before(today, months) - _FIRST_DAY).days, 0)


def remove(conn: Connection, usual: int, now: int) -> Iterator[int]:
    """Remove what is too old at a moment (milliseconds); says after each step how many messages that were.

    Each step is a transaction of its own, and between two of them nothing is held: the caller may rest. What is still
    under way stays, and what waits for a client: it goes when it has ended.

    Args:
        usual: the months of customers that have none of their own.

    Raises:
        sqlite3.OperationalError: the next time goes on.
    """
    for months in _all_months(conn, usual):
        day = first_day(months, now)
        with immediate(conn):
            # What has gone doesn't come back where more months are kept now.
            conn.execute(
                "UPDATE accounts SET kept_since = ? WHERE kept_since < ?"
                " AND customer_id IN (SELECT id FROM customers WHERE coalesce(messages_months, ?) = ?)",
                (day, day, usual, months),
            )
    for account_id, day in conn.execute("SELECT id, kept_since FROM accounts WHERE kept_since").fetchall():
        end = ids.first_id_at(day * DAY_MS)
        yield from _remove_sent(conn, account_id, end)
        yield from _remove_received(conn, account_id, end)
        yield from _forget_rest(conn, account_id, day, end)


def _all_months(conn: sqlite3.Connection, usual: int) -> list[int]:
    rows = conn.execute("SELECT DISTINCT coalesce(messages_months, ?) FROM customers", (usual,))
    return [row[0] for row in rows]


def _remove_sent(conn: Connection, account_id: int, end: int) -> Iterator[int]:
    after = 0
    while True:
        rows = conn.execute(
            "SELECT id FROM messages INDEXED BY messages_account WHERE account_id = ? AND id > ? AND id < ?"
            " AND joined_to IS NULL ORDER BY id LIMIT ?",
            (account_id, after, end, _AT_ONCE),
        ).fetchall()
        if not rows:
            return
        after = rows[-1][0]
        found = removal.look(conn, account_id, [row[0] for row in rows])
        # A text that was submitted around midnight goes a day later, as a whole.
        texts = sorted(text for text in found.texts if max(text) < end)
        if texts:
            # All of them had ended before they were looked at. Now that is counted, too.
            for _ in rollup.catch_up(conn):
                yield 0
        for some in removal.portions(texts):
            removal.take(conn, account_id, some, sums=False)
            yield sum(map(len, some))


def _remove_received(conn: Connection, account_id: int, end: int) -> Iterator[int]:
    after = 0
    while True:
        rows = conn.execute(
            "SELECT id FROM received INDEXED BY received_account WHERE account_id = ? AND id > ? AND id < ?"
            " AND ended_at IS NOT NULL ORDER BY id LIMIT ?",
            (account_id, after, end, removal.AT_ONCE),
        ).fetchall()
        if not rows:
            return
        after = rows[-1][0]
        yield removal.take_received(conn, account_id, [row[0] for row in rows])


# What was left of messages that customers have deleted themselves, and the sessions that messages came from: table,
# key, what goes.
_LEFT = (
    ("deleted_days", "account_id, day, country, source", "day < :day"),
    ("deleted_charges", "account_id, charged_from", "charged_from < :end AND last_id < :end"),
    ("deleted_refunds", "message_id", "message_id < :end"),
    # A day later: of a session whose server has died it is known only when its client was last heard.
    ("ended_sessions", "id", "ended_at < :end_ms - :day_ms"),
)


def _forget_rest(conn: Connection, account_id: int, day: int, end: int) -> Iterator[int]:
    """Forget what would prove something about days that are not kept, and who was connected then."""
    for table, key, condition in _LEFT:
        gone = 1
        while gone:
            with immediate(conn):
                gone = conn.execute(
                    f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table}"
                    f" WHERE account_id = :account AND {condition} LIMIT {_ROWS_AT_ONCE})",
                    {"account": account_id, "day": day, "end": end, "end_ms": day * DAY_MS, "day_ms": DAY_MS},
                ).rowcount
            yield 0
