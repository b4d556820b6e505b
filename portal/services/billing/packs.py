"""Packs: how many credits are sold together, and for how much.

They are one price list: all in one currency, and the more credits a pack has, the less each of them costs.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise

from babel.core import get_global
from babel.numbers import NumberFormatError, get_currency_precision

from portal.core import i18n
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.common import audit, credit_amounts
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, require_found

# Of these an account may buy one automatically, where there is a price for it. Thousandths of a credit.
RECREDIT_PACK_SIZES = tuple(size * 1000 for size in (100, 200, 250, 500, 1000, 5000, 10000))

MAX_PACKS = 50
_MAX_PRICE = 10**12


class NoSuchPack(NotFound, field="pack"):
    sentence = N_("There is no such pack.")


class InvalidCurrency(Refused, field="currency"):
    sentence = N_("“%(text)s” isn't a currency. Give its code of ISO 4217, such as EUR.")


class MixedCurrencies(Refused, field="currency"):
    sentence = N_("All packs are sold in one currency.")


class InvalidPackPrice(Refused, field="price"):
    sentence = N_("“%(text)s” isn't a price in %(currency)s. Example: %(example)s.")


class DuplicatePackSize(Refused, field="credits"):
    sentence = N_("There is a second pack of %(credits)s credits.")


class UnitPriceNotFalling(Refused, field="price"):
    sentence = N_(
        "A credit in the pack of %(larger)s would cost %(dearer)s, and %(cheaper)s in the pack of %(smaller)s:"
        " a larger pack has to make credits cheaper."
    )


class TooManyPacks(Refused):
    sentence = N_("There can be %(most)s packs at most.")


@dataclass(frozen=True, slots=True)
class Pack:
    """`credits` in thousandths; `price` in the currency's smallest unit (cents); `currency` as in ISO 4217."""

    credits: int
    price: int
    currency: str

    @property
    def unit_price(self) -> str:
        """What one of its credits costs, in the reader's writing."""
        return i18n.format_unit_price(self.price, self.currency, self.credits)


def is_billing_enabled(conn: sqlite3.Connection, setting: str) -> bool:
    """Whether this installation sells credits, so that its pages show packs, orders and automatic re-credit.

    Args:
        setting: `[billing] enabled`.
    """
    if setting != "auto":
        return setting == "on"
    return bool(conn.execute("SELECT EXISTS (SELECT 1 FROM packs) OR EXISTS (SELECT 1 FROM orders)").fetchone()[0])


def list_packs(conn: sqlite3.Connection) -> list[Pack]:
    """All packs that are sold, the smallest first."""
    return [Pack(*row) for row in conn.execute("SELECT credits, price, currency FROM packs ORDER BY credits")]


def get_pack(conn: sqlite3.Connection, credits: int) -> Pack:
    """Raises: NoSuchPack"""
    row = conn.execute("SELECT credits, price, currency FROM packs WHERE credits = ?", (credits,)).fetchone()
    return Pack(*require_found(row, NoSuchPack()))


def count_recredit_accounts(conn: sqlite3.Connection) -> dict[int, int]:
    """How many accounts buy a pack automatically, by its size; packs that aren't sold any more among them."""
    return dict(
        tuple(row)
        for row in conn.execute(
            "SELECT recredit_pack, count(*) FROM accounts"
            " WHERE recredit_pack IS NOT NULL AND deleted_at IS NULL GROUP BY recredit_pack"
        )
    )


def parse_currency(text: str) -> str:
    """Read the code of a currency that is legal tender somewhere today.

    Raises:
        InvalidCurrency
    """
    code = text.strip().upper()
    if code not in _load_currency_codes():
        raise InvalidCurrency(text=text.strip())
    return code


@cache
def _load_currency_codes() -> frozenset[str]:
    today = datetime.now(UTC).date().timetuple()[:3]
    return frozenset(
        code
        for currencies in get_global("territory_currencies").values()
        for code, _, until, is_tender in currencies
        if is_tender and (until is None or tuple(until) >= today)
    )


def parse_pack_price(text: str, currency: str) -> int:
    """Read a price as the language in use writes it: "7.00", in Italian "7,00", is 700 in EUR.

    Args:
        currency: of `parse_currency`.

    Returns:
        It in the currency's smallest unit.

    Raises:
        InvalidPackPrice: not a number, not positive, or with more decimals than the currency has.
    """
    text = text.strip()
    digits = get_currency_precision(currency)
    try:
        price = credit_amounts.parse_scaled_number(text, digits) or 0
    except NumberFormatError:
        price = 0
    if not 0 < price <= _MAX_PRICE:
        raise InvalidPackPrice(text=text, currency=currency, example=i18n.format_money_input(7 * 10**digits, currency))
    return price


def replace_packs(conn: sqlite3.Connection, actor: Actor, packs: Sequence[Pack]) -> list[Pack]:
    """Sell these packs, and no others, from now on. Orders that were made keep their prices.

    Returns:
        They, the smallest first.

    Raises:
        TooManyPacks, MixedCurrencies, DuplicatePackSize
        UnitPriceNotFalling: the `pack` of its `params` is the larger one of the two.
    """
    new = _check_packs(packs)
    with write_transaction(conn):
        old = list_packs(conn)
        if new == old:
            return new
        conn.execute("DELETE FROM packs")
        conn.executemany("INSERT INTO packs (credits, price, currency) VALUES (?, ?, ?)", map(astuple, new))
        audit.record_action(conn, actor, "packs.change", before=[*map(astuple, old)], after=[*map(astuple, new)])
    return new


def _check_packs(packs: Sequence[Pack]) -> list[Pack]:
    sorted_packs = sorted(packs, key=lambda each: each.credits)
    if len(sorted_packs) > MAX_PACKS:
        raise TooManyPacks(most=MAX_PACKS)
    if len({each.currency for each in sorted_packs}) > 1:
        raise MixedCurrencies()
    for smaller, larger in pairwise(sorted_packs):
        if smaller.credits == larger.credits:
            raise DuplicatePackSize(credits=i18n.format_credits(larger.credits))
        # Price by credits, without rounding.
        if larger.price * smaller.credits >= smaller.price * larger.credits:
            raise UnitPriceNotFalling(
                larger=i18n.format_credits(larger.credits),
                smaller=i18n.format_credits(smaller.credits),
                dearer=larger.unit_price,
                cheaper=smaller.unit_price,
                pack=larger,
            )
    return sorted_packs
