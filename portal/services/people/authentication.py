"""Logging in: password, then TOTP or recovery code; guessing is limited by user and by address."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address, ip_network

from portal.core.crypto import Keys, hash_token
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.common import audit, rate_limit
from portal.services.common.audit import Actor
from portal.services.common.errors import Refused
from portal.services.people import password_hashing, two_factor, users
from portal.services.people.two_factor import WrongTotpCode
from portal.services.people.users import User

_RATE_LIMIT_PERIOD_MS = 15 * 60_000
# One address may stand for a whole office.
_ADDRESS_CAPACITY_FACTOR = 10


class WrongRecoveryCode(Refused, field="recovery"):
    sentence = N_("That isn't one of your recovery codes, or it was used already.")


class LoginFailed(Refused, field="email"):
    sentence = N_("E-mail address or password are wrong.")


class WrongPassword(Refused, field="current"):
    sentence = N_("That isn't your current password.")


def check_login(conn: sqlite3.Connection, email: str, password: str, address: str, max_failures: int) -> User:
    """The first step: e-mail address and password.

    An unknown address takes as long as a wrong password.

    Args:
        address: where the request comes from.
        max_failures: how many in a quarter of an hour are allowed for one user; ten times that for one address.

    Raises:
        LoginFailed, TooManyAttempts
    """
    email = email.strip()[:254]
    with _limit_attempts(conn, "login", email.lower(), address, max_failures):
        row = conn.execute("SELECT password_hash FROM users WHERE email = ?", (email,)).fetchone()
        if not password_hashing.verify_password(row and row["password_hash"], password):
            raise LoginFailed()
    user = users.get_user_by_email(conn, email)
    if not user.enrolled:
        raise LoginFailed()
    return user


def check_second_factor(
    conn: sqlite3.Connection, keys: Keys, user: User, code: str, address: str, max_failures: int
) -> None:
    """The second step: a TOTP code, or a recovery code, which is used up.

    Raises:
        WrongTotpCode, WrongRecoveryCode, TooManyAttempts
    """
    with _limit_attempts(conn, "code", str(user.id), address, max_failures), write_transaction(conn):
        if not two_factor.verify_totp_code(conn, keys, user.id, code):
            if not two_factor.use_recovery_code(conn, user.id, code):
                raise WrongTotpCode() if code.strip().isdecimal() else WrongRecoveryCode()
            audit.record_action(conn, Actor(user.email, address), "login.recovery_code", customer_id=user.customer_id)


def _get_rate_limit_network(address: str) -> str:
    """An IPv4 address, or the /64 of an IPv6 one: whoever has one address in it has them all."""
    parsed = ip_address(address)
    return str(ip_network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address


@contextmanager
def _limit_attempts(
    conn: sqlite3.Connection, step: str, user_key: str, address: str, max_failures: int
) -> Iterator[None]:
    """Count an attempt that fails in the block, for the user and for the address. Raises: TooManyAttempts"""
    user_bucket, address_bucket = f"{step}:user:{user_key}", f"{step}:address:{_get_rate_limit_network(address)}"
    rate_limit.take_token(conn, address_bucket, max_failures * _ADDRESS_CAPACITY_FACTOR, _RATE_LIMIT_PERIOD_MS)
    rate_limit.take_token(conn, user_bucket, max_failures, _RATE_LIMIT_PERIOD_MS)
    yield
    with write_transaction(conn):
        rate_limit.put_back_token(conn, user_bucket)
        rate_limit.put_back_token(conn, address_bucket)


def change_password(
    conn: sqlite3.Connection,
    actor: Actor,
    user: User,
    current_password: str,
    new_password: str,
    keep_token: str,
    max_failures: int,
) -> None:
    """Change the login password; every other session of the user ends.

    Raises:
        WrongPassword, PasswordTooShort, PasswordTooLong, TooManyAttempts
    """
    password_hashing.check_password_length(new_password)
    confirm_password(conn, user, current_password, actor.address, max_failures)
    password_hash = password_hashing.hash_password(new_password)
    with write_transaction(conn):
        conn.execute("UPDATE users SET password_hash = ? WHERE id = ?", (password_hash, user.id))
        conn.execute(
            "DELETE FROM login_sessions WHERE user_id = ? AND token_hash <> ?", (user.id, hash_token(keep_token))
        )
        audit.record_action(conn, actor, "user.password", customer_id=user.customer_id)


def confirm_password(
    conn: sqlite3.Connection, user: User, current_password: str, address: str, max_failures: int
) -> None:
    """Check the password again, before something that a passer-by at an open screen must not do.

    Raises:
        WrongPassword, TooManyAttempts
    """
    with _limit_attempts(conn, "login", user.email.lower(), address, max_failures):
        row = conn.execute("SELECT password_hash FROM users WHERE id = ?", (user.id,)).fetchone()
        if not password_hashing.verify_password(row["password_hash"], current_password):
            raise WrongPassword()
