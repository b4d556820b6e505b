"""Which way a message would go: what is asked for one account, and what holds it up."""

import pytest

from portal.core import db
from portal.core.crypto import Keys
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.messages import message_ways
from portal.services.routing import routes
from portal.services.routing.routes import RouteTexts
from tests.services.upstreams.waiting import add_upstream
from tests.support import Cast


@pytest.fixture
def account(conn: db.Connection, keys: Keys, cast: Cast) -> Account:
    """Its messages have a route of their own."""
    add_upstream(conn, keys)
    routes.add_route(conn, SHELL, RouteTexts("carrier", customer="Acme"))
    return accounts.get_account(conn, cast.smpp_acme_1.name)


def describe_way(conn: db.Connection, account: Account) -> message_ways.MessageWay:
    return message_ways.find_message_way(conn, account, "393401234567", "", routes.list_routes(conn))


def count_steps(conn: db.Connection, account: Account) -> int:
    """How much SQLite works for it, in thousands of instructions."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    conn.set_progress_handler(count, 1_000)
    describe_way(conn, account)
    conn.set_progress_handler(None, 0)
    return steps


def test_it_takes_no_longer_where_there_are_many_accounts(conn: db.Connection, account: Account) -> None:
    before = count_steps(conn, account)
    for number in range(200):
        accounts.create_account(conn, SHELL, account.customer_id, name=f"smpp-many-{number}")
    assert count_steps(conn, account) <= before + 2
