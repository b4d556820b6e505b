"""Passwords of logins: how long they are, and the argon2id hashes that are kept of them."""

import secrets
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from portal.core.i18n import N_
from portal.services.common.errors import Refused

PASSWORD_LENGTH = 10
PASSWORD_LONGEST = 1000
_hasher = PasswordHasher()


class PasswordTooShort(Refused):
    sentence = N_("A password has at least %(length)s characters. Several words in a row are easy to remember.")
    field = "password"


class PasswordTooLong(Refused):
    sentence = N_("A password has at most %(length)s characters.")
    field = "password"


def hash_password(password: str) -> str:
    """What is kept of a new password.

    To be made before the write lock is taken: argon2 takes a tenth of a second, and submits would wait.

    Raises:
        PasswordTooShort, PasswordTooLong
    """
    check_password(password)
    return _hasher.hash(password)


def check_password(password: str) -> None:
    if len(password) < PASSWORD_LENGTH:
        raise PasswordTooShort(length=PASSWORD_LENGTH)
    if len(password) > PASSWORD_LONGEST:
        raise PasswordTooLong(length=PASSWORD_LONGEST)


@cache
def nobodys_hash() -> str:
    return _hasher.hash(secrets.token_hex())


def matches(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False
