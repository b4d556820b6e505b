"""Quiet hours: the time of each day in which what takes a route waits."""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from portal.core.clock import DAY_MS, MINUTE_MS
from portal.core.i18n import N_
from portal.services.common.errors import Refused

_PATTERN = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])\s*[-\u2010-\u2015]\s*([01]?[0-9]|2[0-3]):([0-5][0-9])\s+(\S+)")
_MINUTES_PER_HOUR = 60


class InvalidQuietHours(Refused, field="quiet_hours"):
    sentence = N_(
        "“%(text)s” can't be quiet hours: a beginning, an end and a time zone, like 22:00-08:00 Europe/Rome."
        " They may go over midnight."
    )


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From `begins` until `ends`, minutes since midnight by the clocks of a time zone; over midnight where that is
    earlier.
    """

    begins: int
    ends: int
    timezone: str

    def __str__(self) -> str:
        return f"{_format_time(self.begins)}-{_format_time(self.ends)} {self.timezone}"

    def includes(self, now: int) -> bool:
        """Whether they are at a moment (milliseconds)."""
        local = datetime.fromtimestamp(now / 1000, ZoneInfo(self.timezone))
        minute = local.hour * _MINUTES_PER_HOUR + local.minute
        if self.begins < self.ends:
            return self.begins <= minute < self.ends
        return minute >= self.begins or minute < self.ends

    def get_last_end(self, now: int) -> int:
        """When they last ended, at a moment or before it (both in milliseconds)."""
        # A day may have 25 hours.
        end = self.get_end(now - 2 * DAY_MS)
        while (following := self.get_end(end)) <= now:
            end = following
        return end

    def get_end(self, now: int) -> int:
        """When they end the next time after a moment (both in milliseconds)."""
        local = datetime.fromtimestamp(now / 1000, ZoneInfo(self.timezone))
        hour, minute = divmod(self.ends, _MINUTES_PER_HOUR)
        end = local.replace(hour=hour, minute=minute, second=0, microsecond=0, fold=0)
        # Where clocks go back, that time may come twice.
        moments = (_find_moment(each) for each in (end, end.replace(fold=1), end + timedelta(days=1)))
        return next(each for each in moments if each > now)


def _find_moment(at: datetime) -> int:
    """When clocks show a time (milliseconds); where they leave it out, as soon as they go forward."""
    moment = int(at.timestamp() * 1000)
    shown = at.replace(tzinfo=None)
    while datetime.fromtimestamp((moment - MINUTE_MS) / 1000, at.tzinfo).replace(tzinfo=None) >= shown:
        moment -= MINUTE_MS
    return moment


def _format_time(minutes: int) -> str:
    hour, minute = divmod(minutes, _MINUTES_PER_HOUR)
    return f"{hour:02}:{minute:02}"


@lru_cache(maxsize=1_000)
def parse_quiet_hours(text: str) -> QuietHours:
    """Read quiet hours, as `QuietHours` writes them or as they were typed.

    Raises:
        InvalidQuietHours
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise InvalidQuietHours(text=text)
    times = [int(each) for each in match.groups()[:4]]
    begins, ends = (hour * _MINUTES_PER_HOUR + minute for hour, minute in (times[:2], times[2:]))
    try:
        timezone = ZoneInfo(match[5]).key
    except (OSError, ValueError, KeyError):
        raise InvalidQuietHours(text=text) from None
    if begins == ends:
        raise InvalidQuietHours(text=text)
    return QuietHours(begins, ends, timezone)


def read_stored_quiet_hours(text: str) -> QuietHours | None:
    """Read what `QuietHours` has written. Where this machine doesn't know their time zone they are by UTC, so that the
    routes can be loaded; the self-check names them. None: it is nothing that was written so.
    """
    for each in (text, f"{text.rpartition(' ')[0]} UTC"):
        with suppress(InvalidQuietHours):
            return parse_quiet_hours(each)
    return None
