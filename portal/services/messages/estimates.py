"""What a text would cost, by the rules that apply to submit_sm."""

import sqlite3
from dataclasses import dataclass
from itertools import islice

from portal.core import gsm0338
from portal.core.clock import now_ms
from portal.core.gsm0338 import Encoding
from portal.core.i18n import N_
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.brakes import brakes
from portal.services.common.addresses import normalize_address
from portal.services.common.errors import Refused
from portal.services.messages import validation
from portal.services.messages.blacklist import NoNumbers, TooManyNumbers
from portal.services.prices import countries, prices
from portal.services.prices.prices import PriceList

MAX_RECIPIENTS = 100
# A text of 255 parts has fewer characters.
MAX_CHARACTERS = 40_000
_UCS2_OCTETS = 2
_MAX_SHOWN_CHARACTERS = 20


class MessageTooLong(Refused, field="text"):
    sentence = N_("The text is too long: a message has at most %(most)s parts.")


class InvalidRecipient(Refused, field="numbers"):
    sentence = N_("“%(number)s” isn't a number: it begins with the country's code, like +39 340 1234567.")


class NoPriceForDestination(Refused, field="numbers"):
    sentence = N_("Nothing is sent to %(number)s (%(country)s): there is no price for it.")


@dataclass(frozen=True, slots=True)
class RecipientCost:
    """What a text costs to one number; prices in thousandths of a credit.

    `country` is the number's, an ISO 3166 code; `refusal`: why nothing would be sent (then there is no price).
    """

    number: str
    country: str | None = None
    part_price: int = 0
    price: int = 0
    refusal: Refused | None = None


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """How a text would be encoded, in how many parts it would be sent, and what it costs to each number.

    `length` and `capacity` count septets (GSM 03.38) or UTF-16 code units (UCS-2): `capacity` is what so many `parts`
    hold. `non_gsm_characters`: the first few characters that make it UCS-2. `balance`: the credits before sending.
    """

    encoding: Encoding
    length: int
    capacity: int
    parts: int
    non_gsm_characters: str
    costs: tuple[RecipientCost, ...]
    balance: int

    @property
    def total_price(self) -> int:
        return sum(each.price for each in self.costs)

    @property
    def balance_after(self) -> int:
        """The credits left afterwards; negative: so many are missing."""
        return self.balance - self.total_price


def estimate_cost(conn: sqlite3.Connection, account: Account, text: str, numbers: str) -> CostEstimate:
    """Calculate what an account would pay for a text now. Nothing is stored.

    Args:
        text: a line end as browsers send it (CR LF) counts as one character.
        numbers: one a line; spaces, hyphens and the like in them are ignored.

    Raises:
        NoNumbers, TooManyNumbers, MessageTooLong
    """
    # Checked before it is encoded: encoding a long text takes long.
    text = text.replace("\r\n", "\n")
    if len(text) > MAX_CHARACTERS:
        raise MessageTooLong(most=validation.MAX_PARTS)
    recipients = [each.strip() for each in islice(filter(str.strip, numbers.splitlines()), MAX_RECIPIENTS + 1)]
    if not recipients:
        raise NoNumbers()
    if len(recipients) > MAX_RECIPIENTS:
        raise TooManyNumbers(most=MAX_RECIPIENTS)
    encoding = gsm0338.choose_encoding(text)
    body = gsm0338.encode_body(text, encoding)
    parts = gsm0338.count_parts(body, encoding)
    if parts > validation.MAX_PARTS:
        raise MessageTooLong(most=validation.MAX_PARTS)
    octets = _UCS2_OCTETS if encoding is Encoding.UCS2 else 1
    part_capacity = gsm0338.get_part_capacity(encoding, gsm0338.CONCATENATION_UDH_OCTETS if parts > 1 else 0)
    price_list = prices.load_account_price_list(conn, account.id, now_ms())
    allowed = brakes.get_brakes(conn, account.id).in_force.countries
    return CostEstimate(
        encoding,
        len(body) // octets,
        parts * (part_capacity // octets),
        parts,
        gsm0338.find_non_gsm_characters(text)[:_MAX_SHOWN_CHARACTERS],
        tuple(_estimate_recipient_cost(price_list, allowed, parts, each) for each in recipients),
        accounts.get_account(conn, account.name).balance,
    )


def _estimate_recipient_cost(
    price_list: PriceList, allowed: frozenset[str] | None, parts: int, number: str
) -> RecipientCost:
    # As with TON 1, which an account's rules for national numbers are not about.
    digits = countries.strip_separators(number)
    destination = normalize_address(digits)
    found = price_list.find_price(destination)
    if found is not None and allowed is not None and found[0] not in allowed:
        return RecipientCost(
            number, found[0], refusal=validation.CountryNotAllowed(found[0], countries.get_country_name(found[0]))
        )
    if found is not None:
        return RecipientCost(f"+{destination}", found[0], found[1], found[1] * parts)
    country = countries.find_country(digits)
    if country is None:
        return RecipientCost(number, refusal=InvalidRecipient(number=number))
    name = countries.get_country_name(country)
    return RecipientCost(number, country, refusal=NoPriceForDestination(number=number, country=name))
