"""Automatic re-credit over SMPP: many submits in flight, and exactly as many packs and messages as there may be."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from portal.core import db
from portal.core.config import BillingSettings
from portal.core.crypto import Keys
from portal.services.accounts import accounts, allowed_ips, credentials
from portal.services.billing import auto_recredit, orders
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.services.operations import self_check
from portal.services.people import customers
from portal.smsc.protocol.constants import CommandStatus
from tests.smsc.esme import RawEsme, run_smsc
from tests.support import AccountLogin, Cast

K = credit_amounts.THOUSANDTHS
OPENING, BELOW, PACK = 20, 10, 100


@pytest.fixture
def sellers(conn: db.Connection, cast: Cast, keys: Keys) -> Callable[[int, int, int], list[AccountLogin]]:
    """Makes accounts of one customer that hold 20 credits each, and buy 100 below 10."""

    def make(count: int, per_day: int, line: int) -> list[AccountLogin]:
        customer = customers.get_customer_by_id(conn, cast.acme)
        customers.change_customer(conn, SHELL, customer, credit_line=line * K, min_age_days=0)
        return [_seller(conn, keys, customer.id, number, per_day) for number in range(count)]

    return make


def _seller(conn: db.Connection, keys: Keys, customer_id: int, number: int, per_day: int) -> AccountLogin:
    account = accounts.create_account(
        conn, SHELL, customer_id, name=f"smpp-many-{number}", windowing=0, throughput=0, binds=0, any_sender=True
    )
    credits.grant_credits(conn, SHELL, account, OPENING * K)
    allowed_ips.add_allowed_ip(conn, SHELL, account, "127.0.0.1")
    auto_recredit.set_recredit_rule(conn, SHELL, account, BELOW * K, PACK * K, per_day)
    return AccountLogin(
        account.id, account.name, credentials.regenerate_smpp_password(conn, keys, SHELL, account, send_mail=False)
    )


async def submit_all(port, login, count):
    """Submits messages all at once, as a client without a window does; returns how many ended in which status."""
    esme = await RawEsme.connect_and_bind(port, login)
    messages = [esme.build_submit_sm(registered_delivery=0) for _ in range(count)]
    esme.send(*messages)
    return Counter(each.status for each in await esme.wait_for_responses(messages))


def bought(conn, account_id):
    rows = conn.execute(
        "SELECT id FROM orders WHERE account_id = ? AND origin = 'automatic' ORDER BY id", (account_id,)
    )
    return [orders.get_order_by_id(conn, row["id"]) for row in rows.fetchall()]


async def test_one_account_with_several_clients(config, conn, sellers):
    (login,) = sellers(1, per_day=5, line=100_000)
    async with run_smsc(config) as server:
        counts = await asyncio.gather(*(submit_all(server.port, login, 200) for _ in range(3)))
    assert sum(counts, Counter()) == {CommandStatus.ESME_ROK: OPENING + 5 * PACK, CommandStatus.ESME_RSUBMITFAIL: 80}
    assert [each.credited for each in bought(conn, login.id)] == [True] * 5
    assert credits.get_balance(conn, login.id) == 0
    assert self_check.list_problem_texts(conn) == []


async def test_nothing_is_bought_where_nothing_is_sold(config, conn, sellers):
    (login,) = sellers(1, per_day=5, line=100_000)
    async with run_smsc(replace(config, billing=BillingSettings("off"))) as server:
        counts = await submit_all(server.port, login, OPENING + 5)
    assert counts == {CommandStatus.ESME_ROK: OPENING, CommandStatus.ESME_RSUBMITFAIL: 5}
    assert bought(conn, login.id) == []


async def test_nobody_is_refused_for_credits_that_come_a_moment_later(config, conn, sellers):
    (login,) = sellers(1, per_day=10, line=100_000)
    async with run_smsc(config) as server:
        counts = await asyncio.gather(*(submit_all(server.port, login, 150) for _ in range(2)))
    assert sum(counts, Counter()) == {CommandStatus.ESME_ROK: 300}
    # 20 and three packs, of which no message has taken it below ten.
    assert (len(bought(conn, login.id)), credits.get_balance(conn, login.id)) == (3, 20 * K)


@pytest.mark.slow
async def test_twenty_accounts_share_a_line(config, conn, cast, sellers):
    logins = sellers(20, per_day=2, line=30 * PACK)
    async with run_smsc(config) as server:
        counts = await asyncio.gather(*(submit_all(server.port, each, 230) for each in logins))
    accepted = 20 * OPENING + 30 * PACK
    assert sum(counts, Counter()) == {
        CommandStatus.ESME_ROK: accepted,
        CommandStatus.ESME_RSUBMITFAIL: 20 * 230 - accepted,
    }
    found = {each.id: bought(conn, each.id) for each in logins}
    credited = {account_id: sum(each.credited for each in own) for account_id, own in found.items()}
    assert sum(credited.values()) == 30
    assert auto_recredit.get_owed_credits(conn, cast.acme) == 30 * PACK * K
    # Whose last pack the line did not cover has asked for it, once.
    requests = {account_id: len(own) - credited[account_id] for account_id, own in found.items()}
    assert requests == {account_id: 0 if count == 2 else 1 for account_id, count in credited.items()}
    assert {credits.get_balance(conn, each.id) for each in logins} == {0}
    for login, count in zip(logins, counts, strict=True):
        assert count[CommandStatus.ESME_ROK] == OPENING + credited[login.id] * PACK
    assert self_check.list_problem_texts(conn) == []
