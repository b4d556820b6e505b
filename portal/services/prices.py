"""Price lists: what a part costs, by the country of its number or by the range that the number is in."""

import csv
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import phonenumbers

from portal import paths
from portal.db import immediate
from portal.i18n import N_
from portal.services import audit, countries
from portal.services.audit import Actor
from portal.services.errors import Refused

DEFAULT_LIST = 1
FROM_THE_BEGINNING = 0
_COUNTRIES = frozenset(phonenumbers.SUPPORTED_REGIONS)
_RANGE = re.compile(r"[1-9][0-9]{1,14}")


class InvalidDestination(Refused):
    sentence = N_(
        "“%(destination)s” is neither a country (two letters, ISO 3166, like IT) nor the first digits of numbers (like"
        " 39342)."
    )
    field = "destination"


@dataclass(frozen=True, slots=True)
class PriceList:
    """What a part costs at one moment, in thousandths of a credit. None stands for what nothing is sent to.

    Args:
        countries: by ISO 3166 code.
        ranges: by first digits.
        lengths: how many digits these have, the longest first.
    """

    countries: Mapping[str, int | None]
    ranges: Mapping[str, int | None]
    lengths: tuple[int, ...]

    def of(self, number: str) -> tuple[str, int] | None:
        """The country of a number (E.164 digits) and what a part to it costs; None where nothing can be sent.

        The longest range that the number begins with decides, and its country where it is in none.
        """
        country = countries.country_of(number)
        if country is None:
            return None
        price = self.countries.get(country)
        for length in self.lengths:
            if number[:length] in self.ranges:
                price = self.ranges[number[:length]]
                break
        return None if price is None else (country, price)


@dataclass(frozen=True, slots=True)
class PriceLists:
    """All price lists as they are at one moment, by their ids; `until` is when the next change holds (milliseconds)."""

    lists: Mapping[int, PriceList]
    until: int | None

    def of_list(self, list_id: int) -> PriceList:
        """One list; the default one where it is gone, and whoever had it has another by now."""
        return self.lists.get(list_id) or self.lists[DEFAULT_LIST]


NONE = PriceLists({DEFAULT_LIST: PriceList({}, {}, ())}, None)
"""Before any has been read."""


def load(conn: sqlite3.Connection, now: int) -> PriceLists:
    """Every price list at a moment (milliseconds).

    A list says what differs from the default one. More digits always go before fewer, and before a country; where both
    lists name the same, the list's own price holds.
    """
    in_force: dict[int, dict[str, int | None]] = {row["id"]: {} for row in conn.execute("SELECT id FROM price_lists")}
    until = None
    for row in conn.execute("SELECT list_id, destination, valid_from, price FROM prices ORDER BY valid_from"):
        if row["valid_from"] <= now:
            in_force[row["list_id"]][row["destination"]] = row["price"]
        elif until is None:
            until = row["valid_from"]
    default = in_force[DEFAULT_LIST]
    return PriceLists({list_id: _price_list(default | own) for list_id, own in in_force.items()}, until)


def of_account(conn: sqlite3.Connection, account_id: int, now: int) -> PriceList:
    """The price list of an account's customer, at a moment (milliseconds)."""
    row = conn.execute(
        "SELECT price_list_id FROM accounts JOIN customers ON customers.id = customer_id WHERE accounts.id = ?",
        (account_id,),
    ).fetchone()
    return load(conn, now).of_list(row[0] or DEFAULT_LIST)


def _price_list(prices: Mapping[str, int | None]) -> PriceList:
    ranges = {destination: price for destination, price in prices.items() if destination.isdigit()}
    by_country = {destination: price for destination, price in prices.items() if not destination.isdigit()}
    return PriceList(by_country, ranges, tuple(sorted({len(each) for each in ranges}, reverse=True)))


def checked_destination(text: str) -> str:
    """A country or a range of numbers as price lists name it: `IT`, `39342`.

    Raises:
        InvalidDestination
    """
    destination = text.strip().removeprefix("+").upper()
    if destination not in _COUNTRIES and not (destination.isascii() and _RANGE.fullmatch(destination)):
        raise InvalidDestination(destination=text)
    return destination


def put(
    conn: sqlite3.Connection,
    actor: Actor,
    prices: Mapping[str, int | None],
    *,
    list_id: int = DEFAULT_LIST,
    valid_from: int = FROM_THE_BEGINNING,
) -> None:
    """Set prices (thousandths of a credit a part) of some destinations; the others keep theirs.

    Args:
        prices: None: nothing is sent there.
        valid_from: when they begin to hold (milliseconds).

    Raises:
        InvalidDestination: nothing has changed.
    """
    rows = [(list_id, checked_destination(name), valid_from, price) for name, price in prices.items()]
    with immediate(conn):
        conn.executemany(
            "INSERT INTO prices (list_id, destination, valid_from, price) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET price = excluded.price",
            rows,
        )
        audit.record(conn, actor, "prices.put", list=list_id, valid_from=valid_from, prices=len(rows))


def starting() -> Mapping[str, int]:
    """What a fresh installation begins with, thousandths of a credit a part by destination. An operator sets what it
    pays; a country that isn't there has no price, and messages to it are refused.
    """
    with paths.PRICES.open(newline="") as file:
        return {row["destination"]: int(Decimal(row["price"]) * 1000) for row in csv.DictReader(file)}
