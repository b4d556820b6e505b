"""Telling people about an account's credits: what has happened is noted in the transaction in which it does, and mailed
afterwards (`credit_mails`).
"""

import re
import sqlite3
from collections.abc import Iterable, Sequence

from portal.core.db import immediate, insert
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.people import customers

LOW, RECREDITED, REQUESTED = "low", "recredited", "requested"

MOST_ADDRESSES = 5
_BETWEEN = re.compile(r"[\s,;]+")


class TooManyAddresses(Refused):
    sentence = N_("An alert goes to at most %(most)s addresses.")
    field = "to"


def is_crossed(threshold: int | None, before: int, after: int) -> bool:
    """Whether a balance has fallen below a threshold, and was not below it before. All in thousandths of a credit."""
    return threshold is not None and after < threshold <= before


def note(
    conn: sqlite3.Connection, account_id: int, kind: str, at: int, balance: int, order_id: int | None = None
) -> None:
    """Remember something that a mail will tell of. The caller is inside `immediate()`.

    Args:
        kind: LOW, RECREDITED or REQUESTED.
        at: when it happened (milliseconds).
        balance: what it left (thousandths of a credit).
        order_id: the order that was made.
    """
    insert(conn, "credit_notices", account_id=account_id, kind=kind, at=at, balance=balance, order_id=order_id)


# --- the rule


def set_rule(
    conn: sqlite3.Connection, actor: Actor, account: Account, below: int | None, addresses: Sequence[str] = ()
) -> None:
    """Say below which balance a mail goes out, and to whom.

    Args:
        below: the threshold (thousandths of a credit); None: no mail, and the addresses are forgotten.
        addresses: at most five; none: the customer's contact address, whichever that is.

    Raises:
        InvalidEmail, TooManyAddresses
    """
    checked = each_once(map(_checked, addresses)) if below is not None else []
    if len(checked) > MOST_ADDRESSES:
        raise TooManyAddresses(most=MOST_ADDRESSES)
    with immediate(conn):
        conn.execute(
            "UPDATE accounts SET alert_below = ?, alert_to = ? WHERE id = ?", (below, " ".join(checked), account.id)
        )
        audit.record(
            conn,
            actor,
            "alert.set",
            customer_id=account.customer_id,
            account_id=account.id,
            below=below,
            to=checked,
        )


def _checked(address: str) -> str:
    try:
        return customers.checked_email(address)
    except customers.InvalidEmail as refusal:
        # It belongs to another field here.
        refusal.field = "to"
        raise


def parse_addresses(text: str) -> list[str]:
    """The addresses in a text, with spaces, commas, semicolons or lines between them."""
    return [each for each in _BETWEEN.split(text) if each]


def each_once(addresses: Iterable[str]) -> list[str]:
    """Addresses without those that are there twice, however they are written: one mail is enough."""
    first: dict[str, str] = {}
    for each in addresses:
        first.setdefault(each.casefold(), each)
    return list(first.values())
