"""An order is credited once and paid once, whatever is done to it in which order."""

import json
from collections.abc import Iterable

import pytest

from portal.core import db
from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit, orders, packs, statement
from portal.services.billing.orders import Order, OrderFilter
from portal.services.billing.packs import Pack
from portal.services.common.audit import SHELL, SYSTEM
from portal.services.credits import credits
from portal.services.operations import self_check


@pytest.fixture
def pack(conn: Connection) -> Pack:
    return packs.get_pack(conn, 250_000)


@pytest.fixture
def order(conn: Connection, acme_1: Account, pack: Pack) -> Order:
    return orders.place_order(conn, SHELL, acme_1, pack)


@pytest.fixture
def on_credit(conn: Connection, acme_1: Account, pack: Pack) -> Order:
    """As automatic re-credit makes one: its credits are there, and owed."""
    with db.write_transaction(conn):
        number = orders.insert_order(conn, SYSTEM, acme_1.id, pack, orders.AUTOMATIC)
        orders.credit_order(conn, SYSTEM, number)
    return orders.get_order_by_id(conn, number)


def purchases(conn: Connection, account: Account) -> list[tuple[int, str | None]]:
    return [
        (each.amount, each.purchase_order_number)
        for each in statement.list_movements_page(conn, account.id, kind="purchase")
    ]


def test_an_order_brings_nothing_until_it_is_paid(conn, acme_1, order):
    assert (order.status, order.credited) == (orders.OPEN, False)
    assert credits.get_balance(conn, acme_1.id) == acme_1.balance
    paid = orders.pay_order(conn, SHELL, order, "  by\ttransfer ")
    assert (paid.status, paid.credited, paid.paid_by, paid.payment) == (orders.PAID, True, "shell", "by transfer")
    assert purchases(conn, acme_1) == [(250_000, order.number)]
    assert credits.get_balance(conn, acme_1.id) == acme_1.balance + 250_000
    assert self_check.list_problem_texts(conn) == []


@pytest.mark.parametrize("ends", [orders.pay_order, orders.cancel_order])
def test_what_is_over_stays_as_it_is(conn, acme_1, order, ends):
    over = ends(conn, SHELL, order)
    left = credits.get_balance(conn, acme_1.id)
    # `order` is as it was before: who looks at an old page has it so.
    for act in (orders.pay_order, orders.cancel_order):
        with pytest.raises(orders.OrderClosed, match=order.number):
            act(conn, SHELL, order)
    assert orders.get_order_by_id(conn, order.id) == over
    assert credits.get_balance(conn, acme_1.id) == left


def test_credits_that_are_owed_are_paid_and_not_credited_again(conn, acme_1, on_credit):
    assert auto_recredit.get_owed_credits(conn, acme_1.customer_id) == 250_000
    assert [each.owed for each in statement.list_all_balances(conn) if each.account == acme_1.name] == [250_000]
    with pytest.raises(orders.OrderCredited, match=on_credit.number):
        orders.cancel_order(conn, SHELL, on_credit)
    assert not on_credit.cancellable
    orders.pay_order(conn, SHELL, on_credit)
    assert purchases(conn, acme_1) == [(250_000, on_credit.number)]
    assert auto_recredit.get_owed_credits(conn, acme_1.customer_id) == 0
    assert self_check.list_problem_texts(conn) == []


def test_an_order_is_found_by_its_whole_number_and_for_its_account_only(conn, acme_1, acme_2, order):
    year, _, number = order.number.partition("-")
    assert orders.get_order_by_number(conn, order.number, acme_1.id) == order
    with pytest.raises(orders.NoSuchOrder):
        orders.get_order_by_number(conn, order.number, acme_2.id)
    for wrong in (number, f"{int(year) - 1}-{number}", f"{year}-{int(number)}", f"{year}-٤", f"{order.number}0", ""):
        with pytest.raises(orders.NoSuchOrder):
            orders.get_order_by_number(conn, wrong)


def test_pages_of_orders_are_turned_both_ways(conn, acme_1, acme_2, pack):
    made = [orders.place_order(conn, SHELL, account, pack) for account in (acme_1, acme_2, acme_1, acme_1)]
    orders.pay_order(conn, SHELL, made[0])
    orders.cancel_order(conn, SHELL, made[2])
    own = OrderFilter(account_id=acme_1.id)

    def ids(listed: Iterable[Order]) -> list[int]:
        return [each.id - made[0].id for each in listed]

    assert ids(orders.list_orders_page(conn, own)) == [3, 2, 0]
    assert ids(orders.list_orders_page(conn, own, before=made[3].id, limit=1)) == [2]
    assert ids(orders.list_orders_page(conn, own, after=made[0].id, limit=1)) == [2]
    assert ids(orders.list_orders_page(conn, own, after=made[0].id)) == [3, 2]
    assert ids(orders.iterate_orders(conn, OrderFilter(customer_id=acme_1.customer_id))) == [3, 2, 1, 0]
    for status, expected in ((orders.OPEN, [3, 1]), (orders.PAID, [0]), (orders.CANCELLED, [2])):
        assert ids(orders.list_orders_page(conn, OrderFilter(status=status))) == expected


def test_what_is_owed_is_found_among_the_open_orders(conn, acme_1):
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    auto_recredit.get_owed_credits(conn, acme_1.customer_id)
    conn.set_trace_callback(None)
    (plan,) = [
        row["detail"]
        for row in conn.execute(f"EXPLAIN QUERY PLAN {statements[0]}")
        if row["detail"].startswith("SEARCH orders")
    ]
    assert "INDEX orders_open" in plan


def test_all_of_it_stands_in_the_audit_log(conn, order):
    orders.pay_order(conn, SHELL, order, "cash")
    rows = conn.execute("SELECT action, details FROM audit_log WHERE action LIKE 'order.%' ORDER BY id").fetchall()
    assert [row["action"] for row in rows] == ["order.place", "order.pay"]
    assert json.loads(rows[1]["details"])["payment"] == "cash"
