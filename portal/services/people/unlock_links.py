"""Mailed links for who can't log in because others try: one makes a browser a known one for a quarter of an hour."""

import secrets
import sqlite3

from portal.core.clock import HOUR_MS, MINUTE_MS, now_ms
from portal.core.crypto import Keys, hash_token
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.common import audit, rate_limit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused, require_found
from portal.services.common.mail import queue_mail
from portal.services.people import login_limits
from portal.services.people.users import SELECT_USERS, User

LINK_VALID_MS = HOUR_MS
UNLOCKED_MS = 15 * MINUTE_MS
# At once, and then one each twenty minutes.
_MAX_LINKS_PER_HOUR = 3


class InvalidUnlockLink(Refused):
    sentence = N_("This link was used, or has run out. Ask for a new one where you log in.")


def queue_unlock_link(
    conn: sqlite3.Connection, keys: Keys, email: str, address: str, max_failures: int, language: str
) -> None:
    """Mail a one-time link to a user who can't get in because others try. Where there is no such user nothing is sent.

    That takes as long: a commit, most of all. Earlier links stay good, so that nobody ends them by asking for more;
    three are sent at once at most, and then one each twenty minutes, so that one is good at any time.

    Args:
        language: of the page, and of the mail, where the user has chosen none.

    Raises:
        TooManyAttempts: so many were asked for from this address.
    """
    email, token, now = email.strip()[:254], secrets.token_urlsafe(32), now_ms()
    with write_transaction(conn):
        buckets = login_limits.list_network_buckets("unlock", address, max_failures)
        rate_limit.take_tokens(conn, buckets, login_limits.PERIOD_MS)
        try:
            # Of everybody, whether or not there is such a user.
            rate_limit.take_token(conn, f"unlock:user:{email.lower()}", _MAX_LINKS_PER_HOUR, HOUR_MS)
        except rate_limit.TooManyAttempts:
            return
        row = conn.execute(
            SELECT_USERS + "WHERE users.email = ? AND users.totp_enrolled_at IS NOT NULL", (email,)
        ).fetchone()
        if row is None:
            return
        user = User(*row)
        insert_row(conn, "unlock_links", token_hash=hash_token(token), user_id=user.id, expires_at=now + LINK_VALID_MS)
        audit.record_action(conn, Actor(user.email, address), "login.link_mail", customer_id=user.customer_id)
        queue_mail(conn, keys, user.email, "unlock", user.language or language, token=token)


def get_user_by_unlock_link(conn: sqlite3.Connection, token: str) -> User:
    """Raises: InvalidUnlockLink, which is unknown, used or run out."""
    row = conn.execute(
        SELECT_USERS + "JOIN unlock_links AS link ON link.user_id = users.id"
        " WHERE link.token_hash = ? AND link.expires_at > ?",
        (hash_token(token), now_ms()),
    ).fetchone()
    return User(*require_found(row, InvalidUnlockLink()))


def use_unlock_link(conn: sqlite3.Connection, token: str, address: str) -> User:
    """Use up a link: the browser that has it is to be a known one for `UNLOCKED_MS`.

    Args:
        address: where the request comes from.

    Raises:
        InvalidUnlockLink
    """
    with write_transaction(conn):
        user = get_user_by_unlock_link(conn, token)
        conn.execute("DELETE FROM unlock_links WHERE token_hash = ?", (hash_token(token),))
        audit.record_action(conn, Actor(user.email, address), "login.link_use", customer_id=user.customer_id)
        return user


def end_unlock_links(conn: sqlite3.Connection, user: User) -> None:
    conn.execute("DELETE FROM unlock_links WHERE user_id = ?", (user.id,))


def purge_unlock_links(conn: sqlite3.Connection, now: int) -> None:
    """Delete links that have run out (`now` in milliseconds)."""
    conn.execute("DELETE FROM unlock_links WHERE expires_at <= ?", (now,))
