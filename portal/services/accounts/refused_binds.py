"""Binds that the SMPP server refused: written by it, shown to the people of the account with the reason in words.

And mails about them: once a day at most to each user who wants them, and only about what is new.
"""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby

from portal.core.clock import DAY_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.common import mail
from portal.services.people.users import User

# Why a bind was refused.
WRONG_PASSWORD = "wrong_password"
REPLACED_PASSWORD = "replaced_password"
NOT_AUTHORISED = "not_authorised"
NO_IP = "no_ip"
ACCOUNT_DISABLED = "disabled"
CLASSIC_ACCOUNT = "classic"
TOO_MANY_BINDS = "too_many_binds"
THROTTLED = "throttled"

# The same as sentences about the client.
REASON_TEXTS = {
    WRONG_PASSWORD: N_("The password was wrong. Check it in the client, or generate a new one."),
    REPLACED_PASSWORD: N_("The password it uses was replaced."),
    NOT_AUTHORISED: N_("It is not an authorised IP."),
    NO_IP: N_("No IP was authorised yet."),
    ACCOUNT_DISABLED: N_("The account was disabled."),
    CLASSIC_ACCOUNT: N_("This is a classic account, which has no SMPP login."),
    TOO_MANY_BINDS: N_("As many sessions as the account may have were open already."),
    THROTTLED: N_("Too many attempts had failed just before; the next ones were refused without a check."),
}

_MAX_ROWS_PER_ACCOUNT = 100
RETENTION_MS = 7 * DAY_MS
"""For how long refused binds are shown after the latest one."""

# A client that is refused tries again, and others of the same team do: one mail reports them all.
_COLLECT_MS = 10 * 60_000
_MAX_LISTED_REFUSALS = 20


@dataclass(frozen=True, slots=True)
class RefusedBind:
    """`password_id`: with REPLACED_PASSWORD, which one it was."""

    account_id: int
    address: str
    reason: str
    at: int
    password_id: int | None = None


@dataclass(frozen=True, slots=True)
class RefusedBindGroup:
    """Refused binds of an account from one address for one reason, counted.

    `replaced_at`: with REPLACED_PASSWORD, when the password that the client uses was replaced, if that is still known.
    """

    address: str
    reason: str
    count: int
    first_at: int
    last_at: int
    replaced_at: int | None = None


def record_refused_binds(conn: sqlite3.Connection, binds: Collection[RefusedBind]) -> None:
    """Count refused binds, folded by account, address and reason; a week without one ends a count.

    Those of no account are left out. They come here all the same, so that they take as long.
    """
    with write_transaction(conn):
        for each in binds:
            conn.execute(
                "INSERT INTO refused_binds (account_id, address, reason, count, first_at, last_at, password_id)"
                " SELECT id, ?2, ?3, 1, ?4, ?4, ?6 FROM accounts WHERE id = ?1 ON CONFLICT DO UPDATE SET"
                " count = iif(last_at < ?5, 1, count + 1), first_at = iif(last_at < ?5, ?4, first_at), last_at = ?4,"
                " password_id = ?6",
                (each.account_id, each.address, each.reason, each.at, each.at - RETENTION_MS, each.password_id),
            )
        # Whoever has a network of IPv6 addresses is a new one each time.
        conn.executemany(
            "DELETE FROM refused_binds WHERE account_id = ?1 AND last_at < (SELECT last_at FROM refused_binds"
            " WHERE account_id = ?1 ORDER BY last_at DESC LIMIT 1 OFFSET ?2)",
            [(account_id, _MAX_ROWS_PER_ACCOUNT - 1) for account_id in {each.account_id for each in binds}],
        )


def purge_refused_binds(conn: sqlite3.Connection, now: int) -> None:
    """Delete refused binds that are not shown any more at this moment (milliseconds)."""
    conn.execute("DELETE FROM refused_binds WHERE last_at <= ?", (now - RETENTION_MS,))


def list_refused_binds(conn: sqlite3.Connection, account_id: int) -> list[RefusedBindGroup]:
    """An account's refused binds of the last seven days, the latest first."""
    rows = conn.execute(
        "SELECT address, reason, count, first_at, last_at, replaced_at FROM refused_binds"
        " LEFT JOIN smpp_passwords ON smpp_passwords.id = password_id"
        " WHERE refused_binds.account_id = ? AND last_at > ? ORDER BY last_at DESC",
        (account_id, now_ms() - RETENTION_MS),
    )
    return [RefusedBindGroup(*row) for row in rows]


# --- mails

# Refused binds that no mail to the user has listed yet. They are the same as before while address and reason are.
_UNMAILED_REFUSALS = """
SELECT account_id, name, address, reason, count, first_at FROM refused_binds JOIN accounts ON accounts.id = account_id
WHERE customer_id = :customer_id AND deleted_at IS NULL AND last_at > :since AND NOT EXISTS (
    SELECT 1 FROM mailed_refusals old WHERE old.user_id = :id AND old.account_id = refused_binds.account_id
    AND old.address = refused_binds.address AND old.reason = refused_binds.reason)
ORDER BY name, last_at DESC
"""
_MARK_AS_MAILED = f"""
INSERT INTO mailed_refusals (account_id, address, reason, user_id)
SELECT account_id, address, reason, :id FROM ({_UNMAILED_REFUSALS})
"""


def has_refused_bind_mails_enabled(conn: sqlite3.Connection, user: User) -> bool:
    """Whether a user wants them."""
    return bool(conn.execute("SELECT refusal_mails FROM users WHERE id = ?", (user.id,)).fetchone()[0])


def set_refused_bind_mails_enabled(conn: sqlite3.Connection, user: User, enabled: bool) -> None:
    """Switch them on or off. What was refused before they are switched on is no news."""
    with write_transaction(conn):
        if enabled and not has_refused_bind_mails_enabled(conn, user):
            since = now_ms() - RETENTION_MS
            conn.execute(_MARK_AS_MAILED, {"id": user.id, "customer_id": user.customer_id, "since": since})
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
    values = {**user, "since": now - RETENTION_MS}
    if all(each["first_at"] > now - _COLLECT_MS for each in conn.execute(_UNMAILED_REFUSALS, values)):
        return False
    with write_transaction(conn):
        unmailed = conn.execute(_UNMAILED_REFUSALS, values).fetchall()
        account_groups = [
            {"name": name, "refusals": [_describe_refusal(each) for each in rows]}
            for name, rows in groupby(unmailed[:_MAX_LISTED_REFUSALS], key=lambda each: each["name"])
        ]
        omitted_count = max(0, len(unmailed) - _MAX_LISTED_REFUSALS)
        mail.queue_mail(
            conn, keys, user["email"], "refusals", user["language"], accounts=account_groups, more=omitted_count
        )
        conn.execute(_MARK_AS_MAILED, values)
        conn.execute("UPDATE users SET refusals_mailed_at = ? WHERE id = ?", (now, user["id"]))
    return True


def _describe_refusal(row: sqlite3.Row) -> dict[str, object]:
    return {"address": row["address"], "reason": REASON_TEXTS[row["reason"]], "count": row["count"]}
