"""Giving back what a message cost, as an operator, and what was given back of a text."""

import json
import sqlite3
from dataclasses import dataclass

from portal.core.db import immediate
from portal.core.i18n import N_
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common import idempotency, ids
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.common.message_states import ENROUTE
from portal.services.credits import credits
from portal.services.history.history import NoSuchMessage, Text


class NotFinished(Refused):
    sentence = N_("That message is on its way: what it cost can be given back once it has its final status.")


class CostNothing(Refused):
    sentence = N_("That message cost nothing.")


class AlreadyRefunded(Refused):
    sentence = N_("What that message cost has been given back already.")


def account_of(conn: sqlite3.Connection, message_id: int) -> Account:
    """The account that has sent a message.

    Raises:
        NoSuchMessage
    """
    row = conn.execute(
        "SELECT name FROM accounts WHERE id = (SELECT account_id FROM messages WHERE id = ?) AND deleted_at IS NULL",
        (message_id,),
    ).fetchone()
    if row is None:
        raise NoSuchMessage()
    return accounts.by_name(conn, row["name"])


def refund_message(conn: sqlite3.Connection, actor: Actor, account: Account, message_id: int, reason: str) -> int:
    """Give back what a finished message cost, once.

    Args:
        reason: stands in the ledger.

    Returns:
        How much that was (thousandths of a credit).

    Raises:
        NoSuchMessage: also when it is another account's.
        ReasonMissing, NotFinished, CostNothing, AlreadyRefunded
    """
    with immediate(conn):
        row = conn.execute(
            "SELECT price, state, EXISTS (SELECT 1 FROM movements WHERE kind = 'refund'"
            " AND first_message_id = messages.id) AS refunded FROM messages WHERE id = ? AND account_id = ?",
            (message_id, account.id),
        ).fetchone()
        if row is None:
            raise NoSuchMessage()
        if row["state"] == ENROUTE:
            raise NotFinished()
        if not row["price"]:
            raise CostNothing()
        if row["refunded"]:
            raise AlreadyRefunded()
        credits.refund(conn, actor, account, row["price"], reason, message_id=message_id)
    return int(row["price"])


def refund_text(
    conn: sqlite3.Connection, actor: Actor, account: Account, text: Text, reason: str, *, form: str = ""
) -> int:
    """Give back what the messages of a text cost, except for those of which it was given back before; all or none.

    Args:
        reason: stands in the ledger.
        form: a number of `once.new`: sent a second time, it gives nothing back.

    Returns:
        How much that was (thousandths of a credit).

    Raises:
        ReasonMissing, NotFinished, AlreadySent
        CostNothing, AlreadyRefunded: there is nothing to give back.
    """
    given, nothing = 0, None
    with immediate(conn):
        idempotency.spend(conn, form)
        for each in text.messages:
            try:
                given += refund_message(conn, actor, account, each.id, reason)
            except (CostNothing, AlreadyRefunded) as refusal:
                nothing = refusal
        if not given and nothing:
            raise nothing
    return given


@dataclass(frozen=True, slots=True)
class Refund:
    """What was given back, in thousandths of a credit, and when (milliseconds)."""

    at: int
    amount: int


def refunds(conn: sqlite3.Connection, text: Text) -> list[Refund]:
    """What was given back of a text's price, oldest first: that of messages which were called back, or stopped before
    their date, and what operators gave back."""
    rows = conn.execute(
        "SELECT id, amount FROM movements WHERE kind = 'refund'"
        " AND first_message_id IN (SELECT value FROM json_each(?)) ORDER BY id",
        (json.dumps([each.id for each in text.messages]),),
    )
    return [Refund(ids.time_of(row["id"]), row["amount"]) for row in rows]


def refunded(conn: sqlite3.Connection, text: Text) -> int:
    """All that was given back of a text's price, in thousandths of a credit."""
    return sum(each.amount for each in refunds(conn, text))
