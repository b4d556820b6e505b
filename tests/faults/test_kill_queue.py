"""kill -9 while waiting messages are held and cancelled: each is as it was, or cancelled and paid back; it goes on."""

import pytest

from portal.core import db
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELETED
from portal.services.credits import credits
from portal.services.messages import queue_selection, queue_works
from portal.services.messages.queue_selection import CANCEL, HOLD, QueueFilter
from portal.services.operations import self_check
from tests.services.submitting import store_messages
from tests.services.upstreams.waiting import add_upstream
from tests.serving import start_server
from tests.support import AccountLogin, find_free_port, prepare_submit, wait_until

MESSAGES = 6_000


@pytest.fixture
def account(conn: db.Connection, keys: Keys, logins: list[AccountLogin]) -> Account:
    """An account with messages that wait for an upstream which nobody listens for."""
    account = accounts.get_account(conn, logins[0].name)
    add_upstream(conn, keys, host="127.0.0.1", port=find_free_port())
    credits.grant_credits(conn, SHELL, account, MESSAGES * credit_amounts.THOUSANDTHS)
    conn.execute("PRAGMA synchronous = OFF")
    submits = [prepare_submit(conn, account.id, destination=f"39333{each:07d}") for each in range(MESSAGES)]
    for each in submits:
        each.is_queued = True
    for start in range(0, MESSAGES, 500):
        store_messages(conn, submits[start : start + 500])
    return account


def test_a_work_goes_on_after_kill_9_and_credits_add_up(
    config: Config, conn: db.Connection, account: Account, rounds: int
) -> None:
    (before,) = conn.execute("SELECT balance FROM accounts WHERE id = ?", (account.id,)).fetchone()
    (cost,) = conn.execute("SELECT sum(price) FROM messages WHERE account_id = ?", (account.id,)).fetchone()
    for action in (HOLD, CANCEL):
        selection = queue_selection.build_selection(conn, action, QueueFilter())
        queue_works.create_queue_work(conn, SHELL, action, selection, asked_count=MESSAGES)

    def count_done() -> int:
        return sum(each.done_count for each in queue_works.list_queue_works(conn))

    for number in range(1, rounds + 1):
        point = 2 * MESSAGES * number // (rounds + 1)
        with start_server(config, "smsc") as server:
            wait_until(lambda point=point: count_done() >= point, 60)  # type: ignore[misc]
            server.process.kill()
            server.process.wait()
        (balance,) = conn.execute("SELECT balance FROM accounts WHERE id = ?", (account.id,)).fetchone()
        (cancelled,) = conn.execute("SELECT count(*) FROM messages WHERE state = ?", (DELETED,)).fetchone()
        assert balance == before + cost * cancelled // MESSAGES
        assert self_check.list_problem_texts(conn) == []
    with start_server(config, "smsc"):
        wait_until(lambda: not queue_works.has_open_works(conn), 60)
    assert [each.done_count for each in queue_works.list_queue_works(conn)] == [MESSAGES, MESSAGES]
    (balance,) = conn.execute("SELECT balance FROM accounts WHERE id = ?", (account.id,)).fetchone()
    assert balance == before + cost
    assert self_check.list_problem_texts(conn) == []
