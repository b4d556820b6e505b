"""What tests of orders do: place one, call back as the payment page does, look at what followed."""

import re
from base64 import b64encode
from hmac import digest
from json import dumps, loads
from time import time
from typing import Any

from werkzeug.test import TestResponse

from portal.core import db
from portal.core.crypto import Keys
from portal.services.billing import orders, packs
from portal.services.billing.orders import Order
from portal.services.common.audit import SHELL
from tests.web import acting
from tests.web.conftest import Browser

ACCOUNT = "/accounts/smpp-acme-1"
ORDERS = f"{ACCOUNT}/orders"
SECRET = "a secret of more than thirty characters"


def words(page: str) -> str:
    """What a page says; a sign after bold words stands where it belongs."""
    return re.sub(r" ([,.:])", r"\1", acting.extract_text(page))


def place_order(conn: db.Connection, name: str = "smpp-acme-1", size: int = 100_000) -> Order:
    """Place an order of a pack (its size in thousandths of a credit), which nobody has paid."""
    return orders.place_order(conn, SHELL, acting.get_account(conn, name), packs.get_pack(conn, size))


def balance(conn: db.Connection, name: str = "smpp-acme-1") -> int:
    return acting.get_account(conn, name).balance


def mails(conn: db.Connection, keys: Keys) -> list[tuple[str, str]]:
    """Who is sent which mail, in the order of sending."""
    return [
        (row["recipient"], loads(keys.decrypt_column(row["content"]))["template"])
        for row in conn.execute("SELECT recipient, content FROM mails ORDER BY id")
    ]


def audited(conn: db.Connection, action: str) -> list[Any]:
    return [loads(row[0]) for row in conn.execute("SELECT details FROM audit_log WHERE action = ?", (action,))]


def call_back(
    browser: Browser, made: Order, *, message_id: str = "msg_1", secret: str = SECRET, **changes: Any
) -> TestResponse:
    """Call back as a payment page does: nobody is logged in there, and no form's token is known."""
    usual = {"order": made.number, "amount": 700, "currency": "EUR", "status": "paid", "payment": "pay-4711"}
    body = changes.pop("body", None) or dumps(usual | changes).encode()
    headers = sign(body, message_id, secret)
    return browser.application.test_client().post(
        "/payments/callback", data=body, headers=headers, content_type="application/json"
    )


def sign(body: bytes, message_id: str = "msg_1", secret: str = SECRET) -> dict[str, str]:
    """The headers that a payment page sends with this body."""
    timestamp = str(int(time()))
    right = b64encode(digest(secret.encode(), f"{message_id}.{timestamp}.".encode() + body, "sha256")).decode()
    return {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{right}"}
