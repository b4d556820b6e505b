"""Mails about refused binds: once a day at most to each user who wants them, and only about what is new."""

import sqlite3
from itertools import groupby

from portal.core.clock import DAY_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import immediate
from portal.services.accounts import refused_binds
from portal.services.common import mail
from portal.services.people.users import User

# A client that is refused tries again, and others of the same team do: one mail tells of them all.
_GATHER_MS = 10 * 60_000
_MOST_TOLD = 20

# What a user has not been told of. Refusals are the same as before while address and reason are.
_NEW = """
SELECT account_id, name, address, reason, count, first_at FROM refused_binds JOIN accounts ON accounts.id = account_id
WHERE customer_id = :customer AND deleted_at IS NULL AND last_at > :since AND NOT EXISTS (
    SELECT 1 FROM mailed_refusals old WHERE old.user_id = :user AND old.account_id = refused_binds.account_id
    AND old.address = refused_binds.address AND old.reason = refused_binds.reason)
ORDER BY name, last_at DESC
"""


def wanted(conn: sqlite3.Connection, user: User) -> bool:
    """Whether a user wants them."""
    return bool(conn.execute("SELECT refusal_mails FROM users WHERE id = ?", (user.id,)).fetchone()[0])


def choose(conn: sqlite3.Connection, user: User, want: bool) -> None:
    """Switch them on or off. What was refused before they are switched on is no news."""
    with immediate(conn):
        if want and not wanted(conn, user):
            _tell(conn, user.id, _new(conn, user.id, user.customer_id))
        conn.execute("UPDATE users SET refusal_mails = ? WHERE id = ?", (want, user.id))


def queue_due(conn: sqlite3.Connection, keys: Keys) -> int:
    """Queue a mail to each user who wants one, has had none for a day, and has something new to be told.

    Returns:
        How many mails.
    """
    now = now_ms()
    # Not "more than a day ago": a clock that was wrong once must not silence the mails until it is right.
    waiting = conn.execute(
        "SELECT users.id, users.customer_id, users.email, ifnull(users.language, customers.language) AS language"
        " FROM users JOIN customers ON customers.id = users.customer_id"
        " WHERE refusal_mails AND abs(? - refusals_mailed_at) >= ?",
        (now, DAY_MS),
    ).fetchall()
    return sum(_queue(conn, keys, user, now) for user in waiting)


def _queue(conn: sqlite3.Connection, keys: Keys, user: sqlite3.Row, now: int) -> bool:
    if not _is_time(_new(conn, user["id"], user["customer_id"]), now):
        return False
    with immediate(conn):
        new = _new(conn, user["id"], user["customer_id"])
        told = [
            {
                "name": name,
                "refusals": [
                    {
                        "address": each["address"],
                        "reason": refused_binds.REASONS[each["reason"]],
                        "count": each["count"],
                    }
                    for each in rows
                ],
            }
            for name, rows in groupby(new[:_MOST_TOLD], key=lambda each: each["name"])
        ]
        more = max(0, len(new) - _MOST_TOLD)
        mail.queue(conn, keys, user["email"], "refusals", user["language"], accounts=told, more=more)
        _tell(conn, user["id"], new)
        conn.execute("UPDATE users SET refusals_mailed_at = ? WHERE id = ?", (now, user["id"]))
    return True


def _is_time(new: list[sqlite3.Row], now: int) -> bool:
    return any(each["first_at"] <= now - _GATHER_MS for each in new)


def _new(conn: sqlite3.Connection, user_id: int, customer_id: int | None) -> list[sqlite3.Row]:
    values = {"user": user_id, "customer": customer_id, "since": now_ms() - refused_binds.SHOWN_MS}
    return conn.execute(_NEW, values).fetchall()


def _tell(conn: sqlite3.Connection, user_id: int, refusals: list[sqlite3.Row]) -> None:
    conn.executemany(
        "INSERT INTO mailed_refusals (account_id, address, reason, user_id) VALUES (?, ?, ?, ?)",
        [(each["account_id"], each["address"], each["reason"], user_id) for each in refusals],
    )
