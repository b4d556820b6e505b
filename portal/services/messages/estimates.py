"""What a text would cost, by the rules that a submit goes by."""

import sqlite3
from dataclasses import dataclass
from itertools import islice

from portal.core import gsm0338
from portal.core.clock import now_ms
from portal.core.gsm0338 import Encoding
from portal.core.i18n import N_
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common.errors import Refused
from portal.services.messages import validation
from portal.services.messages.smpp_config import AccountConfig
from portal.services.prices import countries, prices
from portal.services.prices.prices import PriceList

MOST_NUMBERS = 100
# A text of 255 parts has fewer characters.
MOST_CHARACTERS = 40_000
_UCS2_OCTETS = 2
_MOST_SHOWN = 20


class NoNumber(Refused):
    sentence = N_("Enter a number.")
    field = "numbers"


class TooManyNumbers(Refused):
    sentence = N_("At most %(most)s numbers at once.")
    field = "numbers"


class TextTooLong(Refused):
    sentence = N_("The text is too long: a message has at most %(most)s parts.")
    field = "text"


class NotANumber(Refused):
    sentence = N_("“%(number)s” isn't a number: it begins with the country's code, like +39 340 1234567.")
    field = "numbers"


class Closed(Refused):
    sentence = N_("Nothing is sent to %(number)s (%(country)s): there is no price for it.")
    field = "numbers"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a text costs to one number; prices in thousandths of a credit.

    `country` is its ISO 3166 code; `refusal` says why nothing would be sent (then there is no price).
    """

    number: str
    country: str | None = None
    part_price: int = 0
    price: int = 0
    refusal: Refused | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a text is on the way to a handset, and what it costs to each number.

    `length` counts characters as they take room: septets (GSM 03.38), or UTF-16 code units (UCS-2); `room` is what so
    many `parts` hold. `forcing` are the characters that make it UCS-2, the first few. `balance` is before sending.
    """

    encoding: Encoding
    length: int
    room: int
    parts: int
    forcing: str
    costs: tuple[Cost, ...]
    balance: int

    @property
    def total(self) -> int:
        return sum(each.price for each in self.costs)

    @property
    def left(self) -> int:
        """The credits left afterwards; below zero: so many are missing."""
        return self.balance - self.total

    @property
    def priced(self) -> int:
        """How many of the numbers it would go to."""
        return sum(each.refusal is None for each in self.costs)


def estimate(conn: sqlite3.Connection, account: Account, text: str, numbers: str) -> Estimate:
    """What an account would pay for a text now. Nothing is stored.

    Args:
        text: line ends as browsers send them (CR LF) count as one character.
        numbers: one a line; spaces, hyphens and the like in them are no part of them.

    Raises:
        NoNumber, TooManyNumbers, TextTooLong
    """
    # Kept from the first look: what is longer takes long to look at.
    text = text.replace("\r\n", "\n")
    if len(text) > MOST_CHARACTERS:
        raise TextTooLong(most=validation.MOST_PARTS)
    wanted = [each.strip() for each in islice(filter(str.strip, numbers.splitlines()), MOST_NUMBERS + 1)]
    if not wanted:
        raise NoNumber()
    if len(wanted) > MOST_NUMBERS:
        raise TooManyNumbers(most=MOST_NUMBERS)
    encoding = gsm0338.choose(text)
    body = gsm0338.to_body(text, encoding)
    parts = gsm0338.part_count(body, encoding)
    if parts > validation.MOST_PARTS:
        raise TextTooLong(most=validation.MOST_PARTS)
    octets = _UCS2_OCTETS if encoding is Encoding.UCS2 else 1
    room = gsm0338.room(encoding, gsm0338.CONCATENATION_OCTETS if parts > 1 else 0)
    price_list = prices.of_account(conn, account.id, now_ms())
    config = _config(account)
    return Estimate(
        encoding,
        len(body) // octets,
        parts * (room // octets),
        parts,
        gsm0338.without_place(text)[:_MOST_SHOWN],
        tuple(_cost(config, price_list, body, encoding, each) for each in wanted),
        accounts.by_name(conn, account.name).balance,
    )


def _config(account: Account) -> AccountConfig:
    """The account as `prepare` sees it, with leave to say who sends: that is not the question here."""
    return AccountConfig(
        id=account.id,
        name=account.name,
        kind=account.kind,
        enabled=True,
        windowing=0,
        throughput=0,
        binds=0,
        any_sender=True,
        version=0,
        networks=(),
        passwords=(),
        senders=frozenset(),
    )


def _cost(config: AccountConfig, price_list: PriceList, body: bytes, encoding: Encoding, number: str) -> Cost:
    digits = countries.plain(number)
    try:
        submit = validation.prepare(
            config,
            price_list,
            source="",
            source_ton=0,
            source_npi=0,
            destination=digits,
            esm_class=0,
            data_coding=int(encoding),
            registered_delivery=0,
            body=body,
        )
    except validation.InvalidDestination:
        country = countries.country_of(digits)
        if country is None:
            return Cost(number, refusal=NotANumber(number=number))
        return Cost(number, country, refusal=Closed(number=number, country=countries.name(country)))
    return Cost(f"+{submit.destination}", submit.country, submit.price // submit.parts, submit.price)
