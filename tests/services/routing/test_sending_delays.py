"""An account's people are told what keeps its messages waiting, and since when; of other accounts nothing."""

import time
from datetime import UTC, datetime

import pytest

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection, write_transaction
from portal.services.accounts import session_records
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.routing.sending_delays import MESSAGES_HELD, ON_HOLD, SLOW, SendingDelay, list_sending_delays
from portal.services.upstreams import claims, health, holds, paths, queue, steering, upstreams
from portal.services.upstreams.claims import Claim
from portal.services.upstreams.health import FAILING, UpstreamHealth
from portal.services.upstreams.steering import WaitingRange
from portal.services.upstreams.upstreams import Upstream
from tests.services.routing.adding import create_route
from tests.services.upstreams.waiting import queue_messages
from tests.support import Cast

MINUTE_MS = 60_000


@pytest.fixture
def simulator(conn: Connection, keys: Keys) -> Upstream:
    """The default upstream, which takes everything."""
    session_records.record_component_heartbeat(conn, "smsc", 0)
    return upstreams.create_upstream(conn, keys, SHELL, "simulated", kind=upstreams.SIMULATOR)


def wait(conn: Connection, account_id: int, priority: int = 0) -> tuple[int, int]:
    """Let a message wait; returns its id and its time."""
    (message_id,) = queue_messages(conn, account_id, priority=priority)
    return message_id, ids.time_from_id(message_id)


def refuse(conn: Connection, message_id: int) -> None:
    """An upstream takes all, and refuses one for the moment."""
    with write_transaction(conn):
        claims.claim_message_ids(conn, Claim(1, [paths.DEFAULT_PATH], 10), now_ms())
        queue.hold_message(conn, message_id, "ESME_RSYSERR 0x08", now_ms())


def test_sending_is_slow_once_something_has_waited_for_a_minute(
    conn: Connection, cast: Cast, simulator: Upstream
) -> None:
    account_id = cast.smpp_acme_1.id
    assert list_sending_delays(conn, account_id) == []
    _, at = wait(conn, account_id)
    # One that goes first doesn't hide it.
    wait(conn, account_id, priority=3)
    assert list_sending_delays(conn, account_id, at + MINUTE_MS) == []
    assert list_sending_delays(conn, account_id, at + MINUTE_MS + 1) == [SendingDelay(SLOW, at)]
    assert list_sending_delays(conn, cast.smpp_globex_1.id, at + HOUR_MS) == []


def test_what_has_a_date_waits_since_then(conn: Connection, cast: Cast, simulator: Upstream) -> None:
    _, at = wait(conn, cast.smpp_acme_1.id)
    conn.execute("UPDATE messages SET scheduled_at = ?", (at + DAY_MS,))
    assert list_sending_delays(conn, cast.smpp_acme_1.id, at + DAY_MS) == []
    assert list_sending_delays(conn, cast.smpp_acme_1.id, at + DAY_MS + HOUR_MS) == [SendingDelay(SLOW, at + DAY_MS)]


def test_what_is_tried_again_tells_only_where_no_upstream_takes_anything(
    conn: Connection, cast: Cast, simulator: Upstream
) -> None:
    message_id, at = wait(conn, cast.smpp_acme_1.id)
    refuse(conn, message_id)
    assert list_sending_delays(conn, cast.smpp_acme_1.id, at + HOUR_MS) == []
    upstreams.disable_upstream(conn, SHELL, simulator)
    assert list_sending_delays(conn, cast.smpp_acme_1.id, at + HOUR_MS) == [SendingDelay(SLOW, at)]
    assert list_sending_delays(conn, cast.smpp_acme_1.id, at + 1) == []
    assert list_sending_delays(conn, cast.smpp_globex_1.id, at + HOUR_MS) == []


def test_an_upstream_that_fails_tells_too(conn: Connection, cast: Cast, simulator: Upstream) -> None:
    message_id, at = wait(conn, cast.smpp_acme_1.id)
    refuse(conn, message_id)
    health.record_health(conn, simulator.id, UpstreamHealth(FAILING, at, "it refuses everything"))
    assert list_sending_delays(conn, cast.smpp_acme_1.id, at + HOUR_MS) == [SendingDelay(SLOW, at)]


def test_an_account_on_hold(conn: Connection, cast: Cast, simulator: Upstream) -> None:
    account_id = cast.smpp_acme_1.id
    before = now_ms()
    holds.hold_account(conn, SHELL, account_id, "too many")
    (delay,) = list_sending_delays(conn, account_id)
    assert delay.kind == ON_HOLD
    assert before <= delay.since <= now_ms()
    _, at = wait(conn, account_id)
    assert list_sending_delays(conn, account_id, at + HOUR_MS) == [delay]
    assert list_sending_delays(conn, cast.smpp_globex_1.id, at + HOUR_MS) == []
    holds.release_account(conn, SHELL, account_id)
    assert [each.kind for each in list_sending_delays(conn, account_id, at + HOUR_MS)] == [SLOW]


def test_messages_that_operators_hold_beside_others(conn: Connection, cast: Cast, simulator: Upstream) -> None:
    account_id = cast.smpp_acme_1.id
    held_id, held_at = wait(conn, account_id)
    with write_transaction(conn):
        of = WaitingRange(paths.DEFAULT_PATH_ID, False, account_id, queue.HIGHEST_PRIORITY)
        assert steering.hold_messages(conn, of, [held_id], now_ms()) == 1
    held = SendingDelay(MESSAGES_HELD, held_at)
    assert list_sending_delays(conn, account_id, held_at + HOUR_MS) == [held]
    _, at = wait(conn, account_id)
    assert list_sending_delays(conn, account_id, at + HOUR_MS) == [SendingDelay(SLOW, at), held]


def test_quiet_hours_are_no_delay_and_what_waits_behind_them_is_one(
    conn: Connection, cast: Cast, simulator: Upstream
) -> None:
    route = create_route(conn, "simulated", quiet_hours="22:00-08:00 Europe/Rome")
    path = paths.mark_quiet_path((simulator.id,), route.id)
    wait(conn, cast.smpp_acme_1.id)
    with write_transaction(conn):
        conn.execute("UPDATE queued_messages SET path = ?", (paths.get_path_ids(conn, [path])[path],))
    # On that day clocks go forward, so that it has 23 hours.
    end = int(datetime(2100, 3, 28, 6, tzinfo=UTC).timestamp() * 1000)
    assert list_sending_delays(conn, cast.smpp_acme_1.id, end - 1) == []
    assert list_sending_delays(conn, cast.smpp_acme_1.id, end + MINUTE_MS) == []
    assert list_sending_delays(conn, cast.smpp_acme_1.id, end + HOUR_MS) == [SendingDelay(SLOW, end)]


def test_it_is_as_quick_with_very_many_that_wait(conn: Connection, cast: Cast, simulator: Upstream) -> None:
    account_id = cast.smpp_acme_1.id
    _, at = wait(conn, account_id)
    conn.execute(
        "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 200000)"
        " INSERT INTO queued_messages (path, account_id, priority_rank, message_id) SELECT 0, ?, 3, (1 << 62) + n"
        " FROM n",
        (account_id,),
    )
    began = time.process_time()
    for _ in range(20):
        assert list_sending_delays(conn, account_id, at + HOUR_MS) == [SendingDelay(SLOW, at)]
    # To read all of them that often takes longer than this.
    assert time.process_time() - began < 0.1
