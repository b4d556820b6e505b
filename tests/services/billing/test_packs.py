"""What packs may be, and that they are one price list."""

import json

import pytest

from portal.core import i18n
from portal.services.billing import orders, packs
from portal.services.billing.packs import Pack
from portal.services.common.audit import SHELL


def test_the_packs_that_there_are_at_first_are_a_price_list(conn):
    sold = packs.list_packs(conn)
    assert [each.credits for each in sold] == list(packs.RECREDIT_PACK_SIZES)
    assert packs.replace_packs(conn, SHELL, sold) == sold


def test_a_price_list_is_sorted_and_said_to_the_audit_log(conn):
    new = packs.replace_packs(conn, SHELL, [Pack(2000, 20, "EUR"), Pack(1000, 11, "EUR")])
    assert new == packs.list_packs(conn) == [Pack(1000, 11, "EUR"), Pack(2000, 20, "EUR")]
    (details,) = conn.execute("SELECT details FROM audit_log WHERE action = 'packs.change'").fetchall()
    assert json.loads(details[0])["after"] == [[1000, 11, "EUR"], [2000, 20, "EUR"]]


def test_prices_fall_by_the_exact_price_of_a_credit(conn):
    # A third of a cent less for three thousand: rounded to any decimals somebody shows, they might be the same.
    packs.replace_packs(conn, SHELL, [Pack(10**9, 10**9 + 1, "EUR"), Pack(10**9 + 1, 10**9 + 1, "EUR")])
    with pytest.raises(packs.UnitPriceNotFalling) as caught:
        packs.replace_packs(conn, SHELL, [Pack(3000, 10, "EUR"), Pack(6000, 20, "EUR")])
    assert caught.value.params["pack"] == Pack(6000, 20, "EUR")
    assert len(packs.list_packs(conn)) == 2


@pytest.mark.parametrize(
    ("new", "refusal"),
    [
        ([Pack(1000, 10, "EUR"), Pack(2000, 15, "USD")], packs.MixedCurrencies),
        ([Pack(1000, 10, "EUR"), Pack(1000, 9, "EUR")], packs.DuplicatePackSize),
        ([Pack(1000 * size, size, "EUR") for size in range(1, 60)], packs.TooManyPacks),
    ],
)
def test_what_is_no_price_list_changes_nothing(conn, new, refusal):
    before = packs.list_packs(conn)
    with pytest.raises(refusal):
        packs.replace_packs(conn, SHELL, new)
    assert packs.list_packs(conn) == before


@pytest.mark.parametrize(
    ("language", "text", "currency", "price"),
    [
        ("en", "7", "EUR", 700),
        ("en", "1,234.50", "EUR", 123_450),
        ("it", "1.234,50", "EUR", 123_450),
        ("it", "7,5", "EUR", 750),
        ("en", "700", "JPY", 700),
        ("en", "1.234", "KWD", 1234),
    ],
)
def test_prices_are_read_as_the_reader_writes(language, text, currency, price):
    i18n.use_language(language)
    assert packs.parse_pack_price(text, currency) == price
    assert packs.parse_pack_price(i18n.format_money_input(price, currency), currency) == price


@pytest.mark.parametrize("text", ["", "0", "-1", "7.005", "NaN", "Infinity", "1e99", "7 euro", "9" * 30])
def test_what_is_no_price_is_refused(text):
    with pytest.raises(packs.InvalidPackPrice):
        packs.parse_pack_price(text, "EUR")


def test_currencies_are_those_of_today():
    assert packs.parse_currency(" eur ") == "EUR"
    for text in ("ITL", "XXX", "EURO", "", "€"):
        with pytest.raises(packs.InvalidCurrency):
            packs.parse_currency(text)


@pytest.mark.parametrize(
    ("setting", "sold", "ordered", "is_enabled"),
    [
        ("auto", False, False, False),
        ("auto", True, False, True),
        ("auto", False, True, True),
        ("on", False, False, True),
        ("off", True, True, False),
    ],
)
def test_credits_are_sold_where_there_are_packs_or_orders(conn, acme_1, setting, sold, ordered, is_enabled):
    if ordered:
        orders.place_order(conn, SHELL, acme_1, packs.list_packs(conn)[0])
    if not sold:
        packs.replace_packs(conn, SHELL, [])
    assert packs.is_billing_enabled(conn, setting) is is_enabled
