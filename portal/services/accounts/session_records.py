"""Records of SMPP sessions: written by the SMPP server, shown by the pages. And the heartbeats of processes."""

import json
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import astuple, dataclass, fields

from portal.core.clock import now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account, record_account_action
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, require_found

BIND_TYPES = {
    "transceiver": N_("Transceiver"),
    "transmitter": N_("Transmitter"),
    "receiver": N_("Receiver"),
}
# The SMPP server records a heartbeat every two seconds.
HEARTBEAT_MS = 2_000
_HEARTBEAT_TIMEOUT_MS = 5 * HEARTBEAT_MS

RATE_SAMPLE_COUNT = 30
RATE_SAMPLE_MS = HEARTBEAT_MS
"""An open session has so many latest rates, each measured over so many milliseconds."""


class NoSuchSmppSession(NotFound):
    sentence = N_("This session has ended already.")


@dataclass(frozen=True, slots=True)
class SmppSessionRecord:
    """An open session. The fields have the names of their columns.

    Args:
        tls: the version (`TLSv1.3`), empty when unsecured.
        password_id: which password it was bound with.
        bound_at, seen_at: in milliseconds, like all times.
        submitted, delivered: messages that came in and went out.
        refused: messages that came in and were refused.
        window: submits that wait for their answer.
        rates: see `SmppSessionProgress`.
        ending_at: when its end was requested, if it was.
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
    rates: str = ""
    ending_at: int | None = None
    refused: int = 0

    @property
    def rate_samples(self) -> tuple[float, ...]:
        """Messages a second, in and out together, the latest last."""
        return tuple(map(float, self.rates.split()))


_SESSION_COLUMNS = ", ".join(each.name for each in fields(SmppSessionRecord))
_SESSION_PLACEHOLDERS = ", ".join("?" for _ in fields(SmppSessionRecord))


@dataclass(frozen=True, slots=True)
class SmppSessionProgress:
    """What has changed of an open session since it was last written.

    `rates`: those of `SmppSessionRecord.rate_samples`; at most RATE_SAMPLE_COUNT numbers with spaces between them.
    """

    id: int
    seen_at: int
    submitted: int
    delivered: int
    window: int
    rates: str = ""
    refused: int = 0


@dataclass(frozen=True, slots=True)
class SmppSessionEnd:
    """The end of a session at this moment (milliseconds). `keep_record`: messages in the history may be of it."""

    id: int
    at: int
    keep_record: bool


@dataclass(frozen=True, slots=True)
class SmppSessionSummary:
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


def get_last_smpp_session_id(conn: sqlite3.Connection) -> int:
    """The highest id of all sessions that were ever stored: messages and pages go on naming them."""
    (value,) = conn.execute("SELECT value FROM counters WHERE name = 'session_id'").fetchone()
    return int(value)


def insert_smpp_sessions(conn: sqlite3.Connection, sessions: Collection[SmppSessionRecord]) -> None:
    with write_transaction(conn):
        conn.execute(
            "UPDATE counters SET value = ?1 WHERE name = 'session_id' AND value < ?1",
            (max(each.id for each in sessions),),
        )
        conn.executemany(
            f"INSERT INTO connections ({_SESSION_COLUMNS}) VALUES ({_SESSION_PLACEHOLDERS})", map(astuple, sessions)
        )


def update_smpp_session_progress(conn: sqlite3.Connection, updates: Iterable[SmppSessionProgress]) -> None:
    with write_transaction(conn):
        conn.executemany(
            "UPDATE connections SET seen_at = ?, submitted = ?, delivered = ?, window = ?, rates = ?, refused = ?"
            " WHERE id = ?",
            [
                (each.seen_at, each.submitted, each.delivered, each.window, each.rates, each.refused, each.id)
                for each in updates
            ],
        )


_INSERT_ENDED_SESSIONS = (
    "INSERT INTO ended_sessions (id, account_id, address, bind_type, tls, bound_at, ended_at)"
    " SELECT id, account_id, address, bind_type, tls, bound_at, {ended_at} FROM connections WHERE"
)


def close_smpp_sessions(conn: sqlite3.Connection, endings: Collection[SmppSessionEnd]) -> None:
    with write_transaction(conn):
        conn.executemany(
            f"{_INSERT_ENDED_SESSIONS.format(ended_at='?2')} id = ?1",
            [(each.id, each.at) for each in endings if each.keep_record],
        )
        conn.executemany("DELETE FROM connections WHERE id = ?", [(each.id,) for each in endings])


def close_all_smpp_sessions(conn: sqlite3.Connection) -> None:
    """End every session: none outlives the process that holds it. Each that could send may have done so."""
    with write_transaction(conn):
        conn.execute(f"{_INSERT_ENDED_SESSIONS.format(ended_at='seen_at')} bind_type <> 'receiver'")
        conn.execute("DELETE FROM connections")


def record_component_heartbeat(conn: sqlite3.Connection, component: str, started_at: int) -> None:
    """Record that a process (`smsc`, `web`) is ready and alive."""
    conn.execute(
        "INSERT INTO components VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET started_at = ?2, seen_at = ?3",
        (component, started_at, now_ms()),
    )


def remove_component_heartbeat(conn: sqlite3.Connection, component: str) -> None:
    """Record that a process has ended."""
    conn.execute("DELETE FROM components WHERE name = ?", (component,))


# --- read by the pages


def is_component_alive(conn: sqlite3.Connection, component: str) -> bool:
    """Whether a process is ready, by its latest heartbeat."""
    row = conn.execute("SELECT seen_at FROM components WHERE name = ?", (component,)).fetchone()
    return row is not None and now_ms() - row["seen_at"] < _HEARTBEAT_TIMEOUT_MS


def list_open_smpp_sessions(conn: sqlite3.Connection, account_id: int, limit: int = -1) -> list[SmppSessionRecord]:
    """An account's open sessions, oldest first; with -1 all of them."""
    rows = conn.execute(
        f"SELECT {_SESSION_COLUMNS} FROM connections WHERE account_id = ? ORDER BY id LIMIT ?", (account_id, limit)
    )
    return [SmppSessionRecord(*row) for row in rows]


def list_smpp_session_activity(conn: sqlite3.Connection, account_id: int, limit: int) -> list[tuple[int, object]]:
    """What changes of the sessions that `list_open_smpp_sessions` returns: of each when it was seen last, and all else.

    An open page compares it every two seconds: that is cheaper than to read the sessions.
    """
    rows = conn.execute(
        "SELECT seen_at, id, submitted, delivered, window, rates, ending_at, refused FROM connections"
        " WHERE account_id = ? ORDER BY id LIMIT ?",
        (account_id, limit),
    )
    return [(row[0], tuple(row)) for row in rows]


def get_open_smpp_session_by_id(conn: sqlite3.Connection, account_id: int, session_id: int) -> SmppSessionRecord:
    """One of an account's open sessions.

    Raises:
        NoSuchSmppSession
    """
    row = conn.execute(
        f"SELECT {_SESSION_COLUMNS} FROM connections WHERE account_id = ? AND id = ?", (account_id, session_id)
    ).fetchone()
    return SmppSessionRecord(*require_found(row, NoSuchSmppSession()))


def find_smpp_session_summaries(
    conn: sqlite3.Connection, account_id: int, session_ids: Collection[int]
) -> dict[int, SmppSessionSummary]:
    """The open and recorded sessions of an account with these ids, by id."""
    # The plus keeps SQLite from reading all that the account has ever had.
    rows = conn.execute(
        "SELECT id, address, bind_type, tls, bound_at, NULL FROM connections"
        " WHERE account_id = :account AND id IN (SELECT value FROM json_each(:ids))"
        " UNION ALL SELECT id, address, bind_type, tls, bound_at, ended_at FROM ended_sessions"
        " WHERE +account_id = :account AND id IN (SELECT value FROM json_each(:ids))",
        {"account": account_id, "ids": json.dumps(sorted(session_ids))},
    )
    return {row[0]: SmppSessionSummary(*row) for row in rows}


# --- written by the pages


def request_smpp_session_end(
    conn: sqlite3.Connection, actor: Actor, account: Account, session_id: int
) -> SmppSessionRecord:
    """Ask the SMPP server to end a session: it unbinds it as soon as it learns of it. Nothing keeps the client out.

    Returns:
        The session as it was. Asked for a second time, it is being ended already.

    Raises:
        NoSuchSmppSession: it isn't one of this account's, or has ended.
    """
    with write_transaction(conn):
        session = get_open_smpp_session_by_id(conn, account.id, session_id)
        if session.ending_at is None:
            conn.execute("UPDATE connections SET ending_at = ? WHERE id = ?", (now_ms(), session_id))
            record_account_action(
                conn, actor, "session.end", account, client=session.address, bind_type=session.bind_type
            )
    return session
