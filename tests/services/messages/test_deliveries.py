"""What is due to an account's receivers, and what holds it up."""

import pytest

from portal.core.clock import now_ms
from portal.core.db import immediate
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.messages import deliveries, inbound, inbound_numbers
from portal.services.messages.deliveries import HOLDS_ATTEMPTS, LONGEST_WAIT_MS
from portal.services.messages.inbound import FromHandset
from portal.services.messages.validation import DELIVERIES_VALID_MS


@pytest.fixture
def three(conn, acme_1):
    """Three messages wait for Acme's first account."""
    inbound_numbers.add(conn, SHELL, acme_1, "48484")
    inbound.take_in(conn, [FromHandset("393337654321", "48484", text) for text in ("one", "two", "three")])
    return deliveries.due(conn, acme_1.id, now_ms(), 10).now


@pytest.fixture
def look(conn, acme_1):
    def look(now=None, limit=10, but=()):
        due = deliveries.due(conn, acme_1.id, now or now_ms(), limit, but)
        return [each.text for each in due.now], due.held, due.then

    return look


def put_off(conn, deliverable, attempts, at):
    deliverable.attempts = attempts
    deliveries.failed(conn, [(deliverable, at)])


def test_all_in_order(three, look):
    assert look() == (["one", "two", "three"], False, None)
    assert look(limit=2) == (["one", "two"], False, None)
    assert look(but=[three[0].id]) == (["two", "three"], False, None)


@pytest.mark.parametrize("attempts", [1, HOLDS_ATTEMPTS - 1])
def test_one_that_was_refused_holds_those_behind_it(conn, three, look, attempts):
    now = now_ms()
    put_off(conn, three[1], attempts, now + 5_000)
    assert look(now) == (["one"], True, now + 5_000)
    assert look(now + 4_999) == (["one"], True, now + 5_000)
    assert look(now + 5_000) == (["one", "two", "three"], False, None)


def test_one_that_was_refused_often_is_passed_and_looked_at_again(conn, three, look):
    now = now_ms()
    put_off(conn, three[0], HOLDS_ATTEMPTS, now + 5_000)
    put_off(conn, three[2], HOLDS_ATTEMPTS + 1, now + 4_000)
    assert look(now) == (["two"], False, now + 4_000)
    assert look(now, but=[three[1].id]) == ([], False, now + 4_000)
    assert look(now + 5_000) == (["one", "two", "three"], False, None)


def test_a_clock_that_was_set_back_holds_nothing_up(conn, three, look):
    for back in (60_000, 3_600_000):
        assert look(now_ms() - back) == (["one", "two", "three"], False, None)
    put_off(conn, three[0], 3, now_ms() + LONGEST_WAIT_MS + 60_000)
    assert look() == (["one", "two", "three"], False, None)


def test_it_is_due_for_seven_days(conn, three, look):
    came_at = ids.time_of(three[0].id)
    assert look(came_at + DELIVERIES_VALID_MS)[0] == ["one", "two", "three"]
    assert look(came_at + DELIVERIES_VALID_MS + 1) == ([], False, None)
    assert deliveries.expire(conn, came_at + DELIVERIES_VALID_MS) == 0
    assert deliveries.expire(conn, came_at + DELIVERIES_VALID_MS + 1) == 3
    # It stays in the history.
    assert conn.execute("SELECT count(*) FROM received").fetchone()[0] == 3


def test_what_is_given_up_at_once_is_bounded(conn, three, look, monkeypatch):
    monkeypatch.setattr(deliveries, "EXPIRED_AT_ONCE", 2)
    later = ids.time_of(three[0].id) + DELIVERIES_VALID_MS + 1
    assert [deliveries.expire(conn, later) for _ in range(3)] == [2, 1, 0]


def test_what_is_accepted_is_forgotten_and_nothing_else(conn, three, look):
    with immediate(conn):
        deliveries.done(conn, [three[1]])
    assert look() == (["one", "three"], False, None)


def test_what_became_of_a_message_from_a_handset_is_written_down(conn, acme_1, three):
    def states():
        return [(each.state, each.ended_at) for each in inbound.find(conn, acme_1.id).messages][::-1]

    deliveries.done(conn, [three[0]], 4711)
    assert states() == [(inbound.DELIVERED, 4711), (inbound.WAITING, None), (inbound.WAITING, None)]
    later = ids.time_of(three[0].id) + DELIVERIES_VALID_MS + 1
    deliveries.expire(conn, later)
    assert states() == [(inbound.DELIVERED, 4711), (inbound.GIVEN_UP, later), (inbound.GIVEN_UP, later)]
