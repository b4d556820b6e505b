"""Which deliveries are due, and what blocks them."""

from collections.abc import Callable, Collection

import pytest

from portal.core.clock import now_ms
from portal.core.db import Connection, write_transaction
from portal.services.accounts.accounts import Account
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.messages import deliveries, inbound, inbound_numbers
from portal.services.messages.deliveries import MAX_BLOCKING_ATTEMPTS, MAX_RETRY_DELAY_MS, Deliverable
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.messages.validation import DELIVERY_VALIDITY_MS


@pytest.fixture
def three(conn: Connection, acme_1: Account) -> list[Deliverable]:
    """Three waiting messages of Acme's first account."""
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "48484")
    inbound.store_inbound_messages(
        conn, [MobileOriginatedMessage("393337654321", "48484", text) for text in ("one", "two", "three")]
    )
    return deliveries.list_due_deliveries(conn, acme_1.id, now_ms(), 10).ready


@pytest.fixture
def list_due(conn: Connection, acme_1: Account) -> Callable[..., tuple[list[str], bool, int | None]]:
    def list_ready_texts(
        now: int | None = None, limit: int = 10, excluded_ids: Collection[int] = ()
    ) -> tuple[list[str], bool, int | None]:
        due = deliveries.list_due_deliveries(conn, acme_1.id, now or now_ms(), limit, excluded_ids)
        return [each.text for each in due.ready], due.is_blocked, due.next_attempt_at

    return list_ready_texts


def put_off(conn: Connection, deliverable: Deliverable, attempts: int, at: int) -> None:
    deliverable.attempts = attempts
    deliveries.schedule_retries(conn, [(deliverable, at)])


def test_all_in_order(three, list_due):
    assert list_due() == (["one", "two", "three"], False, None)
    assert list_due(limit=2) == (["one", "two"], False, None)
    assert list_due(excluded_ids=[three[0].id]) == (["two", "three"], False, None)


@pytest.mark.parametrize("attempts", [1, MAX_BLOCKING_ATTEMPTS - 1])
def test_one_that_was_refused_holds_those_behind_it(conn, three, list_due, attempts):
    now = now_ms()
    put_off(conn, three[1], attempts, now + 5_000)
    assert list_due(now) == (["one"], True, now + 5_000)
    assert list_due(now + 4_999) == (["one"], True, now + 5_000)
    assert list_due(now + 5_000) == (["one", "two", "three"], False, None)


def test_one_that_was_refused_often_is_passed_and_looked_at_again(conn, three, list_due):
    now = now_ms()
    put_off(conn, three[0], MAX_BLOCKING_ATTEMPTS, now + 5_000)
    put_off(conn, three[2], MAX_BLOCKING_ATTEMPTS + 1, now + 4_000)
    assert list_due(now) == (["two"], False, now + 4_000)
    assert list_due(now, excluded_ids=[three[1].id]) == ([], False, now + 4_000)
    assert list_due(now + 5_000) == (["one", "two", "three"], False, None)


def test_a_clock_that_was_set_back_holds_nothing_up(conn, three, list_due):
    for back in (60_000, 3_600_000):
        assert list_due(now_ms() - back) == (["one", "two", "three"], False, None)
    put_off(conn, three[0], 3, now_ms() + MAX_RETRY_DELAY_MS + 60_000)
    assert list_due() == (["one", "two", "three"], False, None)


def test_it_is_due_for_seven_days(conn, three, list_due):
    came_at = ids.time_from_id(three[0].id)
    assert list_due(came_at + DELIVERY_VALIDITY_MS)[0] == ["one", "two", "three"]
    assert list_due(came_at + DELIVERY_VALIDITY_MS + 1) == ([], False, None)
    assert deliveries.expire_deliveries(conn, came_at + DELIVERY_VALIDITY_MS) == 0
    assert deliveries.expire_deliveries(conn, came_at + DELIVERY_VALIDITY_MS + 1) == 3
    # It stays in the history.
    assert conn.execute("SELECT count(*) FROM received").fetchone()[0] == 3


def test_what_is_given_up_at_once_is_bounded(conn, three, list_due):
    later = ids.time_from_id(three[0].id) + DELIVERY_VALIDITY_MS + 1
    assert [deliveries.expire_deliveries(conn, later, batch_size=2) for _ in range(3)] == [2, 1, 0]


def test_what_is_accepted_is_forgotten_and_nothing_else(conn, three, list_due):
    with write_transaction(conn):
        deliveries.remove_accepted_deliveries(conn, [three[1]])
    assert list_due() == (["one", "three"], False, None)


def test_what_became_of_a_message_from_a_handset_is_written_down(conn, acme_1, three):
    def states() -> list[tuple[str, int | None]]:
        return [(each.state, each.ended_at) for each in inbound.search_inbound_messages(conn, acme_1.id).messages][::-1]

    deliveries.remove_accepted_deliveries(conn, [three[0]], 4711)
    assert states() == [(inbound.DELIVERED, 4711), (inbound.WAITING, None), (inbound.WAITING, None)]
    later = ids.time_from_id(three[0].id) + DELIVERY_VALIDITY_MS + 1
    deliveries.expire_deliveries(conn, later)
    assert states() == [(inbound.DELIVERED, 4711), (inbound.GIVEN_UP, later), (inbound.GIVEN_UP, later)]


def test_what_was_given_up_stays_so_where_a_client_accepts_it_later(conn, acme_1, three):
    later = ids.time_from_id(three[0].id) + DELIVERY_VALIDITY_MS + 1
    deliveries.expire_deliveries(conn, later)
    deliveries.remove_accepted_deliveries(conn, three, later + 1)
    states = {each.state for each in inbound.search_inbound_messages(conn, acme_1.id).messages}
    assert states == {inbound.GIVEN_UP}
