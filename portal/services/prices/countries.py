"""Which country a number belongs to (E.164)."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache

import phonenumbers
from babel import Locale
from phonenumbers.phonenumberutil import COUNTRY_CODE_TO_REGION_CODE

from portal.core.i18n import N_, current_language, gettext
from portal.services.common.errors import Refused

COUNTRIES = frozenset(phonenumbers.SUPPORTED_REGIONS)
"""The ISO 3166 codes of the countries that have numbers."""
# E.164, 6: at most 15 digits, the first of them not 0. Country code and the shortest national numbers make 7.
_MIN_DIGITS, _MAX_DIGITS = 7, 15
INTERNATIONAL = "001"
"""Stands for the codes that belong to no country: satellite, +800."""
_INTERNATIONAL_NAME = N_("International networks")
_REGIONS_BY_CALLING_CODE = {str(code): regions for code, regions in COUNTRY_CODE_TO_REGION_CODE.items()}
# Most numbers of most countries are as long as this.
_TYPICAL_LENGTH = 11
_TELLING_DIGITS = 5
# What people write between the digits, so that they can be read; and what comes along unseen where a number is copied:
# narrow spaces, other dashes, marks of the direction of writing.
_SEPARATORS = str.maketrans(
    "",
    "",
    " \u00a0\u2007\u2009\u202f\t.-/()\u2010\u2011\u2012\u2013\u2014\u2212"
    "\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff",
)
# What a number may be, in the words of phonenumbers' metadata.
_NUMBER_TYPES = "premium_rate toll_free shared_cost voip personal_number pager uan voicemail fixed_line mobile".split()


class InvalidPhoneNumber(Refused):
    sentence = N_("%(number)s is no number. Enter its digits, or those that it begins with, such as 39340.")


def strip_international_prefix(number: str) -> str:
    """A number without the plus or the 00 in front of its country code; no country code begins with a 0."""
    return number.removeprefix("+").removeprefix("00")


def strip_separators(number: str) -> str:
    """A number as people write it (`+39 340 123-4567`, `0039 340 …`) without what isn't part of it; E.164 is not
    checked.
    """
    return strip_international_prefix(number.translate(_SEPARATORS))


def parse_number_prefix(number: str, field: str) -> str:
    """The digits of a number, or of what it begins with, as people write them: `+39 340`, `0039 340`; empty: none.

    Args:
        field: where it was entered.

    Raises:
        InvalidPhoneNumber: something else is among them.
    """
    prefix = strip_separators(number)
    if number and not (prefix.isascii() and prefix.isdigit()):
        raise InvalidPhoneNumber(field=field, number=number)
    return prefix


def find_country(number: str) -> str | None:
    """The ISO 3166 code of the country (`IT`) that a number belongs to; None where it is not an E.164 number.

    Args:
        number: digits only, country code first.
    """
    if not (_MIN_DIGITS <= len(number) <= _MAX_DIGITS and number.isascii() and number.isdigit()) or number[0] == "0":
        return None
    for length in (1, 2, 3):
        regions = _REGIONS_BY_CALLING_CODE.get(number[:length])
        if regions is not None:
            # Of INTERNATIONAL there is no price by country, but there may be some by range.
            return (
                regions[0]
                if len(regions) == 1
                else _resolve_shared_calling_code(regions, number[:length], number[length:])
            )
    return None


def find_prefix_country(digits: str) -> str | None:
    """The country whose numbers begin with these digits, the main one where several's do; None where nobody's do."""
    return find_country(digits.ljust(_TYPICAL_LENGTH, "0"))


def get_first_digits(country: str) -> str:
    """What all numbers of a country begin with: `39` for Italy, `1242` for the Bahamas, which share +1."""
    leading = _get_region_metadata(country).leading_digits or ""
    return get_calling_code(country) + (leading if leading.isdigit() else "")


@cache
def is_prefix_of_country(digits: str, country: str) -> bool:
    """Whether all numbers that begin with these digits are a country's.

    Where several share a code (+1, +39, +44 …) that is tried out with numbers as long as mobile ones: five national
    digits tell these countries apart, but for ranges of a few small islands.
    """
    code = next((digits[:length] for length in (1, 2, 3) if digits[:length] in _REGIONS_BY_CALLING_CODE), "")
    regions = _REGIONS_BY_CALLING_CODE.get(code, ())
    if country not in regions or digits == code:
        return regions == (country,)
    if len(regions) == 1:
        return True
    national = digits[len(code) :]
    open_count = max(_TELLING_DIGITS - len(national), 0)
    beginnings = [f"{digits}{number:0{open_count}}" for number in range(10**open_count)] if open_count else [digits]
    lengths = {len(code) + each for region in regions for each in _list_mobile_lengths(region)}
    return all(find_country(each.ljust(length, "0")) == country for each in beginnings for length in lengths)


def _list_mobile_lengths(region: str) -> Sequence[int]:
    mobile = _get_region_metadata(region).mobile
    return (mobile and mobile.possible_length) or ()


def get_calling_code(country: str) -> str:
    """What the numbers of a country begin with, without a plus: `39`."""
    return str(phonenumbers.country_code_for_region(country))


def expand_national_number(number: str, country: str) -> str:
    """A number as it is written within a country, as E.164 digits; empty: it is none.

    What the country's people dial in front of it is left out (0171 … in Germany, 06 30 … in Hungary); in Italy a 0
    belongs to the number. What they dial in front of another country's numbers (011 in the United States) makes it none
    of theirs. Whether there is such a number is not checked.
    """
    if not (number.isascii() and number.isdigit()):
        return ""
    try:
        parsed = phonenumbers.parse(number, country)
    except phonenumbers.NumberParseException:
        return ""
    if parsed.country_code != phonenumbers.country_code_for_region(country):
        return ""
    return f"{parsed.country_code}{phonenumbers.national_significant_number(parsed)}"


def complete_number(number: str, country: str, *, is_national: bool = False) -> str:
    """A number that may be national, as E.164 digits: one that is as it stands, or isn't one of the country's, stays.

    Args:
        number: digits, without a plus or 00.
        country: the ISO 3166 code of the country of national numbers.
        is_national: that it is no international number.
    """
    if not is_national and number.startswith(get_calling_code(country)) and is_valid_number(number):
        return number
    expanded = expand_national_number(number, country)
    return expanded if expanded and is_valid_number(expanded) else number


def is_valid_number(digits: str) -> bool:
    """Whether E.164 digits are a number of a range that is known to be in use. Operators open ranges faster than
    libraries learn, so this refuses nothing.
    """
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(f"+{digits}"))
    except phonenumbers.NumberParseException:
        return False


def get_country_name(country: str) -> str:
    """A country's name in the language in use."""
    if country == INTERNATIONAL:
        return gettext(_INTERNATIONAL_NAME)
    return _load_country_names(current_language()).get(country, country)


def list_countries() -> list[tuple[str, str]]:
    """Codes and names of the countries that have numbers, by name, in the language in use."""
    named = [(each, get_country_name(each)) for each in phonenumbers.SUPPORTED_REGIONS]
    return sorted(named, key=lambda each: normalize_name(each[1]))


def normalize_name(name: str) -> str:
    """For finding and sorting: without accents and capitals, so that Åland stands among the A."""
    return "".join(each for each in unicodedata.normalize("NFKD", name.casefold()) if not unicodedata.combining(each))


@cache
def _load_country_names(language: str) -> Mapping[str, str]:
    return dict(Locale.parse(language).territories)


def _resolve_shared_calling_code(regions: Sequence[str], code: str, national_number: str) -> str:
    """The country where several share a code (+1, +7, +39, +44 …): only the whole number tells.

    The answer of `phonenumbers.region_code_for_number`, from the same data in a fifteenth of the time (2 and 30
    microseconds): this is asked for each message.
    """
    trunk = _get_trunk_prefix_pattern(regions[0])
    if trunk and trunk.match(national_number):
        national_number = phonenumbers.national_significant_number(phonenumbers.parse(f"+{code}{national_number}"))
    for region, pattern in _list_number_patterns(code, len(national_number)):
        if pattern.match(national_number):
            return region
    # Numbers out of no known range go with the code's main country: operators open ranges faster than libraries learn.
    return regions[0]


@cache
def _get_trunk_prefix_pattern(region: str) -> re.Pattern[str] | None:
    """What people may put in front of a country's numbers that doesn't belong to them (+44 0 20 …)."""
    prefix = _get_region_metadata(region).national_prefix_for_parsing
    return re.compile(prefix) if prefix else None


@cache
def _list_number_patterns(code: str, length: int) -> Sequence[tuple[str, re.Pattern[str]]]:
    """The countries with this calling code that have national numbers of so many digits, in the order to look in."""
    patterns = ((region, _get_number_pattern(region, length)) for region in _REGIONS_BY_CALLING_CODE[code])
    return [(region, pattern) for region, pattern in patterns if pattern is not None]


def _get_number_pattern(region: str, length: int) -> re.Pattern[str] | None:
    """The national numbers of so many digits in a country; None where there are none."""
    metadata = _get_region_metadata(region)
    if metadata.leading_digits is not None:
        return re.compile(metadata.leading_digits)
    patterns = [
        each.national_number_pattern
        for each in (getattr(metadata, kind) for kind in _NUMBER_TYPES)
        if each and each.national_number_pattern and length in (each.possible_length or (length,))
    ]
    general = metadata.general_desc
    assert general is not None
    if not patterns or length not in (general.possible_length or (length,)):
        return None
    return re.compile(rf"(?=(?:{general.national_number_pattern})\Z)(?:{'|'.join(patterns)})\Z")


def _get_region_metadata(region: str) -> phonenumbers.PhoneMetadata:
    metadata = phonenumbers.PhoneMetadata.metadata_for_region(region)
    assert metadata is not None
    return metadata
