"""Senders: the source addresses that an account's messages may carry, asking for them and deciding on them."""

import re
import sqlite3
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from portal.core.clock import HOUR_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.core.i18n import DEFAULT_LANGUAGE, N_
from portal.services.accounts.accounts import Account, record_account_action
from portal.services.common import mail, rate_limit
from portal.services.common.addresses import INTERNATIONAL_NUMBER
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, require_found
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.people import customers, users
from portal.services.prices import countries
from portal.services.senders import documents
from portal.services.senders.documents import Document

ALPHA, SHORTCODE, NUMERIC, VIRTUAL = "alpha", "shortcode", "numeric", "virtual"
ENABLED, DISABLED, WAITING, REFUSED = "enable", "disable", "waitingValidation", "refused"
STATUS_LABELS = {
    ENABLED: N_("Enabled"),
    DISABLED: N_("Disabled"),
    WAITING: N_("Waiting for a decision"),
    REFUSED: N_("Refused"),
}

_PATTERNS = {
    ALPHA: re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_ \-.,&+]{3,11}"),
    SHORTCODE: re.compile(r"[0-9]{3,8}"),
    NUMERIC: re.compile(r"[1-9][0-9]{8,14}"),
}
# A number may be written in groups.
_GROUP_SEPARATORS = re.compile(r"[\s\-.()/]")
_MAX_TEXT_LENGTH = 200
# The SMPP server keeps them in memory, and somebody decides about each.
MAX_SENDERS = 100
# How long a sender that was removed can be brought back as it was.
_UNDO_MS = 15 * 60_000
# Whoever asks, removes and asks again fills nobody's mailbox: what is above waits in the queue all the same.
_MAX_MAILS_PER_HOUR = 20


class InvalidSender(Refused, field="address"):
    sentence = N_(
        "“%(address)s” can't be a sender: it is 3 to 11 letters and digits (ACME), a short code of 3 to 8 digits, or a"
        " number with its country code (393401234567)."
    )


class UnknownCountryCode(Refused, field="address"):
    sentence = N_("No country's numbers begin like %(address)s: a number has its country code first (393401234567).")


class SenderExists(Refused, field="address"):
    sentence = N_("%(address)s is already in the list.")


class SenderListFull(Refused, field="address"):
    sentence = N_("All %(limit)s senders are in use. Remove one first.")


class NoSuchSender(NotFound, field="address"):
    sentence = N_("The sender %(address)s isn't in the list.")


class SenderNotApproved(Refused, field="address"):
    sentence = N_("%(address)s has not been approved: it can't be enabled or disabled.")


class SenderChanged(Refused, field="address"):
    sentence = N_(
        "%(address)s has changed since you opened it: somebody has decided, or requested it again. Check it again."
    )


class SenderFieldTooLong(Refused):
    sentence = N_("At most %(length)s characters.")


@dataclass(frozen=True, slots=True)
class Sender:
    """A sender of an account, with the names of this and of its customer. Times in milliseconds; `comment` is the
    operator's.

    A number is VIRTUAL while it is one that reaches the account, and NUMERIC otherwise.
    """

    id: int
    account_id: int
    address: str
    type: str
    status: str
    description: str
    reason: str
    comment: str
    created_at: int
    decided_at: int | None
    account: str
    customer_id: int
    customer: str
    document: Document | None

    @property
    def revision(self) -> str:
        """A text that changes when the sender is decided on, or asked for anew."""
        return f"{self.status}.{self.created_at}"


_SELECT = f"""
SELECT senders.id, senders.account_id, address,
       CASE WHEN senders.type = '{NUMERIC}' AND EXISTS
           (SELECT 1 FROM inbound_numbers WHERE inbound_numbers.account_id = senders.account_id AND number = address)
           THEN '{VIRTUAL}' ELSE senders.type END AS type,
       status, senders.description, reason, comment, senders.created_at, decided_at,
       accounts.name, customers.id, customers.name, document.id, document.name, document.type, document.size
FROM senders JOIN accounts ON accounts.id = senders.account_id JOIN customers ON customers.id = customer_id
LEFT JOIN sender_documents AS document ON document.id = document_id
"""
# How many of these columns are the document's.
_DOCUMENT_COLUMNS = 4


def _select_senders(conn: sqlite3.Connection, conditions: str, *values: object) -> list[Sender]:
    senders = []
    for row in conn.execute(f"{_SELECT} WHERE {conditions}", values):
        of_document = row[-_DOCUMENT_COLUMNS:]
        document = Document(*of_document) if of_document[0] is not None else None
        senders.append(Sender(*[*row[:-_DOCUMENT_COLUMNS], document]))
    return senders


def parse_sender(text: str) -> tuple[str, str]:
    """Read a sender as it was typed: its address as messages carry it (a number without a plus or 00), and its type.

    Raises:
        InvalidSender, UnknownCountryCode
    """
    text = text.strip()
    number = _GROUP_SEPARATORS.sub("", text)
    if match := INTERNATIONAL_NUMBER.fullmatch(number):
        # Also where it is as short as a short code.
        address, kind = match[1], NUMERIC
    else:
        address = text.removeprefix("+").strip()
        kind = next((each for each, pattern in _PATTERNS.items() if pattern.fullmatch(address)), "")
    if not kind:
        raise InvalidSender(address=text)
    if kind == NUMERIC and countries.find_country(address) is None:
        raise UnknownCountryCode(address=address)
    return address, kind


def add_sender(
    conn: sqlite3.Connection,
    actor: Actor,
    account: Account,
    address: str,
    *,
    description: str = "",
    reason: str = "",
    document: bytes = b"",
    mail_keys: Keys | None = None,
    now: int | None = None,
) -> Sender:
    """Ask for a sender; it waits for the operator's decision. One that was refused can be asked for again.

    Args:
        address: as typed; a number with or without a plus.
        description: for the reader of the list.
        reason: what it is for, for whoever decides.
        document: what supports it: a PDF, PNG or JPEG, as `documents.scan_document` has let it pass;
            empty: none, or the one that it was refused with.
        mail_keys: seal the mails to the operators; None: it is no request, and they get none.
        now: milliseconds; None: this moment.

    Raises:
        InvalidSender, UnknownCountryCode, SenderExists, SenderFieldTooLong, SenderListFull
        DocumentTooLarge, InvalidDocument, ImageTooLarge, DocumentQuotaExceeded
    """
    address, kind = parse_sender(address)
    description, reason = " ".join(description.split()), reason.strip()
    for field, text in (("description", description), ("reason", reason)):
        if len(text) > _MAX_TEXT_LENGTH:
            raise SenderFieldTooLong(field=field, length=_MAX_TEXT_LENGTH)
    document_id = None
    if document:
        document_type = documents.detect_document_type(document)
        # Checked before the document is written; what decides is the check in the transaction.
        _require_can_add_sender(conn, account, address)
        document_id = documents.store_document(conn, account.id, document, document_type)
    try:
        with write_transaction(conn):
            _require_can_add_sender(conn, account, address)
            at = now_ms() if now is None else now
            # Of one that was refused the comment stays, for whoever decides again, and the document, unless another one
            # comes.
            conn.execute(
                "INSERT INTO senders (account_id, address, type, status, description, reason, created_at, document_id)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (account_id, address) DO UPDATE SET type = excluded.type,"
                " status = excluded.status, description = excluded.description, reason = excluded.reason,"
                " created_at = excluded.created_at, document_id = coalesce(excluded.document_id, document_id)",
                (account.id, address, kind, WAITING, description, reason, at, document_id),
            )
            record_account_action(conn, actor, "sender.add", account, address=address, document=document_id)
            added = get_sender(conn, account, address)
            if mail_keys is not None:
                _mail_operators(conn, mail_keys, actor, added)
    except BaseException:
        if document_id is not None:
            documents.delete_document(conn, document_id)
        raise
    return added


def _mail_operators(conn: sqlite3.Connection, keys: Keys, actor: Actor, sender: Sender) -> None:
    with suppress(TooManyAttempts):
        rate_limit.take_token(conn, f"sender:{sender.account_id}", _MAX_MAILS_PER_HOUR, HOUR_MS)
        values = _mail_values(sender) | {
            "customer": sender.customer,
            "sender_id": sender.id,
            "reason": sender.reason,
            "has_document": sender.document is not None,
            "asked_by": actor.name,
        }
        for operator in users.list_users(conn, None):
            language = operator.language or DEFAULT_LANGUAGE
            mail.queue_mail(conn, keys, operator.email, "sender_asked", language, **values)


def _mail_values(sender: Sender) -> dict[str, object]:
    return {"sender": sender.address, "account": sender.account, "description": sender.description}


def _require_can_add_sender(conn: sqlite3.Connection, account: Account, address: str) -> None:
    row = conn.execute(
        "SELECT total(address <> ?1), max(address = ?1 AND status <> ?2) FROM senders WHERE account_id = ?3",
        (address, REFUSED, account.id),
    ).fetchone()
    if row[1]:
        raise SenderExists(address=address)
    if row[0] >= MAX_SENDERS:
        raise SenderListFull(limit=MAX_SENDERS)


def decide_sender(
    conn: sqlite3.Connection,
    actor: Actor,
    account: Account,
    address: str,
    *,
    approve: bool,
    comment: str = "",
    revision: str | None = None,
    mail_keys: Keys | None = None,
) -> Sender:
    """The operator's decision; it can be changed later. The SMPP server follows at once.

    Args:
        comment: what the customer reads beside it.
        revision: the sender's `revision` as whoever decides has seen it; None: whatever has happened since.
        mail_keys: seal the mail to the customer's contact address; None: it gets none.

    Raises:
        NoSuchSender, SenderFieldTooLong, SenderChanged
    """
    comment = comment.strip()
    if len(comment) > _MAX_TEXT_LENGTH:
        raise SenderFieldTooLong(field="comment", length=_MAX_TEXT_LENGTH)
    with write_transaction(conn):
        sender = get_sender(conn, account, address)
        if revision is not None and revision != sender.revision:
            raise SenderChanged(address=address)
        conn.execute(
            "UPDATE senders SET status = ?, comment = ?, decided_at = ? WHERE id = ?",
            (ENABLED if approve else REFUSED, comment, now_ms(), sender.id),
        )
        action = "sender.approve" if approve else "sender.refuse"
        record_account_action(conn, actor, action, account, address=address, comment=comment)
        decided = get_sender(conn, account, address)
        if mail_keys is not None:
            contact = customers.get_customer_by_id(conn, account.customer_id)
            values = _mail_values(decided) | {"approved": approve, "comment": comment}
            mail.queue_mail(conn, mail_keys, contact.contact_email, "sender_decided", contact.language, **values)
        return decided


def set_sender_enabled(
    conn: sqlite3.Connection, actor: Actor, account: Account, sender_id: int, *, enabled: bool
) -> Sender:
    """Disable an approved sender, or enable it again; its account's people may. The SMPP server follows at once.

    Raises:
        NoSuchSender, SenderNotApproved
    """
    status = ENABLED if enabled else DISABLED
    with write_transaction(conn):
        sender = get_sender_by_id(conn, account, sender_id)
        if sender.status not in (ENABLED, DISABLED):
            raise SenderNotApproved(address=sender.address)
        if sender.status != status:
            conn.execute("UPDATE senders SET status = ? WHERE id = ?", (status, sender_id))
            action = "sender.enable" if enabled else "sender.disable"
            record_account_action(conn, actor, action, account, address=sender.address)
        return get_sender_by_id(conn, account, sender_id)


# What a removed sender keeps, in both tables.
_COPIED_COLUMNS = (
    "id, account_id, address, type, status, description, reason, comment, created_at, decided_at, document_id"
)


def remove_senders(conn: sqlite3.Connection, actor: Actor, account: Account, ids: Iterable[int]) -> list[Sender]:
    """Remove senders, together; for a quarter of an hour `restore_senders` brings them back.

    Args:
        ids: those that aren't the account's, or are gone, are left out.

    Raises:
        NoSuchSender: none of them is there.
    """
    sender_ids = set(ids)
    with write_transaction(conn):
        removed = [each for each in list_senders(conn, account.id) if each.id in sender_ids]
        if not removed:
            raise NoSuchSender(address=", ".join(map(str, sorted(sender_ids))))
        for each in removed:
            conn.execute(
                f"INSERT INTO removed_senders ({_COPIED_COLUMNS}, removed_at)"
                f" SELECT {_COPIED_COLUMNS}, ? FROM senders WHERE id = ?",
                (now_ms(), each.id),
            )
            conn.execute("DELETE FROM senders WHERE id = ?", (each.id,))
            record_account_action(conn, actor, "sender.remove", account, address=each.address)
    return removed


def restore_senders(
    conn: sqlite3.Connection, actor: Actor, account: Account, ids: Iterable[int], *, now: int | None = None
) -> list[Sender]:
    """Bring back senders that were removed less than a quarter of an hour ago, as they were: all of them, or none.

    Args:
        now: milliseconds; None: this moment.

    Raises:
        NoSuchSender: none of them is to be brought back.
        SenderExists, SenderListFull
    """
    sender_ids = set(ids)
    with write_transaction(conn):
        since = (now_ms() if now is None else now) - _UNDO_MS
        query = "SELECT id, address FROM removed_senders WHERE account_id = ? AND removed_at > ?"
        rows = conn.execute(query, (account.id, since))
        restored = {each["id"]: each["address"] for each in rows if each["id"] in sender_ids}
        if not restored:
            raise NoSuchSender(address=", ".join(map(str, sorted(sender_ids))))
        for sender_id, address in restored.items():
            _require_can_add_sender(conn, account, address)
            try:
                copy = f"SELECT {_COPIED_COLUMNS} FROM removed_senders WHERE id = ?"
                conn.execute(f"INSERT INTO senders ({_COPIED_COLUMNS}) {copy}", (sender_id,))
            except sqlite3.IntegrityError:
                raise SenderExists(address=address) from None
            conn.execute("DELETE FROM removed_senders WHERE id = ?", (sender_id,))
            record_account_action(conn, actor, "sender.restore", account, address=address)
        return [each for each in list_senders(conn, account.id) if each.id in restored]


def purge_removed_senders(conn: sqlite3.Connection, now: int) -> None:
    """Delete senders that can't be brought back any more, and documents that no sender has (`now` in milliseconds)."""
    with write_transaction(conn):
        conn.execute("DELETE FROM removed_senders WHERE removed_at < ?", (now - _UNDO_MS,))
    documents.purge_unreferenced_documents(conn, now)


def get_sender_by_id(conn: sqlite3.Connection, account: Account, sender_id: int) -> Sender:
    """Raises: NoSuchSender: also when it is another account's."""
    found = _select_senders(conn, "senders.id = ? AND senders.account_id = ?", sender_id, account.id)
    return require_found(next(iter(found), None), NoSuchSender(address=sender_id))


def get_sender(conn: sqlite3.Connection, account: Account, address: str) -> Sender:
    """Raises: NoSuchSender"""
    found = _select_senders(conn, "senders.account_id = ? AND address = ?", account.id, address)
    return require_found(next(iter(found), None), NoSuchSender(address=address))


def list_senders(conn: sqlite3.Connection, account_id: int) -> list[Sender]:
    """Newest first."""
    return _select_senders(conn, "senders.account_id = ? ORDER BY senders.id DESC", account_id)


def list_pending_sender_requests(conn: sqlite3.Connection, limit: int) -> list[Sender]:
    """The operator's queue, longest waiting first: so many of them at most."""
    conditions = "status = ? AND deleted_at IS NULL ORDER BY senders.created_at, senders.id LIMIT ?"
    return _select_senders(conn, conditions, WAITING, limit)


def count_pending_sender_requests(conn: sqlite3.Connection) -> int:
    """How many wait for a decision."""
    row = conn.execute(
        "SELECT count(*) FROM senders JOIN accounts ON accounts.id = account_id"
        " WHERE status = ? AND deleted_at IS NULL",
        (WAITING,),
    ).fetchone()
    return int(row[0])


def get_sender_request(conn: sqlite3.Connection, sender_id: int) -> Sender:
    """One of anybody's, in any state. Raises: NoSuchSender"""
    found = _select_senders(conn, "senders.id = ?", sender_id)
    return require_found(next(iter(found), None), NoSuchSender(address=sender_id))


def search_decided_senders(conn: sqlite3.Connection, query: str, limit: int) -> list[Sender]:
    """Those that were decided on, latest first.

    Args:
        query: only those with this in their address, or the name of their account or customer; empty: all.
        limit: so many at most.
    """
    conditions = (
        "status <> ?1 AND deleted_at IS NULL"
        " AND (instr(lower(address), ?2) OR instr(lower(accounts.name), ?2) OR instr(lower(customers.name), ?2))"
        " ORDER BY decided_at DESC, senders.id DESC LIMIT ?3"
    )
    return _select_senders(conn, conditions, WAITING, query.lower(), limit)
