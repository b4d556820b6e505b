"""Checks of the messages against the movements that charge them, the totals of days and months, and their index.

The stored sums of messages that customers have deleted are added to the messages. Everything older than an account's
retention is left out on both sides, whether it has been removed yet or not.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from math import inf
from typing import Any

from portal.core.clock import DAY_MS
from portal.core.i18n import N_
from portal.services.accounts import account_messages
from portal.services.common import ids
from portal.services.common.message_states import DELIVERED, ENROUTE, PTT_BLACKLISTED, PTT_NO_CREDIT
from portal.services.operations.self_check.problem import AccountNames, Problem, ProblemParams, iterate_rows
from portal.services.statistics import daily_totals, rollup

_DAY_COLUMNS = ("sent", "delivered", "failed", "stopped", "refused", "parts", "price")
_MONTH_COLUMNS = ("sent", "stopped", "refused", "parts", "price")
_MONTH_COLUMN_INDEXES = [_DAY_COLUMNS.index(each) for each in _MONTH_COLUMNS]

_Counts = list[int]
# By account id: the first day (days since 1970) whose messages are kept.
_KeptSince = Mapping[int, int]
# The messages of one day: count, parts, price; by account id, country, sender, state, ptt, whether they cost something,
# and whether the monthly statistics have counted them already.
_DayCounts = dict[tuple[int, str, str, int, int, bool, bool], _Counts]


def check_messages(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check all messages in one pass, in the order of their ids, which is also the order of days and months."""
    names = AccountNames(conn)
    kept_since = dict(iterate_rows(conn, "SELECT id, kept_since FROM accounts"))
    charges = _ChargeChecker(conn, names, kept_since)
    totals = _TotalsChecker(conn, names, kept_since)
    last_rolled_up_id = rollup.get_last_rolled_up_id(conn)
    rows = iterate_rows(
        conn, "SELECT id, account_id, country, source, state, ptt, parts, price FROM messages NOT INDEXED ORDER BY id"
    )
    day, next_day_id = -1, -1
    counted: _DayCounts = {}
    for row, account_id, country, source, state, ptt, parts, price in rows:
        if row >= next_day_id:
            if counted:
                yield from totals.check_day(day, counted)
                counted = {}
            day = ids.time_from_id(row) // DAY_MS
            next_day_id = ids.min_id_at_time((day + 1) * DAY_MS)
        if price:
            yield from charges.check_message(row, account_id, price)
        key = (account_id, country, source, state, ptt, price != 0, row <= last_rolled_up_id)
        counts = counted.get(key)
        if counts is None:
            counts = counted[key] = [0, 0, 0]
        counts[0] += 1
        counts[1] += parts
        counts[2] += price
    if counted:
        yield from totals.check_day(day, counted)
    yield from charges.check_remaining_charges()
    yield from totals.check_remaining_totals()


def check_account_messages(conn: sqlite3.Connection) -> Iterator[Problem]:
    """Check that the index of the accounts' messages has each message up to its mark, and nothing else."""
    names = AccountNames(conn)
    mark = account_messages.get_last_indexed_id(conn)
    is_missing = (
        "NOT EXISTS (SELECT 1 FROM account_messages AS own"
        " WHERE own.account_id = messages.account_id AND own.message_id = messages.id)"
    )
    messages = f"messages NOT INDEXED WHERE id <= {mark}"
    ((message_count, missing_count),) = iterate_rows(conn, f"SELECT count(*), total({is_missing}) FROM {messages}")
    if missing_count:
        sentence = N_(
            "%(account)s: messages that account_messages doesn't have: %(count)s, the first is messages row %(row)s"
        )
        rows = iterate_rows(
            conn,
            f"SELECT account_id, min(id), count(*) FROM {messages} AND {is_missing} GROUP BY account_id",
        )
        yield from (_describe_index_rows(sentence, names, *row) for row in rows)
    ((row_count,),) = iterate_rows(conn, "SELECT count(*) FROM account_messages")
    # As many as there should be are the right ones, for none is there twice: in most cases they need not be read.
    if row_count != message_count - missing_count:
        sentence = N_(
            "%(account)s: rows of account_messages that are none of its messages: %(count)s, the first names messages"
            " row %(row)s"
        )
        rows = iterate_rows(
            conn,
            f"SELECT account_id, min(message_id), count(*) FROM account_messages AS own WHERE message_id > {mark}"
            " OR NOT EXISTS (SELECT 1 FROM messages WHERE id = own.message_id AND messages.account_id = own.account_id)"
            " GROUP BY account_id",
        )
        yield from (_describe_index_rows(sentence, names, *row) for row in rows)


def _describe_index_rows(sentence: str, names: AccountNames, account_id: int, row: int, count: int) -> Problem:
    return Problem(sentence, {"account": names[account_id], "row": row, "count": count})


class _UsageCharge:
    """A usage movement: the messages that it charges, and those that were found, including deleted ones."""

    __slots__ = (
        "amount",
        "first",
        "first_found",
        "found_count",
        "found_price",
        "last",
        "last_found",
        "message_count",
        "row",
    )

    def __init__(self, row: int, message_count: int | None, amount: int, first: int | None, last: int | None) -> None:
        self.row, self.message_count, self.amount = row, message_count, amount
        self.first, self.last = first or 0, last or 0
        self.first_found = self.last_found = self.found_count = self.found_price = 0


class _ChargeChecker:
    """Compares messages with the usage movements that charge them.

    The movements of one account charge its messages one after the other; those of different accounts overlap where
    messages of several accounts were stored together.
    """

    def __init__(self, conn: sqlite3.Connection, names: AccountNames, kept_since: _KeptSince) -> None:
        self._names = names
        self._first_kept_ids = {account_id: ids.min_id_at_time(day * DAY_MS) for account_id, day in kept_since.items()}
        self._rows = iterate_rows(
            conn,
            "SELECT account_id, id, messages, -amount, first_message_id, last_message_id FROM movements"
            " WHERE kind = 'usage' ORDER BY first_message_id, account_id",
        )
        self._deleted = iterate_rows(
            conn,
            "SELECT charged_from, account_id, first_id, last_id, messages, price FROM deleted_charges"
            " ORDER BY charged_from, account_id",
        )
        self._next_deleted = next(self._deleted, None)
        self._current: dict[int, _UsageCharge] = {}
        # By account id, its messages that no movement charges: the first id, the count, the price.
        self._uncharged: dict[int, list[int]] = {}
        self._next_charge: tuple[int, _UsageCharge] | None = None
        self._read_next_charge()

    def _read_next_charge(self) -> None:
        row = next(self._rows, None)
        self._next_charge = None if row is None else (row[0], _UsageCharge(*row[1:]))
        position = (inf, 0) if self._next_charge is None else (self._next_charge[1].first, self._next_charge[0])
        while self._next_deleted is not None and self._next_deleted[:2] <= position:
            charged_from, account_id, first, last, count, cost = self._next_deleted
            if self._next_charge is not None and (charged_from, account_id) == position:
                charge = self._next_charge[1]
                charge.first_found, charge.last_found, charge.found_count, charge.found_price = first, last, count, cost
            elif last >= self._first_kept_ids.get(account_id, 0):
                self._add_uncharged_messages(account_id, first, count, cost)
            self._next_deleted = next(self._deleted, None)

    def _add_uncharged_messages(self, account_id: int, row: int, count: int, cost: int) -> None:
        uncharged = self._uncharged.setdefault(account_id, [row, 0, 0])
        uncharged[0] = min(uncharged[0], row)
        uncharged[1] += count
        uncharged[2] += cost

    def check_message(self, row: int, account_id: int, price: int) -> Iterator[Problem]:
        """Check the next message that cost something."""
        while self._next_charge is not None and self._next_charge[1].first <= row:
            yield from self._begin_charge(*self._next_charge)
            self._read_next_charge()
        charge = self._current.get(account_id)
        if charge is not None and row <= charge.last:
            charge.first_found = min(charge.first_found or row, row)
            charge.last_found = max(charge.last_found, row)
            charge.found_count += 1
            charge.found_price += price
        elif row >= self._first_kept_ids.get(account_id, 0):
            self._add_uncharged_messages(account_id, row, 1, price)

    def check_remaining_charges(self) -> Iterator[Problem]:
        """Check the remaining movements, after the last message."""
        while self._next_charge is not None:
            yield from self._begin_charge(*self._next_charge)
            self._read_next_charge()
        for account_id, charge in sorted(self._current.items()):
            yield from self._check_charge(account_id, charge)
        for account_id, (row, count, cost) in sorted(self._uncharged.items()):
            sentence = N_(
                "%(account)s: messages that no movement charges: %(count)s, for %(cost)s credits, the first is messages"
                " row %(row)s"
            )
            yield Problem(sentence, {"account": self._names[account_id], "count": count, "row": row, "cost": cost})

    def _begin_charge(self, account_id: int, charge: _UsageCharge) -> Iterator[Problem]:
        previous = self._current.get(account_id)
        self._current[account_id] = charge
        if previous is not None:
            yield from self._check_charge(account_id, previous)

    def _check_charge(self, account_id: int, charge: _UsageCharge) -> Iterator[Problem]:
        if 0 < charge.first < self._first_kept_ids.get(account_id, 0):
            return
        params: ProblemParams = {
            "account": self._names[account_id],
            "row": charge.row,
            "said": charge.message_count or 0,
            "amount": charge.amount,
            "count": charge.found_count,
            "cost": charge.found_price,
            "first": charge.first,
            "last": charge.last,
        }
        if (charge.found_count, charge.found_price) != (charge.message_count, charge.amount):
            sentence = N_(
                "%(account)s: movements row %(row)s charges messages: %(said)s, credits: %(amount)s; found are"
                " messages: %(count)s, credits: %(cost)s"
            )
            yield Problem(sentence, params)
        elif (charge.first_found, charge.last_found) != (charge.first, charge.last):
            sentence = N_(
                "%(account)s: movements row %(row)s doesn't charge just its messages from row %(first)s to row %(last)s"
            )
            yield Problem(sentence, params)


class _TotalsChecker:
    """Compares messages with the totals of their days and months, one day after the other."""

    def __init__(self, conn: sqlite3.Connection, names: AccountNames, kept_since: _KeptSince) -> None:
        self._names = names
        self._kept_since = kept_since
        # The first month of which all days are kept.
        self._kept_since_month = {
            account_id: daily_totals.month_from_day(day - 1) + 1 if day else 0 for account_id, day in kept_since.items()
        }
        days = iterate_rows(
            conn, f"SELECT day, account_id, {', '.join(_DAY_COLUMNS)} FROM daily_totals ORDER BY day, account_id"
        )
        self._days = _PeriodComparer(_filter_retained_rows(days, kept_since), 1)
        months = iterate_rows(
            conn,
            f"SELECT begins, account_id, country, source, {', '.join(_MONTH_COLUMNS)} FROM statistics"
            f" WHERE length = {rollup.MONTH} ORDER BY begins, account_id, country, source",
        )
        self._months = _PeriodComparer(_filter_retained_rows(months, self._kept_since_month), 3)
        self._month = -1
        self._month_counts: dict[tuple[Any, ...], _Counts] = {}
        deleted = iterate_rows(
            conn,
            f"SELECT day, account_id, country, source, {', '.join(_DAY_COLUMNS)} FROM deleted_days"
            " ORDER BY day, account_id, country, source",
        )
        self._deleted = _group_by_period(deleted, 3)
        self._next_deleted = next(self._deleted, None)

    def check_day(self, day: int, counted: _DayCounts) -> Iterator[Problem]:
        """Check a day (days since 1970), after its last message."""
        yield from self._check_deleted_days(day)
        deleted: Mapping[tuple[Any, ...], _Counts] = {}
        if self._next_deleted is not None and self._next_deleted[0] == day:
            deleted = self._next_deleted[1]
            self._next_deleted = next(self._deleted, None)
        yield from self._check_counts(day, counted, deleted)

    def _check_deleted_days(self, before_day: float) -> Iterator[Problem]:
        """Check days that have only deleted messages."""
        while self._next_deleted is not None and self._next_deleted[0] < before_day:
            yield from self._check_counts(self._next_deleted[0], {}, self._next_deleted[1])
            self._next_deleted = next(self._deleted, None)

    def _check_counts(
        self, day: int, counted: _DayCounts, deleted: Mapping[tuple[Any, ...], _Counts]
    ) -> Iterator[Problem]:
        month = daily_totals.month_from_day(day)
        if month != self._month:
            yield from self._check_month()
            self._month = month
        day_counts: dict[tuple[Any, ...], _Counts] = defaultdict(lambda: [0] * len(_DAY_COLUMNS))
        for (account_id, country, source, state, ptt, costs, rolled_up), (count, parts, price) in counted.items():
            if costs:
                delivered, failed = (count * each for each in (state == DELIVERED, state not in (ENROUTE, DELIVERED)))
                amounts = [count, delivered, failed, 0, 0, parts, price]
            else:
                stopped, refused = (count * (ptt == each) for each in (PTT_BLACKLISTED, PTT_NO_CREDIT))
                amounts = [0, 0, 0, stopped, refused, 0, 0]
            self._add_amounts(day, day_counts, account_id, country, source, amounts, rolled_up=rolled_up)
        # Messages are rolled up before they are deleted.
        for (account_id, country, source), amounts in deleted.items():
            self._add_amounts(day, day_counts, account_id, country, source, amounts, rolled_up=True)
        yield from map(self._describe_day_difference, self._days.compare_period(day, day_counts))

    def _add_amounts(
        self,
        day: int,
        day_counts: dict[tuple[Any, ...], _Counts],
        account_id: int,
        country: str,
        source: str,
        amounts: _Counts,
        *,
        rolled_up: bool,
    ) -> None:
        """Add amounts to the sums of the day and of the month, unless these are older than the retention."""
        if day >= self._kept_since.get(account_id, 0):
            sums = day_counts[account_id,]
            for index, amount in enumerate(amounts):
                sums[index] += amount
        if rolled_up and self._month >= self._kept_since_month.get(account_id, 0):
            sums = self._month_counts.setdefault((account_id, country, source), [0] * len(_MONTH_COLUMNS))
            for index, day_index in enumerate(_MONTH_COLUMN_INDEXES):
                sums[index] += amounts[day_index]

    def check_remaining_totals(self) -> Iterator[Problem]:
        """Check the remaining days and months, after the last message."""
        yield from self._check_deleted_days(inf)
        yield from self._check_month()
        yield from map(self._describe_day_difference, self._days.compare_remaining_periods())
        yield from map(self._describe_month_difference, self._months.compare_remaining_periods())

    def _check_month(self) -> Iterator[Problem]:
        if self._month_counts:
            yield from map(
                self._describe_month_difference, self._months.compare_period(self._month, self._month_counts)
            )
            self._month_counts = {}

    def _describe_day_difference(self, difference: "_TotalsDifference") -> Problem:
        sentence = N_(
            "%(account)s: the row of daily_totals for %(day)s is off from what the messages of that day say:"
            " %(differences)s"
        )
        day = datetime.fromtimestamp(difference.period * DAY_MS / 1000, UTC).strftime("%Y-%m-%d")
        differences = _format_differences(_DAY_COLUMNS, difference.amounts)
        return Problem(sentence, {"account": self._names[difference.key[0]], "day": day, "differences": differences})

    def _describe_month_difference(self, difference: "_TotalsDifference") -> Problem:
        sentence = N_(
            "%(account)s: the row of statistics for %(month)s, %(country)s, %(source)s is off from what the messages"
            " of that month say: %(differences)s"
        )
        account_id, country, source = difference.key
        params: ProblemParams = {
            "account": self._names[account_id],
            "month": f"{difference.period // 12}-{difference.period % 12 + 1:02}",
            "country": country,
            "source": source,
            "differences": _format_differences(_MONTH_COLUMNS, difference.amounts),
        }
        return Problem(sentence, params)


@dataclass(frozen=True, slots=True)
class _TotalsDifference:
    """The differences between a row of totals and what was counted, by column."""

    period: int
    key: tuple[Any, ...]
    amounts: _Counts


def _filter_retained_rows(rows: Iterator[tuple[Any, ...]], kept_since: _KeptSince) -> Iterator[tuple[Any, ...]]:
    """Leave out rows older than the retention; a row begins with a period and an account id."""
    return (row for row in rows if row[0] >= kept_since.get(row[1], 0))


class _PeriodComparer:
    """Compares rows of totals, in the order of their periods, with what was counted in these periods."""

    def __init__(self, rows: Iterator[tuple[Any, ...]], key_length: int) -> None:
        """Args:
        rows: a period, a key of so many columns, then amounts.
        """
        self._stored = _group_by_period(rows, key_length)
        self._next_period = next(self._stored, None)

    def compare_period(self, period: int, counted: Mapping[tuple[Any, ...], _Counts]) -> Iterator[_TotalsDifference]:
        """Yield the differences up to the end of a period that had messages."""
        stored: dict[tuple[Any, ...], _Counts] = {}
        while self._next_period is not None and self._next_period[0] <= period:
            if self._next_period[0] == period:
                stored = self._next_period[1]
            else:
                yield from _compare_counts(*self._next_period, {})
            self._next_period = next(self._stored, None)
        yield from _compare_counts(period, stored, counted)

    def compare_remaining_periods(self) -> Iterator[_TotalsDifference]:
        """Yield the differences of periods after the last message."""
        while self._next_period is not None:
            yield from _compare_counts(*self._next_period, {})
            self._next_period = next(self._stored, None)


def _group_by_period(
    rows: Iterator[tuple[Any, ...]], key_length: int
) -> Iterator[tuple[int, dict[tuple[Any, ...], _Counts]]]:
    for period, group in groupby(rows, key=lambda row: row[0]):
        yield period, {row[1 : 1 + key_length]: list(row[1 + key_length :]) for row in group}


def _compare_counts(
    period: int, stored: Mapping[tuple[Any, ...], _Counts], counted: Mapping[tuple[Any, ...], _Counts]
) -> Iterator[_TotalsDifference]:
    if stored == counted:
        return
    for key in sorted({*stored, *counted}):
        stored_amounts, counted_amounts = stored.get(key), counted.get(key)
        width = len(stored_amounts or counted_amounts or ())
        amounts = [
            stored_amount - counted_amount
            for stored_amount, counted_amount in zip(
                stored_amounts or [0] * width, counted_amounts or [0] * width, strict=True
            )
        ]
        if any(amounts):
            yield _TotalsDifference(period, key, amounts)


def _format_differences(columns: Iterable[str], amounts: Iterable[int]) -> str:
    """Format differences with the names of their columns: "delivered +1, price -0.5"."""
    return ", ".join(
        f"{name} {amount / 1000 if name == 'price' else amount:+.12g}"
        for name, amount in zip(columns, amounts, strict=True)
        if amount
    )
