"""Asking for senders and deciding on them, with the mails that tell of it.

What a sender is, and what is allowed, is the matter of `senders`.
"""

import sqlite3
from contextlib import suppress

from portal.core.clock import HOUR_MS
from portal.core.crypto import Keys
from portal.core.db import immediate
from portal.core.i18n import DEFAULT_LANGUAGE
from portal.services.accounts.accounts import Account
from portal.services.common import mail, rate_limit
from portal.services.common.audit import Actor
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.people import customers, users
from portal.services.senders import senders
from portal.services.senders.senders import ENABLED, Sender

# Whoever asks, removes and asks again fills nobody's mailbox: what is above waits in the queue all the same.
_MOST_MAILS_AN_HOUR = 20


def ask(
    conn: sqlite3.Connection,
    keys: Keys,
    actor: Actor,
    account: Account,
    address: str,
    *,
    description: str = "",
    reason: str = "",
    document: bytes = b"",
) -> Sender:
    """Ask for a sender, and tell the operators. Arguments and refusals are those of `senders.add`."""

    def tell(sender: Sender) -> None:
        with suppress(TooManyAttempts):
            rate_limit.take(conn, f"sender:{account.id}", _MOST_MAILS_AN_HOUR, HOUR_MS)
            told = _told(sender, account) | {
                "customer": customers.by_id(conn, account.customer_id).name,
                "sender_id": sender.id,
                "reason": sender.reason,
                "has_document": sender.document is not None,
                "asked_by": actor.name,
            }
            for operator in users.of_customer(conn, None):
                mail.queue(conn, keys, operator.email, "sender_asked", operator.language or DEFAULT_LANGUAGE, **told)

    return senders.add(
        conn, actor, account, address, description=description, reason=reason, document=document, then=tell
    )


def decide(
    conn: sqlite3.Connection,
    keys: Keys,
    actor: Actor,
    account: Account,
    address: str,
    *,
    approve: bool,
    comment: str = "",
    mark: str | None = None,
) -> Sender:
    """Decide on a sender, and tell the customer's contact address. Arguments and refusals: `senders.decide`."""
    with immediate(conn):
        sender = senders.decide(conn, actor, account, address, approve=approve, comment=comment, mark=mark)
        contact = customers.by_id(conn, account.customer_id)
        told = _told(sender, account) | {"approved": sender.status == ENABLED, "comment": sender.comment}
        mail.queue(conn, keys, contact.contact_email, "sender_decided", contact.language, **told)
    return sender


def _told(sender: Sender, account: Account) -> dict[str, object]:
    return {"sender": sender.address, "account": account.name, "description": sender.description}
