"""What was refused of all accounts, binds and messages, as operators see it."""

import sqlite3
from dataclasses import dataclass

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.services.accounts.refusals import RefusalGroup
from portal.services.messages.refusal_remedies import BLACKLISTED, NO_CREDITS, get_days_of_period


@dataclass(frozen=True, slots=True)
class AccountRefusal:
    """Refused binds or messages of one reason and value, and whose they are."""

    group: RefusalGroup
    account: str
    customer_id: int
    customer: str


def _build_history_sql(reason: str, column: str) -> str:
    """What the history has, from days' totals (UTC), as `refusals` would have it."""
    return (
        f"SELECT account_id, 0, '{reason}', '', sum({column}), min(day) * {DAY_MS},"
        f" min((max(day) + 1) * {DAY_MS} - 1, :now)"
        f" FROM daily_totals WHERE day BETWEEN :first_day AND :last_day AND {column} > 0 GROUP BY account_id"
    )


_ALL_REFUSALS = f"""
WITH counted AS (
    SELECT account_id, is_bind, reason, value, sum(count) AS count, min(first_at) AS first_at, max(last_at) AS last_at
    FROM refusals WHERE hour BETWEEN :first_hour AND :last_hour GROUP BY account_id, is_bind, reason, value
    UNION ALL {_build_history_sql(NO_CREDITS, "refused")}
    UNION ALL {_build_history_sql(BLACKLISTED, "stopped")})
SELECT counted.*, accounts.name, customers.id, customers.name
FROM counted JOIN accounts ON accounts.id = account_id JOIN customers ON customers.id = customer_id
WHERE deleted_at IS NULL ORDER BY last_at DESC, accounts.name, reason, value
"""


def list_all_refusals(conn: sqlite3.Connection, since: int, until: int | None = None) -> list[AccountRefusal]:
    """All that was refused of all accounts, the latest first.

    Args:
        since, until: milliseconds; of the hours that they are in (of days, where only these are counted), the whole is
            counted. None: until now.
    """
    now = now_ms()
    until = (now // DAY_MS + 1) * DAY_MS if until is None else until
    first_day, last_day = get_days_of_period(since, until)
    values = {
        "now": now,
        "first_hour": since // HOUR_MS,
        "last_hour": (until - 1) // HOUR_MS,
        "first_day": first_day,
        "last_day": last_day,
    }
    rows = conn.execute(_ALL_REFUSALS, values)
    return [AccountRefusal(RefusalGroup(*row[:7]), *row[7:]) for row in rows]
