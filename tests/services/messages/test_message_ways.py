"""Which way a message would go: what is asked for one account, and what holds it up."""

import pytest

from portal.core import db
from portal.core.clock import DAY_MS, now_ms
from portal.core.crypto import Keys
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.brakes import brakes
from portal.services.brakes.brakes import Brakes
from portal.services.common.audit import SHELL
from portal.services.messages import message_ways
from portal.services.prices import prices
from portal.services.routing import routes
from portal.services.routing.routes import RouteTexts
from portal.services.statistics import daily_totals
from portal.services.upstreams import holds
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


def test_a_hold_and_limits_are_told(conn: db.Connection, account: Account) -> None:
    way = describe_way(conn, account)
    assert not way.is_refused
    holds.hold_account(conn, SHELL, account.id, "too much")
    brakes.set_brakes(conn, SHELL, account, Brakes(day_messages=2, day_credits=5_000, hour_messages=3))
    way = describe_way(conn, account)
    assert "smpp-acme-1 is on hold: its messages wait until it is released." in str(way)
    assert "The account sends at most 3 messages an hour to one number." in str(way)
    assert not way.is_refused
    # Its day's messages, and then its credits too.
    daily_totals.add_daily_totals(conn, [(account.id, now_ms() // DAY_MS, 2, 2, 0, 0, 0, 0, 2_000)])
    way = describe_way(conn, account)
    assert way.is_refused
    assert "The most messages a day (2) were reached." in str(way)
    assert "The most credits a day" not in str(way)
    assert "It is refused all the same (ESME_RSUBMITFAIL)." in str(way)
    # A part of what is left isn't enough for one.
    price_list = prices.load_account_price_list(conn, account.id, now_ms())
    (_, price) = price_list.find_price("393401234567") or ("", 0)
    daily_totals.add_daily_totals(conn, [(account.id, now_ms() // DAY_MS, 0, 0, 0, 0, 0, 0, 3_000 - price)])
    assert "The most credits a day" not in str(describe_way(conn, account))
    daily_totals.add_daily_totals(conn, [(account.id, now_ms() // DAY_MS, 0, 0, 0, 0, 0, 0, 1)])
    way = describe_way(conn, account)
    assert "The most credits a day (5) were reached." in str(way)
    assert str(way).count("It is refused all the same (ESME_RSUBMITFAIL).") == 1
