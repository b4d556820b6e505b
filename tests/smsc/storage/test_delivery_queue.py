"""What waits for an account's receivers comes in its order, whether it is in memory or has to be read."""

from collections.abc import Callable, Collection

import pytest

from portal.core import db
from portal.core.clock import now_ms
from portal.services.accounts.accounts import Account
from portal.services.common.message_states import DELIVERED
from portal.services.messages import deliveries, intake, outcomes
from portal.services.messages.deliveries import DeliveryReceipt, DueDeliveries
from portal.services.messages.outcomes import MessageOutcome
from portal.services.prices.prices import PriceList
from portal.smsc.storage.delivery_queue import MAX_READY, DeliveryQueue
from tests.support import prepare_submit


@pytest.fixture
def ended(conn: db.Connection, account: Account) -> Callable[[int], list[DeliveryReceipt]]:
    """Stores so many messages of the account, lets them end, and returns their receipts, which wait now."""

    def end(count: int) -> list[DeliveryReceipt]:
        submit = prepare_submit(conn, account.id, price_list=PriceList({"IT": 0}, {}, ()))
        ids = intake.store_messages(conn, [submit] * count).message_ids
        return outcomes.finish_messages(conn, [MessageOutcome(each, DELIVERED, 0, now_ms()) for each in ids if each])

    return end


@pytest.fixture
def reads() -> list[int]:
    return []


@pytest.fixture
def queue(conn: db.Connection, account: Account, reads: list[int]) -> DeliveryQueue:
    """Somebody is there to take what waits; `reads` gets how much each read of the database has returned."""

    def read(how_many: int, but: Collection[int]) -> DueDeliveries:
        due = deliveries.list_due_deliveries(conn, account.id, now_ms(), how_many, but)
        reads.append(len(due.ready))
        return due

    made = DeliveryQueue(read)
    made.wake = lambda: None
    return made


def taken(queue):
    return list(iter(queue.dequeue_delivery, None))


def test_what_has_just_been_stored_is_not_read_again(queue, ended, reads):
    assert queue.dequeue_delivery() is None
    receipts = ended(3)
    queue.add_stored(receipts)
    assert taken(queue) == receipts
    assert reads == [0]


def test_what_was_there_before_comes_first(queue, ended):
    older = ended(2)
    newer = ended(2)
    queue.add_stored(newer)
    assert taken(queue) == older + newer


def test_what_was_read_before_it_was_told_comes_once(queue, ended):
    receipts = ended(2)
    assert taken(queue) == receipts
    queue.add_stored(receipts)
    assert taken(queue) == []


def test_what_is_given_back_comes_before_all_that_follows(queue, ended):
    assert queue.dequeue_delivery() is None
    receipts = ended(3)
    queue.add_stored(receipts)
    first = queue.dequeue_delivery()
    queue.begin_retry()
    assert queue.dequeue_delivery() is None
    queue.finish_retry(first)
    assert taken(queue) == receipts


def test_memory_is_bounded_and_the_order_stays(queue, ended, reads):
    assert queue.dequeue_delivery() is None
    first = ended(MAX_READY - 1)
    queue.add_stored(first)
    # No room for both: they are read when all before them has been taken.
    too_much = ended(2)
    queue.add_stored(too_much)
    last = ended(1)
    queue.add_stored(last)
    assert taken(queue) == first + too_much + last
    assert reads == [0, 3]


def test_nothing_is_kept_where_nobody_is_there_to_take_it(queue, ended, reads):
    assert queue.dequeue_delivery() is None
    queue.wake = None
    receipts = ended(2)
    queue.add_stored(receipts)
    assert reads == [0]
    queue.wake = lambda: None
    assert taken(queue) == receipts
    assert reads == [0, 2]
