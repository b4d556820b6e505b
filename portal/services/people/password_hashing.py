"""Hashes of login passwords (argon2id), and turns to make them: each takes memory and a core, whoever asks for it."""

import os
import secrets
import sys
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from threading import Condition, Lock, get_native_id

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from portal.core.i18n import N_
from portal.services.common.errors import Refused

MAX_PASSWORD_LENGTH = 1000

# The least that OWASP's Password Storage Cheat Sheet wants of argon2id: 19 MiB, two passes, one lane.
_hasher = PasswordHasher(memory_cost=19 * 1024, time_cost=2, parallelism=1)


class HashingBusy(Refused):
    sentence = N_("Too many people are logging in at this moment. Wait a few seconds, then try it once more.")


# Two hash at a time, and two wait, each of which holds a thread of the pages. Who is known comes first, one at a time,
# and one more may wait: strangers, however many, keep nobody out who is. Further ones take strangers' places.
_MAX_HASHING = 2
MAX_STRANGERS, _MAX_KNOWN = 4, 2

# Hashes of older versions take 64 MiB: one at a time.
_outdated_turn = Lock()

_turns = Condition()
# Who hashes is known, or isn't.
_hashing: list[bool] = []
# As whom those are known who hash or wait for it, strangers as "".
_present: list[str] = []


@contextmanager
def take_turn(known_as: str = "") -> Iterator[None]:
    """Hash within the block.

    Args:
        known_as: who it certainly is; "" for anybody. A second one of the same at a time is anybody, so that nobody
            fills the places of those who are known alone; so is who finds these full.

    Raises:
        HashingBusy: at once, where as many are there as may be.
    """
    with _turns:
        if known_as in _present or sum(map(bool, _present)) >= _MAX_KNOWN:
            known_as = ""
        is_known = bool(known_as)
        if not is_known and _present.count("") >= MAX_STRANGERS:
            raise HashingBusy()
        _present.append(known_as)
        _turns.wait_for(lambda: _is_next(is_known))
        _hashing.append(is_known)
    try:
        yield
    finally:
        with _turns:
            _present.remove(known_as)
            _hashing.remove(is_known)
            _turns.notify_all()


def _is_next(is_known: bool) -> bool:
    is_known_waiting = any(_present) and True not in _hashing
    return len(_hashing) < _MAX_HASHING and (is_known_waiting if is_known else not is_known_waiting)


def hash_password(password: str, salt: bytes | None = None) -> str:
    """The argon2id hash of a password, or of as much of it as counts. Args: `salt`: None: a new one."""
    return _get_threads().submit(_hasher.hash, password[:MAX_PASSWORD_LENGTH], salt=salt).result()


def renew_hash(password_hash: str, password: str) -> str:
    """The hash of the same password with today's parameters. It keeps its salt, by which browsers know it."""
    return hash_password(password, read_salt(password_hash))


def read_salt(password_hash: str) -> bytes:
    """A new password has another. Empty where there is no hash."""
    return b64decode(password_hash.split("$")[4] + "==") if password_hash else b""


def verify_password(password_hash: str | None, password: str) -> bool:
    """Whether this is the password. Without a hash it isn't, after as long a time."""
    password_hash = password_hash or _dummy_password_hash()
    try:
        with _outdated_turn if is_outdated(password_hash) else nullcontext():
            return _get_threads().submit(_hasher.verify, password_hash, password[:MAX_PASSWORD_LENGTH]).result()
    except (VerificationError, InvalidHashError):
        return False


def is_outdated(password_hash: str) -> bool:
    """Whether a hash has other parameters than new ones."""
    return _hasher.check_needs_rehash(password_hash)


@cache
def _dummy_password_hash() -> str:
    return hash_password(secrets.token_hex())


@cache
def _get_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MAX_HASHING, "hashing", _lower_priority)


_NICENESS = 5


def _lower_priority() -> None:
    """Leave the processor to pages and to the SMPP server."""
    # Linux takes the number of a thread; elsewhere it would be another process's.
    if sys.platform == "linux":
        thread = get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS)
