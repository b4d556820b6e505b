"""Asking for senders and deciding on them, with the mails about it.

What a sender is, and what is allowed, is the matter of `senders`.
"""

import sqlite3
from contextlib import suppress

from portal.core.clock import HOUR_MS
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.core.i18n import DEFAULT_LANGUAGE
from portal.services.accounts.accounts import Account
from portal.services.common import mail, rate_limit
from portal.services.common.audit import Actor
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.people import customers, users
from portal.services.senders import senders
from portal.services.senders.senders import ENABLED, Sender

# Whoever asks, removes and asks again fills nobody's mailbox: what is above waits in the queue all the same.
_MAX_MAILS_PER_HOUR = 20


def request_sender(
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
    """Ask for a sender, and mail the operators. Arguments and refusals are those of `senders.add_sender`."""

    def queue_request_mails(sender: Sender) -> None:
        with suppress(TooManyAttempts):
            rate_limit.take_token(conn, f"sender:{account.id}", _MAX_MAILS_PER_HOUR, HOUR_MS)
            mail_values = _mail_values(sender, account) | {
                "customer": customers.get_customer_by_id(conn, account.customer_id).name,
                "sender_id": sender.id,
                "reason": sender.reason,
                "has_document": sender.document is not None,
                "asked_by": actor.name,
            }
            for operator in users.list_users(conn, None):
                mail.queue_mail(
                    conn, keys, operator.email, "sender_asked", operator.language or DEFAULT_LANGUAGE, **mail_values
                )

    return senders.add_sender(
        conn,
        actor,
        account,
        address,
        description=description,
        reason=reason,
        document=document,
        on_added=queue_request_mails,
    )


def decide_sender_request(
    conn: sqlite3.Connection,
    keys: Keys,
    actor: Actor,
    account: Account,
    address: str,
    *,
    approve: bool,
    comment: str = "",
    revision: str | None = None,
) -> Sender:
    """Decide on a sender, and mail the customer's contact address. Arguments and refusals: `senders.decide_sender`."""
    with write_transaction(conn):
        sender = senders.decide_sender(
            conn, actor, account, address, approve=approve, comment=comment, revision=revision
        )
        contact = customers.get_customer_by_id(conn, account.customer_id)
        mail_values = _mail_values(sender, account) | {"approved": sender.status == ENABLED, "comment": sender.comment}
        mail.queue_mail(conn, keys, contact.contact_email, "sender_decided", contact.language, **mail_values)
    return sender


def _mail_values(sender: Sender, account: Account) -> dict[str, object]:
    return {"sender": sender.address, "account": account.name, "description": sender.description}
