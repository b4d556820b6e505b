"""What an account's messages came to in a period: by hour, day or month, by country, sender and status; how soon.

Read from what `tally` has gathered, never from the messages: whole months as months, the days before and after them as
days, hours only where each is shown. All of it is in UTC.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta

from portal.core.clock import DAY_MS, HOUR_MS
from portal.core.db import immediate
from portal.services.common import periods
from portal.services.common.message_states import PTT_BLACKLISTED, PTT_NO_CREDIT, PTT_PENDING
from portal.services.common.periods import Period
from portal.services.statistics.daily_totals import Counts, month_of
from portal.services.statistics.rollup import DAY, HOUR, MONTH, bounds

TIMEZONE = "UTC"
GRAINS = (HOUR, DAY, MONTH)
MOST_DAYS = {HOUR: 7, DAY: 92}
"""How many days a chart shows by hour and by day; more of them are shown by month."""

HOURS_KEPT_DAYS = 93

_EPOCH = date(1970, 1, 1)
_HOURS = DAY_MS // HOUR_MS
_ROWS_AT_ONCE = 1_000
# Of what is compared by months, like with like: as many months before.
_BY_MONTHS = (periods.THIS_MONTH, periods.LAST_MONTH, periods.MONTHS_12)

# A stretch of time in the tables: a length of `tally`, the first of its beginnings, and the one after the last.
_Span = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Step:
    """An hour, a day or a month, or what of it is in the period: when it begins (milliseconds)."""

    at: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class Line:
    """What went to a country (its ISO code), or had a sender."""

    name: str
    counts: Counts


@dataclass(frozen=True, slots=True)
class Times:
    """How long delivered messages took, from the submit, or the date that they waited for, to the delivery.

    `buckets`: (number of `tally.bucket`, messages), the shortest time first. What is read from them is off by an eighth
    at most, mostly by much less.
    """

    buckets: Sequence[tuple[int, int]]

    @property
    def messages(self) -> int:
        return sum(messages for _, messages in self.buckets)

    def quantile(self, share: float) -> float | None:
        """The time that this share of the messages took at most, in milliseconds; None where there are none.

        Within a bucket the messages are taken to be spread evenly.
        """
        rank, before = share * self.messages, 0
        for number, messages in self.buckets:
            if before + messages >= rank:
                shortest, too_long = bounds(number)
                return shortest + (too_long - shortest) * (rank - before) / messages
            before += messages
        return None

    def within(self, limits: Sequence[float]) -> list[float]:
        """The share of the messages that took less than each of these (milliseconds, the shortest first); there are
        messages."""
        total, before, place = self.messages, 0, 0
        found = []
        for limit in limits:
            while place < len(self.buckets) and bounds(self.buckets[place][0])[1] <= limit:
                before += self.buckets[place][1]
                place += 1
            partly = 0.0
            if place < len(self.buckets):
                number, messages = self.buckets[place]
                shortest, too_long = bounds(number)
                partly = messages * max(limit - shortest, 0) / (too_long - shortest)
            found.append((before + partly) / total)
        return found


@dataclass(frozen=True, slots=True)
class Before:
    """The period before another one, from `first` to `last`; `until` is the hour of the last day at which it ends, so
    that it is as long as one that still runs, and None where it has the whole day."""

    first: date
    last: date
    until: int | None
    totals: Counts
    times: Times


@dataclass(frozen=True, slots=True)
class Statistics:
    """A period's. The days are those that are shown: not before the account's first message where that was asked for,
    nor after today.

    `steps` are of the length `grain`, oldest first, also those with nothing; `countries` and `senders` have the most
    messages first. `endings` are the messages by their `history.PTT`, most first, those without a final state and those
    that were not sent too. `before` is None where there is no period before (all time).
    """

    first: date
    last: date
    grain: int
    totals: Counts
    steps: Sequence[Step]
    countries: Sequence[Line]
    senders: Sequence[Line]
    endings: Sequence[tuple[int, int]]
    times: Times
    before: Before | None


def began(conn: sqlite3.Connection, account_id: int) -> date | None:
    """The day of an account's first message; None where there has been none."""
    (oldest,) = conn.execute(
        f"SELECT min(begins) FROM statistics WHERE account_id = ? AND length = {DAY}", (account_id,)
    ).fetchone()
    return None if oldest is None else _date(oldest)


def read(
    conn: sqlite3.Connection, account_id: int, choice: str, within: Period, grain: int | None, now: int
) -> Statistics | None:
    """An account's statistics; None where the period ends before its first message, or has not begun.

    Args:
        choice: of `periods.PERIODS_OF_STATISTICS`; says what the period before is.
        within: what `periods.period` makes of it in TIMEZONE.
        grain: the length of the steps, of GRAINS; one that makes too many of them, or needs hours that are no longer
            kept, gives way to a longer one. None: what suits the period.
        now: this moment (milliseconds).
    """
    today = _date(now // DAY_MS)
    with _reading(conn):
        oldest = began(conn, account_id)
        if oldest is None:
            return None
        first, last = within.first, min(within.last, today)
        if first is None or choice == periods.RANGE:
            first = max(first or oldest, oldest)
        if last < first:
            return None
        grain = _grain(first, last, grain, today)
        # A month that still runs has nothing after today, and is one row for many days.
        through = _first_of(month_of(_days(last)) + 1) - timedelta(1) if last == today else last
        whole, steps = _spans(first, through), _steps(first, last, through, grain, now)
        pairs = _pairs(conn, account_id, whole)
        totals = _sum(counts for _, counts in pairs)
        by_step = _by_step(conn, account_id, steps)
        endings = _endings(conn, account_id, whole, totals)
        times = _times(conn, account_id, whole)
        before = None if choice == periods.ALL else _before(conn, account_id, choice, first, last, now)
    return Statistics(
        first,
        last,
        grain,
        totals,
        [Step(at, by_step.get(number, Counts())) for number, (at, _) in enumerate(steps)],
        _lines((country, counts) for (country, _), counts in pairs),
        _lines((source, counts) for (_, source), counts in pairs),
        endings,
        times,
        before,
    )


def purge(conn: sqlite3.Connection, now: int) -> None:
    """Forget the hours that are older than HOURS_KEPT_DAYS at this moment (milliseconds); days and months stay.

    In steps of which others notice nothing.
    """
    bound = (now // DAY_MS - HOURS_KEPT_DAYS) * _HOURS
    for table, key in (
        ("statistics", "country, source"),
        ("statistics_endings", "ptt"),
        ("statistics_times", "bucket"),
    ):
        key = f"account_id, length, begins, {key}"
        # Account by account: the primary key begins with it.
        old = (
            f"SELECT {key} FROM accounts CROSS JOIN {table} ON account_id = accounts.id"
            f" AND length = {HOUR} AND begins < ? LIMIT {_ROWS_AT_ONCE}"
        )
        deleted = _ROWS_AT_ONCE
        while deleted == _ROWS_AT_ONCE:
            with immediate(conn):
                deleted = conn.execute(f"DELETE FROM {table} WHERE ({key}) IN ({old})", (bound,)).rowcount


# --- which rows


def begins_at(day: date) -> int:
    """When a day begins (milliseconds)."""
    return _days(day) * DAY_MS


def _date(days: int) -> date:
    return _EPOCH + timedelta(days)


def _days(day: date) -> int:
    return (day - _EPOCH).days


def _first_of(month: int) -> date:
    return date(month // 12, month % 12 + 1, 1)


def _grain(first: date, last: date, wanted: int | None, today: date) -> int:
    days = (last - first).days + 1
    if wanted is None:
        wanted = HOUR if days <= 2 else DAY
    if wanted == HOUR and (days > MOST_DAYS[HOUR] or not has_hours(first, today)):
        wanted = DAY
    if wanted == DAY and days > MOST_DAYS[DAY]:
        wanted = MONTH
    return wanted


def has_hours(day: date, today: date) -> bool:
    """Whether the hours of a day are still kept."""
    return (today - day).days < HOURS_KEPT_DAYS


def _spans(first: date, last: date) -> list[_Span]:
    """The fewest rows that have all from one day to another."""
    begins, ends = _days(first), _days(last) + 1
    month = month_of(begins) + (first.day > 1)
    following = month_of(ends)
    if following <= month:
        return [(DAY, begins, ends)]
    spans = [
        (DAY, begins, _days(_first_of(month))),
        (MONTH, month, following),
        (DAY, _days(_first_of(following)), ends),
    ]
    return [each for each in spans if each[1] < each[2]]


def _steps(first: date, last: date, through: date, grain: int, now: int) -> list[tuple[int, Sequence[_Span]]]:
    """When each begins (milliseconds), and its rows. None begins after this moment, or the last day; months are read
    `through` another one."""
    begins, ends = _days(first), _days(last) + 1
    if grain == HOUR:
        hours = range(begins * _HOURS, min(ends * _HOURS, now // HOUR_MS + 1))
        return [(hour * HOUR_MS, [(HOUR, hour, hour + 1)]) for hour in hours]
    if grain == DAY:
        return [(day * DAY_MS, [(DAY, day, day + 1)]) for day in range(begins, ends)]
    found: list[tuple[int, Sequence[_Span]]] = []
    for month in range(month_of(begins), month_of(ends - 1) + 1):
        since = max(_first_of(month), first)
        until = min(_first_of(month + 1) - timedelta(1), through)
        found.append((begins_at(since), _spans(since, until)))
    return found


# --- reading them


@contextmanager
def _reading(conn: sqlite3.Connection) -> Iterator[None]:
    """All that is read is of one moment: what has been gathered meanwhile would be in some of it only."""
    conn.execute("BEGIN")
    try:
        yield
    finally:
        conn.execute("COMMIT")


_AMOUNTS = "sum(sent), sum(delivered), sum(failed), sum(stopped), sum(refused), sum(parts), sum(price)"


def _query(what: str, table: str, key: str) -> str:
    # By the primary key's first columns, span by span; `span.key` is its place in the list.
    return (
        f"SELECT {key}, {what} FROM json_each(:spans) AS span CROSS JOIN {table} ON account_id = :account"
        " AND length = span.value ->> 0 AND begins >= span.value ->> 1 AND begins < span.value ->> 2"
        f" GROUP BY {key}"
    )


_BY_PAIR = _query(_AMOUNTS, "statistics", "country, source")
_BY_SPAN = _query(_AMOUNTS, "statistics", "span.key")
_BY_PTT = _query("sum(messages)", "statistics_endings", "ptt")
_BY_BUCKET = _query("sum(messages)", "statistics_times", "bucket")


def _rows(conn: sqlite3.Connection, query: str, account_id: int, spans: Sequence[_Span]) -> sqlite3.Cursor:
    return conn.execute(query, {"account": account_id, "spans": json.dumps(spans)})


def _pairs(
    conn: sqlite3.Connection, account_id: int, spans: Sequence[_Span]
) -> Sequence[tuple[tuple[str, str], Counts]]:
    """By country and sender."""
    rows = _rows(conn, _BY_PAIR, account_id, spans)
    return [((country, source), Counts(*amounts)) for country, source, *amounts in rows]


def _by_step(
    conn: sqlite3.Connection, account_id: int, steps: Sequence[tuple[int, Sequence[_Span]]]
) -> Mapping[int, Counts]:
    """By the step's place in the list; those with nothing are missing."""
    spans: list[_Span] = []
    places: list[int] = []
    for place, (_, of_step) in enumerate(steps):
        spans += of_step
        places += [place] * len(of_step)
    found: dict[int, list[Counts]] = defaultdict(list)
    for number, *amounts in _rows(conn, _BY_SPAN, account_id, spans):
        found[places[number]].append(Counts(*amounts))
    return {place: _sum(counts) for place, counts in found.items()}


def _endings(
    conn: sqlite3.Connection, account_id: int, spans: Sequence[_Span], totals: Counts
) -> Sequence[tuple[int, int]]:
    found = defaultdict(int, dict(_rows(conn, _BY_PTT, account_id, spans)))
    found[PTT_PENDING] += totals.pending
    found[PTT_BLACKLISTED] += totals.stopped
    found[PTT_NO_CREDIT] += totals.refused
    known = [(ptt, messages) for ptt, messages in found.items() if messages]
    return sorted(known, key=lambda each: (-each[1], each[0]))


def _times(conn: sqlite3.Connection, account_id: int, spans: Sequence[_Span]) -> Times:
    return Times([(number, messages) for number, messages in _rows(conn, _BY_BUCKET, account_id, spans)])


def _lines(counted: Iterable[tuple[str, Counts]]) -> Sequence[Line]:
    by_name: dict[str, list[Counts]] = defaultdict(list)
    for name, counts in counted:
        by_name[name].append(counts)
    lines = [Line(name, _sum(counts)) for name, counts in by_name.items()]
    return sorted(lines, key=lambda each: (-each.counts.came, each.name))


def _sum(counted: Iterable[Counts]) -> Counts:
    columns = zip(
        *((c.sent, c.delivered, c.failed, c.stopped, c.refused, c.parts, c.price) for c in counted), strict=True
    )
    return Counts(*map(sum, columns))


# --- the period before


def _before(conn: sqlite3.Connection, account_id: int, choice: str, first: date, last: date, now: int) -> Before:
    today = _date(now // DAY_MS)
    begins, ends = _days_before(choice, first, last)
    # A period that still runs has had so much of its last day.
    until = now % DAY_MS // HOUR_MS + 1 if last == today and has_hours(ends, today) else None
    if until is None:
        spans = _spans(begins, ends)
    else:
        spans = _spans(begins, ends - timedelta(1)) if begins < ends else []
        spans.append((HOUR, _days(ends) * _HOURS, _days(ends) * _HOURS + until))
    totals = _sum(Counts(*amounts) for _, *amounts in _rows(conn, _BY_SPAN, account_id, spans))
    return Before(begins, ends, until, totals, _times(conn, account_id, spans))


def _days_before(choice: str, first: date, last: date) -> tuple[date, date]:
    """The first and last day of the period before: whole months have months before them, and days as many days."""
    ends_month = (last + timedelta(1)).day == 1
    if choice in _BY_MONTHS or (first.day == 1 and ends_month):
        months = month_of(_days(last)) - month_of(_days(first)) + 1
        begins = periods.months_before(first, months)
        return begins, first - timedelta(1) if ends_month else periods.months_before(last, months)
    days = (last - first).days + 1
    return first - timedelta(days), last - timedelta(days)
