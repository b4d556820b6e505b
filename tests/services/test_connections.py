import pytest

from portal.db import now_ms
from portal.services import connections
from portal.services.connections import NOT_AUTHORISED, Connection, Progress, RefusedBind

DAY_MS = 86_400_000


@pytest.fixture
def session(acme_1):
    now = now_ms()
    return Connection(1, acme_1.id, "127.0.0.1", "transceiver", "TLSv1.3", 1, now, now)


def test_open_sessions_are_seen_while_they_are_open(conn, acme_1, acme_2, session):
    connections.opened(conn, [session])
    assert connections.of_account(conn, acme_1.id) == [session]
    assert connections.of_account(conn, acme_2.id) == []
    connections.progressed(conn, [Progress(1, session.seen_at + 5, 10, 7, 3)])
    (seen,) = connections.of_account(conn, acme_1.id)
    assert (seen.seen_at, seen.submitted, seen.delivered, seen.window) == (session.seen_at + 5, 10, 7, 3)
    connections.closed(conn, [1])
    assert connections.of_account(conn, acme_1.id) == []


def test_none_outlives_the_server(conn, acme_1, session):
    connections.opened(conn, [session])
    connections.all_closed(conn)
    assert connections.of_account(conn, acme_1.id) == []


def test_refused_binds_are_counted_by_address_and_reason(conn, acme_1):
    now = now_ms()
    connections.refused(conn, [RefusedBind(acme_1.id, "203.0.113.7", NOT_AUTHORISED, now - 10 + n) for n in range(3)])
    connections.refused(conn, [RefusedBind(acme_1.id, "203.0.113.8", connections.WRONG_PASSWORD, now)])
    assert [(each.address, each.reason, each.count) for each in connections.refusals(conn, acme_1.id)] == [
        ("203.0.113.8", connections.WRONG_PASSWORD, 1),
        ("203.0.113.7", NOT_AUTHORISED, 3),
    ]


def test_a_week_without_one_ends_the_count(conn, acme_1):
    now = now_ms()
    connections.refused(conn, [RefusedBind(acme_1.id, "203.0.113.7", NOT_AUTHORISED, now - 8 * DAY_MS)])
    assert connections.refusals(conn, acme_1.id) == []
    connections.refused(conn, [RefusedBind(acme_1.id, "203.0.113.7", NOT_AUTHORISED, now)])
    (seen,) = connections.refusals(conn, acme_1.id)
    assert (seen.count, seen.first_at) == (1, now)


def test_a_heart_that_stops_beating_is_noticed(conn):
    assert not connections.alive(conn, "smsc")
    connections.heartbeat(conn, "smsc", now_ms())
    assert connections.alive(conn, "smsc")
    conn.execute("UPDATE components SET seen_at = seen_at - 60000")
    assert not connections.alive(conn, "smsc")
    connections.heartbeat(conn, "smsc", now_ms())
    connections.gone(conn, "smsc")
    assert not connections.alive(conn, "smsc")


def test_refused_binds_from_ever_new_addresses_are_kept_within_bounds(conn, acme_1, acme_2):
    connections.refused(conn, [RefusedBind(acme_2.id, "203.0.113.7", NOT_AUTHORISED, 1)])
    now = now_ms()
    for number in range(30):
        connections.refused(
            conn,
            [
                RefusedBind(acme_1.id, f"2001:db8::{number:x}:{host:x}", NOT_AUTHORISED, now + number)
                for host in range(10)
            ],
        )
    kept = connections.refusals(conn, acme_1.id)
    assert 90 < len(kept) <= 110
    assert kept[0].last_at == now + 29
    assert conn.execute("SELECT count(*) FROM refused_binds WHERE account_id = ?", (acme_2.id,)).fetchone()[0] == 1
