"""Helpers for tests of deletion and retention."""

from calendar import timegm

from portal.core.clock import DAY_MS, now_ms
from portal.services.common.audit import Actor
from portal.services.common.message_states import DELIVERED
from portal.services.history import deletion, retention
from portal.services.messages import intake, outcomes
from portal.services.messages.outcomes import MessageOutcome
from tests.support import prepare_submit

MARTA = Actor("marta@acme.example", "198.51.100.7")


def day(year, month, number):
    return timegm((year, month, number, 0, 0, 0)) // 86_400


NOW = day(2026, 11, 23) * DAY_MS + DAY_MS // 2


def sent(conn, account, *texts, at=None, ended=True, **overrides):
    """Send texts; returns the ids of their messages."""
    overrides = {"registered_delivery": 0} | overrides
    message_ids = intake.store_messages(
        conn, [prepare_submit(conn, account.id, text.encode(), **overrides) for text in texts], at
    ).message_ids
    if ended:
        end(conn, message_ids, at)
    return message_ids


def end(conn, message_ids, at=None, state=DELIVERED, ptt=0):
    at = now_ms() if at is None else at
    return outcomes.finish_messages(conn, [MessageOutcome(each, state, ptt, at) for each in message_ids])


def delete(conn, account, scope, *, total=None, idempotency_key="", **batch_sizes):
    """Run a deletion to its end."""
    deletion_id = deletion.create_deletion(conn, MARTA, account, scope, total=total, idempotency_key=idempotency_key)
    for _ in deletion.run_deletion(conn, deletion_id, **batch_sizes):
        pass
    return deletion.get_deletion_by_id(conn, deletion_id)


def left(conn, account):
    return [row[0] for row in conn.execute("SELECT id FROM messages WHERE account_id = ? ORDER BY id", (account.id,))]


def keep(conn, months, now, **batch_sizes):
    return sum(retention.purge_messages(conn, months, now, **batch_sizes))
