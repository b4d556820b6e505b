import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.services import directory, prices


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
    assert prices.country_of(number) in (country, "001" if country is None else country)
    assert country is None or prices.country_of(number) == country


@given(st.text(alphabet="0123456789", max_size=20))
def test_any_digits_have_a_country_or_none(number):
    country = prices.country_of(number)
    assert country is None or len(country) in (2, 3)


def test_prices_are_replaced_one_by_one(conn):
    before = dict(prices.load(conn))
    prices.replace(conn, {"IT": 750, "BD": 2000})
    assert prices.load(conn) == before | {"IT": 750, "BD": 2000}


def test_the_server_hears_of_new_prices(conn):
    before = directory.version(conn)
    prices.replace(conn, {"IT": 750})
    assert directory.version(conn) > before
