"""How people get in: passwords and their hashes, both steps of a login, login sessions, and enrolment.

A login is a password, then a TOTP or recovery code; guessing is limited by user and by address. A session is known by
the token in its cookie. Whoever is new comes by a one-time link, chooses a password and proves an authenticator.
"""

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.crypto import Keys, hash_token
from portal.core.db import insert_row, update_row, write_transaction
from portal.core.i18n import N_
from portal.services.common import audit, rate_limit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused, require_found
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.people import (
    login_limits,
    login_mails,
    password_hashing,
    refused_logins,
    two_factor,
    unlock_links,
    users,
)
from portal.services.people.login_limits import Visitor
from portal.services.people.login_mails import queue_login_mail
from portal.services.people.password_hashing import HashingBusy
from portal.services.people.password_rules import check_new_password, list_known_names
from portal.services.people.two_factor import WrongTotpCode
from portal.services.people.users import SELECT_USERS, USER_COLUMNS, User

SESSION_VALID_MS = 30 * DAY_MS
SESSION_IDLE_MS = 12 * HOUR_MS
_SEEN_AT_UPDATE_MS = 60_000

LINK_VALID_MS = 7 * DAY_MS


class WrongRecoveryCode(Refused, field="recovery"):
    sentence = N_("That isn't one of your recovery codes, or it was used already.")


class LoginFailed(Refused, field="email"):
    sentence = N_("E-mail address or password is wrong.")


class WrongPassword(Refused, field="current"):
    sentence = N_("That isn't your current password.")


class InvalidEnrolmentLink(Refused):
    sentence = N_("This link was used, replaced or has run out. Ask for a new one.")


# --- passwords


def hash_new_password(password: str, names: Iterable[str]) -> str:
    """The argon2id hash of a new password.

    To be made before the write lock is taken, for submits would wait; in the pages' process within a turn
    (`password_hashing.take_turn`).

    Args:
        names: what the password must not consist of, as for `check_new_password`.

    Raises:
        InvalidPassword
    """
    check_new_password(password, names)
    return password_hashing.hash_password(password)


def read_credentials(conn: sqlite3.Connection, email: str) -> bytes:
    """What is another once a user's password or authenticator is: the salt of the hash, and the sealed secret.

    Empty where there is no such user.
    """
    row = conn.execute("SELECT password_hash, totp_secret FROM users WHERE email = ?", (email.strip(),)).fetchone()
    return password_hashing.read_salt(row["password_hash"] or "") + bytes(row["totp_secret"]) if row else b""


# --- logging in


def check_login(conn: sqlite3.Connection, email: str, password: str, visitor: Visitor, max_failures: int) -> User:
    """The first step: e-mail address and password.

    An unknown address takes as long as a wrong password. A hash with older parameters is replaced by a new one.

    Args:
        max_failures: how many in a quarter of an hour are allowed for one user; ten times that for one address.

    Raises:
        LoginFailed, TooManyAttempts, HashingBusy
    """
    email = email.strip()[:254]
    address = visitor.address
    buckets = login_limits.list_buckets(conn, "login", email, visitor, max_failures)
    turn = password_hashing.take_turn(email.lower() if visitor.known_browser else "")
    with _limit_attempts(conn, buckets, email, address, turn):
        row = conn.execute("SELECT password_hash FROM users WHERE email = ?", (email,)).fetchone()
        own_hash, stand_in = row and row["password_hash"], _choose_stand_in_hash(conn, email)
        if not password_hashing.verify_password(own_hash or stand_in, password) or not own_hash:
            reason = refused_logins.WRONG_PASSWORD if row else refused_logins.UNKNOWN_EMAIL
            refused_logins.record_refused_login(reason, email, address)
            raise LoginFailed()
        new_hash = password_hashing.renew_hash(own_hash, password) if password_hashing.is_outdated(own_hash) else ""
    user = users.get_user_by_email(conn, email)
    if new_hash:
        # Not in the turn: the write lock may be another's for a while. Nor where there is a new password meanwhile.
        with write_transaction(conn):
            conn.execute(
                "UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?", (new_hash, user.id, own_hash)
            )
    if not user.enrolled:
        refused_logins.record_refused_login(refused_logins.WRONG_PASSWORD, email, address)
        raise LoginFailed()
    return user


def _choose_stand_in_hash(conn: sqlite3.Connection, email: str) -> str | None:
    """Somebody's hash, with which an address that has none is compared, always the same one; None where there is none.

    Those of older versions take longer until their users log in: an address without one must not be known by that.
    """
    query = (
        "SELECT password_hash FROM users WHERE password_hash IS NOT NULL ORDER BY id"
        " LIMIT 1 OFFSET ? % max(1, (SELECT count(password_hash) FROM users))"
    )
    row = conn.execute(query, (int.from_bytes(hash_token(email.lower())[:4]),)).fetchone()
    return row and str(row["password_hash"])


def check_second_factor(
    conn: sqlite3.Connection, keys: Keys, user: User, code: str, visitor: Visitor, max_failures: int
) -> None:
    """The second step: a TOTP code, or a recovery code, which is used up.

    Raises:
        WrongTotpCode, WrongRecoveryCode, TooManyAttempts
    """
    address = visitor.address
    buckets = login_limits.list_buckets(conn, "code", user.email, visitor, max_failures)
    with _limit_attempts(conn, buckets, user.email, address):
        if not _use_second_factor(conn, keys, user, code, address):
            is_totp = "".join(code.split()).isdecimal()
            reason = refused_logins.WRONG_CODE if is_totp else refused_logins.WRONG_RECOVERY_CODE
            refused_logins.record_refused_login(reason, user.email, address)
            refused_logins.count_wrong_second_factor(conn, keys, user, address)
            raise WrongTotpCode() if is_totp else WrongRecoveryCode()


def _use_second_factor(conn: sqlite3.Connection, keys: Keys, user: User, code: str, address: str) -> bool:
    with write_transaction(conn):
        if not two_factor.verify_totp_code(conn, keys, user.id, code):
            if not two_factor.use_recovery_code(conn, keys, user.id, code):
                return False
            audit.record_action(conn, Actor(user.email, address), "login.recovery_code", customer_id=user.customer_id)
    return True


@contextmanager
def _limit_attempts(
    conn: sqlite3.Connection,
    buckets: Sequence[tuple[str, int]],
    email: str,
    address: str,
    turn: AbstractContextManager[None] | None = None,
) -> Iterator[None]:
    """Count an attempt that fails in the block, and record one that was refused before it.

    Args:
        turn: to hash, in the block; who has failed too often doesn't wait for it.

    Raises:
        TooManyAttempts; HashingBusy
    """
    with _record_throttled(email, address):
        rate_limit.require_tokens(conn, buckets, login_limits.PERIOD_MS)
        with turn or nullcontext():
            rate_limit.take_tokens(conn, buckets, login_limits.PERIOD_MS)
            yield
    rate_limit.put_back_tokens(conn, buckets)


@contextmanager
def _record_throttled(email: str, address: str) -> Iterator[None]:
    """Record that the block is refused because of too many, in time or at a time."""
    try:
        yield
    except (TooManyAttempts, HashingBusy):
        refused_logins.record_refused_login(refused_logins.THROTTLED, email, address)
        raise


def change_password(
    conn: sqlite3.Connection,
    keys: Keys,
    actor: Actor,
    user: User,
    current_password: str,
    new_password: str,
    keep_token: str,
    max_failures: int,
    installation: Sequence[str],
) -> None:
    """Change the login password; every other session of the user ends.

    Args:
        keep_token: of the session that stays.
        installation: its names, of which a password must not consist.

    Raises:
        WrongPassword, InvalidPassword, TooManyAttempts, HashingBusy
    """
    check_new_password(new_password, list_known_names(user, installation))
    current_hash = confirm_password(conn, user, current_password, keep_token, actor.address, max_failures)
    with _record_throttled(user.email, actor.address), password_hashing.take_turn(user.email.lower()):
        password_hash = password_hashing.hash_password(new_password)
    with write_transaction(conn):
        changed = conn.execute(
            "UPDATE users SET password_hash = ? WHERE id = ? AND password_hash = ?",
            (password_hash, user.id, current_hash),
        )
        if not changed.rowcount:
            raise WrongPassword()  # any more: there is another one meanwhile
        _end_other_logins(conn, user, keep_token, actor.address)
        audit.record_action(conn, actor, "user.password", customer_id=user.customer_id)
        queue_login_mail(conn, keys, user, login_mails.NEW_PASSWORD, actor.address)


def confirm_password(
    conn: sqlite3.Connection, user: User, current_password: str, token: str, address: str, max_failures: int
) -> str:
    """Check the password again, before something that a passer-by at an open screen must not do.

    Args:
        token: the login session's, by which failures are counted: nobody else's keep the user from their own settings.

    Returns:
        Its hash.

    Raises:
        WrongPassword, TooManyAttempts, HashingBusy
    """
    buckets = [(f"confirm:session:{hash_token(token).hex()}", max_failures)]
    with _limit_attempts(conn, buckets, user.email, address, password_hashing.take_turn(user.email.lower())):
        query = "SELECT password_hash FROM users WHERE id = ?"
        password_hash: str = conn.execute(query, (user.id,)).fetchone()["password_hash"]
        if not password_hashing.verify_password(password_hash, current_password):
            refused_logins.record_refused_login(refused_logins.WRONG_CONFIRMATION, user.email, address)
            raise WrongPassword()
    return password_hash


# --- login sessions


def start_login_session(
    conn: sqlite3.Connection, user: User, address: str, user_agent: str, mail_keys: Keys | None = None
) -> str:
    """Open a login session.

    Args:
        mail_keys: tell the user by mail, for the browser is a new one; None: it is known.

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
        login_limits.remember_network(conn, user, address)
        audit.record_action(conn, Actor(user.email, address), "login", customer_id=user.customer_id)
        if mail_keys:
            queue_login_mail(conn, mail_keys, user, login_mails.NEW_BROWSER, address, user_agent)
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
    return User(*user_columns)


def end_login_session(conn: sqlite3.Connection, token: str) -> None:
    conn.execute("DELETE FROM login_sessions WHERE token_hash = ?", (hash_token(token),))


def list_login_sessions(conn: sqlite3.Connection, user: User, token: str) -> list[sqlite3.Row]:
    """A user's open sessions, the latest first: id, address, user_agent, created_at, seen_at (milliseconds), and
    is_current where it is the one of this token.
    """
    return conn.execute(
        "SELECT id, address, user_agent, created_at, seen_at, token_hash = ? AS is_current FROM login_sessions"
        " WHERE user_id = ? ORDER BY seen_at DESC",
        (hash_token(token), user.id),
    ).fetchall()


def _end_other_logins(conn: sqlite3.Connection, user: User, keep_token: str, address: str) -> None:
    """End other sessions, and forget other networks: somebody else may have logged in from there."""
    login_limits.forget_networks(conn, user, address)
    conn.execute("DELETE FROM login_sessions WHERE user_id = ? AND token_hash <> ?", (user.id, hash_token(keep_token)))


def end_login_session_by_id(conn: sqlite3.Connection, user: User, session_id: int) -> None:
    """End one of the user's own sessions, from the profile."""
    conn.execute("DELETE FROM login_sessions WHERE id = ? AND user_id = ?", (session_id, user.id))


# --- enrolment, and moving to another authenticator later


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
        login_limits.forget_networks(conn, user)
        unlock_links.end_unlock_links(conn, user)
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
    return User(*require_found(row, InvalidEnrolmentLink()))


def read_totp_secret(conn: sqlite3.Connection, user: User) -> bytes:
    """The sealed TOTP secret."""
    return bytes(conn.execute("SELECT totp_secret FROM users WHERE id = ?", (user.id,)).fetchone()[0])


def enrol_by_link(
    conn: sqlite3.Connection,
    keys: Keys,
    token: str,
    password: str,
    code: str,
    address: str,
    installation: Sequence[str],
    language: str | None = None,
) -> list[str]:
    """Finish an enrolment: password chosen, authenticator proved by a code.

    Args:
        installation: its names, of which a password must not consist.
        language: of the page: the user's own from now on, where they have chosen none.

    Returns:
        The recovery codes, shown once.

    Raises:
        InvalidEnrolmentLink, InvalidPassword, WrongTotpCode, HashingBusy
    """
    user = get_user_by_enrolment_link(conn, token)
    with _record_throttled(user.email, address), password_hashing.take_turn(user.email.lower()):
        password_hash = hash_new_password(password, list_known_names(user, installation))
    with write_transaction(conn):
        # Read again: while the password was hashed, somebody else may have used the link.
        user = get_user_by_enrolment_link(conn, token)
        if not two_factor.verify_totp_code(conn, keys, user.id, code):
            raise WrongTotpCode()
        conn.execute("UPDATE one_time_links SET used_at = ? WHERE token_hash = ?", (now_ms(), hash_token(token)))
        if language and user.language is None:
            users.set_user_language(conn, user, language)
        queue_login_mail(conn, keys, user, login_mails.SET_UP, address)
        return enrol_user(conn, keys, Actor(user.email, address), user, password_hash)


def enrol_user(conn: sqlite3.Connection, keys: Keys, actor: Actor, user: User, password_hash: str) -> list[str]:
    """Let a user log in, with the TOTP secret that they were created with, or have proved.

    Args:
        password_hash: from `hash_new_password`.

    Returns:
        The recovery codes, shown once.
    """
    with write_transaction(conn):
        update_row(conn, "users", user.id, password_hash=password_hash, totp_enrolled_at=now_ms())
        conn.execute("DELETE FROM login_sessions WHERE user_id = ?", (user.id,))
        audit.record_action(conn, actor, "user.enrol", customer_id=user.customer_id, email=user.email)
        return two_factor.replace_recovery_codes(conn, keys, user.id)


def replace_totp_secret(
    conn: sqlite3.Connection, keys: Keys, actor: Actor, user: User, sealed_secret: bytes, code: str, keep_token: str
) -> list[str]:
    """Move to another authenticator, proved by a code of the new secret; every other session of the user ends.

    Args:
        keep_token: of the session that stays.

    Returns:
        New recovery codes, shown once; the old ones end.

    Raises:
        WrongTotpCode: nothing has changed.
    """
    with write_transaction(conn):
        conn.execute("UPDATE users SET totp_secret = ?, totp_last_step = 0 WHERE id = ?", (sealed_secret, user.id))
        if not two_factor.verify_totp_code(conn, keys, user.id, code):
            raise WrongTotpCode()
        _end_other_logins(conn, user, keep_token, actor.address)
        audit.record_action(conn, actor, "user.totp", customer_id=user.customer_id)
        queue_login_mail(conn, keys, user, login_mails.NEW_AUTHENTICATOR, actor.address)
        return two_factor.replace_recovery_codes(conn, keys, user.id)


def renew_recovery_codes(conn: sqlite3.Connection, keys: Keys, actor: Actor, user: User) -> list[str]:
    """Make new recovery codes, shown once; the old ones end."""
    with write_transaction(conn):
        audit.record_action(conn, actor, "user.recovery_codes", customer_id=user.customer_id)
        queue_login_mail(conn, keys, user, login_mails.NEW_RECOVERY_CODES, actor.address)
        return two_factor.replace_recovery_codes(conn, keys, user.id)
