"""`check` finds whatever is changed behind the services' backs, and says which account and which row."""

import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from portal.core import i18n
from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.services.accounts import account_messages
from portal.services.accounts.accounts import Account
from portal.services.billing import orders, packs
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED, EXPIRED
from portal.services.credits import credits, ledger
from portal.services.messages import intake, outcomes
from portal.services.messages.outcomes import MessageOutcome
from portal.services.operations import self_check
from portal.services.operations.daily_self_check import DatabaseCopyFailed, open_database_copy, remove_stale_copy
from portal.services.statistics import rollup
from tests.services.submitting import cancel_message, store_messages
from tests.support import prepare_submit

LONG_AGO = 1_700_000_000_000  # 14 November 2023


@pytest.fixture
def busy(conn: Connection, acme_1: Account, acme_2: Account, classic: Account, globex_1: Account) -> SimpleNamespace:
    """A database in which all kinds of things have happened, and the ids of their rows by name."""
    conn.execute("PRAGMA foreign_keys = OFF")
    conn.execute("PRAGMA ignore_check_constraints = ON")
    now = now_ms()
    long = prepare_submit(conn, acme_1.id, b"x" * 161, scheduled_at=now + DAY_MS)
    short = prepare_submit(conn, acme_1.id)
    other = prepare_submit(conn, globex_1.id, source="GLOBEX")
    first, _, second, third = store_messages(conn, [long, other, short, short], now=now - 1000)
    outcomes.finish_messages(
        conn, [MessageOutcome(second, DELIVERED, 0, now), MessageOutcome(third, EXPIRED, 801, now)]
    )
    move(conn, acme_1, ledger.CORRECTION, 1)  # what is used afterwards is another line of the ledger
    (called_back,) = store_messages(conn, [long])
    cancel_message(conn, acme_1.id, called_back)
    intake.store_messages(conn, [short])
    rollup.roll_up_all(conn)
    account_messages.index_message_batch(conn)
    credits.transfer_credits(conn, SHELL, acme_1, classic, 5_000)
    pack = packs.list_packs(conn)[0]
    paid = orders.pay_order(conn, SHELL, orders.place_order(conn, SHELL, acme_2, pack))
    waiting = orders.place_order(conn, SHELL, acme_2, pack)
    move(conn, acme_2, ledger.CORRECTION, -1)
    assert paid.movement_id is not None
    ran_out = run_out(conn, acme_2, paid.movement_id, 7_000, 4_000)
    rows = {
        kind: conn.execute("SELECT max(id) FROM movements WHERE kind = ?", (kind,)).fetchone()[0]
        for kind in ledger.KINDS
    }
    rows |= {"globex_usage": of(conn, globex_1, "usage"), "batch": of(conn, acme_1, "usage", "min")}
    return SimpleNamespace(
        conn=conn,
        rows=rows
        | {"first": first, "second": second, "third": third, "called_back": called_back, "order": paid.id}
        | {"waiting": waiting.id, "ran_out": ran_out, "acme_1": acme_1.id, "acme_2": acme_2.id, "globex": globex_1.id}
        | {
            "bought": paid.movement_id,
            "day": now // DAY_MS,
            "today": i18n.format_iso8601(now)[:10],
            "month": i18n.format_iso8601(now)[:7],
        },
    )


def move(conn: Connection, account: Account, kind: str, amount: int, **more: Any) -> int:
    conn.execute("BEGIN IMMEDIATE")
    movement_id, _ = ledger.post_movement(conn, SHELL, account.id, kind, amount, **more)
    conn.execute("COMMIT")
    return movement_id


def run_out(conn: Connection, account: Account, movement_id: int, amount: int, left: int) -> int:
    """Of credits with a date, some were left when it came."""
    at = now_ms()
    conn.execute(
        "INSERT INTO expiring_credits (account_id, movement_id, expires_at, amount, expired_at) VALUES (?, ?, ?, ?, ?)",
        (account.id, movement_id, at - 1, amount, at),
    )
    expiry_id = move(conn, account, ledger.EXPIRY, -left)
    conn.execute("UPDATE expiring_credits SET expiry_id = ? WHERE movement_id = ?", (expiry_id, movement_id))
    return expiry_id


def of(conn: Connection, account: Account, kind: str, which: str = "max") -> int:
    rows = conn.execute(f"SELECT {which}(id) FROM movements WHERE account_id = ? AND kind = ?", (account.id, kind))
    return int(rows.fetchone()[0])


def test_what_the_services_have_done_is_in_order(busy):
    assert self_check.list_problem_texts(busy.conn) == []


DAMAGES = {
    "a balance": (
        "UPDATE accounts SET balance = balance + 1 WHERE id = :acme_1",
        "smpp-acme-1: the balance (accounts row {acme_1}) differs by 0.001 from what the ledger adds up to",
    ),
    "a balance below nothing": (
        "UPDATE accounts SET balance = -1 WHERE id = :acme_1",
        "smpp-acme-1: the balance (accounts row {acme_1}) is less than nothing",
    ),
    "an amount": (
        "UPDATE movements SET amount = amount + 1 WHERE id = :correction",
        "smpp-acme-2: movements row {correction} leaves 199.999 credits, but 200 follow from the one before it",
    ),
    "a balance after": (
        "UPDATE movements SET balance_after = balance_after + 1 WHERE id = :expiry",
        "smpp-acme-2: movements row {expiry} leaves 196 credits, but 195.999 follow from the one before it",
    ),
    "a balance after below nothing": (
        "UPDATE movements SET balance_after = -2500 WHERE id = :expiry",
        "smpp-acme-2: movements row {expiry} leaves -2.5 credits, less than none",
    ),
    "a missing movement": (
        "DELETE FROM movements WHERE id = :correction",
        "smpp-acme-2: movements row {expiry} leaves 195.999 credits, but 196 follow from the one before it",
    ),
    "a missing last movement": (
        "DELETE FROM movements WHERE id = :expiry",
        "smpp-acme-2: the balance (accounts row {acme_2}) differs by -4 from what the ledger adds up to",
    ),
    "a transfer that doesn't arrive": (
        "DELETE FROM movements WHERE id = :transfer_in",
        "smpp-acme-1: movements row {transfer_out} sends 5 credits to sms-acme-1, and none brings them",
    ),
    "a transfer from nowhere": (
        "DELETE FROM movements WHERE id = :transfer_out",
        "sms-acme-1: movements row {transfer_in} brings 5 credits from smpp-acme-1, and none sends them",
    ),
    "a transfer that grows": (
        "UPDATE movements SET amount = amount + 1 WHERE id = :transfer_in",
        "smpp-acme-1: movements row {transfer_out} sends 5 credits to sms-acme-1, where row {transfer_in} brings 5.001",
    ),
    "a transfer to somebody else": (
        "UPDATE movements SET counterpart_id = :globex WHERE id = :transfer_out",
        "smpp-acme-1: movements row {transfer_out} sends 5 credits to smpp-globex-1, and none brings them",
    ),
    "a transfer to another customer": (
        "UPDATE accounts SET customer_id = 2 WHERE name = 'sms-acme-1'",
        "smpp-acme-1: movements row {transfer_out} sends 5 credits to sms-acme-1, which is another customer's",
    ),
    "a price": (
        "UPDATE messages SET price = price + 1 WHERE id = :second",
        "smpp-acme-1: movements row {batch} charges messages: 3, credits: 4; found are messages: 3, credits: 4.001",
    ),
    "a price, in the day": (
        "UPDATE messages SET price = price + 1 WHERE id = :second",
        "smpp-acme-1: the row of daily_totals for {today} is off from what the messages of that day say: price -0.001",
    ),
    "a price, in the month": (
        "UPDATE messages SET price = price + 1 WHERE id = :second",
        "smpp-acme-1: the row of statistics for {month}, IT, ACME is off from what the messages of that month say:"
        " price -0.001",
    ),
    "a missing message": (
        "DELETE FROM messages WHERE id = :second",
        "smpp-acme-1: movements row {batch} charges messages: 3, credits: 4; found are messages: 2, credits: 3",
    ),
    "a message of another account": (
        "UPDATE messages SET account_id = :globex WHERE id = :third",
        "smpp-globex-1: messages that no movement charges: 1, for 1 credits, the first is messages row {third}",
    ),
    "a charge that is gone": (
        "DELETE FROM movements WHERE id = :globex_usage",
        "smpp-globex-1: messages that no movement charges: 1, for 1 credits, the first is messages row ",
    ),
    "a charge of fewer": (
        "UPDATE movements SET messages = 2 WHERE id = :batch",
        "smpp-acme-1: movements row {batch} charges messages: 2, credits: 4; found are messages: 3, credits: 4",
    ),
    "a charge without messages": (
        "UPDATE movements SET first_message_id = NULL WHERE id = :globex_usage",
        "smpp-globex-1: movements row {globex_usage} doesn't charge just its messages from row 0 to row ",
    ),
    "a charge of a longer range": (
        "UPDATE movements SET last_message_id = last_message_id + 1 WHERE id = :batch",
        "smpp-acme-1: movements row {batch} doesn't charge just its messages from row {first} to row ",
    ),
    "a charge of a shorter range": (
        "UPDATE movements SET last_message_id = :second WHERE id = :batch",
        "smpp-acme-1: messages that no movement charges: 1, for 1 credits, the first is messages row {third}",
    ),
    "a state": (
        "UPDATE messages SET state = 2 WHERE id = :third",
        "smpp-acme-1: the row of daily_totals for {today} is off from what the messages of that day say: delivered -1,"
        " failed +1",
    ),
    "parts": (
        "UPDATE messages SET parts = 4 WHERE id = :second",
        "smpp-acme-1: the row of statistics for {month}, IT, ACME is off from what the messages of that month say:"
        " parts -3",
    ),
    "a day's count": (
        "UPDATE daily_totals SET delivered = delivered + 1 WHERE account_id = :globex",
        "smpp-globex-1: the row of daily_totals for {today} is off from what the messages of that day say:"
        " delivered +1",
    ),
    "a day's price": (
        "UPDATE daily_totals SET price = price - 500 WHERE account_id = :globex",
        "smpp-globex-1: the row of daily_totals for {today} is off from what the messages of that day say: price -0.5",
    ),
    "messages refused that were not": (
        "UPDATE daily_totals SET refused = 7, stopped = 8 WHERE account_id = :globex",
        "smpp-globex-1: the row of daily_totals for {today} is off from what the messages of that day say: stopped +8,"
        " refused +7",
    ),
    "a missing day": (
        "DELETE FROM daily_totals WHERE account_id = :globex",
        "smpp-globex-1: the row of daily_totals for {today} is off from what the messages of that day say: sent -1,"
        " parts -1, price -1",
    ),
    "an earlier day without messages": (
        "INSERT INTO daily_totals (account_id, day, sent) VALUES (:globex, 19675, 2)",
        "smpp-globex-1: the row of daily_totals for 2023-11-14 is off from what the messages of that day say: sent +2",
    ),
    "a later day without messages": (
        "UPDATE daily_totals SET day = 50000 WHERE account_id = :globex",
        "smpp-globex-1: the row of daily_totals for 2106-11-24 is off from what the messages of that day say: sent +1,"
        " parts +1, price +1",
    ),
    "a month's price": (
        "UPDATE statistics SET price = price + 2 WHERE account_id = :globex",
        "smpp-globex-1: the row of statistics for {month}, IT, GLOBEX is off from what the messages of that month"
        " say: price +0.002",
    ),
    "a month's country": (
        "UPDATE statistics SET country = 'FR' WHERE account_id = :globex",
        "smpp-globex-1: the row of statistics for {month}, FR, GLOBEX is off from what the messages of that month"
        " say: sent +1, parts +1, price +1",
    ),
    "a month's sender": (
        "UPDATE statistics SET source = 'ACME' WHERE account_id = :globex",
        "smpp-globex-1: the row of statistics for {month}, IT, GLOBEX is off from what the messages of that month"
        " say: sent -1, parts -1, price -1",
    ),
    "another month": (
        "UPDATE statistics SET begins = 2106 * 12 + 10 WHERE account_id = :globex AND length = 2",
        "smpp-globex-1: the row of statistics for 2106-11, IT, GLOBEX is off from what the messages of that month"
        " say: sent +1, parts +1, price +1",
    ),
    "a refund of nothing": (
        "UPDATE movements SET first_message_id = 4711 WHERE id = :refund",
        "smpp-acme-1: movements row {refund} gives back what another one's messages row 4711 cost",
    ),
    "a refund of more": (
        "UPDATE movements SET amount = amount + 1000 WHERE id = :refund",
        "smpp-acme-1: movements row {refund} gives back 3 credits for messages row {called_back}, which cost 2",
    ),
    "a refund of what was delivered": (
        "UPDATE messages SET state = 2 WHERE id = :called_back",
        "smpp-acme-1: movements row {refund} gives back what messages row {called_back} cost, which was neither called"
        " back nor stopped",
    ),
    "an operator's refund of what is on its way": (
        "UPDATE movements SET first_message_id = :first, actor = 'olga' WHERE id = :refund",
        "smpp-acme-1: movements row {refund} gives back what messages row {first} cost, which was neither called back"
        " nor stopped",
    ),
    "an order's credits": (
        "UPDATE orders SET credits = credits + 1000 WHERE id = :order",
        "smpp-acme-2: orders row {order} is about 101 credits, and movements row {bought} has brought 100",
    ),
    "an order that is paid for nothing": (
        "UPDATE orders SET paid_at = 1 WHERE id = :waiting",
        "smpp-acme-2: orders row {waiting} is paid, and its credits have not arrived",
    ),
    "an order that was cancelled after its credits": (
        "UPDATE orders SET cancelled_at = 1 WHERE id = :order",
        "smpp-acme-2: orders row {order} is cancelled, and its credits have arrived",
    ),
    "credits that nobody has paid": (
        "UPDATE orders SET paid_at = NULL WHERE id = :order",
        "smpp-acme-2: orders row {order} isn't paid, and its credits have arrived",
    ),
    "a purchase that names another order": (
        "UPDATE movements SET note = '2026-00099' WHERE id = :bought",
        "smpp-acme-2: movements row {bought} is said to be of order 2026-00099, and is of orders row {order}",
    ),
    "an order of another account": (
        "UPDATE orders SET account_id = :globex WHERE id = :order",
        "smpp-globex-1: orders row {order} names movements row {bought}, not a purchase of its own",
    ),
    "an order that names a grant": (
        "UPDATE orders SET movement_id = (SELECT min(id) FROM movements WHERE kind = 'grant') WHERE id = :order",
        "smpp-acme-2: orders row {order} names movements row",
    ),
    "a purchase without an order": (
        "DELETE FROM orders WHERE id = :order",
        "smpp-acme-2: movements row {bought} is a purchase that no order is about",
    ),
    "more with a date than came": (
        "UPDATE expiring_credits SET amount = 100001",
        "smpp-acme-2: expiring_credits of movements row {bought} are 100.001 credits, and it has brought 100",
    ),
    "a date for what never came": (
        "UPDATE expiring_credits SET movement_id = 4711",
        "smpp-acme-2: expiring_credits of movements row 4711 are 7 credits, and it has brought 0",
    ),
    "an expiry of what has no date": (
        "DELETE FROM expiring_credits",
        "smpp-acme-2: movements row {expiry} lets 4 credits run out, for which expiring_credits have no date",
    ),
    "an expiry of what has not run out": (
        "UPDATE expiring_credits SET expired_at = NULL",
        "smpp-acme-2: movements row {expiry} lets 4 credits run out, for which expiring_credits have no date",
    ),
    "an expiry of more than had the date": (
        "UPDATE expiring_credits SET amount = 3999",
        "smpp-acme-2: movements row {expiry} lets 4 credits run out, for which expiring_credits have no date",
    ),
    "what waits for a receiver": (
        "UPDATE deliveries SET message_id = 4711",
        "smpp-acme-1: what waits for receivers and belongs to no message: 3, the first is deliveries row ",
    ),
    "a message that its account lacks": (
        "DELETE FROM account_messages WHERE message_id = :second",
        "smpp-acme-1: messages that account_messages doesn't have: 1, the first is messages row {second}",
    ),
    "a message that another account has": (
        "UPDATE account_messages SET account_id = :globex WHERE message_id = :third",
        "smpp-globex-1: rows of account_messages that are none of its messages: 1, the first names messages row"
        " {third}",
    ),
    "a message that an account has still": (
        "DELETE FROM messages WHERE id = :third",
        "smpp-acme-1: rows of account_messages that are none of its messages: 1, the first names messages row {third}",
    ),
    "messages that an account has already": (
        "UPDATE counters SET value = :second WHERE name = 'indexed_message_id'",
        "smpp-acme-1: rows of account_messages that are none of its messages: 3, the first names messages row {third}",
    ),
    "a row that refers to none": (
        "UPDATE senders SET account_id = 4711 WHERE id = 1",
        "file: senders row 1 refers to a row of accounts that isn't there",
    ),
    "a row without a number that refers to none": (
        "UPDATE statistics SET account_id = 4711 WHERE account_id = :globex",
        "file: a row of statistics refers to a row of accounts that isn't there",
    ),
    "the movements of an account that isn't there": (
        "UPDATE movements SET account_id = 4711 WHERE id = :globex_usage",
        "account 4711: movements row {globex_usage} charges messages: 1, credits: 1; found are messages: 0, credits: 0",
    ),
}
SIGNS = {"grant": -1, "purchase": -1, "transfer_out": 1, "transfer_in": -1, "usage": 1, "refund": -1, "expiry": 1}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES.values(), ids=DAMAGES)
def test_each_damage_is_named(busy, damage, sentence):
    used = {name: value for name, value in busy.rows.items() if f":{name}" in damage}
    assert busy.conn.execute(damage, used).rowcount
    assert sentence.format(**busy.rows) in "\n".join(self_check.list_problem_texts(busy.conn))


@pytest.mark.parametrize(("kind", "sign"), SIGNS.items(), ids=SIGNS)
def test_a_movement_of_the_wrong_sign_is_named(busy, kind, sign):
    row = busy.rows[kind]
    busy.conn.execute("UPDATE movements SET amount = ? WHERE id = ?", (sign * 1_500, row))
    amount = "1.5" if sign > 0 else "-1.5"
    sentence = f": movements row {row}, {kind}, is of {amount} credits: the wrong sign"
    assert sentence in "\n".join(self_check.list_problem_texts(busy.conn))


def test_a_second_refund_of_a_message_is_named(busy, acme_1):
    busy.conn.execute("DROP INDEX movements_refunds")
    second = move(busy.conn, acme_1, ledger.REFUND, 2_000, message_id=busy.rows["called_back"])
    busy.conn.execute("UPDATE movements SET actor = 'system' WHERE id = ?", (second,))
    (problem,) = self_check.list_problem_texts(busy.conn)
    assert problem == (
        f"smpp-acme-1: movements row {second} gives back what messages row {busy.rows['called_back']} cost once more"
    )


def test_an_operator_may_give_back_what_a_finished_message_cost(busy, acme_1):
    move(busy.conn, acme_1, ledger.REFUND, 1_000, message_id=busy.rows["third"])
    assert self_check.list_problem_texts(busy.conn) == []


def test_each_expiry_has_credits_of_its_own(busy, acme_2):
    granted = move(busy.conn, acme_2, ledger.GRANT, 9_000)
    run_out(busy.conn, acme_2, granted, 9_000, 5_000)
    assert self_check.list_problem_texts(busy.conn) == []
    extra = move(busy.conn, acme_2, ledger.EXPIRY, -1)
    (problem,) = self_check.list_problem_texts(busy.conn)
    assert f"movements row {extra} lets 0.001 credits run out" in problem


def test_months_and_days_are_told_apart(conn, acme_1):
    submit = prepare_submit(conn, acme_1.id)
    for days in range(40):
        intake.store_messages(conn, [submit] * 2, now=LONG_AGO + days * DAY_MS)
    rollup.roll_up_all(conn)
    assert self_check.list_problem_texts(conn) == []
    message_id = ids.min_id_at_time(LONG_AGO + 30 * DAY_MS)
    assert conn.execute("UPDATE messages SET parts = 2 WHERE id = ?", (message_id,)).rowcount
    assert self_check.list_problem_texts(conn) == [
        "smpp-acme-1: the row of daily_totals for 2023-12-14 is off from what the messages of that day say: parts -1",
        "smpp-acme-1: the row of statistics for 2023-12, IT, ACME is off from what the messages of that month say:"
        " parts -1",
    ]


def test_of_what_is_off_everywhere_the_first_are_told(conn, acme_1):
    submit = prepare_submit(conn, acme_1.id)
    for _ in range(150):
        intake.store_messages(conn, [submit])
        move(conn, acme_1, ledger.CORRECTION, 1)
    conn.execute("UPDATE movements SET messages = 2 WHERE kind = 'usage'")
    problems = self_check.list_problem_texts(conn)
    assert len(problems) == 101
    assert problems[-1] == "50 more were found like those before this line"


def test_problems_are_told_in_the_readers_language(busy):
    busy.conn.execute("UPDATE accounts SET balance = balance + 1500 WHERE id = ?", (busy.rows["acme_1"],))
    i18n.use_language("it")
    (problem,) = self_check.list_problem_texts(busy.conn)
    assert problem.startswith("smpp-acme-1: il saldo (riga ")
    assert "differisce di 1,5 " in problem


def test_no_query_reads_a_table_for_each_row_of_another(busy):
    plans: list[str] = []
    conn = busy.conn
    conn.set_trace_callback(plans.append)
    self_check.find_problems(conn)
    conn.set_trace_callback(None)
    statements = {each for each in plans if each.strip().startswith(("SELECT", "WITH"))}
    assert {each: nested for each in statements if (nested := list_nested_scans(conn, each))} == {}


def list_nested_scans(conn: Connection, statement: str) -> list[str]:
    """The tables that are read anew for each row of another: those after the first one of a join, and those of a
    subquery that is run for each row.
    """
    steps = conn.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
    joined: set[int] = set()
    correlated: set[int] = set()
    nested = []
    for step in steps:
        if step["parent"] in correlated or step["detail"].startswith("CORRELATED"):
            correlated.add(step["id"])
        if step["detail"].startswith("SCAN") and step["parent"] in joined | correlated:
            nested.append(step["detail"])
        if step["detail"].startswith(("SCAN", "SEARCH")):
            joined.add(step["parent"])
    return nested


def test_nested_scans_are_seen(conn):
    assert list_nested_scans(conn, "SELECT 1 FROM counters AS one CROSS JOIN counters AS two") == ["SCAN two"]
    exists = "SELECT 1 FROM accounts WHERE EXISTS (SELECT 1 FROM counters WHERE value > kept_since)"
    assert list_nested_scans(conn, exists) == ["SCAN counters"]
    assert list_nested_scans(conn, "SELECT 1 FROM accounts WHERE id IN (SELECT value FROM counters)") == []


# --- the file


@pytest.fixture
def damaged(busy: SimpleNamespace, data: Path, connect: Callable[[], Connection]) -> Connection:
    """Opens the database after the index of the accounts' messages was written over."""
    page = busy.conn.execute("SELECT rootpage FROM sqlite_master WHERE name = 'account_messages'").fetchone()[0]
    size = busy.conn.execute("PRAGMA page_size").fetchone()[0]
    busy.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with (data / "portal.db").open("r+b") as file:
        file.seek(page * size - 64)
        file.write(b"\xff" * 64)
    return connect()


def test_a_damaged_file_is_named(damaged):
    assert any(each.startswith("file: ") for each in self_check.list_problem_texts(damaged))


# --- the copy


def test_the_copy_has_the_damage_of_the_file(damaged, data):
    with open_database_copy(damaged, data) as copy:
        assert self_check.list_problem_texts(copy) == self_check.list_problem_texts(damaged)


def test_the_copy_leaves_nothing_behind_and_nobody_else_reads_it(busy, data, monkeypatch):
    modes: list[int] = []

    def connect_and_record_mode(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        modes.extend(each.stat().st_mode & 0o777 for each in data.glob(".portal.db.checking*"))
        opened: sqlite3.Connection = connect(*args, **kwargs)
        return opened

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connect_and_record_mode)
    before = set(data.iterdir())
    with open_database_copy(busy.conn, data) as copy:
        assert set(data.iterdir()) - before == {data / "check.lock"}
        assert self_check.list_problem_texts(copy) == []
    assert modes == [0o600, 0o600]
    assert set(data.iterdir()) - before == {data / "check.lock"}


def test_who_writes_meanwhile_is_not_in_the_copy(busy, data, connect):
    with open_database_copy(busy.conn, data) as copy:
        writer = connect()
        writer.execute("UPDATE accounts SET balance = balance + 1")
        # Nobody keeps the log from being emptied.
        assert tuple(writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()) == (0, 0, 0)
        assert self_check.list_problem_texts(copy) == []


def test_a_copy_that_can_not_be_written_says_so_and_is_gone(busy, data):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with (
            pytest.raises(DatabaseCopyFailed, match=f"its copy of the database to {data}"),
            open_database_copy(busy.conn, data),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(data.glob(".portal.db.checking*"))


def test_a_copy_that_was_left_is_removed_by_the_next_and_at_the_start(busy, data):
    left = data / ".portal.db.checking"
    left.write_text("killed")
    with open_database_copy(busy.conn, data) as copy:
        assert self_check.list_problem_texts(copy) == []
    left.write_text("killed")
    remove_stale_copy(data)
    assert not left.exists()
