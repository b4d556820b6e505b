"""Periods of days, as people choose them in forms and addresses."""

from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from portal.core.i18n import N_
from portal.services.common.errors import Refused

TODAY, WEEK, DAYS_30, THIS_MONTH, LAST_MONTH, ALL, RANGE = "today", "7d", "30d", "month", "last-month", "all", "range"
MONTHS_12 = "12m"
PERIODS = (TODAY, WEEK, DAYS_30, THIS_MONTH, LAST_MONTH, ALL, RANGE)
STATISTICS_PERIODS = (TODAY, WEEK, DAYS_30, THIS_MONTH, LAST_MONTH, MONTHS_12, ALL, RANGE)

# Later than the time in any id (milliseconds): in the year 2248.
_MAX_TIME_MS = (1 << 43) - 1
FIRST_DAY, LAST_DAY = date(1970, 1, 2), date(2200, 1, 1)
LATEST_SHOWN_MS = int(datetime(9999, 1, 1, tzinfo=UTC).timestamp()) * 1000
"""Later moments can't be shown: in some time zone they lie beyond the last year that dates have."""


class InvalidDate(Refused):
    sentence = N_("“%(text)s” isn't a date. Example: 2026-11-22.")


class PeriodEndsBeforeStart(Refused, field="to"):
    sentence = N_("This day comes before the first one.")


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` up to, but without, `until` (milliseconds), and the days that these are in some time zone.

    `first` is None where it is as old as the account.
    """

    since: int
    until: int
    first: date | None
    last: date


def parse_period(choice: str, first: str, last: str, timezone: str, now: int) -> Period:
    """Read a period, as forms and addresses give it.

    Args:
        choice: the last 30 days where it is none of those above. WEEK, DAYS_30 and MONTHS_12 include today.
        first, last: the days of RANGE (ISO 8601), both included; empty: the account's first day, today.
        timezone: IANA name; the one that days are in.
        now: this moment (milliseconds).

    Raises:
        InvalidDate, PeriodEndsBeforeStart: their field is `from` or `to`.
    """
    zone = ZoneInfo(timezone)
    today = datetime.fromtimestamp(now / 1000, zone).date()
    if choice == ALL:
        return Period(0, _MAX_TIME_MS, None, today)
    if choice == RANGE:
        begins, ends = _parse_day(first, "from"), _parse_day(last, "to") or today
        if begins is not None and ends < begins:
            raise PeriodEndsBeforeStart()
        return Period(
            day_start_ms(begins, zone) if begins else 0, day_start_ms(ends + timedelta(1), zone), begins, ends
        )
    month_begins = today.replace(day=1)
    first_days = {
        TODAY: today,
        WEEK: today - timedelta(6),
        THIS_MONTH: month_begins,
        LAST_MONTH: subtract_months(month_begins, 1),
        MONTHS_12: subtract_months(month_begins, 11),
    }
    begins = first_days.get(choice, today - timedelta(29))
    ends = month_begins - timedelta(1) if choice == LAST_MONTH else today
    return Period(day_start_ms(begins, zone), day_start_ms(ends + timedelta(1), zone), begins, ends)


def subtract_months(day: date, months: int) -> date:
    """The same day so many months earlier, or the last one of that month where it is shorter."""
    year, month_index = divmod(day.year * 12 + day.month - 1 - months, 12)
    return date(year, month_index + 1, min(day.day, monthrange(year, month_index + 1)[1]))


def _parse_day(text: str, field: str) -> date | None:
    if not text.strip():
        return None
    try:
        day = date.fromisoformat(text.strip())
    except ValueError:
        day = None
    if day is None or not FIRST_DAY <= day <= LAST_DAY:
        raise InvalidDate(field=field, text=text)
    return day


def day_start_ms(day: date, zone: ZoneInfo) -> int:
    """When a day begins in a time zone (milliseconds)."""
    return int(datetime.combine(day, time.min, zone).timestamp() * 1000)


def parse_moment(text: str, timezone: str, invalid: Refused) -> int:
    """Read a date, or a date and time (ISO 8601), as milliseconds; raises `invalid` where it is none.

    Args:
        timezone: IANA name; that of what is written without one.
    """
    try:
        moment = datetime.fromisoformat(text)
        at = int((moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(timezone))).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise invalid from None
    if at > LATEST_SHOWN_MS:
        raise invalid
    return at


def period_from_month(month_number: int) -> Period:
    """A month of `daily_totals.month_from_day`, from midnight to midnight UTC."""
    zone = ZoneInfo("UTC")
    first, following = (date(each // 12, each % 12 + 1, 1) for each in (month_number, month_number + 1))
    return Period(day_start_ms(first, zone), day_start_ms(following, zone), first, following - timedelta(1))


ALL_TIME_PERIOD = Period(0, _MAX_TIME_MS, None, LAST_DAY)
"""All time."""
