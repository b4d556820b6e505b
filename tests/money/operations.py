"""The operations on credits as plain data, and how each is done with the services.

An operation is a dict of JSON values, so that it can be stored in a journal and replayed on a model:

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
from portal.services.common import idempotency, message_states
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.credits import credits, expiry
from portal.services.history import refunds
from portal.services.messages import blacklist, intake, outcomes, query_cancel
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.query_cancel import MessageStatus
from portal.services.messages.validation import SubmittedMessage

Operation = dict[str, Any]
Answer = Any


def perform_operation(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    """Do an operation; returns the answer as JSON values: {"refused": name of the exception} where it was refused.

    Args:
        key: identifies the operation; its messages' texts begin with it.
    """
    try:
        return _HANDLERS[operation["kind"]](conn, key, operation)
    except Refused as refused:
        return {"refused": type(refused).__name__}


def message_text(key: str, number: int) -> str:
    """The text of a batch's message."""
    return f"{key}/{number}"


def _perform_submit(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    batch = [
        SubmittedMessage(
            account_id=account,
            source=source,
            source_ton=5,
            source_npi=0,
            destination=destination,
            country=country,
            text=message_text(key, number),
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
    return intake.store_messages(conn, batch).message_ids


def _perform_grant(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    account = _get_account_by_id(conn, operation["account"])
    with idempotency.once(conn, operation["form"]):
        return credits.grant_credits(
            conn, Actor(key), account, operation["amount"], key, expires_at=operation["expires_at"]
        )


def _perform_correct(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    account = _get_account_by_id(conn, operation["account"])
    with idempotency.once(conn, operation["form"]):
        return credits.correct_balance(conn, Actor(key), account, operation["amount"], key)


def _perform_refund(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    account = _get_account_by_id(conn, operation["account"])
    with idempotency.once(conn, operation["form"]):
        return credits.refund_credits(conn, Actor(key), account, operation["amount"], key)


def _perform_refund_message(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    message_id, _ = operation["message"]
    (account_id,) = conn.execute("SELECT account_id FROM messages WHERE id = ?", (message_id,)).fetchone()
    return refunds.refund_message(conn, Actor(key), _get_account_by_id(conn, account_id), message_id, key)


def _perform_transfer(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    source, target = _get_account_by_id(conn, operation["source"]), _get_account_by_id(conn, operation["target"])
    with idempotency.once(conn, operation["form"]):
        return list(credits.transfer_credits(conn, Actor(key), source, target, operation["amount"]))


def _perform_order(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    account, pack = _get_account_by_id(conn, operation["account"]), packs.get_pack(conn, operation["pack"])
    with idempotency.once(conn, operation["form"]):
        return orders.place_order(conn, Actor(key), account, pack).id


def _perform_pay(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    orders.pay_order(conn, Actor(key), _get_order_by_id(conn, operation["order"]), key)
    return True


def _perform_cancel_order(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    orders.cancel_order(conn, Actor(key), _get_order_by_id(conn, operation["order"]))
    return True


def _perform_cancel(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    pending = [
        MessageStatus(message_id, "", "", message_states.ENROUTE, 0, None, waits)
        for message_id, _, waits in operation["messages"]
    ]
    return query_cancel.cancel_messages(conn, pending).was_cancelled


def _perform_finish(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    at = now_ms()
    outcomes.finish_messages(
        conn, [MessageOutcome(each, state, ptt, at) for each, _, state, ptt in operation["messages"]]
    )
    return True


def _perform_due(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    outcomes.process_due_messages(conn, operation["now"])
    return True


def _perform_expire(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    return expiry.expire_credits(conn, operation["now"])


def _perform_list(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    blacklist.add_blacklist_number(
        conn, Actor(key), _get_account_by_id(conn, operation["account"]), operation["number"]
    )
    return True


def _perform_unlist(conn: sqlite3.Connection, key: str, operation: Operation) -> Answer:
    blacklist.remove_blacklist_number(
        conn, Actor(key), _get_account_by_id(conn, operation["account"]), operation["number"]
    )
    return True


_HANDLERS: dict[str, Callable[[sqlite3.Connection, str, Operation], Answer]] = {
    "submit": _perform_submit,
    "grant": _perform_grant,
    "correct": _perform_correct,
    "refund": _perform_refund,
    "refund message": _perform_refund_message,
    "transfer": _perform_transfer,
    "order": _perform_order,
    "pay": _perform_pay,
    "cancel order": _perform_cancel_order,
    "cancel": _perform_cancel,
    "finish": _perform_finish,
    "due": _perform_due,
    "expire": _perform_expire,
    "list": _perform_list,
    "unlist": _perform_unlist,
}
OPERATION_KINDS = tuple(_HANDLERS)


def _get_account_by_id(conn: sqlite3.Connection, account_id: int) -> Account:
    return next(each for each in accounts.list_accounts(conn) if each.id == account_id)


def _get_order_by_id(conn: sqlite3.Connection, order_id: int) -> Order:
    number, account_id = conn.execute(
        "SELECT strftime('%Y', created_at / 1000, 'unixepoch') || printf('-%05d', id), account_id FROM orders"
        " WHERE id = ?",
        (order_id,),
    ).fetchone()
    return orders.get_order_by_number(conn, number, account_id)
