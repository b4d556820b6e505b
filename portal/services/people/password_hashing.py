"""Passwords of logins: how long they are, and the argon2id hashes that are kept of them."""

import secrets
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from portal.core.i18n import N_
from portal.services.common.errors import Refused

MIN_PASSWORD_LENGTH = 10
MAX_PASSWORD_LENGTH = 1000
_hasher = PasswordHasher()


class PasswordTooShort(Refused, field="password"):
    sentence = N_("A password has at least %(length)s characters. Several words in a row are easy to remember.")


class PasswordTooLong(Refused, field="password"):
    sentence = N_("A password has at most %(length)s characters.")


def hash_password(password: str) -> str:
    """The argon2id hash of a new password.

    To be made before the write lock is taken: argon2 takes a tenth of a second, and submits would wait.

    Raises:
        PasswordTooShort, PasswordTooLong
    """
    check_password_length(password)
    return _hasher.hash(password)


def check_password_length(password: str) -> None:
    if len(password) < MIN_PASSWORD_LENGTH:
        raise PasswordTooShort(length=MIN_PASSWORD_LENGTH)
    if len(password) > MAX_PASSWORD_LENGTH:
        raise PasswordTooLong(length=MAX_PASSWORD_LENGTH)


@cache
def _dummy_password_hash() -> str:
    return _hasher.hash(secrets.token_hex())


def verify_password(password_hash: str | None, password: str) -> bool:
    """Whether this is the password. Without a hash it isn't, after as long a time."""
    try:
        return _hasher.verify(password_hash or _dummy_password_hash(), password[:MAX_PASSWORD_LENGTH])
    except (VerificationError, InvalidHashError):
        return False
