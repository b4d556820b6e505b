"""How many messages were refused in the period of a page that counts those that were accepted."""

from dataclasses import dataclass
from urllib.parse import urlencode

from portal.core.clock import DAY_MS
from portal.services.accounts import refusals
from portal.services.accounts.accounts import Account
from portal.services.common import periods
from portal.services.common.periods import Period
from portal.web.core import context

_SAME_PERIODS = (periods.TODAY, periods.WEEK, periods.DAYS_30)


@dataclass(frozen=True, slots=True)
class RefusedCount:
    """`query`: of the page that lists them. `kept_days`: so many are counted, where the period is longer; else 0."""

    count: int
    query: str
    kept_days: int


def count_refused_messages(account: Account, choice: str, period: Period, now: int) -> RefusedCount | None:
    """Those of an account in a period; None where there are none.

    Args:
        choice: which of `periods` it is.
        now: this moment (milliseconds).
    """
    kept_since = now - refusals.RETENTION_MS
    if account.kind != "smpp" or period.until <= kept_since:
        return None
    since = max(period.since, kept_since)
    count = refusals.count_refused_messages(context.get_conn(), account.id, since, min(period.until, now))
    if not count:
        return None
    params = {"kind": "message", "period": choice}
    if choice not in _SAME_PERIODS:
        params |= {"period": periods.RANGE, "to": period.last.isoformat()}
        if period.first is not None:
            params["from"] = period.first.isoformat()
    return RefusedCount(count, urlencode(params), refusals.RETENTION_MS // DAY_MS if period.since < kept_since else 0)
