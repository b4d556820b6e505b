"""Price lists themselves: their names, and which customer has which. Their prices are the matter of `prices`."""

import sqlite3
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, require_found
from portal.services.people.customers import Customer

DEFAULT_LIST = 1
"""Its id; the migrations make it."""
_MAX_NAME_LENGTH = 60


class NoSuchPriceList(NotFound, field="price_list"):
    sentence = N_("There is no price list “%(name)s”.")


class PriceListNameMissing(Refused, field="name"):
    sentence = N_("Enter a name of at most 60 characters.")


class PriceListExists(Refused, field="name"):
    sentence = N_("There is already a price list “%(name)s”.")


class PriceListInUse(Refused):
    sentence = N_("“%(name)s” is the list of %(customers)s. Give them another one first.")


class DefaultListImmutable(Refused):
    sentence = N_("The default list can't be renamed or deleted: the other lists say what differs from it.")


@dataclass(frozen=True, slots=True)
class PriceListSummary:
    """A price list; the default one's name is empty.

    `customer_count` is how many customers have it, for the default one those without another; `price_count` how many
    destinations it has a price for itself.
    """

    id: int
    name: str
    customer_count: int
    price_count: int

    @property
    def is_default(self) -> bool:
        return self.id == DEFAULT_LIST


_SELECT = (
    "SELECT id, name, (SELECT count(*) FROM customers WHERE coalesce(price_list_id, 1) = price_lists.id),"
    " (SELECT count(DISTINCT destination) FROM prices WHERE list_id = price_lists.id) FROM price_lists"
)


def list_price_lists(conn: sqlite3.Connection) -> list[PriceListSummary]:
    """All of them, the default one first."""
    return [
        PriceListSummary(*row) for row in conn.execute(f"{_SELECT} ORDER BY id <> {DEFAULT_LIST}, name COLLATE NOCASE")
    ]


def get_price_list_by_id(conn: sqlite3.Connection, list_id: int) -> PriceListSummary:
    """Raises: NoSuchPriceList"""
    row = conn.execute(f"{_SELECT} WHERE id = ?", (list_id,)).fetchone()
    return PriceListSummary(*require_found(row, NoSuchPriceList(name=list_id)))


def get_price_list(conn: sqlite3.Connection, name: str) -> PriceListSummary:
    """Raises: NoSuchPriceList"""
    # The default one has no name.
    row = conn.execute(f"{_SELECT} WHERE name = ? AND id <> ?", (" ".join(name.split()), DEFAULT_LIST)).fetchone()
    return PriceListSummary(*require_found(row, NoSuchPriceList(name=name)))


def create_price_list(conn: sqlite3.Connection, actor: Actor, name: str) -> PriceListSummary:
    """Create a list without prices of its own yet, so that all costs as in the default one.

    Raises:
        PriceListNameMissing, PriceListExists
    """
    name = _parse_list_name(name)
    with write_transaction(conn):
        try:
            list_id = insert_row(conn, "price_lists", name=name, created_at=now_ms())
        except sqlite3.IntegrityError:
            raise PriceListExists(name=name) from None
        audit.record_action(conn, actor, "prices.create_list", list=list_id, name=name)
    return get_price_list_by_id(conn, list_id)


def rename_price_list(conn: sqlite3.Connection, actor: Actor, list_id: int, name: str) -> PriceListSummary:
    """Raises: NoSuchPriceList, DefaultListImmutable, PriceListNameMissing, PriceListExists"""
    name = _parse_list_name(name)
    with write_transaction(conn):
        old = get_price_list_by_id(conn, list_id)
        if old.is_default:
            raise DefaultListImmutable()
        try:
            conn.execute("UPDATE price_lists SET name = ? WHERE id = ?", (name, list_id))
        except sqlite3.IntegrityError:
            raise PriceListExists(name=name) from None
        audit.record_action(conn, actor, "prices.rename_list", list=list_id, name=name, before=old.name)
    return get_price_list_by_id(conn, list_id)


def _parse_list_name(name: str) -> str:
    name = " ".join(name.split())
    if not 0 < len(name) <= _MAX_NAME_LENGTH:
        raise PriceListNameMissing()
    return name


def delete_price_list(conn: sqlite3.Connection, actor: Actor, list_id: int) -> None:
    """Delete a list that no customer has.

    Raises:
        NoSuchPriceList, DefaultListImmutable, PriceListInUse
    """
    with write_transaction(conn):
        price_list = require_deletable_price_list(conn, list_id)
        deleted_prices = [list(each)[1:] for each in conn.execute("SELECT * FROM prices WHERE list_id = ?", (list_id,))]
        conn.execute("DELETE FROM price_lists WHERE id = ?", (list_id,))
        audit.record_action(
            conn, actor, "prices.delete_list", list=list_id, name=price_list.name, prices=deleted_prices
        )


def require_deletable_price_list(conn: sqlite3.Connection, list_id: int) -> PriceListSummary:
    """A list that can be deleted; raises what `delete_price_list` would."""
    price_list = get_price_list_by_id(conn, list_id)
    if price_list.is_default:
        raise DefaultListImmutable()
    rows = conn.execute("SELECT name FROM customers WHERE price_list_id = ? ORDER BY name COLLATE NOCASE", (list_id,))
    if customers := ", ".join(row["name"] for row in rows):
        raise PriceListInUse(name=price_list.name, customers=customers)
    return price_list


def assign_price_list(conn: sqlite3.Connection, actor: Actor, customer: Customer, list_id: int) -> PriceListSummary:
    """Let a customer's messages cost by a list, from the next one on.

    Raises:
        NoSuchPriceList
    """
    with write_transaction(conn):
        price_list = get_price_list_by_id(conn, list_id)
        stored_id = None if price_list.is_default else price_list.id
        conn.execute("UPDATE customers SET price_list_id = ? WHERE id = ?", (stored_id, customer.id))
        audit.record_action(
            conn,
            actor,
            "prices.assign",
            customer_id=customer.id,
            list=price_list.id,
            name=price_list.name,
            before=customer.price_list_id,
        )
    return price_list
