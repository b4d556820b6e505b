"""Buying credits: orders as people make and pay them, with the mails about them.

What an order is, and that it is credited once, is the matter of `orders`.
"""

import sqlite3

from portal.core.clock import HOUR_MS
from portal.core.crypto import Keys
from portal.core.db import write_transaction
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
_MAX_ORDERS_PER_HOUR = 20


class PackPriceChanged(Refused, field="pack"):
    sentence = N_("The price of this pack has changed. Nothing was ordered: check it again.")


def purchase_pack(
    conn: sqlite3.Connection, keys: Keys, actor: Actor, account: Account, pack: Pack, *, idempotency_key: str = ""
) -> Order:
    """Order a pack for an account, and mail the customer's contact address and the operators.

    Args:
        pack: as the customer has seen it.
        idempotency_key: of `idempotency.new_idempotency_key`: sent a second time, it orders nothing.

    Raises:
        NoSuchPack, PackPriceChanged, FormAlreadySent
        TooManyAttempts: twenty in an hour are enough.
    """
    with write_transaction(conn):
        if packs.get_pack(conn, pack.credits) != pack:
            raise PackPriceChanged()
        order = orders.place_order(conn, actor, account, pack, idempotency_key=idempotency_key)
        rate_limit.take_token(conn, f"order:{account.id}", _MAX_ORDERS_PER_HOUR, HOUR_MS)
        contact = _queue_customer_mail(conn, keys, "order_placed", order)
        queue_operator_mails(conn, keys, "order_received", order, contact=contact)
    return order


def confirm_payment(conn: sqlite3.Connection, keys: Keys, actor: Actor, order: Order, payment: str = "") -> Order:
    """Note that an order is paid, let its credits arrive if they haven't yet, and mail the customer.

    Args:
        payment: as in `orders.pay_order`.

    Raises:
        OrderClosed: it was paid or cancelled before.
    """
    with write_transaction(conn):
        order = orders.pay_order(conn, actor, order, payment)
        _queue_customer_mail(conn, keys, "order_paid", order)
    return order


def queue_operator_mails(
    conn: sqlite3.Connection, keys: Keys, template: str, order: Order | None, **context: object
) -> None:
    """Queue a mail to every operator, each in their language. The caller is inside `write_transaction()`.

    Args:
        template, context: as in `mail.queue_mail`; the order's values are added.
    """
    mail_values = _order_mail_values(order) | context if order else context
    for operator in users.list_users(conn, None):
        mail.queue_mail(conn, keys, operator.email, template, operator.language or DEFAULT_LANGUAGE, **mail_values)


def _queue_customer_mail(conn: sqlite3.Connection, keys: Keys, template: str, order: Order) -> str:
    """Queue a mail to the contact address of an order's customer; returns that."""
    customer = customers.get_customer_by_id(conn, order.customer_id)
    mail.queue_mail(conn, keys, customer.contact_email, template, customer.language, **_order_mail_values(order))
    return customer.contact_email


def _order_mail_values(order: Order) -> dict[str, object]:
    shown = ("number", "account", "customer", "credits", "price", "currency", "created_by", "payment")
    return {name: getattr(order, name) for name in shown}
