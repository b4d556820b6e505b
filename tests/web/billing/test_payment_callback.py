"""The payment page calls back."""

from dataclasses import replace
from email import message_from_bytes, policy
from typing import Any

import pytest

from portal.core import db
from portal.core.config import Config, PaymentSettings
from portal.core.crypto import Keys
from portal.services.billing import orders
from portal.services.billing.orders import Order
from portal.services.billing.packs import Pack
from portal.services.common import mail
from portal.services.common.audit import SHELL
from tests.web import acting
from tests.web.billing.ordering import ORDERS, balance, call_back, mails
from tests.web.conftest import Browser

PACK_OF_100 = Pack(100_000, 700, "EUR")


def test_a_callback_needs_no_login_and_no_form_s_token(
    paying: Browser, conn: db.Connection, keys: Keys, order: Order
) -> None:
    answer = call_back(paying, order)
    assert (answer.status_code, answer.json) == (200, {"result": "credited"})
    assert balance(conn) == 1_100_000
    paid = orders.get_order_by_number(conn, order.number)
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
    orders.cancel_order(conn, SHELL, order)
    assert call_back(paying, order).status_code == 409
    assert mails(conn, keys) == [("olga@portal.example", "order_payment_unmatched")]


def test_a_body_that_is_too_large_is_not_read(paying: Browser, conn: db.Connection, order: Order) -> None:
    assert call_back(paying, order, body=b" " * 16_385).status_code == 413
    assert call_back(paying, order, note="x" * 16_000).status_code == 200


@pytest.mark.slow
def test_each_mail_says_what_it_is_about(
    paying: Browser, conn: db.Connection, keys: Keys, config: Config, order: Order
) -> None:
    paying_in = replace(config, payments=PaymentSettings(instructions="IBAN: AT61 1904"))
    conn.execute("UPDATE customers SET language = 'it'")
    other = orders.purchase_pack(conn, keys, SHELL, acting.get_account(conn, "smpp-acme-1"), PACK_OF_100)
    call_back(paying, order, message_id="a")
    call_back(paying, order, message_id="b", payment="another")
    call_back(paying, other, message_id="c", amount=1)
    call_back(paying, other, message_id="d", order="2026-99999")
    orders.cancel_order(conn, SHELL, other)
    call_back(paying, other, message_id="e")
    assert sum(mail.send_due_mails(conn, paying_in, keys)) == 7
    found = [
        message_from_bytes(each.read_bytes(), policy=policy.default)
        for each in sorted((config.data / "outbox").iterdir(), key=lambda file: int(file.stem.split(".")[-1]))
    ]
    where = f"{config.public_url}{ORDERS}"
    expected = [
        ("marta", f"Ordine {other.number}: 100 crediti", ["7,00\xa0€", "IBAN: AT61 1904", f"{where}/{other.number}"]),
        ("olga", "Acme has ordered 100 credits", ["€7.00", "marta@acme.example", f"{where}/{other.number}"]),
        ("marta", f"L’ordine {order.number} è pagato", ["smpp-acme-1", "pay-4711", f"{where}/{order.number}"]),
        ("olga", f"A payment for order {order.number} needs checking", ["another", "was paid before, by another"]),
        ("olga", f"A payment for order {other.number} needs checking", ["€0.01", "costs another amount", "€7.00"]),
        ("olga", "A payment for order 2026-99999 needs checking", ["There is no such order."]),
        ("olga", f"A payment for order {other.number} needs checking", ["The order was cancelled.", other.number]),
    ]
    assert len(found) == len(expected)
    for message, (recipient, subject, phrases) in zip(found, expected, strict=True):
        assert (message["To"].partition("@")[0], message["Subject"]) == (recipient, subject)
        for kind in ("plain", "html"):
            body = message.get_body([kind])
            assert body is not None
            text = body.get_content()
            assert [each for each in phrases if each not in text] == [], text
