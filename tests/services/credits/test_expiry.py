"""Credits that run out at a date."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from portal.core import clock as core_clock
from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection, write_transaction
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import statement
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.credits import alerts, credits, expiry, ledger
from portal.services.credits.expiry import CreditLot
from portal.services.messages import intake, query_cancel
from portal.services.messages.validation import SubmittedMessage
from portal.services.operations import self_check
from tests.support import Cast


class Clock:
    """What `portal.core.clock` takes for the time."""

    def __init__(self) -> None:
        # Not the time of the cast's own grants: their movements come before everything here.
        self.ms = now_ms() + DAY_MS
        self.step = 0
        """How much time passes whenever the time is read."""

    def time_ns(self) -> int:
        self.ms += self.step
        return self.ms * 1_000_000


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    with mock.patch.object(core_clock, "time", clock):
        yield clock


def spend(conn: sqlite3.Connection, account: Account, thousandths: int) -> bool:
    """Send a message that costs so much; whether the credits covered it."""
    submit = SubmittedMessage(account.id, "ACME", 5, 0, "393401234567", "IT", "hello", None, 0, 0, None, 1, thousandths)
    return intake.store_messages(conn, [submit]).message_ids != [None]


def left(conn: sqlite3.Connection, account: Account) -> list[tuple[int, int]]:
    return [(each.expires_at, each.remaining) for each in expiry.list_expiring_credit_lots(conn, account.id)]


def kinds(conn: sqlite3.Connection, account: Account) -> list[tuple[str, int]]:
    return [(each.kind, each.amount) for each in statement.list_movements_page(conn, account.id)]


# --- the date


def test_a_day_ends_where_the_installation_is() -> None:
    assert (
        expiry.parse_credit_expiry_date(" 2026-12-31 ", "Europe/Rome")
        == datetime(2026, 12, 31, 23, tzinfo=UTC).timestamp() * 1000
    )
    assert expiry.parse_credit_expiry_date("", "Europe/Rome") is None


@pytest.mark.parametrize("text", ["tomorrow", "31.12.2026", "2026-02-30", "9999-12-31", "2026-12-31T10:00"])
def test_what_is_no_day_is_refused(text: str) -> None:
    with pytest.raises(expiry.InvalidCreditExpiryDate, match="isn't a date"):
        expiry.parse_credit_expiry_date(text, "UTC")


@pytest.mark.parametrize("days", [-1, 0, 60 * 365])
def test_credits_run_out_neither_before_they_come_nor_in_another_century(
    conn: Connection, acme_2: Account, days: int
) -> None:
    with pytest.raises(expiry.DateOutOfRange):
        credits.grant_credits(conn, SHELL, acme_2, 1, expires_at=now_ms() + days * DAY_MS)
    assert credits.get_balance(conn, acme_2.id) == 100_000


# --- running out


def test_what_is_left_at_the_date_leaves(conn: Connection, acme_1: Account, clock: Clock) -> None:
    ends = clock.ms + DAY_MS
    credits.grant_credits(conn, SHELL, acme_1, 10_000, "Welcome", expires_at=ends)
    spend(conn, acme_1, 4_000)
    assert left(conn, acme_1) == [(ends, 6_000)]
    clock.ms = ends - 1
    assert expiry.expire_credits(conn) == 0
    clock.ms = ends
    assert left(conn, acme_1) == []
    assert expiry.expire_credits(conn) == 1
    latest = statement.list_movements_page(conn, acme_1.id)[0]
    assert (latest.kind, latest.amount, latest.actor, latest.note) == ("expiry", -6_000, "system", "Welcome")
    assert credits.get_balance(conn, acme_1.id) == 1_000_000
    assert expiry.expire_credits(conn) == 0


def test_what_was_spent_before_the_grant_is_not_taken_from_it(conn: Connection, acme_1: Account, clock: Clock) -> None:
    spend(conn, acme_1, 4_000)
    credits.grant_credits(conn, SHELL, acme_1, 10_000, expires_at=clock.ms + DAY_MS)
    assert left(conn, acme_1) == [(clock.ms + DAY_MS, 10_000)]


def test_those_that_run_out_first_are_spent_first(conn: Connection, acme_1: Account, clock: Clock) -> None:
    soon, later = clock.ms + DAY_MS, clock.ms + 2 * DAY_MS
    credits.grant_credits(conn, SHELL, acme_1, 10_000, expires_at=later)
    credits.grant_credits(conn, SHELL, acme_1, 5_000, expires_at=soon)
    spend(conn, acme_1, 7_000)
    assert left(conn, acme_1) == [(later, 8_000)]
    clock.ms = later
    assert expiry.expire_credits(conn) == 1
    assert kinds(conn, acme_1)[0] == ("expiry", -8_000)


def test_what_has_run_out_is_neither_spent_nor_spending(conn: Connection, acme_1: Account, clock: Clock) -> None:
    soon, later = clock.ms + DAY_MS, clock.ms + 2 * DAY_MS
    credits.grant_credits(conn, SHELL, acme_1, 5_000, expires_at=soon)
    credits.grant_credits(conn, SHELL, acme_1, 10_000, expires_at=later)
    clock.ms = soon
    spend(conn, acme_1, 1_000)
    assert left(conn, acme_1) == [(later, 9_000)]
    expiry.expire_credits(conn)
    assert left(conn, acme_1) == [(later, 9_000)]


def test_what_is_spent_after_the_date_stays_spent(conn: Connection, acme_2: Account, clock: Clock) -> None:
    """The pages' process was down meanwhile: more was spent than the other credits."""
    ends = clock.ms + DAY_MS
    credits.grant_credits(conn, SHELL, acme_2, 50_000, expires_at=ends)
    clock.ms = ends
    assert spend(conn, acme_2, 120_000)
    assert expiry.expire_credits(conn) == 1
    assert kinds(conn, acme_2)[0] == ("expiry", -30_000)
    assert credits.get_balance(conn, acme_2.id) == 0


def test_credits_keep_their_date_when_they_move(
    conn: Connection, acme_1: Account, acme_2: Account, clock: Clock
) -> None:
    soon, later = clock.ms + DAY_MS, clock.ms + 2 * DAY_MS
    credits.grant_credits(conn, SHELL, acme_1, 5_000, expires_at=soon)
    credits.grant_credits(conn, SHELL, acme_1, 5_000, expires_at=later)
    credits.transfer_credits(conn, SHELL, acme_1, acme_2, 7_000)
    assert left(conn, acme_1) == [(later, 3_000)]
    assert left(conn, acme_2) == [(soon, 5_000), (later, 2_000)]
    credits.transfer_credits(conn, SHELL, acme_2, acme_1, 107_000)
    assert left(conn, acme_1) == [(soon, 5_000), (later, 3_000), (later, 2_000)]
    clock.ms = later
    assert expiry.expire_credits(conn) == 3
    assert credits.get_balance(conn, acme_1.id) == 1_100_000


@pytest.mark.parametrize("before_the_date_ms", range(1, 12))
def test_what_moves_at_the_last_moment_runs_out_once(
    conn: Connection, acme_1: Account, acme_2: Account, clock: Clock, before_the_date_ms: int
) -> None:
    before = credits.get_balance(conn, acme_1.id) + credits.get_balance(conn, acme_2.id)
    date = clock.ms + DAY_MS
    credits.grant_credits(conn, SHELL, acme_1, 30_000, expires_at=date)
    clock.ms, clock.step = date - before_the_date_ms, 1
    credits.transfer_credits(conn, SHELL, acme_1, acme_2, 30_000)
    clock.ms = date + DAY_MS
    expiry.expire_credits(conn)
    assert credits.get_balance(conn, acme_1.id) + credits.get_balance(conn, acme_2.id) == before


def test_credits_that_run_out_raise_the_alarm(conn: Connection, acme_2: Account, clock: Clock) -> None:
    conn.execute("UPDATE accounts SET alert_below = 120000 WHERE id = ?", (acme_2.id,))
    credits.grant_credits(conn, SHELL, acme_2, 50_000, expires_at=clock.ms + DAY_MS)
    clock.ms += DAY_MS
    expiry.expire_credits(conn)
    rows = [tuple(row) for row in conn.execute("SELECT account_id, kind, balance FROM credit_notices")]
    assert rows == [(acme_2.id, alerts.LOW, 100_000)]


def test_a_movement_that_comes_in_between_is_waited_for(
    conn: Connection, connect: object, acme_1: Account, clock: Clock
) -> None:
    """It took its id before the date, and is written after what is left was worked out."""
    ends = clock.ms + DAY_MS
    credits.grant_credits(conn, SHELL, acme_1, 10_000, expires_at=ends)
    clock.ms = ends
    other = connect()  # type: ignore[operator]

    def spend_meanwhile(sql: str) -> None:
        if sql.startswith("BEGIN"):
            conn.set_trace_callback(None)
            with write_transaction(other):
                ledger.post_movement(other, SHELL, acme_1.id, ledger.CORRECTION, -4_000, now=ends - 1)

    conn.set_trace_callback(spend_meanwhile)
    assert expiry.expire_credits(conn) == 0
    assert expiry.expire_credits(conn) == 1
    assert kinds(conn, acme_1)[:2] == [("expiry", -6_000), ("correction", -4_000)]


def test_how_much_was_sent_meanwhile_does_not_matter(conn: Connection, acme_1: Account, clock: Clock) -> None:
    """Of each stretch a few rows are read, however many movements of usage it has."""
    credits.grant_credits(conn, SHELL, acme_1, 900_000, expires_at=clock.ms + DAY_MS)

    def steps() -> int:
        count = 0

        def one() -> None:
            nonlocal count
            count += 1

        conn.set_progress_handler(one, 1)
        expiry.list_expiring_credit_lots(conn, acme_1.id)
        conn.set_progress_handler(None, 0)
        return count

    spend(conn, acme_1, 1)
    few = steps()
    for _ in range(300):
        spend(conn, acme_1, 1)
    assert left(conn, acme_1) == [(clock.ms + DAY_MS, 900_000 - 301)]
    assert steps() == few


# --- against a model


@dataclass
class Purse:
    """An account as the rules say it: its balance, and [date, movement's id, what is left, whether it has run out]."""

    account: Account
    balance: int
    lots: list[list[int]] = field(default_factory=list)

    def take(self, amount: int, movement_id: int) -> None:
        self.balance -= amount
        for lot in sorted(self.lots):
            if movement_id < ids.min_id_at_time(lot[0]):
                taken = min(lot[2], amount)
                lot[2] -= taken
                amount -= taken

    def held(self, next_id: int) -> list[list[int]]:
        return [lot for lot in sorted(self.lots) if lot[2] and not lot[3] and lot[0] > ids.time_from_id(next_id)]


_WHICH = st.integers(0, 1)
_AMOUNT = st.integers(1, 60)
_STEP = st.one_of(
    st.tuples(st.just("grant"), _WHICH, _AMOUNT, st.none() | st.integers(1, 20)),
    st.tuples(st.just("grant"), _WHICH, _AMOUNT, st.integers(1, 20)),
    st.tuples(st.just("spend"), _WHICH, _AMOUNT),
    st.tuples(st.just("transfer"), _WHICH, _AMOUNT),
    st.tuples(st.just("correct"), _WHICH, st.integers(-60, 60).filter(bool)),
    st.tuples(st.just("refund"), _WHICH, _AMOUNT),
    st.tuples(st.just("clock"), st.integers(-8, 15)),
    st.tuples(st.just("run out")),
)


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_STEP, min_size=10, max_size=40))
@example([("grant", 1, 1, 1), ("grant", 1, 1, 2), ("clock", 1), ("spend", 0, 21), ("clock", -1), ("spend", 1, 1)])
def test_any_course_of_events_agrees_with_the_rules(conn: Connection, cast: Cast, steps: list[tuple[Any, ...]]) -> None:
    clock = Clock()
    with mock.patch.object(core_clock, "time", clock):
        conn.execute("BEGIN IMMEDIATE")
        try:
            _play(conn, cast, clock, steps)
        finally:
            conn.execute("ROLLBACK")


def _play(conn: Connection, cast: Cast, clock: Clock, steps: list[tuple[Any, ...]]) -> None:
    names = (cast.smpp_acme_1.name, cast.sms_acme_1.name)
    purses = [Purse(each, each.balance) for each in (accounts.get_account(conn, name) for name in names)]
    # Nearly nothing, so that what runs out matters.
    for purse in purses:
        purse.balance = credits.correct_balance(conn, SHELL, purse.account, 20 - purse.balance, "a poor start")

    def next_id() -> int:
        last: int = conn.execute("SELECT max(id) FROM movements").fetchone()[0]
        return max(ids.min_id_at_time(clock.ms), last + 1)

    for what, *args in steps:
        movement_id = next_id()
        if what == "clock":
            clock.ms += args[0]
            continue
        if what == "run out":
            _run_out(conn, purses, clock, movement_id)
        else:
            purse, other, amount = purses[args[0]], purses[1 - args[0]], args[1]
            covered = amount <= purse.balance
            if what == "grant":
                ends = None if args[2] is None else clock.ms + args[2]
                credits.grant_credits(conn, SHELL, purse.account, amount, expires_at=ends)
                purse.balance += amount
                if ends is not None:
                    purse.lots.append([ends, movement_id, amount, 0])
            elif what == "spend":
                # Refused messages have times, too, and what a message costs leaves at the message's own time.
                message_id = ids.allocate_id(conn, "messages")
                movement_id = max(movement_id, ids.min_id_at_time(ids.time_from_id(message_id)))
                assert spend(conn, purse.account, amount) == covered
                if covered:
                    purse.take(amount, movement_id)
            elif what == "refund":
                credits.refund_credits(conn, SHELL, purse.account, amount, "a property")
                purse.balance += amount
            elif what == "correct" and purse.balance + amount >= 0:
                credits.correct_balance(conn, SHELL, purse.account, amount, "a property")
                if amount < 0:
                    purse.take(-amount, movement_id)
                else:
                    purse.balance += amount
            elif what == "transfer" and covered:
                _transfer(conn, purse, other, amount, movement_id)
        for purse in purses:
            assert credits.get_balance(conn, purse.account.id) == purse.balance
            assert expiry.list_expiring_credit_lots(conn, purse.account.id) == [
                CreditLot(movement, ends, left) for ends, movement, left, _ in purse.held(next_id())
            ]
    for purse in purses:
        total = conn.execute("SELECT sum(amount) FROM movements WHERE account_id = ?", (purse.account.id,)).fetchone()
        assert total[0] == purse.balance


def _transfer(conn: Connection, purse: Purse, other: Purse, amount: int, movement_id: int) -> None:
    dates: dict[int, int] = {}
    rest = amount
    for ends, _, held, _ in purse.held(movement_id):
        taken = min(held, rest)
        rest -= taken
        if taken:
            dates[ends] = dates.get(ends, 0) + taken
    credits.transfer_credits(conn, SHELL, purse.account, other.account, amount)
    purse.take(amount, movement_id)
    other.balance += amount
    other.lots += [[ends, movement_id + 1, taken, 0] for ends, taken in dates.items()]


def _run_out(conn: Connection, purses: list[Purse], clock: Clock, movement_id: int) -> None:
    due = sorted(
        (lot[0], lot[1], number) for number, purse in enumerate(purses) for lot in purse.lots if lot[0] <= clock.ms
    )
    expected = 0
    for ends, movement, number in due:
        purse = purses[number]
        lot = next(each for each in purse.lots if each[:2] == [ends, movement])
        if not lot[3]:
            lot[3] = 1
            leaving = min(lot[2], purse.balance)
            purse.balance -= leaving
            expected += leaving > 0
    assert expiry.expire_credits(conn) == expected


def test_what_is_handed_over_often_is_looked_at_as_quickly(
    conn: sqlite3.Connection, acme_1: Account, acme_2: Account
) -> None:
    credits.grant_credits(conn, SHELL, acme_1, 100, expires_at=now_ms() + DAY_MS)

    def statements() -> int:
        executed: list[str] = []
        conn.set_trace_callback(executed.append)
        assert (
            sum(each.remaining for each in expiry.list_expiring_credit_lots(conn, acme_2.id))
            == conn.execute("SELECT sum(amount) FROM expiring_credits WHERE account_id = ?", (acme_2.id,)).fetchone()[0]
        )
        conn.set_trace_callback(None)
        return len(executed)

    credits.transfer_credits(conn, SHELL, acme_1, acme_2, 1)
    once = statements()
    for _handing_over in range(20):
        credits.transfer_credits(conn, SHELL, acme_1, acme_2, 1)
    assert statements() == once


# --- given back


def schedule(conn: sqlite3.Connection, account: Account, prices: list[int]) -> list[int]:
    """Send messages in one batch that wait for a date; their ids."""
    usual = SubmittedMessage(account.id, "ACME", 5, 0, "393401234567", "IT", "hello", None, 0, 0, None, 1, 1)
    later = now_ms() + DAY_MS
    submits = [replace(usual, price=price, scheduled_at=later) for price in prices]
    return [each for each in intake.store_messages(conn, submits).message_ids if each is not None]


def call_back(conn: sqlite3.Connection, account: Account, *message_ids: int) -> None:
    statuses = [query_cancel.find_message_status(conn, account.id, each) for each in message_ids]
    assert all(query_cancel.cancel_messages(conn, [each for each in statuses if each]).was_cancelled)


def test_messages_that_are_called_back_rid_no_credits_of_their_date(
    conn: sqlite3.Connection, acme_1: Account, clock: Clock
) -> None:
    credits.correct_balance(conn, SHELL, acme_1, -credits.get_balance(conn, acme_1.id), "none")
    credits.grant_credits(conn, SHELL, acme_1, 100, expires_at=clock.ms + DAY_MS)
    call_back(conn, acme_1, *schedule(conn, acme_1, [60, 40]))
    assert sum(each.remaining for each in expiry.list_expiring_credit_lots(conn, acme_1.id)) == 100
    clock.ms += DAY_MS
    expiry.expire_credits(conn)
    assert credits.get_balance(conn, acme_1.id) == 0
    assert self_check.list_problem_texts(conn) == []


def test_what_was_sent_has_used_what_runs_out_first(conn: sqlite3.Connection, acme_1: Account, clock: Clock) -> None:
    near, far = clock.ms + DAY_MS, clock.ms + 2 * DAY_MS
    credits.correct_balance(conn, SHELL, acme_1, 50 - credits.get_balance(conn, acme_1.id), "without a date")
    for expires_at in (near, far):
        credits.grant_credits(conn, SHELL, acme_1, 100, expires_at=expires_at)
    first, second, third = schedule(conn, acme_1, [60, 120, 70])
    call_back(conn, acme_1, first)
    assert left(conn, acme_1) == [(far, 10)]
    call_back(conn, acme_1, second)
    assert left(conn, acme_1) == [(near, 30), (far, 10), (far, 90)]
    call_back(conn, acme_1, third)
    assert left(conn, acme_1) == [(near, 30), (near, 70), (far, 10), (far, 90)]


def test_what_comes_back_after_its_date_runs_out_at_once(
    conn: sqlite3.Connection, acme_1: Account, clock: Clock
) -> None:
    credits.correct_balance(conn, SHELL, acme_1, -credits.get_balance(conn, acme_1.id), "none")
    credits.grant_credits(conn, SHELL, acme_1, 100, expires_at=clock.ms + DAY_MS // 2)
    (waiting,) = schedule(conn, acme_1, [80])
    clock.ms += DAY_MS // 2
    expiry.expire_credits(conn)
    call_back(conn, acme_1, waiting)
    assert credits.get_balance(conn, acme_1.id) == 80
    expiry.expire_credits(conn)
    assert credits.get_balance(conn, acme_1.id) == 0
    assert self_check.list_problem_texts(conn) == []


def test_parts_with_one_date_are_looked_at_once(
    conn: sqlite3.Connection, acme_1: Account, acme_2: Account, clock: Clock
) -> None:
    credits.grant_credits(conn, SHELL, acme_1, 100, expires_at=clock.ms + DAY_MS)
    for _part in range(20):
        credits.transfer_credits(conn, SHELL, acme_1, acme_2, 2)
    clock.ms += DAY_MS
    executed: list[str] = []
    conn.set_trace_callback(executed.append)
    assert expiry.expire_credits(conn) == 21
    conn.set_trace_callback(None)
    assert sum("json_each" in each for each in executed) == 2
    assert self_check.list_problem_texts(conn) == []
