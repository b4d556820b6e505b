"""Customers: the companies or teams that own accounts."""

import re
import sqlite3
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.core.db import immediate, insert
from portal.core.i18n import DEFAULT_LANGUAGE, N_
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused

_OLDEST_DAYS = 3650
MOST_MONTHS = 1200
USUAL = 0
"""Months that messages are kept: as many as the installation's settings say."""
_EMAIL = re.compile(r"[^@\s<>\",;:]+@[^@\s<>\",;:]+\.?[^@\s<>\",;:]*")


class NoSuchCustomer(Refused):
    sentence = N_("There is no customer “%(name)s”.")
    field = "customer"


class CustomerExists(Refused):
    sentence = N_("There is already a customer “%(name)s”.")
    field = "name"


class NameMissing(Refused):
    sentence = N_("Enter a name.")
    field = "name"


class InvalidEmail(Refused):
    sentence = N_("“%(email)s” isn't an e-mail address. One looks like name@example.com.")
    field = "email"


class InvalidCreditLine(Refused):
    sentence = N_("“%(value)s” can't be a credit line: it is an amount of credits, or 0 for none.")
    field = "credit_line"


class InvalidMinAge(Refused):
    sentence = N_("“%(value)s” can't be an account's age: it is a whole number of days from 0 to %(most)s.")
    field = "min_age"


class InvalidMonths(Refused):
    sentence = N_("“%(value)s” can't be how long messages are kept: it is a whole number of months from 1 to %(most)s.")
    field = "messages_months"


@dataclass(frozen=True, slots=True)
class Customer:
    """A customer. Its accounts cost by `price_list_id` (`price_lists.DEFAULT_LIST` where none was chosen).

    `credit_line` is how many thousandths of a credit automatic re-credit may buy before they are paid, 0 for none, once
    an account is `recredit_min_age_days` old. `texts` is what becomes of the texts of messages (`text_policy`).
    Its messages are kept for `messages_months`; USUAL: as long as the installation's settings say.
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


def add(conn: sqlite3.Connection, actor: Actor, name: str, email: str, language: str = DEFAULT_LANGUAGE) -> Customer:
    """Create a customer.

    Args:
        name: shown on its users' pages; unique.
        email: the contact address, where generated passwords go.
        language: of mails to that address.

    Raises:
        NameMissing, CustomerExists, InvalidEmail
    """
    name, email = " ".join(name.split()), checked_email(email)
    if not name:
        raise NameMissing()
    with immediate(conn):
        try:
            customer_id = insert(
                conn, "customers", name=name, contact_email=email, language=language, created_at=now_ms()
            )
        except sqlite3.IntegrityError:
            raise CustomerExists(name=name) from None
        audit.record(conn, actor, "customer.add", customer_id=customer_id, name=name, email=email)
    return by_id(conn, customer_id)


def change(
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
        messages_months: from 1 to MOST_MONTHS, or USUAL. With fewer than before, what is older goes within the hour.

    Raises:
        InvalidCreditLine, InvalidMinAge, InvalidMonths
    """
    if credit_line is not None and credit_line < 0:
        raise InvalidCreditLine(value=credit_line)
    if min_age_days is not None and not 0 <= min_age_days <= _OLDEST_DAYS:
        raise InvalidMinAge(value=min_age_days, most=_OLDEST_DAYS)
    if messages_months is not None and not USUAL <= messages_months <= MOST_MONTHS:
        raise InvalidMonths(value=messages_months, most=MOST_MONTHS)
    given = {
        "credit_line": credit_line,
        "recredit_min_age_days": min_age_days,
        "messages_months": messages_months,
    }
    changed = {name: value for name, value in given.items() if value is not None}
    if not changed:
        return
    with immediate(conn):
        assignments = ", ".join(
            f"{name} = nullif(?, {USUAL})" if name == "messages_months" else f"{name} = ?" for name in changed
        )
        conn.execute(f"UPDATE customers SET {assignments} WHERE id = ?", (*changed.values(), customer.id))
        audit.record(conn, actor, "customer.change", customer_id=customer.id, **changed)


def parse_min_age(text: str) -> int:
    """Read an age in days, as it was typed.

    Raises:
        InvalidMinAge: not a whole number.
    """
    try:
        return int(text)
    except ValueError:
        raise InvalidMinAge(value=text, most=_OLDEST_DAYS) from None


def parse_months(text: str) -> int:
    """Read for how many months messages are kept, as it was typed; empty: USUAL.

    Raises:
        InvalidMonths: not a whole number, or 0.
    """
    try:
        months = int(text) if text.strip() else USUAL
    except ValueError:
        months = -1
    if months < 0 or (months == USUAL and text.strip()):
        raise InvalidMonths(value=text, most=MOST_MONTHS)
    return months


def by_name(conn: sqlite3.Connection, name: str) -> Customer:
    """Raises: NoSuchCustomer"""
    row = conn.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise NoSuchCustomer(name=name)
    return Customer(*row)


def by_id(conn: sqlite3.Connection, customer_id: int) -> Customer:
    """Raises: NoSuchCustomer"""
    row = conn.execute(f"{_SELECT} WHERE id = ?", (customer_id,)).fetchone()
    if row is None:
        raise NoSuchCustomer(name=customer_id)
    return Customer(*row)


def everyone(conn: sqlite3.Connection) -> list[Customer]:
    rows = conn.execute(f"{_SELECT} ORDER BY name COLLATE NOCASE")
    return [Customer(*row) for row in rows]


def checked_email(email: str) -> str:
    """The address without spaces around it.

    Raises:
        InvalidEmail: it isn't one (RFC 5321 allows more than anyone uses; a mail proves the rest).
    """
    email = email.strip()
    if len(email) > 254 or not _EMAIL.fullmatch(email):
        raise InvalidEmail(email=email)
    return email


def masked(email: str) -> str:
    """An address that its owner recognises and nobody else learns: `marta@acme.example` is `m•••a@acme.example`."""
    local, _, domain = email.partition("@")
    hidden = f"{local[0]}•••{local[-1]}" if len(local) > 2 else f"{local[:1]}•••"
    return f"{hidden}@{domain}"
