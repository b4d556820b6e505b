"""An installation that sells nothing shows nothing of packs, orders and automatic re-credit."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask

from portal.core import db
from portal.core.config import BillingSettings, Config, PaymentSettings
from portal.core.crypto import Keys
from portal.services.billing import orders, packs
from portal.services.common.audit import SHELL
from portal.web.core import context
from portal.web.core.context import DEFAULT_PAGE_LIMITS
from tests.web.billing import ordering
from tests.web.billing.ordering import ACCOUNT, ORDERS
from tests.web.conftest import Browser

_CUSTOMER_PAGES = (f"{ACCOUNT}/credits/buy", ORDERS, f"{ORDERS}/NUMBER", f"{ORDERS}/NUMBER/cancel")
_OPERATOR_PAGES = ("packs", "orders", "orders.csv", "orders/NUMBER/pay", "customers/1/credit-line")
# What leads there, by the page that it is in.
_TRACES = {
    ACCOUNT: ("/credits/buy",),
    f"{ACCOUNT}/credits?period=all": ("/credits/buy", "/orders", "re-credit"),
    f"{ACCOUNT}/credits/settings": ("/credits/buy", "/orders", "re-credit"),
    "/admin/customers/1": ("credit-line",),
    "/admin/credits": ("/admin/orders", "/admin/packs", "Owed"),
}


@pytest.fixture
def enable(app: Flask, config: Config, keys: Keys) -> Callable[[str], None]:
    """Sets `[billing] enabled`."""

    def set_billing(enabled: str) -> None:
        changed = replace(config, billing=BillingSettings(enabled))
        context.init_request_context(app, changed, keys, DEFAULT_PAGE_LIMITS)

    return set_billing


@pytest.fixture
def number(conn: db.Connection) -> str:
    """An order that was paid: the statement has its movement."""
    order = ordering.place_order(conn)
    return orders.pay_order(conn, SHELL, order).number


@pytest.mark.parametrize(("enabled", "status"), [("on", 200), ("auto", 200), ("off", 404)])
def test_pages_are_there_where_credits_are_sold(
    alice: Browser, olga: Browser, number: str, enable: Callable[[str], None], enabled: str, status: int
) -> None:
    enable(enabled)
    for page in _CUSTOMER_PAGES:
        assert alice.get(page.replace("NUMBER", number)).status_code == status, page
    for page in _OPERATOR_PAGES:
        assert olga.get(f"/admin/{page}".replace("NUMBER", number)).status_code == status, page


@pytest.mark.parametrize("path", ["/credits/buy", "/credits/settings/recredit", "/orders/NUMBER/cancel"])
def test_forms_are_not_taken_where_nothing_is_sold(
    alice: Browser, number: str, enable: Callable[[str], None], path: str
) -> None:
    enable("off")
    assert alice.post(ACCOUNT + path.replace("NUMBER", number)).status_code == 404


@pytest.mark.parametrize("path", ["packs", "orders/NUMBER/pay", "customers/1/credit-line"])
def test_operators_forms_are_not_taken_where_nothing_is_sold(
    olga: Browser, number: str, enable: Callable[[str], None], path: str
) -> None:
    enable("off")
    assert olga.post(f"/admin/{path}".replace("NUMBER", number)).status_code == 404


@pytest.mark.parametrize("page", _TRACES)
def test_other_pages_say_so_only_where_credits_are_sold(
    olga: Browser, number: str, enable: Callable[[str], None], page: str
) -> None:
    assert all(each in olga.get(page).text for each in _TRACES[page])
    enable("off")
    answer = olga.get(page)
    assert answer.status_code == 200
    assert [each for each in _TRACES[page] if each in answer.text] == []


def test_the_banner_of_a_low_balance_sells_nothing(
    alice: Browser, conn: db.Connection, enable: Callable[[str], None]
) -> None:
    conn.execute("UPDATE accounts SET alert_below = balance + 1 WHERE name = 'smpp-acme-1'")
    enable("off")
    page = alice.get(f"{ACCOUNT}/senders").text
    assert "The balance is below" in page
    assert "/credits/buy" not in page
    enable("on")
    assert "/credits/buy" in alice.get(f"{ACCOUNT}/sessions").text


def test_who_sells_the_last_pack_no_more_is_led_to_a_page_that_is_there(olga: Browser, conn: db.Connection) -> None:
    answer = olga.post("/admin/packs", data={"currency": "EUR", "credits": [""], "price": [""]})
    assert (answer.location, packs.list_packs(conn)) == ("/admin/credits", [])
    assert "The packs were saved." in olga.get(answer.location).text


def test_packs_or_orders_begin_it(olga: Browser, conn: db.Connection) -> None:
    conn.execute("DELETE FROM packs")
    assert olga.get("/admin/packs").status_code == 404
    conn.execute("INSERT INTO packs VALUES (100000, 700, 'EUR')")
    assert olga.get("/admin/packs").status_code == 200
    ordering.place_order(conn)
    packs.replace_packs(conn, SHELL, [])
    assert olga.get("/admin/orders").status_code == 200


def test_open_pages_get_nothing_of_orders_any_more(alice: Browser, number: str, enable: Callable[[str], None]) -> None:
    enable("off")
    for query in ("page=orders", f"page=order&order={number}"):
        assert alice.get(f"{ACCOUNT}/live?{query}").status_code == 404


def test_what_is_paid_is_booked_where_nothing_is_sold_any_more(
    make_app: Callable[[Config], Flask], config: Config, conn: db.Connection
) -> None:
    """The money has come, and who has paid wants the credits."""
    order, before = ordering.place_order(conn), ordering.balance(conn)
    payments = PaymentSettings(secret=ordering.SECRET)
    app = make_app(replace(config, payments=payments, billing=BillingSettings("off")))
    browser = app.test_client()
    assert isinstance(browser, Browser)
    assert ordering.call_back(browser, order).json == {"result": "credited"}
    assert ordering.balance(conn) == before + order.credits
