"""The statement: periods, pages and sums of the ledger, how balance and usage went, what months cost."""

from collections.abc import Callable, Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection, write_transaction
from portal.services.accounts.accounts import Account
from portal.services.billing import statement
from portal.services.billing.statement import BalanceHistory
from portal.services.common import periods
from portal.services.common.audit import SHELL
from portal.services.common.periods import Period
from portal.services.credits import credits, ledger
from portal.services.messages import intake
from portal.services.statistics import daily_totals, rollup
from tests.services.submitting import cancel_message, store_messages
from tests.support import prepare_submit

ROME = "Europe/Rome"


def get_net_amount(sums: statement.MovementSums, kind: str) -> int:
    """What came less what went of one kind."""
    return sum(sums.by_kind.get(kind, (0, 0)))


def at(text: str, zone: str = ROME) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


NOW = at("2026-11-23T00:30")


# --- periods


@pytest.mark.parametrize(
    ("choice", "since", "until"),
    [
        ("today", "2026-11-23", "2026-11-24"),
        ("7d", "2026-11-17", "2026-11-24"),
        ("30d", "2026-10-25", "2026-11-24"),
        ("month", "2026-11-01", "2026-11-24"),
        ("last-month", "2026-10-01", "2026-11-01"),
        ("next year", "2026-10-25", "2026-11-24"),
    ],
)
def test_periods_are_whole_days_of_the_installation_s_time_zone(choice, since, until):
    period = periods.parse_period(choice, "", "", ROME, NOW)
    assert (period.since, period.until) == (at(since), at(until))


def test_today_is_another_day_elsewhere():
    assert periods.parse_period("today", "", "", "UTC", NOW).since == at("2026-11-22", "UTC")


def test_a_day_without_an_hour_is_a_day():
    period = periods.parse_period("range", "2026-03-29", "2026-03-29", ROME, NOW)
    assert period.until - period.since == 23 * 3_600_000


@pytest.mark.parametrize(
    ("first", "last", "since", "until"),
    [
        ("2026-11-01", "2026-11-02", at("2026-11-01"), at("2026-11-03")),
        (" 2026-11-01 ", "", at("2026-11-01"), at("2026-11-24")),
        ("", "2026-11-02", 0, at("2026-11-03")),
    ],
)
def test_from_and_to(first, last, since, until):
    period = periods.parse_period("range", first, last, ROME, NOW)
    assert (period.since, period.until) == (since, until)


@pytest.mark.parametrize(
    ("first", "last", "field"),
    [
        ("yesterday", "", "from"),
        ("", "31/12/2026", "to"),
        ("2026-02-30", "", "from"),
        ("0001-01-01", "", "from"),
        ("", "9999-12-31", "to"),
        ("2026-11-02", "2026-11-01", "to"),
    ],
)
def test_days_that_are_none_are_refused(first, last, field):
    with pytest.raises((periods.InvalidDate, periods.PeriodEndsBeforeStart)) as refused:
        periods.parse_period("range", first, last, ROME, NOW)
    assert refused.value.field == field


# --- a year of an account


# What happens at which moment: kind, and amount in thousandths; usage is one message each.
HAPPENINGS = [
    ("2025-12-31T23:59:59.999", ledger.GRANT, 100_000),
    ("2026-10-31T12:00", ledger.USAGE, -7_000),
    ("2026-10-31T23:59:59.999", ledger.PURCHASE, 50_000),
    ("2026-11-01T00:00", ledger.USAGE, -1_000),
    ("2026-11-20T08:15", ledger.REFUND, 1_000),
    ("2026-11-20T09:15", ledger.USAGE, -2_500),
    ("2026-11-20T09:15:00.001", ledger.CORRECTION, -500),
    ("2026-11-22T23:59:59.999", ledger.EXPIRY, -10_000),
    ("2026-11-23T00:00", ledger.USAGE, -3_000),
]


def write(conn: Connection, account_id: int, happenings: Iterable[tuple[str | int, str, int]]) -> None:
    """As they would have been written then: a ledger from nothing."""
    conn.execute("DELETE FROM movements")
    conn.execute("UPDATE accounts SET balance = 0")
    with write_transaction(conn):
        for moment, kind, amount in happenings:
            when = at(moment) if isinstance(moment, str) else moment
            ledger.post_movement(conn, SHELL, account_id, kind, amount, f"{kind} {moment}", now=when)


@pytest.fixture
def year(conn: Connection, acme_1: Account, acme_2: Account) -> Account:
    write(conn, acme_1.id, HAPPENINGS)
    return acme_1


def within(choice: str, first: str = "", last: str = "") -> Period:
    return periods.parse_period(choice, first, last, ROME, NOW)


@pytest.mark.parametrize(
    ("period", "which"),
    [
        (within("today"), HAPPENINGS[8:]),
        (within("7d"), HAPPENINGS[4:]),
        (within("month"), HAPPENINGS[3:]),
        (within("last-month"), HAPPENINGS[1:3]),
        (within("all"), HAPPENINGS),
        (within("range", "2026-11-20", "2026-11-22"), HAPPENINGS[4:8]),
        (within("range", "", "2025-12-31"), HAPPENINGS[:1]),
        (within("range", "2025-12-31", "2025-12-31"), HAPPENINGS[:1]),
        (within("range", "2026-01-01", "2026-01-02"), []),
    ],
)
def test_a_period_holds_what_happened_in_it_and_adds_it_up(conn, year, period, which):
    movements = statement.list_movements_page(conn, year.id, period)
    assert [(each.kind, each.amount) for each in movements] == [(kind, amount) for _, kind, amount in which][::-1]
    sums = statement.sum_movements(conn, year.id, period)
    assert sums.total_in == sum(amount for _, _, amount in which if amount > 0)
    assert sums.total_out == sum(amount for _, _, amount in which if amount < 0)
    for each in ledger.KINDS:
        assert get_net_amount(sums, each) == sum(amount for _, kind, amount in which if kind == each)


@pytest.mark.parametrize("kind", ledger.KINDS)
def test_one_kind_only(conn, year, kind):
    only = [amount for _, each, amount in HAPPENINGS if each == kind]
    movements = statement.list_movements_page(conn, year.id, within("all"), kind)
    assert [each.amount for each in movements] == only[::-1]
    sums = statement.sum_movements(conn, year.id, within("all"), kind)
    assert list(sums.by_kind) == ([kind] if only else [])
    assert sums.total_in + sums.total_out == sum(only)


_amounts = st.integers(min_value=1, max_value=9_999)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 40 * 24), st.sampled_from(ledger.KINDS), _amounts), max_size=40),
    st.integers(0, 39),
    st.integers(0, 39),
    st.sampled_from(["", *ledger.KINDS]),
)
def test_sums_pages_and_chart_agree_with_the_ledger(conn, acme_1, happenings, one, other, kind):
    start = at("2026-10-10T00:00")
    positive = (ledger.GRANT, ledger.PURCHASE, ledger.TRANSFER_IN, ledger.REFUND)
    happened, balance = [(start, ledger.GRANT, 10**6)], 10**6
    for hour, each, amount in sorted(happenings):
        happened.append((start + hour * 3_600_000, each, amount if each in positive else -amount))
        balance += happened[-1][2]
    write(conn, acme_1.id, happened)
    first, last = sorted((one, other))
    days = [
        datetime.fromtimestamp((start + number * DAY_MS + DAY_MS // 2) / 1000, ZoneInfo(ROME)).date()
        for number in (first, last)
    ]
    period = within("range", *map(str, days))
    inside = [each for each in happened if period.since <= each[0] < period.until]

    expected = [(each, amount) for _, each, amount in inside if kind in ("", each)]
    pages, before = [], None
    while page := statement.list_movements_page(conn, acme_1.id, period, kind, before=before, limit=3):
        pages += page
        before = page[-1].id
    assert [(each.kind, each.amount) for each in pages] == expected[::-1]
    assert list(statement.iterate_movements(conn, acme_1.id, period, kind, batch=7)) == pages
    sums = statement.sum_movements(conn, acme_1.id, period, kind)
    assert (sums.total_in, sums.total_out) == (
        sum(amount for _, amount in expected if amount > 0),
        sum(amount for _, amount in expected if amount < 0),
    )

    course = statement.load_balance_history(conn, acme_1.id, period, ROME, at("2026-12-31T12:00"))
    if course is not None:
        assert course.total_credits_used == -sum(amount for _, each, amount in inside if each == ledger.USAGE)
        assert course.opening_balance == sum(amount for moment, _, amount in happened if moment < course.steps[0].at)
        assert course.steps[-1].balance == sum(amount for moment, _, amount in happened if moment < period.until)
        before = course.opening_balance
        for each in course.steps:
            before += each.others - each.usage
            assert each.balance == before


def test_the_way_back_ends_at_the_page_it_began_with(conn, year):
    first = statement.list_movements_page(conn, year.id, within("month"), limit=3)
    second = statement.list_movements_page(conn, year.id, within("month"), before=first[-1].id, limit=3)
    assert statement.list_movements_page(conn, year.id, within("month"), after=second[0].id, limit=3) == first


def test_a_movement_tells_whether_its_messages_can_be_looked_up(conn, acme_1):
    first, last = intake.store_messages(
        conn, [prepare_submit(conn, acme_1.id), prepare_submit(conn, acme_1.id)]
    ).message_ids
    usage = statement.list_movements_page(conn, acme_1.id)[0]
    assert (usage.messages, usage.first_message_id, usage.last_message_id) == (2, first, last)
    assert usage.in_history
    conn.execute("DELETE FROM messages")
    assert not statement.list_movements_page(conn, acme_1.id)[0].in_history


def test_only_a_purchase_has_an_order(conn, year):
    movements = statement.list_movements_page(conn, year.id, within("all"))
    assert [each.purchase_order_number for each in movements if each.purchase_order_number] == [
        "purchase 2026-10-31T23:59:59.999"
    ]


# --- the queries


def plan(conn: Connection, ask: Callable[[], object]) -> set[str]:
    """The steps of the queries that a question puts to the ledger."""
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    ask()
    conn.set_trace_callback(None)
    steps = [row["detail"] for query in statements for row in conn.execute(f"EXPLAIN QUERY PLAN {query}")]
    return {each for each in steps if "movements" in each}


@pytest.mark.parametrize("kind", ["", *ledger.KINDS])
def test_no_page_reads_more_of_the_ledger_than_it_shows(conn, year, kind):
    (step,) = plan(conn, lambda: statement.list_movements_page(conn, year.id, within("month"), kind))
    index = (
        "movements_account (account_id=?" if kind in ("", ledger.USAGE) else "movements_kinds (account_id=? AND kind=?"
    )
    assert step == f"SEARCH movements USING INDEX {index} AND rowid>? AND rowid<?)"


def test_neither_sums_nor_chart_read_the_usage(conn, year):
    for ask in (
        lambda: statement.sum_movements(conn, year.id, within("month")),
        lambda: statement.load_balance_history(conn, year.id, within("month"), ROME, NOW),
    ):
        for step in plan(conn, ask):
            assert "movements_kinds (account_id=? AND kind=? AND rowid>? AND rowid<?)" in step or step in (
                # One row each: the balance before a moment, and the oldest movement.
                "SEARCH movements USING INDEX movements_account (account_id=? AND rowid<?)",
                "SEARCH movements USING COVERING INDEX movements_account (account_id=?)",
            )


# --- the chart


def load_history(conn: Connection, account: Account, period: Period, now: int = NOW) -> BalanceHistory:
    history = statement.load_balance_history(conn, account.id, period, ROME, now)
    assert history is not None
    return history


def test_a_month_goes_by_days(conn, year):
    history = load_history(conn, year, within("month"))
    assert (history.unit, history.opening_balance, len(history.steps)) == ("day", 143_000, 23)
    by_day = {each.at: (each.usage, each.others, each.balance) for each in history.steps}
    assert by_day[at("2026-11-01")] == (1_000, 0, 142_000)
    assert by_day[at("2026-11-19")] == (0, 0, 142_000)
    assert by_day[at("2026-11-20")] == (2_500, 500, 140_000)
    assert by_day[at("2026-11-22")] == (0, -10_000, 130_000)
    assert by_day[at("2026-11-23")] == (3_000, 0, 127_000)


def test_a_day_goes_by_hours(conn, year):
    history = load_history(conn, year, within("range", "2026-11-20", "2026-11-20"))
    assert (history.unit, len(history.steps)) == ("hour", 24)
    assert [(each.usage, each.others) for each in history.steps[8:10]] == [(0, 1_000), (2_500, -500)]


def test_today_goes_to_the_hour_that_runs(conn, year):
    noon = at("2026-11-20T12:30")
    history = load_history(conn, year, within("range", "2026-11-20", "2026-11-20"), noon)
    assert len(history.steps) == 13
    assert history.steps[-1].at == at("2026-11-20T12:00")


@pytest.mark.parametrize(("day", "hours"), [("2026-10-25", 25), ("2026-03-29", 23)])
def test_a_day_has_the_hours_that_it_has(conn, year, day, hours):
    history = load_history(conn, year, within("range", day, day))
    assert len(history.steps) == hours


def test_a_year_goes_by_months_from_the_first_movement(conn, year):
    history = load_history(conn, year, within("all"))
    assert (history.unit, history.opening_balance, len(history.steps)) == ("month", 0, 12)
    assert (history.steps[0].at, history.steps[0].balance) == (at("2025-12-31"), 100_000)
    assert (history.steps[-2].usage, history.steps[-1].usage) == (7_000, 6_500)


def test_there_is_nothing_to_draw_before_the_first_movement(conn, year, acme_2):
    assert statement.load_balance_history(conn, year.id, within("range", "2020-01-01", "2020-02-01"), ROME, NOW) is None
    assert statement.load_balance_history(conn, acme_2.id, within("all"), ROME, NOW) is None


# --- months


def month_of(text: str) -> int:
    month = statement.parse_month(text)
    assert month is not None
    return month


def test_months_are_read_and_written():
    assert statement.format_month(month_of("2026-11")) == "2026-11"
    assert month_of("2026-11") == daily_totals.month_from_day(at("2026-11-23", "UTC") // DAY_MS)
    assert [statement.parse_month(each) for each in ("2026-13", "x", "0000-01", "2026-11-01")] == [None] * 4
    december = periods.period_from_month(month_of("2026-12"))
    assert (december.since, december.until) == (at("2026-12-01", "UTC"), at("2027-01-01", "UTC"))


def test_the_months_since_the_first_movement(conn, year, acme_2):
    months = [statement.format_month(each) for each in statement.list_statement_months(conn, year.id)]
    assert months[-1] == "2025-12"
    this_month = daily_totals.month_from_day(now_ms() // DAY_MS)
    assert months[0] == statement.format_month(this_month)
    assert statement.list_statement_months(conn, acme_2.id) == [this_month]


def test_what_a_month_s_messages_cost_is_what_the_ledger_says(conn, acme_1):
    conn.execute("UPDATE accounts SET any_sender = 1")
    last = at("2026-11-01", "UTC") - 1
    submits = [
        prepare_submit(
            conn, acme_1.id, destination=destination, source=source, body=body, scheduled_at=now_ms() + DAY_MS
        )
        for destination, source, body in (
            ("393401234567", "ACME", b"x" * 200),
            ("393401234568", "ACME", b"x"),
            ("393401234569", "SHOP", b"x"),
            ("4915112345678", "SHOP", b"x"),
        )
    ]
    conn.execute("DELETE FROM movements")
    conn.execute("UPDATE accounts SET balance = 0")
    credits.grant_credits(conn, SHELL, acme_1, 1_000_000, now=at("2026-10-01", "UTC"))
    october, november = (month_of(each) for each in ("2026-10", "2026-11"))
    ids: list[list[int]] = []
    for moment in (last, last + 1):
        ids.append(store_messages(conn, submits, now=moment))
    rollup.roll_up_all(conn)
    for month in (october, november):
        countries = statement.list_dearest_usage(conn, acme_1.id, month, statement.BY_COUNTRY)
        senders = statement.list_dearest_usage(conn, acme_1.id, month, statement.BY_SENDER, 10)
        each = statement.list_monthly_usage(conn, acme_1.id, month)
        ledger_says = -get_net_amount(
            statement.sum_movements(conn, acme_1.id, periods.period_from_month(month)), ledger.USAGE
        )
        assert [sum(line.price for line in lines) for lines in (countries, senders, each)] == [ledger_says] * 3
        assert {line.country: (line.messages, line.parts) for line in countries} == {"IT": (3, 4), "DE": (1, 1)}
        assert {line.source: (line.messages, line.parts) for line in senders} == {"ACME": (2, 3), "SHOP": (2, 2)}
        assert len(each) == 3
    assert [each.source for each in statement.list_dearest_usage(conn, acme_1.id, october, statement.BY_SENDER, 1)]
    # A refund is a movement of its own: what was used stays.
    cancel_message(conn, acme_1.id, ids[1][0])
    assert (
        -get_net_amount(statement.sum_movements(conn, acme_1.id, periods.period_from_month(november)), ledger.USAGE)
        == ledger_says
    )
    assert (
        sum(each.price for each in statement.list_dearest_usage(conn, acme_1.id, november, statement.BY_COUNTRY))
        == ledger_says
    )


def test_a_number_is_one_sender_however_it_is_written(conn, acme_1):
    conn.execute("UPDATE accounts SET any_sender = 1")
    sources = ("393401230000", "+393401230000", "00393401230000", "123")
    store_messages(conn, [prepare_submit(conn, acme_1.id, source=each) for each in sources], at("2026-10-01", "UTC"))
    rollup.roll_up_all(conn)
    used = statement.list_dearest_usage(conn, acme_1.id, month_of("2026-10"), statement.BY_SENDER, 10)
    assert [(each.source, each.messages, each.price) for each in used] == [
        ("393401230000", 3, 3_000),
        ("123", 1, 1_000),
    ]


def test_messages_and_their_debit_are_of_the_same_month(conn, acme_1, monkeypatch):
    last = at("2030-10-31T23:59:59.999", "UTC")
    clock = iter(range(last, last + 10))
    monkeypatch.setattr("portal.services.common.ids.now_ms", lambda: next(clock))
    intake.store_messages(conn, [prepare_submit(conn, acme_1.id)])
    rollup.roll_up_all(conn)
    october = month_of("2030-10")
    assert [each.price for each in statement.list_monthly_usage(conn, acme_1.id, october)] == [1_000]
    assert (
        get_net_amount(statement.sum_movements(conn, acme_1.id, periods.period_from_month(october)), ledger.USAGE)
        == -1_000
    )
