"""Who is connected, and who was refused: what the SMPP server writes for the pages to show."""

import json
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.core.db import immediate
from portal.core.i18n import N_
from portal.services.accounts import refused_binds
from portal.services.accounts.accounts import Account
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused

BIND_TYPES = {
    "transceiver": N_("Transceiver"),
    "transmitter": N_("Transmitter"),
    "receiver": N_("Receiver"),
}
# The SMPP server says that it lives every two seconds.
HEARTBEAT_MS = 2_000
_SILENT_MS = 5 * HEARTBEAT_MS

RATES_KEPT = 30
RATE_MS = HEARTBEAT_MS
"""Of an open session so many latest rates are kept, each over so many milliseconds."""


class NoSuchSession(Refused):
    sentence = N_("This session has ended already.")


@dataclass(frozen=True, slots=True)
class Connection:
    """An open session.

    Args:
        tls: the version (`TLSv1.3`), empty when unsecured.
        password_id: which password it was bound with.
        bound_at, seen_at: in milliseconds, like all times.
        submitted, delivered: messages that came in and went out.
        window: submits that wait for their answer.
        rates: messages a second, in and out together, the latest last; see `Progress`.
        ending_at: when somebody asked for its end, if anybody did.
    """

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
    rates: tuple[float, ...] = ()
    ending_at: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What has changed of an open session since it was last written.

    `rates`: see `Connection.rates`; at most RATES_KEPT numbers with spaces between them.
    """

    id: int
    seen_at: int
    submitted: int
    delivered: int
    window: int
    rates: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a session at this moment (milliseconds). `kept`: messages in the history may be of it."""

    id: int
    at: int
    kept: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """The session that messages came from.

    `ended_at` is None as long as it is open; where its server has died, it is when the client was last heard.
    """

    id: int
    address: str
    bind_type: str
    tls: str
    bound_at: int
    ended_at: int | None


# --- written by the SMPP server


def latest_id(conn: sqlite3.Connection) -> int:
    """The highest id of all sessions that were ever stored: messages and pages go on naming them."""
    (value,) = conn.execute("SELECT value FROM counters WHERE name = 'session_id'").fetchone()
    return int(value)


def opened(conn: sqlite3.Connection, rows: Collection[Connection]) -> None:
    with immediate(conn):
        conn.execute(
            "UPDATE counters SET value = ?1 WHERE name = 'session_id' AND value < ?1", (max(each.id for each in rows),)
        )
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
            "UPDATE connections SET seen_at = ?, submitted = ?, delivered = ?, window = ?, rates = ? WHERE id = ?",
            [(each.seen_at, each.submitted, each.delivered, each.window, each.rates, each.id) for each in rows],
        )


_KEEP = (
    "INSERT INTO ended_sessions (id, account_id, address, bind_type, tls, bound_at, ended_at)"
    " SELECT id, account_id, address, bind_type, tls, bound_at, {ended_at} FROM connections WHERE"
)


def closed(conn: sqlite3.Connection, endings: Collection[Ending]) -> None:
    with immediate(conn):
        conn.executemany(
            f"{_KEEP.format(ended_at='?2')} id = ?1", [(each.id, each.at) for each in endings if each.kept]
        )
        conn.executemany("DELETE FROM connections WHERE id = ?", [(each.id,) for each in endings])


def all_closed(conn: sqlite3.Connection) -> None:
    """End every session: none outlives the process that holds it. Each that could send may have done so."""
    with immediate(conn):
        conn.execute(f"{_KEEP.format(ended_at='seen_at')} bind_type <> 'receiver'")
        conn.execute("DELETE FROM connections")


def purge(conn: sqlite3.Connection, now: int) -> None:
    """Forget refused binds that are not told any more at this moment (milliseconds)."""
    conn.execute("DELETE FROM refused_binds WHERE last_at <= ?", (now - refused_binds.SHOWN_MS,))


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


_COLUMNS = (
    "id, account_id, address, bind_type, tls, password_id, bound_at, seen_at, submitted, delivered, window, rates,"
    " ending_at"
)


def of_account(conn: sqlite3.Connection, account_id: int, limit: int = -1) -> list[Connection]:
    """An account's open sessions, oldest first; with -1 all of them."""
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM connections WHERE account_id = ? ORDER BY id LIMIT ?", (account_id, limit)
    )
    return [_connection(row) for row in rows]


def motion(conn: sqlite3.Connection, account_id: int, limit: int) -> list[tuple[int, object]]:
    """What changes of the sessions that `of_account` returns: of each when it was seen last, and all else.

    An open page compares it every two seconds: that is cheaper than to read the sessions.
    """
    rows = conn.execute(
        "SELECT seen_at, id, submitted, delivered, window, rates, ending_at FROM connections WHERE account_id = ?"
        " ORDER BY id LIMIT ?",
        (account_id, limit),
    )
    return [(row[0], tuple(row)) for row in rows]


def by_id(conn: sqlite3.Connection, account_id: int, session_id: int) -> Connection:
    """One of an account's open sessions.

    Raises:
        NoSuchSession
    """
    row = conn.execute(
        f"SELECT {_COLUMNS} FROM connections WHERE account_id = ? AND id = ?", (account_id, session_id)
    ).fetchone()
    if row is None:
        raise NoSuchSession()
    return _connection(row)


def _connection(row: sqlite3.Row) -> Connection:
    values = dict(row)
    return Connection(**values | {"rates": tuple(float(each) for each in values["rates"].split())})


def origins(conn: sqlite3.Connection, account_id: int, session_ids: Collection[int]) -> dict[int, Origin]:
    """Those of an account's sessions with these ids that are open, or kept, by id."""
    # The plus keeps SQLite from reading all that the account has ever had.
    rows = conn.execute(
        "SELECT id, address, bind_type, tls, bound_at, NULL FROM connections"
        " WHERE account_id = :account AND id IN (SELECT value FROM json_each(:ids))"
        " UNION ALL SELECT id, address, bind_type, tls, bound_at, ended_at FROM ended_sessions"
        " WHERE +account_id = :account AND id IN (SELECT value FROM json_each(:ids))",
        {"account": account_id, "ids": json.dumps(sorted(session_ids))},
    )
    return {row[0]: Origin(*row) for row in rows}


# --- written by the pages


def end(conn: sqlite3.Connection, actor: Actor, account: Account, session_id: int) -> Connection:
    """Ask the SMPP server to end a session: it unbinds it as soon as it learns of it. Nothing keeps the client out.

    Returns:
        The session as it was. Asked for a second time, it is being ended already.

    Raises:
        NoSuchSession: it isn't one of this account's, or has ended.
    """
    with immediate(conn):
        session = by_id(conn, account.id, session_id)
        if session.ending_at is None:
            conn.execute("UPDATE connections SET ending_at = ? WHERE id = ?", (now_ms(), session_id))
            audit.record(
                conn,
                actor,
                "session.end",
                customer_id=account.customer_id,
                account_id=account.id,
                client=session.address,
                bind_type=session.bind_type,
            )
    return session
