"""Enrolment by one-time links: password chosen, authenticator proved; moving to another authenticator later."""

import secrets
import sqlite3

from portal.core.clock import DAY_MS, now_ms
from portal.core.crypto import Keys, hash_token
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.common import audit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused, require_found
from portal.services.people import password_hashing, two_factor
from portal.services.people.two_factor import WrongTotpCode
from portal.services.people.users import SELECT_USERS, User, user_from_row

LINK_VALID_MS = 7 * DAY_MS


class InvalidEnrolmentLink(Refused):
    sentence = N_("This link was used, replaced or has run out. Ask for a new one.")


def create_enrolment_link(conn: sqlite3.Connection, user: User) -> str:
    """A token for a one-time link, good for seven days; earlier ones of this user end."""
    token, now = secrets.token_urlsafe(32), now_ms()
    with write_transaction(conn):
        # And those that have run out, of anybody.
        conn.execute("DELETE FROM one_time_links WHERE user_id = ? OR expires_at <= ?", (user.id, now))
        insert_row(
            conn, "one_time_links", token_hash=hash_token(token), user_id=user.id, expires_at=now + LINK_VALID_MS
        )
    return token


def end_all_links(conn: sqlite3.Connection) -> None:
    """End everybody's links: those from before a new key show secrets that it doesn't open."""
    with write_transaction(conn):
        conn.execute("DELETE FROM one_time_links")


def reset_enrolment(conn: sqlite3.Connection, keys: Keys, actor: Actor, user: User) -> str:
    """A one-time link for somebody who has lost theirs, or their phone.

    What they logged in with until now ends at once. The authenticator's secret is a new one, for the link shows it.
    """
    with write_transaction(conn):
        conn.execute(
            "UPDATE users SET password_hash = NULL, totp_secret = ?, totp_enrolled_at = NULL, totp_last_step = 0"
            " WHERE id = ?",
            (two_factor.new_totp_secret(keys), user.id),
        )
        conn.execute("DELETE FROM login_sessions WHERE user_id = ?", (user.id,))
        conn.execute("DELETE FROM recovery_codes WHERE user_id = ?", (user.id,))
        audit.record_action(conn, actor, "user.start_over", customer_id=user.customer_id, email=user.email)
        return create_enrolment_link(conn, user)


def get_user_by_enrolment_link(conn: sqlite3.Connection, token: str) -> User:
    """The user whom an enrolment link belongs to.

    Raises:
        InvalidEnrolmentLink: unknown, used or run out.
    """
    row = conn.execute(
        SELECT_USERS + "JOIN one_time_links AS link ON link.user_id = users.id"
        " WHERE link.token_hash = ? AND link.used_at IS NULL AND link.expires_at > ?",
        (hash_token(token), now_ms()),
    ).fetchone()
    return user_from_row(require_found(row, InvalidEnrolmentLink()))


def read_totp_secret(conn: sqlite3.Connection, user: User) -> bytes:
    """The sealed TOTP secret."""
    return bytes(conn.execute("SELECT totp_secret FROM users WHERE id = ?", (user.id,)).fetchone()[0])


def enrol_by_link(
    conn: sqlite3.Connection, keys: Keys, token: str, password: str, code: str, address: str
) -> list[str]:
    """Finish an enrolment: password chosen, authenticator proved by a code.

    Returns:
        The recovery codes, shown once.

    Raises:
        InvalidEnrolmentLink, PasswordTooShort, PasswordTooLong, WrongTotpCode
    """
    get_user_by_enrolment_link(conn, token)
    password_hash = password_hashing.hash_password(password)
    with write_transaction(conn):
        # Read again: while the password was hashed, somebody else may have used the link.
        user = get_user_by_enrolment_link(conn, token)
        if not two_factor.verify_totp_code(conn, keys, user.id, code):
            raise WrongTotpCode()
        conn.execute("UPDATE one_time_links SET used_at = ? WHERE token_hash = ?", (now_ms(), hash_token(token)))
        return _save_enrolment(conn, Actor(user.email, address), user, password_hash)


def enrol_without_link(conn: sqlite3.Connection, actor: Actor, user: User, password_hash: str) -> list[str]:
    """Enrol without a link (the shell): the TOTP secret that the user was created with is in force.

    Args:
        password_hash: from `hash_password`.

    Returns:
        The recovery codes, shown once.
    """
    with write_transaction(conn):
        return _save_enrolment(conn, actor, user, password_hash)


def _save_enrolment(conn: sqlite3.Connection, actor: Actor, user: User, password_hash: str) -> list[str]:
    conn.execute(
        "UPDATE users SET password_hash = ?, totp_enrolled_at = ? WHERE id = ?", (password_hash, now_ms(), user.id)
    )
    conn.execute("DELETE FROM login_sessions WHERE user_id = ?", (user.id,))
    audit.record_action(conn, actor, "user.enrol", customer_id=user.customer_id, email=user.email)
    return two_factor.replace_recovery_codes(conn, user.id)


def replace_totp_secret(
    conn: sqlite3.Connection, keys: Keys, actor: Actor, user: User, sealed_secret: bytes, code: str
) -> list[str]:
    """Move to another authenticator, proved by a code of the new secret.

    Returns:
        New recovery codes, shown once; the old ones end.

    Raises:
        WrongTotpCode: nothing has changed.
    """
    with write_transaction(conn):
        conn.execute("UPDATE users SET totp_secret = ?, totp_last_step = 0 WHERE id = ?", (sealed_secret, user.id))
        if not two_factor.verify_totp_code(conn, keys, user.id, code):
            raise WrongTotpCode()
        audit.record_action(conn, actor, "user.totp", customer_id=user.customer_id)
        return two_factor.replace_recovery_codes(conn, user.id)


def renew_recovery_codes(conn: sqlite3.Connection, actor: Actor, user: User) -> list[str]:
    """Make new recovery codes, shown once; the old ones end."""
    with write_transaction(conn):
        audit.record_action(conn, actor, "user.recovery_codes", customer_id=user.customer_id)
        return two_factor.replace_recovery_codes(conn, user.id)
