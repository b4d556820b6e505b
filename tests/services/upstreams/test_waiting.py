"""The count and the oldest of what waits for each upstream."""

from portal.core.clock import now_ms
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.upstreams import upstreams, waiting
from portal.services.upstreams.waiting import WaitingMessages
from tests.services.submitting import store_messages
from tests.services.upstreams.waiting import add_upstream, prepare_waiting, queue_messages


def test_it_is_told_by_the_upstream_that_takes_it_since_when_the_oldest_waits(conn, keys, cast):
    carrier = add_upstream(conn, keys)
    assert waiting.list_waiting(conn) == {}
    first, *_ = queue_messages(conn, cast.smpp_acme_1.id, 3)
    # A higher priority goes first, and another account has its turn; the oldest is the oldest all the same.
    store_messages(conn, [prepare_waiting(conn, cast.smpp_globex_1.id, priority=3)])
    assert waiting.list_waiting(conn) == {carrier.id: WaitingMessages(4, ids.time_from_id(first))}
    other = add_upstream(conn, keys, "other")
    upstreams.set_default_upstream(conn, SHELL, other)
    assert [*waiting.list_waiting(conn)] == [other.id]


def test_what_had_a_date_waits_since_then(conn, keys, cast):
    carrier = add_upstream(conn, keys)
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    conn.execute("UPDATE messages SET scheduled_at = ?", (now_ms() + 1,))
    oldest_at = waiting.list_waiting(conn)[carrier.id].oldest_at
    assert oldest_at is not None
    assert oldest_at > ids.time_from_id(message_id)


def test_what_was_refused_for_the_moment_waits_too(conn, keys, cast):
    carrier = add_upstream(conn, keys)
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    with_time = (cast.smpp_acme_1.id, "393331234567", message_id, 1)
    conn.execute("DELETE FROM queued_messages")
    conn.execute(
        "INSERT INTO held_messages (account_id, destination, message_id, attempts, not_before) VALUES (?, ?, ?, ?, 5)",
        with_time,
    )
    assert waiting.list_waiting(conn)[carrier.id] == WaitingMessages(1, ids.time_from_id(message_id))


def test_without_a_default_upstream_it_is_nobody_s(conn, cast):
    queue_messages(conn, cast.smpp_acme_1.id)
    assert waiting.list_waiting(conn) == {}
