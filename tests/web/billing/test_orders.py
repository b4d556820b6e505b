"""Buying packs, orders and what becomes of them: pages of customers and operators, and the payment page's callback."""

import csv
import html
import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from email import message_from_bytes, policy
from hmac import digest
from json import dumps, loads
from time import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from portal.core import db
from portal.core.config import Config, Payments
from portal.core.crypto import Keys
from portal.services.billing import orders, packs, purchases
from portal.services.billing.orders import Order
from portal.services.billing.packs import Pack
from portal.services.common import mail
from portal.services.common.audit import SHELL
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import value_of
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
ACCOUNT = "/accounts/smpp-acme-1"
BUY = f"{ACCOUNT}/credits/buy"
ORDERS = f"{ACCOUNT}/orders"
PACK_OF_100 = Pack(100_000, 700, "EUR")
SECRET = "a secret of more than thirty characters"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


@pytest.fixture
def order(conn: db.Connection) -> Order:
    """An open order of Acme's first account: 100 credits for 7 euro."""
    return an_order(conn)


@pytest.fixture
def paying(make_app: Callable[[Config], Flask], config: Config, conn: db.Connection, cast: Cast) -> Browser:
    """Alice, where there is a payment page."""
    from portal.services.people import login_sessions, users

    settings = Payments(
        instructions="To: Portal Ltd\nIBAN: AT61 1904", checkout_url="https://pay.example/?shop=7", secret=SECRET
    )
    app = make_app(replace(config, payments=settings))
    browser = app.test_client()
    assert isinstance(browser, Browser)
    return browser.as_user(
        login_sessions.start_session(conn, users.by_email(conn, cast.alice.email), "127.0.0.1", "a test")
    )


def words(page: str) -> str:
    """What a page says; a sign after bold words stands where it belongs."""
    return re.sub(r" ([,.:])", r"\1", acting.words(page))


def an_order(conn: db.Connection, name: str = "smpp-acme-1", size: int = 100_000) -> Order:
    return orders.place(conn, SHELL, acting.account(conn, name), packs.of_size(conn, size))


def form(page: str, **changed: str) -> dict[str, str]:
    return {name: value_of(page, name) for name in ("pack", "price", "currency", "form")} | changed


def balance(conn: db.Connection, name: str = "smpp-acme-1") -> int:
    return acting.account(conn, name).balance


def mails(conn: db.Connection, keys: Keys) -> list[tuple[str, str]]:
    """Who is sent which mail, in the order of sending."""
    return [
        (row["recipient"], loads(keys.unseal(row["content"]))["template"])
        for row in conn.execute("SELECT recipient, content FROM mails ORDER BY id")
    ]


def audited(conn: db.Connection, action: str) -> list[Any]:
    return [loads(row[0]) for row in conn.execute("SELECT details FROM audit_log WHERE action = ?", (action,))]


# --- buying


def test_the_packs_with_price_and_price_of_a_credit(alice: Browser) -> None:
    said = words(alice.get(BUY).text)
    assert "100 €7.00 €0.07 Buy 100 credits" in said
    assert "10,000 €540.00 €0.054 Buy 10,000 credits" in said


def test_who_may_change_the_account_is_led_there(client: Client, cast: Cast) -> None:
    for person, leads in ((cast.alice, True), (cast.bob, False)):
        browser = client(person)
        assert (f'href="{BUY}"' in browser.get(ACCOUNT).text) is leads
        assert (f'href="{BUY}"' in browser.get(f"{ACCOUNT}/credits").text) is leads
        assert f'href="{ORDERS}"' in browser.get(f"{ACCOUNT}/credits").text


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_a_pack_is_asked_about_and_ordered(alice: Browser, conn: db.Connection, keys: Keys, htmx: bool | str) -> None:
    page = alice.get(f"{BUY}?pack=100000", htmx=htmx).text
    assert "100 credits for smpp-acme-1 cost €7.00, which is €0.07 a credit." in words(page)
    answer = alice.post(BUY, data=form(page), htmx=htmx)
    (made,) = orders.each(conn, orders.Which())
    where = f"{ORDERS}/{made.number}"
    assert answer.headers.get("HX-Redirect", answer.location) == where
    assert (made.credits, made.price, made.currency, made.status, made.credited) == (100_000, 700, "EUR", "open", False)
    assert made.created_by == "alice@acme.example"
    assert balance(conn) == 1_000_000
    said = words(alice.get(where).text)
    assert f"Order {made.number} was made." in said
    assert f"Order {made.number} open" in said
    assert "For Acme marta@acme.example Account smpp-acme-1" in said
    assert "Credits 100 Price €7.00 €0.07 a credit Credits arrived Not yet" in said
    assert f"{made.number}" in words(alice.get(ORDERS).text)
    assert mails(conn, keys) == [("marta@acme.example", "order_placed"), ("olga@portal.example", "order_received")]
    assert [each["order"] for each in audited(conn, "order.place")] == [made.number]


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_the_same_form_sent_again_orders_nothing(
    alice: Browser, conn: db.Connection, keys: Keys, htmx: bool | str
) -> None:
    filled = form(alice.get(f"{BUY}?pack=100000").text)
    for _attempt in range(2):
        answer = alice.post(BUY, data=filled, htmx=htmx)
    assert answer.headers.get("HX-Redirect", answer.location) == ORDERS
    assert len(list(orders.each(conn, orders.Which()))) == 1
    assert len(mails(conn, keys)) == 2


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_a_price_that_has_changed_is_asked_about_once_more(
    alice: Browser, conn: db.Connection, htmx: bool | str
) -> None:
    filled = form(alice.get(f"{BUY}?pack=100000").text)
    packs.replace(conn, SHELL, [Pack(100_000, 800, "EUR")])
    answer = alice.post(BUY, data=filled, htmx=htmx)
    assert answer.status_code == 422
    assert "This pack has another price by now." in words(answer.text)
    assert "cost €8.00" in words(answer.text)
    assert not list(orders.each(conn, orders.Which()))
    assert alice.post(BUY, data=form(answer.text)).status_code == 303
    assert [each.price for each in orders.each(conn, orders.Which())] == [800]


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_a_pack_that_is_no_more_is_not_ordered(alice: Browser, conn: db.Connection, htmx: bool | str) -> None:
    filled = form(alice.get(f"{BUY}?pack=100000").text)
    packs.replace(conn, SHELL, [])
    answer = alice.post(BUY, data=filled, htmx=htmx)
    assert (answer.status_code, "There is no such pack." in words(answer.text)) == (422, True)
    assert "No pack is sold here" in words(alice.get(BUY).text)
    for pack in ("100000", "9" * 30, "-1", "x"):
        assert alice.get(f"{BUY}?pack={pack}").status_code == 404


@pytest.mark.parametrize(
    "crafted",
    [{}, {"pack": "x"}, {"pack": "100000", "price": "1", "currency": "EUR"}, {"pack": "9" * 30, "price": "-1"}],
)
def test_nobody_makes_a_price_of_their_own(alice: Browser, conn: db.Connection, crafted: dict[str, str]) -> None:
    assert alice.post(BUY, data=crafted).status_code == 422
    assert not list(orders.each(conn, orders.Which()))


def test_too_many_orders_in_an_hour_are_refused(alice: Browser, conn: db.Connection) -> None:
    for _order in range(20):
        assert alice.post(BUY, data=form(alice.get(f"{BUY}?pack=100000").text)).status_code == 303
    answer = alice.post(BUY, data=form(alice.get(f"{BUY}?pack=100000").text))
    assert (answer.status_code, "Too many attempts" in answer.text) == (422, True)
    assert len(list(orders.each(conn, orders.Which()))) == 20


# --- an account's orders


def test_orders_page_there_and_back(alice: Browser, conn: db.Connection) -> None:
    made = [an_order(conn).number for _order in range(45)]
    an_order(conn, "smpp-acme-2")
    pages = [alice.get(ORDERS).text]
    while 'rel="next"' in pages[-1]:
        query = html.unescape(pages[-1].split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0])
        pages.append(alice.get(ORDERS + query).text)
    assert [re.findall(r"orders/(\d{4}-\d{5})\"", page) for page in pages] == [
        made[:-21:-1],
        made[-21:-41:-1],
        made[-41::-1],
    ]
    back = pages[2].split('rel="prev"')[0].rsplit('href="', 1)[1].split('"')[0]
    assert re.findall(r"orders/(\d{4}-\d{5})\"", alice.get(ORDERS + back).text) == made[-21:-41:-1]


@pytest.mark.parametrize(
    ("page", "before", "after"), [("order", "Not yet", "Credits arrived Yes"), ("orders", "open", "Yes paid")]
)
def test_an_open_page_follows_what_becomes_of_the_order(
    alice: Browser, conn: db.Connection, keys: Keys, order: Order, page: str, before: str, after: str
) -> None:
    drawn = alice.get(f"{ORDERS}/{order.number}" if page == "order" else ORDERS).text
    assert before in words(drawn)
    (seen,) = re.findall(r"/live\?seen=([^\"]*)", drawn)
    poll = f"{ACCOUNT}/live?page={page}&seen={seen}&order={order.number}"
    assert alice.get(poll, htmx=True).status_code == 204
    purchases.pay(conn, keys, SHELL, order, "cash")
    answer = alice.get(poll, htmx=True)
    assert answer.status_code == 200
    assert after in words(answer.text)


def test_the_open_page_of_another_customer_s_order_follows_nothing(client: Client, cast: Cast, order: Order) -> None:
    charlie = client(cast.charlie)
    assert charlie.get(f"/accounts/smpp-globex-1/live?page=order&seen=&order={order.number}").status_code == 404


def test_how_to_pay_stands_on_an_open_order_only(
    paying: Browser, conn: db.Connection, keys: Keys, order: Order
) -> None:
    where = f"{ORDERS}/{order.number}"
    page = paying.get(where).text
    assert "To: Portal Ltd\nIBAN: AT61 1904" in page
    assert f'href="{where}/pay"' in page
    purchases.pay(conn, keys, SHELL, order, "transfer of 22 November")
    page = paying.get(where).text
    assert "IBAN" not in page
    assert f"{where}/pay" not in page
    assert "transfer of 22 November" in page
    assert "Credits arrived Yes" in words(page)


def test_cancelling_is_asked_about_and_done(alice: Browser, conn: db.Connection, order: Order) -> None:
    where = f"{ORDERS}/{order.number}"
    assert f"Cancel order {order.number}" in words(alice.get(f"{where}/cancel").text)
    assert orders.by_number(conn, order.number).status == orders.OPEN
    for _attempt in range(2):
        assert alice.post(f"{where}/cancel").location == where
    said = words(alice.get(where).text)
    assert f"Order {order.number} was cancelled." in said
    assert "is paid or cancelled: nothing about it changes any more." in said
    assert orders.by_number(conn, order.number).status == orders.CANCELLED
    assert "Cancel the order" not in said
    assert len(audited(conn, "order.cancel")) == 1


def test_an_order_on_credit_is_not_cancelled(alice: Browser, conn: db.Connection, order: Order) -> None:
    with db.immediate(conn):
        orders.credit(conn, SHELL, order.id)
    where = f"{ORDERS}/{order.number}"
    assert "Cancel the order" not in alice.get(where).text
    alice.post(f"{where}/cancel")
    assert "it can only be paid" in words(alice.get(where).text)
    assert orders.by_number(conn, order.number).status == orders.OPEN


# --- who may


def test_another_customer_s_order_is_not_there(client: Client, cast: Cast, conn: db.Connection, order: Order) -> None:
    charlie, bob = client(cast.charlie), client(cast.bob)
    own = an_order(conn, "smpp-globex-1")
    for account in ("smpp-acme-1", "smpp-globex-1"):
        for rest in ("", "/pay", "/cancel"):
            assert charlie.get(f"/accounts/{account}/orders/{order.number}{rest}").status_code == 404
        assert charlie.post(f"/accounts/{account}/orders/{order.number}/cancel").status_code == 404
    assert charlie.post(BUY, data={"pack": "100000", "price": "700", "currency": "EUR"}).status_code == 404
    assert charlie.get(f"/accounts/smpp-globex-1/orders/{own.number}").status_code == 200
    # Of the same customer, but another account's.
    assert bob.get(f"/accounts/smpp-acme-2/orders/{order.number}").status_code == 404
    for number in ("x", "2026-", "2026-00000", f"1999-{order.id:05d}", "9" * 40, f"{order.number}0"):
        assert bob.get(f"{ORDERS}/{number}").status_code == 404
    assert orders.by_number(conn, order.number).status == orders.OPEN


def test_a_viewer_looks_at_orders_and_changes_none(
    client: Client, cast: Cast, conn: db.Connection, order: Order
) -> None:
    bob = client(cast.bob)
    page = bob.get(f"{ORDERS}/{order.number}").text
    assert order.number in page
    assert "Cancel the order" not in page
    assert [bob.get(f"{ORDERS}/{order.number}/{each}").status_code for each in ("pay", "cancel")] == [403, 403]
    assert bob.post(f"{ORDERS}/{order.number}/cancel").status_code == 403
    assert (bob.get(BUY).status_code, bob.post(BUY).status_code) == (403, 403)


# --- the operator


def test_the_operator_sees_all_orders_and_some(olga: Browser, conn: db.Connection, keys: Keys, cast: Cast) -> None:
    acmes, globexs, paid = an_order(conn), an_order(conn, "smpp-globex-1"), an_order(conn)
    purchases.pay(conn, keys, SHELL, paid)

    def shown(query: str) -> list[str]:
        in_page = set(re.findall(r"orders/(\d{4}-\d{5})\"", olga.get(f"/admin/orders{query}").text))
        assert set(re.findall(r"\d{4}-\d{5}", olga.get(f"/admin/orders.csv{query}").text)) == in_page
        return sorted(in_page)

    assert shown("") == [acmes.number, globexs.number, paid.number]
    assert shown("?status=open") == [acmes.number, globexs.number]
    assert shown(f"?status=open&customer={cast.acme}") == [acmes.number]
    assert shown(f"?customer={cast.globex}") == [globexs.number]
    assert shown("?status=cancelled") == []
    assert shown("?status=nonsense&customer=nobody") == [acmes.number, globexs.number, paid.number]


def test_the_filter_stays_while_pages_are_turned(olga: Browser, conn: db.Connection, cast: Cast) -> None:
    for _order in range(21):
        an_order(conn)
    an_order(conn, "smpp-globex-1")
    page = olga.get(f"/admin/orders?status=open&customer={cast.acme}").text
    following = html.unescape(page.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0])
    assert following.startswith(f"?status=open&customer={cast.acme}&before=")
    assert "globex" not in words(olga.get(f"/admin/orders{following}").text.split("<tbody>")[1])


def test_the_file_of_orders(olga: Browser, conn: db.Connection, keys: Keys, order: Order) -> None:
    purchases.pay(conn, keys, SHELL, order, "=1+1")
    answer = olga.get("/admin/orders.csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="orders.csv"'
    (row,) = csv.DictReader(answer.text.splitlines(), delimiter=";")
    expected = {
        "order": order.number,
        "customer": "Acme",
        "account": "smpp-acme-1",
        "credits": "100",
        "price": "7.00",
        "currency": "EUR",
        "status": "paid",
        "credits_arrived": "yes",
        "payment": "'=1+1",
        "cancelled": "",
    }
    assert row.items() >= expected.items()


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_marking_paid_is_asked_about_and_credits_once(
    olga: Browser, conn: db.Connection, keys: Keys, order: Order, htmx: bool | str
) -> None:
    where = f"/admin/orders/{order.number}/pay"
    asked = words(olga.get(where, htmx=htmx).text)
    assert "Acme has paid €7.00. 100 credits arrive at smpp-acme-1 at once." in asked
    assert balance(conn) == 1_000_000
    for _attempt in range(2):
        answer = olga.post(where, data={"payment": " transfer  of 22 November"}, htmx=htmx)
        assert answer.headers.get("HX-Redirect", answer.location) == f"{ORDERS}/{order.number}"
    paid = orders.by_number(conn, order.number)
    assert (paid.status, paid.payment, paid.paid_by) == ("paid", "transfer of 22 November", "olga@portal.example")
    assert balance(conn) == 1_100_000
    assert mails(conn, keys) == [("marta@acme.example", "order_paid")]
    assert len(audited(conn, "order.pay")) == 1
    assert conn.execute("SELECT note FROM movements WHERE kind = 'purchase'").fetchall()[0][0] == order.number


def test_the_operator_s_orders_are_not_the_customers(
    client: Client, cast: Cast, conn: db.Connection, order: Order
) -> None:
    alice = client(cast.alice)
    for path in ("/admin/orders", "/admin/orders.csv", f"/admin/orders/{order.number}/pay", "/admin/packs"):
        assert alice.get(path).status_code == 404
    assert alice.post(f"/admin/orders/{order.number}/pay").status_code == 404
    assert alice.post("/admin/packs", data={"currency": "EUR"}).status_code == 404
    assert "Mark as paid" not in alice.get(f"{ORDERS}/{order.number}").text
    assert balance(conn) == 1_000_000


def test_an_order_that_is_not_there_is_not_marked(olga: Browser) -> None:
    assert olga.get("/admin/orders/2026-99999/pay").status_code == 404
    assert olga.post("/admin/orders/2026-99999/pay").status_code == 404


# --- packs


def rows(*pairs: tuple[str, str], currency: str = "EUR") -> dict[str, Any]:
    return {"currency": currency, "credits": [size for size, _ in pairs], "price": [price for _, price in pairs]}


def test_the_form_holds_the_packs_that_are_sold(olga: Browser, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET recredit_pack = 100000, recredit_below = 1 WHERE name = 'smpp-acme-1'")
    page = olga.get("/admin/packs").text
    assert value_of(page, "currency") == "EUR"
    assert re.findall(r'name="credits" value="([^"]*)"', page) == [
        "100", "200", "250", "500", "1,000", "5,000", "10,000", "", "", "",
    ]  # fmt: skip
    assert "€0.07 1 account" in words(page)
    # Sent as it is, it changes nothing.
    typed = {name: re.findall(rf'name="{name}" value="([^"]*)"', page) for name in ("credits", "price")}
    before = packs.everyone(conn)
    assert olga.post("/admin/packs", data={"currency": "EUR"} | typed).status_code == 303
    assert packs.everyone(conn) == before
    assert audited(conn, "packs.change") == []


def test_packs_are_added_changed_and_removed(olga: Browser, conn: db.Connection) -> None:
    data = rows(("1,000", "60"), ("", ""), ("0.5", "0.04"), currency=" usd ")
    answer = olga.post("/admin/packs", data=data)
    assert answer.location == "/admin/packs"
    assert packs.everyone(conn) == [Pack(500, 4, "USD"), Pack(1_000_000, 6000, "USD")]
    assert "US$0.06" in olga.get("/admin/packs").text
    (change,) = audited(conn, "packs.change")
    assert (change["after"], len(change["before"])) == ([[500, 4, "USD"], [1_000_000, 6000, "USD"]], 7)


def test_italian_amounts_are_read_in_italian(olga: Browser, conn: db.Connection) -> None:
    olga.post("/language", data={"locale": "it"})
    assert olga.post("/admin/packs", data=rows(("1.000,5", "1.234,50"))).status_code == 303
    assert packs.everyone(conn) == [Pack(1_000_500, 123_450, "EUR")]
    page = olga.get("/admin/packs").text
    assert 'value="1.000,5"' in page
    assert 'value="1234,50"' in page


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (
            rows(("100", "7"), ("200", "14")),
            "A credit in the pack of 200 would cost €0.07, and €0.07 in the pack of 100:"
            " a larger pack has to make credits cheaper.",
        ),
        (rows(("200", "15"), ("100", "7")), "in the pack of 200 would cost €0.075"),
        (rows(("100", "7"), ("100", "6")), "There is a second pack of 100 credits."),
        (rows(("100", "0")), "“0” isn't a price in EUR. Example: 7.00."),
        (rows(("100", "-7")), "“-7” isn't a price"),
        (rows(("100", "7.005")), "“7.005” isn't a price"),
        (rows(("100", "7.5"), currency="JPY"), "“7.5” isn't a price in JPY. Example: 7."),
        (rows(("100", "")), "“” isn't a price"),
        (rows(("100", "1e99")), "isn't a price"),
        (rows(("", "7")), "“” isn't an amount of credits."),
        (rows(("many", "7")), "“many” isn't an amount of credits."),
        (rows(("100", "7"), currency="EURO"), "“EURO” isn't a currency."),
        (rows(("100", "7"), currency="ITL"), "“ITL” isn't a currency."),
        (rows(("100", "7"), currency=""), "“” isn't a currency."),
        (rows(("100", acting.HOSTILE)), "isn't a price"),
        (rows(*((str(each), str(each)) for each in range(1, 60))), "There can be 50 packs at most."),
    ],
)
def test_packs_that_can_t_be_sold_are_refused_with_what_was_typed(
    olga: Browser, conn: db.Connection, typed: dict[str, Any], sentence: str
) -> None:
    before = packs.everyone(conn)
    answer = olga.post("/admin/packs", data=typed)
    assert (answer.status_code, sentence in words(answer.text)) == (422, True), words(answer.text)
    assert packs.everyone(conn) == before
    for price in typed["price"][:50]:
        assert f'value="{html.escape(price).replace("&quot;", "&#34;")}"' in answer.text


def test_orders_keep_their_prices(alice: Browser, conn: db.Connection, order: Order) -> None:
    packs.replace(conn, SHELL, [Pack(100_000, 999, "USD")])
    assert "€7.00" in alice.get(f"{ORDERS}/{order.number}").text


# --- the payment page


def test_pay_now_leads_to_the_payment_page_with_what_it_needs(paying: Browser, order: Order) -> None:
    answer = paying.get(f"{ORDERS}/{order.number}/pay")
    assert answer.status_code == 302
    address = urlsplit(answer.location)
    given = dict(parse_qsl(address.query, strict_parsing=True))
    assert (address.netloc, given.pop("shop")) == ("pay.example", "7")
    signature, timestamp = given.pop("signature"), given["timestamp"]
    assert abs(int(timestamp) - time()) < 60
    assert given == {
        "order": order.number,
        "amount": "700",
        "currency": "EUR",
        "credits": "100",
        "return_url": given["return_url"],
        "timestamp": timestamp,
    }
    assert urlsplit(given["return_url"]).path == f"{ORDERS}/{order.number}"
    signed = (
        f"amount=700\ncredits=100\ncurrency=EUR\norder={order.number}\nreturn_url={given['return_url']}\n"
        f"timestamp={timestamp}"
    )
    assert signature == digest(SECRET.encode(), signed.encode(), "sha256").hex()


def test_a_paid_order_leads_to_no_payment_page(paying: Browser, conn: db.Connection, keys: Keys, order: Order) -> None:
    purchases.pay(conn, keys, SHELL, order)
    assert paying.get(f"{ORDERS}/{order.number}/pay").location == f"{ORDERS}/{order.number}"


def test_without_a_payment_page_there_is_no_way_to_it(alice: Browser, order: Order) -> None:
    assert "Pay now" not in alice.get(f"{ORDERS}/{order.number}").text
    assert alice.get(f"{ORDERS}/{order.number}/pay").status_code == 404
    assert call_back(alice, order).status_code == 404


def call_back(
    browser: Browser, made: Order, *, message_id: str = "msg_1", secret: str = SECRET, **said: Any
) -> TestResponse:
    """Call back as a payment page does: nobody is logged in there, and no form's token is known."""
    usual = {"order": made.number, "amount": 700, "currency": "EUR", "status": "paid", "payment": "pay-4711"}
    body = said.pop("body", None) or dumps(usual | said).encode()
    timestamp = str(int(time()))
    right = b64encode(digest(secret.encode(), f"{message_id}.{timestamp}.".encode() + body, "sha256")).decode()
    headers = {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{right}"}
    return browser.application.test_client().post(  # type: ignore[no-any-return]
        "/payments/callback", data=body, headers=headers, content_type="application/json"
    )


def test_a_callback_needs_no_login_and_no_form_s_token(
    paying: Browser, conn: db.Connection, keys: Keys, order: Order
) -> None:
    answer = call_back(paying, order)
    assert (answer.status_code, answer.json) == (200, {"result": "credited"})
    assert balance(conn) == 1_100_000
    paid = orders.by_number(conn, order.number)
    assert (paid.paid_by, paid.payment) == ("payment page", "pay-4711")
    assert mails(conn, keys) == [("marta@acme.example", "order_paid")]


@pytest.mark.parametrize(
    ("changed", "status", "error"),
    [
        ({"secret": "another secret, of thirty characters too"}, 401, "signature"),
        ({"amount": 699}, 422, "amount"),
        ({"currency": "USD"}, 422, "amount"),
        ({"order": "2026-99999"}, 422, "unknown_order"),
        ({"amount": "700"}, 400, "body"),
        ({"body": b"no JSON"}, 400, "body"),
    ],
)
def test_a_callback_that_is_refused_says_why(
    paying: Browser, conn: db.Connection, order: Order, changed: dict[str, Any], status: int, error: str
) -> None:
    answer = call_back(paying, order, **changed)
    assert answer.status_code == status
    assert answer.json is not None
    assert answer.json["error"] == error
    assert balance(conn) == 1_000_000


def test_a_cancelled_order_conflicts(paying: Browser, conn: db.Connection, keys: Keys, order: Order) -> None:
    orders.cancel(conn, SHELL, order)
    assert call_back(paying, order).status_code == 409
    assert mails(conn, keys) == [("olga@portal.example", "order_payment_unmatched")]


def test_a_body_that_is_too_large_is_not_read(paying: Browser, conn: db.Connection, order: Order) -> None:
    assert call_back(paying, order, body=b" " * 16_385).status_code == 413
    assert call_back(paying, order, note="x" * 16_000).status_code == 200


def test_each_mail_says_what_it_is_about(
    paying: Browser, conn: db.Connection, keys: Keys, config: Config, order: Order
) -> None:
    mailer = mail.Mailer(replace(config, payments=Payments(instructions="IBAN: AT61 1904")), keys, lambda: conn)
    conn.execute("UPDATE customers SET language = 'it'")
    other = purchases.place(conn, keys, SHELL, acting.account(conn, "smpp-acme-1"), PACK_OF_100)
    call_back(paying, order, message_id="a")
    call_back(paying, order, message_id="b", payment="another")
    call_back(paying, other, message_id="c", amount=1)
    call_back(paying, other, message_id="d", order="2026-99999")
    orders.cancel(conn, SHELL, other)
    call_back(paying, other, message_id="e")
    assert mailer.send_due(conn) == 7
    found = [
        message_from_bytes(each.read_bytes(), policy=policy.default)
        for each in sorted((config.data / "outbox").iterdir(), key=lambda file: int(file.stem.split(".")[-1]))
    ]
    where = f"{config.public_url}{ORDERS}"
    expected = [
        ("marta", f"Ordine {other.number}: 100 crediti", ["7,00\xa0€", "IBAN: AT61 1904", f"{where}/{other.number}"]),
        ("olga", "Acme has ordered 100 credits", ["€7.00", "marta@acme.example", f"{where}/{other.number}"]),
        ("marta", f"L’ordine {order.number} è pagato", ["smpp-acme-1", "pay-4711", f"{where}/{order.number}"]),
        ("olga", f"A payment for order {order.number} needs a look", ["another", "was paid before, by another"]),
        ("olga", f"A payment for order {other.number} needs a look", ["€0.01", "costs another amount", "€7.00"]),
        ("olga", "A payment for order 2026-99999 needs a look", ["There is no such order."]),
        ("olga", f"A payment for order {other.number} needs a look", ["The order was cancelled.", other.number]),
    ]
    assert len(found) == len(expected)
    for message, (recipient, subject, phrases) in zip(found, expected, strict=True):
        assert (message["To"].partition("@")[0], message["Subject"]) == (recipient, subject)
        for kind in ("plain", "html"):
            body = message.get_body([kind])
            assert body is not None
            text = body.get_content()
            assert [each for each in phrases if each not in text] == [], text
