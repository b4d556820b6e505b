"""Quiet hours: what can be typed, and when they are, also over midnight and where clocks are changed."""

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

import pytest

from portal.services.routing.quiet_hours import InvalidQuietHours, parse_quiet_hours

ROME = ZoneInfo("Europe/Rome")


def at(text: str, zone: tzinfo = ROME) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1000)


@pytest.mark.parametrize(
    "text", ["22:00-08:00 Europe/Rome", " 22:00 – 8:00  Europe/Rome ", "22:00\u201108:00 Europe/Rome"]
)
def test_they_are_read_as_people_write_them(text):
    assert str(parse_quiet_hours(text)) == "22:00-08:00 Europe/Rome"


@pytest.mark.parametrize(
    "text",
    [
        *("", "22-8 UTC", "22:00-08:00", "24:00-08:00 UTC", "22:60-08:00 UTC", "22:00-22:00 UTC"),
        *("22:00-08:00 Nowhere/Else", "22:00-08:00 ../../etc/passwd", "22:00-08:00 /etc/passwd", "22:00 08:00 UTC"),
    ],
)
def test_what_is_none_is_refused(text):
    with pytest.raises(InvalidQuietHours):
        parse_quiet_hours(text)


@pytest.mark.parametrize(
    ("hours", "moment", "are"),
    [
        ("22:00-08:00", "2026-11-30T21:59:59", False),
        ("22:00-08:00", "2026-11-30T22:00:00", True),
        ("22:00-08:00", "2026-11-30T00:00:00", True),
        ("22:00-08:00", "2026-11-30T07:59:59", True),
        ("22:00-08:00", "2026-11-30T08:00:00", False),
        ("13:00-15:30", "2026-11-30T12:59:59", False),
        ("13:00-15:30", "2026-11-30T15:29:59", True),
        ("13:00-15:30", "2026-11-30T15:30:00", False),
        # Clocks go forward at 2:00 on one day, and back at 3:00 on another.
        ("22:00-08:00", "2026-03-29T07:59:59", True),
        ("22:00-08:00", "2026-10-25T07:59:59", True),
        ("22:00-08:00", "2026-10-25T08:00:00", False),
    ],
)
def test_they_are_by_the_clocks_of_their_time_zone(hours, moment, are):
    assert parse_quiet_hours(f"{hours} Europe/Rome").includes(at(moment)) is are


@pytest.mark.parametrize(
    ("moment", "end"),
    [
        ("2026-11-30T23:00:00", "2026-12-01T08:00:00"),
        ("2026-11-30T07:59:59", "2026-11-30T08:00:00"),
        ("2026-11-30T08:00:00", "2026-12-01T08:00:00"),
        ("2026-03-28T23:00:00", "2026-03-29T08:00:00"),
    ],
)
def test_their_end_is_by_these_clocks_too(moment, end):
    assert parse_quiet_hours("22:00-08:00 Europe/Rome").get_end(at(moment)) == at(end)


# 2:00 to 3:00 is left out on 29 March 2026, at 1:00 UTC, and comes twice on 25 October, the second time at 1:00 UTC.
@pytest.mark.parametrize(
    ("hours", "last", "end"),
    [
        ("22:00-02:30", "2026-03-29T00:59:59", "2026-03-29T01:00:00"),
        ("22:00-03:15", "2026-03-29T01:14:59", "2026-03-29T01:15:00"),
        ("02:30-03:30", "2026-03-29T01:29:59", "2026-03-29T01:30:00"),
        # Each time by the clocks.
        ("22:00-02:30", "2026-10-25T00:29:59", "2026-10-25T00:30:00"),
        ("22:00-02:30", "2026-10-25T01:29:59", "2026-10-25T01:30:00"),
        ("22:00-03:30", "2026-10-25T01:59:59", "2026-10-25T02:30:00"),
    ],
)
def test_they_end_when_they_are_no_more_in_the_hour_that_is_left_out_or_comes_twice(hours, last, end):
    quiet_hours = parse_quiet_hours(f"{hours} Europe/Rome")
    assert quiet_hours.get_end(at(last, UTC)) == at(end, UTC)
    assert quiet_hours.includes(at(last, UTC))
    assert not quiet_hours.includes(at(end, UTC))


@pytest.mark.parametrize(
    ("hours", "moment", "end"),
    [
        ("22:00-08:00", "2026-11-30T06:59:59", "2026-11-29T07:00:00"),
        ("22:00-08:00", "2026-11-30T07:00:00", "2026-11-30T07:00:00"),
        # One day has 23 hours, the other 25.
        ("22:00-08:00", "2026-03-29T05:59:59", "2026-03-28T07:00:00"),
        ("22:00-08:00", "2026-03-29T06:30:00", "2026-03-29T06:00:00"),
        ("22:00-08:00", "2026-10-25T06:59:59", "2026-10-24T06:00:00"),
        ("22:00-08:00", "2026-10-25T07:30:00", "2026-10-25T07:00:00"),
        ("22:00-02:30", "2026-03-29T01:10:00", "2026-03-29T01:00:00"),
        ("22:00-02:30", "2026-10-25T00:45:00", "2026-10-25T00:30:00"),
        ("22:00-02:30", "2026-10-25T01:45:00", "2026-10-25T01:30:00"),
        ("22:00-02:00", "2026-10-25T01:45:00", "2026-10-25T00:00:00"),
        # They are left out as a whole.
        ("02:10-02:20", "2026-03-29T12:00:00", "2026-03-29T01:00:00"),
    ],
)
def test_when_they_last_ended_is_by_these_clocks_too(hours, moment, end):
    assert parse_quiet_hours(f"{hours} Europe/Rome").get_last_end(at(moment, UTC)) == at(end, UTC)
