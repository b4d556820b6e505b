"""A customer buys packs, and sees, pays and cancels orders."""

import html
import re
from collections.abc import Callable
from hmac import digest
from time import time
from urllib.parse import parse_qsl, urlsplit

import pytest

from portal.core import db
from portal.core.crypto import Keys
from portal.services.billing import orders, packs
from portal.services.billing.orders import Order
from portal.services.billing.packs import Pack
from portal.services.common.audit import SHELL
from tests.support import Cast, Person
from tests.web.acting import get_field_value
from tests.web.billing.ordering import ACCOUNT, ORDERS, SECRET, audited, balance, call_back, mails, place_order, words
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
BUY = f"{ACCOUNT}/credits/buy"


def form(page: str, **changed: str) -> dict[str, str]:
    return {name: get_field_value(page, name) for name in ("pack", "price", "currency", "form")} | changed


# --- buying


def test_the_packs_with_price_and_price_of_a_credit(alice: Browser) -> None:
    page_text = words(alice.get(BUY).text)
    assert "100 €7.00 €0.07 Buy 100 credits" in page_text
    assert "10,000 €540.00 €0.054 Buy 10,000 credits" in page_text


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
    (made,) = orders.iterate_orders(conn, orders.OrderFilter())
    where = f"{ORDERS}/{made.number}"
    assert answer.headers.get("HX-Redirect", answer.location) == where
    assert (made.credits, made.price, made.currency, made.status, made.credited) == (100_000, 700, "EUR", "open", False)
    assert made.created_by == "alice@acme.example"
    assert balance(conn) == 1_000_000
    page_text = words(alice.get(where).text)
    assert f"Order {made.number} was made." in page_text
    assert f"Order {made.number} open" in page_text
    assert "For Acme marta@acme.example Account smpp-acme-1" in page_text
    assert "Credits 100 Price €7.00 €0.07 a credit Credits arrived Not yet" in page_text
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
    assert len(list(orders.iterate_orders(conn, orders.OrderFilter()))) == 1
    assert len(mails(conn, keys)) == 2


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_a_price_that_has_changed_is_asked_about_once_more(
    alice: Browser, conn: db.Connection, htmx: bool | str
) -> None:
    filled = form(alice.get(f"{BUY}?pack=100000").text)
    packs.replace_packs(conn, SHELL, [Pack(100_000, 800, "EUR")])
    answer = alice.post(BUY, data=filled, htmx=htmx)
    assert answer.status_code == 422
    assert "The price of this pack has changed." in words(answer.text)
    assert "cost €8.00" in words(answer.text)
    assert not list(orders.iterate_orders(conn, orders.OrderFilter()))
    assert alice.post(BUY, data=form(answer.text)).status_code == 303
    assert [each.price for each in orders.iterate_orders(conn, orders.OrderFilter())] == [800]


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_a_pack_that_is_no_more_is_not_ordered(alice: Browser, conn: db.Connection, htmx: bool | str) -> None:
    filled = form(alice.get(f"{BUY}?pack=100000").text)
    # Somebody else's order: nothing is sold any more, but something was.
    place_order(conn, "smpp-globex-1")
    packs.replace_packs(conn, SHELL, [])
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
    assert not list(orders.iterate_orders(conn, orders.OrderFilter()))


@pytest.mark.slow
def test_too_many_orders_in_an_hour_are_refused(alice: Browser, conn: db.Connection) -> None:
    for _order in range(20):
        assert alice.post(BUY, data=form(alice.get(f"{BUY}?pack=100000").text)).status_code == 303
    answer = alice.post(BUY, data=form(alice.get(f"{BUY}?pack=100000").text))
    assert (answer.status_code, "Too many attempts" in answer.text) == (429, True)
    assert len(list(orders.iterate_orders(conn, orders.OrderFilter()))) == 20


# --- an account's orders


def test_orders_page_there_and_back(alice: Browser, conn: db.Connection) -> None:
    made = [place_order(conn).number for _order in range(55)]
    place_order(conn, "smpp-acme-2")
    pages = [alice.get(ORDERS).text]
    while 'rel="next"' in pages[-1]:
        query = html.unescape(pages[-1].split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0])
        pages.append(alice.get(ORDERS + query).text)
    assert [re.findall(r"orders/(\d{4}-\d{5})\"", page) for page in pages] == [
        made[:-26:-1],
        made[-26:-51:-1],
        made[-51::-1],
    ]
    back = pages[2].split('rel="prev"')[0].rsplit('href="', 1)[1].split('"')[0]
    assert re.findall(r"orders/(\d{4}-\d{5})\"", alice.get(ORDERS + back).text) == made[-26:-51:-1]


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
    orders.confirm_payment(conn, keys, SHELL, order, "cash")
    answer = alice.get(poll, htmx=True)
    assert answer.status_code == 200
    assert after in words(answer.text)


def test_the_open_page_of_another_customer_s_order_follows_nothing(client: Client, cast: Cast, order: Order) -> None:
    charlie = client(cast.charlie)
    assert charlie.get(f"/accounts/smpp-globex-1/live?page=order&seen=&order={order.number}").status_code == 404


@pytest.mark.slow
def test_how_to_pay_stands_on_an_open_order_only(
    paying: Browser, conn: db.Connection, keys: Keys, order: Order
) -> None:
    where = f"{ORDERS}/{order.number}"
    page = paying.get(where).text
    assert "To: Portal Ltd\nIBAN: AT61 1904" in page
    assert f'href="{where}/pay"' in page
    orders.confirm_payment(conn, keys, SHELL, order, "transfer of 22 November")
    page = paying.get(where).text
    assert "IBAN" not in page
    assert f"{where}/pay" not in page
    assert "transfer of 22 November" in page
    assert "Credits arrived Yes" in words(page)


def test_cancelling_is_asked_about_and_done(alice: Browser, conn: db.Connection, order: Order) -> None:
    where = f"{ORDERS}/{order.number}"
    assert f"Cancel order {order.number}" in words(alice.get(f"{where}/cancel").text)
    assert orders.get_order_by_number(conn, order.number).status == orders.OPEN
    for _attempt in range(2):
        assert alice.post(f"{where}/cancel").location == where
    page_text = words(alice.get(where).text)
    assert f"Order {order.number} was cancelled." in page_text
    assert "is paid or cancelled: nothing about it changes any more." in page_text
    assert orders.get_order_by_number(conn, order.number).status == orders.CANCELLED
    assert "Cancel the order" not in page_text
    assert len(audited(conn, "order.cancel")) == 1


def test_an_order_on_credit_is_not_cancelled(alice: Browser, conn: db.Connection, order: Order) -> None:
    with db.write_transaction(conn):
        orders.credit_order(conn, SHELL, order.id)
    where = f"{ORDERS}/{order.number}"
    assert "Cancel the order" not in alice.get(where).text
    alice.post(f"{where}/cancel")
    assert "it can only be paid" in words(alice.get(where).text)
    assert orders.get_order_by_number(conn, order.number).status == orders.OPEN


# --- who may


def test_another_customer_s_order_is_not_there(client: Client, cast: Cast, conn: db.Connection, order: Order) -> None:
    charlie, bob = client(cast.charlie), client(cast.bob)
    own = place_order(conn, "smpp-globex-1")
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
    assert orders.get_order_by_number(conn, order.number).status == orders.OPEN


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


def test_orders_keep_their_prices(alice: Browser, conn: db.Connection, order: Order) -> None:
    packs.replace_packs(conn, SHELL, [Pack(100_000, 999, "USD")])
    assert "€7.00" in alice.get(f"{ORDERS}/{order.number}").text


# --- to the payment page


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
    orders.confirm_payment(conn, keys, SHELL, order)
    assert paying.get(f"{ORDERS}/{order.number}/pay").location == f"{ORDERS}/{order.number}"


def test_without_a_payment_page_there_is_no_way_to_it(alice: Browser, order: Order) -> None:
    assert "Pay now" not in alice.get(f"{ORDERS}/{order.number}").text
    assert alice.get(f"{ORDERS}/{order.number}/pay").status_code == 404
    assert call_back(alice, order).status_code == 404
