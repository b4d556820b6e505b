"""What went by routes: sums that agree with the messages."""

import pytest

from portal.core.clock import now_ms
from portal.core.db import Connection
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED, UNDELIVERABLE
from portal.services.history import refunds
from portal.services.messages import outcomes, sending
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.sending import AcceptedMessage
from portal.services.routing import route_usage
from portal.services.routing.route_usage import RouteUsage, RouteUse
from portal.services.statistics import months
from tests.services.submitting import store_messages
from tests.services.upstreams.waiting import add_upstream
from tests.support import prepare_submit

NOVEMBER = 2026 * 12 + 10
# The last millisecond of October 2026, and the first of November (UTC).
LAST_OF_OCTOBER, FIRST_OF_NOVEMBER = 1_793_491_199_999, 1_793_491_200_000


def accept(conn: Connection, account_id: int, at: int, *, buying_price: int | None = None, count: int = 1) -> list[int]:
    """Messages that were submitted at a moment, and accepted by way of route 7; returns their ids."""
    (sender,) = conn.execute("SELECT address FROM senders WHERE account_id = ?", (account_id,)).fetchone()
    submits = [prepare_submit(conn, account_id, source=sender) for _ in range(count)]
    for each in submits:
        each.upstream = 1
    message_ids = store_messages(conn, submits, now=at)
    sending.store_accepted_messages(
        conn,
        [
            AcceptedMessage(1, each, f"id {each}", 1, at, None, RouteUse(7, "IT", 2, 1_000, buying_price, None))
            for each in message_ids
        ],
    )
    return message_ids


@pytest.fixture(autouse=True)
def carrier(conn, keys):
    add_upstream(conn, keys, refund="undelivered")


def test_each_message_counts_in_the_month_of_its_submit(conn, acme_1):
    accept(conn, acme_1.id, LAST_OF_OCTOBER, buying_price=300)
    accept(conn, acme_1.id, FIRST_OF_NOVEMBER, buying_price=400, count=3)
    assert route_usage.list_route_usage(conn, NOVEMBER - 1) == [RouteUsage(NOVEMBER - 1, 7, "IT", 1, 2, 1_000, 2, 600)]
    assert route_usage.list_route_usage(conn, NOVEMBER) == [RouteUsage(NOVEMBER, 7, "IT", 3, 6, 3_000, 6, 2_400)]
    assert months.list_months(conn, FIRST_OF_NOVEMBER) == [NOVEMBER, NOVEMBER - 1]


def test_a_batch_that_spans_two_months_counts_in_both(conn, acme_1):
    ids = [*accept(conn, acme_1.id, LAST_OF_OCTOBER), *accept(conn, acme_1.id, FIRST_OF_NOVEMBER)]
    use = RouteUse(8, "FR", 1, 500, None, None)
    route_usage.count_usage(conn, [(each, use) for each in ids])
    for month in (NOVEMBER - 1, NOVEMBER):
        assert route_usage.list_route_usage(conn, month)[1] == RouteUsage(month, 8, "FR", 1, 1, 500, 0, 0)


def test_a_margin_is_known_where_the_cost_of_all_parts_is(conn, acme_1):
    accept(conn, acme_1.id, FIRST_OF_NOVEMBER, buying_price=400)
    assert [each.margin for each in route_usage.list_route_usage(conn, NOVEMBER)] == [200]
    accept(conn, acme_1.id, FIRST_OF_NOVEMBER)
    (usage,) = route_usage.list_route_usage(conn, NOVEMBER)
    assert (usage.parts, usage.priced_parts, usage.cost, usage.margin) == (4, 2, 800, None)


def test_what_is_counted_never_keeps_a_carrier_s_answer_from_being_stored(conn, acme_1):
    most = 2**53
    # More than an integer of SQLite is, in one batch, in another one, and then in the sum of two countries.
    for _ in range(2):
        message_ids = accept(conn, acme_1.id, FIRST_OF_NOVEMBER, buying_price=2**62, count=3)
        query = "SELECT count(*) FROM messages WHERE upstream_id IS NOT NULL AND id >= ?"
        assert conn.execute(query, (message_ids[0],)).fetchone()[0] == 3
    (usage,) = route_usage.list_route_usage(conn, NOVEMBER)
    assert (usage.messages, usage.cost) == (6, most)
    # As many countries as there are not.
    conn.executemany(
        "INSERT INTO route_usage SELECT month, route_id, ?, messages, parts, price, priced_parts, cost"
        " FROM route_usage WHERE country = 'IT'",
        [(str(each),) for each in range(1_000)],
    )
    assert route_usage.sum_route_usage(conn, NOVEMBER)[7].cost == 1_001 * most


def test_what_is_given_back_is_no_price_whoever_gives_it(conn, acme_1):
    by_setting, by_operator, _ = accept(conn, acme_1.id, FIRST_OF_NOVEMBER, buying_price=100, count=3)
    outcomes.finish_and_refund_messages(conn, [MessageOutcome(by_setting, UNDELIVERABLE, 1, now_ms())])
    outcomes.finish_messages(conn, [MessageOutcome(by_operator, DELIVERED, 0, now_ms())])
    refunds.refund_message(conn, SHELL, acme_1, by_operator, "as agreed")
    (given_back,) = conn.execute("SELECT sum(amount) FROM movements WHERE kind = 'refund'").fetchone()
    (usage,) = route_usage.list_route_usage(conn, NOVEMBER)
    assert usage.price == 3_000 - given_back
    assert usage.cost == 600
