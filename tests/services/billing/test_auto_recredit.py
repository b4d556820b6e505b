"""Automatic re-credit: when a pack is bought, when it is asked for, and when neither happens."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection, write_transaction
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit, orders, packs
from portal.services.billing.orders import Order
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL, Actor
from portal.services.common.message_states import PTT_NO_CREDIT
from portal.services.credits import credits, ledger
from portal.services.messages import blacklist, intake
from portal.services.operations import self_check
from portal.services.people import customers
from portal.services.people.customers import Customer
from tests.services.audit_log import list_audit_entries
from tests.support import Cast, prepare_submit

K = credit_amounts.THOUSANDTHS
ALICE = Actor("alice@acme.example")
PACK = 100 * K


@pytest.fixture(autouse=True)
def from_any_sender(conn: Connection, acme_2: Account, globex_1: Account) -> None:
    for each in (acme_2, globex_1):
        accounts.change_account(conn, SHELL, each, any_sender=True)


@pytest.fixture
def acme(conn: Connection, cast: Cast) -> Customer:
    return customers.get_customer_by_id(conn, cast.acme)


@pytest.fixture
def allow(conn: Connection, acme: Customer) -> Callable[..., None]:
    """Lets the customer owe as many credits, for accounts of any age."""

    def allow(line: int = 100_000, min_age_days: int = 0) -> None:
        customers.change_customer(conn, SHELL, acme, credit_line=line * K, min_age_days=min_age_days)

    return allow


@pytest.fixture
def rule(conn: Connection, acme_2: Account) -> Callable[..., None]:
    """Sets the rule of an account, smpp-acme-2 (100 credits) unless told otherwise."""

    def rule(below: int = 50, pack: int = 100, per_day: int = 10, account: Account = acme_2) -> None:
        auto_recredit.set_recredit_rule(conn, ALICE, account, below * K, pack * K, per_day)

    return rule


@pytest.fixture
def send(conn: Connection, acme_2: Account) -> Callable[..., int]:
    """Sends messages of one credit each, in one transaction; returns how many were taken."""

    def send(count: int, account: Account = acme_2, now: int | None = None, **fields: Any) -> int:
        stored = intake.store_messages(conn, [prepare_submit(conn, account.id, **fields)] * count, now)
        return sum(each is not None for each in stored.message_ids)

    return send


def automatic(conn: Connection) -> list[Order]:
    return [
        orders.get_order_by_id(conn, row["id"])
        for row in conn.execute("SELECT id FROM orders WHERE origin = 'automatic' ORDER BY id")
    ]


def kinds(conn: Connection) -> list[str]:
    return [row["kind"] for row in conn.execute("SELECT kind FROM credit_notices ORDER BY id")]


def balance(conn: Connection, account: Account) -> int:
    return credits.get_balance(conn, account.id) // K


# --- buying


def test_a_debit_that_takes_it_below_the_threshold_buys_a_pack_once(conn, acme_2, allow, rule, send):
    allow()
    rule()
    assert send(50) == 50
    assert (balance(conn, acme_2), automatic(conn)) == (50, [])
    assert send(1) == 1
    (order,) = automatic(conn)
    assert (order.credits, order.price, order.currency, order.created_by) == (PACK, 700, "EUR", "system")
    assert (order.credited, order.status) == (True, orders.OPEN)
    assert balance(conn, acme_2) == 149
    send(20)
    assert len(automatic(conn)) == 1
    assert self_check.list_problem_texts(conn) == []


def test_the_credits_come_before_the_messages_that_need_them(conn, acme_2, allow, rule, send):
    allow()
    rule()
    assert send(180) == 180
    lines = conn.execute(
        "SELECT kind, amount, balance_after FROM movements WHERE account_id = ? ORDER BY id DESC LIMIT 3", (acme_2.id,)
    ).fetchall()
    assert [tuple(each) for each in lines[::-1]] == [
        ("purchase", PACK, 200 * K),
        ("purchase", PACK, 300 * K),
        ("usage", -180 * K, 120 * K),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 7, 400])
def test_as_many_packs_are_bought_whether_messages_come_one_by_one_or_together(
    conn, acme_2, allow, rule, send, together
):
    allow()
    rule(per_day=3)
    taken = sum(send(min(together, 410 - sent)) for sent in range(0, 410, together))
    assert (taken, len(automatic(conn)), balance(conn, acme_2)) == (400, 3, 0)
    refused = conn.execute("SELECT count(*) FROM messages WHERE ptt = ?", (PTT_NO_CREDIT,)).fetchone()[0]
    assert refused == 10
    assert self_check.list_problem_texts(conn) == []


def test_each_pack_is_told_and_written_down(conn, acme_2, allow, rule, send):
    allow()
    rule()
    send(180)
    assert kinds(conn) == ["recredited", "recredited"]
    entries = [each for each in list_audit_entries(conn, acme_2.id) if each.action == "recredit.buy"]
    assert [each.details["order"] for each in entries] == [each.number for each in automatic(conn)[::-1]]
    assert entries[0].details["credits"] == PACK


def test_what_is_stopped_by_the_blacklist_needs_no_credits(conn, acme_2, allow, rule, send):
    allow()
    rule()
    send(50)
    blacklist.add_blacklist_number(conn, SHELL, acme_2, "393401234567")
    assert send(5) == 5
    assert automatic(conn) == []


def test_an_account_without_a_rule_costs_no_statement(conn, acme_1, allow, rule, send):
    allow()
    rule()
    seen: list[str] = []
    conn.set_trace_callback(seen.append)
    send(3, account=acme_1)
    conn.set_trace_callback(None)
    assert not [each for each in seen if "recredit_pack" in each or "orders" in each]
    assert not [each for each in seen if "credit_notices" in each]


def test_a_rule_that_does_not_apply_costs_no_statement(conn, allow, rule, send):
    allow()
    rule()
    seen: list[str] = []
    conn.set_trace_callback(seen.append)
    send(50)
    conn.set_trace_callback(None)
    assert not [each for each in seen if "recredit_pack" in each]


def test_it_finds_what_decides_by_indexes(conn, acme_2):
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    auto_recredit.find_accounts_to_recredit(conn, [acme_2.id])
    conn.set_trace_callback(None)
    (statement,) = statements
    plan = conn.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
    scans = [each["detail"] for each in plan if each["detail"].startswith("SCAN")]
    assert scans == ["SCAN json_each VIRTUAL TABLE INDEX 1:"]
    assert any("orders_automatic" in each["detail"] and "movement_id>" in each["detail"] for each in plan)


# --- the cap


def test_the_cap_counts_by_day(conn, acme_2, allow, rule, send):
    allow()
    rule(per_day=1)
    today = now_ms() // DAY_MS * DAY_MS
    late, next_day = today + DAY_MS - 1, today + DAY_MS
    assert send(210, now=late) == 200
    assert len(automatic(conn)) == 1
    assert send(10, now=next_day) == 10
    assert len(automatic(conn)) == 2
    assert kinds(conn) == ["recredited", "recredited"]


def test_what_the_customer_orders_does_not_count(conn, acme_2, allow, rule, send):
    allow()
    rule(per_day=1)
    order = orders.place_order(conn, ALICE, acme_2, packs.get_pack(conn, PACK))
    orders.pay_order(conn, SHELL, order)
    assert send(151) == 151
    assert len(automatic(conn)) == 1


def test_a_cap_that_is_used_up_asks_for_nothing(conn, acme_2, allow, rule, send):
    allow()
    rule(per_day=1)
    send(200)
    allow(line=0)
    send(1)
    assert kinds(conn) == ["recredited"]


# --- the credit line


def test_the_line_covers_what_all_accounts_owe(conn, acme_1, acme_2, allow, rule, send):
    allow(line=150)
    rule(below=1000, account=acme_1)
    rule()
    send(1, account=acme_1)
    assert [each.account for each in automatic(conn)] == ["smpp-acme-1"]
    assert auto_recredit.get_owed_credits(conn, acme_1.customer_id) == PACK
    send(51)
    request = automatic(conn)[1]
    assert (request.account, request.credited) == ("smpp-acme-2", False)
    assert balance(conn, acme_2) == 49


def test_another_customers_debts_are_its_own(conn, acme_2, globex_1, allow, rule, send):
    allow(line=100)
    other = customers.get_customer_by_id(conn, globex_1.customer_id)
    customers.change_customer(conn, SHELL, other, credit_line=PACK, min_age_days=0)
    rule(below=500, account=globex_1)
    rule()
    send(1, account=globex_1)
    send(51)
    assert [each.credited for each in automatic(conn)] == [True, True]


def test_what_is_paid_is_no_longer_owed(conn, acme_2, allow, rule, send):
    allow(line=100)
    rule()
    send(51)
    orders.pay_order(conn, SHELL, automatic(conn)[0])
    assert auto_recredit.get_owed_credits(conn, acme_2.customer_id) == 0
    send(100)
    assert [each.credited for each in automatic(conn)] == [True, True]


def test_an_order_that_waits_for_its_payment_is_not_owed(conn, acme_2, allow, rule, send):
    allow(line=100)
    orders.place_order(conn, ALICE, acme_2, packs.get_pack(conn, PACK))
    rule()
    send(51)
    assert automatic(conn)[0].credited


def test_a_line_that_is_just_enough(conn, allow, rule, send):
    allow(line=100)
    rule()
    send(51)
    assert automatic(conn)[0].credited


# --- requests


def test_without_the_line_the_operator_is_asked_once(conn, acme_2, rule, send):
    rule()
    assert send(51) == 51
    assert send(60) == 49
    (request,) = automatic(conn)
    assert (request.credited, request.status) == (False, orders.OPEN)
    assert kinds(conn) == ["requested"]
    assert balance(conn, acme_2) == 0
    assert self_check.list_problem_texts(conn) == []


@pytest.mark.parametrize(("days", "credited"), [(0, True), (60, False)])
def test_a_young_account_asks(conn, allow, rule, send, days, credited):
    allow(min_age_days=days)
    rule()
    send(51)
    assert automatic(conn)[0].credited is credited


def test_an_account_is_old_enough_after_so_many_days(conn, acme_2, allow, rule, send):
    allow(min_age_days=60)
    rule()
    conn.execute("UPDATE accounts SET created_at = ? WHERE id = ?", (now_ms() - 60 * DAY_MS, acme_2.id))
    send(51)
    assert automatic(conn)[0].credited


def test_the_operator_releases_a_request(conn, acme_2, rule, send):
    rule()
    send(51)
    orders.pay_order(conn, SHELL, automatic(conn)[0])
    assert balance(conn, acme_2) == 149
    send(100)
    assert [each.credited for each in automatic(conn)] == [True, False]


def test_a_request_that_was_declined_is_not_repeated_that_day(conn, acme_2, rule, send):
    rule()
    send(51)
    orders.cancel_order(conn, SHELL, automatic(conn)[0])
    send(1)
    assert len(automatic(conn)) == 1
    send(1, now=now_ms() + DAY_MS)
    assert [each.status for each in automatic(conn)] == [orders.CANCELLED, orders.OPEN]


def test_a_request_becomes_needless_when_the_line_comes(conn, acme_2, allow, rule, send):
    rule()
    send(51)
    allow()
    send(1)
    request, bought = automatic(conn)
    assert (request.status, request.cancelled_by) == (orders.CANCELLED, "system")
    assert (bought.credited, balance(conn, acme_2)) == (True, 148)


def test_a_pack_that_is_not_sold_any_more_is_not_bought(conn, acme_2, allow, rule, send):
    allow()
    rule()
    conn.execute("DELETE FROM packs WHERE credits = ?", (PACK,))
    assert send(110) == 100
    assert automatic(conn) == []


# --- the rule


def test_a_rule_is_kept_and_written_down(conn, acme_2, rule):
    rule(below=50, pack=250, per_day=3)
    account = accounts.get_account(conn, acme_2.name)
    assert (account.recredit_below, account.recredit_pack, account.recredit_per_day) == (50 * K, 250 * K, 3)
    entry = list_audit_entries(conn, acme_2.id)[0]
    assert (entry.actor, entry.action) == (ALICE.name, "recredit.set")
    assert entry.details == {"below": 50 * K, "pack": 250 * K, "per_day": 3}


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ((50 * K, None, 1), auto_recredit.RecreditPackMissing),
        ((50 * K, 300 * K, 1), packs.NoSuchPack),
        ((50 * K, PACK, 0), auto_recredit.InvalidPacksPerDay),
        ((50 * K, PACK, 11), auto_recredit.InvalidPacksPerDay),
    ],
)
def test_senseless_rules_are_refused(conn, acme_2, values, refusal):
    with pytest.raises(refusal):
        auto_recredit.set_recredit_rule(conn, ALICE, acme_2, *values)
    assert accounts.get_account(conn, acme_2.name).recredit_below is None


def test_only_packs_of_the_known_sizes_that_are_sold_can_be_chosen(conn, acme_2):
    conn.execute("INSERT INTO packs VALUES (300000, 2000, 'EUR')")
    conn.execute("DELETE FROM packs WHERE credits = 200000")
    assert [each.credits // K for each in auto_recredit.list_auto_recredit_packs(conn)] == [
        100,
        250,
        500,
        1000,
        5000,
        10000,
    ]
    with pytest.raises(packs.NoSuchPack):
        auto_recredit.set_recredit_rule(conn, ALICE, acme_2, 50 * K, 300 * K, 1)


def test_taking_the_rule_away_takes_its_request_back(conn, acme_2, rule, send):
    rule()
    send(51)
    auto_recredit.set_recredit_rule(conn, ALICE, acme_2, None, None, 1)
    (request,) = automatic(conn)
    assert (request.status, request.cancelled_by) == (orders.CANCELLED, ALICE.name)
    send(1)
    assert len(automatic(conn)) == 1


@pytest.mark.parametrize(("pack", "status"), [(100, orders.OPEN), (250, orders.CANCELLED)])
def test_another_pack_takes_the_request_for_the_old_one_back(conn, rule, send, pack, status):
    rule()
    send(51)
    rule(below=20, pack=pack)
    assert automatic(conn)[0].status == status


def test_per_day_is_a_whole_number():
    assert auto_recredit.parse_packs_per_day(" 3 ") == 3
    with pytest.raises(auto_recredit.InvalidPacksPerDay, match="“often” can't be how many packs a day"):
        auto_recredit.parse_packs_per_day("often")


# --- what the operator sets


def test_the_operator_sets_line_and_age(conn, acme):
    customers.change_customer(conn, SHELL, acme, credit_line=500 * K, min_age_days=30)
    changed = customers.get_customer_by_id(conn, acme.id)
    assert (changed.credit_line, changed.recredit_min_age_days) == (500 * K, 30)
    customers.change_customer(conn, SHELL, acme, credit_line=0)
    assert customers.get_customer_by_id(conn, acme.id).recredit_min_age_days == 30
    details = [
        row["details"]
        for row in conn.execute("SELECT details FROM audit_log WHERE action = 'customer.change' ORDER BY id")
    ]
    assert details == ['{"credit_line": 500000, "recredit_min_age_days": 30}', '{"credit_line": 0}']


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"credit_line": -1}, customers.InvalidCreditLine),
        ({"min_age_days": -1}, customers.InvalidRecreditMinAge),
        ({"min_age_days": 3651}, customers.InvalidRecreditMinAge),
    ],
)
def test_what_no_operator_means_is_refused(conn, acme, values, refusal):
    with pytest.raises(refusal):
        customers.change_customer(conn, SHELL, acme, **values)
    assert customers.get_customer_by_id(conn, acme.id) == acme


@pytest.mark.parametrize(("text", "line"), [("0", 0), (" 0 ", 0), ("250.5", 250_500)])
def test_a_line_as_it_is_typed(text, line):
    assert auto_recredit.parse_credit_line(text) == line


@pytest.mark.parametrize("text", ["", "-5", "much", "0.0001"])
def test_what_is_no_line(text):
    with pytest.raises(customers.InvalidCreditLine, match="can't be a credit line"):
        auto_recredit.parse_credit_line(text)


def test_customers_begin_without_a_line_and_at_sixty_days(acme):
    assert (acme.credit_line, acme.recredit_min_age_days) == (0, 60)


# --- where it stands


def test_where_an_account_stands(conn, acme_2, allow, rule, send):
    allow(line=150)
    rule(per_day=2)
    send(51)
    status = auto_recredit.get_recredit_status(conn, acme_2.id)
    assert (status.bought_today, status.per_day, status.owed_credits, status.credit_line) == (1, 2, PACK, 150 * K)
    assert (
        status.is_under_daily_limit,
        status.is_within_credit_line,
        status.old_enough,
        status.is_credited_at_once,
    ) == (
        True,
        False,
        True,
        False,
    )
    assert status.open_order_id is None
    send(100)
    assert auto_recredit.get_recredit_status(conn, acme_2.id).open_order_id == automatic(conn)[1].id


# --- several at once


@pytest.mark.slow
def test_several_at_once_buy_no_pack_too_many(connect, conn, acme_1, acme_2, allow, rule):
    allow(line=300)
    rule(per_day=3)
    rule(below=1000, per_day=3, account=acme_1)

    def one(number: int) -> list[list[int | None]]:
        own = connect()
        account = (acme_1, acme_2)[number % 2]
        return [intake.store_messages(own, [prepare_submit(own, account.id)] * 5).message_ids for _ in range(20)]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))
    bought = [each for each in automatic(conn) if each.credited]
    assert len(bought) == 3
    assert auto_recredit.get_owed_credits(conn, acme_1.customer_id) == 300 * K
    total = balance(conn, acme_1) + balance(conn, acme_2)
    sent = conn.execute("SELECT count(*) FROM messages WHERE price > 0").fetchone()[0]
    assert total == 1000 + 100 + 300 - sent
    assert self_check.list_problem_texts(conn) == []


def test_what_is_rolled_back_leaves_no_order(conn, acme_2, allow, rule):
    allow()
    rule()

    submits = [prepare_submit(conn, acme_2.id)] * 60

    def fails() -> None:
        with write_transaction(conn):
            assert None not in intake.store_messages(conn, submits).message_ids
            raise ConnectionError

    with pytest.raises(ConnectionError):
        fails()
    assert (automatic(conn), kinds(conn), balance(conn, acme_2)) == ([], [], 100)


def test_a_transfer_that_takes_it_below_waits_for_the_next_message(conn, acme_1, acme_2, allow, rule, send):
    allow()
    rule()
    credits.transfer_credits(conn, ALICE, acme_2, acme_1, 90 * K)
    assert automatic(conn) == []
    send(1)
    assert (len(automatic(conn)), balance(conn, acme_2)) == (1, 109)


def test_a_purchase_is_a_movement_of_its_order(conn, acme_2, allow, rule, send):
    allow()
    rule()
    send(51)
    row = conn.execute("SELECT kind, amount, note FROM movements WHERE id = ?", (automatic(conn)[0].movement_id,))
    assert tuple(row.fetchone()) == (ledger.PURCHASE, PACK, automatic(conn)[0].number)
