"""Senders: the source addresses that an account's messages may carry."""

import re
import sqlite3
from dataclasses import dataclass

from portal.db import immediate, insert, now_ms
from portal.i18n import N_
from portal.services import audit
from portal.services.accounts import Account
from portal.services.audit import Actor
from portal.services.errors import Refused

ALPHA, SHORTCODE, NUMERIC, VIRTUAL = "alpha", "shortcode", "numeric", "virtual"
ENABLED, DISABLED, WAITING, REFUSED = "enable", "disable", "waitingValidation", "refused"

_PATTERNS = {
    ALPHA: re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_ \-.,&+]{3,11}"),
    SHORTCODE: re.compile(r"[0-9]{3,8}"),
    NUMERIC: re.compile(r"[1-9][0-9]{8,14}"),
}
_TEXT_LENGTH = 200
# The SMPP server keeps them in memory, and somebody decides about each.
_MOST = 100


class InvalidSender(Refused):
    sentence = N_(
        "“%(address)s” can't be a sender: it is 3 to 11 letters and digits (ACME), a short code of 3 to 8 digits, or a"
        " number with its country code (393401234567)."
    )
    field = "address"


class SenderExists(Refused):
    sentence = N_("%(address)s is already in the list.")
    field = "address"


class ListFull(Refused):
    sentence = N_("All %(limit)s senders are in use. Remove one first.")
    field = "address"


class NoSuchSender(Refused):
    sentence = N_("The sender %(address)s isn't in the list.")
    field = "address"


class TextTooLong(Refused):
    sentence = N_("At most %(length)s characters.")

    def __init__(self, field: str) -> None:
        super().__init__(length=_TEXT_LENGTH)
        self.field = field


@dataclass(frozen=True, slots=True)
class Sender:
    id: int
    address: str
    type: str
    status: str
    description: str
    reason: str
    comment: str
    created_at: int


_SELECT = "SELECT id, address, type, status, description, reason, comment, created_at FROM senders "


def type_of(address: str) -> str:
    """Raises: InvalidSender"""
    for kind, pattern in _PATTERNS.items():
        if pattern.fullmatch(address):
            return kind
    raise InvalidSender(address=address)


def add(
    conn: sqlite3.Connection, actor: Actor, account: Account, address: str, *, description: str = "", reason: str = ""
) -> Sender:
    """Ask for a sender; it waits for the operator's decision.

    Args:
        address: as typed; a number with or without a plus.
        description: for the reader of the list.
        reason: what it is for, for whoever decides.

    Raises:
        InvalidSender, SenderExists, TextTooLong, ListFull
    """
    address = address.strip().removeprefix("+")
    kind = type_of(address)
    description, reason = " ".join(description.split()), reason.strip()
    for field, text in (("description", description), ("reason", reason)):
        if len(text) > _TEXT_LENGTH:
            raise TextTooLong(field)
    with immediate(conn):
        if len(of_account(conn, account.id)) >= _MOST:
            raise ListFull(limit=_MOST)
        try:
            insert(
                conn,
                "senders",
                account_id=account.id,
                address=address,
                type=kind,
                status=WAITING,
                description=description,
                reason=reason,
                created_at=now_ms(),
            )
        except sqlite3.IntegrityError:
            raise SenderExists(address=address) from None
        audit.record(conn, actor, "sender.add", customer_id=account.customer_id, account_id=account.id, address=address)
        return by_address(conn, account, address)


def decide(
    conn: sqlite3.Connection, actor: Actor, account: Account, address: str, *, approve: bool, comment: str = ""
) -> Sender:
    """The operator's decision; it can be changed later. The SMPP server follows at once.

    Args:
        comment: what the customer reads beside it.

    Raises:
        NoSuchSender, TextTooLong
    """
    status, comment = ENABLED if approve else REFUSED, comment.strip()
    if len(comment) > _TEXT_LENGTH:
        raise TextTooLong("comment")
    with immediate(conn):
        changed = conn.execute(
            "UPDATE senders SET status = ?, comment = ?, decided_at = ? WHERE account_id = ? AND address = ?",
            (status, comment, now_ms(), account.id, address),
        ).rowcount
        if not changed:
            raise NoSuchSender(address=address)
        action = "sender.approve" if approve else "sender.refuse"
        audit.record(conn, actor, action, customer_id=account.customer_id, account_id=account.id, address=address)
        return by_address(conn, account, address)


def remove(conn: sqlite3.Connection, actor: Actor, account: Account, sender_id: int) -> Sender:
    """Raises: NoSuchSender"""
    with immediate(conn):
        row = conn.execute(_SELECT + "WHERE id = ? AND account_id = ?", (sender_id, account.id)).fetchone()
        if row is None:
            raise NoSuchSender(address=sender_id)
        conn.execute("DELETE FROM senders WHERE id = ?", (sender_id,))
        removed = Sender(*row)
        audit.record(
            conn,
            actor,
            "sender.remove",
            customer_id=account.customer_id,
            account_id=account.id,
            address=removed.address,
        )
    return removed


def by_address(conn: sqlite3.Connection, account: Account, address: str) -> Sender:
    """Raises: NoSuchSender"""
    row = conn.execute(_SELECT + "WHERE account_id = ? AND address = ?", (account.id, address)).fetchone()
    if row is None:
        raise NoSuchSender(address=address)
    return Sender(*row)


def of_account(conn: sqlite3.Connection, account_id: int) -> list[Sender]:
    """Newest first."""
    return [Sender(*row) for row in conn.execute(_SELECT + "WHERE account_id = ? ORDER BY id DESC", (account_id,))]


def waiting(conn: sqlite3.Connection) -> list[tuple[str, Sender]]:
    """The operator's queue, oldest first: each with its account's name."""
    rows = conn.execute(
        "SELECT accounts.name, senders.id, address, type, status, senders.description, reason, comment,"
        " senders.created_at FROM senders JOIN accounts ON accounts.id = account_id WHERE status = ?"
        " ORDER BY senders.id",
        (WAITING,),
    )
    return [(row[0], Sender(*tuple(row)[1:])) for row in rows]
