"""What `/metrics` says of messages that wait, and of upstreams."""

import re
from typing import Any

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.services.accounts import refused_binds, session_records
from portal.services.accounts.accounts import Account
from portal.services.accounts.refused_binds import NOT_AUTHORISED, RefusedBind
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.operations import metrics
from portal.services.operations.metrics import render_metrics
from portal.services.upstreams import binds, counters, upstreams
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.counters import COUNTERS
from tests.services.submitting import store_messages
from tests.support import prepare_submit, record_refused_messages

HOUR_MS = DAY_MS // 24


def read_value(conn: Connection, name: str) -> int:
    found = re.search(rf"^{re.escape(name)} (\d+)$", render_metrics(conn), re.MULTILINE)
    assert found, name
    return int(found[1])


def wait_since(conn: Connection, account: Account, at: int, **attributes: Any) -> int:
    """Store a message at a moment, which waits nowhere yet; returns its id."""
    (message_id,) = store_messages(conn, [prepare_submit(conn, account.id, **attributes)], at)
    conn.execute("DELETE FROM queued_messages WHERE message_id = ?", (message_id,))
    return message_id


def test_an_installation_without_upstreams_waits_for_nothing(conn):
    assert read_value(conn, "smpp_portal_messages_waiting") == 0
    assert read_value(conn, "smpp_portal_messages_waiting_oldest_seconds") == 0
    assert read_value(conn, "smpp_portal_unmatched_receipts") == 0
    assert "smpp_portal_upstream_" not in render_metrics(conn)


def test_each_line_is_one_of_prometheus_text_format(conn, keys):
    upstreams.create_upstream(conn, keys, SHELL, "carrier.a-1", host="h", system_id="s", password="p")
    *lines, end = render_metrics(conn).split("\n")
    assert end == ""
    assert all(re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+(\{(upstream|reason)="[\w.-]+"\})? \d+', line) for line in lines)
    named = re.findall(r"^# TYPE (\w+) (counter|gauge)$", "\n".join(lines), re.MULTILINE)
    assert len({name for name, _ in named}) == len(named)
    assert all(name.endswith("_total") == (kind == "counter") for name, kind in named)


def test_what_is_queued_and_held_waits_and_the_oldest_counts(conn, acme_1, globex_1):
    now = now_ms()
    globex = {"account": globex_1, "source": "GLOBEX"}
    dated = wait_since(conn, at=now - 5 * HOUR_MS, scheduled_at=now - HOUR_MS // 2, **globex)
    held = wait_since(conn, acme_1, now - 4 * HOUR_MS)
    of_low_priority = wait_since(conn, acme_1, now - 3 * HOUR_MS)
    of_globex = wait_since(conn, at=now - 2 * HOUR_MS, **globex)
    newest = wait_since(conn, acme_1, now - HOUR_MS)
    assert ids.time_from_id(dated) < ids.time_from_id(held) < now - 3 * HOUR_MS
    waiting = [(acme_1.id, 3, newest), (globex_1.id, 0, of_globex), (globex_1.id, 3, dated)]
    conn.executemany("INSERT INTO queued_messages VALUES (0, ?, ?, ?)", waiting)
    # Each step makes another one the oldest: of another account, of another rank, and one that is held.
    expected = [(3, 2), (4, 3), (5, 4)]
    added = [
        None,
        ("INSERT INTO queued_messages VALUES (0, ?, 5, ?)", (acme_1.id, of_low_priority)),
        (
            "INSERT INTO held_messages (account_id, destination, message_id, attempts, not_before, error)"
            " VALUES (?, '39340', ?, 1, 1, '')",
            (acme_1.id, held),
        ),
    ]
    for statement, (count, hours) in zip(added, expected, strict=True):
        if statement:
            conn.execute(*statement)
        assert read_value(conn, "smpp_portal_messages_waiting") == count
        age = read_value(conn, "smpp_portal_messages_waiting_oldest_seconds")
        assert hours * 3600 <= age < hours * 3600 + 60


@pytest.mark.parametrize("is_held", [False, True])
def test_what_has_waited_since_its_date_hides_nothing_that_has_waited_longer(conn, acme_1, is_held):
    now = now_ms()
    for _ in range(3):
        dated = wait_since(conn, acme_1, now - 6 * HOUR_MS, scheduled_at=now - HOUR_MS)
        put_into_queue(conn, acme_1, dated, is_held=is_held)
    for hours in (4, 2):
        put_into_queue(conn, acme_1, wait_since(conn, acme_1, now - hours * HOUR_MS), is_held=is_held)
    age = read_value(conn, "smpp_portal_messages_waiting_oldest_seconds")
    assert 4 * 3600 <= age < 4 * 3600 + 60


def test_no_more_messages_with_dates_are_looked_past_than_so_many(conn, acme_1, globex_1, monkeypatch):
    monkeypatch.setattr(metrics, "_MAX_FIRST_SUBMITTED", 4)
    now = now_ms()
    globex = {"account": globex_1, "source": "GLOBEX"}
    for account, count, values in ((acme_1, 3, {"account": acme_1}), (globex_1, 1, globex)):
        for _ in range(count):
            dated = wait_since(conn, at=now - 6 * HOUR_MS, scheduled_at=now - HOUR_MS, **values)
            put_into_queue(conn, account, dated, is_held=False)
    put_into_queue(conn, globex_1, wait_since(conn, at=now - 4 * HOUR_MS, **globex), is_held=False)
    age = read_value(conn, "smpp_portal_messages_waiting_oldest_seconds")
    assert 3600 <= age < 3600 + 60


def put_into_queue(conn: Connection, account: Account, message_id: int, *, is_held: bool) -> None:
    if is_held:
        conn.execute(
            "INSERT INTO held_messages (account_id, destination, message_id, attempts, not_before, error)"
            " VALUES (?, '39340', ?, 1, 1, '')",
            (account.id, message_id),
        )
    else:
        conn.execute("INSERT INTO queued_messages VALUES (0, ?, 3, ?)", (account.id, message_id))


def test_a_disabled_upstream_should_have_no_binds(conn, keys):
    carrier = upstreams.create_upstream(conn, keys, SHELL, "carrier", host="h", system_id="s", password="p", binds=3)
    session_records.record_component_heartbeat(conn, "smsc", 0)
    for change, expected in (
        (upstreams.disable_upstream, 0),
        # Its receipts still come.
        (upstreams.drain_upstream, 3),
        (upstreams.enable_upstream, 3),
    ):
        change(conn, SHELL, carrier)
        assert read_value(conn, 'smpp_portal_upstream_binds{upstream="carrier"}') == expected
        assert read_value(conn, 'smpp_portal_upstream_binds_bound{upstream="carrier"}') == 0


def test_upstreams_are_told_by_name(conn, keys):
    for name in ("carrier", "second"):
        upstreams.create_upstream(conn, keys, SHELL, name, host="h", system_id="s", password="p", binds=3)
    session_records.record_component_heartbeat(conn, "smsc", 0)
    states = [BindState(1, "trx", "bound", 1), BindState(2, "trx", "bound", 1), BindState(3, "trx", "refused", 1)]
    binds.record_bind_states(conn, 1, states)
    counters.add_to_counters(conn, 1, {name: number for number, name in enumerate(COUNTERS, 10)})
    for name, bound in (("carrier", 2), ("second", 0)):
        assert read_value(conn, f'smpp_portal_upstream_binds_bound{{upstream="{name}"}}') == bound
        assert read_value(conn, f'smpp_portal_upstream_binds{{upstream="{name}"}}') == 3
    for number, name in enumerate(COUNTERS, 10):
        assert read_value(conn, f'smpp_portal_upstream_{name}_total{{upstream="carrier"}}') == number
        assert read_value(conn, f'smpp_portal_upstream_{name}_total{{upstream="second"}}') == 0
    conn.execute(
        "INSERT INTO unmatched_receipts (upstream, received_at, message_id, source, destination, ptt, status, text,"
        " tried) VALUES (1, 1, 'x', '1', '2', 0, 'DELIVRD', '', '')"
    )
    assert read_value(conn, "smpp_portal_unmatched_receipts") == 1


def test_what_was_refused_in_this_hour_is_counted_by_reason(conn, acme_1, globex_1, monkeypatch):
    noon = 1_900_000_000_000 // DAY_MS * DAY_MS + DAY_MS // 2
    monkeypatch.setattr(metrics, "now_ms", lambda: noon + HOUR_MS // 2)
    for account in (acme_1, globex_1):
        record_refused_messages(conn, account.id, {("sender", "A"): 3, ("sender", "B"): 2, ("coding", "4"): 1}, noon)
    record_refused_messages(conn, acme_1.id, {("sender", "A"): 100}, noon - 1)
    refused_binds.record_refused_binds(conn, [RefusedBind(acme_1.id, "203.0.113.7", NOT_AUTHORISED, noon)])

    def count(kind: str, reason: str) -> int:
        return read_value(conn, f'smpp_portal_refused_{kind}_total{{reason="{reason}"}}')

    assert (count("messages", "sender"), count("messages", "coding"), count("messages", "price")) == (10, 2, 0)
    assert (count("binds", "not_authorised"), count("binds", "wrong_password")) == (1, 0)
    monkeypatch.setattr(metrics, "now_ms", lambda: noon + HOUR_MS)
    assert count("messages", "sender") == count("binds", "not_authorised") == 0
