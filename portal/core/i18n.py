"""Translations, and numbers and dates in the reader's language, with and without Flask (mails have no request).

The catalogues are read from their .po files at start: there is no separate step to compile them.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from babel import Locale
from babel.dates import TIMEDELTA_UNITS, format_timedelta
from babel.dates import format_datetime as babel_datetime
from babel.lists import format_list
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import NumberFormatError, format_currency, format_decimal, get_currency_precision, parse_decimal
from babel.support import NullTranslations, Translations

from portal.core import paths

LANGUAGES = {"en": "English", "it": "Italiano"}
DEFAULT_LANGUAGE = "en"

_language: ContextVar[str] = ContextVar("language", default=DEFAULT_LANGUAGE)


def use_language(language: str) -> None:
    """Set the language of this thread or task; an unknown one becomes the default language."""
    _language.set(language if language in LANGUAGES else DEFAULT_LANGUAGE)


def current_language() -> str:
    return _language.get()


@contextmanager
def override_language(language: str) -> Iterator[None]:
    """Use another language within a block, such as that of a mail's recipient."""
    previous = current_language()
    use_language(language)
    try:
        yield
    finally:
        use_language(previous)


def best_language(accept_language: list[str]) -> str:
    """Return the first of a browser's languages (sorted by preference) that has a catalogue."""
    for each in accept_language:
        short = each.split("-")[0].lower()
        if short in LANGUAGES:
            return short
    return DEFAULT_LANGUAGE


def N_(sentence: str) -> str:
    """Mark a constant for translation; `gettext` translates it where it is shown."""
    return sentence


def gettext(sentence: str, **params: Any) -> str:
    """Translate a sentence and fill in its parameters: `gettext("%(name)s was removed", name=…)`."""
    translated = load_catalogue(current_language()).gettext(sentence)
    return translated % params if params else translated


# Its usual name where many sentences are said.
_ = gettext


def ngettext(singular: str, plural: str, number: int, **params: Any) -> str:
    """Translate a sentence with a plural form; `%(num)s` in it is the number, formatted for the reader."""
    translated = load_catalogue(current_language()).ngettext(singular, plural, number)
    return translated % {"num": format_number(number), **params}


@cache
def load_catalogue(language: str) -> NullTranslations:
    file = paths.TRANSLATIONS / language / "LC_MESSAGES" / "messages.po"
    if language == DEFAULT_LANGUAGE or not file.exists():
        return NullTranslations()
    compiled = io.BytesIO()
    with file.open("rb") as source:
        write_mo(compiled, read_po(source, locale=language))
    compiled.seek(0)
    return Translations(compiled)


@cache
def _get_locale(language: str) -> Locale:
    # English with the day before the month and a 24-hour clock: most of its readers here aren't in the US.
    return Locale.parse("en_GB" if language == "en" else language)


def format_number(number: int | float) -> str:
    return _format_decimal(number, None, current_language())


def format_percent(share: float) -> str:
    """Format a fraction as a percentage with one decimal: 0.988 is "98.8 %"."""
    return f"{_format_decimal(share * 100, '#,##0.#', current_language())} %"


def format_credits(thousandths: int) -> str:
    """Format credits for the reader: 8412500 is "8,412.5" or "8.412,5"."""
    return _format_decimal(thousandths / 1000, "#,##0.###", current_language())


def _amount_in_units(amount: int, currency: str) -> Decimal:
    return Decimal(amount).scaleb(-get_currency_precision(currency))


def format_money(amount: int, currency: str) -> str:
    """Format money, given in the currency's smallest unit, for the reader: 700 cents are "€7.00" or "7,00 €"."""
    return _format_currency(_amount_in_units(amount, currency), None, currency, current_language())


def format_money_input(amount: int, currency: str) -> str:
    """Format money as it is typed, without currency and group separators: "1234.50" or "1234,50"."""
    digits = get_currency_precision(currency)
    pattern = f"0.{'0' * digits}" if digits else "0"
    return format_decimal(_amount_in_units(amount, currency), pattern, _get_locale(current_language()))


def format_money_for_machines(amount: int, currency: str) -> str:
    """Format money without currency, for machines: "1234.50"."""
    return str(_amount_in_units(amount, currency))


def format_unit_price(amount: int, currency: str, thousandths: int) -> str:
    """Format the price of one credit: "€0.0685".

    Args:
        amount: the price of all of them, in the currency's smallest unit.
        thousandths: how many credits that buys, in thousandths.
    """
    price = _amount_in_units(amount, currency) * 1000 / thousandths
    # The locale's format of money, with more decimals.
    pattern = _get_locale(current_language()).currency_formats["standard"].pattern.replace("0.00", "0.00###")
    return _format_currency(price, pattern, currency, current_language())


def parse_number(text: str) -> Decimal:
    """Parse a number that was typed in the current language: "1.000" is a thousand in Italian, and one in English.

    Raises:
        ValueError: it is no number, or its separators are in places where that language has none ("1.5" in Italian),
            so that it is ambiguous.
    """
    # Decimal accepts more: "1e9", "1_0".
    if any(each.isalpha() or each == "_" for each in text):
        raise NumberFormatError(f"{text!r} is not a number")
    return parse_decimal(text, locale=_get_locale(current_language()), strict=True)


def format_or_list(choices: list[str]) -> str:
    """Format alternatives as a phrase: "15 or 1.5"."""
    return format_list(choices, style="or", locale=_get_locale(current_language()))


def format_date_time(at: int, timezone: str) -> str:
    """Format a time (milliseconds since 1970) in a time zone, with seconds and the zone's name."""
    return _format_date_pattern(at, "d MMM y, HH:mm:ss z", timezone, current_language())


def format_short_date_time(at: int, now: int, timezone: str) -> str:
    """Format a time briefly: "18:00" on the same day, otherwise "25 Nov, 18:00"."""
    day, today = (datetime.fromtimestamp(each / 1000, ZoneInfo(timezone)).date() for each in (at, now))
    return _format_date_pattern(at, "HH:mm" if day == today else "d MMM, HH:mm", timezone, current_language())


def format_day(at: int, timezone: str = "UTC") -> str:
    """Format a day: "22 Nov". The days of the statistics are in UTC."""
    return _format_date_pattern(at, "d MMM", timezone, current_language())


def format_date(at: int) -> str:
    """Format a day with its year: "22 Nov 2026"; in UTC, like the days of the statistics."""
    return _format_date_pattern(at, "d MMM y", "UTC", current_language())


def format_time(at: int, timezone: str) -> str:
    """Format a time of day: "18:00"."""
    return _format_date_pattern(at, "HH:mm", timezone, current_language())


def format_month(at: int, timezone: str) -> str:
    """Format a month with its year: "November 2026"."""
    return _format_date_pattern(at, "LLLL y", timezone, current_language())


def format_weekday(at: int) -> str:
    """Format the name of a day (UTC), for use within a sentence: "Thursday", "giovedì"."""
    return _format_date_pattern(at, "EEEE", "UTC", current_language())


def format_relative_time(at: int, now: int) -> str:
    """Format the difference to now, in one unit: "1 hour ago" until two are over, "in 3 days" from two and a half."""
    # Never "in 0 seconds".
    seconds = int((at - now) / 1000) or -1
    # Rounded to the unit that is shown, past times towards now: Babel would make two minutes of 90 seconds. Also, few
    # different values have to be cached then.
    unit = next((unit for _, unit in TIMEDELTA_UNITS if abs(seconds) >= unit), 1)
    count = round(seconds / unit) if seconds > 0 else int(seconds / unit)
    return _format_timedelta(count * unit, current_language())


def format_iso8601(at: int) -> str:
    """Format a time as ISO 8601 in UTC, for machines."""
    return datetime.fromtimestamp(at // 1000, UTC).replace(tzinfo=None).isoformat() + "Z"


# Cached: Babel takes up to 0.1 ms for each of these, and a page shows dozens, mostly the same as the page before.


@lru_cache(maxsize=8192)
def _format_decimal(number: int | float, pattern: str | None, language: str) -> str:
    return format_decimal(number, format=pattern, locale=_get_locale(language))


@lru_cache(maxsize=8192)
def _format_currency(amount: Decimal, pattern: str | None, currency: str, language: str) -> str:
    return format_currency(amount, currency, pattern, _get_locale(language), currency_digits=pattern is None)


@lru_cache(maxsize=8192)
def _format_date_pattern(at: int, pattern: str, timezone: str, language: str) -> str:
    return babel_datetime(datetime.fromtimestamp(at / 1000, ZoneInfo(timezone)), pattern, locale=_get_locale(language))


@lru_cache(maxsize=8192)
def _format_timedelta(seconds: int, language: str) -> str:
    return format_timedelta(timedelta(seconds=seconds), add_direction=True, locale=_get_locale(language), threshold=1)
