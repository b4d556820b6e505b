"""Binds that the SMPP server refused: written by it, shown to the people of the account with the reason in words."""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_

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
    THROTTLED: N_("Too many attempts had failed within a minute; the next ones were refused without a check."),
}

_MAX_ROWS_PER_ACCOUNT = 100
RETENTION_MS = 7 * DAY_MS
"""For how long refused binds are shown after the latest one."""


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
    """Count refused binds, folded by account, address and reason; a week without one ends a count."""
    with write_transaction(conn):
        for each in binds:
            conn.execute(
                "INSERT INTO refused_binds (account_id, address, reason, count, first_at, last_at, password_id)"
                " VALUES (?1, ?2, ?3, 1, ?4, ?4, ?6) ON CONFLICT DO UPDATE SET"
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
