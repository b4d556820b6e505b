"""What can happen to credits: operations as plain data, and how each is asked of the services.

An operation is a dict that JSON can hold, so that a journal keeps it and a model understands it:

| kind | and |
| --- | --- |
| submit | batch: [account, destination, parts, price, source, country, scheduled_at, expires_at] each |
| grant | account, amount, expires_at, form |
| correct, refund | account, amount, form |
| refund message | message: id, text |
| transfer | source, target, amount, form |
| order | account, pack, form |
| pay, cancel order | order |
| cancel | messages: [id, text, waits for its date] each |
| finish | messages: [id, text, state, ptt] each |
| due, expire | now |
| list, unlist | account, number |
"""

import sqlite3
from collections.abc import Callable
from typing import Any

from portal.core.clock import now_ms
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import orders, packs
from portal.services.billing.orders import Order
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.credits import credits, expiry
from portal.services.history import refunds
from portal.services.messages import blacklist, intake, outcomes
from portal.services.messages.outcomes import Outcome, Whereabouts
from portal.services.messages.validation import Submit

Operation = dict[str, Any]
Answer = Any


def perform(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    """Do it, and return what the services answered, as JSON can hold it: {"refused": why} where they refused it.

    Args:
        key: names the operation; its messages' texts begin with it.
    """
    try:
        return _PERFORM[operation["kind"]](conn, key, operation)
    except Refused as refused:
        return {"refused": type(refused).__name__}


def text_of(key: str, number: int) -> str:
    """The text of a batch's message."""
    return f"{key}/{number}"


def _submit(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    batch = [
        Submit(
            account_id=account,
            source=source,
            source_ton=5,
            source_npi=0,
            destination=destination,
            country=country,
            text=text_of(key, number),
            udh=None,
            data_coding=0,
            registered_delivery=number % 2,
            reference=None,
            parts=parts,
            price=price,
            scheduled_at=scheduled_at,
            expires_at=expires_at,
        )
        for number, (account, destination, parts, price, source, country, scheduled_at, expires_at) in enumerate(
            operation["batch"]
        )
    ]
    return intake.store(conn, batch).ids


def _grant(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    account = _account(conn, operation["account"])
    form, expires_at = operation["form"], operation["expires_at"]
    return credits.grant(conn, Actor(key), account, operation["amount"], key, expires_at=expires_at, form=form)


def _correct(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    account = _account(conn, operation["account"])
    return credits.correct(conn, Actor(key), account, operation["amount"], key, form=operation["form"])


def _refund(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    account = _account(conn, operation["account"])
    return credits.refund(conn, Actor(key), account, operation["amount"], key, form=operation["form"])


def _refund_message(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    message_id, _ = operation["message"]
    (account_id,) = conn.execute("SELECT account_id FROM messages WHERE id = ?", (message_id,)).fetchone()
    return refunds.refund_message(conn, Actor(key), _account(conn, account_id), message_id, key)


def _transfer(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    source, target = _account(conn, operation["source"]), _account(conn, operation["target"])
    return list(credits.transfer(conn, Actor(key), source, target, operation["amount"], form=operation["form"]))


def _order(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    account, pack = _account(conn, operation["account"]), packs.of_size(conn, operation["pack"])
    return orders.place(conn, Actor(key), account, pack, form=operation["form"]).id


def _pay(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    orders.pay(conn, Actor(key), _order_of(conn, operation["order"]), key)
    return True


def _cancel_order(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    orders.cancel(conn, Actor(key), _order_of(conn, operation["order"]))
    return True


def _cancel(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    found = [
        Whereabouts(message_id, "", "", outcomes.ENROUTE, 0, None, waits)
        for message_id, _, waits in operation["messages"]
    ]
    return outcomes.cancel(conn, found).done


def _finish(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    at = now_ms()
    outcomes.finish(conn, [Outcome(each, state, ptt, at) for each, _, state, ptt in operation["messages"]])
    return True


def _due(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    outcomes.take_due(conn, operation["now"])
    return True


def _expire(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    return expiry.run_out(conn, operation["now"])


def _list(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    blacklist.add(conn, Actor(key), _account(conn, operation["account"]), operation["number"])
    return True


def _unlist(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    blacklist.remove(conn, Actor(key), _account(conn, operation["account"]), operation["number"])
    return True


_PERFORM: dict[str, Callable[[sqlite3.Connection, str, Operation], Answer]] = {
    "submit": _submit,
    "grant": _grant,
    "correct": _correct,
    "refund": _refund,
    "refund message": _refund_message,
    "transfer": _transfer,
    "order": _order,
    "pay": _pay,
    "cancel order": _cancel_order,
    "cancel": _cancel,
    "finish": _finish,
    "due": _due,
    "expire": _expire,
    "list": _list,
    "unlist": _unlist,
}
KINDS = tuple(_PERFORM)


def _account(conn: sqlite3.Connection, account_id: int) -> Account:
    return next(each for each in accounts.of_customer(conn) if each.id == account_id)


def _order_of(conn: sqlite3.Connection, order_id: int) -> Order:
    number, account_id = conn.execute(
        "SELECT strftime('%Y', created_at / 1000, 'unixepoch') || printf('-%05d', id), account_id FROM orders"
        " WHERE id = ?",
        (order_id,),
    ).fetchone()
    return orders.by_number(conn, number, account_id)
