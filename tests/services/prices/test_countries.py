import phonenumbers
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from phonenumbers.phonenumberutil import COUNTRY_CODE_TO_REGION_CODE

from portal.services.prices import countries


@pytest.mark.parametrize(
    ("number", "country"),
    [
        ("393401234567", "IT"),
        ("33612345678", "FR"),
        ("447400123456", "GB"),
        ("12125550123", "US"),
        ("14165550123", "CA"),
        ("390669812345", "VA"),
        ("8801712345678", "BD"),
        ("0401234567", None),
        ("00393401234567", None),
        ("881612345678", None),
        ("99912345678", None),
        ("393401", None),
        ("3934012345678901", None),
        ("", None),
        ("٣٩٣٤٠١٢٣٤٥٦٧", None),
    ],
)
def test_the_country_of_a_number(number, country):
    # 001 is what the library says of codes that belong to no country; no price can be set for it.
    assert countries.find_country(number) in (country, "001" if country is None else country)
    assert country is None or countries.find_country(number) == country


@given(st.text(alphabet="0123456789", max_size=20))
def test_any_digits_have_a_country_or_none(number):
    country = countries.find_country(number)
    assert country is None or len(country) in (2, 3)


SHARED = {code: regions for code, regions in COUNTRY_CODE_TO_REGION_CODE.items() if len(regions) > 1}
EXAMPLES = [
    (example.country_code, phonenumbers.national_significant_number(example))
    for regions in SHARED.values()
    for region in regions
    for kind in phonenumbers.PhoneNumberType.values()
    if (example := phonenumbers.example_number_for_type(region, kind)) and example.country_code
]
DIGIT = st.sampled_from("0123456789")


@st.composite
def numbers_of_shared_codes(draw: st.DrawFn) -> tuple[int, str]:
    """A country code and what follows it: any digits, or a number that there is with some changed or put in front."""
    if draw(st.booleans()):
        return draw(st.sampled_from(sorted(SHARED))), draw(st.text(DIGIT, min_size=6, max_size=12))
    code, national = draw(st.sampled_from(EXAMPLES))
    digits = list(national)
    for place in draw(st.lists(st.integers(0, len(digits) - 1), max_size=3)):
        digits[place] = draw(DIGIT)
    return code, draw(st.text("018", max_size=1)) + "".join(digits)


@settings(max_examples=500)
@given(numbers_of_shared_codes())
def test_numbers_of_shared_codes_go_where_the_library_says(number):
    code, national = number
    digits = f"{code}{national}"
    assume(7 <= len(digits) <= 15)
    region = phonenumbers.region_code_for_number(phonenumbers.parse(f"+{digits}"))
    assert countries.find_country(digits) == (region or SHARED[code][0])


@pytest.mark.parametrize(
    "written",
    [
        "39340",
        "+39 340",
        "0039340",
        "00 39 340",
        "(39) 340",
        "39\u202f340",
        "39\u2013340",
        "\u202a+39 340\u202c",
        "39.340",
        "39/340",
    ],
)
def test_digits_as_people_write_and_copy_them(written):
    assert countries.parse_number_prefix(written, "recipient") == "39340"


@pytest.mark.parametrize("written", ["abc", "39340x", "+", "00", "-", "٣٩", "39\x00340"])
def test_what_has_other_digits_or_none_is_no_number(written):
    with pytest.raises(countries.InvalidPhoneNumber) as refused:
        countries.parse_number_prefix(written, "recipient")
    assert refused.value.field == "recipient"


def test_nothing_is_no_number_to_look_for():
    assert countries.parse_number_prefix("", "recipient") == ""


@pytest.mark.parametrize(
    ("number", "country", "digits"),
    [
        ("3401234567", "IT", "393401234567"),
        ("0612345678", "IT", "390612345678"),  # in Italy the 0 belongs to it
        ("01711234567", "DE", "491711234567"),
        ("1711234567", "DE", "491711234567"),
        ("0612345678", "FR", "33612345678"),
        ("612345678", "ES", "34612345678"),
        ("2125551234", "US", "12125551234"),
        ("12125551234", "US", "12125551234"),
        ("18765551234", "JM", "18765551234"),
        ("06301234567", "HU", "36301234567"),
        ("301234567", "HU", "36301234567"),
        ("89161234567", "RU", "79161234567"),
        ("9161234567", "RU", "79161234567"),
        ("87011234567", "KZ", "77011234567"),
        ("80291234567", "BY", "375291234567"),
        ("866123456", "TM", "99366123456"),
        ("861234567", "LT", "37061234567"),
    ],
)
def test_national_numbers_get_their_country_s_code(number, country, digits):
    assert countries.expand_national_number(number, country) == digits
    assert countries.find_country(digits) == country


@pytest.mark.parametrize(
    ("number", "country"),
    [
        ("011393401234567", "US"),
        ("810393401234567", "RU"),
        ("0011393401234567", "AU"),
        ("01012125551234", "JP"),
        ("00393401234567", "DE"),
    ],
)
def test_another_country_s_number_is_no_national_one(number, country):
    assert countries.expand_national_number(number, country) == ""


@pytest.mark.parametrize("number", ["", "1", "abc", "340-1234567", "1800FLOWERS", "٣٤٠١٢٣٤٥٦٧", "340123456712345678"])
def test_what_is_no_national_number_has_no_digits(number):
    assert countries.expand_national_number(number, "US") == ""
