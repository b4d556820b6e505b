import pytest

from portal.services.common import addresses


@pytest.mark.parametrize(
    ("address", "normalized"),
    [
        ("393401234567", "393401234567"),
        ("+393401234567", "393401234567"),
        ("00393401234567", "393401234567"),
        ("+1234567", "1234567"),
        ("001234567", "1234567"),
        ("+123456789012345", "123456789012345"),
        ("00123456789012345", "123456789012345"),
        ("+12345", "12345"),  # a short code
        ("+1234567890123456", "1234567890123456"),
        *((each, each) for each in ("00123456", "001234567890123456", "000393401234567", "0012345", "00", "+", "")),
        *((each, each) for each in ("ACME", "+ACME", "00ACME", "+00ACME", "007Up", "+393x", "+1²", "+39 340")),
    ],
)
def test_only_before_digits_a_plus_or_00_is_no_part_of_an_address(address, normalized):
    assert addresses.normalize_address(address) == normalized


@pytest.mark.parametrize(
    ("address", "spellings"),
    [
        ("393401234567", {"393401234567", "+393401234567", "00393401234567"}),
        ("123", {"123", "+123"}),
        ("00123", {"00123", "+00123"}),
        ("Acme", {"Acme"}),
        ("+Acme", {"+Acme"}),
    ],
)
def test_the_spellings_of_an_address(address, spellings):
    assert set(addresses.list_spellings(address)) == spellings
    for each in spellings:
        assert set(addresses.list_spellings(each)) == spellings
