import pytest

from portal.core import i18n
from portal.services.accounts.allowed_ips import AllowedIPExists

NOON = 1_767_268_800_000  # 1 January 2026, 12:00 UTC


@pytest.mark.parametrize(
    ("accepted", "best"),
    [
        (["it-IT", "en"], "it"),
        (["de", "it"], "it"),
        (["de"], "en"),
        ([], "en"),
        (["en-US", "it"], "en"),
        (["IT"], "it"),
    ],
)
def test_the_browsers_preference(accepted, best):
    assert i18n.best_language(accepted) == best


def test_an_unknown_language_is_english():
    i18n.use_language("tlh")
    assert i18n.current_language() == "en"


def test_numbers_and_credits_are_written_as_the_reader_writes():
    assert (i18n.format_number(12345), i18n.format_credits(8_412_500), i18n.format_credits(500)) == (
        "12,345",
        "8,412.5",
        "0.5",
    )
    i18n.use_language("it")
    assert (i18n.format_number(12345), i18n.format_credits(8_412_500), i18n.format_credits(500)) == (
        "12.345",
        "8.412,5",
        "0,5",
    )


@pytest.mark.parametrize(
    ("amount", "currency", "in_english", "in_italian"),
    [
        (700, "EUR", "€7.00", "7,00\xa0€"),
        (123_450, "USD", "US$1,234.50", "1.234,50\xa0USD"),
        (1234, "JPY", "JP¥1,234", "1.234\xa0JPY"),
        (1_234_567, "KWD", "KWD1,234.567", "1.234,567\xa0KWD"),
    ],
)
def test_money_is_written_as_its_currency_and_the_reader_write_it(amount, currency, in_english, in_italian):
    assert i18n.format_money(amount, currency).replace("\xa0", "") == in_english
    i18n.use_language("it")
    assert i18n.format_money(amount, currency) == in_italian


def test_what_one_credit_costs_has_as_many_decimals_as_it_needs():
    assert i18n.format_unit_price(28_500, "EUR", 5_000_000) == "€0.057"
    assert i18n.format_unit_price(800, "JPY", 1_000_000) == "JP¥0.80"
    i18n.use_language("it")
    assert i18n.format_unit_price(700, "EUR", 100_000) == "0,07\xa0€"


def test_times_are_written_in_the_installations_zone():
    assert i18n.format_date_time(NOON, "UTC") == "1 Jan 2026, 12:00:00 UTC"
    i18n.use_language("it")
    assert i18n.format_date_time(NOON, "Europe/Rome").startswith("1 gen 2026, 13:00:00")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-0.5, "1 second ago"),
        (-1.9, "1 second ago"),
        (-59, "59 seconds ago"),
        (-90, "1 minute ago"),
        (-119, "1 minute ago"),
        (-120, "2 minutes ago"),
        (89, "in 1 minute"),
        (3 * 86_400 - 60, "in 3 days"),
        (-90 * 60, "1 hour ago"),
        (-47 * 3600, "1 day ago"),
        (-13 * 86_400, "1 week ago"),
    ],
)
def test_what_is_over_counts_in_whole_units_and_what_is_to_come_in_the_nearest(seconds, text):
    assert text == i18n.format_relative_time(NOON + int(seconds * 1000), NOON)


def test_how_long_ago():
    assert i18n.format_relative_time(NOON - 3 * 3_600_000, NOON) == "3 hours ago"
    i18n.use_language("it")
    assert i18n.format_relative_time(NOON + 3 * 3_600_000, NOON) == "tra 3 ore"


def test_a_refusal_speaks_the_readers_language():
    refusal = AllowedIPExists(text="203.0.113.7")
    assert str(refusal) == refusal.localized() == "203.0.113.7 is already in the list."
    i18n.use_language("it")
    assert str(refusal) == "203.0.113.7 is already in the list."
    assert "203.0.113.7" in refusal.localized()
    assert refusal.localized() != str(refusal)
