"""What messages cost in the ledger: a line a minute and account."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from portal.core.clock import DAY_MS, MINUTE_MS, now_ms
from portal.core.db import Connection, connect, write_transaction
from portal.services.accounts.accounts import Account
from portal.services.billing import packs, statement
from portal.services.billing.statement import Movement
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.credits import credits, expiry, ledger
from portal.services.operations import self_check
from portal.services.statistics import rollup
from tests.services.submitting import cancel_message, store_messages
from tests.support import prepare_submit

# Tomorrow: what the cast was granted, and what these tests do at their own time, comes before.
BEGIN = (now_ms() // MINUTE_MS + 24 * 60) * MINUTE_MS


@pytest.fixture(autouse=True)
def checked(conn: Connection) -> Iterator[None]:
    yield
    rollup.roll_up_all(conn)
    assert self_check.list_problem_texts(conn) == []


def send(conn: Connection, account: Account, at: int, count: int = 1, **more: Any) -> list[int]:
    """Send so many messages in one batch, so many milliseconds after BEGIN; returns their ids."""
    return store_messages(conn, [prepare_submit(conn, account.id, **more) for _ in range(count)], now=BEGIN + at)


def usage(conn: Connection, account: Account) -> list[Movement]:
    """An account's usage, oldest first."""
    return statement.list_movements_page(conn, account.id, kind=ledger.USAGE)[::-1]


def test_what_is_used_within_a_minute_is_one_line(conn, acme_1):
    batches = [send(conn, acme_1, at, count) for at, count in ((0, 2), (1, 1), (MINUTE_MS - 1, 3))]
    (line,) = usage(conn, acme_1)
    assert (line.messages, line.amount, line.balance_after) == (6, -6_000, acme_1.balance - 6_000)
    assert (line.first_message_id, line.last_message_id) == (batches[0][0], batches[-1][-1])
    assert line.at == BEGIN
    assert credits.get_balance(conn, acme_1.id) == acme_1.balance - 6_000


def test_each_minute_and_each_account_has_its_line(conn, acme_1, globex_1):
    for at in (0, MINUTE_MS - 1, MINUTE_MS, 3 * MINUTE_MS - 1):
        own, others = prepare_submit(conn, acme_1.id), prepare_submit(conn, globex_1.id, source="GLOBEX")
        store_messages(conn, [own, others, own], now=BEGIN + at)
    assert [(each.at - BEGIN, each.messages) for each in usage(conn, acme_1)] == [
        (0, 4),
        (MINUTE_MS, 2),
        (3 * MINUTE_MS - 1, 2),
    ]
    assert [each.messages for each in usage(conn, globex_1)] == [2, 1, 1]


def test_a_line_goes_on_only_where_nothing_came_after_it(conn, acme_1):
    send(conn, acme_1, 0)
    credits.grant_credits(conn, SHELL, acme_1, 500, now=BEGIN + 1)
    send(conn, acme_1, 2)
    (cancelled,) = send(conn, acme_1, 3, scheduled_at=BEGIN + MINUTE_MS)
    cancel_message(conn, acme_1.id, cancelled)
    send(conn, acme_1, 4)
    movements = statement.list_movements_page(conn, acme_1.id)[::-1]
    assert [(each.kind, each.messages) for each in movements if each.at >= BEGIN] == [
        ("usage", 1),
        ("grant", None),
        ("usage", 2),
        ("refund", 1),
        ("usage", 1),
    ]


def test_credits_that_the_messages_buy_come_before_what_they_cost(conn, acme_1):
    conn.execute("UPDATE customers SET recredit_min_age_days = 0, credit_line = 1 << 40")
    send(conn, acme_1, 0)
    conn.execute(
        "UPDATE accounts SET recredit_below = balance - 500, recredit_pack = ?", (packs.list_packs(conn)[0].credits,)
    )
    send(conn, acme_1, 1)
    movements = statement.list_movements_page(conn, acme_1.id)[::-1]
    assert [each.kind for each in movements if each.at >= BEGIN] == ["usage", "purchase", "usage"]


def test_the_date_of_credits_parts_a_minute(conn, acme_1):
    with write_transaction(conn):
        ledger.post_movement(conn, SHELL, acme_1.id, ledger.GRANT, 5_000, expiry_dates={BEGIN + 10: 5_000})
    for at in (0, 9, 10, 11):
        send(conn, acme_1, at)
    assert expiry.expire_credits(conn, BEGIN + 12) == 1
    for at in (13, 14):
        send(conn, acme_1, at)
    assert [each.messages for each in usage(conn, acme_1)] == [2, 1, 1, 2]
    # Two of the five were spent before the date.
    assert credits.get_balance(conn, acme_1.id) == acme_1.balance + 5_000 - 3_000 - 6_000


def test_the_last_message_of_a_minute_gets_its_dates_back(conn, acme_1):
    credits.correct_balance(conn, SHELL, acme_1, -acme_1.balance, "none")
    expires_at = BEGIN + 60 * MINUTE_MS
    credits.grant_credits(conn, SHELL, acme_1, 3_000, expires_at=expires_at)
    for at in (0, MINUTE_MS - 1):
        (last,) = send(conn, acme_1, at, scheduled_at=BEGIN + 2 * MINUTE_MS)
    assert len(usage(conn, acme_1)) == 1
    cancel_message(conn, acme_1.id, last)
    lots = expiry.list_expiring_credit_lots(conn, acme_1.id, BEGIN + MINUTE_MS)
    assert [(each.expires_at, each.remaining) for each in lots] == [(expires_at, 1_000), (expires_at, 1_000)]


def test_what_is_used_while_credits_run_out_is_counted(conn, acme_1):
    """Between working out what is left and taking it away, a message is stored in the line of its minute."""
    with write_transaction(conn):
        ledger.post_movement(conn, SHELL, acme_1.id, ledger.GRANT, 5_000, expiry_dates={BEGIN + 10: 5_000})
    send(conn, acme_1, 0)
    ((_, _, file),) = conn.execute("PRAGMA database_list")

    def send_before_lock(statement: str) -> None:
        if statement == "BEGIN IMMEDIATE":
            conn.set_trace_callback(None)
            with closing(connect(Path(file))) as other:
                send(other, acme_1, 9)

    conn.set_trace_callback(send_before_lock)
    assert [expiry.expire_credits(conn, BEGIN + 10) for _ in range(2)] == [0, 1]
    assert len(usage(conn, acme_1)) == 1
    assert credits.get_balance(conn, acme_1.id) == acme_1.balance


def test_ids_of_movements_that_have_run_ahead_begin_a_line_each(conn, acme_1):
    """The clock was ahead once: a line's id then says another minute than its messages'."""
    credits.grant_credits(conn, SHELL, acme_1, 1_000, now=BEGIN + 10 * MINUTE_MS)
    first, second = send(conn, acme_1, 0), send(conn, acme_1, 1)
    assert [(each.first_message_id, each.messages) for each in usage(conn, acme_1)] == [(first[0], 1), (second[0], 1)]
    assert ids.time_from_id(usage(conn, acme_1)[0].id) == BEGIN + 10 * MINUTE_MS


def test_a_batch_lies_in_one_minute_and_one_day(conn, acme_1):
    """Where ids have run ahead of the clock, the next ones might be of two days: the totals count a batch in one."""
    midnight = (BEGIN // DAY_MS + 1) * DAY_MS
    conn.execute("UPDATE counters SET value = ? WHERE name = 'message_id'", (ids.min_id_at_time(midnight) - 3,))
    message_ids = send(conn, acme_1, 0, 5)
    assert [ids.time_from_id(each) for each in message_ids] == [midnight] * 5
    assert send(conn, acme_1, 0, 1) == [message_ids[-1] + 1]
