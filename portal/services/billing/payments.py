"""The payment page: what its visitors bring along, signed, and what it calls back, verified.

Both signatures are HMAC-SHA256 under the one secret of `[payments]`. The way there is described in docs/payments.md;
the way back is that of Standard Webhooks 1.0.0 (https://www.standardwebhooks.com).
"""

import hmac
import json
import re
import sqlite3
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass
from urllib.parse import urlencode

from portal.core.config import WEBHOOK_SECRET_PREFIX, PaymentSettings
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.services.billing import orders
from portal.services.billing.orders import Order
from portal.services.common import audit, credit_amounts, idempotency
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused

MAX_BODY_BYTES = 16_384
TIMESTAMP_TOLERANCE_S = 300

PAID = "paid"
# What became of a callback.
CREDITED, REPEATED, PAID_BEFORE, IGNORED = "credited", "repeated", "paid before", "ignored"

_ACTOR = "payment page"
_MAX_TEXT_LENGTH = 200
# Standard Webhooks: no full stop, which would let an id and a timestamp change places with each other.
_MESSAGE_ID = re.compile(r"[!-\-/-~]{1,200}")
_CURRENCY_CODE = re.compile(r"[A-Z]{3}")
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_TIMESTAMP = re.compile(r"[0-9]{1,12}")


class CallbackRefused(Refused):
    """A callback that changes nothing, for one of the reasons below.

    `code` is the reason for programs, `status` that of HTTP, and the sentence (English) is for developers.
    """

    def __init__(self, code: str, **params: object) -> None:
        super().__init__()
        self.code, self.params = code, params
        self.status, self.sentence = _REFUSALS[code]


_REFUSALS = {
    "headers": (400, "The headers webhook-id, webhook-timestamp and webhook-signature are needed."),
    "signature": (401, "None of the signatures is right."),
    "timestamp": (401, "The timestamp is more than five minutes off."),
    "body": (400, "The body isn't a JSON object with order, amount, currency, status and payment."),
    "unknown_order": (422, "There is no order %(number)s."),
    "amount": (422, "Order %(number)s costs %(price)s %(currency)s in the smallest unit."),
    "cancelled": (409, "Order %(number)s was cancelled."),
}


@dataclass(frozen=True, slots=True)
class PaymentCallback:
    """What a payment page reports of a payment: `amount` in the currency's smallest unit, `payment` its own number."""

    order: str
    amount: int
    currency: str
    status: str
    payment: str


# --- the way there


def build_checkout_url(settings: PaymentSettings, order: Order, return_url: str, now_s: int) -> str:
    """The address of the payment page for an order.

    Args:
        return_url: where the page sends the customer afterwards.
        now_s: seconds since 1970.
    """
    values = {
        "order": order.number,
        "amount": str(order.price),
        "currency": order.currency,
        "credits": str(credit_amounts.credits_to_json_number(order.credits)),
        "return_url": return_url,
        "timestamp": str(now_s),
    }
    values["signature"] = hmac.digest(
        _get_signing_key(settings), build_canonical_string(values).encode(), "sha256"
    ).hex()
    return settings.checkout_url + ("&" if "?" in settings.checkout_url else "?") + urlencode(values)


def build_canonical_string(values: dict[str, str]) -> str:
    """What is signed on the way there: a line `name=value` for each parameter, sorted by name, joined by line feeds."""
    return "\n".join(f"{name}={values[name]}" for name in sorted(values))


# --- the way back


def verify_callback(
    settings: PaymentSettings, message_id: str, timestamp: str, signatures: str, body: bytes, now_s: int
) -> None:
    """Make sure that a callback comes from who has the secret, and was made just now.

    Args:
        message_id, timestamp, signatures: the headers webhook-id, -timestamp, -signature; "" where one is missing.
        now_s: seconds since 1970.

    Raises:
        CallbackRefused: headers, signature, timestamp
    """
    if not _MESSAGE_ID.fullmatch(message_id) or not _TIMESTAMP.fullmatch(timestamp) or not signatures:
        raise CallbackRefused("headers")
    signed = f"{message_id}.{timestamp}.".encode() + body
    expected = b64encode(hmac.digest(_get_signing_key(settings), signed, "sha256"))
    # All are compared: with several keys in use, which of them is right would be revealed.
    matches = [
        hmac.compare_digest(expected, value.encode())
        for version, _, value in (each.partition(",") for each in signatures.split(" "))
        if version == "v1"
    ]
    if not any(matches):
        raise CallbackRefused("signature")
    if abs(now_s - int(timestamp)) > TIMESTAMP_TOLERANCE_S:
        raise CallbackRefused("timestamp")


def parse_callback(body: bytes) -> PaymentCallback:
    """Read the body of a callback.

    Raises:
        CallbackRefused: body
    """
    try:
        values = json.loads(body)
        order, amount, currency, status, payment = (values[name] for name in PaymentCallback.__slots__)
    except (ValueError, RecursionError, KeyError, TypeError):
        raise CallbackRefused("body") from None
    if not all(map(_is_valid_text, (order, currency, status, payment))) or not _CURRENCY_CODE.fullmatch(currency):
        raise CallbackRefused("body")
    if type(amount) is not int or abs(amount) >= 1 << 63:  # True is an int too
        raise CallbackRefused("body")
    return PaymentCallback(order, amount, currency, status, payment)


def _is_valid_text(value: object) -> bool:
    # JSON can say half of a character ("\ud800"), which neither SQLite nor mails can hold.
    return isinstance(value, str) and len(value) <= _MAX_TEXT_LENGTH and not _LONE_SURROGATE.search(value)


def process_callback(
    conn: sqlite3.Connection,
    keys: Keys,
    settings: PaymentSettings,
    callback: PaymentCallback,
    message_id: str,
    address: str,
) -> str:
    """Do what a verified callback says: its order is paid, once.

    Where money may have come that no order waits for, the operators get a mail, once for each message.

    Args:
        message_id: the same for each attempt to deliver the same message.
        address: where it comes from, for the audit log.

    Returns:
        CREDITED; or REPEATED, PAID_BEFORE or IGNORED: there was nothing to do.

    Raises:
        CallbackRefused: unknown_order, amount, cancelled
    """
    if callback.status != PAID:
        return IGNORED
    actor = Actor(_ACTOR, address)
    with write_transaction(conn):
        order, refusal = _find_order(conn, callback)
        try:
            # What was refused may be sent again, and is refused again, but reported once.
            idempotency.use_idempotency_key(
                conn, _build_idempotency_key(settings, message_id, callback.order, refused=refusal is not None)
            )
        except idempotency.FormAlreadySent:
            if refusal is None:
                return REPEATED
        else:
            if refusal is None and order is not None and order.status == orders.OPEN:
                orders.confirm_payment(conn, keys, actor, order, callback.payment)
                return CREDITED
            if refusal is not None or (order is not None and order.payment != callback.payment):
                _mail_unmatched_payment(conn, keys, actor, order, callback, refusal)
    if refusal is not None:
        raise refusal
    return PAID_BEFORE


def _find_order(conn: sqlite3.Connection, callback: PaymentCallback) -> tuple[Order | None, CallbackRefused | None]:
    """The order that a callback names, and why it can't be paid by it."""
    try:
        order = orders.get_order_by_number(conn, callback.order)
    except orders.NoSuchOrder:
        return None, CallbackRefused("unknown_order", number=callback.order)
    if (order.price, order.currency) != (callback.amount, callback.currency):
        return order, CallbackRefused("amount", number=order.number, price=order.price, currency=order.currency)
    return order, CallbackRefused("cancelled", number=order.number) if order.status == orders.CANCELLED else None


def _build_idempotency_key(settings: PaymentSettings, message_id: str, order: str, *, refused: bool) -> str:
    # Under the secret: customers send idempotency keys with forms too, and could use up the key of an id which they
    # foresee. With the order: a payment page that gives an id twice must not lose the second order's payment.
    digest = hmac.digest(_get_signing_key(settings), f"used {message_id} {order}".encode(), "sha256").hex()
    return f"{'refused' if refused else 'callback'} {digest[:48]}"


def _mail_unmatched_payment(
    conn: sqlite3.Connection,
    keys: Keys,
    actor: Actor,
    order: Order | None,
    callback: PaymentCallback,
    refusal: CallbackRefused | None,
) -> None:
    reason = refusal.code if refusal else "paid_before"
    owner = {"customer_id": order.customer_id, "account_id": order.account_id} if order else {}
    reported = {name: value for name, value in asdict(callback).items() if name != "status"}
    audit.record_action(conn, actor, "payment.unmatched", **owner, reason=reason, **reported)
    came = {
        "named": callback.order,
        "came": callback.amount,
        "came_currency": callback.currency,
        "came_payment": callback.payment,
    }
    orders.queue_operator_mails(conn, keys, "order_payment_unmatched", order, reason=reason, **came)


def _get_signing_key(settings: PaymentSettings) -> bytes:
    if settings.secret.startswith(WEBHOOK_SECRET_PREFIX):
        return b64decode(settings.secret.removeprefix(WEBHOOK_SECRET_PREFIX))
    return settings.secret.encode()
