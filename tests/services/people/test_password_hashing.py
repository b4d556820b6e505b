"""Turns to hash: two at a time, two more wait, and nobody who is known is kept out by others."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock, Thread
from typing import Literal

import pytest
from argon2 import PasswordHasher

from portal.services.people import password_hashing
from portal.services.people.password_hashing import HashingBusy
from tests.support import wait_until


class Hashing(Thread):
    """Somebody who takes a turn, and hashes until they are told to end."""

    def __init__(self, known_as: str = "") -> None:
        super().__init__()
        self._known_as = known_as
        self._end, self._is_hashing = Event(), Event()
        self.start()

    def run(self) -> None:
        with password_hashing.take_turn(self._known_as):
            self._is_hashing.set()
            self._end.wait()

    def end(self) -> None:
        self._end.set()

    def hashes(self) -> bool:
        return self._is_hashing.is_set()


@pytest.fixture
def start() -> Iterator[Callable[..., Hashing]]:
    """Lets somebody take a turn, or wait for one."""
    started: list[Hashing] = []

    def start_one(known_as: str = "") -> Hashing:
        before = len(password_hashing._present)
        started.append(Hashing(known_as))
        wait_until(lambda: len(password_hashing._present) == before + 1)
        return started[-1]

    yield start_one
    for each in started:
        each.end()
    for each in started:
        each.join()


def test_two_hash_two_wait_and_the_rest_is_refused_at_once(start: Callable[..., Hashing]) -> None:
    first, second, *waiting = [start() for _ in range(4)]
    wait_until(lambda: first.hashes() and second.hashes())
    assert not any(each.hashes() for each in waiting)
    with pytest.raises(HashingBusy), password_hashing.take_turn():
        pass
    first.end()
    wait_until(lambda: sum(each.hashes() for each in waiting) == 1)


def test_who_is_known_has_a_place_and_comes_before_strangers_who_wait(start: Callable[..., Hashing]) -> None:
    first, second, *waiting = [start() for _ in range(4)]
    wait_until(lambda: first.hashes() and second.hashes())
    known = start("alice@acme.example")
    first.end()
    wait_until(known.hashes)
    assert not any(each.hashes() for each in waiting)
    known.end()
    wait_until(lambda: sum(each.hashes() for each in waiting) == 1)


def test_one_who_is_known_fills_no_places_alone(start: Callable[..., Hashing]) -> None:
    for _ in range(5):
        start("alice@acme.example")
    with pytest.raises(HashingBusy), password_hashing.take_turn("alice@acme.example"):
        pass
    start("bob@acme.example")
    with pytest.raises(HashingBusy), password_hashing.take_turn("charlie@globex.example"):
        pass


def test_those_who_are_known_and_find_their_places_full_take_strangers_places(start: Callable[..., Hashing]) -> None:
    known = [start(f"colleague{number}@acme.example") for number in range(6)]
    with pytest.raises(HashingBusy), password_hashing.take_turn("alice@acme.example"):
        pass
    for each in known:
        each.end()
    wait_until(lambda: all(each.hashes() for each in known))


def test_strangers_have_a_turn_beside_those_who_are_known(start: Callable[..., Hashing]) -> None:
    wait_until(start("alice@acme.example").hashes)
    assert not start("bob@acme.example").hashes()
    wait_until(start().hashes)


def test_a_hash_takes_what_owasp_recommends() -> None:
    password_hash = password_hashing.hash_password("correct horse battery")
    assert password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert password_hashing.verify_password(password_hash, "correct horse battery")
    assert not password_hashing.verify_password(password_hash, "correct horse")
    assert not password_hashing.verify_password(None, "correct horse")


@pytest.mark.slow
def test_of_hashes_that_take_more_memory_one_is_verified_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, at_once, most_at_once = Lock(), 0, 0

    class CountingHasher(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            nonlocal at_once, most_at_once
            with lock:
                at_once += 1
                most_at_once = max(most_at_once, at_once)
            try:
                return super().verify(hash, password)
            finally:
                with lock:
                    at_once -= 1

    monkeypatch.setattr(password_hashing, "_hasher", CountingHasher(19 * 1024, 2, 1))
    older = PasswordHasher(time_cost=1).hash("correct horse battery")
    with ThreadPoolExecutor() as pool:
        assert all(pool.map(password_hashing.verify_password, [older] * 2, ["correct horse battery"] * 2))
    assert most_at_once == 1
