"""The times that SMPP writes: `YYMMDDhhmmsstnnp`, absolute or relative (7.1.1)."""

import datetime
import re
from functools import lru_cache

from portal.core.clock import DAY_MS, now_ms
from portal.smsc.protocol.constants import CommandStatus, RequestRefused

MAX_SCHEDULE_AHEAD_MS = 366 * DAY_MS
"""How far ahead a message may be scheduled."""

_TIME_PATTERN = re.compile(r"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d)(\d\d)([+\-R])", re.ASCII)
_QUARTER_HOUR = datetime.timedelta(minutes=15)
_MAX_OFFSET_QUARTERS = 48


def parse_smpp_time(text: str, now: int) -> int | None:
    """Return the moment that `text` names, None where it is empty.

    Args:
        text: an absolute time with its offset in quarters of an hour, or a relative one, which ends in `R`.
        now: what a relative time counts from. Both it and the result are unix milliseconds.

    Raises ValueError for anything that section 7.1.1 does not allow.
    """
    if not text:
        return None
    match = _TIME_PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time of SMPP")
    *digits, sign = match.groups()
    year, month, day, hour, minute, second, tenth, quarters = map(int, digits)
    if sign == "R":
        if hour > 23 or minute > 59 or second > 59:
            raise ValueError(f"{text!r} is not a period of SMPP")
        # Years and months of a period have no fixed length; the standard's own example counts them as here.
        days = year * 365 + month * 30 + day
        return now + ((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000
    if quarters > _MAX_OFFSET_QUARTERS:
        raise ValueError(f"{text!r} is more than twelve hours from UTC")
    moment = datetime.datetime(2000 + year, month, day, hour, minute, second, tenth * 100_000, datetime.UTC)
    moment += -_QUARTER_HOUR * quarters if sign == "+" else _QUARTER_HOUR * quarters
    return int(moment.timestamp() * 1000)


def parse_schedule_and_validity(schedule: str, validity: str) -> tuple[int | None, int | None]:
    """Return when a message is to be sent (None: at once) and when it expires (None: no validity_period), in unix
    milliseconds.

    A schedule_delivery_time that has passed means at once (5.2.15). A relative validity_period counts from this moment
    (7.1.1.2: "relative to the current SMSC time"), also for a message that is to be sent later.

    Raises RequestRefused: ESME_RINVSCHED for a schedule_delivery_time that can't be read or is more than
    MAX_SCHEDULE_AHEAD_MS ahead, ESME_RINVEXPIRY for a validity_period that can't be read, is over already, or ends
    before the message is to be sent.
    """
    if not schedule and not validity:
        return None, None
    now = now_ms()
    try:
        scheduled_at = parse_smpp_time(schedule, now)
    except ValueError:
        raise RequestRefused(CommandStatus.ESME_RINVSCHED) from None
    if scheduled_at is not None and scheduled_at <= now:
        scheduled_at = None
    if scheduled_at is not None and scheduled_at > now + MAX_SCHEDULE_AHEAD_MS:
        raise RequestRefused(CommandStatus.ESME_RINVSCHED)
    try:
        expires_at = parse_smpp_time(validity, now)
    except ValueError:
        raise RequestRefused(CommandStatus.ESME_RINVEXPIRY) from None
    if expires_at is not None and expires_at <= (scheduled_at or now):
        raise RequestRefused(CommandStatus.ESME_RINVEXPIRY)
    return scheduled_at, expires_at


def expiry_from_time_to_live(seconds: int) -> int:
    """Return when a message expires (unix milliseconds) whose qos_time_to_live is so long (5.3.2.9).

    Raises RequestRefused for one without any.
    """
    if not seconds:
        raise RequestRefused(CommandStatus.ESME_RINVEXPIRY)
    return now_ms() + seconds * 1000


def format_final_date(timestamp_ms: int) -> str:
    """Return `timestamp_ms` (unix milliseconds) as an absolute time, UTC (7.1.1.1)."""
    at = datetime.datetime.fromtimestamp(timestamp_ms / 1000, datetime.UTC)
    return at.strftime("%y%m%d%H%M%S") + f"{at.microsecond // 100_000}00+"


def format_relative_time(duration_ms: int) -> str:
    """Return a period of at most 31 days, in milliseconds, as a relative time (7.1.1.2)."""
    minutes, seconds = divmod(duration_ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"0000{days:02d}{hours:02d}{minutes:02d}{seconds:02d}000R"


def format_receipt_time(timestamp_ms: int) -> str:
    """Return `timestamp_ms` (unix milliseconds) as a receipt's text has it: `YYMMDDhhmm`, UTC (appendix B)."""
    return _format_minute(timestamp_ms // 60_000)


@lru_cache(maxsize=1024)
def _format_minute(minutes_since_epoch: int) -> str:
    # A receipt has two of these, and thousands of receipts are of the same minute.
    return datetime.datetime.fromtimestamp(minutes_since_epoch * 60, datetime.UTC).strftime("%y%m%d%H%M")
