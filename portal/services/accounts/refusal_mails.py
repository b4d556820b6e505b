"""Mails about refused binds: once a day at most to each user who wants them, and only about what is new."""

import sqlite3
from itertools import groupby

from portal.core.clock import DAY_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.services.accounts import refused_binds
from portal.services.common import mail
from portal.services.people.users import User

# A client that is refused tries again, and others of the same team do: one mail reports them all.
_COLLECT_MS = 10 * 60_000
_MAX_LISTED_REFUSALS = 20

# Refused binds that no mail to the user has listed yet. They are the same as before while address and reason are.
_UNMAILED_REFUSALS = """
SELECT account_id, name, address, reason, count, first_at FROM refused_binds JOIN accounts ON accounts.id = account_id
WHERE customer_id = :customer AND deleted_at IS NULL AND last_at > :since AND NOT EXISTS (
    SELECT 1 FROM mailed_refusals old WHERE old.user_id = :user AND old.account_id = refused_binds.account_id
    AND old.address = refused_binds.address AND old.reason = refused_binds.reason)
ORDER BY name, last_at DESC
"""


def has_refused_bind_mails_enabled(conn: sqlite3.Connection, user: User) -> bool:
    """Whether a user wants them."""
    return bool(conn.execute("SELECT refusal_mails FROM users WHERE id = ?", (user.id,)).fetchone()[0])


def set_refused_bind_mails_enabled(conn: sqlite3.Connection, user: User, enabled: bool) -> None:
    """Switch them on or off. What was refused before they are switched on is no news."""
    with write_transaction(conn):
        if enabled and not has_refused_bind_mails_enabled(conn, user):
            _mark_refused_binds_mailed(conn, user.id, _list_unmailed_refused_binds(conn, user.id, user.customer_id))
        conn.execute("UPDATE users SET refusal_mails = ? WHERE id = ?", (enabled, user.id))


def queue_due_refused_bind_mails(conn: sqlite3.Connection, keys: Keys) -> int:
    """Queue a mail to each user who wants one, has had none for a day, and has an unmailed refused bind.

    Returns:
        How many mails.
    """
    now = now_ms()
    # Not "more than a day ago": a clock that was wrong once must not silence the mails until it is right.
    due_users = conn.execute(
        "SELECT users.id, users.customer_id, users.email, ifnull(users.language, customers.language) AS language"
        " FROM users JOIN customers ON customers.id = users.customer_id"
        " WHERE refusal_mails AND abs(? - refusals_mailed_at) >= ?",
        (now, DAY_MS),
    ).fetchall()
    return sum(_queue_refused_bind_mail(conn, keys, user, now) for user in due_users)


def _queue_refused_bind_mail(conn: sqlite3.Connection, keys: Keys, user: sqlite3.Row, now: int) -> bool:
    refusals = _list_unmailed_refused_binds(conn, user["id"], user["customer_id"])
    if all(each["first_at"] > now - _COLLECT_MS for each in refusals):
        return False
    with write_transaction(conn):
        unmailed = _list_unmailed_refused_binds(conn, user["id"], user["customer_id"])
        account_groups = [
            {"name": name, "refusals": [_describe_refusal(each) for each in rows]}
            for name, rows in groupby(unmailed[:_MAX_LISTED_REFUSALS], key=lambda each: each["name"])
        ]
        omitted_count = max(0, len(unmailed) - _MAX_LISTED_REFUSALS)
        mail.queue_mail(
            conn, keys, user["email"], "refusals", user["language"], accounts=account_groups, more=omitted_count
        )
        _mark_refused_binds_mailed(conn, user["id"], unmailed)
        conn.execute("UPDATE users SET refusals_mailed_at = ? WHERE id = ?", (now, user["id"]))
    return True


def _describe_refusal(row: sqlite3.Row) -> dict[str, object]:
    reason = refused_binds.REASON_TEXTS[row["reason"]]
    return {"address": row["address"], "reason": reason, "count": row["count"]}


def _list_unmailed_refused_binds(conn: sqlite3.Connection, user_id: int, customer_id: int | None) -> list[sqlite3.Row]:
    values = {"user": user_id, "customer": customer_id, "since": now_ms() - refused_binds.RETENTION_MS}
    return conn.execute(_UNMAILED_REFUSALS, values).fetchall()


def _mark_refused_binds_mailed(conn: sqlite3.Connection, user_id: int, refusals: list[sqlite3.Row]) -> None:
    conn.executemany(
        "INSERT INTO mailed_refusals (account_id, address, reason, user_id) VALUES (?, ?, ?, ?)",
        [(each["account_id"], each["address"], each["reason"], user_id) for each in refusals],
    )
