"""Who is connected, and who was refused: what the SMPP server writes for the pages to show."""

import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from portal.db import immediate, now_ms

# Why a bind was refused.
WRONG_PASSWORD, NOT_AUTHORISED, NO_IP, ACCOUNT_DISABLED, CLASSIC, TOO_MANY_BINDS, THROTTLED = (
    "wrong_password",
    "not_authorised",
    "no_ip",
    "disabled",
    "classic",
    "too_many_binds",
    "throttled",
)
_MOST_KEPT = 100
_SHOWN_MS = 7 * 86_400_000
# The SMPP server says that it lives every two seconds.
HEARTBEAT_MS = 2_000
_SILENT_MS = 5 * HEARTBEAT_MS


@dataclass(frozen=True, slots=True)
class Connection:
    """An open session. `tls` is the version (`TLSv1.3`), empty when unsecured; times in milliseconds."""

    id: int
    account_id: int
    address: str
    bind_type: str
    tls: str
    password_id: int
    bound_at: int
    seen_at: int
    submitted: int = 0
    delivered: int = 0
    window: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """What has changed of an open session since it was last written."""

    id: int
    seen_at: int
    submitted: int
    delivered: int
    window: int


@dataclass(frozen=True, slots=True)
class RefusedBind:
    account_id: int
    address: str
    reason: str
    at: int


@dataclass(frozen=True, slots=True)
class Refusals:
    """Refused binds of an account from one address for one reason, counted."""

    address: str
    reason: str
    count: int
    first_at: int
    last_at: int


# --- written by the SMPP server


def opened(conn: sqlite3.Connection, rows: Iterable[Connection]) -> None:
    with immediate(conn):
        conn.executemany(
            "INSERT INTO connections (id, account_id, address, bind_type, tls, password_id, bound_at, seen_at,"
            " submitted, delivered, window) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    each.id,
                    each.account_id,
                    each.address,
                    each.bind_type,
                    each.tls,
                    each.password_id,
                    each.bound_at,
                    each.seen_at,
                    each.submitted,
                    each.delivered,
                    each.window,
                )
                for each in rows
            ],
        )


def progressed(conn: sqlite3.Connection, rows: Iterable[Progress]) -> None:
    with immediate(conn):
        conn.executemany(
            "UPDATE connections SET seen_at = ?, submitted = ?, delivered = ?, window = ? WHERE id = ?",
            [(each.seen_at, each.submitted, each.delivered, each.window, each.id) for each in rows],
        )


def closed(conn: sqlite3.Connection, ids: Iterable[int]) -> None:
    with immediate(conn):
        conn.executemany("DELETE FROM connections WHERE id = ?", [(each,) for each in ids])


def all_closed(conn: sqlite3.Connection) -> None:
    """Forget every session: none outlives the process that holds it."""
    conn.execute("DELETE FROM connections")


def refused(conn: sqlite3.Connection, rows: Collection[RefusedBind]) -> None:
    """Count refused binds, folded by account, address and reason; a week without one ends a count."""
    with immediate(conn):
        for each in rows:
            conn.execute(
                "INSERT INTO refused_binds (account_id, address, reason, count, first_at, last_at)"
                " VALUES (?1, ?2, ?3, 1, ?4, ?4) ON CONFLICT DO UPDATE SET"
                " count = iif(last_at < ?5, 1, count + 1), first_at = iif(last_at < ?5, ?4, first_at), last_at = ?4",
                (each.account_id, each.address, each.reason, each.at, each.at - _SHOWN_MS),
            )
        # Whoever has a network of IPv6 addresses is a new one each time.
        conn.executemany(
            "DELETE FROM refused_binds WHERE account_id = ?1 AND last_at < (SELECT last_at FROM refused_binds"
            " WHERE account_id = ?1 ORDER BY last_at DESC LIMIT 1 OFFSET ?2)",
            [(account_id, _MOST_KEPT - 1) for account_id in {each.account_id for each in rows}],
        )


def heartbeat(conn: sqlite3.Connection, component: str, started_at: int) -> None:
    """Say that a process (`smsc`, `web`) is ready and alive."""
    conn.execute(
        "INSERT INTO components VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET started_at = ?2, seen_at = ?3",
        (component, started_at, now_ms()),
    )


def gone(conn: sqlite3.Connection, component: str) -> None:
    """Say that a process has ended."""
    conn.execute("DELETE FROM components WHERE name = ?", (component,))


# --- read by the pages


def alive(conn: sqlite3.Connection, component: str) -> bool:
    """Whether a process is ready, by its latest heartbeat."""
    row = conn.execute("SELECT seen_at FROM components WHERE name = ?", (component,)).fetchone()
    return row is not None and now_ms() - row["seen_at"] < _SILENT_MS


def of_account(conn: sqlite3.Connection, account_id: int) -> list[Connection]:
    """An account's open sessions, oldest first."""
    rows = conn.execute(
        "SELECT id, account_id, address, bind_type, tls, password_id, bound_at, seen_at, submitted, delivered, window"
        " FROM connections WHERE account_id = ? ORDER BY bound_at",
        (account_id,),
    )
    return [Connection(*row) for row in rows]


def refusals(conn: sqlite3.Connection, account_id: int) -> list[Refusals]:
    """Who was refused in the last seven days, the latest first."""
    rows = conn.execute(
        "SELECT address, reason, count, first_at, last_at FROM refused_binds"
        " WHERE account_id = ? AND last_at > ? ORDER BY last_at DESC",
        (account_id, now_ms() - _SHOWN_MS),
    )
    return [Refusals(*row) for row in rows]
