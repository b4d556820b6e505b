"""Buying credits: orders as people make and pay them, with the mails that tell of it.

What an order is, and that it is credited once, is the matter of `orders`.
"""

import sqlite3

from portal.core.clock import HOUR_MS
from portal.core.crypto import Keys
from portal.core.db import immediate
from portal.core.i18n import DEFAULT_LANGUAGE, N_
from portal.services.accounts.accounts import Account
from portal.services.billing import orders, packs
from portal.services.billing.orders import Order
from portal.services.billing.packs import Pack
from portal.services.common import mail, rate_limit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.people import customers, users

# Each is a mail to the operators.
_MOST_AN_HOUR = 20


class PriceChanged(Refused):
    sentence = N_("This pack has another price by now. Nothing was ordered: look at it once more.")
    field = "pack"


def place(conn: sqlite3.Connection, keys: Keys, actor: Actor, account: Account, pack: Pack, *, form: str = "") -> Order:
    """Order a pack for an account, and tell the customer's contact address and the operators.

    Args:
        pack: as the customer has seen it.
        form: a number of `once.new`: sent a second time, it orders nothing.

    Raises:
        NoSuchPack, PriceChanged, AlreadySent
        TooManyAttempts: twenty in an hour are enough.
    """
    with immediate(conn):
        if packs.of_size(conn, pack.credits) != pack:
            raise PriceChanged()
        order = orders.place(conn, actor, account, pack, form=form)
        rate_limit.take(conn, f"order:{account.id}", _MOST_AN_HOUR, HOUR_MS)
        _to_customer(conn, keys, "order_placed", order)
        to_operators(conn, keys, "order_received", order, contact=_contact(conn, order).contact_email)
    return order


def pay(conn: sqlite3.Connection, keys: Keys, actor: Actor, order: Order, payment: str = "") -> Order:
    """Note that an order is paid, let its credits arrive if they haven't yet, and tell the customer.

    Args:
        payment: as in `orders.pay`.

    Raises:
        OrderClosed: it was paid or cancelled before.
    """
    with immediate(conn):
        order = orders.pay(conn, actor, order, payment)
        _to_customer(conn, keys, "order_paid", order)
    return order


def to_operators(conn: sqlite3.Connection, keys: Keys, template: str, order: Order | None, **context: object) -> None:
    """Queue a mail to every operator, each in their language. The caller is inside `immediate()`.

    Args:
        template, context: as in `mail.queue`; what the order says is added.
    """
    told = _told(order) | context if order else context
    for operator in users.of_customer(conn, None):
        mail.queue(conn, keys, operator.email, template, operator.language or DEFAULT_LANGUAGE, **told)


def _to_customer(conn: sqlite3.Connection, keys: Keys, template: str, order: Order) -> None:
    contact = _contact(conn, order)
    mail.queue(conn, keys, contact.contact_email, template, contact.language, **_told(order))


def _contact(conn: sqlite3.Connection, order: Order) -> customers.Customer:
    return customers.by_id(conn, order.customer_id)


def _told(order: Order) -> dict[str, object]:
    return {
        "number": order.number,
        "account": order.account,
        "customer": order.customer,
        "credits": order.credits,
        "price": order.price,
        "currency": order.currency,
        "created_by": order.created_by,
        "payment": order.payment,
    }
