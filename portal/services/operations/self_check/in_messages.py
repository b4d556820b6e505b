"""Messages beside what was charged for them and what was counted of them: movements, totals of days and of months.

To the messages that are there belong those that customers have deleted, as the sums that were left of them. What an
account's retention does not keep any more is left out on both sides, whether it has gone yet or not.
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
from portal.services.common import ids
from portal.services.common.message_states import DELIVERED, ENROUTE, PTT_BLACKLISTED, PTT_NO_CREDIT
from portal.services.operations.self_check.problem import Names, Params, Problem, rows_of
from portal.services.statistics import daily_totals, rollup

_DAY_COLUMNS = ("sent", "delivered", "failed", "stopped", "refused", "parts", "price")
_MONTH_COLUMNS = ("sent", "stopped", "refused", "parts", "price")
_MONTH_PLACES = [_DAY_COLUMNS.index(each) for each in _MONTH_COLUMNS]

_Counts = list[int]
# By account: from which day on its messages are kept (days since 1970).
_Kept = Mapping[int, int]
# What one day has of messages: how many, parts, price; by account, country, sender, state, ptt, whether they cost, and
# whether the statistics have them already.
_Day = dict[tuple[int, str, str, int, int, bool, bool], _Counts]


def messages(conn: sqlite3.Connection) -> Iterator[Problem]:
    """One pass through the messages, in the order of their ids, which is that of days and months, too."""
    names = Names(conn)
    kept = dict(rows_of(conn, "SELECT id, kept_since FROM accounts"))
    charges = _Charges(conn, names, kept)
    book = _Book(conn, names, kept)
    gathered = rollup.reaches(conn)
    rows = rows_of(
        conn, "SELECT id, account_id, country, source, state, ptt, parts, price FROM messages NOT INDEXED ORDER BY id"
    )
    day, ends = -1, -1
    counted: _Day = {}
    for row, account_id, country, source, state, ptt, parts, price in rows:
        if row >= ends:
            if counted:
                yield from book.close(day, counted)
                counted = {}
            day = ids.time_of(row) // DAY_MS
            ends = ids.first_id_at((day + 1) * DAY_MS)
        if price:
            yield from charges.message(row, account_id, price)
        key = (account_id, country, source, state, ptt, price != 0, row <= gathered)
        counts = counted.get(key)
        if counts is None:
            counts = counted[key] = [0, 0, 0]
        counts[0] += 1
        counts[1] += parts
        counts[2] += price
    if counted:
        yield from book.close(day, counted)
    yield from charges.close()
    yield from book.end()


class _Charge:
    """A usage movement: what it says of its messages, and what of them was found, deleted ones included."""

    __slots__ = ("amount", "begins", "cost", "ends", "first", "found", "last", "row", "said")

    def __init__(self, row: int, said: int | None, amount: int, first: int | None, last: int | None) -> None:
        self.row, self.said, self.amount = row, said, amount
        self.first, self.last = first or 0, last or 0
        self.begins = self.ends = self.found = self.cost = 0


class _Charges:
    """Messages beside the usage movements that charge them.

    An account's movements have its messages one after the other; those of different accounts overlap, where a batch
    had messages of several.
    """

    def __init__(self, conn: sqlite3.Connection, names: Names, kept: _Kept) -> None:
        self._names = names
        self._kept = {account_id: ids.first_id_at(day * DAY_MS) for account_id, day in kept.items()}
        self._rows = rows_of(
            conn,
            "SELECT account_id, id, messages, -amount, first_message_id, last_message_id FROM movements"
            " WHERE kind = 'usage' ORDER BY first_message_id, account_id",
        )
        self._deleted = rows_of(
            conn,
            "SELECT charged_from, account_id, first_id, last_id, messages, price FROM deleted_charges"
            " ORDER BY charged_from, account_id",
        )
        self._next_deleted = next(self._deleted, None)
        self._current: dict[int, _Charge] = {}
        # Of an account's messages that nothing charges: the first one's id, how many, what they cost.
        self._uncharged: dict[int, list[int]] = {}
        self._next: tuple[int, _Charge] | None = None
        self._read()

    def _read(self) -> None:
        row = next(self._rows, None)
        self._next = None if row is None else (row[0], _Charge(*row[1:]))
        place = (inf, 0) if self._next is None else (self._next[1].first, self._next[0])
        while self._next_deleted is not None and self._next_deleted[:2] <= place:
            charged_from, account_id, first, last, count, cost = self._next_deleted
            if self._next is not None and (charged_from, account_id) == place:
                charge = self._next[1]
                charge.begins, charge.ends, charge.found, charge.cost = first, last, count, cost
            elif last >= self._kept.get(account_id, 0):
                self._leave_uncharged(account_id, first, count, cost)
            self._next_deleted = next(self._deleted, None)

    def _leave_uncharged(self, account_id: int, row: int, count: int, cost: int) -> None:
        uncharged = self._uncharged.setdefault(account_id, [row, 0, 0])
        uncharged[0] = min(uncharged[0], row)
        uncharged[1] += count
        uncharged[2] += cost

    def message(self, row: int, account_id: int, price: int) -> Iterator[Problem]:
        """The next one that cost something."""
        while self._next is not None and self._next[1].first <= row:
            yield from self._begin(*self._next)
            self._read()
        charge = self._current.get(account_id)
        if charge is not None and row <= charge.last:
            charge.begins = min(charge.begins or row, row)
            charge.ends = max(charge.ends, row)
            charge.found += 1
            charge.cost += price
        elif row >= self._kept.get(account_id, 0):
            self._leave_uncharged(account_id, row, 1, price)

    def close(self) -> Iterator[Problem]:
        """There are no more messages."""
        while self._next is not None:
            yield from self._begin(*self._next)
            self._read()
        for account_id, charge in sorted(self._current.items()):
            yield from self._end(account_id, charge)
        for account_id, (row, count, cost) in sorted(self._uncharged.items()):
            sentence = N_(
                "%(account)s: messages that no movement charges: %(count)s, for %(cost)s credits, the first is messages"
                " row %(row)s"
            )
            yield Problem(sentence, {"account": self._names[account_id], "count": count, "row": row, "cost": cost})

    def _begin(self, account_id: int, charge: _Charge) -> Iterator[Problem]:
        before = self._current.get(account_id)
        self._current[account_id] = charge
        if before is not None:
            yield from self._end(account_id, before)

    def _end(self, account_id: int, charge: _Charge) -> Iterator[Problem]:
        if 0 < charge.first < self._kept.get(account_id, 0):
            return
        said: Params = {
            "account": self._names[account_id],
            "row": charge.row,
            "said": charge.said or 0,
            "amount": charge.amount,
            "count": charge.found,
            "cost": charge.cost,
            "first": charge.first,
            "last": charge.last,
        }
        if (charge.found, charge.cost) != (charge.said, charge.amount):
            sentence = N_(
                "%(account)s: movements row %(row)s charges messages: %(said)s, credits: %(amount)s; found are"
                " messages: %(count)s, credits: %(cost)s"
            )
            yield Problem(sentence, said)
        elif (charge.begins, charge.ends) != (charge.first, charge.last):
            sentence = N_(
                "%(account)s: movements row %(row)s doesn't charge just its messages from row %(first)s to row %(last)s"
            )
            yield Problem(sentence, said)


class _Book:
    """Messages beside the totals of their days and months, one day after the other."""

    def __init__(self, conn: sqlite3.Connection, names: Names, kept: _Kept) -> None:
        self._names = names
        self._kept = kept
        # The first month of which all days are kept.
        self._kept_months = {
            account_id: daily_totals.month_of(day - 1) + 1 if day else 0 for account_id, day in kept.items()
        }
        days = rows_of(
            conn, f"SELECT day, account_id, {', '.join(_DAY_COLUMNS)} FROM daily_totals ORDER BY day, account_id"
        )
        self._days = _Periods(_kept_rows(days, kept), 1)
        months = rows_of(
            conn,
            f"SELECT begins, account_id, country, source, {', '.join(_MONTH_COLUMNS)} FROM statistics"
            f" WHERE length = {rollup.MONTH} ORDER BY begins, account_id, country, source",
        )
        self._months = _Periods(_kept_rows(months, self._kept_months), 3)
        self._month = -1
        self._in_month: dict[tuple[Any, ...], _Counts] = {}
        deleted = rows_of(
            conn,
            f"SELECT day, account_id, country, source, {', '.join(_DAY_COLUMNS)} FROM deleted_days"
            " ORDER BY day, account_id, country, source",
        )
        self._deleted = _by_period(deleted, 3)
        self._next_deleted = next(self._deleted, None)

    def close(self, day: int, counted: _Day) -> Iterator[Problem]:
        """A day (days since 1970) that had messages has ended."""
        yield from self._close_deleted(day)
        deleted: Mapping[tuple[Any, ...], _Counts] = {}
        if self._next_deleted is not None and self._next_deleted[0] == day:
            deleted = self._next_deleted[1]
            self._next_deleted = next(self._deleted, None)
        yield from self._close(day, counted, deleted)

    def _close_deleted(self, before: float) -> Iterator[Problem]:
        """Days of which there are no messages but deleted ones."""
        while self._next_deleted is not None and self._next_deleted[0] < before:
            yield from self._close(self._next_deleted[0], {}, self._next_deleted[1])
            self._next_deleted = next(self._deleted, None)

    def _close(self, day: int, counted: _Day, deleted: Mapping[tuple[Any, ...], _Counts]) -> Iterator[Problem]:
        month = daily_totals.month_of(day)
        if month != self._month:
            yield from self._close_month()
            self._month = month
        in_day: dict[tuple[Any, ...], _Counts] = defaultdict(lambda: [0] * len(_DAY_COLUMNS))
        for (account_id, country, source, state, ptt, costs, gathered), (count, parts, price) in counted.items():
            if costs:
                delivered, failed = (count * each for each in (state == DELIVERED, state not in (ENROUTE, DELIVERED)))
                amounts = [count, delivered, failed, 0, 0, parts, price]
            else:
                stopped, refused = (count * (ptt == each) for each in (PTT_BLACKLISTED, PTT_NO_CREDIT))
                amounts = [0, 0, 0, stopped, refused, 0, 0]
            self._add(day, in_day, account_id, country, source, amounts, gathered=gathered)
        # Before that they were gathered.
        for (account_id, country, source), amounts in deleted.items():
            self._add(day, in_day, account_id, country, source, amounts, gathered=True)
        yield from map(self._of_day, self._days.close(day, in_day))

    def _add(
        self,
        day: int,
        in_day: dict[tuple[Any, ...], _Counts],
        account_id: int,
        country: str,
        source: str,
        amounts: _Counts,
        *,
        gathered: bool,
    ) -> None:
        """Add the amounts of a day's columns to the sums of the day and of the month, where these are kept."""
        if day >= self._kept.get(account_id, 0):
            sums = in_day[account_id,]
            for place, amount in enumerate(amounts):
                sums[place] += amount
        if gathered and self._month >= self._kept_months.get(account_id, 0):
            sums = self._in_month.setdefault((account_id, country, source), [0] * len(_MONTH_COLUMNS))
            for place, of_day in enumerate(_MONTH_PLACES):
                sums[place] += amounts[of_day]

    def end(self) -> Iterator[Problem]:
        """There are no more messages."""
        yield from self._close_deleted(inf)
        yield from self._close_month()
        yield from map(self._of_day, self._days.end())
        yield from map(self._of_month, self._months.end())

    def _close_month(self) -> Iterator[Problem]:
        if self._in_month:
            yield from map(self._of_month, self._months.close(self._month, self._in_month))
            self._in_month = {}

    def _of_day(self, found: "_Difference") -> Problem:
        sentence = N_(
            "%(account)s: the row of daily_totals for %(day)s is off from what the messages of that day say:"
            " %(differences)s"
        )
        day = datetime.fromtimestamp(found.period * DAY_MS / 1000, UTC).strftime("%Y-%m-%d")
        differences = _words(_DAY_COLUMNS, found.amounts)
        return Problem(sentence, {"account": self._names[found.key[0]], "day": day, "differences": differences})

    def _of_month(self, found: "_Difference") -> Problem:
        sentence = N_(
            "%(account)s: the row of statistics for %(month)s, %(country)s, %(source)s is off from what the messages"
            " of that month say: %(differences)s"
        )
        account_id, country, source = found.key
        said: Params = {
            "account": self._names[account_id],
            "month": f"{found.period // 12}-{found.period % 12 + 1:02}",
            "country": country,
            "source": source,
            "differences": _words(_MONTH_COLUMNS, found.amounts),
        }
        return Problem(sentence, said)


@dataclass(frozen=True, slots=True)
class _Difference:
    """What a row of totals has more than was counted, or less."""

    period: int
    key: tuple[Any, ...]
    amounts: _Counts


def _kept_rows(rows: Iterator[tuple[Any, ...]], kept: _Kept) -> Iterator[tuple[Any, ...]]:
    """Those of rows, which begin with a period and an account, whose messages are kept."""
    return (row for row in rows if row[0] >= kept.get(row[1], 0))


class _Periods:
    """Rows of totals, in the order of their periods, beside what was counted in these."""

    def __init__(self, rows: Iterator[tuple[Any, ...]], key_length: int) -> None:
        """Args:
        rows: a period, a key of so many columns, then amounts.
        """
        self._kept = _by_period(rows, key_length)
        self._next = next(self._kept, None)

    def close(self, period: int, counted: Mapping[tuple[Any, ...], _Counts]) -> Iterator[_Difference]:
        """All that differs up to the end of a period, in which there were messages."""
        kept: dict[tuple[Any, ...], _Counts] = {}
        while self._next is not None and self._next[0] <= period:
            if self._next[0] == period:
                kept = self._next[1]
            else:
                yield from _differences(*self._next, {})
            self._next = next(self._kept, None)
        yield from _differences(period, kept, counted)

    def end(self) -> Iterator[_Difference]:
        """What is kept of periods after the last message."""
        while self._next is not None:
            yield from _differences(*self._next, {})
            self._next = next(self._kept, None)


def _by_period(
    rows: Iterator[tuple[Any, ...]], key_length: int
) -> Iterator[tuple[int, dict[tuple[Any, ...], _Counts]]]:
    for period, group in groupby(rows, key=lambda row: row[0]):
        yield period, {row[1 : 1 + key_length]: list(row[1 + key_length :]) for row in group}


def _differences(
    period: int, kept: Mapping[tuple[Any, ...], _Counts], counted: Mapping[tuple[Any, ...], _Counts]
) -> Iterator[_Difference]:
    if kept == counted:
        return
    for key in sorted({*kept, *counted}):
        own, found = kept.get(key), counted.get(key)
        width = len(own or found or ())
        amounts = [here - there for here, there in zip(own or [0] * width, found or [0] * width, strict=True)]
        if any(amounts):
            yield _Difference(period, key, amounts)


def _words(columns: Iterable[str], amounts: Iterable[int]) -> str:
    """Differences by the names of their columns: "delivered +1, price -0.5"."""
    return ", ".join(
        f"{name} {amount / 1000 if name == 'price' else amount:+.12g}"
        for name, amount in zip(columns, amounts, strict=True)
        if amount
    )
