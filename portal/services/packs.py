"""Packs: how many credits are sold together, and for how much."""

import sqlite3
from dataclasses import dataclass

from portal.i18n import N_
from portal.services.errors import Refused

# Of these an account may buy one automatically, where there is a price for it. Thousandths of a credit.
AUTOMATIC = tuple(size * 1000 for size in (100, 200, 250, 500, 1000, 5000, 10000))


class NoSuchPack(Refused):
    sentence = N_("There is no such pack.")
    field = "pack"


@dataclass(frozen=True, slots=True)
class Pack:
    """`credits` in thousandths; `price` in the currency's smallest unit (cents); `currency` as in ISO 4217."""

    credits: int
    price: int
    currency: str


def everyone(conn: sqlite3.Connection) -> list[Pack]:
    """All packs that are sold, the smallest first."""
    return [Pack(*row) for row in conn.execute("SELECT credits, price, currency FROM packs ORDER BY credits")]


def of_size(conn: sqlite3.Connection, credits: int) -> Pack:
    """Raises: NoSuchPack"""
    row = conn.execute("SELECT credits, price, currency FROM packs WHERE credits = ?", (credits,)).fetchone()
    if row is None:
        raise NoSuchPack()
    return Pack(*row)
