"""kill -9 in the middle of a big deletion, and of retention: both continue at the next start, and the check passes."""

import random
from collections.abc import Iterator

import pytest

from portal.core import db
from portal.core.clock import DAY_MS, now_ms
from portal.core.config import Config
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common import ids
from portal.services.common.audit import Actor
from portal.services.common.message_states import DELIVERED
from portal.services.common.periods import LAST_DAY, Period
from portal.services.history import deletion
from portal.services.history.search import SearchQuery
from portal.services.messages import intake, outcomes
from portal.services.messages.outcomes import MessageOutcome
from portal.services.operations import self_check
from tests.services.audit_log import list_audit_entries
from tests.serving import start_server
from tests.support import AccountLogin, prepare_submit, wait_until

MESSAGES = 12_000
A_BATCH = 400
YEARS_AGO = 400 * DAY_MS


@pytest.fixture
def account(conn: db.Connection, logins: list[AccountLogin]) -> Account:
    """An account with messages of today and of last year, as many of each."""
    account = accounts.get_account(conn, logins[0].name)
    conn.execute("PRAGMA synchronous = OFF")
    now = now_ms()
    submit = prepare_submit(conn, account.id, b"your parcel is on its way", registered_delivery=0)
    for since in (now - YEARS_AGO, now - DAY_MS):
        for at in range(since, since + MESSAGES, A_BATCH):
            stored = intake.store_messages(conn, [submit] * A_BATCH, at).message_ids
            outcomes.finish_messages(conn, [MessageOutcome(each, DELIVERED, 0, at) for each in stored if each])
    return account


def left(conn: db.Connection, account: Account, since: int, until: int) -> int:
    return int(
        conn.execute(
            "SELECT count(*) FROM messages WHERE account_id = ? AND id >= ? AND id < ?",
            (account.id, ids.min_id_at_time(since), ids.min_id_at_time(until)),
        ).fetchone()[0]
    )


def points(chance: random.Random, rounds: int) -> Iterator[int]:
    """How many are to be left when the process is killed."""
    for number in range(rounds, 0, -1):
        yield MESSAGES * number // (rounds + 1) - chance.randrange(MESSAGES // (rounds + 1) // 2)


def test_a_deletion_and_retention_go_on_after_kill_9(
    config: Config, conn: db.Connection, account: Account, rounds: int
) -> None:
    now = now_ms()
    recent, old = (now - 2 * DAY_MS, now + DAY_MS), (0, now - YEARS_AGO + DAY_MS)
    deletion_id = deletion.create_deletion(
        conn, Actor("alice@acme.example"), account, deletion.build_query_scope(conn, account.id, _since(*recent))
    )

    for point in points(random.Random(7), rounds):
        with start_server(config, "web") as server:
            wait_until(lambda most=point: min(left(conn, account, *each) for each in (recent, old)) <= most, 60)  # type: ignore[misc]
            server.process.kill()
            server.process.wait()
        assert self_check.list_problem_texts(conn) == []
    assert left(conn, account, *recent) + left(conn, account, *old) > 0

    with start_server(config, "web"):
        wait_until(lambda: left(conn, account, *recent) == left(conn, account, *old) == 0, 60)
        wait_until(lambda: deletion.list_open_deletion_ids(conn) == [])
    result = deletion.get_deletion_by_id(conn, deletion_id)
    assert (result.removed, result.total, result.underway, result.waiting) == (MESSAGES, MESSAGES, 0, 0)
    assert [each.details["removed"] for each in list_audit_entries(conn, account.id) if each.action == "history.delete"]
    assert self_check.list_problem_texts(conn) == []
    assert conn.execute("SELECT count(*) FROM deleted_messages").fetchone()[0] == MESSAGES


def _since(since: int, until: int) -> SearchQuery:
    return SearchQuery(Period(since, until, None, LAST_DAY))
