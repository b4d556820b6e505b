"""What price lists say: what a part costs, by the country of its number or by the range that the number is in.

A list other than the default one says what differs from it. What a list says of a destination is one row that holds,
and one for each change that is to come; what no longer holds is in the audit log.
"""

import csv
import math
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any
from zoneinfo import ZoneInfo

from portal.core import i18n, paths
from portal.core.clock import MINUTE_MS, now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.core.progress import Progress, no_progress
from portal.services.common import audit, credit_amounts
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, require_found
from portal.services.common.periods import parse_moment
from portal.services.prices import countries, price_lists
from portal.services.prices.price_lists import DEFAULT_LIST

EARLIEST_VALID_FROM = 0
MAX_PRICE = 1000 * credit_amounts.THOUSANDTHS
"""More is a slip: a point where a comma was meant."""
_RANGE = re.compile(r"[1-9][0-9]{1,14}")


class InvalidPriceDestination(Refused, field="destination"):
    sentence = N_(
        "“%(destination)s” is neither a country (two letters, ISO 3166, like IT) nor the first digits of numbers (like"
        " 39342)."
    )


class InvalidPrice(Refused, field="price"):
    sentence = N_("“%(text)s” isn't a price: credits a part, more than 0 and at most 1000, to the thousandth.")


class InvalidPriceDate(Refused, field="valid_from"):
    sentence = N_("“%(text)s” isn't a date. Examples: 2027-01-31, 2027-01-31T08:00.")


class PastPriceDate(Refused, field="valid_from"):
    sentence = N_("%(date)s is over. A price holds from now on, or from a later date: what was sent has been paid.")


class NoSuchPrice(NotFound, field="destination"):
    sentence = N_("The list says nothing about %(destination)s.")


@dataclass(frozen=True, slots=True)
class PriceList:
    """What a part costs at one moment, in thousandths of a credit. None stands for what nothing is sent to.

    Args:
        countries: by ISO 3166 code.
        ranges: by first digits.
        range_lengths: how many digits these have, the longest first.
    """

    countries: Mapping[str, int | None]
    ranges: Mapping[str, int | None]
    range_lengths: tuple[int, ...]

    def find_price(self, number: str) -> tuple[str, int] | None:
        """The country of a number (E.164 digits) and what a part to it costs; None where nothing can be sent.

        The longest range that the number begins with decides, and its country where it is in none.
        """
        country = countries.find_country(number)
        if country is None:
            return None
        price = self.countries.get(country)
        for length in self.range_lengths:
            prefix = number[:length]
            if prefix in self.ranges:
                price = self.ranges[prefix]
                break
        return None if price is None else (country, price)


@dataclass(frozen=True, slots=True)
class PriceLists:
    """All price lists as they are at one moment.

    Args:
        own_prices: what each list says itself: prices by destination, by the list's id.
        next_change_at: when the next change holds (milliseconds).
    """

    own_prices: Mapping[int, Mapping[str, int | None]]
    next_change_at: int | None
    # Hundreds of lists with thousands of ranges would take half a second to put together at once, and few are in use.
    _merged: dict[int, PriceList] = field(default_factory=dict, init=False, repr=False, compare=False)

    def get_or_default(self, list_id: int) -> PriceList:
        """One list; the default one where it is gone, and whoever had it has another by now."""
        merged = self._merged.get(list_id)
        if merged is None:
            merged = self._merged[list_id] = _build_price_list(
                {**self.own_prices[DEFAULT_LIST], **self.own_prices.get(list_id, {})}
            )
        return merged


NO_PRICE_LISTS = PriceLists({DEFAULT_LIST: {}}, None)
"""Before any has been read."""


def read_prices_version(conn: sqlite3.Connection) -> int:
    """A number that moves with every change of prices. One row: cheap to ask often."""
    return int(conn.execute("SELECT value FROM counters WHERE name = 'prices_version'").fetchone()[0])


def load_price_lists(conn: sqlite3.Connection, now: int) -> PriceLists:
    """Every price list at a moment (milliseconds).

    A list says what differs from the default one. More digits always go before fewer, and before a country; where both
    lists name the same, the list's own price holds.
    """
    in_force: dict[int, dict[str, int | None]] = {DEFAULT_LIST: {}}
    next_change_at = None
    # One statement, so that it is of one moment, without a dictionary for each row: the SMPP server waits for it.
    rows = conn.execute(
        "SELECT price_lists.id, destination, valid_from, price FROM price_lists"
        " LEFT JOIN prices ON list_id = price_lists.id ORDER BY valid_from"
    )
    for list_id, destination, valid_from, price in rows:
        own = in_force.setdefault(list_id, {})
        if destination is None:
            continue
        if valid_from <= now:
            own[destination] = price
        elif next_change_at is None:
            next_change_at = valid_from
    return PriceLists(in_force, next_change_at)


def load_account_price_list(conn: sqlite3.Connection, account_id: int, now: int) -> PriceList:
    """The price list of an account's customer, at a moment (milliseconds)."""
    row = conn.execute(
        "SELECT price_list_id FROM accounts JOIN customers ON customers.id = customer_id WHERE accounts.id = ?",
        (account_id,),
    ).fetchone()
    return load_price_lists(conn, now).get_or_default(row[0] or DEFAULT_LIST)


def _build_price_list(prices: Mapping[str, int | None]) -> PriceList:
    ranges = {destination: price for destination, price in prices.items() if destination.isdigit()}
    by_country = {destination: price for destination, price in prices.items() if not destination.isdigit()}
    return PriceList(by_country, ranges, tuple(sorted({len(each) for each in ranges}, reverse=True)))


# --- what a list says


@dataclass(frozen=True, slots=True)
class ScheduledPrice:
    """A change that is announced: the price (None: nothing is sent) from a moment on (milliseconds).

    `own` is whether the list itself says so, and not the default one.
    """

    valid_from: int
    price: int | None
    own: bool


@dataclass(frozen=True, slots=True)
class PriceRow:
    """What a list says of one destination at one moment.

    `price` None: nothing is sent there; with `in_force` False nothing is said yet, and only a change is to come.
    `own` is whether the list itself says what holds.
    """

    destination: str
    price: int | None
    in_force: bool
    own: bool
    scheduled: tuple[ScheduledPrice, ...]

    @property
    def country(self) -> str | None:
        """The country that it is, or that its range belongs to."""
        return countries.find_prefix_country(self.destination) if self.is_range else self.destination

    @property
    def is_range(self) -> bool:
        return self.destination.isdigit()

    @property
    def has_own_entry(self) -> bool:
        """Whether the list itself says anything."""
        return self.own or any(each.own for each in self.scheduled)


def list_price_rows(conn: sqlite3.Connection, list_id: int, now: int) -> list[PriceRow]:
    """Everything that a list and the default one say at a moment (milliseconds), by destination."""
    entries = conn.execute(
        "SELECT destination, list_id = ?1, valid_from, price FROM prices WHERE list_id IN (?1, ?2)"
        " ORDER BY destination, valid_from",
        (list_id, DEFAULT_LIST),
    )
    return [
        _build_price_row(destination, [ScheduledPrice(at, price, bool(own)) for _, own, at, price in group], now)
        for destination, group in groupby(entries, itemgetter(0))
    ]


def _build_price_row(destination: str, entries: Sequence[ScheduledPrice], now: int) -> PriceRow:
    """`entries`: what both lists have ever said of a destination, and will say, the oldest first."""
    own = [each for each in entries if each.own and each.valid_from <= now]
    inherited = [each for each in entries if not each.own and each.valid_from <= now]
    in_force = own[-1:] or inherited[-1:]
    # The default list's changes reach a list until it says something itself.
    own_from = next((each.valid_from for each in entries if each.own), math.inf)
    return PriceRow(
        destination,
        in_force[0].price if in_force else None,
        bool(in_force),
        bool(own),
        tuple(each for each in entries if each.valid_from > now and (each.own or each.valid_from < own_from)),
    )


def get_price_row(conn: sqlite3.Connection, list_id: int, destination: str, now: int) -> PriceRow:
    """What a list says of one destination.

    Raises:
        NoSuchPrice: neither it nor the default one says anything.
    """
    price_row = next((each for each in list_price_rows(conn, list_id, now) if each.destination == destination), None)
    return require_found(price_row, NoSuchPrice(destination=destination))


# --- what is typed


def parse_destination(text: str) -> str:
    """A country or a range of numbers as price lists name it: `IT`, `39342`.

    Raises:
        InvalidPriceDestination: also where the digits begin no country's numbers, for nothing is sent to others.
    """
    destination = countries.strip_international_prefix(text.strip()).upper()
    if destination in countries.COUNTRIES:
        return destination
    is_range = destination.isascii() and _RANGE.fullmatch(destination)
    if not is_range or countries.find_prefix_country(destination) is None:
        raise InvalidPriceDestination(destination=text)
    return destination


def parse_price(text: str) -> int:
    """Read a price as the language in use writes it; thousandths of a credit a part.

    Raises:
        InvalidPrice
    """
    try:
        return check_price(credit_amounts.parse_amount(text))
    except (credit_amounts.InvalidAmount, InvalidPrice):
        raise InvalidPrice(text=text.strip()) from None


def check_price(price: int) -> int:
    """Raises: InvalidPrice"""
    if not 0 < price <= MAX_PRICE:
        raise InvalidPrice(text=credit_amounts.credits_to_json_number(price))
    return price


def price_to_credits(price: int | None) -> int | float | None:
    """A price as a JSON number of credits; None stays None."""
    return None if price is None else credit_amounts.credits_to_json_number(price)


def parse_valid_from(text: str, timezone: str) -> int | None:
    """Read from when on a price is to hold.

    Args:
        text: a date, or a date and time (ISO 8601); empty: now.
        timezone: IANA name; that of what is written without one.

    Returns:
        Milliseconds; None: now.

    Raises:
        InvalidPriceDate
    """
    text = text.strip()
    if not text:
        return None
    at = parse_moment(text, timezone, InvalidPriceDate(text=text))
    if at < 0:
        raise InvalidPriceDate(text=text)
    return at


def format_valid_from(at: int, timezone: str) -> str:
    """A moment as `parse_valid_from` reads it, to the minute where it is a whole one: `2027-01-31T08:00+01:00`."""
    moment = datetime.fromtimestamp(at / 1000, ZoneInfo(timezone))
    return moment.isoformat(timespec="auto" if moment.second or moment.microsecond else "minutes")


# --- changing a list


@dataclass(frozen=True, slots=True)
class PriceChange:
    """A price (thousandths of a credit a part; None: nothing is sent) from a moment on (milliseconds; None: now)."""

    destination: str
    price: int | None
    valid_from: int | None = None


def set_prices(
    conn: sqlite3.Connection, actor: Actor, prices: Mapping[str, int | None], *, valid_from: int = EARLIEST_VALID_FROM
) -> None:
    """Set prices (thousandths of a credit a part) of some destinations in the default list; the others keep theirs.

    Args:
        prices: None: nothing is sent there.
        valid_from: when they begin to hold (milliseconds). A fresh installation's do from the beginning.

    Raises:
        InvalidPriceDestination: nothing has changed.
    """
    lines = [(DEFAULT_LIST, parse_destination(name), valid_from, price) for name, price in prices.items()]
    with write_transaction(conn):
        _upsert_prices(conn, lines)
        audit.record_action(conn, actor, "prices.put", list=DEFAULT_LIST, valid_from=valid_from, prices=len(lines))


def change_prices(
    conn: sqlite3.Connection,
    actor: Actor,
    list_id: int,
    changes: Sequence[PriceChange],
    timezone: str,
    *,
    now: int | None = None,
    progress: Progress = no_progress,
) -> None:
    """Change what a list says, all or nothing, from now on or from a date on; without changes nothing is done.

    Args:
        timezone: IANA name, for the sentence of a refusal.
        now: milliseconds; None: this moment.
        progress: is told changes.

    Raises:
        NoSuchPriceList, InvalidPriceDestination, InvalidPrice, PastPriceDate: nothing has changed.
        KeyboardInterrupt: from `progress`; nothing has changed.
    """
    if not changes:
        return
    now = now_ms() if now is None else now
    lines, audit_prices = [], []
    with write_transaction(conn):
        price_lists.get_price_list_by_id(conn, list_id)
        rows_before = {each.destination: each for each in list_price_rows(conn, list_id, now)}
        for number, each in enumerate(changes):
            progress(number, len(changes))
            destination = parse_destination(each.destination)
            price = None if each.price is None else check_price(each.price)
            valid_from = resolve_valid_from(each.valid_from, now, timezone)
            lines.append((list_id, destination, valid_from, price))
            row_before = rows_before.get(destination)
            audit_prices.append([destination, row_before.price if row_before else None, price, valid_from])
        _upsert_prices(conn, lines)
        _purge_superseded_prices(conn, list_id, {line[1] for line in lines}, now)
        audit.record_action(conn, actor, "prices.change", list=list_id, prices=audit_prices)


def resolve_valid_from(valid_from: int | None, now: int, timezone: str) -> int:
    """When a change that is made now begins to hold (milliseconds).

    Raises:
        PastPriceDate
    """
    # Dates are typed to the minute: the minute that has begun is now.
    if valid_from is None or now // MINUTE_MS * MINUTE_MS <= valid_from <= now:
        return now
    if valid_from < now:
        raise PastPriceDate(date=i18n.format_date_time(valid_from, timezone))
    return valid_from


def _upsert_prices(conn: sqlite3.Connection, lines: Iterable[tuple[int, str, int, int | None]]) -> None:
    conn.executemany(
        "INSERT INTO prices (list_id, destination, valid_from, price) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET price = excluded.price",
        lines,
    )


def _purge_superseded_prices(conn: sqlite3.Connection, list_id: int, destinations: Iterable[str], now: int) -> None:
    """The SMPP server reads all rows at each change: those that hold no more must not pile up."""
    conn.executemany(
        "DELETE FROM prices WHERE list_id = ?1 AND destination = ?2 AND valid_from < (SELECT max(valid_from)"
        " FROM prices WHERE list_id = ?1 AND destination = ?2 AND valid_from <= ?3)",
        [(list_id, each, now) for each in destinations],
    )


def remove_price(
    conn: sqlite3.Connection, actor: Actor, list_id: int, destination: str, valid_from: int | None = None
) -> None:
    """Remove a list's own price of a destination with its scheduled changes, or cancel one of these.

    What the default list says holds then, and where that is the list, nothing is sent there any more; of a range, what
    its country or a shorter range says.

    Args:
        valid_from: the moment (milliseconds) of the change that is cancelled; None: all is removed.

    Raises:
        NoSuchPrice: there is none, or the change holds by now.
    """
    condition = "TRUE" if valid_from is None else "valid_from = :valid_from AND valid_from > :now"
    with write_transaction(conn):
        removed_rows = conn.execute(
            f"DELETE FROM prices WHERE list_id = :list AND destination = :destination AND {condition}"
            " RETURNING valid_from, price",
            {"list": list_id, "destination": destination, "valid_from": valid_from, "now": now_ms()},
        ).fetchall()
        if not removed_rows:
            raise NoSuchPrice(destination=destination)
        action = "prices.remove" if valid_from is None else "prices.call_off"
        details: dict[str, Any] = {"prices": [list(each) for each in removed_rows]}
        if valid_from is not None:
            details = {"valid_from": valid_from, "price": removed_rows[0]["price"]}
        audit.record_action(conn, actor, action, list=list_id, destination=destination, **details)


# --- a fresh installation


def read_initial_prices() -> Mapping[str, int]:
    """What a fresh installation begins with, thousandths of a credit a part by destination. An operator sets what it
    pays; a country that isn't there has no price, and messages to it are refused.
    """
    with paths.PRICES_CSV.open(newline="") as file:
        return {row["destination"]: int(Decimal(row["price"]) * 1000) for row in csv.DictReader(file)}
