"""Who is connected, and who was refused: what the SMPP server writes for the pages to show."""

import json
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from portal.core.db import DAY_MS, immediate, now_ms
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused

# Why a bind was refused.
WRONG_PASSWORD, REPLACED_PASSWORD, NOT_AUTHORISED, NO_IP, ACCOUNT_DISABLED, CLASSIC, TOO_MANY_BINDS, THROTTLED = (
    "wrong_password",
    "replaced_password",
    "not_authorised",
    "no_ip",
    "disabled",
    "classic",
    "too_many_binds",
    "throttled",
)
# The same as sentences about the client.
REASONS = {
    WRONG_PASSWORD: N_("The password was wrong. Check it in the client, or generate a new one."),
    REPLACED_PASSWORD: N_("The password it uses was replaced."),
    NOT_AUTHORISED: N_("It is not an authorised IP."),
    NO_IP: N_("No IP was authorised yet."),
    ACCOUNT_DISABLED: N_("The account was disabled."),
    CLASSIC: N_("This is a classic account, which has no SMPP login."),
    TOO_MANY_BINDS: N_("As many sessions as the account may have were open already."),
    THROTTLED: N_("Too many attempts had failed within a minute; the next ones were not looked at."),
}
BIND_TYPES = {
    "transceiver": N_("Transceiver"),
    "transmitter": N_("Transmitter"),
    "receiver": N_("Receiver"),
}
_MOST_KEPT = 100
SHOWN_MS = 7 * DAY_MS
"""For how long refused binds are told after the latest one."""
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


@dataclass(frozen=True, slots=True)
class RefusedBind:
    """`password_id`: with REPLACED_PASSWORD, which one it was."""

    account_id: int
    address: str
    reason: str
    at: int
    password_id: int | None = None


@dataclass(frozen=True, slots=True)
class Refusals:
    """Refused binds of an account from one address for one reason, counted.

    `replaced_at`: with REPLACED_PASSWORD, when the password that the client uses was replaced, if that is still known.
    """

    address: str
    reason: str
    count: int
    first_at: int
    last_at: int
    replaced_at: int | None = None


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


def refused(conn: sqlite3.Connection, rows: Collection[RefusedBind]) -> None:
    """Count refused binds, folded by account, address and reason; a week without one ends a count."""
    with immediate(conn):
        for each in rows:
            conn.execute(
                "INSERT INTO refused_binds (account_id, address, reason, count, first_at, last_at, password_id)"
                " VALUES (?1, ?2, ?3, 1, ?4, ?4, ?6) ON CONFLICT DO UPDATE SET"
                " count = iif(last_at < ?5, 1, count + 1), first_at = iif(last_at < ?5, ?4, first_at), last_at = ?4,"
                " password_id = ?6",
                (each.account_id, each.address, each.reason, each.at, each.at - SHOWN_MS, each.password_id),
            )
        # Whoever has a network of IPv6 addresses is a new one each time.
        conn.executemany(
            "DELETE FROM refused_binds WHERE account_id = ?1 AND last_at < (SELECT last_at FROM refused_binds"
            " WHERE account_id = ?1 ORDER BY last_at DESC LIMIT 1 OFFSET ?2)",
            [(account_id, _MOST_KEPT - 1) for account_id in {each.account_id for each in rows}],
        )


def purge(conn: sqlite3.Connection, now: int) -> None:
    """Forget refused binds that are not told any more at this moment (milliseconds)."""
    conn.execute("DELETE FROM refused_binds WHERE last_at <= ?", (now - SHOWN_MS,))


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


def refusals(conn: sqlite3.Connection, account_id: int) -> list[Refusals]:
    """Who was refused in the last seven days, the latest first."""
    rows = conn.execute(
        "SELECT address, reason, count, first_at, last_at, replaced_at FROM refused_binds"
        " LEFT JOIN smpp_passwords ON smpp_passwords.id = password_id"
        " WHERE refused_binds.account_id = ? AND last_at > ? ORDER BY last_at DESC",
        (account_id, now_ms() - SHOWN_MS),
    )
    return [Refusals(*row) for row in rows]


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
