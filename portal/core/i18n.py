"""Words, numbers and dates in the reader's language, with and without Flask (mails are written outside of requests).

The catalogues are read from their .po files at start: there is no compile step that could be forgotten.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import date, datetime, timedelta
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
    """Set the language of what follows in this thread or task; an unknown one counts as the default."""
    _language.set(language if language in LANGUAGES else DEFAULT_LANGUAGE)


def current_language() -> str:
    return _language.get()


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Another language for a moment: that of somebody who is written to."""
    before = current_language()
    use_language(language)
    try:
        yield
    finally:
        use_language(before)


def best_language(accept_language: list[str]) -> str:
    """The first of a browser's languages, best first, that there is a catalogue for."""
    for each in accept_language:
        short = each.split("-")[0].lower()
        if short in LANGUAGES:
            return short
    return DEFAULT_LANGUAGE


def N_(sentence: str) -> str:
    """Mark a sentence for translation where it is only kept; `gettext` translates it where it is shown."""
    return sentence


def gettext(sentence: str, **params: Any) -> str:
    """Translate; with parameters, fill them in: `gettext("%(name)s was removed", name=…)`."""
    translated = catalogue(current_language()).gettext(sentence)
    return translated % params if params else translated


def ngettext(singular: str, plural: str, number: int, **params: Any) -> str:
    """Translate a sentence that counts; `%(num)s` in it is the number in the reader's writing."""
    translated = catalogue(current_language()).ngettext(singular, plural, number)
    return translated % {"num": decimal(number), **params}


@cache
def catalogue(language: str) -> NullTranslations:
    file = paths.TRANSLATIONS / language / "LC_MESSAGES" / "messages.po"
    if language == DEFAULT_LANGUAGE or not file.exists():
        return NullTranslations()
    compiled = io.BytesIO()
    with file.open("rb") as source:
        write_mo(compiled, read_po(source, locale=language))
    compiled.seek(0)
    return Translations(compiled)


@cache
def _locale(language: str) -> Locale:
    # English with the day before the month and a 24-hour clock: most of its readers here aren't in the US.
    return Locale.parse("en_GB" if language == "en" else language)


@cache
def _zone(timezone: str) -> ZoneInfo:
    return ZoneInfo(timezone)


def decimal(number: int | float) -> str:
    return _decimal(number, None, current_language())


def percent(share: float) -> str:
    """A share of one as a percentage with one decimal: 0.988 is "98.8 %"."""
    return f"{_decimal(share * 100, '#,##0.#', current_language())} %"


def credits(thousandths: int) -> str:
    """Credits in the reader's writing: 8412500 is "8,412.5" or "8.412,5"."""
    return _decimal(thousandths / 1000, "#,##0.###", current_language())


def money(amount: int, currency: str) -> str:
    """Money in the currency's smallest unit, in the reader's writing: 700 cents are "€7.00" or "7,00 €"."""
    return _money(Decimal(amount).scaleb(-get_currency_precision(currency)), None, currency, current_language())


def plain_money(amount: int, currency: str) -> str:
    """Money without its currency and without groups, as it is typed: "1234.50" or "1234,50"."""
    digits = get_currency_precision(currency)
    pattern = f"0.{'0' * digits}" if digits else "0"
    return format_decimal(Decimal(amount).scaleb(-digits), pattern, _locale(current_language()))


def exact_money(amount: int, currency: str) -> str:
    """Money without its currency, for machines: "1234.50"."""
    return str(Decimal(amount).scaleb(-get_currency_precision(currency)))


def unit_price(amount: int, currency: str, thousandths: int) -> str:
    """What one of so many thousandths of a credit costs when all cost `amount` (as `money` takes it): "€0.0685"."""
    price = Decimal(amount).scaleb(-get_currency_precision(currency)) * 1000 / thousandths
    # As the locale writes money, with as many decimals as prices of one credit need.
    pattern = _locale(current_language()).currency_formats["standard"].pattern.replace("0.00", "0.00###")
    return _money(price, pattern, currency, current_language())


def written_number(text: str) -> Decimal:
    """Read a number that people wrote in the language in use: "1.000" is a thousand in Italian, and one in English.

    Raises:
        ValueError: it isn't one, or its separators stand where that language puts none ("1.5" in Italian): what was
            meant can only be guessed.
    """
    # Decimal takes what programmers write, too: "1e9", "1_0".
    if any(each.isalpha() or each == "_" for each in text):
        raise NumberFormatError(f"{text!r} is not a number")
    return parse_decimal(text, locale=_locale(current_language()), strict=True)


def either(choices: list[str]) -> str:
    """One of several, as people say it: "15 or 1.5"."""
    return format_list(choices, style="or", locale=_locale(current_language()))


def date_time(at: int, timezone: str) -> str:
    """A moment (milliseconds since 1970) in a time zone, to the second, with the zone's name."""
    return _date(at, "d MMM y, HH:mm:ss z", timezone, current_language())


def clock(at: int, now: int, timezone: str) -> str:
    """A moment as people say it to each other: "18:00" on the same day, otherwise "25 Nov, 18:00"."""
    near = (
        datetime.fromtimestamp(at / 1000, _zone(timezone)).date()
        == datetime.fromtimestamp(now / 1000, _zone(timezone)).date()
    )
    return _date(at, "HH:mm" if near else "d MMM, HH:mm", timezone, current_language())


def day(at: int, timezone: str = "UTC") -> str:
    """A day: "22 Nov". Those of the statistics are in UTC."""
    return _date(at, "d MMM", timezone, current_language())


def date_with_year(at: int) -> str:
    """A day with its year: "22 Nov 2026"; in UTC as those of the statistics are."""
    return _date(at, "d MMM y", "UTC", current_language())


def hour(at: int, timezone: str) -> str:
    """The time of the day: "18:00"."""
    return _date(at, "HH:mm", timezone, current_language())


def month(at: int, timezone: str) -> str:
    """A month with its year: "November 2026"."""
    return _date(at, "LLLL y", timezone, current_language())


def weekday(at: int) -> str:
    """The name of a day (UTC) within a sentence: "Thursday", "giovedì"."""
    return _date(at, "EEEE", "UTC", current_language())


def relative(at: int, now: int) -> str:
    """How far a moment is from now, in one unit: "1 hour ago" until two are over, "in 3 days" from two and a half."""
    # Nothing is "in 0 seconds".
    seconds = int((at - now) / 1000) or -1
    # To the unit that is shown, and what is over towards now: Babel would make two minutes of 90 seconds. So the same
    # few texts come up again and again, too.
    unit = next((unit for _, unit in TIMEDELTA_UNITS if abs(seconds) >= unit), 1)
    count = round(seconds / unit) if seconds > 0 else int(seconds / unit)
    return _relative(count * unit, current_language())


def iso(at: int) -> str:
    """A moment as ISO 8601 in UTC, for machines."""
    days, seconds = divmod(at // 1000, 86_400)
    return f"{_iso_day(days)}T{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}Z"


# A file of a million lines has one each.
@lru_cache(maxsize=1024)
def _iso_day(days: int) -> str:
    return (date(1970, 1, 1) + timedelta(days)).isoformat()


# Babel takes up to 0.1 ms for each of these, and a page shows dozens, mostly the ones that the page before showed.


@lru_cache(maxsize=8192)
def _decimal(number: int | float, pattern: str | None, language: str) -> str:
    return format_decimal(number, format=pattern, locale=_locale(language))


@lru_cache(maxsize=8192)
def _money(amount: Decimal, pattern: str | None, currency: str, language: str) -> str:
    return format_currency(amount, currency, pattern, _locale(language), currency_digits=pattern is None)


@lru_cache(maxsize=8192)
def _date(at: int, pattern: str, timezone: str, language: str) -> str:
    return babel_datetime(datetime.fromtimestamp(at / 1000, _zone(timezone)), pattern, locale=_locale(language))


@lru_cache(maxsize=8192)
def _relative(seconds: int, language: str) -> str:
    return format_timedelta(timedelta(seconds=seconds), add_direction=True, locale=_locale(language), threshold=1)
