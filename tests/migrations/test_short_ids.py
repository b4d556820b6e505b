"""The migration to ids below 2^53: nothing else changes, whatever the former ids were."""

import json
import shutil
import sqlite3
from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from portal import migrations
from portal.core import clock, db
from portal.migrations.steps import migrations as all_steps
from portal.services.accounts import accounts
from portal.services.billing import orders, packs
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.credits import credits, expiry
from portal.services.history import deletion, history, refunds, search, search_index
from portal.services.history.search import SearchQuery
from portal.services.messages import blacklist, client_ids, deliveries, inbound, inbound_numbers, text_policy
from portal.services.messages.inbound import InboundQuery, MobileOriginatedMessage
from portal.services.messages.validation import Segment
from portal.services.operations import self_check
from portal.services.people import customers
from portal.services.statistics import rollup
from tests.migrations import former_ids
from tests.services.history.deleting import MARTA, delete, end, leave_former_sums, sent
from tests.services.submitting import cancel_message, store_messages
from tests.support import Cast, prepare_submit

EPOCH_MS = 1_577_836_800_000
QUARTER_MS = 15 * 60_000
MAX_COUNTER = (1 << 20) - 1


@pytest.fixture
def full(conn: db.Connection, cast: Cast) -> db.Connection:
    """A database with something in each table that holds ids."""
    acme_1, acme_2, globex_1 = (accounts.get_account(conn, f"smpp-{name}") for name in ("acme-1", "acme-2", "globex-1"))
    conn.execute("UPDATE accounts SET any_sender = 1")
    at = clock.now_ms() + 1_000
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, "48484")
    blacklist.add_blacklist_number(conn, SHELL, acme_1, "393409999999")
    gone = sent(conn, acme_1, *(f"parcel {number}" for number in range(8)), at=at)
    first, _ = store_messages(
        conn, [prepare_submit(conn, acme_1.id, segment=Segment(7, 2, number)) for number in (1, 2)], at + 1
    )
    end(conn, [first, first + 1], at + 5)
    store_messages(conn, [prepare_submit(conn, acme_1.id, destination="393409999999")], at + 1)
    dated = [prepare_submit(conn, acme_1.id, scheduled_at=at + clock.DAY_MS) for _ in range(3)]
    *dated_ids, ended_later = store_messages(conn, dated, at + 2)
    cancel_message(conn, acme_1.id, dated_ids[1])
    for message_id in gone[:2]:
        refunds.refund_message(conn, SHELL, acme_1, message_id, "a reason")
    later = at + 9 * clock.DAY_MS
    delete(conn, acme_1, replace(deletion.build_selection_scope(deletion.SENT, [*gone[1:3], gone[-1]]), as_of=later))
    inbound.store_inbound_messages(
        conn, [MobileOriginatedMessage("393401234567", "48484", text) for text in ("STOP", "Yes", "Thanks")], now=at + 3
    )
    deliveries.remove_accepted_deliveries(
        conn, deliveries.list_due_deliveries(conn, acme_1.id, at + 3, 3).ready[-1:], at + 4
    )
    sent(conn, acme_1, "its receipt waits", "and that one", at=at + 3, registered_delivery=1)
    sent(conn, globex_1, "of another customer", at=at + 4)
    while list(search_index.build_search_chunks(conn, chunk_size=3)):
        pass
    rollup.roll_up_all(conn)
    sent(conn, acme_1, "not counted yet", at=at + 5)
    for scope in (
        deletion.build_selection_scope(deletion.SENT, gone[3:5]),
        deletion.build_query_scope(conn, acme_1.id, InboundQuery()),
    ):
        deletion.create_deletion(conn, MARTA, acme_1, replace(scope, as_of=later))
    text_policy.change_text_policy(
        conn, SHELL, customers.get_customer(conn, "Globex"), text_policy.NONE, remove_stored=True
    )
    credits.grant_credits(conn, SHELL, acme_2, 5_000, expires_at=at + clock.DAY_MS, now=at)
    credits.grant_credits(conn, SHELL, acme_2, 5_000, expires_at=later, now=at)
    orders.pay_order(conn, SHELL, orders.place_order(conn, SHELL, acme_2, packs.list_packs(conn)[0]))
    assert expiry.expire_credits(conn, at + 2 * clock.DAY_MS) == 1
    sent(conn, acme_2, "newest", at=at + 3 * clock.DAY_MS)
    delete(conn, acme_2, replace(deletion.build_query_scope(conn, acme_2.id, SearchQuery()), as_of=later))
    end(conn, [ended_later], later)
    leave_former_sums(conn)
    assert self_check.list_problem_texts(conn) == []
    return conn


@pytest.mark.slow
def test_nothing_but_the_ids_changes_and_each_keeps_its_time_and_counter(full, data, tmp_path):
    file = tmp_path / "former.db"
    former_ids.write_former_database(full, file)
    columns = former_ids.list_former_columns(file)
    counters = {row[0] for row in former_ids.read_tables(file, {"counters": ["name"]})["counters"]}
    assert migrations.migrate(file)[0] == former_ids.STEP
    before, after = (former_ids.read_tables(each, columns) for each in (data / db.FILE_NAME, file))
    assert {name for name, value in after["counters"] if value} > {"former_message_id", "former_received_id"}
    for each in (before, after):
        each["counters"] = [row for row in each["counters"] if row[0] in counters]
    for table in (*former_ids.ID_COLUMNS, "ended", "deletions"):
        assert before[table], f"nothing is tested of {table}"
    for table in columns:
        assert list(map(comparable, after[table])) == list(map(comparable, before[table])), table
    assert former_ids.read_tables(file, {"former_ids": ["first_id"]}) == {"former_ids": []}


def comparable(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """SQLite writes JSON without spaces."""
    return tuple(each.replace(" ", "") if isinstance(each, str) and each.startswith("{") else each for each in row)


@pytest.mark.slow
def test_no_id_is_left_that_needs_more_than_53_bits(full, tmp_path):
    file = tmp_path / "former.db"
    former_ids.write_former_database(full, file, lambda at: at % 2 * 1_040_000)
    migrations.migrate(file)
    tables = former_ids.read_tables(file, former_ids.list_columns(file))
    for table in tables.keys() - {"audit_log", "former_ids"}:
        for row in tables[table]:
            for number in iterate_numbers(row):
                assert number < 1 << 53 or number == (1 << 63) - 2, (table, row)


def iterate_numbers(values: Any) -> Iterator[int]:
    """All numbers in rows, in the JSON in them, and in `ended`."""
    for each in values.values() if isinstance(values, dict) else values:
        if isinstance(each, int):
            yield each
        elif isinstance(each, str) and each.startswith(("{", "[")):
            yield from iterate_numbers(json.loads(each))
        elif isinstance(each, list | dict):
            yield from iterate_numbers(each)
        elif isinstance(each, bytes) and len(each) == 8:
            yield from array("q", each)


@pytest.mark.slow
@pytest.mark.parametrize("with_movements", [True, False])
@pytest.mark.parametrize(
    "raised",
    [lambda at: 4_090, lambda at: 1_040_000, lambda at: at % 2 * 1_040_000, lambda at: at % 3 * 5_000],
    ids=["over", "far over", "far over in turns", "over in turns"],
)
def test_ids_with_long_counters_run_ahead_and_all_that_refers_to_them_follows(full, tmp_path, raised, with_movements):
    file = tmp_path / "former.db"
    former_ids.write_former_database(full, file, raised, with_movements=with_movements)
    former = former_ids.read_tables(file, former_ids.list_columns(file))
    migrations.migrate(file)
    with closing(db.connect(file)) as conn:
        assert self_check.list_problem_texts(conn) == []
        assert conn.execute("PRAGMA foreign_key_check").fetchall() == []
        (long,) = conn.execute("SELECT count(*) FROM former_ids").fetchone()
        assert long
        for table in ("messages", "received"):
            known = client_ids.load_client_ids(conn, table)
            short_ids = [row["id"] for row in conn.execute(f"SELECT id FROM {table} ORDER BY id")]
            assert [known.get_client_id(each) for each in short_ids] == [row[0] for row in former[table]]
            assert [known.get_row_id(row[0]) for row in former[table]] == short_ids
            assert [known.get_row_id(each) for each in short_ids] == short_ids
        # Work that was under way goes on.
        for deletion_id in deletion.list_open_deletion_ids(conn):
            for _ in deletion.run_deletion(conn, deletion_id):
                pass
        rollup.roll_up_all(conn)
        assert self_check.list_problem_texts(conn) == []
        acme_1 = accounts.get_account(conn, "smpp-acme-1")
        texts = [each.text for each in search.search_texts(conn, acme_1.id, SearchQuery(text="parcel")).texts]
        assert texts == ["parcel 6", "parcel 5", "parcel 0"]


def test_an_id_that_a_client_was_given_finds_its_message(full, tmp_path, cast):
    file = tmp_path / "former.db"
    former_ids.write_former_database(full, file, lambda at: 4_090)
    with closing(db.connect(file)) as former:
        (sent_id,) = former.execute("SELECT id FROM messages WHERE text = 'parcel 5'").fetchone()
        (received_id,) = former.execute("SELECT id FROM received WHERE text = 'Yes'").fetchone()
    migrations.migrate(file)
    with closing(db.connect(file)) as conn:
        assert history.get_sent_text_by_message_id(conn, cast.smpp_acme_1.id, sent_id).text == "parcel 5"
        assert inbound.get_inbound_message(conn, cast.smpp_acme_1.id, received_id).text == "Yes"
        account = refunds.get_account_by_message_id(conn, sent_id)
        assert refunds.refund_message(conn, SHELL, account, sent_id, "asked for with the former id") == 1_000
        short_id = history.get_sent_text_by_message_id(conn, account.id, sent_id).id
        with pytest.raises(refunds.AlreadyRefunded):
            refunds.refund_message(conn, SHELL, account, short_id, "asked for with the short id")
        assert self_check.list_problem_texts(conn) == []
        with db.write_transaction(conn):
            new_id = ids.allocate_id(conn, "messages")
        assert client_ids.load_client_ids(conn, "messages").get_client_id(new_id) == new_id


# What follows from messages, as the version before counted it.
TOTALS = """
INSERT INTO daily_totals (account_id, day, sent, delivered, parts, price)
    SELECT 1, (id >> 20) / 86400000 AS day, count(*), count(*), sum(parts), sum(price) FROM messages GROUP BY day;
INSERT INTO statistics
    SELECT 1, 0, (id >> 20) / 3600000 AS hour, country, source, count(*), count(*), 0, 0, 0, sum(parts), sum(price)
    FROM messages GROUP BY hour;
INSERT INTO statistics
    SELECT 1, 1, begins / 24 AS day, country, source, sum(sent), sum(delivered), 0, 0, 0, sum(parts), sum(price)
    FROM statistics GROUP BY day;
INSERT INTO statistics
    SELECT 1, 2, strftime('%Y', begins * 86400, 'unixepoch') * 12 + strftime('%m', begins * 86400, 'unixepoch') - 1
           AS month, country, source, sum(sent), sum(delivered), 0, 0, 0, sum(parts), sum(price)
    FROM statistics WHERE length = 1 GROUP BY month;
INSERT INTO statistics_endings SELECT 1, length, begins, 0, sent FROM statistics;
INSERT INTO statistics_times SELECT 1, length, begins, 40, sent FROM statistics;
UPDATE gathered SET message_id = (SELECT max(id) FROM messages);
"""


def test_messages_of_a_wrong_clock_count_on_the_first_day_of_2020(tmp_path, empty_former_database):
    file = tmp_path / db.FILE_NAME
    shutil.copyfile(empty_former_database, file)
    times = [1_430_000_000_000, 1_430_000_000_000, 1_450_000_000_000, EPOCH_MS + 5, EPOCH_MS + clock.DAY_MS]
    message_ids = [(at << 20) + number for number, at in enumerate(times)]
    with closing(db.connect(file)) as conn:
        conn.execute(
            "INSERT INTO movements (id, account_id, kind, amount, balance_after, actor)"
            " VALUES (1, 1, 'grant', 5000, 5000, 'shell')"
        )
        for spent, each in enumerate(message_ids, 1):
            conn.execute(
                "INSERT INTO messages (id, account_id, source, source_ton, source_npi, destination, country, text,"
                " data_coding, registered_delivery, parts, price, state, ptt, done_at)"
                " VALUES (?1, 1, 'ACME', 5, 0, '393401234567', 'IT', ?1, 0, 0, 1, 1000, 2, 0, 0)",
                (each,),
            )
            conn.execute(
                "INSERT INTO movements (id, account_id, kind, amount, balance_after, actor, messages, first_message_id,"
                " last_message_id) VALUES (?1, 1, 'usage', -1000, ?2, 'system', 1, ?1, ?1)",
                (each, 5_000 - spent * 1_000),
            )
        conn.executescript(TOTALS)
    migrations.migrate(file)
    with closing(db.connect(file)) as conn:
        assert self_check.list_problem_texts(conn) == []
        rows = conn.execute("SELECT id, text FROM messages ORDER BY id").fetchall()
        assert [int(row["text"]) for row in rows] == message_ids
        assert [ids.time_from_id(row["id"]) for row in rows] == [max(each, EPOCH_MS) for each in times]
        assert [row["sent"] for row in conn.execute("SELECT sent FROM daily_totals ORDER BY day")] == [4, 1]
        for table, column in (
            ("statistics", "sent"),
            ("statistics_endings", "messages"),
            ("statistics_times", "messages"),
        ):
            counts = conn.execute(f"SELECT length, {column} FROM {table} ORDER BY length, begins").fetchall()
            assert [tuple(row) for row in counts] == [(0, 4), (0, 1), (1, 4), (1, 1), (2, 5)]


# --- any ids


@pytest.fixture(scope="module")
def empty_former_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("former") / "empty.db"
    former_ids.create_former_database(file)
    with closing(db.connect(file)) as conn:
        conn.execute("INSERT INTO customers (id, name, contact_email, created_at) VALUES (1, 'Acme', '', 0)")
        conn.execute(
            "INSERT INTO accounts (id, customer_id, name, kind, windowing, throughput, binds, created_at)"
            " VALUES (1, 1, 'smpp-acme-1', 'smpp', 1, 1, 1, 0)"
        )
    return file


TIMES = st.one_of(
    st.integers(EPOCH_MS - 3, EPOCH_MS + 3),
    st.integers(EPOCH_MS + QUARTER_MS - 3, EPOCH_MS + QUARTER_MS + 3),
    # Before April 1970 former ids were as small as the new ones, and can't be told from them.
    st.integers(1 << 33, (1 << 33) + 5),
    st.integers(1 << 33, 3_776_000_000_000),
)
COUNTERS = st.one_of(st.integers(0, 3), st.integers(4_090, 4_100), st.integers(0, MAX_COUNTER), st.just(MAX_COUNTER))
BLOCK_SIZES = st.one_of(st.integers(1, 5), st.integers(1, 5_000))


@settings(max_examples=25)
@given(st.lists(st.tuples(TIMES, COUNTERS, BLOCK_SIZES), min_size=1, max_size=6))
@example([(EPOCH_MS + QUARTER_MS - 1, 0, 9_000), (EPOCH_MS + QUARTER_MS, 0, 3)])
@example([(0, 1, 3), (EPOCH_MS - 1, 0, 5_000), (EPOCH_MS, 0, 2)])
@example([(1_790_000_000_000, MAX_COUNTER, 5_000)])
def test_any_ids_keep_order_and_time_and_are_found_by_what_they_were(empty_former_database, blocks):
    former = sorted({(at << 20) + counter + number for at, counter, size in blocks for number in range(size)})
    with closing(sqlite3.connect(":memory:")) as conn:
        with closing(sqlite3.connect(empty_former_database)) as source:
            source.backup(conn)
        conn.executemany(
            "INSERT INTO messages (id, account_id, source, source_ton, source_npi, destination, country, text,"
            " data_coding, registered_delivery, parts, price, state, ptt)"
            " VALUES (?, 1, '', 0, 0, '', 'IT', '', 0, 0, 1, 0, 2, 0)",
            [(each,) for each in former],
        )
        with conn:
            (step,) = (each for each in all_steps._migrations if each.name == former_ids.STEP)
            step.fn(Database(conn))
        short = [row_id for (row_id,) in conn.execute("SELECT id FROM messages ORDER BY id")]
        known = client_ids.load_client_ids(conn, "messages")
    assert len(short) == len(former)
    assert short[0] >= 1
    for row_id, was in zip(short, former, strict=True):
        was_at = was >> 20
        assert ids.time_from_id(row_id) // QUARTER_MS == max(was_at, EPOCH_MS) // QUARTER_MS
        assert known.get_client_id(row_id) == was
        assert known.get_row_id(was) == row_id
        if was >= 1 << 53:
            assert known.get_row_id(row_id) == row_id
    if all(each & MAX_COUNTER < 4_096 and each >> 20 > EPOCH_MS for each in former):
        assert short == [ids.min_id_at_time(each >> 20) + (each & MAX_COUNTER) for each in former]
    assert short[-1] < 1 << 53, "until 2089"
