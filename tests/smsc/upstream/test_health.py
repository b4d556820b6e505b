"""When an upstream fails, when it is tried again, and when it is well: by what is seen of it at made-up times."""

from typing import Any

import pytest

from portal.services.upstreams.health import FAILING, GOOD, TRYING
from portal.smsc.upstream.health import HealthTracker

SECONDS = 30.0


class Watched:
    """An upstream that is looked at each second from 0 on."""

    def __init__(self) -> None:
        self.tracker = HealthTracker(0)
        self.signs: dict[str, Any] = {
            "is_connected": True,
            "has_unanswered": False,
            "awaits_answer": False,
        }
        self.now = self.errors = 0
        self.states = [GOOD]

    def see(self, seconds: int, *, answers: int = 0, errors: int = 0, number: str = "", **changes: bool) -> str:
        """Let it be like this for so long, with so many answers and errors in each second; returns how it is then.

        Each error is of a message to another number, unless one is given.
        """
        if "has_unanswered" in changes:
            changes.setdefault("awaits_answer", changes["has_unanswered"])
        self.signs |= changes
        for _ in range(seconds):
            self.now += 1
            self.tracker.has_answered = bool(answers)
            for _ in range(errors):
                self.errors += 1
                self.tracker.note_error(number or f"3933300{self.errors:05}", "ESME_RSYSERR 0x08")
            if self.tracker.update(self.now, SECONDS, **self.signs):
                self.states.append(self.tracker.state)
        return self.tracker.state


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_it_fails_once_it_is_not_bound_for_long_enough(watched):
    assert watched.see(30, is_connected=False) == GOOD
    assert watched.see(1) == FAILING
    assert watched.tracker.reason == "it is not bound"


def test_a_short_loss_of_the_connection_changes_nothing(watched):
    for _ in range(10):
        watched.see(29, is_connected=False)
        watched.see(1, is_connected=True)
    assert watched.states == [GOOD]


def test_bound_again_it_is_tried_and_an_answer_makes_it_good(watched):
    watched.see(31, is_connected=False)
    assert watched.see(1, is_connected=True) == TRYING
    assert watched.see(5, has_unanswered=True) == TRYING
    assert watched.see(1, answers=1, has_unanswered=False) == GOOD
    assert watched.tracker.reason == ""


@pytest.mark.parametrize("what", ["a refusal", "the connection"])
def test_while_it_is_tried_it_fails_at_once(watched, what):
    watched.see(31, is_connected=False)
    watched.see(1, is_connected=True)
    assert watched.see(1, **({"errors": 1} if what == "a refusal" else {"is_connected": False})) == FAILING


def test_it_is_good_where_there_is_nothing_to_try_it_with(watched):
    watched.see(31, is_connected=False)
    assert watched.see(30, is_connected=True) == TRYING
    assert watched.see(1) == GOOD


def test_it_fails_where_nothing_is_answered(watched):
    watched.see(5, answers=10, has_unanswered=True)
    assert watched.see(30) == GOOD
    assert watched.see(1) == FAILING
    assert watched.tracker.reason == "it answers nothing"
    # It is not tried while it owes answers.
    assert watched.see(100) == FAILING
    assert watched.see(1, answers=1) == GOOD


def test_it_is_not_silent_while_what_it_has_waits_to_be_tried_again(watched):
    watched.see(1, errors=1, has_unanswered=True)
    assert watched.see(3600, awaits_answer=False) == GOOD
    assert watched.see(30, awaits_answer=True) == GOOD
    assert watched.see(1) == FAILING


def test_after_silence_it_is_tried_once_what_it_had_is_decided(watched):
    watched.see(31, has_unanswered=True)
    watched.see(20)
    assert watched.see(1, errors=5, has_unanswered=False) == FAILING
    assert watched.see(29) == TRYING


def test_it_fails_where_nothing_but_errors_comes(watched):
    watched.see(1, answers=1)
    # From the third number on.
    assert watched.see(32, errors=1) == GOOD
    assert watched.see(1, errors=1) == FAILING
    assert watched.tracker.reason == "it answers nothing but ESME_RSYSERR 0x08"
    assert watched.see(29) == FAILING
    assert watched.see(1) == TRYING
    assert watched.see(1, answers=1) == GOOD


def test_errors_between_answers_say_nothing(watched):
    for _ in range(100):
        watched.see(5, errors=1)
        watched.see(1, answers=1)
    assert watched.states == [GOOD]


def test_one_handset_that_takes_nothing_says_nothing_of_the_upstream(watched):
    for pause in (0, 5, 10, 20, 40, 80, 160, 320, *[600] * 20):
        watched.see(pause)
        watched.see(1, errors=1, number="393331234567")
    # Nor do two.
    watched.see(100, errors=1, number="393337654321")
    assert watched.states == [GOOD]


def test_what_three_numbers_are_refused_in_turn_is_of_the_upstream(watched):
    for each in ("1", "2", "3"):
        assert watched.see(20, errors=1, number=each) == GOOD
    assert watched.see(10) == GOOD
    assert watched.see(1) == FAILING


def test_errors_age(watched):
    watched.see(2, errors=1)
    watched.see(1199)
    assert watched.see(100, errors=1, number="393331234567") == GOOD
    # Two in these twenty minutes, and this one is the third.
    watched.see(1, errors=1)
    assert watched.see(30, errors=1, number="393337654321") == GOOD
    assert watched.see(1) == FAILING
