"""An account's statistics of a period: by hour, day or month, by country, sender and status, and delivery times.

Read from what `rollup` has counted, never from the messages: whole months as months, the days before and after them as
days, hours only where each is shown. All of it is in UTC.
"""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

from portal.core.clock import DAY_MS, HOUR_MS
from portal.core.db import write_transaction
from portal.services.common import periods
from portal.services.common.addresses import normalize_address
from portal.services.common.message_states import PTT_BLACKLISTED, PTT_NO_CREDIT, PTT_PENDING
from portal.services.common.periods import Period
from portal.services.statistics.daily_totals import SUMS_SQL, MessageCounts, month_from_day, sum_counts
from portal.services.statistics.rollup import DAY, HOUR, MONTH, get_delivery_bucket_bounds

TIMEZONE = "UTC"
MAX_DAYS = {HOUR: 7, DAY: 92}
"""How many days a chart shows by hour and by day; more of them are shown by month."""

HOURLY_RETENTION_DAYS = 93

_EPOCH = date(1970, 1, 1)
_HOURS_PER_DAY = DAY_MS // HOUR_MS
_ROWS_PER_BATCH = 1_000
# Of what is compared by months, like with like: as many months before.
_MONTH_PERIODS = (periods.THIS_MONTH, periods.LAST_MONTH, periods.MONTHS_12)

# A span of time in the tables: a length of `rollup`, the first of its beginnings, and the one after the last.
_TimeSpan = tuple[int, int, int]


class TimeStep(NamedTuple):
    """An hour, a day or a month, or what of it is in the period: when it begins (milliseconds)."""

    at: int
    counts: MessageCounts


class BreakdownRow(NamedTuple):
    """What went to a country (its ISO code), or had a sender."""

    name: str
    counts: MessageCounts


@dataclass(frozen=True, slots=True)
class DeliveryTimes:
    """How long delivered messages took, from the submit, or the date that they waited for, to the delivery.

    `buckets`: (number of `rollup.get_delivery_time_bucket`, messages), the shortest time first. What is read from them
    is off by an eighth at most, mostly by much less.
    """

    buckets: Sequence[tuple[int, int]]

    @property
    def message_count(self) -> int:
        return sum(messages for _, messages in self.buckets)

    def quantile(self, share: float) -> float | None:
        """The time that this share of the messages took at most, in milliseconds; None where there are none.

        Within a bucket the messages are taken to be spread evenly.
        """
        rank, before = share * self.message_count, 0
        for number, messages in self.buckets:
            if before + messages >= rank:
                shortest, too_long = get_delivery_bucket_bounds(number)
                return shortest + (too_long - shortest) * (rank - before) / messages
            before += messages
        return None

    def shares_within(self, limits: Sequence[float]) -> list[float]:
        """The share of the messages that took less than each of these (milliseconds); there are messages."""
        return [self._count_within(limit) / self.message_count for limit in limits]

    def _count_within(self, limit: float) -> float:
        count = 0.0
        for number, messages in self.buckets:
            shortest, too_long = get_delivery_bucket_bounds(number)
            count += messages * min(max(limit - shortest, 0) / (too_long - shortest), 1)
        return count


@dataclass(frozen=True, slots=True)
class PreviousPeriod:
    """The period before another one, from `first` to `last`; `until` is the hour of the last day at which it ends, so
    that it is as long as one that still runs, and None where it has the whole day."""

    first: date
    last: date
    until: int | None
    totals: MessageCounts
    times: DeliveryTimes


@dataclass(frozen=True, slots=True)
class Statistics:
    """The statistics of a period.

    Its days are those that are shown: none after today, and for RANGE and ALL none before the account's first message.

    `steps` are of the length `grain`, oldest first, also those with nothing; `countries` and `senders` have the most
    messages first. `messages_by_ptt` are numbers of messages by their `message_states.PTT_DESCRIPTIONS`, most first,
    those without a final state and those that were not sent too. `previous` is None where there is no period before
    (all time).
    """

    first: date
    last: date
    grain: int
    totals: MessageCounts
    steps: Sequence[TimeStep]
    countries: Sequence[BreakdownRow]
    senders: Sequence[BreakdownRow]
    messages_by_ptt: Sequence[tuple[int, int]]
    times: DeliveryTimes
    previous: PreviousPeriod | None


def get_first_message_day(conn: sqlite3.Connection, account_id: int) -> date | None:
    """The day of an account's first message; None where there has been none."""
    query = f"SELECT min(begins) FROM statistics WHERE account_id = ? AND length = {DAY}"
    (oldest,) = conn.execute(query, (account_id,)).fetchone()
    return None if oldest is None else _date_from_days(oldest)


def read_statistics(
    conn: sqlite3.Connection, account_id: int, choice: str, period: Period, grain: int | None, now: int
) -> Statistics | None:
    """An account's statistics; None where the period ends before its first message, or has not begun.

    Args:
        choice: of `periods.STATISTICS_PERIODS`; says what the period before is.
        period: what `periods.parse_period` makes of it in TIMEZONE.
        grain: the length of the steps, of `rollup`; one that makes too many of them, or needs hours that are no longer
            stored, gives way to a longer one. None: what suits the period.
        now: this moment (milliseconds).
    """

    def query(sql: str, spans: Sequence[_TimeSpan]) -> sqlite3.Cursor:
        return conn.execute(sql, {"account": account_id, "spans": json.dumps(spans)})

    today = _date_from_days(now // DAY_MS)
    # All that is read is of one moment: what has been gathered meanwhile would be in some of it only.
    conn.execute("BEGIN")
    try:
        oldest = get_first_message_day(conn, account_id)
        if oldest is None:
            return None
        first, last = period.first, min(period.last, today)
        if first is None or choice == periods.RANGE:
            first = max(first or oldest, oldest)
        if last < first:
            return None
        grain = _choose_grain(first, last, grain, today)
        # A month that still runs has nothing after today, and is one row for many days.
        last_counted_day = (
            _first_day_of_month(month_from_day(_days_since_epoch(last)) + 1) - timedelta(1) if last == today else last
        )
        spans = _split_into_rollup_spans(first, last_counted_day)
        steps = _list_rollup_spans_by_step(first, last, last_counted_day, grain, now)
        rows = query(_BY_COUNTRY_AND_SENDER, spans)
        counted = [(country, source, MessageCounts(*amounts)) for country, source, *amounts in rows]
        totals = sum_counts(counts for _, _, counts in counted)
        return Statistics(
            first,
            last,
            grain,
            totals,
            _count_steps(query, steps),
            _build_breakdown((country, counts) for country, _, counts in counted),
            _build_breakdown((normalize_address(source), counts) for _, source, counts in counted),
            _count_by_ptt(query, spans, totals),
            _read_delivery_times(query, spans),
            None if choice == periods.ALL else _read_previous_period(query, choice, first, last, now),
        )
    finally:
        conn.execute("COMMIT")


def purge_hourly_statistics(conn: sqlite3.Connection, now: int, *, batch_size: int = _ROWS_PER_BATCH) -> None:
    """Delete the hours that are older than HOURLY_RETENTION_DAYS at this moment (milliseconds); days and months stay.

    In steps of `batch_size` rows, of which others notice nothing.
    """
    bound = (now // DAY_MS - HOURLY_RETENTION_DAYS) * _HOURS_PER_DAY
    for table, key in (
        ("statistics", "country, source"),
        ("statistics_endings", "ptt"),
        ("statistics_times", "bucket"),
    ):
        key = f"account_id, length, begins, {key}"
        # Account by account: the primary key begins with it.
        old = (
            f"SELECT {key} FROM accounts CROSS JOIN {table} ON account_id = accounts.id"
            f" AND length = {HOUR} AND begins < ? LIMIT {batch_size}"
        )
        deleted = batch_size
        while deleted == batch_size:
            with write_transaction(conn):
                deleted = conn.execute(f"DELETE FROM {table} WHERE ({key}) IN ({old})", (bound,)).rowcount


# --- which rows


def utc_day_start_ms(day: date) -> int:
    """When a day begins (milliseconds)."""
    return _days_since_epoch(day) * DAY_MS


def _date_from_days(days: int) -> date:
    return _EPOCH + timedelta(days)


def _days_since_epoch(day: date) -> int:
    return (day - _EPOCH).days


def _first_day_of_month(month: int) -> date:
    return date(month // 12, month % 12 + 1, 1)


def _choose_grain(first: date, last: date, grain: int | None, today: date) -> int:
    days = (last - first).days + 1
    if grain is None:
        grain = HOUR if days <= 2 else DAY
    if grain == HOUR and (days > MAX_DAYS[HOUR] or not has_hourly_counts(first, today)):
        grain = DAY
    if grain == DAY and days > MAX_DAYS[DAY]:
        grain = MONTH
    return grain


def has_hourly_counts(day: date, today: date) -> bool:
    """Whether the hours of a day are still stored."""
    return (today - day).days < HOURLY_RETENTION_DAYS


def _split_into_rollup_spans(first: date, last: date) -> list[_TimeSpan]:
    """The fewest rows that have all from one day to another."""
    begins, ends = _days_since_epoch(first), _days_since_epoch(last) + 1
    month = month_from_day(begins) + (first.day > 1)
    following = month_from_day(ends)
    if following <= month:
        return [(DAY, begins, ends)]
    spans = [
        (DAY, begins, _days_since_epoch(_first_day_of_month(month))),
        (MONTH, month, following),
        (DAY, _days_since_epoch(_first_day_of_month(following)), ends),
    ]
    return [each for each in spans if each[1] < each[2]]


def _list_rollup_spans_by_step(
    first: date, last: date, last_counted_day: date, grain: int, now: int
) -> list[tuple[int, Sequence[_TimeSpan]]]:
    """When each step begins (milliseconds), and its rows.

    None begins after this moment, or the last day; months are read up to `last_counted_day`.
    """
    begins, ends = _days_since_epoch(first), _days_since_epoch(last) + 1
    if grain == HOUR:
        hours = range(begins * _HOURS_PER_DAY, min(ends * _HOURS_PER_DAY, now // HOUR_MS + 1))
        return [(hour * HOUR_MS, [(HOUR, hour, hour + 1)]) for hour in hours]
    if grain == DAY:
        return [(day * DAY_MS, [(DAY, day, day + 1)]) for day in range(begins, ends)]
    steps: list[tuple[int, Sequence[_TimeSpan]]] = []
    for month in range(month_from_day(begins), month_from_day(ends - 1) + 1):
        since = max(_first_day_of_month(month), first)
        until = min(_first_day_of_month(month + 1) - timedelta(1), last_counted_day)
        steps.append((utc_day_start_ms(since), _split_into_rollup_spans(since, until)))
    return steps


# --- reading them


def _build_sum_query(columns: str, table: str, key: str) -> str:
    # By the primary key's first columns, span by span; `span.key` is its place in the list.
    return (
        f"SELECT {key}, {columns} FROM json_each(:spans) AS span CROSS JOIN {table} ON account_id = :account"
        " AND length = span.value ->> 0 AND begins >= span.value ->> 1 AND begins < span.value ->> 2"
        f" GROUP BY {key}"
    )


_BY_COUNTRY_AND_SENDER = _build_sum_query(SUMS_SQL, "statistics", "country, source")
_BY_SPAN = _build_sum_query(SUMS_SQL, "statistics", "span.key")
_BY_PTT = _build_sum_query("sum(messages)", "statistics_endings", "ptt")
_BY_BUCKET = _build_sum_query("sum(messages)", "statistics_times", "bucket")


# Takes one of these, and the spans.
_Query = Callable[[str, Sequence[_TimeSpan]], sqlite3.Cursor]


def _count_steps(query: _Query, steps: Sequence[tuple[int, Sequence[_TimeSpan]]]) -> Sequence[TimeStep]:
    numbered = [(number, span) for number, (_, spans) in enumerate(steps) for span in spans]
    counts = [[MessageCounts()] for _ in steps]
    for index, *amounts in query(_BY_SPAN, [span for _, span in numbered]):
        counts[numbered[index][0]].append(MessageCounts(*amounts))
    return [TimeStep(at, sum_counts(each)) for (at, _), each in zip(steps, counts, strict=True)]


def _count_by_ptt(query: _Query, spans: Sequence[_TimeSpan], totals: MessageCounts) -> Sequence[tuple[int, int]]:
    messages_by_ptt: Counter[int] = Counter(dict(query(_BY_PTT, spans)))
    messages_by_ptt[PTT_PENDING] += totals.pending
    messages_by_ptt[PTT_BLACKLISTED] += totals.stopped
    messages_by_ptt[PTT_NO_CREDIT] += totals.refused
    nonzero = [(ptt, messages) for ptt, messages in messages_by_ptt.items() if messages]
    return sorted(nonzero, key=lambda each: (-each[1], each[0]))


def _read_delivery_times(query: _Query, spans: Sequence[_TimeSpan]) -> DeliveryTimes:
    return DeliveryTimes([(number, messages) for number, messages in query(_BY_BUCKET, spans)])


def _build_breakdown(counted: Iterable[tuple[str, MessageCounts]]) -> Sequence[BreakdownRow]:
    by_name: dict[str, list[MessageCounts]] = defaultdict(list)
    for name, counts in counted:
        by_name[name].append(counts)
    rows = [BreakdownRow(name, sum_counts(counts)) for name, counts in by_name.items()]
    return sorted(rows, key=lambda row: (-row.counts.submitted, row.name))


# --- the period before


def _read_previous_period(query: _Query, choice: str, first: date, last: date, now: int) -> PreviousPeriod:
    today = _date_from_days(now // DAY_MS)
    begins, ends = _get_previous_period_days(choice, first, last)
    # A period that still runs has had so much of its last day.
    until = now % DAY_MS // HOUR_MS + 1 if last == today and has_hourly_counts(ends, today) else None
    if until is None:
        spans = _split_into_rollup_spans(begins, ends)
    else:
        spans = _split_into_rollup_spans(begins, ends - timedelta(1)) if begins < ends else []
        spans.append((HOUR, _days_since_epoch(ends) * _HOURS_PER_DAY, _days_since_epoch(ends) * _HOURS_PER_DAY + until))
    totals = sum_counts(MessageCounts(*amounts) for _, *amounts in query(_BY_SPAN, spans))
    return PreviousPeriod(begins, ends, until, totals, _read_delivery_times(query, spans))


def _get_previous_period_days(choice: str, first: date, last: date) -> tuple[date, date]:
    """The first and last day of the period before: whole months have months before them, and days as many days."""
    ends_month = (last + timedelta(1)).day == 1
    if choice in _MONTH_PERIODS or (first.day == 1 and ends_month):
        months = month_from_day(_days_since_epoch(last)) - month_from_day(_days_since_epoch(first)) + 1
        begins = periods.subtract_months(first, months)
        return begins, first - timedelta(1) if ends_month else periods.subtract_months(last, months)
    days = (last - first).days + 1
    return first - timedelta(days), last - timedelta(days)
