"""Customers: the companies or teams that own accounts."""

import re
import sqlite3
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.core.db import insert_row, update_row, write_transaction
from portal.core.i18n import DEFAULT_LANGUAGE, N_
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, parse_whole_number, require_found

_MAX_MIN_AGE_DAYS = 3650
MAX_RETENTION_MONTHS = 1200
DEFAULT_RETENTION = 0
"""Months that messages are kept: as many as the installation's settings say."""
_EMAIL_PATTERN = re.compile(r"[^@\s<>\",;:]+@[^@\s<>\",;:]+\.?[^@\s<>\",;:]*")


class NoSuchCustomer(NotFound, field="customer"):
    sentence = N_("There is no customer “%(name)s”.")


class CustomerExists(Refused, field="name"):
    sentence = N_("There is already a customer “%(name)s”.")


class CustomerNameMissing(Refused, field="name"):
    sentence = N_("Enter a name.")


class InvalidEmail(Refused, field="email"):
    sentence = N_("“%(email)s” isn't an e-mail address. One looks like name@example.com.")


class InvalidCreditLine(Refused, field="credit_line"):
    sentence = N_("“%(value)s” can't be a credit line: it is an amount of credits, or 0 for none.")


class InvalidRecreditMinAge(Refused, field="min_age"):
    sentence = N_("“%(value)s” can't be an account's age: it is a whole number of days from 0 to %(most)s.")


class InvalidRetentionMonths(Refused, field="messages_months"):
    sentence = N_("“%(value)s” can't be how long messages are kept: it is a whole number of months from 1 to %(most)s.")


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer. Its accounts cost by `price_list_id` (`price_lists.DEFAULT_LIST` where none was chosen).

    `credit_line` is how many thousandths of a credit automatic re-credit may buy before they are paid, 0 for none, once
    an account is `recredit_min_age_days` old. `texts` is what becomes of the texts of messages (`text_policy`).
    Its messages are kept for `messages_months`; DEFAULT_RETENTION: as long as the installation's settings say.
    """

    id: int
    name: str
    contact_email: str
    language: str
    price_list_id: int
    credit_line: int
    recredit_min_age_days: int
    texts: str
    messages_months: int


_SELECT = (
    "SELECT id, name, contact_email, language, coalesce(price_list_id, 1), credit_line, recredit_min_age_days, texts,"
    " coalesce(messages_months, 0)"
    " FROM customers"
)


def create_customer(
    conn: sqlite3.Connection, actor: Actor, name: str, email: str, language: str = DEFAULT_LANGUAGE
) -> Customer:
    """Create a customer.

    Args:
        name: shown on its users' pages; unique.
        email: the contact address, where generated passwords go.
        language: of mails to that address.

    Raises:
        CustomerNameMissing, CustomerExists, InvalidEmail
    """
    name, email = " ".join(name.split()), parse_email(email)
    if not name:
        raise CustomerNameMissing()
    with write_transaction(conn):
        try:
            customer_id = insert_row(
                conn, "customers", name=name, contact_email=email, language=language, created_at=now_ms()
            )
        except sqlite3.IntegrityError:
            raise CustomerExists(name=name) from None
        audit.record_action(conn, actor, "customer.add", customer_id=customer_id, name=name, email=email)
    return get_customer_by_id(conn, customer_id)


def change_customer(
    conn: sqlite3.Connection,
    actor: Actor,
    customer: Customer,
    *,
    credit_line: int | None = None,
    min_age_days: int | None = None,
    messages_months: int | None = None,
) -> None:
    """Set what automatic re-credit may do for a customer, and how long its messages are kept; None: as it is.

    Args:
        credit_line: thousandths of a credit that may be owed; 0: none.
        min_age_days: how old an account must be.
        messages_months: from 1 to MAX_RETENTION_MONTHS, or DEFAULT_RETENTION. With fewer than before, what is older is
            deleted within the hour.

    Raises:
        InvalidCreditLine, InvalidRecreditMinAge, InvalidRetentionMonths
    """
    if credit_line is not None and credit_line < 0:
        raise InvalidCreditLine(value=credit_line)
    if min_age_days is not None and not 0 <= min_age_days <= _MAX_MIN_AGE_DAYS:
        raise InvalidRecreditMinAge(value=min_age_days, most=_MAX_MIN_AGE_DAYS)
    if messages_months is not None and not DEFAULT_RETENTION <= messages_months <= MAX_RETENTION_MONTHS:
        raise InvalidRetentionMonths(value=messages_months, most=MAX_RETENTION_MONTHS)
    settings = {"credit_line": credit_line, "recredit_min_age_days": min_age_days, "messages_months": messages_months}
    changes = {name: value for name, value in settings.items() if value is not None}
    if not changes:
        return
    stored = {name: None if name == "messages_months" and not value else value for name, value in changes.items()}
    with write_transaction(conn):
        update_row(conn, "customers", customer.id, **stored)
        audit.record_action(conn, actor, "customer.change", customer_id=customer.id, **changes)


def parse_recredit_min_age(text: str) -> int:
    """Read an age in days, as it was typed.

    Raises:
        InvalidRecreditMinAge: not a whole number.
    """
    return parse_whole_number(text, InvalidRecreditMinAge(value=text, most=_MAX_MIN_AGE_DAYS))


def parse_retention_months(text: str) -> int:
    """Read for how many months messages are kept, as it was typed; empty: DEFAULT_RETENTION.

    Raises:
        InvalidRetentionMonths: not a whole number, or 0.
    """
    if not text.strip():
        return DEFAULT_RETENTION
    invalid = InvalidRetentionMonths(value=text, most=MAX_RETENTION_MONTHS)
    months = parse_whole_number(text, invalid)
    if months < 1:
        raise invalid
    return months


def get_customer(conn: sqlite3.Connection, name: str) -> Customer:
    """Raises: NoSuchCustomer"""
    row = conn.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchone()
    return Customer(*require_found(row, NoSuchCustomer(name=name)))


def get_customer_by_id(conn: sqlite3.Connection, customer_id: int) -> Customer:
    """Raises: NoSuchCustomer"""
    row = conn.execute(f"{_SELECT} WHERE id = ?", (customer_id,)).fetchone()
    return Customer(*require_found(row, NoSuchCustomer(name=customer_id)))


def list_all_customers(conn: sqlite3.Connection) -> list[Customer]:
    return [Customer(*row) for row in conn.execute(f"{_SELECT} ORDER BY name COLLATE NOCASE")]


def parse_email(email: str, field: str = "") -> str:
    """The address without spaces around it.

    Args:
        field: where it was entered, if that isn't "email".

    Raises:
        InvalidEmail: it isn't one (RFC 5321 allows more than anyone uses; a mail proves the rest).
    """
    email = email.strip()
    if len(email) > 254 or not _EMAIL_PATTERN.fullmatch(email):
        raise InvalidEmail(field=field, email=email)
    return email


def mask_email(email: str) -> str:
    """An address that its owner recognises and nobody else learns: `marta@acme.example` is `m•••a@acme.example`."""
    local, _, domain = email.partition("@")
    hidden = f"{local[0]}•••{local[-1]}" if len(local) > 2 else f"{local[:1]}•••"
    return f"{hidden}@{domain}"
