"""Times of SMPP, section 7.1.1."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.smsc.protocol import times

NOW = 1_700_000_000_000
HOUR = 3_600_000


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("", None),
        ("231114221320000+", NOW),
        ("231114231320004+", NOW),
        ("231114211320004-", NOW),
        ("231114221320500+", NOW + 500),
        ("000000010000000R", NOW + HOUR),
        ("000001000000000R", NOW + 24 * HOUR),
    ],
)
def test_moments(text, moment):
    assert times.parse_smpp_time(text, NOW) == moment


@pytest.mark.parametrize(
    "text", ["x", "231314221320000+", "231114221320049+", "231114221320000", "000000250000000R", "²31114221320000+"]
)
def test_what_is_no_time(text):
    with pytest.raises(ValueError):
        times.parse_smpp_time(text, NOW)


@given(st.text(alphabet="0123456789+-R", max_size=17))
def test_nothing_but_value_errors(text):
    try:
        times.parse_smpp_time(text, NOW)
    except ValueError:
        return


def test_a_receipts_time():
    assert times.format_receipt_time(NOW) == "2311142213"


def test_receipts_and_final_dates_are_utc_wherever_the_server_stands(monkeypatch):
    monkeypatch.setenv("TZ", "NPT-5:45")
    time.tzset()
    try:
        # A minute that no other test has had written.
        assert times.format_receipt_time(NOW + 7 * 24 * HOUR) == "2311212213"
        assert times.format_final_date(NOW + 7 * 24 * HOUR).startswith("2311212213")
    finally:
        monkeypatch.undo()
        time.tzset()
