"""Login sessions: opened after both steps of a login, known by the token in the cookie, of which the hash is kept."""

import secrets
import sqlite3
from contextlib import suppress
from dataclasses import dataclass

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.crypto import hash_token
from portal.core.db import insert_row, write_transaction
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.people.users import USER_COLUMNS, User, user_from_row

SESSION_VALID_MS = 30 * DAY_MS
SESSION_IDLE_MS = 12 * HOUR_MS
_SEEN_AT_UPDATE_MS = 60_000


@dataclass(frozen=True, slots=True)
class LoginSession:
    id: int
    address: str
    user_agent: str
    created_at: int
    seen_at: int


def start_login_session(conn: sqlite3.Connection, user: User, address: str, user_agent: str) -> str:
    """Open a login session.

    Returns:
        The token for the cookie; its hash is what is kept.
    """
    token, now = secrets.token_urlsafe(32), now_ms()
    with write_transaction(conn):
        conn.execute(
            "DELETE FROM login_sessions WHERE created_at < ? OR seen_at < ?",
            (now - SESSION_VALID_MS, now - SESSION_IDLE_MS),
        )
        insert_row(
            conn,
            "login_sessions",
            token_hash=hash_token(token),
            user_id=user.id,
            address=address,
            user_agent=user_agent[:200],
            created_at=now,
            seen_at=now,
        )
        audit.record_action(conn, Actor(user.email, address), "login", customer_id=user.customer_id)
    return token


def find_user_by_login_session(conn: sqlite3.Connection, token: str, *, is_activity: bool = True) -> User | None:
    """Who is logged in with this token; None once the session has ended or run out.

    Args:
        is_activity: the request is a person's, so that the session isn't idle.
    """
    now = now_ms()
    row = conn.execute(
        f"SELECT {USER_COLUMNS}, login_sessions.id, login_sessions.seen_at FROM login_sessions"
        " JOIN users ON users.id = login_sessions.user_id LEFT JOIN customers ON customers.id = users.customer_id"
        " WHERE login_sessions.token_hash = ? AND login_sessions.created_at > ? AND login_sessions.seen_at > ?",
        (hash_token(token), now - SESSION_VALID_MS, now - SESSION_IDLE_MS),
    ).fetchone()
    if row is None:
        return None
    *user_columns, session_id, seen_at = row
    if is_activity and seen_at < now - _SEEN_AT_UPDATE_MS:
        # Where the disk is full or somebody else writes, people can still read.
        with suppress(sqlite3.OperationalError):
            conn.execute("UPDATE login_sessions SET seen_at = ? WHERE id = ?", (now, session_id))
    return user_from_row(user_columns)


def end_login_session(conn: sqlite3.Connection, token: str) -> None:
    conn.execute("DELETE FROM login_sessions WHERE token_hash = ?", (hash_token(token),))


def list_login_sessions(conn: sqlite3.Connection, user: User, token: str) -> list[tuple[LoginSession, bool]]:
    """A user's open sessions, the latest first, each with whether it is the one of this token."""
    rows = conn.execute(
        "SELECT id, address, user_agent, created_at, seen_at, token_hash = ? FROM login_sessions WHERE user_id = ?"
        " ORDER BY seen_at DESC",
        (hash_token(token), user.id),
    )
    return [(LoginSession(*columns), bool(is_current)) for *columns, is_current in rows]


def end_login_session_by_id(conn: sqlite3.Connection, user: User, session_id: int) -> None:
    """End one of the user's own sessions, from the profile."""
    conn.execute("DELETE FROM login_sessions WHERE id = ? AND user_id = ?", (session_id, user.id))
