"""Messages that are too old are removed by whole days, and the self-check still passes."""

import pytest

from portal.core.clock import DAY_MS, HOUR_MS
from portal.core.db import insert_row
from portal.services.accounts import account_messages, session_records
from portal.services.accounts.session_records import SmppSessionEnd, SmppSessionRecord
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.history import deletion, refunds, retention
from portal.services.history.deletion import SENT
from portal.services.messages import deliveries, inbound, inbound_numbers
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.messages.validation import Segment
from portal.services.operations import self_check
from portal.services.people import customers
from portal.services.statistics import rollup
from portal.services.upstreams import traces, unclaimed
from portal.services.upstreams.traces import TracedPdu
from tests.services.history.deleting import NOW, day, delete, end, keep, left, sent
from tests.services.upstreams.waiting import add_upstream


@pytest.mark.parametrize(
    ("months", "today", "first"),
    [
        (12, (2026, 11, 23), (2025, 11, 23)),
        (1, (2026, 3, 31), (2026, 2, 28)),
        (12, (2028, 2, 29), (2027, 2, 28)),
        (1, (2027, 1, 15), (2026, 12, 15)),
        (5000, (2026, 11, 23), (1970, 1, 1)),
    ],
)
def test_months_are_counted_back_to_the_same_day(months, today, first):
    assert retention.get_first_retained_day(months, day(*today) * DAY_MS + 1) == day(*first)


def test_what_is_older_goes_by_whole_days(conn, acme_1):
    cut = day(2026, 10, 23) * DAY_MS
    old = sent(conn, acme_1, "a year ago", at=cut - 300 * DAY_MS)
    old += sent(conn, acme_1, "the evening before", at=cut - 1)
    remaining = sent(conn, acme_1, "that day", at=cut)

    assert keep(conn, 1, NOW) == 2

    assert left(conn, acme_1) == remaining
    assert self_check.list_problem_texts(conn) == []
    assert conn.execute("SELECT kept_since FROM accounts WHERE id = ?", (acme_1.id,)).fetchone()[0] == cut // DAY_MS


@pytest.mark.parametrize("indexed", [0, 3, 6])
def test_what_is_older_goes_however_much_is_in_the_index(conn, acme_1, indexed):
    cut = day(2026, 10, 23) * DAY_MS
    sent(conn, acme_1, *["old"] * 5, at=cut - DAY_MS)
    remaining = sent(conn, acme_1, "that day", at=cut)
    if indexed:
        account_messages.index_message_batch(conn, max_messages=indexed)

    assert keep(conn, 1, NOW) == 5

    assert left(conn, acme_1) == remaining
    account_messages.index_message_batch(conn)
    assert [row[0] for row in conn.execute("SELECT message_id FROM account_messages")] == remaining
    assert self_check.list_problem_texts(conn) == []


def test_a_customers_own_number_of_months_counts(conn, cast, acme_1, globex_1):
    ours = sent(conn, acme_1, "half a year ago", at=NOW - 180 * DAY_MS)
    sent(conn, globex_1, "half a year ago", at=NOW - 180 * DAY_MS + 1, source="GLOBEX")
    customers.change_customer(conn, SHELL, customers.get_customer_by_id(conn, cast.acme), messages_months=24)

    keep(conn, 3, NOW)

    assert left(conn, acme_1) == ours
    assert left(conn, globex_1) == []
    assert retention.get_retention_months(conn, cast.acme, 3) == 24
    assert retention.get_retention_months(conn, cast.globex, 3) == 3
    customers.change_customer(
        conn, SHELL, customers.get_customer_by_id(conn, cast.acme), messages_months=customers.DEFAULT_RETENTION
    )
    assert retention.get_retention_months(conn, cast.acme, 3) == 3


def test_days_that_have_gone_do_not_come_back_with_more_months(conn, acme_1):
    sent(conn, acme_1, "half a year ago", at=NOW - 180 * DAY_MS)
    keep(conn, 3, NOW)

    keep(conn, 12, NOW)

    assert self_check.list_problem_texts(conn) == []


def test_what_is_under_way_or_waits_stays_until_it_has_ended(conn, acme_1):
    at = NOW - 180 * DAY_MS
    (underway,) = sent(conn, acme_1, "on its way", at=at, ended=False)
    (waits,) = sent(conn, acme_1, "its receipt waits", at=at + 1, registered_delivery=1)
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "390123")
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage("393401234567", "390123", "Yes")], now=at + 2)
    conn.execute("UPDATE deliveries SET id = id + ?", (ids.id_span(NOW - at),))

    keep(conn, 1, NOW)

    assert left(conn, acme_1) == [underway, waits]
    assert len(inbound.search_inbound_messages(conn, acme_1.id).messages) == 1
    assert self_check.list_problem_texts(conn) == []
    end(conn, [underway], at=NOW)
    deliveries.remove_accepted_deliveries(conn, deliveries.list_due_deliveries(conn, acme_1.id, NOW, 10).ready, NOW)
    assert self_check.list_problem_texts(conn) == []
    keep(conn, 1, NOW + 1)
    assert left(conn, acme_1) == []
    assert inbound.search_inbound_messages(conn, acme_1.id).messages == []
    counted = conn.execute(
        "SELECT sum(sent), sum(delivered) FROM statistics WHERE length = ?", (rollup.DAY,)
    ).fetchone()
    assert tuple(counted) == (2, 2)
    assert self_check.list_problem_texts(conn) == []


def test_a_text_of_the_midnight_before_goes_a_day_later(conn, acme_1):
    cut = day(2026, 10, 23) * DAY_MS
    parts = sent(conn, acme_1, "part 1", at=cut - 1000, segment=Segment(7, 2, 1))
    parts += sent(conn, acme_1, "part 2", at=cut + 1000, segment=Segment(7, 2, 2))

    keep(conn, 1, NOW)
    assert left(conn, acme_1) == parts
    assert self_check.list_problem_texts(conn) == []

    keep(conn, 1, NOW + DAY_MS)
    assert left(conn, acme_1) == []
    assert self_check.list_problem_texts(conn) == []


def test_what_was_left_of_deleted_messages_goes_with_their_days(conn, acme_1):
    for at in (NOW - 60 * DAY_MS, NOW - 10 * DAY_MS):
        (message,) = sent(conn, acme_1, "one", at=at)
        refunds.refund_message(conn, SHELL, acme_1, message, "a present")
        delete(conn, acme_1, deletion.build_selection_scope(SENT, [message]))

    former = {
        "deleted_days": "VALUES (?1, {day}, 'IT', 'ACME', 1, 0, 0, 0, 0, 0, 0)",
        "deleted_charges": "VALUES (?1, {id}, {id}, {id}, 1, 1)",
        "deleted_refunds": "VALUES ({id}, ?1, 1, 2, 0)",
    }
    old = {"day": NOW // DAY_MS - 60, "id": ids.min_id_at_time(NOW - 60 * DAY_MS)}
    for table, values in former.items():
        conn.execute(f"INSERT INTO {table} {values.format(**old)}", (acme_1.id,))

    keep(conn, 1, NOW)

    for table, count in ({"deleted_messages": 1} | dict.fromkeys(former, 0)).items():
        assert conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == count, table
    assert self_check.list_problem_texts(conn) == []


def test_sessions_go_with_the_days_of_their_messages(conn, acme_1, globex_1):
    new = NOW - 10 * DAY_MS
    kept_since = retention.get_first_retained_day(1, NOW) * DAY_MS
    # The day before, too: nobody knows how long a session went on whose server has died.
    ends = [kept_since - DAY_MS - 1, kept_since - DAY_MS, new]
    for number, (account, at) in enumerate([*((acme_1, each) for each in ends), (globex_1, new)], 1):
        session_records.insert_smpp_sessions(
            conn, [SmppSessionRecord(number, account.id, "127.0.0.1", "transceiver", "", 1, at, at)]
        )
        session_records.close_smpp_sessions(conn, [SmppSessionEnd(number, at, keep_record=True)])
    keep(conn, 1, NOW)
    assert [row[0] for row in conn.execute("SELECT id FROM ended_sessions")] == [2, 3, 4]


def test_damage_of_days_that_are_kept_is_named_beside_those_that_are_not(conn, acme_1):
    sent(conn, acme_1, "old", at=NOW - 60 * DAY_MS)
    sent(conn, acme_1, "new", at=NOW - 10 * DAY_MS)
    keep(conn, 1, NOW)

    conn.execute("UPDATE daily_totals SET sent = sent + 1")
    assert [
        each for each in self_check.list_problem_texts(conn) if "daily_totals" in each
    ] == self_check.list_problem_texts(conn)
    assert len(self_check.list_problem_texts(conn)) == 1
    conn.execute("UPDATE daily_totals SET sent = sent - 1")
    conn.execute("DELETE FROM messages")
    rollup.roll_up_all(conn)
    assert len(self_check.list_problem_texts(conn)) == 3


def test_receipts_of_no_message_go_after_thirty_days(conn):
    conn.executemany(
        "INSERT INTO unmatched_receipts (upstream, received_at, message_id, source, destination, ptt, status, text,"
        " tried) VALUES (1, ?, ?, 'ACME', '393401234567', 0, 'DELIVRD', 'id:1 stat:DELIVRD', 'the id')",
        [
            *((NOW - 31 * DAY_MS, "older") for _ in range(1_200)),
            (NOW - 30 * DAY_MS - 1, "just older"),
            (NOW - 30 * DAY_MS, "not yet"),
            (NOW, "new"),
        ],
    )
    # However long messages are kept.
    assert keep(conn, 12, NOW) == 0
    assert [row[0] for row in conn.execute("SELECT message_id FROM unmatched_receipts ORDER BY id")] == [
        "not yet",
        "new",
    ]


def test_messages_that_no_account_took_go_after_thirty_days(conn):
    texts = {"older": NOW - 31 * DAY_MS, "just older": NOW - 30 * DAY_MS - 1, "not yet": NOW - 30 * DAY_MS, "new": NOW}
    unclaimed.keep_unowned_messages(conn, [(at, 1, "393401234567", "48484", text) for text, at in texts.items()])
    assert keep(conn, 12, NOW) == 0
    assert [each.text for each in unclaimed.list_kept(conn, unclaimed.UNOWNED_MESSAGES, None, 10)] == [
        "new",
        "not yet",
    ]


def test_traced_pdus_go_after_a_day(conn, keys):
    upstream = add_upstream(conn, keys)
    traces.start_trace(conn, SHELL, upstream, 1)
    times = [NOW - DAY_MS - 1, NOW - DAY_MS, NOW]
    traces.store_pdus(conn, upstream.id, [TracedPdu(at, True, 1, 1, "unbind", "") for at in times], 0)
    assert keep(conn, 12, NOW) == 0
    assert [each.at for each in traces.list_pdus(conn, upstream.id, limit=10)] == [NOW, NOW - DAY_MS]


def test_test_messages_go_after_thirty_days_and_hours_of_upstreams_after_eight(conn, keys):
    upstream = add_upstream(conn, keys)
    for text, at in {"older": NOW - 31 * DAY_MS, "not yet": NOW - 30 * DAY_MS, "new": NOW}.items():
        values = {"source": "", "destination": "393401234567", "text": text, "state": "delivered"}
        insert_row(conn, "test_messages", upstream=upstream.id, created_at=at, **values)
    hours = [(NOW - days * DAY_MS) // HOUR_MS for days in (9, 7, 0)]
    for hour in hours:
        insert_row(conn, "upstream_hours", upstream=upstream.id, hour=hour, name="delivered", value=1)
    assert keep(conn, 12, NOW) == 0
    texts = [row["text"] for row in conn.execute("SELECT text FROM test_messages ORDER BY id")]
    assert texts == ["not yet", "new"]
    assert [row["hour"] for row in conn.execute("SELECT hour FROM upstream_hours ORDER BY hour")] == hours[1:]
