"""Logging in: password, then TOTP or recovery code; guessing is limited by user and by address."""

import sqlite3
from ipaddress import IPv6Address, ip_address, ip_network

from portal.core.crypto import Keys, token_hash
from portal.core.db import immediate
from portal.core.i18n import N_
from portal.services.common import audit, rate_limit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.people import password_hashing, two_factor, users
from portal.services.people.two_factor import WrongCode
from portal.services.people.users import User

_THROTTLE_MS = 15 * 60_000
# One address may stand for a whole office.
_ADDRESS_SHARE = 10


class WrongRecoveryCode(Refused):
    sentence = N_("That isn't one of your recovery codes, or it was used already.")
    field = "recovery"


class LoginFailed(Refused):
    sentence = N_("E-mail address or password are wrong.")
    field = "email"


class WrongPassword(Refused):
    sentence = N_("That isn't your current password.")
    field = "current"


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
    if (
        not password_hashing.matches(
            row["password_hash"] if known else password_hashing.nobodys_hash(),
            password[: password_hashing.PASSWORD_LONGEST],
        )
        or not known
    ):
        raise LoginFailed()
    _give_back(conn, buckets)
    user = users.by_email(conn, email)
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


def change_password(
    conn: sqlite3.Connection, actor: Actor, user: User, current: str, new: str, keep_token: str, failures: int
) -> None:
    """Change the login password; every other session of the user ends.

    Raises:
        WrongPassword, PasswordTooShort, PasswordTooLong, TooManyAttempts
    """
    password_hashing.check_password(new)
    confirm_password(conn, user, current, actor.address, failures)
    password_hash = password_hashing.hash_password(new)
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
    if not password_hashing.matches(
        row["password_hash"] or password_hashing.nobodys_hash(), current[: password_hashing.PASSWORD_LONGEST]
    ):
        raise WrongPassword()
    _give_back(conn, buckets)
