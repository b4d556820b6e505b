"""Orders of credits: made by a customer or by automatic re-credit, credited once, and paid once.

Usually an order is paid, and with that its credits arrive. One that was made by automatic re-credit on a credit line
has its credits at once, and is owed until it is paid. What people do with orders comes with mails.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Unpack

from portal.core import i18n
from portal.core.clock import HOUR_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import insert_row, update_row, write_transaction
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account
from portal.services.billing.packs import Pack, get_pack
from portal.services.common import audit, credit_amounts, keyset, mail, rate_limit
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused
from portal.services.common.keyset import PageBounds
from portal.services.credits import ledger
from portal.services.people import customers, users

CUSTOMER, AUTOMATIC = "customer", "automatic"
OPEN, PAID, CANCELLED = "open", "paid", "cancelled"
STATUSES = (OPEN, PAID, CANCELLED)
# In SQL: the credits have arrived and have still to be paid. In the words of the index of open orders.
IS_OWED = "movement_id IS NOT NULL AND paid_at IS NULL AND cancelled_at IS NULL"

_MAX_PAYMENT_LENGTH = 200
_BATCH_SIZE = 500
# Each is a mail to the operators.
_MAX_ORDERS_PER_HOUR = 20


class NoSuchOrder(NotFound, field="order"):
    sentence = N_("There is no order %(number)s.")


class OrderClosed(Refused, field="order"):
    sentence = N_("Order %(number)s is paid or cancelled: nothing about it changes any more.")


class OrderCredited(Refused, field="order"):
    sentence = N_("The credits of order %(number)s have arrived: it can only be paid.")


class PackPriceChanged(Refused, field="pack"):
    sentence = N_("The price of this pack has changed. Nothing was ordered: check it again.")


@dataclass(frozen=True, slots=True)
class Order:
    """`credits` in thousandths, `price` in the currency's smallest unit, times in milliseconds.

    `movement_id` is the line of the ledger by which the credits have arrived, None until then.
    """

    id: int
    account_id: int
    account: str
    customer_id: int
    customer: str
    origin: str
    credits: int
    price: int
    currency: str
    created_at: int
    created_by: str
    movement_id: int | None
    paid_at: int | None
    paid_by: str
    payment: str
    cancelled_at: int | None
    cancelled_by: str

    @property
    def number(self) -> str:
        """What people call it: the year (UTC) and a number, such as 2026-00042."""
        return f"{datetime.fromtimestamp(self.created_at / 1000, UTC).year}-{self.id:05d}"

    @property
    def status(self) -> str:
        """OPEN, PAID or CANCELLED."""
        return PAID if self.paid_at is not None else CANCELLED if self.cancelled_at is not None else OPEN

    @property
    def credited(self) -> bool:
        return self.movement_id is not None

    @property
    def cancellable(self) -> bool:
        """Credits that have arrived are owed, and can't be handed back by cancelling."""
        return self.status == OPEN and not self.credited

    @property
    def unit_price(self) -> str:
        """What one of its credits costs, in the reader's writing."""
        return Pack(self.credits, self.price, self.currency).unit_price


_SELECT = """
SELECT orders.id, account_id, accounts.name, customers.id, customers.name, origin, credits, price, currency,
       orders.created_at, created_by, movement_id, paid_at, paid_by, payment, cancelled_at, cancelled_by
FROM orders JOIN accounts ON accounts.id = account_id JOIN customers ON customers.id = customer_id
"""


def get_order_by_number(conn: sqlite3.Connection, number: str, account_id: int | None = None) -> Order:
    """One order.

    Args:
        account_id: only an order of this account is found; None: of any (operators, payment pages).

    Raises:
        NoSuchOrder: also when it exists, but is another account's.
    """
    _, _, digits = number.partition("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 18:
        row = conn.execute(
            f"{_SELECT} WHERE orders.id = ?1 AND (?2 IS NULL OR account_id = ?2)", (int(digits), account_id)
        ).fetchone()
        if row is not None and (order := Order(*row)).number == number:
            return order
    raise NoSuchOrder(number=number)


@dataclass(frozen=True, slots=True)
class OrderFilter:
    """Which orders are listed; None: all."""

    account_id: int | None = None
    customer_id: int | None = None
    status: str | None = None


_STATUS_CONDITIONS = {
    None: (),
    OPEN: ("paid_at IS NULL", "cancelled_at IS NULL"),
    PAID: ("paid_at IS NOT NULL",),
    CANCELLED: ("cancelled_at IS NOT NULL",),
}


def list_orders_page(conn: sqlite3.Connection, order_filter: OrderFilter, **bounds: Unpack[PageBounds]) -> list[Order]:
    """A page of orders, newest first."""
    owner_ids = {"account_id": order_filter.account_id, "customer_id": order_filter.customer_id}
    # Not "account_id = ? OR ? IS NULL": an account's orders are found by their index.
    conditions = [f"{name} = :{name}" for name, owner_id in owner_ids.items() if owner_id is not None]
    query = f"{_SELECT} WHERE {' AND '.join(['TRUE', *conditions, *_STATUS_CONDITIONS[order_filter.status]])}"
    rows = keyset.select_page(conn, query, owner_ids, id_column="orders.id", **bounds)
    return [Order(*row) for row in rows]


def iterate_orders(conn: sqlite3.Connection, order_filter: OrderFilter) -> Iterator[Order]:
    """All orders, newest first, without holding them all."""
    return keyset.iterate_pages(partial(list_orders_page, conn, order_filter), _BATCH_SIZE, lambda each: each.id)


def read_orders_version(conn: sqlite3.Connection, account_id: int) -> tuple[int, ...]:
    """Numbers that change with each change of an account's orders."""
    row = conn.execute(
        "SELECT count(*), count(movement_id), count(paid_at), count(cancelled_at) FROM orders WHERE account_id = ?",
        (account_id,),
    ).fetchone()
    return tuple(row)


def insert_order(
    conn: sqlite3.Connection, actor: Actor, account_id: int, pack: Pack, origin: str, *, at: int | None = None
) -> int:
    """Write an order down; returns its id. The caller is inside `write_transaction()`.

    Args:
        at: when it was made (milliseconds); None: now.
    """
    return insert_row(
        conn,
        "orders",
        account_id=account_id,
        origin=origin,
        created_at=now_ms() if at is None else at,
        created_by=actor.name,
        **asdict(pack),
    )


def place_order(conn: sqlite3.Connection, actor: Actor, account: Account, pack: Pack) -> Order:
    """Order a pack for an account; its credits arrive when it is paid."""
    with write_transaction(conn):
        order = get_order_by_id(conn, insert_order(conn, actor, account.id, pack, CUSTOMER))
        record_order_action(conn, actor, "order.place", order)
    return order


def pay_order(conn: sqlite3.Connection, actor: Actor, order: Order, payment: str = "") -> Order:
    """Note that an order is paid, and let its credits arrive if they haven't yet. Paid twice, it is credited once.

    Args:
        payment: how: the payment page's own number for it, or the operator's words; the beginning of a longer one.

    Raises:
        OrderClosed: it was paid or cancelled before.
    """
    payment = " ".join(payment.split())[:_MAX_PAYMENT_LENGTH]
    with write_transaction(conn):
        order = _require_open_order(conn, order)
        # In this order: no order is paid, not even for a moment, whose credits haven't arrived.
        if not order.credited:
            credit_order(conn, actor, order.id)
        update_row(conn, "orders", order.id, paid_at=now_ms(), paid_by=actor.name, payment=payment)
        record_order_action(conn, actor, "order.pay", order, payment=payment)
        return get_order_by_id(conn, order.id)


def cancel_order(conn: sqlite3.Connection, actor: Actor, order: Order) -> Order:
    """Close an order that won't be paid.

    Raises:
        OrderClosed, OrderCredited
    """
    with write_transaction(conn):
        order = _require_open_order(conn, order)
        if order.credited:
            raise OrderCredited(number=order.number)
        update_row(conn, "orders", order.id, cancelled_at=now_ms(), cancelled_by=actor.name)
        record_order_action(conn, actor, "order.cancel", order)
        return get_order_by_id(conn, order.id)


def credit_order(conn: sqlite3.Connection, actor: Actor, order_id: int, now: int | None = None) -> int:
    """Let an order's credits arrive; returns the balance after it. The caller is inside `write_transaction()`.

    Args:
        now: as in `ids.allocate_id`.
    """
    order = get_order_by_id(conn, order_id)
    movement_id, balance = ledger.post_movement(
        conn, actor, order.account_id, ledger.PURCHASE, order.credits, order.number, now=now
    )
    conn.execute("UPDATE orders SET movement_id = ? WHERE id = ?", (movement_id, order.id))
    return balance


def _require_open_order(conn: sqlite3.Connection, order: Order) -> Order:
    order = get_order_by_id(conn, order.id)
    if order.status != OPEN:
        raise OrderClosed(number=order.number)
    return order


def get_order_by_id(conn: sqlite3.Connection, order_id: int) -> Order:
    """An order that is there: one whose id the database holds."""
    return Order(*conn.execute(f"{_SELECT} WHERE orders.id = ?", (order_id,)).fetchone())


def record_order_action(conn: sqlite3.Connection, actor: Actor, action: str, order: Order, **details: Any) -> None:
    """Write to the audit log what was done with an order."""
    audit.record_action(
        conn,
        actor,
        action,
        customer_id=order.customer_id,
        account_id=order.account_id,
        order=order.number,
        credits=order.credits,
        price=order.price,
        currency=order.currency,
        **details,
    )


def order_to_dict(order: Order) -> dict[str, object]:
    """An order as programs read it."""
    return {
        "order": order.number,
        "created": i18n.format_iso8601(order.created_at),
        "created_by": order.created_by,
        "customer": order.customer,
        "account": order.account,
        "origin": order.origin,
        "credits": credit_amounts.credits_to_json_number(order.credits),
        "price": i18n.format_money_for_machines(order.price, order.currency),
        "currency": order.currency,
        "status": order.status,
        "credits_arrived": order.credited,
        "paid": order.paid_at and i18n.format_iso8601(order.paid_at),
        "paid_by": order.paid_by,
        "payment": order.payment,
        "cancelled": order.cancelled_at and i18n.format_iso8601(order.cancelled_at),
        "cancelled_by": order.cancelled_by,
    }


# --- with mails


def purchase_pack(conn: sqlite3.Connection, keys: Keys, actor: Actor, account: Account, pack: Pack) -> Order:
    """Order a pack for an account, and mail the customer's contact address and the operators.

    Args:
        pack: as the customer has seen it.

    Raises:
        NoSuchPack, PackPriceChanged
        TooManyAttempts: twenty in an hour are enough.
    """
    with write_transaction(conn):
        if get_pack(conn, pack.credits) != pack:
            raise PackPriceChanged()
        order = place_order(conn, actor, account, pack)
        rate_limit.take_token(conn, f"order:{account.id}", _MAX_ORDERS_PER_HOUR, HOUR_MS)
        contact = _queue_customer_mail(conn, keys, "order_placed", order)
        queue_operator_mails(conn, keys, "order_received", order, contact=contact)
    return order


def confirm_payment(conn: sqlite3.Connection, keys: Keys, actor: Actor, order: Order, payment: str = "") -> Order:
    """Note that an order is paid, let its credits arrive if they haven't yet, and mail the customer.

    Args:
        payment: as in `pay_order`.

    Raises:
        OrderClosed: it was paid or cancelled before.
    """
    with write_transaction(conn):
        order = pay_order(conn, actor, order, payment)
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
        mail.queue_mail(conn, keys, operator.email, template, operator.language, **mail_values)


def _queue_customer_mail(conn: sqlite3.Connection, keys: Keys, template: str, order: Order) -> str:
    """Queue a mail to the contact address of an order's customer; returns that."""
    customer = customers.get_customer_by_id(conn, order.customer_id)
    mail.queue_mail(conn, keys, customer.contact_email, template, customer.language, **_order_mail_values(order))
    return customer.contact_email


def _order_mail_values(order: Order) -> dict[str, object]:
    shown = ("number", "account", "customer", "credits", "price", "currency", "created_by", "payment")
    return {name: getattr(order, name) for name in shown}
