"""`order …` and `pack …`, as users and scripts run them."""

import pytest

from portal.core.db import Connection
from portal.services.accounts import accounts
from portal.services.billing import orders, packs
from portal.services.billing.orders import Order
from portal.services.billing.packs import Pack
from portal.services.common.audit import SHELL
from tests.support import Cast


@pytest.fixture
def order(conn: Connection, cast: Cast) -> Order:
    """An open order of 100 credits for Acme's first account."""

    return orders.place_order(
        conn, SHELL, accounts.get_account(conn, cast.smpp_acme_1.name), packs.get_pack(conn, 100_000)
    )


def test_an_order_is_listed_shown_and_paid_once(ok, run_app, order):
    (row,) = ok("order", "list", "--status", "open", "--customer", "Acme", "--account", "smpp-acme-1")
    assert row == ok("order", "show", order.number)
    expected = {
        "order": order.number,
        "customer": "Acme",
        "account": "smpp-acme-1",
        "credits": 100,
        "price": "7.00",
        "currency": "EUR",
        "status": "open",
        "credits_arrived": False,
        "paid": None,
    }
    assert row.items() >= expected.items()
    paid = ok("order", "pay", order.number, "--note", "transfer of 22 November")
    assert (paid["status"], paid["payment"], paid["credits_arrived"]) == ("paid", "transfer of 22 November", True)
    assert ok("credits", "show", "smpp-acme-1")["balance"] == 1100
    again = run_app("order", "pay", order.number)
    assert again.returncode == 1
    assert f"Order {order.number} is paid or cancelled" in again.stderr
    assert ok("credits", "show", "smpp-acme-1")["balance"] == 1100
    assert ok("order", "list", "--status", "open") == []
    assert ok("check") == {"ok": True, "problems": []}


def test_an_order_is_cancelled(ok, run_app, order):
    assert ok("order", "cancel", order.number)["status"] == "cancelled"
    assert ok("order", "list", "--customer", "Globex") == []
    assert run_app("order", "pay", order.number).returncode == 1
    unknown = run_app("order", "show", "2026-99999")
    assert (unknown.returncode, unknown.stderr) == (1, "There is no order 2026-99999.\n")


def test_packs_are_set_and_removed(ok, run_app, conn):
    assert ok("pack", "list")[0] == {"credits": 100, "price": "7.00", "currency": "EUR"}
    ok("pack", "remove", "200", "250", "500", "1000", "5000", "10000")
    assert packs.list_packs(conn) == [Pack(100_000, 700, "EUR")]
    assert [each["credits"] for each in ok("pack", "set", "0.5=0.04", "1000=60")] == [0.5, 100, 1000]
    for args, sentence in (
        (("set", "2000=130"), "a larger pack has to make credits cheaper"),
        (("set", "2000=100", "--currency", "USD"), "All packs are sold in one currency."),
        (("set", "2000=100", "--currency", "money"), "“money” isn't a currency."),
        (("set", "2000=0"), "“0” isn't a price in EUR"),
        (("remove", "7"), "There is no such pack."),
    ):
        done = run_app("pack", *args)
        assert (done.returncode, sentence in done.stderr) == (1, True), done.stderr
    assert run_app("pack", "set", "2000").returncode == 2
    ok("pack", "set", "0.5=5", "100=900", "1000=8000", "--currency", "JPY")
    assert packs.list_packs(conn) == [Pack(500, 5, "JPY"), Pack(100_000, 900, "JPY"), Pack(1_000_000, 8000, "JPY")]
    assert "JP¥8.00" in run_app("pack", "list").stdout


def test_the_first_pack_needs_a_currency(ok, run_app, conn):
    packs.replace_packs(conn, SHELL, [])
    assert "isn't a currency" in run_app("pack", "set", "100=7").stderr
    assert ok("pack", "set", "100=7", "--currency", "chf") == [{"credits": 100, "price": "7.00", "currency": "CHF"}]
