"""An account's statistics: what a count of the messages says, whatever the period and however it is cut up."""

import math
import random
import sqlite3
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from operator import itemgetter
from typing import Any

import pytest

from portal.core.clock import DAY_MS
from portal.core.db import Connection
from portal.services.accounts.accounts import Account
from portal.services.common import ids, periods
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED, ENROUTE, UNDELIVERABLE
from portal.services.messages import blacklist, intake, outcomes
from portal.services.messages.outcomes import MessageOutcome
from portal.services.statistics import rollup, statistics
from portal.services.statistics.daily_totals import MessageCounts
from portal.services.statistics.rollup import DAY, HOUR, MONTH
from portal.services.statistics.statistics import DeliveryTimes, PreviousPeriod, Statistics
from tests.support import prepare_submit

HOUR_MS = 3_600_000
NAMES = ("sent", "delivered", "failed", "stopped", "refused", "parts", "price")
# 10:00 of a Monday.
NOW = int(datetime(2026, 11, 23, 10, tzinfo=UTC).timestamp() * 1000)
MIDNIGHT = NOW - 10 * HOUR_MS


def on(year: int, month: int, day: int, hour: int = 12) -> int:
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp() * 1000)


def find(
    conn: Connection,
    account: Account,
    choice: str = periods.DAYS_30,
    first: str = "",
    last: str = "",
    grain: int | None = None,
    now: int = NOW,
) -> Statistics | None:
    within = periods.parse_period(choice, first, last, "UTC", now)
    return statistics.read_statistics(conn, account.id, choice, within, grain, now)


def read(conn: Connection, account: Account, *args: Any, **kwargs: Any) -> Statistics:
    """As `find`, of a period that there are statistics of."""
    found = find(conn, account, *args, **kwargs)
    assert found is not None
    return found


def read_previous(conn: Connection, account: Account, *args: Any, **kwargs: Any) -> PreviousPeriod:
    previous = read(conn, account, *args, **kwargs).previous
    assert previous is not None
    return previous


def send(
    conn: Connection,
    account: Account,
    at: int,
    count: int = 1,
    source: str = "ACME",
    destination: str = "393401234567",
    **fields: Any,
) -> list[int]:
    """Messages that are on their way; returns their ids."""
    submits = [prepare_submit(conn, account.id, source=source, destination=destination, **fields) for _ in range(count)]
    return [each for each in intake.store_messages(conn, submits, at).message_ids if each is not None]


def end(
    conn: Connection, message_ids: Sequence[int], after_ms: int = 2_000, state: int = DELIVERED, ptt: int = 0
) -> None:
    outcomes.finish_messages(
        conn, [MessageOutcome(each, state, ptt, ids.time_from_id(each) + after_ms) for each in message_ids]
    )
    rollup.roll_up_all(conn)


@pytest.fixture(autouse=True)
def any_sender(conn: Connection) -> None:
    conn.execute("UPDATE accounts SET any_sender = 1, balance = 100000000")


# --- against a recount


def messages_of(conn: Connection, account: Account) -> list[sqlite3.Row]:
    return conn.execute("SELECT * FROM messages WHERE account_id = ? ORDER BY id", (account.id,)).fetchall()


def recounted(
    messages: Sequence[sqlite3.Row], since: int, until: int
) -> tuple[Counter[str], dict[str, Counter[str]], dict[str, Counter[str]], Counter[int], list[int]]:
    """Those of a stretch of time: counts in all, by country and by sender; endings; times, exactly."""
    by_country: dict[str, Counter[str]] = {}
    by_sender: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    endings: Counter[int] = Counter()
    times: list[int] = []
    begins, ends = (bisect_left(messages, ids.min_id_at_time(at), key=itemgetter("id")) for at in (since, until))
    for row in messages[begins:ends]:
        at = ids.time_from_id(row["id"])
        charged = row["price"] > 0
        counts = {
            "sent": charged,
            "delivered": row["state"] == DELIVERED,
            "failed": charged and row["state"] not in (ENROUTE, DELIVERED),
            "stopped": not charged and row["ptt"] == 53,
            "refused": not charged and row["ptt"] == 10,
            "parts": row["parts"] * charged,
            "price": row["price"],
        }
        endings[row["ptt"]] += 1
        if row["state"] == DELIVERED:
            times.append(row["done_at"] - (row["scheduled_at"] if row["scheduled_at"] is not None else at))
        for into, key in ((by_country, row["country"]), (by_sender, row["source"])):
            into.setdefault(key, Counter()).update(counts)
        total.update(counts)
    return total, by_country, by_sender, endings, sorted(times)


def plain(counts: MessageCounts) -> dict[str, int]:
    return {name: getattr(counts, name) for name in NAMES}


def as_counter(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in NAMES}


def assert_agrees(messages: Sequence[sqlite3.Row], result: Statistics, since: int, until: int, ends: int) -> None:
    """`since` and `until` of the period, `ends` of its steps."""
    total, by_country, by_sender, endings, times = recounted(messages, since, until)
    assert plain(result.totals) == as_counter(total)
    assert {name: plain(counts) for name, counts in result.countries} == {
        k: as_counter(v) for k, v in by_country.items()
    }
    assert {name: plain(counts) for name, counts in result.senders} == {k: as_counter(v) for k, v in by_sender.items()}
    assert dict(result.messages_by_ptt) == dict(endings)
    assert result.times.message_count == len(times)
    assert result.totals.pending == endings[254]
    for share in (0.5, 0.95):
        if times:
            shortest, too_long = rollup.get_delivery_bucket_bounds(
                rollup.get_delivery_time_bucket(times[math.ceil(share * len(times)) - 1])
            )
            quantile = result.times.quantile(share)
            assert quantile is not None
            assert shortest <= quantile <= too_long
    assert result.steps[0].at == since
    for (begins, counts), following in zip(result.steps, [*(at for at, _ in result.steps[1:]), ends], strict=True):
        counted = recounted(messages, begins, following)[0]
        assert plain(counts) == as_counter(counted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_period_says_what_its_messages_say(conn, acme_1, globex_1, seed):
    rng = random.Random(seed)
    blacklist.add_blacklist_number(conn, SHELL, acme_1, "393337654321")
    # Around the turns of days and months, over half a year, up to now.
    days = sorted({0, 1, 2, 6, 7, 22, 23, 53, 54, *rng.sample(range(180), 25)}, reverse=True)
    for days_ago in days:
        conn.execute("UPDATE accounts SET balance = ? WHERE id = ?", (rng.choice([3_000, 1_000_000]), acme_1.id))
        for hour in sorted(rng.sample(range(24), 3)):
            at = MIDNIGHT - days_ago * DAY_MS + hour * HOUR_MS + rng.randint(0, HOUR_MS - 1)
            if at > NOW:
                continue
            underway = []
            for account in (acme_1, globex_1):
                for _ in range(rng.randint(1, 4)):
                    destination = rng.choice(["393401234567", "393337654321", "33612345678"])
                    scheduled_at = rng.choice([None, None, at + 5_000])
                    source = rng.choice(["ACME", "GLOBEX"])
                    underway += send(
                        conn, account, at, rng.randint(1, 2), source, destination, scheduled_at=scheduled_at
                    )
            for each in underway:
                if rng.random() < 0.8:
                    fate = rng.choice([(DELIVERED, 0), (DELIVERED, 0), (UNDELIVERABLE, 9), (UNDELIVERABLE, 800)])
                    outcomes.finish_messages(conn, [MessageOutcome(each, *fate, at + rng.randint(0, 60_000))])
    rollup.roll_up_all(conn)
    messages = messages_of(conn, acme_1)
    today = date(2026, 11, 23)
    for choice in (periods.TODAY, periods.WEEK, periods.DAYS_30, periods.THIS_MONTH, periods.LAST_MONTH):
        for grain in (None, HOUR, DAY, MONTH):
            within = periods.parse_period(choice, "", "", "UTC", NOW)
            result = read(conn, acme_1, choice, grain=grain)
            ends = min(within.until, (NOW // HOUR_MS + 1) * HOUR_MS) if result.grain == HOUR else within.until
            assert_agrees(messages, result, within.since, within.until, ends)
    for _ in range(10):
        first = today - timedelta(rng.randint(0, days[0]))
        last = min(first + timedelta(rng.choice([0, 3, 6, 40, 100])), today)
        within = periods.parse_period(periods.RANGE, str(first), str(last), "UTC", NOW)
        result = read(conn, acme_1, periods.RANGE, str(first), str(last), rng.choice([None, HOUR, DAY, MONTH]))
        ends = min(within.until, (NOW // HOUR_MS + 1) * HOUR_MS) if result.grain == HOUR else within.until
        assert_agrees(messages, result, within.since, within.until, ends)
        # The period before is what that period says of itself.
        previous = result.previous
        assert previous is not None
        before = find(conn, acme_1, periods.RANGE, str(previous.first), str(previous.last))
        if previous.until is None and before and before.first == previous.first:
            assert previous.totals == before.totals
            assert previous.times == before.times
    everything = read(conn, acme_1, periods.ALL)
    assert everything.grain == MONTH
    assert everything.first == today - timedelta(days[0])
    assert_agrees(messages, everything, statistics.utc_day_start_ms(everything.first), NOW, NOW)
    kinds = recounted(messages, 0, NOW)[0]
    assert all(kinds[each] for each in NAMES)


def test_another_accounts_messages_are_not_counted(conn, acme_1, globex_1):
    end(conn, send(conn, globex_1, NOW, 3))
    assert find(conn, acme_1) is None
    end(conn, send(conn, acme_1, NOW))
    result = read(conn, acme_1)
    assert result.totals.sent == result.times.message_count == 1
    assert result.messages_by_ptt == [(0, 1)]


# --- periods and their steps


@pytest.mark.parametrize(
    ("choice", "grain", "gets", "steps"),
    [
        (periods.TODAY, None, HOUR, 11),
        (periods.TODAY, DAY, DAY, 1),
        (periods.TODAY, MONTH, MONTH, 1),
        (periods.WEEK, None, DAY, 7),
        (periods.WEEK, HOUR, HOUR, 6 * 24 + 11),
        (periods.DAYS_30, None, DAY, 30),
        (periods.DAYS_30, HOUR, DAY, 30),
        (periods.DAYS_30, MONTH, MONTH, 2),
        (periods.THIS_MONTH, None, DAY, 23),
        (periods.LAST_MONTH, None, DAY, 31),
        (periods.MONTHS_12, None, MONTH, 12),
        (periods.MONTHS_12, DAY, MONTH, 12),
        (periods.ALL, None, MONTH, 14),
    ],
)
def test_a_period_is_cut_into_as_many_steps_as_can_be_read(conn, acme_1, choice, grain, gets, steps):
    send(conn, acme_1, on(2025, 10, 20))
    rollup.roll_up_all(conn)
    result = read(conn, acme_1, choice, grain=grain)
    assert (result.grain, len(result.steps)) == (gets, steps)


def test_days_without_a_message_are_steps_too(conn, acme_1):
    send(conn, acme_1, on(2026, 11, 20))
    rollup.roll_up_all(conn)
    result = read(conn, acme_1, periods.WEEK)
    assert [counts.sent for _, counts in result.steps] == [0, 0, 0, 1, 0, 0, 0]
    assert result.steps[0].at == on(2026, 11, 17, 0)


def test_months_begin_and_end_where_the_period_does(conn, acme_1):
    for day in (19, 20, 30):
        send(conn, acme_1, on(2026, 9, day))
    send(conn, acme_1, on(2026, 10, 1), 2)
    for day in (9, 10):
        send(conn, acme_1, on(2026, 11, day), 4)
    rollup.roll_up_all(conn)
    result = read(conn, acme_1, periods.RANGE, "2026-09-20", "2026-11-09", MONTH)
    assert [(at, counts.sent) for at, counts in result.steps] == [
        (on(2026, 9, 20, 0), 2),
        (on(2026, 10, 1, 0), 2),
        (on(2026, 11, 1, 0), 4),
    ]
    assert result.totals.sent == 8


def test_a_range_begins_with_the_first_message_and_ends_today(conn, acme_1):
    send(conn, acme_1, on(2026, 11, 21))
    rollup.roll_up_all(conn)
    result = read(conn, acme_1, periods.RANGE, "1970-01-02", "2200-01-01")
    assert (result.first, result.last) == (date(2026, 11, 21), date(2026, 11, 23))
    assert result.grain == DAY
    assert find(conn, acme_1, periods.RANGE, "2026-11-01", "2026-11-20") is None
    assert find(conn, acme_1, periods.RANGE, "2026-11-24", "2026-11-30") is None


def test_hours_that_are_no_longer_kept_are_not_shown(conn, acme_1):
    oldest = date(2026, 11, 23) - timedelta(statistics.HOURLY_RETENTION_DAYS - 1)
    send(conn, acme_1, statistics.utc_day_start_ms(oldest - timedelta(1)))
    send(conn, acme_1, statistics.utc_day_start_ms(oldest))
    rollup.roll_up_all(conn)
    statistics.purge_hourly_statistics(conn, NOW)
    for day, grain in ((oldest, HOUR), (oldest - timedelta(1), DAY)):
        result = read(conn, acme_1, periods.RANGE, str(day), str(day), HOUR)
        assert (result.grain, result.totals.sent) == (grain, 1)
        assert [counts.sent for _, counts in result.steps if counts.sent] == [1]


# --- the period before


@pytest.mark.parametrize(
    ("choice", "first", "last", "before", "until"),
    [
        (periods.TODAY, "", "", ("2026-11-22", "2026-11-22"), 11),
        (periods.WEEK, "", "", ("2026-11-10", "2026-11-16"), 11),
        (periods.DAYS_30, "", "", ("2026-09-25", "2026-10-24"), 11),
        (periods.THIS_MONTH, "", "", ("2026-10-01", "2026-10-23"), 11),
        (periods.LAST_MONTH, "", "", ("2026-09-01", "2026-09-30"), None),
        # Its last day's hours are no longer kept.
        (periods.MONTHS_12, "", "", ("2024-12-01", "2025-11-23"), None),
        (periods.RANGE, "2026-11-10", "2026-11-12", ("2026-11-07", "2026-11-09"), None),
        (periods.RANGE, "2026-03-01", "2026-03-31", ("2026-02-01", "2026-02-28"), None),
        (periods.RANGE, "2026-04-01", "2026-09-30", ("2025-10-01", "2026-03-31"), None),
    ],
)
def test_what_comes_before_is_as_long(conn, acme_1, choice, first, last, before, until):
    send(conn, acme_1, on(2020, 1, 1))
    rollup.roll_up_all(conn)
    result = read_previous(conn, acme_1, choice, first, last)
    assert ((str(result.first), str(result.last)), result.until) == (before, until)


def test_the_end_of_a_long_month_is_compared_with_all_of_a_short_one(conn, acme_1):
    send(conn, acme_1, on(2020, 1, 1))
    rollup.roll_up_all(conn)
    result = read_previous(conn, acme_1, periods.THIS_MONTH, now=on(2026, 3, 30))
    assert (str(result.first), str(result.last)) == ("2026-02-01", "2026-02-28")


def test_all_time_has_none_before(conn, acme_1):
    send(conn, acme_1, NOW)
    rollup.roll_up_all(conn)
    assert read(conn, acme_1, periods.ALL).previous is None


def test_a_period_that_runs_is_compared_up_to_the_same_hour(conn, acme_1):
    end(conn, send(conn, acme_1, on(2026, 11, 9, 23), 16))
    end(conn, send(conn, acme_1, on(2026, 11, 10, 0), 8))
    for hour, count in ((9, 1), (10, 2), (11, 4)):
        end(conn, send(conn, acme_1, on(2026, 11, 16, hour), count))
    end(conn, send(conn, acme_1, on(2026, 11, 22, 10), 32))
    end(conn, send(conn, acme_1, on(2026, 11, 22, 11), 64))
    before = read_previous(conn, acme_1, periods.WEEK)
    assert (before.totals.sent, before.times.message_count) == (1 + 2 + 8, 1 + 2 + 8)
    assert read_previous(conn, acme_1, periods.TODAY).totals.sent == 32


# --- rates and times


def test_the_rate_is_of_those_that_have_ended(conn, acme_1):
    message_ids = send(conn, acme_1, NOW, 5)
    rollup.roll_up_all(conn)
    assert read(conn, acme_1).totals.delivery_rate is None
    end(conn, message_ids[:3])
    end(conn, message_ids[3:4], state=UNDELIVERABLE, ptt=9)
    totals = read(conn, acme_1).totals
    assert (totals.delivery_rate, totals.pending, totals.submitted) == (0.75, 1, 5)
    # Should the tables ever say so.
    assert MessageCounts(sent=1, delivered=2).pending == 0


def test_a_number_is_one_sender_however_it_is_written(conn, acme_1):
    for source in ("393401230000", "+393401230000", "00393401230000", "123", "00123"):
        end(conn, send(conn, acme_1, MIDNIGHT, source=source))
    senders = read(conn, acme_1).senders
    assert [(name, counts.sent) for name, counts in senders] == [("393401230000", 3), ("00123", 1), ("123", 1)]


def test_the_most_come_first(conn, acme_1):
    send(conn, acme_1, NOW, 1, "B")
    send(conn, acme_1, NOW, 1, "A")
    send(conn, acme_1, NOW, 2, "C", "33612345678")
    rollup.roll_up_all(conn)
    result = read(conn, acme_1)
    assert [name for name, _ in result.senders] == ["C", "A", "B"]
    assert [(name, counts.sent) for name, counts in result.countries] == [("FR", 2), ("IT", 2)]


@pytest.mark.parametrize("seed", range(5))
def test_quantiles_and_shares_are_within_an_eighth(seed):
    rng = random.Random(seed)
    exact = sorted(int(rng.lognormvariate(9, 1.5)) for _ in range(500))
    times = DeliveryTimes(sorted(Counter(map(rollup.get_delivery_time_bucket, exact)).items()))
    for share in (0.01, 0.5, 0.95, 0.99):
        true = exact[math.ceil(share * len(exact)) - 1]
        quantile = times.quantile(share)
        assert quantile is not None
        assert abs(quantile - true) <= true / 8
    limits = (1_000, 5_000, 60_000)
    for limit, share in zip(limits, times.shares_within(limits), strict=True):
        least, most = (sum(each < bound for each in exact) / 500 for bound in (limit * 7 / 8, limit * 9 / 8))
        assert least <= share <= most
    assert times.shares_within([0, max(exact) * 2, max(exact) * 3]) == [0, 1, 1]


def test_half_of_a_bucket_is_half_of_its_messages():
    number = rollup.get_delivery_time_bucket(8_000)
    shortest, too_long = rollup.get_delivery_bucket_bounds(number)
    times = DeliveryTimes([(number - 1, 1), (number, 2), (number + 1, 1)])
    middle = (shortest + too_long) / 2
    assert times.shares_within([shortest, middle, too_long]) == [0.25, 0.5, 0.75]
    assert times.quantile(0.5) == middle
    assert times.quantile(0.75) == too_long


def test_no_message_has_no_time():
    assert DeliveryTimes([]).quantile(0.5) is None
    median = DeliveryTimes([(rollup.get_delivery_time_bucket(0), 3)]).quantile(0.5)
    assert median is not None
    assert median < 1


# --- purging, and what is read


def lengths(conn: Connection) -> dict[str, Counter[int]]:
    tables = ("statistics", "statistics_endings", "statistics_times")
    return {
        table: Counter(row[0] for row in conn.execute(f"SELECT length FROM {table}").fetchall()) for table in tables
    }


def test_old_hours_go_in_steps_and_all_else_stays(conn, acme_1, acme_2):
    keeps = MIDNIGHT - statistics.HOURLY_RETENTION_DAYS * DAY_MS
    for at in (keeps - 300 * DAY_MS, keeps - DAY_MS, keeps - 2 * HOUR_MS, keeps - 1, keeps, NOW):
        for account in (acme_1, acme_2):
            end(conn, send(conn, account, at))
    before = lengths(conn)
    assert all(each[HOUR] == 2 * 6 for each in before.values())
    begun = []
    conn.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)
    statistics.purge_hourly_statistics(conn, NOW, batch_size=3)
    conn.set_trace_callback(None)
    after = lengths(conn)
    for table in before:
        assert after[table][HOUR] == 4
        assert (after[table][DAY], after[table][MONTH]) == (before[table][DAY], before[table][MONTH])
    least = min(row[0] for row in conn.execute(f"SELECT begins FROM statistics WHERE length = {HOUR}"))
    assert least == keeps // HOUR_MS
    assert len(begun) == 3 * 3
    statistics.purge_hourly_statistics(conn, NOW)
    assert lengths(conn) == after


def test_nothing_is_scanned(conn, acme_1):
    """Neither for a page nor for purging: each table is searched by the first columns of its primary key."""
    send(conn, acme_1, NOW)
    rollup.roll_up_all(conn)
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    read(conn, acme_1, periods.MONTHS_12)
    statistics.purge_hourly_statistics(conn, NOW, batch_size=3)
    conn.set_trace_callback(None)
    queries = [each for each in statements if each.startswith(("SELECT", "DELETE"))]
    assert len(queries) == 1 + 4 + 2 + 3
    for each in queries:
        plan = [row["detail"] for row in conn.execute(f"EXPLAIN QUERY PLAN {each}")]
        of_tables = [step for step in plan if "statistics" in step]
        assert of_tables
        # Only the first message's day is found by what comes before it in the key.
        bound = " AND begins>? AND begins<?" if "json_each" in each else "" if "min(begins)" in each else " AND begins"
        assert all(f"PRIMARY KEY (account_id=? AND length=?{bound}" in step for step in of_tables), plan
        assert not [step for step in plan if "messages" in step]
