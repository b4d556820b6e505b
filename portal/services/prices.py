"""What a part costs, by the country that a number belongs to."""

import sqlite3
from collections.abc import Mapping
from functools import lru_cache

import phonenumbers
from phonenumbers.phonenumberutil import COUNTRY_CODE_TO_REGION_CODE

from portal.db import immediate

# E.164, 6: at most 15 digits, the first of them not 0. Country code and the shortest national numbers make 7.
_SHORTEST, _LONGEST = 7, 15


def country_of(number: str) -> str | None:
    """The ISO 3166 code of the country (`IT`) that a number belongs to; None where it is not an E.164 number.

    Args:
        number: digits only, country code first.
    """
    if not (_SHORTEST <= len(number) <= _LONGEST and number.isascii() and number.isdigit()) or number[0] == "0":
        return None
    for length in (1, 2, 3):
        regions = COUNTRY_CODE_TO_REGION_CODE.get(int(number[:length]))
        if regions is not None:
            # 001 stands for codes that belong to no country (satellite, +800): there is no price by country for them.
            return regions[0] if len(regions) == 1 else _country_within(number)
    return None


@lru_cache(maxsize=65_536)
def _country_within(number: str) -> str | None:
    """The country where several share a code (+1, +7, +39, +44 …): only the whole number tells."""
    parsed = phonenumbers.parse(f"+{number}")
    region = phonenumbers.region_code_for_number(parsed)
    # Numbers out of no known range go with the code's main country: operators open ranges faster than libraries learn.
    return region or COUNTRY_CODE_TO_REGION_CODE[parsed.country_code or 0][0]


def load(conn: sqlite3.Connection) -> Mapping[str, int]:
    """Every price: ISO country code to thousandths of a credit a part."""
    return {row["country"]: row["price"] for row in conn.execute("SELECT country, price FROM prices")}


def replace(conn: sqlite3.Connection, prices: Mapping[str, int]) -> None:
    """Set prices (thousandths of a credit a part) of some countries; the others keep theirs."""
    with immediate(conn):
        conn.executemany(
            "INSERT INTO prices VALUES (?, ?) ON CONFLICT (country) DO UPDATE SET price = excluded.price",
            prices.items(),
        )


# What a fresh installation begins with: credits a part. An operator sets what it pays; a country that isn't here has no
# price, and messages to it are refused.
_COUNTRIES = "AT BE BG CH CY CZ DE DK EE FI GB GR HR HU IE IS IT LI LT LU LV MT NL NO RO SE SI SK SM VA AU CA US"
STARTING_PRICES = dict.fromkeys(_COUNTRIES.split(), 1000) | {"FR": 500, "PT": 500, "PL": 500, "ES": 800}
