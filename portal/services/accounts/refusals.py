"""What the SMPP server refuses of an account: binds and messages, counted by hour, reason and the value at fault.

A message that leaves a row in the history (no credits, a number on the blacklist) isn't counted here: days' totals have
it (`daily_totals`).
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.db import write_transaction

OTHERS = "…"
"""The value of what isn't counted by its own value. No address has it: they are Latin-1."""

MAX_VALUES = 1_000
"""So many values of a reason are counted of an account's messages on a day (UTC), the most frequent ones; the rest as
OTHERS. Only of senders there can be more."""
_MAX_BIND_VALUES = 100
RETENTION_MS = 31 * DAY_MS
"""For how long counts are kept."""
_HOURS_PER_DAY = DAY_MS // HOUR_MS


class RefusalKey(NamedTuple):
    """What refusals are counted by. `value`: what was at fault, see the reasons; empty where there is no such thing."""

    account_id: int
    is_bind: bool
    reason: str
    value: str


@dataclass(frozen=True, slots=True)
class RefusalGroup:
    """Refused binds or messages of one reason and value, counted. Times in milliseconds.

    `password_id`: with REPLACED_PASSWORD, which one it was.
    """

    account_id: int
    is_bind: bool
    reason: str
    value: str
    count: int
    first_at: int
    last_at: int
    password_id: int | None = None


def escape_unprintable(value: str) -> str:
    """Values go to terminals, too."""
    return value if value.isprintable() else value.encode("unicode_escape").decode("ascii")


# --- written

_INSERT_REFUSAL = (
    "INSERT INTO refusals (account_id, is_bind, reason, value, hour, count, first_at, last_at)"
    " VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?6) ON CONFLICT DO NOTHING"
)
_COUNT_REFUSAL = (
    "UPDATE refusals SET count = count + ?6, last_at = max(last_at, ?7), password_id = ?8"
    " WHERE account_id = ?1 AND is_bind = ?2 AND reason = ?3 AND value = ?4 AND hour = ?5"
)
_UPSERT_LATEST = (
    "INSERT INTO latest_refusals (account_id, is_bind, at) VALUES (?, ?, ?)"
    " ON CONFLICT (account_id, is_bind) DO UPDATE SET at = max(at, excluded.at)"
)
_OF_A_DAY = (
    "account_id = :account AND is_bind = :is_bind AND hour BETWEEN :first AND :last AND reason = :reason"
    " AND value <> :others"
)
_RARE_VALUES = f"""
WITH rare AS (
    SELECT value FROM refusals WHERE {_OF_A_DAY} GROUP BY value
    ORDER BY sum(count) DESC, max(last_at) DESC, value LIMIT -1 OFFSET :kept)
"""
_ADD_RARE_TO_OTHERS = f"""
{_RARE_VALUES}
INSERT INTO refusals (account_id, is_bind, hour, reason, value, count, first_at, last_at)
SELECT account_id, is_bind, hour, reason, :others, sum(count), min(first_at), max(last_at) FROM refusals
WHERE {_OF_A_DAY} AND value IN (SELECT value FROM rare) GROUP BY hour
ON CONFLICT (account_id, is_bind, hour, reason, value) DO UPDATE SET count = count + excluded.count,
    first_at = min(first_at, excluded.first_at), last_at = max(last_at, excluded.last_at)
"""
_DELETE_RARE = f"""
{_RARE_VALUES}
DELETE FROM refusals WHERE {_OF_A_DAY} AND value IN (SELECT value FROM rare)
"""


def record_refusals(
    conn: sqlite3.Connection, counts: Mapping[RefusalKey, int], at: int, password_id: int | None = None
) -> None:
    """Add to the counts of the hour of `at` (milliseconds).

    Args:
        password_id: with REPLACED_PASSWORD, which one it was.
    """
    hour = at // HOUR_MS
    with write_transaction(conn):
        new_rows = conn.executemany(_INSERT_REFUSAL, [(*key, hour, at) for key in counts]).rowcount
        conn.executemany(_COUNT_REFUSAL, [(*key, hour, count, at, password_id) for key, count in counts.items()])
        kinds = {(key.account_id, key.is_bind) for key in counts}
        conn.executemany(_UPSERT_LATEST, [(*kind, at) for kind in kinds])
        if new_rows:
            for account_id, is_bind, reason in {key[:3] for key in counts}:
                _fold_rare_values(conn, account_id, is_bind, reason, hour // _HOURS_PER_DAY)


def _fold_rare_values(conn: sqlite3.Connection, account_id: int, is_bind: bool, reason: str, day: int) -> None:
    """Count the rarest values of a reason on a day as OTHERS where there are twice as many as are kept."""
    kept = _MAX_BIND_VALUES if is_bind else MAX_VALUES
    values = {
        "account": account_id,
        "is_bind": is_bind,
        "reason": reason,
        "first": day * _HOURS_PER_DAY,
        "last": (day + 1) * _HOURS_PER_DAY - 1,
        "others": OTHERS,
        "kept": kept,
    }
    # Most accounts have a few rows, which takes no time to see.
    few = f"SELECT count(*) FROM (SELECT 1 FROM refusals WHERE {_OF_A_DAY} LIMIT {2 * kept})"
    distinct = f"SELECT count(*) FROM (SELECT DISTINCT value FROM refusals WHERE {_OF_A_DAY})"
    if all(conn.execute(query, values).fetchone()[0] >= 2 * kept for query in (few, distinct)):
        conn.execute(_ADD_RARE_TO_OTHERS, values)
        conn.execute(_DELETE_RARE, values)


def purge_refusals(conn: sqlite3.Connection, now: int) -> None:
    """Delete counts that are older than they are kept at this moment (milliseconds), account by account."""
    hour = (now - RETENTION_MS) // HOUR_MS
    for kind in conn.execute("SELECT account_id, is_bind FROM latest_refusals").fetchall():
        with write_transaction(conn):
            conn.execute("DELETE FROM refusals WHERE account_id = ? AND is_bind = ? AND hour < ?", (*kind, hour))
            # Of some there may be a new one since the list was read.
            conn.execute(
                "DELETE FROM latest_refusals WHERE account_id = ? AND is_bind = ? AND at < ?", (*kind, hour * HOUR_MS)
            )


# --- read

_GROUP_COLUMNS = (
    "account_id, is_bind, reason, value, sum(count) AS count, min(first_at) AS first_at, max(last_at) AS last_at,"
    " max(password_id) AS password_id"
)


def list_refusals(
    conn: sqlite3.Connection, account_id: int, since: int, until: int | None = None, *, is_bind: bool | None = None
) -> list[RefusalGroup]:
    """An account's refused binds and messages by reason and value, the latest first.

    Args:
        since, until: milliseconds; of the hours that they are in, the whole is counted. None: until now.
        is_bind: only binds, or only messages.
    """
    kinds = (False, True) if is_bind is None else (is_bind,)
    rows = [
        row
        for kind in kinds
        for row in conn.execute(
            f"SELECT {_GROUP_COLUMNS} FROM refusals WHERE account_id = ? AND is_bind = ? AND hour BETWEEN ? AND ?"
            " GROUP BY reason, value",
            (account_id, kind, since // HOUR_MS, (now_ms() if until is None else until - 1) // HOUR_MS),
        )
    ]
    groups = [RefusalGroup(*row) for row in rows]
    return sorted(groups, key=lambda each: (-each.last_at, each.reason, each.value))


def count_refused_messages(conn: sqlite3.Connection, account_id: int, since: int, until: int | None = None) -> int:
    """How many of an account's messages were refused; the times are as for `list_refusals`."""
    row = conn.execute(
        "SELECT sum(count) FROM refusals WHERE account_id = ? AND is_bind = 0 AND hour BETWEEN ? AND ?",
        (account_id, since // HOUR_MS, (now_ms() if until is None else until - 1) // HOUR_MS),
    ).fetchone()
    return row[0] or 0


def count_refusals_of_hour(conn: sqlite3.Connection, hour: int, *, is_bind: bool) -> dict[str, int]:
    """How many binds or messages of all accounts were refused in an hour (since 1970) that isn't over, by reason."""
    # Accounts of which nothing was refused in it are not looked at.
    rows = conn.execute(
        "SELECT reason, sum(count) FROM latest_refusals CROSS JOIN refusals"
        " ON refusals.account_id = latest_refusals.account_id AND refusals.is_bind = latest_refusals.is_bind"
        " WHERE latest_refusals.is_bind = ? AND at >= ? AND hour = ? GROUP BY reason",
        (is_bind, hour * HOUR_MS, hour),
    )
    return dict(rows.fetchall())
