"""Helpers for tests of deletion and retention."""

from calendar import timegm
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.common import ids
from portal.services.common.audit import Actor
from portal.services.common.message_states import DELIVERED
from portal.services.history import deletion, removal, retention
from portal.services.history.deletion import Deletion, DeletionScope
from portal.services.messages import outcomes
from portal.services.messages.deliveries import DeliveryReceipt
from portal.services.messages.outcomes import MessageOutcome
from portal.services.statistics.daily_totals import MESSAGE_COUNT_SQL
from tests.services.submitting import store_messages
from tests.support import prepare_submit

MARTA = Actor("marta@acme.example", "198.51.100.7")


def day(year: int, month: int, number: int) -> int:
    return timegm((year, month, number, 0, 0, 0)) // 86_400


NOW = day(2026, 11, 23) * DAY_MS + DAY_MS // 2


def sent(
    conn: Connection, account: Account, *texts: str, at: int | None = None, ended: bool = True, **overrides: object
) -> list[int]:
    """Send texts; returns the ids of their messages."""
    overrides = {"registered_delivery": 0} | overrides
    message_ids = store_messages(
        conn, [prepare_submit(conn, account.id, text.encode(), **overrides) for text in texts], at
    )
    if ended:
        end(conn, message_ids, at)
    return message_ids


def end(
    conn: Connection, message_ids: Sequence[int], at: int | None = None, state: int = DELIVERED, ptt: int = 0
) -> list[DeliveryReceipt]:
    at = now_ms() if at is None else at
    return outcomes.finish_messages(conn, [MessageOutcome(each, state, ptt, at) for each in message_ids])


@contextmanager
def small_batches(read: int, removed: int) -> Iterator[None]:
    """Let deletions read so many messages at a time, and they and retention remove so many in a transaction."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deletion, "_BATCH_SIZE", read)
        patch.setattr(removal, "BATCH_SIZE", removed)
        yield


def delete(conn: Connection, account: Account, scope: DeletionScope, *, total: int | None = None) -> Deletion:
    """Run a deletion to its end."""
    deletion_id = deletion.create_deletion(conn, MARTA, account, scope, total=total)
    for _ in deletion.run_deletion(conn, deletion_id):
        pass
    return deletion.get_deletion_by_id(conn, deletion_id)


def left(conn: Connection, account: Account) -> list[int]:
    return [row[0] for row in conn.execute("SELECT id FROM messages WHERE account_id = ? ORDER BY id", (account.id,))]


def keep(conn: Connection, months: int, now: int) -> int:
    return sum(retention.purge_messages(conn, months, now))


def leave_former_sums(conn: Connection) -> None:
    """Put sums in the place of what deleted messages have left, as former versions did."""
    counts = ", ".join(f"sum({each})" for each in MESSAGE_COUNT_SQL.values())
    conn.execute(
        f"INSERT INTO deleted_days SELECT account_id, {ids.build_time_sql('id')} / {DAY_MS}, country, source, {counts}"
        " FROM deleted_messages GROUP BY 1, 2, 3, 4"
    )
    conn.execute(
        "INSERT INTO deleted_charges SELECT account_id, first_message_id, min(gone.id), max(gone.id), count(*),"
        " sum(price) FROM deleted_messages AS gone JOIN movements USING (account_id)"
        " WHERE kind = 'usage' AND price > 0 AND gone.id BETWEEN first_message_id AND last_message_id GROUP BY 1, 2"
    )
    conn.execute(
        "INSERT INTO deleted_refunds SELECT gone.id, account_id, coalesce(refunded, price), state, ptt"
        " FROM deleted_messages AS gone JOIN movements USING (account_id)"
        " WHERE kind = 'refund' AND first_message_id = gone.id"
    )
    conn.execute("DELETE FROM deleted_messages")
