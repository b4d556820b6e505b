"""Which messages are an account's: the same wherever the mark of their index is, and what takes them into it."""

import sqlite3
from collections.abc import Sequence
from itertools import chain, count, product, repeat

import pytest

from portal.core.db import Connection, write_transaction
from portal.services.accounts import account_messages
from portal.services.accounts.accounts import Account
from portal.services.operations import self_check
from portal.services.statistics import rollup
from tests.services.submitting import store_messages
from tests.support import prepare_submit


@pytest.fixture
def stored(conn: Connection, acme_1: Account, globex_1: Account) -> dict[int, list[int]]:
    """The messages of two accounts, one after the other, by account id."""
    submits = [
        prepare_submit(conn, account.id, source=source)
        for _ in range(5)
        for account, source in ((acme_1, "ACME"), (globex_1, "GLOBEX"))
    ]
    message_ids = store_messages(conn, submits)
    return {acme_1.id: message_ids[::2], globex_1.id: message_ids[1::2]}


def read_index(conn: Connection) -> list[tuple[int, int]]:
    return [(row[0], row[1]) for row in conn.execute("SELECT account_id, message_id FROM account_messages")]


def expected_index(stored: dict[int, Sequence[int]], mark: int) -> list[tuple[int, int]]:
    return sorted((account, each) for account, message_ids in stored.items() for each in message_ids if each <= mark)


# --- reading


@pytest.mark.parametrize("indexed", [0, 1, 5, 9, 10])
def test_each_range_has_its_messages_wherever_the_mark_is(conn, acme_1, stored, indexed):
    if indexed:
        account_messages.index_message_batch(conn, max_messages=indexed)
    own = stored[acme_1.id]
    edges = [0, *own, own[-1] + 1]
    for first, bound, limit, newest_first in product(edges, edges, (None, 1, 2, 3), (False, True)):
        rows = account_messages.list_account_messages(
            conn, acme_1.id, first, bound, newest_first=newest_first, limit=limit
        )
        expected = sorted((each for each in own if first <= each < bound), reverse=newest_first)[:limit]
        assert [row[0] for row in rows] == expected


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_mark_that_moves_while_messages_are_read_doubles_and_hides_none(conn, connect, acme_1, stored, newest_first):
    account_messages.index_message_batch(conn, max_messages=4)
    other, moved = connect(), []

    def index_the_rest(sql: str) -> None:
        # After the mark was read, and again after the first part was.
        if sql.lstrip().startswith("SELECT line.id"):
            moved.append(account_messages.index_message_batch(other, max_messages=3))

    conn.set_trace_callback(index_the_rest)
    rows = account_messages.list_account_messages(conn, acme_1.id, 0, 1 << 62, newest_first=newest_first)
    conn.set_trace_callback(None)
    assert [row[0] for row in rows] == sorted(stored[acme_1.id], reverse=newest_first)
    assert len(moved) == 2


@pytest.mark.parametrize("indexed", [0, 1, 5, 9, 10])
def test_the_newest_message_wherever_the_mark_is(conn, acme_1, acme_2, stored, indexed):
    if indexed:
        account_messages.index_message_batch(conn, max_messages=indexed)
    for account_id, message_ids in stored.items():
        assert account_messages.get_latest_message_id(conn, account_id) == message_ids[-1]
    assert account_messages.get_latest_message_id(conn, acme_2.id) == 0


@pytest.mark.parametrize(
    "read",
    [
        account_messages.get_latest_message_id,
        lambda conn, account_id: account_messages.list_account_messages(conn, account_id, 0, 1 << 62),
        lambda conn, account_id: account_messages.list_account_messages(
            conn, account_id, 0, 1 << 62, newest_first=True, limit=1
        ),
    ],
)
def test_nobody_reads_what_others_have_in_the_index(conn, acme_1, globex_1, read):
    """Only what has come since: so many steps of SQLite's."""
    store_messages(conn, [prepare_submit(conn, acme_1.id)])
    store_messages(conn, [prepare_submit(conn, globex_1.id, source="GLOBEX")] * 300)
    steps = []
    for _ in range(2):
        steps.append(0)

        def count_step() -> None:
            steps[-1] += 1

        conn.set_progress_handler(count_step, 1)
        assert read(conn, acme_1.id)
        conn.set_progress_handler(None, 0)
        account_messages.index_message_batch(conn)
    assert steps[0] > 300
    assert steps[1] < 100


# --- taking messages in


@pytest.mark.parametrize("max_messages", [1, 3, 10, 11])
def test_the_index_has_what_is_below_the_mark_after_each_step(conn, stored, max_messages):
    for step in count(1):
        more = account_messages.index_message_batch(conn, max_messages=max_messages)
        mark = account_messages.get_last_indexed_id(conn)
        assert read_index(conn) == expected_index(stored, mark)
        assert len(read_index(conn)) == min(step * max_messages, 10)
        if not more:
            break
    assert mark == max(max(each) for each in stored.values())


def test_what_has_gone_before_it_is_taken_in_is_left_out(conn, acme_1, stored):
    newest = max(max(each) for each in stored.values())
    conn.execute("DELETE FROM messages WHERE id IN (?, ?)", (stored[acme_1.id].pop(1), newest))
    assert account_messages.index_message_batch(conn) is False
    assert read_index(conn) == [each for each in expected_index(stored, newest) if each[1] != newest]


def test_what_comes_after_the_newest_has_gone_is_taken_in(conn, acme_1, stored):
    account_messages.index_message_batch(conn)
    conn.execute("DELETE FROM deliveries")
    conn.execute("DELETE FROM messages")
    conn.execute("DELETE FROM account_messages")
    message_ids = store_messages(conn, [prepare_submit(conn, acme_1.id)], now=1)
    assert [row[0] for row in account_messages.list_account_messages(conn, acme_1.id, 0, 1 << 62)] == message_ids
    account_messages.index_message_batch(conn)
    assert read_index(conn) == [(acme_1.id, message_ids[0])]


def test_two_at_once_take_each_message_in_once(conn, connect, stored):
    other, seconds = connect(), []

    def take_in_before(sql: str) -> None:
        if sql.startswith("BEGIN"):
            conn.set_trace_callback(None)
            seconds.append(account_messages.index_message_batch(other, max_messages=3))

    conn.set_trace_callback(take_in_before)
    assert account_messages.index_message_batch(conn, max_messages=5) is True
    assert seconds == [True]
    assert len(read_index(conn)) == 3
    while account_messages.index_message_batch(conn, max_messages=5):
        pass
    assert read_index(conn) == expected_index(stored, 1 << 62)


def test_nothing_is_half_taken_in_wherever_it_ends(conn, acme_1):
    """Interrupted in SQLite after ever more of its steps, until it comes to its end."""
    submit = prepare_submit(conn, acme_1.id)
    message_ids = store_messages(conn, [submit] * 20)
    for interrupted_count in count():
        conn.set_progress_handler(chain(repeat(0, interrupted_count), [1], repeat(0)).__next__, 20)
        try:
            account_messages.index_message_batch(conn)
            break
        except sqlite3.OperationalError:
            conn.set_progress_handler(None, 0)
            assert (read_index(conn), account_messages.get_last_indexed_id(conn)) == ([], 0)
            assert not conn.in_transaction
    conn.set_progress_handler(None, 0)
    assert interrupted_count > 10
    assert [each for _, each in read_index(conn)] == message_ids


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM account_messages WHERE message_id % 3 = 0",
        "UPDATE account_messages SET account_id = 1 WHERE message_id % 3 = 0",
    ],
)
def test_it_is_built_anew_as_the_documentation_says(conn, stored, damage):
    account_messages.index_message_batch(conn)
    rollup.roll_up_all(conn)
    assert self_check.list_problem_texts(conn) == []
    conn.execute(damage)
    assert self_check.list_problem_texts(conn) != []
    with write_transaction(conn):
        conn.execute("DELETE FROM account_messages")
        conn.execute("UPDATE counters SET value = 0 WHERE name = 'indexed_message_id'")
    while account_messages.index_message_batch(conn, max_messages=3):
        pass
    assert read_index(conn) == expected_index(stored, 1 << 62)
    assert self_check.list_problem_texts(conn) == []


def test_a_mark_that_is_set_back_moves_on_again(conn, stored):
    account_messages.index_message_batch(conn)
    conn.execute("UPDATE counters SET value = 0 WHERE name = 'indexed_message_id'")
    for account_id, message_ids in stored.items():
        rows = account_messages.list_account_messages(conn, account_id, 0, 1 << 62)
        assert [row[0] for row in rows] == message_ids
    account_messages.index_message_batch(conn, max_messages=3)
    account_messages.index_message_batch(conn)
    assert read_index(conn) == expected_index(stored, 1 << 62)
