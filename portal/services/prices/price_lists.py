"""Price lists themselves: their names, and which customer has which. What they say is the matter of `prices`."""

import sqlite3
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.core.db import immediate, insert
from portal.core.i18n import N_
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.people.customers import Customer

DEFAULT_LIST = 1
"""Its id; the migrations make it."""
_LONGEST_NAME = 60


class NoSuchList(Refused):
    sentence = N_("There is no price list “%(name)s”.")
    field = "price_list"


class ListNameMissing(Refused):
    sentence = N_("Enter a name of at most 60 characters.")
    field = "name"


class ListExists(Refused):
    sentence = N_("There is already a price list “%(name)s”.")
    field = "name"


class ListInUse(Refused):
    sentence = N_("“%(name)s” is the list of %(customers)s. Give them another one first.")


class IsDefaultList(Refused):
    sentence = N_("The default list can't be renamed or deleted: the other lists say what differs from it.")


@dataclass(frozen=True, slots=True)
class NamedList:
    """A price list; the default one's name is empty.

    `customers` is how many have it, for the default one those without another; `prices` how many destinations it says
    something of itself.
    """

    id: int
    name: str
    customers: int
    prices: int

    @property
    def is_default(self) -> bool:
        return self.id == DEFAULT_LIST


_SELECT = (
    "SELECT id, name, (SELECT count(*) FROM customers WHERE coalesce(price_list_id, 1) = price_lists.id),"
    " (SELECT count(DISTINCT destination) FROM prices WHERE list_id = price_lists.id) FROM price_lists"
)


def lists(conn: sqlite3.Connection) -> list[NamedList]:
    """All of them, the default one first."""
    return [NamedList(*row) for row in conn.execute(f"{_SELECT} ORDER BY id <> {DEFAULT_LIST}, name COLLATE NOCASE")]


def by_id(conn: sqlite3.Connection, list_id: int) -> NamedList:
    """Raises: NoSuchList"""
    found = conn.execute(f"{_SELECT} WHERE id = ?", (list_id,)).fetchone()
    if found is None:
        raise NoSuchList(name=list_id)
    return NamedList(*found)


def by_name(conn: sqlite3.Connection, name: str) -> NamedList:
    """Raises: NoSuchList"""
    found = conn.execute(f"{_SELECT} WHERE name = ?", (" ".join(name.split()),)).fetchone()
    if found is None:
        raise NoSuchList(name=name)
    return NamedList(*found)


def create(conn: sqlite3.Connection, actor: Actor, name: str) -> NamedList:
    """Make a list that says nothing yet, so that all costs as in the default one.

    Raises:
        ListNameMissing, ListExists
    """
    name = _checked_name(name)
    with immediate(conn):
        try:
            list_id = insert(conn, "price_lists", name=name, created_at=now_ms())
        except sqlite3.IntegrityError:
            raise ListExists(name=name) from None
        audit.record(conn, actor, "prices.create_list", list=list_id, name=name)
    return by_id(conn, list_id)


def rename(conn: sqlite3.Connection, actor: Actor, list_id: int, name: str) -> NamedList:
    """Raises: NoSuchList, IsDefaultList, ListNameMissing, ListExists"""
    name = _checked_name(name)
    with immediate(conn):
        old = by_id(conn, list_id)
        if old.is_default:
            raise IsDefaultList()
        try:
            conn.execute("UPDATE price_lists SET name = ? WHERE id = ?", (name, list_id))
        except sqlite3.IntegrityError:
            raise ListExists(name=name) from None
        audit.record(conn, actor, "prices.rename_list", list=list_id, name=name, before=old.name)
    return by_id(conn, list_id)


def _checked_name(name: str) -> str:
    name = " ".join(name.split())
    if not 0 < len(name) <= _LONGEST_NAME:
        raise ListNameMissing()
    return name


def delete(conn: sqlite3.Connection, actor: Actor, list_id: int) -> None:
    """Delete a list that no customer has.

    Raises:
        NoSuchList, IsDefaultList, ListInUse
    """
    with immediate(conn):
        gone = deletable(conn, list_id)
        said = [list(each)[1:] for each in conn.execute("SELECT * FROM prices WHERE list_id = ?", (list_id,))]
        conn.execute("DELETE FROM price_lists WHERE id = ?", (list_id,))
        audit.record(conn, actor, "prices.delete_list", list=list_id, name=gone.name, prices=said)


def deletable(conn: sqlite3.Connection, list_id: int) -> NamedList:
    """A list that can be deleted; raises what `delete` would."""
    found = by_id(conn, list_id)
    if found.is_default:
        raise IsDefaultList()
    if having := customers_of(conn, list_id):
        raise ListInUse(name=found.name, customers=", ".join(having))
    return found


def customers_of(conn: sqlite3.Connection, list_id: int) -> list[str]:
    """The names of the customers that have a list."""
    found = conn.execute(
        "SELECT name FROM customers WHERE coalesce(price_list_id, 1) = ? ORDER BY name COLLATE NOCASE", (list_id,)
    )
    return [each["name"] for each in found]


def assign(conn: sqlite3.Connection, actor: Actor, customer: Customer, list_id: int) -> NamedList:
    """Let a customer's messages cost by a list, from the next one on.

    Raises:
        NoSuchList
    """
    with immediate(conn):
        chosen = by_id(conn, list_id)
        stored = None if chosen.is_default else chosen.id
        conn.execute("UPDATE customers SET price_list_id = ? WHERE id = ?", (stored, customer.id))
        audit.record(
            conn,
            actor,
            "prices.assign",
            customer_id=customer.id,
            list=chosen.id,
            name=chosen.name,
            before=customer.price_list_id,
        )
    return chosen
