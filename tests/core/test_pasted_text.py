"""What is left out of what people paste, and what stays."""

import pytest

from portal.core.pasted_text import remove_invisible_marks

MARKS = (
    "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_is_left_out_wherever_it_is(mark: str) -> None:
    assert remove_invisible_marks(f"{mark}192.0.{mark}{mark}2.7{mark}") == "192.0.2.7"
    assert remove_invisible_marks(mark) == ""


@pytest.mark.parametrize("space", "\u00a0\u2007\u202f")
def test_a_no_break_space_is_a_space(space: str) -> None:
    assert remove_invisible_marks(f"{space}ACME{space}Shop{space} ") == "ACME Shop  "
    assert remove_invisible_marks(f"\ufeff{space}ACME{space}\u200b") == "ACME"


@pytest.mark.parametrize(
    "text", ["", "192.0.2.7", "Caffè «Δ» 東京 €", "می‌خواهم", "👩\u200d💻 👩\u200d👩\u200d👧", "क्\u200dष", "e\u0301"]
)
def test_what_is_seen_stays(text: str) -> None:
    assert remove_invisible_marks(text) == text


def test_what_is_long_takes_little_time():
    """A pattern that looks at each joiner of a run from each other one would take minutes, and hold up all pages."""
    joiners = "\u200d" * 1_000_000
    assert remove_invisible_marks(f"é{joiners}é") == f"é{joiners}é"
    assert remove_invisible_marks(f"é{joiners}e") == "ée"
