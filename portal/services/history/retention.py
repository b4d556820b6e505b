"""Retention: messages are kept for a number of months, the installation's or the customer's own.

Older messages are removed by whole days (UTC), in short transactions in the background. The first day whose messages
are kept is stored for each account before that (`accounts.kept_since`), and the self-check ignores everything older,
whether it has been removed yet or not. Balances, the ledger and the statistics stay.

Receipts that belong to no message, messages from handsets to numbers that no account has, and operators' test messages
are nobody's: they hold somebody's number, and go after thirty days. Traced PDUs go after one.
"""

import sqlite3
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime

from portal.core.clock import DAY_MS, HOUR_MS
from portal.core.db import Connection, write_transaction
from portal.services.common import ids
from portal.services.common.periods import subtract_months
from portal.services.history import deletion, removal, search
from portal.services.history.deletion import RECEIVED, SENT, DeletionScope
from portal.services.messages import inbound
from portal.services.statistics import rollup
from portal.services.upstreams import traces

_EPOCH = date(1970, 1, 1)
_DELETE_BATCH_SIZE = 500
_NOBODYS_TABLES = {
    "unmatched_receipts": "received_at",
    "unowned_messages": "received_at",
    "test_messages": "created_at",
}
"""With the columns that say since when each row is there."""
_NOBODYS_MS = 30 * DAY_MS
# Of each upstream: the last days are compared with the last hour.
_UPSTREAM_HOURS_MS = 8 * DAY_MS
# What the self-check would need of messages that customers have deleted themselves, and the sessions that messages came
# from: table, key, condition of the rows to delete.
_LEFTOVER_TABLES = (
    ("deleted_messages", "account_id, id", "id < :end"),
    ("deleted_days", "account_id, day, country, source", "day < :day"),
    ("deleted_charges", "account_id, charged_from", "charged_from < :end AND last_id < :end"),
    ("deleted_refunds", "message_id", "message_id < :end"),
    # A day later: for a session that ended with a crash of the server, only the last activity of its client is known.
    ("ended_sessions", "id", "ended_at < :end_ms - :day_ms"),
)


def get_retention_months(conn: sqlite3.Connection, customer_id: int, default_months: int) -> int:
    """For how many months a customer's messages are kept; `default_months` is the installation's setting."""
    row = conn.execute("SELECT coalesce(messages_months, ?) FROM customers WHERE id = ?", (default_months, customer_id))
    return int(row.fetchone()[0])


def get_first_retained_day(months: int, now: int) -> int:
    """The first day (days since 1970, UTC) whose messages are kept, for so many months before `now` (milliseconds)."""
    today = datetime.fromtimestamp(now / 1000, UTC).date()
    return max((subtract_months(today, months) - _EPOCH).days, 0)


def purge_messages(conn: Connection, default_months: int, now: int) -> Iterator[int]:
    """Remove messages that are too old at a moment (milliseconds); yields after each step how many it has removed.

    Each step is a transaction of its own, and between two of them none is open: the caller may pause. Messages that
    are under way or wait for a client stay until they have ended.

    Args:
        default_months: for customers that have no number of their own.

    Raises:
        sqlite3.OperationalError: the next call continues.
    """
    rows = conn.execute("SELECT DISTINCT coalesce(messages_months, ?) FROM customers", (default_months,)).fetchall()
    for (months,) in rows:
        day = get_first_retained_day(months, now)
        with write_transaction(conn):
            # The day never goes back, even if more months are kept now: its messages have been removed.
            conn.execute(
                "UPDATE accounts SET kept_since = ? WHERE kept_since < ?"
                " AND customer_id IN (SELECT id FROM customers WHERE coalesce(messages_months, ?) = ?)",
                (day, day, default_months, months),
            )
    for account_id, day in conn.execute("SELECT id, kept_since FROM accounts WHERE kept_since").fetchall():
        end_id = ids.min_id_at_time(day * DAY_MS)
        for kind, query in ((SENT, search.MATCH_ALL), (RECEIVED, inbound.MATCH_ALL)):
            yield from _purge_account(conn, account_id, DeletionScope(kind, sys.maxsize, end_id, query=query))
        values = {"account": account_id, "day": day, "end": end_id, "end_ms": day * DAY_MS, "day_ms": DAY_MS}
        for table, key, condition in _LEFTOVER_TABLES:
            yield from _delete_rows(conn, table, key, f"account_id = :account AND {condition}", values)
    for table, column in _NOBODYS_TABLES.items():
        yield from _delete_rows(conn, table, "id", f"{column} < :before", {"before": now - _NOBODYS_MS})
    yield from _delete_rows(conn, "traced_pdus", "id", "at < :before", {"before": now - traces.KEPT_MS})
    before = {"before": (now - _UPSTREAM_HOURS_MS) // HOUR_MS}
    yield from _delete_rows(conn, "upstream_hours", "upstream, hour, name", "hour < :before", before)


def _purge_account(conn: Connection, account_id: int, scope: DeletionScope) -> Iterator[int]:
    for plan, _ in deletion.iterate_deletion_batches(conn, account_id, scope, scope.before):
        # A text whose segments came before and after midnight is removed a day later, as a whole.
        texts = [text for text in plan.texts if max(text) < scope.before]
        if texts and scope.kind == SENT:
            # All of them have ended. The statistics must have counted that before they are removed.
            for _step in rollup.roll_up_in_batches(conn):
                yield 0
        for batch in removal.split_texts_into_batches(texts):
            deletion.delete_texts(conn, account_id, scope.kind, batch, keep_rows=False)
            yield sum(map(len, batch))


def _delete_rows(conn: Connection, table: str, key: str, condition: str, values: Mapping[str, int]) -> Iterator[int]:
    """Delete the rows of a table that meet a condition, in short transactions."""
    deleted_count = 1
    while deleted_count:
        with write_transaction(conn):
            deleted_count = conn.execute(
                f"DELETE FROM {table} WHERE ({key}) IN"
                f" (SELECT {key} FROM {table} WHERE {condition} LIMIT {_DELETE_BATCH_SIZE})",
                values,
            ).rowcount
        yield 0
