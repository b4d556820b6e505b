"""Alerts about an account's credits: a notice is stored in the transaction of what has happened, and mailed afterwards
(`credit_mails`).
"""

import re
import sqlite3
from collections.abc import Iterable, Sequence

from portal.core.db import insert_row, update_row, write_transaction
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.people.customers import parse_email

LOW, RECREDITED, REQUESTED = "low", "recredited", "requested"

MAX_ADDRESSES = 5
_ADDRESS_SEPARATORS = re.compile(r"[\s,;]+")


class TooManyAlertAddresses(Refused, field="to"):
    sentence = N_("An alert goes to at most %(most)s addresses.")


def is_threshold_crossed(threshold: int | None, before: int, after: int) -> bool:
    """Whether a balance has fallen below a threshold, and was not below it before. All in thousandths of a credit."""
    return threshold is not None and after < threshold <= before


def add_credit_notice(
    conn: sqlite3.Connection, account_id: int, kind: str, at: int, balance: int, order_id: int | None = None
) -> None:
    """Store a notice that a mail will report. The caller is inside `write_transaction()`.

    Args:
        kind: LOW, RECREDITED or REQUESTED.
        at: when it happened (milliseconds).
        balance: what it left (thousandths of a credit).
        order_id: the order that was made.
    """
    insert_row(conn, "credit_notices", account_id=account_id, kind=kind, at=at, balance=balance, order_id=order_id)


# --- the rule


def set_alert_rule(
    conn: sqlite3.Connection, actor: Actor, account: Account, below: int | None, addresses: Sequence[str] = ()
) -> None:
    """Set below which balance a mail goes out, and to whom.

    Args:
        below: the threshold (thousandths of a credit); None: no mail, and the addresses are forgotten.
        addresses: at most five; none: the customer's contact address, whichever that is.

    Raises:
        InvalidEmail, TooManyAddresses
    """
    checked = deduplicate_addresses(parse_email(each, "to") for each in addresses) if below is not None else []
    if len(checked) > MAX_ADDRESSES:
        raise TooManyAlertAddresses(most=MAX_ADDRESSES)
    with write_transaction(conn):
        update_row(conn, "accounts", account.id, alert_below=below, alert_to=" ".join(checked))
        audit.record_account_action(conn, actor, "alert.set", account, below=below, to=checked)


def parse_email_addresses(text: str) -> list[str]:
    """The addresses in a text, with spaces, commas, semicolons or lines between them."""
    return [each for each in _ADDRESS_SEPARATORS.split(text) if each]


def deduplicate_addresses(addresses: Iterable[str]) -> list[str]:
    """Addresses without those that are there twice, however they are written: one mail is enough."""
    unique: dict[str, str] = {}
    for each in addresses:
        unique.setdefault(each.casefold(), each)
    return list(unique.values())
