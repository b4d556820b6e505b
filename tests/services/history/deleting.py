"""What tests of deletion and retention do: send, end, delete, keep."""

from calendar import timegm

from portal.core.clock import DAY_MS, now_ms
from portal.services.common.audit import Actor
from portal.services.common.message_states import DELIVERED
from portal.services.history import deletion, retention
from portal.services.messages import intake, outcomes
from portal.services.messages.outcomes import Outcome
from tests.support import prepared

MARTA = Actor("marta@acme.example", "198.51.100.7")


def day(year, month, number):
    return timegm((year, month, number, 0, 0, 0)) // 86_400


NOW = day(2026, 11, 23) * DAY_MS + DAY_MS // 2


def sent(conn, account, *texts, at=None, ended=True, **said):
    """Send texts; returns the ids of their messages."""
    said = {"registered_delivery": 0} | said
    found = intake.store(conn, [prepared(conn, account.id, text.encode(), **said) for text in texts], at).ids
    if ended:
        end(conn, found, at)
    return found


def end(conn, message_ids, at=None, state=DELIVERED, ptt=0):
    at = now_ms() if at is None else at
    return outcomes.finish(conn, [Outcome(each, state, ptt, at) for each in message_ids])


def delete(conn, account, scope, **more):
    """To its end."""
    deletion_id = deletion.begin(conn, MARTA, account, scope, **more)
    for _ in deletion.work(conn, deletion_id):
        pass
    return deletion.by_id(conn, deletion_id)


def left(conn, account):
    return [row[0] for row in conn.execute("SELECT id FROM messages WHERE account_id = ? ORDER BY id", (account.id,))]


def keep(conn, months, now):
    return sum(retention.remove(conn, months, now))
