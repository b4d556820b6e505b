"""Refunds: operators give back what a message cost."""

import json
import sqlite3

from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common import ids
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused, require_found
from portal.services.common.message_states import ENROUTE
from portal.services.credits import credits
from portal.services.history.history import NoSuchMessage, SentText
from portal.services.messages import client_ids
from portal.services.routing import route_usage


class MessageNotFinished(Refused):
    sentence = N_("That message is on its way: what it cost can be given back once it has its final status.")


class MessageWasFree(Refused):
    sentence = N_("That message cost nothing.")


class AlreadyRefunded(Refused):
    sentence = N_("What that message cost has been given back already.")


def get_account_by_message_id(conn: sqlite3.Connection, message_id: int) -> Account:
    """The account that has sent a message.

    Args:
        message_id: its id, or the one by which its client knows it.

    Raises:
        NoSuchMessage
    """
    row = conn.execute(
        "SELECT name FROM accounts WHERE id = (SELECT account_id FROM messages WHERE id = ?) AND deleted_at IS NULL",
        (client_ids.find_row_id(conn, "messages", message_id),),
    ).fetchone()
    return accounts.get_account(conn, require_found(row, NoSuchMessage())["name"])


def refund_message(conn: sqlite3.Connection, actor: Actor, account: Account, message_id: int, reason: str) -> int:
    """Give back what a finished message cost, once.

    Args:
        message_id: its id, or the one by which its client knows it.
        reason: is stored in the ledger.

    Returns:
        The amount (thousandths of a credit).

    Raises:
        NoSuchMessage: also when it is another account's.
        ReasonMissing, MessageNotFinished, MessageWasFree, AlreadyRefunded
    """
    message_id = client_ids.find_row_id(conn, "messages", message_id)
    with write_transaction(conn):
        row = conn.execute(
            "SELECT price, state, EXISTS (SELECT 1 FROM movements WHERE kind = 'refund'"
            " AND first_message_id = messages.id) AS refunded FROM messages WHERE id = ? AND account_id = ?",
            (message_id, account.id),
        ).fetchone()
        row = require_found(row, NoSuchMessage())
        if row["state"] == ENROUTE:
            raise MessageNotFinished()
        if not row["price"]:
            raise MessageWasFree()
        if row["refunded"]:
            raise AlreadyRefunded()
        credits.refund_credits(conn, actor, account, row["price"], reason, message_id=message_id)
        route_usage.count_refunds(conn, [(message_id, row["price"])])
    return int(row["price"])


def refund_text(conn: sqlite3.Connection, actor: Actor, account: Account, text: SentText, reason: str) -> int:
    """Give back what the messages of a text cost, in one transaction; those refunded before are left out.

    Args:
        reason: is stored in the ledger.

    Returns:
        The amount (thousandths of a credit).

    Raises:
        ReasonMissing, MessageNotFinished
        MessageWasFree, AlreadyRefunded: there is nothing to refund.
    """
    refunded_amount, last_refusal = 0, None
    with write_transaction(conn):
        for each in text.messages:
            try:
                refunded_amount += refund_message(conn, actor, account, each.id, reason)
            except (MessageWasFree, AlreadyRefunded) as refusal:
                last_refusal = refusal
        if not refunded_amount and last_refusal:
            raise last_refusal
    return refunded_amount


def list_refunds(conn: sqlite3.Connection, text: SentText) -> list[sqlite3.Row]:
    """The refunds of a text's messages, oldest first: those of cancelled messages, of messages that were blacklisted
    before their date, and those by operators.

    Returns:
        Rows of when it was given back (`refunded_at`, milliseconds), and how much (`amount`, thousandths of a credit).
    """
    return conn.execute(
        f"SELECT {ids.build_time_sql('id')} AS refunded_at, amount FROM movements WHERE kind = 'refund'"
        " AND first_message_id IN (SELECT value FROM json_each(?)) ORDER BY id",
        (json.dumps([each.id for each in text.messages]),),
    ).fetchall()


def sum_refunds(conn: sqlite3.Connection, text: SentText) -> int:
    """The sum of the refunds of a text's messages, in thousandths of a credit."""
    return sum(each["amount"] for each in list_refunds(conn, text))
