"""The operator sees everyone's orders, and marks them as paid."""

import csv
import html
import re
from collections.abc import Callable

import pytest

from portal.core import db
from portal.core.crypto import Keys
from portal.services.billing import orders
from portal.services.billing.orders import Order
from portal.services.common.audit import SHELL
from tests.support import Cast, Person
from tests.web.billing.ordering import ORDERS, audited, balance, mails, place_order, words
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]


@pytest.mark.slow
def test_the_operator_sees_all_orders_and_some(olga: Browser, conn: db.Connection, keys: Keys, cast: Cast) -> None:
    acmes, globexs, paid = place_order(conn), place_order(conn, "smpp-globex-1"), place_order(conn)
    orders.confirm_payment(conn, keys, SHELL, paid)

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


@pytest.mark.slow
def test_the_filter_stays_while_pages_are_turned(olga: Browser, conn: db.Connection, cast: Cast) -> None:
    for _order in range(26):
        place_order(conn)
    place_order(conn, "smpp-globex-1")
    page = olga.get(f"/admin/orders?status=open&customer={cast.acme}").text
    following = html.unescape(page.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0])
    assert following.startswith(f"?status=open&customer={cast.acme}&before=")
    assert "globex" not in words(olga.get(f"/admin/orders{following}").text.split("<tbody>")[1])


def test_the_file_of_orders(olga: Browser, conn: db.Connection, keys: Keys, order: Order) -> None:
    orders.confirm_payment(conn, keys, SHELL, order, "=1+1")
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
    dialog = words(olga.get(where, htmx=htmx).text)
    assert "Acme has paid €7.00. 100 credits arrive at smpp-acme-1 at once." in dialog
    assert balance(conn) == 1_000_000
    for _attempt in range(2):
        answer = olga.post(where, data={"payment": " transfer  of 22 November"}, htmx=htmx)
        assert answer.headers.get("HX-Redirect", answer.location) == f"{ORDERS}/{order.number}"
    paid = orders.get_order_by_number(conn, order.number)
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
