"""Mails about what was refused: once a day at most to each user who wants them, and only about what is new."""

import sqlite3
from itertools import groupby

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.core.i18n import DEFAULT_LANGUAGE, override_language
from portal.services.accounts.refusals import OTHERS
from portal.services.accounts.refused_binds import SHOWN_MS
from portal.services.common import mail
from portal.services.messages.refusal_remedies import describe_refusal
from portal.services.people.users import User

# A client that is refused tries again, and others of the same team do: one mail reports them all.
_COLLECT_MS = 10 * 60_000
# So long after a refusal the SMPP server has written it, if not sooner.
_WRITTEN_WITHIN_MS = 60_000
_MAX_LISTED_REFUSALS = 20
# Of a reason so many values are told by themselves, the others by their number. Who knows that there are others is told
# of a new value only where it has that part of all: new ones every day are no news.
_MAX_VALUES_OF_REASON = 10
_NOTABLE_PART = 20

# What no mail to the user has listed yet. It is the same as before while value and reason are.
_UNMAILED_REFUSALS = f"""
WITH counted AS (
    SELECT account_id, name, is_bind, reason, value, sum(count) AS count, min(first_at) AS first_at
    FROM refusals JOIN accounts ON accounts.id = account_id
    WHERE customer_id = :customer_id AND deleted_at IS NULL AND hour >= :hour
    GROUP BY account_id, is_bind, reason, value),
ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY account_id, is_bind, reason ORDER BY value = :others, count DESC, first_at, value) AS place,
        sum(count) OVER (PARTITION BY account_id, is_bind, reason) AS total,
        EXISTS (
            SELECT 1 FROM mailed_refusals old WHERE old.user_id = :id AND old.account_id = counted.account_id
            AND old.is_bind = counted.is_bind AND old.reason = counted.reason AND old.value = :others) AS knows_others
    FROM counted),
told AS (
    SELECT account_id, name, is_bind, reason, CASE
        WHEN place <= {_MAX_VALUES_OF_REASON} AND (NOT knows_others OR count * {_NOTABLE_PART} >= total) THEN value
        ELSE :others END AS value, sum(count) AS count, min(first_at) AS first_at
    FROM ranked GROUP BY 1, 2, 3, 4, 5)
SELECT * FROM told WHERE NOT EXISTS (
    SELECT 1 FROM mailed_refusals old WHERE old.user_id = :id AND old.account_id = told.account_id
    AND old.is_bind = told.is_bind AND old.reason = told.reason AND old.value = told.value)
ORDER BY name, count DESC, is_bind DESC, reason, value
"""
# Who wants a mail, has had none for a day, and of whose accounts something was refused since: what is unmailed is only
# counted of these. Not "more than a day ago": a clock that was wrong once must not silence the mails until it is right.
_DUE_USERS = f"""
SELECT users.id, users.customer_id, users.email, ifnull(users.language, customers.language) AS language
FROM users JOIN customers ON customers.id = users.customer_id
WHERE refusal_mails AND abs(:now - refusals_mailed_at) >= {DAY_MS} AND EXISTS (
    SELECT 1 FROM accounts JOIN latest_refusals ON account_id = accounts.id
    WHERE accounts.customer_id = users.customer_id AND at >= :hour * {HOUR_MS}
    AND (at >= refusals_mailed_at - {_WRITTEN_WITHIN_MS} OR refusals_mailed_at > :now))
"""
_MARK_AS_MAILED = (
    "INSERT INTO mailed_refusals (account_id, is_bind, reason, value, user_id) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING"
)
# What has stopped for that long is new when it begins again. Others are those of any value.
_DELETE_OLD_MARKS = """
DELETE FROM mailed_refusals WHERE NOT EXISTS (
    SELECT 1 FROM refusals WHERE refusals.account_id = mailed_refusals.account_id
    AND refusals.is_bind = mailed_refusals.is_bind AND hour >= ? AND refusals.reason = mailed_refusals.reason
    AND (refusals.value = mailed_refusals.value OR mailed_refusals.value = ?))
"""


def has_refusal_mails_enabled(conn: sqlite3.Connection, user: User) -> bool:
    """Whether a user wants them."""
    return bool(conn.execute("SELECT refusal_mails FROM users WHERE id = ?", (user.id,)).fetchone()[0])


def set_refusal_mails_enabled(conn: sqlite3.Connection, user: User, enabled: bool) -> None:
    """Switch them on or off. What was refused before they are switched on is no news."""
    is_switched_on = enabled and not has_refusal_mails_enabled(conn, user)
    known = _list_unmailed_refusals(conn, user.id, user.customer_id, now_ms()) if is_switched_on else []
    with write_transaction(conn):
        _mark_as_mailed(conn, user.id, known)
        conn.execute("UPDATE users SET refusal_mails = ? WHERE id = ?", (enabled, user.id))


def queue_due_refusal_mails(conn: sqlite3.Connection, keys: Keys) -> int:
    """Queue a mail to each user who wants one, has had none for a day, and has an unmailed refusal.

    Returns:
        How many mails.
    """
    now = now_ms()
    due_users = conn.execute(_DUE_USERS, {"now": now, "hour": _first_hour(now)}).fetchall()
    return sum(_queue_refusal_mail(conn, keys, user, now) for user in due_users)


def purge_mailed_refusals(conn: sqlite3.Connection, now: int) -> None:
    """Forget who was told of what has not been refused for seven days at this moment (milliseconds)."""
    conn.execute(_DELETE_OLD_MARKS, (_first_hour(now), OTHERS))


def _first_hour(now: int) -> int:
    return (now - SHOWN_MS) // HOUR_MS


def _list_unmailed_refusals(
    conn: sqlite3.Connection, user_id: int, customer_id: int | None, now: int
) -> list[sqlite3.Row]:
    """Where many values were refused this takes seconds: clients' messages must not wait for it in a transaction."""
    values = {"id": user_id, "customer_id": customer_id, "hour": _first_hour(now), "others": OTHERS}
    return conn.execute(_UNMAILED_REFUSALS, values).fetchall()


def _mark_as_mailed(conn: sqlite3.Connection, user_id: int, unmailed: list[sqlite3.Row]) -> None:
    rows = [(each["account_id"], each["is_bind"], each["reason"], each["value"], user_id) for each in unmailed]
    conn.executemany(_MARK_AS_MAILED, rows)


def _queue_refusal_mail(conn: sqlite3.Connection, keys: Keys, user: sqlite3.Row, now: int) -> bool:
    unmailed = _list_unmailed_refusals(conn, user["id"], user["customer_id"], now)
    if all(each["first_at"] > now - _COLLECT_MS for each in unmailed):
        return False
    with write_transaction(conn):
        written = conn.execute(
            "UPDATE users SET refusals_mailed_at = ? WHERE id = ? AND refusal_mails", (now, user["id"])
        )
        if not written.rowcount:
            # They don't want them any more, or are gone.
            return False
        with override_language(user["language"] or DEFAULT_LANGUAGE):
            account_groups = [
                {"name": name, "refusals": [_describe_refusal(each) for each in rows]}
                for name, rows in groupby(unmailed[:_MAX_LISTED_REFUSALS], key=lambda each: each["name"])
            ]
        mail.queue_mail(
            conn,
            keys,
            user["email"],
            "refusals",
            user["language"],
            accounts=account_groups,
            has_messages=any(not each["is_bind"] for each in unmailed),
            more=max(0, len(unmailed) - _MAX_LISTED_REFUSALS),
        )
        _mark_as_mailed(conn, user["id"], unmailed)
    return True


def _describe_refusal(row: sqlite3.Row) -> dict[str, object]:
    """What a mail says of it; `address`: of a bind, empty where it is one of several."""
    is_bind, value = bool(row["is_bind"]), row["value"]
    text = describe_refusal(is_bind=is_bind, reason=row["reason"], value=value)
    address = value if is_bind and value != OTHERS else ""
    return {"is_bind": is_bind, "address": address, "text": text, "count": row["count"]}
