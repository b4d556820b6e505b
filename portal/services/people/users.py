"""Users: who may log in, for which customer, in which role; enrolment by one-time links; login and its sessions."""

import secrets
import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv6Address, ip_address, ip_network

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from portal.core.crypto import Keys, token_hash
from portal.core.db import immediate, insert, now_ms
from portal.core.i18n import N_
from portal.services.common import audit, rate_limit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.people import two_factor
from portal.services.people.customers import checked_email

OWNER, MANAGER, VIEWER, OPERATOR = "owner", "manager", "viewer", "operator"
ROLES = (OWNER, MANAGER, VIEWER, OPERATOR)

PASSWORD_LENGTH = 10
_PASSWORD_LONGEST = 1000
LINK_VALID_MS = 7 * 24 * 3_600_000
SESSION_VALID_MS = 30 * 24 * 3_600_000
SESSION_IDLE_MS = 12 * 3_600_000
_THROTTLE_MS = 15 * 60_000
_SEEN_EVERY_MS = 60_000
# One address may stand for a whole office.
_ADDRESS_SHARE = 10

_hasher = PasswordHasher()


class UserExists(Refused):
    sentence = N_("There is already a user “%(email)s”.")
    field = "email"


class NoSuchUser(Refused):
    sentence = N_("There is no user “%(email)s”.")
    field = "email"


class InvalidRole(Refused):
    sentence = N_("A customer's user is owner, manager or viewer; a user without a customer is operator.")
    field = "role"


class PasswordTooShort(Refused):
    sentence = N_("A password has at least %(length)s characters. Several words in a row are easy to remember.")
    field = "password"


class PasswordTooLong(Refused):
    sentence = N_("A password has at most %(length)s characters.")
    field = "password"


class LinkInvalid(Refused):
    sentence = N_("This link was used, replaced or has run out. Ask for a new one.")


class WrongCode(Refused):
    sentence = N_("That code isn't right, or it was used already. Wait for the next one and enter it here.")
    field = "code"


class WrongRecoveryCode(Refused):
    sentence = N_("That isn't one of your recovery codes, or it was used already.")
    field = "recovery"


class LoginFailed(Refused):
    sentence = N_("E-mail address or password are wrong.")
    field = "email"


class WrongPassword(Refused):
    sentence = N_("That isn't your current password.")
    field = "current"


@dataclass(frozen=True, slots=True)
class User:
    """A person. `customer_id` is None for operators; `language` None until they have chosen one."""

    id: int
    customer_id: int | None
    customer_name: str | None
    email: str
    role: str
    language: str | None
    enrolled: bool

    @property
    def is_operator(self) -> bool:
        return self.role == OPERATOR

    @property
    def may_change(self) -> bool:
        """Viewers change nothing."""
        return self.role != VIEWER


@dataclass(frozen=True, slots=True)
class LoginSession:
    id: int
    address: str
    user_agent: str
    created_at: int
    seen_at: int


_COLUMNS = (
    "users.id, users.customer_id, customers.name AS customer_name, users.email, users.role, users.language,"
    " users.totp_enrolled_at IS NOT NULL AS enrolled"
)
_SELECT = f"SELECT {_COLUMNS} FROM users LEFT JOIN customers ON customers.id = users.customer_id "


def _user(row: sqlite3.Row) -> User:
    return User(
        id=row["id"],
        customer_id=row["customer_id"],
        customer_name=row["customer_name"],
        email=row["email"],
        role=row["role"],
        language=row["language"],
        enrolled=bool(row["enrolled"]),
    )


def add(conn: sqlite3.Connection, keys: Keys, actor: Actor, email: str, role: str, customer_id: int | None) -> User:
    """Create a user who can't log in yet: `new_link` or `enrol_at_once` comes next.

    Raises:
        InvalidEmail, InvalidRole, UserExists
    """
    email = checked_email(email)
    if role not in ROLES or (role == OPERATOR) != (customer_id is None):
        raise InvalidRole()
    with immediate(conn):
        try:
            insert(
                conn,
                "users",
                customer_id=customer_id,
                email=email,
                role=role,
                totp_secret=two_factor.new_secret(keys),
                created_at=now_ms(),
            )
        except sqlite3.IntegrityError:
            raise UserExists(email=email) from None
        audit.record(conn, actor, "user.add", customer_id=customer_id, email=email, role=role)
        return by_email(conn, email)


def by_email(conn: sqlite3.Connection, email: str) -> User:
    """Raises: NoSuchUser"""
    row = conn.execute(_SELECT + "WHERE users.email = ?", (email.strip(),)).fetchone()
    if row is None:
        raise NoSuchUser(email=email)
    return _user(row)


def by_id(conn: sqlite3.Connection, user_id: int) -> User:
    """Raises: NoSuchUser"""
    row = conn.execute(_SELECT + "WHERE users.id = ?", (user_id,)).fetchone()
    if row is None:
        raise NoSuchUser(email=user_id)
    return _user(row)


def of_customer(conn: sqlite3.Connection, customer_id: int | None) -> list[User]:
    """A customer's users; with None the operators."""
    return [_user(row) for row in conn.execute(_SELECT + "WHERE users.customer_id IS ? ORDER BY email", (customer_id,))]


# --- enrolment


def new_link(conn: sqlite3.Connection, user: User) -> str:
    """A token for a one-time link, good for seven days; earlier ones of this user end."""
    token, now = secrets.token_urlsafe(32), now_ms()
    with immediate(conn):
        # And those that have run out, of anybody.
        conn.execute("DELETE FROM one_time_links WHERE user_id = ? OR expires_at <= ?", (user.id, now))
        insert(conn, "one_time_links", token_hash=token_hash(token), user_id=user.id, expires_at=now + LINK_VALID_MS)
    return token


def start_over(conn: sqlite3.Connection, keys: Keys, actor: Actor, user: User) -> str:
    """A one-time link for somebody who has lost theirs, or their phone.

    What they logged in with until now ends at once. The authenticator's secret is a new one, for the link shows it.
    """
    with immediate(conn):
        conn.execute(
            "UPDATE users SET password_hash = NULL, totp_secret = ?, totp_enrolled_at = NULL, totp_last_step = 0"
            " WHERE id = ?",
            (two_factor.new_secret(keys), user.id),
        )
        conn.execute("DELETE FROM login_sessions WHERE user_id = ?", (user.id,))
        conn.execute("DELETE FROM recovery_codes WHERE user_id = ?", (user.id,))
        audit.record(conn, actor, "user.start_over", customer_id=user.customer_id, email=user.email)
        return new_link(conn, user)


def of_link(conn: sqlite3.Connection, token: str) -> User:
    """Whose link this is.

    Raises:
        LinkInvalid: unknown, used or run out.
    """
    row = conn.execute(
        _SELECT + "JOIN one_time_links AS link ON link.user_id = users.id"
        " WHERE link.token_hash = ? AND link.used_at IS NULL AND link.expires_at > ?",
        (token_hash(token), now_ms()),
    ).fetchone()
    if row is None:
        raise LinkInvalid()
    return _user(row)


def totp_secret(conn: sqlite3.Connection, user: User) -> bytes:
    """The sealed TOTP secret."""
    return bytes(conn.execute("SELECT totp_secret FROM users WHERE id = ?", (user.id,)).fetchone()[0])


def enrol(conn: sqlite3.Connection, keys: Keys, token: str, password: str, code: str, address: str) -> list[str]:
    """Finish an enrolment: password chosen, authenticator proved by a code.

    Returns:
        The recovery codes, shown once.

    Raises:
        LinkInvalid, PasswordTooShort, PasswordTooLong, WrongCode
    """
    of_link(conn, token)
    password_hash = hash_password(password)
    with immediate(conn):
        # Read again: while the password was hashed, somebody else may have used the link.
        user = of_link(conn, token)
        if not two_factor.accept(conn, keys, user.id, code):
            raise WrongCode()
        conn.execute("UPDATE one_time_links SET used_at = ? WHERE token_hash = ?", (now_ms(), token_hash(token)))
        return _enrolled(conn, Actor(user.email, address), user, password_hash)


def enrol_at_once(conn: sqlite3.Connection, actor: Actor, user: User, password_hash: str) -> list[str]:
    """Enrol without a link (the shell): the TOTP secret that the user was created with is in force.

    Args:
        password_hash: from `hash_password`.

    Returns:
        The recovery codes, shown once.
    """
    with immediate(conn):
        return _enrolled(conn, actor, user, password_hash)


def _enrolled(conn: sqlite3.Connection, actor: Actor, user: User, password_hash: str) -> list[str]:
    conn.execute(
        "UPDATE users SET password_hash = ?, totp_enrolled_at = ? WHERE id = ?", (password_hash, now_ms(), user.id)
    )
    conn.execute("DELETE FROM login_sessions WHERE user_id = ?", (user.id,))
    audit.record(conn, actor, "user.enrol", customer_id=user.customer_id, email=user.email)
    return two_factor.new_recovery_codes(conn, user.id)


def hash_password(password: str) -> str:
    """What is kept of a new password.

    To be made before the write lock is taken: argon2 takes a tenth of a second, and submits would wait.

    Raises:
        PasswordTooShort, PasswordTooLong
    """
    _check_password(password)
    return _hasher.hash(password)


def _check_password(password: str) -> None:
    if len(password) < PASSWORD_LENGTH:
        raise PasswordTooShort(length=PASSWORD_LENGTH)
    if len(password) > _PASSWORD_LONGEST:
        raise PasswordTooLong(length=_PASSWORD_LONGEST)


# --- login


@cache
def _nobodys_hash() -> str:
    return _hasher.hash(secrets.token_hex())


def check_login(conn: sqlite3.Connection, email: str, password: str, address: str, failures: int) -> User:
    """The first step: e-mail address and password.

    An unknown address takes as long as a wrong password.

    Args:
        address: where the request comes from.
        failures: how many a quarter of an hour are allowed for one user; ten times that for one address.

    Raises:
        LoginFailed, TooManyAttempts
    """
    email = email.strip()[:254]
    buckets = _take(conn, "login", email.lower(), address, failures)
    row = conn.execute("SELECT password_hash FROM users WHERE email = ?", (email,)).fetchone()
    known = row is not None and row["password_hash"] is not None
    if not _matches(row["password_hash"] if known else _nobodys_hash(), password[:_PASSWORD_LONGEST]) or not known:
        raise LoginFailed()
    _give_back(conn, buckets)
    user = by_email(conn, email)
    if not user.enrolled:
        raise LoginFailed()
    return user


def check_second_step(conn: sqlite3.Connection, keys: Keys, user: User, code: str, address: str, failures: int) -> None:
    """The second step: a TOTP code, or a recovery code, which is used up.

    Raises:
        WrongCode, WrongRecoveryCode, TooManyAttempts
    """
    buckets = _take(conn, "code", str(user.id), address, failures)
    with immediate(conn):
        if not two_factor.accept(conn, keys, user.id, code):
            if not two_factor.burn_recovery_code(conn, user.id, code):
                raise WrongCode() if code.strip().isdecimal() else WrongRecoveryCode()
            audit.record(conn, Actor(user.email, address), "login.recovery_code", customer_id=user.customer_id)
        _give_back(conn, buckets)


def _neighbourhood(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: whoever has one address in it has them all."""
    parsed = ip_address(address)
    return str(ip_network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address


def _take(conn: sqlite3.Connection, step: str, who: str, address: str, failures: int) -> tuple[str, str]:
    buckets = (f"{step}:user:{who}", f"{step}:address:{_neighbourhood(address)}")
    rate_limit.take(conn, buckets[1], failures * _ADDRESS_SHARE, _THROTTLE_MS)
    rate_limit.take(conn, buckets[0], failures, _THROTTLE_MS)
    return buckets


def _give_back(conn: sqlite3.Connection, buckets: tuple[str, str]) -> None:
    with immediate(conn):
        for each in buckets:
            rate_limit.give_back(conn, each)


def _matches(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def start_session(conn: sqlite3.Connection, user: User, address: str, user_agent: str) -> str:
    """Open a login session.

    Returns:
        The token for the cookie; its hash is what is kept.
    """
    token, now = secrets.token_urlsafe(32), now_ms()
    with immediate(conn):
        conn.execute(
            "DELETE FROM login_sessions WHERE created_at < ? OR seen_at < ?",
            (now - SESSION_VALID_MS, now - SESSION_IDLE_MS),
        )
        insert(
            conn,
            "login_sessions",
            token_hash=token_hash(token),
            user_id=user.id,
            address=address,
            user_agent=user_agent[:200],
            created_at=now,
            seen_at=now,
        )
        audit.record(conn, Actor(user.email, address), "login", customer_id=user.customer_id)
    return token


def of_session(conn: sqlite3.Connection, token: str, *, acts: bool = True) -> User | None:
    """Who is logged in with this token; None once the session has ended or run out.

    Args:
        acts: a person asks, and so the session isn't idle.
    """
    now = now_ms()
    row = conn.execute(
        f"SELECT {_COLUMNS}, login_sessions.id AS session_id, login_sessions.seen_at FROM login_sessions"
        " JOIN users ON users.id = login_sessions.user_id LEFT JOIN customers ON customers.id = users.customer_id"
        " WHERE login_sessions.token_hash = ? AND login_sessions.created_at > ? AND login_sessions.seen_at > ?",
        (token_hash(token), now - SESSION_VALID_MS, now - SESSION_IDLE_MS),
    ).fetchone()
    if row is None:
        return None
    if acts and row["seen_at"] < now - _SEEN_EVERY_MS:
        # Where the disk is full or somebody else writes, people can still read.
        with suppress(sqlite3.OperationalError):
            conn.execute("UPDATE login_sessions SET seen_at = ? WHERE id = ?", (now, row["session_id"]))
    return _user(row)


def end_session(conn: sqlite3.Connection, token: str) -> None:
    conn.execute("DELETE FROM login_sessions WHERE token_hash = ?", (token_hash(token),))


def sessions(conn: sqlite3.Connection, user: User, token: str) -> list[tuple[LoginSession, bool]]:
    """A user's open sessions, the latest first, each with whether it is the one of this token."""
    rows = conn.execute(
        "SELECT id, address, user_agent, created_at, seen_at, token_hash = ? FROM login_sessions WHERE user_id = ?"
        " ORDER BY seen_at DESC",
        (token_hash(token), user.id),
    )
    return [(LoginSession(*tuple(row)[:5]), bool(row[5])) for row in rows]


def end_session_of(conn: sqlite3.Connection, user: User, session_id: int) -> None:
    """End one of the user's own sessions, from the profile."""
    conn.execute("DELETE FROM login_sessions WHERE id = ? AND user_id = ?", (session_id, user.id))


# --- profile


def set_language(conn: sqlite3.Connection, user: User, language: str) -> None:
    conn.execute("UPDATE users SET language = ? WHERE id = ?", (language, user.id))


def change_password(
    conn: sqlite3.Connection, actor: Actor, user: User, current: str, new: str, keep_token: str, failures: int
) -> None:
    """Change the login password; every other session of the user ends.

    Raises:
        WrongPassword, PasswordTooShort, PasswordTooLong, TooManyAttempts
    """
    _check_password(new)
    confirm_password(conn, user, current, actor.address, failures)
    password_hash = hash_password(new)
    with immediate(conn):
        conn.execute("UPDATE users SET password_hash = ? WHERE id = ?", (password_hash, user.id))
        conn.execute(
            "DELETE FROM login_sessions WHERE user_id = ? AND token_hash <> ?", (user.id, token_hash(keep_token))
        )
        audit.record(conn, actor, "user.password", customer_id=user.customer_id)


def confirm_password(conn: sqlite3.Connection, user: User, current: str, address: str, failures: int) -> None:
    """Before something that a passer-by at an open screen must not do.

    Raises:
        WrongPassword, TooManyAttempts
    """
    buckets = _take(conn, "login", user.email.lower(), address, failures)
    row = conn.execute("SELECT password_hash FROM users WHERE id = ?", (user.id,)).fetchone()
    if not _matches(row["password_hash"] or _nobodys_hash(), current[:_PASSWORD_LONGEST]):
        raise WrongPassword()
    _give_back(conn, buckets)


def replace_totp(conn: sqlite3.Connection, keys: Keys, actor: Actor, user: User, sealed: bytes, code: str) -> list[str]:
    """Move to another authenticator, proved by a code of the new secret.

    Returns:
        New recovery codes, shown once; the old ones end.

    Raises:
        WrongCode: nothing has changed.
    """
    with immediate(conn):
        conn.execute("UPDATE users SET totp_secret = ?, totp_last_step = 0 WHERE id = ?", (sealed, user.id))
        if not two_factor.accept(conn, keys, user.id, code):
            raise WrongCode()
        audit.record(conn, actor, "user.totp", customer_id=user.customer_id)
        return two_factor.new_recovery_codes(conn, user.id)


def renew_recovery_codes(conn: sqlite3.Connection, actor: Actor, user: User) -> list[str]:
    """Make new recovery codes, shown once; the old ones end."""
    with immediate(conn):
        audit.record(conn, actor, "user.recovery_codes", customer_id=user.customer_id)
        return two_factor.new_recovery_codes(conn, user.id)
