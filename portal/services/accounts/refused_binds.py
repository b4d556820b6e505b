"""Binds that the SMPP server refused: written by it, shown to the people of the account with the reason in words; and
those with a system_id that no account has, which operators see.
"""

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from portal.core.clock import DAY_MS
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.accounts import refusals
from portal.services.accounts.refusals import RETENTION_MS, RefusalGroup, RefusalKey, escape_unprintable

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

SHOWN_MS = 7 * DAY_MS
"""For how long pages tell of refused binds that nobody has asked for."""
_MAX_UNKNOWN_BINDS = 1_000


@dataclass(frozen=True, slots=True)
class RefusedBind:
    """`account_id`: 0 where no account has the system_id. `password_id`: with REPLACED_PASSWORD, which one it was."""

    account_id: int
    address: str
    reason: str
    at: int
    password_id: int | None = None
    system_id: str = ""


def record_refused_binds(conn: sqlite3.Connection, binds: Collection[RefusedBind]) -> None:
    """Count refused binds. Those of no account take as long."""
    with write_transaction(conn):
        for each in binds:
            if each.account_id:
                key = RefusalKey(each.account_id, True, each.reason, each.address)
                refusals.record_refusals(conn, {key: 1}, each.at, each.password_id)
            else:
                _record_unknown_bind(conn, each)


def find_password_replacement(conn: sqlite3.Connection, refused: RefusalGroup) -> int | None:
    """When (milliseconds) the password was replaced that a client was refused with, if that is still known."""
    if refused.password_id is None:
        return None
    row = conn.execute("SELECT replaced_at FROM smpp_passwords WHERE id = ?", (refused.password_id,)).fetchone()
    return None if row is None else row[0]


# --- system_ids that no account has


@dataclass(frozen=True, slots=True)
class UnknownBind:
    """Binds from one address with one system_id that no account has, counted."""

    system_id: str
    address: str
    count: int
    first_at: int
    last_at: int


def _record_unknown_bind(conn: sqlite3.Connection, bind: RefusedBind) -> None:
    """Count it; of these system_ids with their addresses the latest thousand are kept."""
    conn.execute(
        "INSERT INTO unknown_binds (system_id, address, count, first_at, last_at) VALUES (?1, ?2, 1, ?3, ?3)"
        " ON CONFLICT (system_id, address) DO UPDATE SET count = count + 1, last_at = excluded.last_at",
        (escape_unprintable(bind.system_id), bind.address, bind.at),
    )
    conn.execute(
        "DELETE FROM unknown_binds WHERE last_at < (SELECT last_at FROM unknown_binds ORDER BY last_at DESC"
        " LIMIT 1 OFFSET ?)",
        (_MAX_UNKNOWN_BINDS - 1,),
    )


def list_unknown_binds(conn: sqlite3.Connection, since: int) -> list[UnknownBind]:
    """Those since then (milliseconds), the latest first."""
    rows = conn.execute(
        "SELECT system_id, address, count, first_at, last_at FROM unknown_binds WHERE last_at >= ?"
        " ORDER BY last_at DESC, system_id, address",
        (since,),
    )
    return [UnknownBind(*row) for row in rows]


def purge_unknown_binds(conn: sqlite3.Connection, now: int) -> None:
    """Delete those that are older than they are kept at this moment (milliseconds)."""
    conn.execute("DELETE FROM unknown_binds WHERE last_at <= ?", (now - RETENTION_MS,))
