"""What a payment page may say, and what comes of it; who really says it."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hmac import digest
from json import dumps, loads
from threading import Barrier

import pytest

from portal.core import db
from portal.core.config import PaymentSettings
from portal.core.crypto import Keys
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import orders, packs, payments
from portal.services.billing.orders import Order
from portal.services.billing.payments import PaymentCallback
from portal.services.common import idempotency
from portal.services.common.audit import SHELL
from portal.services.credits import credits, ledger

SETTINGS = PaymentSettings(secret="a secret of more than thirty characters")
NOW_S = 1_800_000_000
BODY = b'{"order": "2026-00001"}'

# The example that the implementations of Standard Webhooks share.
THEIRS = PaymentSettings(secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
THEIR_ID, THEIR_TIME, THEIR_BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
THEIR_SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.fixture
def order(conn: db.Connection, acme_1: Account) -> Order:
    """An open order of 100 credits for 7 euro."""
    return orders.place_order(conn, SHELL, acme_1, packs.get_pack(conn, 100_000))


def signature(
    body: bytes = BODY, message_id: str = "msg", timestamp: int = NOW_S, secret: str = SETTINGS.secret
) -> str:
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + b64encode(digest(secret.encode(), signed, "sha256")).decode()


def callback_of(
    order: Order, *, amount: int = 700, currency: str = "EUR", status: str = "paid", payment: str = "p1"
) -> PaymentCallback:
    return PaymentCallback(order.number, amount, currency, status, payment)


@contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(payments.CallbackRefused) as caught:
        yield
    assert caught.value.code == code


def mails(conn: db.Connection, keys: Keys) -> list[str]:
    return [
        loads(keys.decrypt_column(row["content"]))["template"]
        for row in conn.execute("SELECT content FROM mails ORDER BY id")
    ]


def unmatched(conn: db.Connection) -> list[str]:
    rows = conn.execute("SELECT details FROM audit_log WHERE action = 'payment.unmatched' ORDER BY id")
    return [loads(row["details"])["reason"] for row in rows]


# --- who says it


def test_the_signature_of_standard_webhooks() -> None:
    payments.verify_callback(THEIRS, THEIR_ID, str(THEIR_TIME), THEIR_SIGNATURE, THEIR_BODY, THEIR_TIME)


@pytest.mark.parametrize(
    "signatures",
    [
        signature(),
        f"{signature(secret='an older key that is still in use')} {signature()}",
        f"{signature()} {signature(secret='a newer key that we do not know')}",
        f"v1a,{signature()[3:]} {signature()}",
    ],
)
def test_one_right_signature_of_several_is_enough(signatures: str) -> None:
    payments.verify_callback(SETTINGS, "msg", str(NOW_S), signatures, BODY, NOW_S)


@pytest.mark.parametrize(
    "signatures",
    [
        signature(secret="another secret of more than thirty characters"),
        signature(body=BODY + b" "),
        signature(message_id="another"),
        signature(timestamp=NOW_S + 1),
        signature()[3:],
        f"v2,{signature()[3:]}",
        f"v1,{signature()[3:-1]}",
        "v1,",
        "v1,é",
        ",",
        " ",
    ],
)
def test_a_wrong_signature_is_refused(signatures: str) -> None:
    with refused("signature"):
        payments.verify_callback(SETTINGS, "msg", str(NOW_S), signatures, BODY, NOW_S)


@pytest.mark.parametrize(
    ("message_id", "timestamp", "signatures"),
    [
        ("", str(NOW_S), signature()),
        ("msg", "", signature()),
        ("msg", str(NOW_S), ""),
        ("msg.1", str(NOW_S), signature()),
        ("m" * 201, str(NOW_S), signature()),
        ("msg", f"{NOW_S}.5", signature()),
        ("msg", "²", signature()),
        ("msg", "9" * 5000, signature()),
    ],
)
def test_a_header_that_is_missing_or_none_is_refused(message_id: str, timestamp: str, signatures: str) -> None:
    with refused("headers"):
        payments.verify_callback(SETTINGS, message_id, timestamp, signatures, BODY, NOW_S)


@pytest.mark.parametrize(("off", "good"), [(-300, True), (300, True), (-301, False), (301, False)])
def test_a_timestamp_is_good_for_five_minutes(off: int, good: bool) -> None:
    arguments = (SETTINGS, "msg", str(NOW_S), signature(), BODY, NOW_S + off)
    if good:
        payments.verify_callback(*arguments)
    else:
        with refused("timestamp"):
            payments.verify_callback(*arguments)


# --- what it says


def test_a_body_is_read() -> None:
    values = {"order": "2026-00001", "amount": 700, "currency": "EUR", "status": "paid", "payment": "p1"}
    assert payments.parse_callback(dumps(values | {"more": None}).encode()) == PaymentCallback(
        "2026-00001", 700, "EUR", "paid", "p1"
    )
    for changed in (
        {"order": 1},
        {"amount": "700"},
        {"amount": 7.0},
        {"amount": True},
        {"amount": 1 << 63},
        {"currency": "eur"},
        {"currency": "€"},
        {"status": None},
        {"payment": "p" * 201},
        {"payment": "\udfff"},
        {"order": "\ud800"},
    ):
        with refused("body"):
            payments.parse_callback(dumps(values | changed).encode())
    for name in values:
        with refused("body"):
            payments.parse_callback(dumps({key: value for key, value in values.items() if key != name}).encode())
    for body in (b"", b"[]", b"paid", b"\xff", b"[" * 16_000):
        with refused("body"):
            payments.parse_callback(body)


# --- what comes of it


@pytest.mark.slow
def test_an_order_is_paid_and_credited(conn: db.Connection, keys: Keys, order: Order) -> None:
    assert payments.process_callback(conn, keys, SETTINGS, callback_of(order), "m1", "192.0.2.1") == payments.CREDITED
    paid = orders.get_order_by_number(conn, order.number)
    assert (paid.status, paid.payment, paid.paid_by, paid.credited) == ("paid", "p1", "payment page", True)
    assert credits.get_balance(conn, order.account_id) == 1_100_000
    assert mails(conn, keys) == ["order_paid"]
    (line,) = conn.execute("SELECT actor, address FROM audit_log WHERE action = 'order.pay'").fetchall()
    assert tuple(line) == ("payment page", "192.0.2.1")


def test_the_same_message_again_does_nothing(conn: db.Connection, keys: Keys, order: Order) -> None:
    payments.process_callback(conn, keys, SETTINGS, callback_of(order), "m1", "")
    assert payments.process_callback(conn, keys, SETTINGS, callback_of(order), "m1", "") == payments.REPEATED
    assert credits.get_balance(conn, order.account_id) == 1_100_000
    assert mails(conn, keys) == ["order_paid"]


def test_an_id_that_is_given_twice_loses_no_payment(conn: db.Connection, keys: Keys, order: Order) -> None:
    payments.process_callback(conn, keys, SETTINGS, callback_of(order), "m1", "")
    other = orders.place_order(conn, SHELL, _account(conn, order), packs.get_pack(conn, 100_000))
    assert payments.process_callback(conn, keys, SETTINGS, callback_of(other), "m1", "") == payments.CREDITED
    assert credits.get_balance(conn, order.account_id) == 1_200_000


def test_another_message_about_the_same_payment_does_nothing(conn: db.Connection, keys: Keys, order: Order) -> None:
    payments.process_callback(conn, keys, SETTINGS, callback_of(order), "m1", "")
    assert payments.process_callback(conn, keys, SETTINGS, callback_of(order), "m2", "") == payments.PAID_BEFORE
    assert (credits.get_balance(conn, order.account_id), mails(conn, keys)) == (1_100_000, ["order_paid"])


def test_a_second_payment_of_an_order_is_told_to_the_operators(conn: db.Connection, keys: Keys, order: Order) -> None:
    payments.process_callback(conn, keys, SETTINGS, callback_of(order), "m1", "")
    assert (
        payments.process_callback(conn, keys, SETTINGS, callback_of(order, payment="p2"), "m2", "")
        == payments.PAID_BEFORE
    )
    assert credits.get_balance(conn, order.account_id) == 1_100_000
    assert mails(conn, keys) == ["order_paid", "order_payment_unmatched"]
    assert unmatched(conn) == ["paid_before"]


@pytest.mark.parametrize(
    "changed",
    [
        {"amount": 699},
        {"amount": -700},
        {"currency": "USD"},
    ],
)
def test_another_amount_credits_nothing_and_is_told_once_a_message(
    conn: db.Connection, keys: Keys, order: Order, changed: dict[str, object]
) -> None:
    for message_id in ("m1", "m1", "m2"):
        with refused("amount"):
            payments.process_callback(conn, keys, SETTINGS, callback_of(order, **changed), message_id, "")  # type: ignore[arg-type]
    assert orders.get_order_by_number(conn, order.number).status == orders.OPEN
    assert credits.get_balance(conn, order.account_id) == 1_000_000
    assert (unmatched(conn), mails(conn, keys)) == (["amount"] * 2, ["order_payment_unmatched"] * 2)
    # What was refused doesn't stand in the way of what is right.
    assert payments.process_callback(conn, keys, SETTINGS, callback_of(order), "m1", "") == payments.CREDITED


def test_an_order_that_is_unknown_or_cancelled_is_told_too(conn: db.Connection, keys: Keys, order: Order) -> None:
    with refused("unknown_order"):
        payments.process_callback(
            conn, keys, SETTINGS, PaymentCallback("2026-99999", 700, "EUR", "paid", "p1"), "m1", ""
        )
    orders.cancel_order(conn, SHELL, order)
    with refused("cancelled"):
        payments.process_callback(conn, keys, SETTINGS, callback_of(order), "m2", "")
    assert unmatched(conn) == ["unknown_order", "cancelled"]
    assert credits.get_balance(conn, order.account_id) == 1_000_000


@pytest.mark.parametrize("status", ["failed", "pending", "PAID", ""])
def test_what_says_something_else_than_paid_is_ignored(
    conn: db.Connection, keys: Keys, order: Order, status: str
) -> None:
    assert (
        payments.process_callback(conn, keys, SETTINGS, callback_of(order, status=status), "m1", "") == payments.IGNORED
    )
    assert (orders.get_order_by_number(conn, order.number).status, unmatched(conn)) == (orders.OPEN, [])
    assert payments.process_callback(conn, keys, SETTINGS, callback_of(order), "m1", "") == payments.CREDITED


def test_credits_that_have_arrived_on_a_credit_line_arrive_once(conn: db.Connection, keys: Keys, order: Order) -> None:
    with db.write_transaction(conn):
        orders.credit_order(conn, SHELL, order.id)
    assert payments.process_callback(conn, keys, SETTINGS, callback_of(order), "m1", "") == payments.CREDITED
    assert credits.get_balance(conn, order.account_id) == 1_100_000


def test_nobody_without_the_secret_uses_an_id_up(conn: db.Connection, keys: Keys, order: Order) -> None:
    # Customers choose what stands in the hidden fields of their forms.
    for guess in ("m1", "callback m1", f"callback {digest(b'', b'used m1', 'sha256').hex()[:48]}"):
        idempotency.use_idempotency_key(conn, guess)
    assert payments.process_callback(conn, keys, SETTINGS, callback_of(order), "m1", "") == payments.CREDITED


@pytest.mark.parametrize("same_id", [True, False])
def test_twenty_callbacks_and_an_operator_at_once_credit_once(
    connect: Callable[[], db.Connection], conn: db.Connection, keys: Keys, order: Order, same_id: bool
) -> None:
    callers = [connect() for _caller in range(21)]
    together = Barrier(len(callers))

    def call(number: int) -> str:
        together.wait()
        if number == 20:
            try:
                orders.confirm_payment(callers[number], keys, SHELL, order, "p1")
            except orders.OrderClosed:
                return payments.PAID_BEFORE
            return payments.CREDITED
        message_id = "m1" if same_id else f"m{number}"
        return payments.process_callback(callers[number], keys, SETTINGS, callback_of(order), message_id, "")

    with ThreadPoolExecutor(len(callers)) as pool:
        results = list(pool.map(call, range(len(callers))))
    assert results.count(payments.CREDITED) == 1
    assert set(results) <= {payments.CREDITED, payments.REPEATED, payments.PAID_BEFORE}
    assert credits.get_balance(conn, order.account_id) == 1_100_000
    purchased = conn.execute("SELECT count(*) FROM movements WHERE kind = ?", (ledger.PURCHASE,)).fetchone()[0]
    assert (purchased, mails(conn, keys)) == (1, ["order_paid"])


# --- the way there


def test_what_is_signed_on_the_way_there(order: Order) -> None:
    settings = PaymentSettings(checkout_url="https://pay.example/start", secret=SETTINGS.secret)
    address = payments.build_checkout_url(settings, order, "https://sms.example/accounts/x/orders/1", NOW_S)
    assert address.startswith(f"https://pay.example/start?order={order.number}&amount=700&currency=EUR&credits=100&")
    signed = (
        f"amount=700\ncredits=100\ncurrency=EUR\norder={order.number}\n"
        f"return_url=https://sms.example/accounts/x/orders/1\ntimestamp={NOW_S}"
    )
    assert address.endswith("&signature=" + digest(SETTINGS.secret.encode(), signed.encode(), "sha256").hex())


def _account(conn: db.Connection, order: Order) -> Account:
    return accounts.get_account(conn, order.account)
