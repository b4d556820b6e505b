"""The times that SMPP writes: `YYMMDDhhmmsstnnp`, absolute or relative (7.1.1)."""

from __future__ import annotations

import datetime
import re

from portal.db import now_ms
from portal.smsc.status import Status

_FORMAT = re.compile(r"(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d)(\d\d)([+\-R])", re.ASCII)
_QUARTER = datetime.timedelta(minutes=15)
_MAX_QUARTERS = 48


def parse(text: str, now: int) -> int | None:
    """Return the moment that `text` names, None where it is empty.

    Args:
        text: an absolute time with its offset in quarters of an hour, or a relative one, which ends in `R`.
        now: what a relative time counts from. Both it and the result are unix milliseconds.

    Raises ValueError for anything that section 7.1.1 does not allow.
    """
    if not text:
        return None
    found = _FORMAT.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a time of SMPP")
    *digits, sign = found.groups()
    year, month, day, hour, minute, second, tenth, quarters = map(int, digits)
    if sign == "R":
        if hour > 23 or minute > 59 or second > 59:
            raise ValueError(f"{text!r} is not a period of SMPP")
        # Years and months of a period have no fixed length; the standard's own example counts them as here.
        days = year * 365 + month * 30 + day
        return now + ((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000
    if quarters > _MAX_QUARTERS:
        raise ValueError(f"{text!r} is more than twelve hours from UTC")
    moment = datetime.datetime(2000 + year, month, day, hour, minute, second, tenth * 100_000, datetime.UTC)
    moment += -_QUARTER * quarters if sign == "+" else _QUARTER * quarters
    return int(moment.timestamp() * 1000)


def flaw(schedule: str, validity: str) -> Status | None:
    """Return what to refuse a message with whose schedule_delivery_time or validity_period can't be read."""
    if schedule or validity:
        now = now_ms()
        for text, status in ((schedule, Status.ESME_RINVSCHED), (validity, Status.ESME_RINVEXPIRY)):
            try:
                parse(text, now)
            except ValueError:
                return status
    return None


def receipt_time(moment: int) -> str:
    """Return `moment` (unix milliseconds) as a receipt's text has it: `YYMMDDhhmm`, UTC (appendix B)."""
    return datetime.datetime.fromtimestamp(moment / 1000, datetime.UTC).strftime("%y%m%d%H%M")
