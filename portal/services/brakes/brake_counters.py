"""Counting against the brakes of accounts, in the transaction that stores and charges their messages.

What an account sends in a day is in `daily_totals`. How much of it went to each number in this hour is in memory, and
is read from the messages that are committed: whichever process has stored them, and also after a restart. A row for
each number would be a page to write for each message.

Clients wait for this, and most batches are far from each limit: then no statement more is needed for them.
"""

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol

from portal.core.clock import DAY_MS, HOUR_MS
from portal.services.accounts import account_messages
from portal.services.accounts.refused_messages import DAY_CREDITS, DAY_MESSAGES, HOUR_MESSAGES
from portal.services.brakes.brakes import CAPS_SQL
from portal.services.common import ids


class Caps(NamedTuple):
    """The limits of an account that are in force, as in `brakes.Brakes`."""

    day_messages: int | None
    day_credits: int | None
    hour_messages: int | None


_NO_CAPS = Caps(None, None, None)


class ChargedMessage(Protocol):
    """What is asked of a message."""

    account_id: int
    destination: str
    price: int


class DatabaseState(NamedTuple):
    """What `STATE_SQL` says in a transaction: the highest id of a message, and what changes with each commit of another
    connection.
    """

    last_id: int
    data_version: int


STATE_SQL = f"{ids.LAST_ID_SQL['messages']}, (SELECT data_version FROM pragma_data_version)"
"""SQL for a `DatabaseState`, as two columns."""
_get_account_id, _get_destination, _get_price = map(attrgetter, ("account_id", "destination", "price"))
_NO_LIMIT = (1 << 63) - 1
_EARLIER_BATCH = 5_000
"""So many earlier messages at most are read at a time: some 15 ms."""
# So many messages that this process has stored are counted together.
_COUNTED_TOGETHER = 2_000


class _Destinations(NamedTuple):
    """The numbers of messages with their accounts. The messages themselves would be kept alive much longer."""

    account_ids: list[int]
    destinations: list[str]


class _Room(NamedTuple):
    """How far `BrakeCounters`' sums of messages, and of thousandths of a credit, may grow until an account may reach a
    limit; and its limit by number.
    """

    messages: int
    price: int
    to_number: int


class BrakeCounters:
    """How many messages some accounts have sent to each number in the hour of the clock, and how much some accounts may
    send before a limit can be near; of one process, which asks with one connection and sets no brakes by it.

    What an account had sent before it was asked for is counted in batches, the latest first, so that clients don't wait
    for it: until the last batch a count is too low, and more than the limit is sent.

    Each number that such an account has sent to in the hour takes some 110 bytes.
    """

    def __init__(self) -> None:
        self._hour = 0
        self._by_account: dict[int, Counter[str]] = {}
        # The highest of the counts.
        self._most = 0
        # Of the messages that are known; those of them that are still to be counted; and what this process has stored
        # since, up to which id.
        self._last_id = 0
        self._pending = _Destinations([], [])
        self._own = _Destinations([], [])
        self._own_last_id = 0
        self._data_version = 0
        # As of a version of the database and a day; and the sums of all that was to be sent.
        self._rooms: dict[int, _Room] = {}
        self._rooms_of = (0, 0)
        self._sum_messages = self._sum_price = 0
        # Accounts of which earlier messages are still to be counted: those with ids below this one.
        self._uncounted: dict[int, int] = {}

    def catch_up(self, conn: sqlite3.Connection, account_ids: Collection[int], at: int, state: DatabaseState) -> None:
        """Count what is committed by now, of these accounts from now on, too; of what came before that, a batch.

        Args:
            at: now (milliseconds).
        """
        hour = at // HOUR_MS
        first_id = ids.min_id_at_time(hour * HOUR_MS)
        # Ids grow from one transaction to the next: what is committed later has higher ones.
        last_id, data_version = state
        if hour != self._hour:
            self._count_pending()
            # An account that has sent nothing in the last hour may have no such limit any more.
            self._by_account = {each: Counter() for each, counts in self._by_account.items() if counts}
            self._most, self._hour, self._uncounted, self._rooms = 0, hour, {}, {}
        if self._by_account and last_id > max(self._last_id, first_id - 1):
            # The version stays the same while nobody else writes. Then it is what this process has stored itself, but
            # where that was rolled back. To read it again would cost more than all else that is counted.
            if last_id == self._own_last_id and data_version == self._data_version:
                self._pending.account_ids.extend(self._own.account_ids)
                self._pending.destinations.extend(self._own.destinations)
                if len(self._pending.account_ids) >= _COUNTED_TOGETHER:
                    self._count_pending()
            else:
                self._count(self._read_messages(conn, first_id, last_id))
        self._last_id, self._data_version, self._own = last_id, data_version, _Destinations([], [])
        if account_ids:
            # What these have sent until now is read below.
            self._count_pending()
        for each in account_ids:
            if each not in self._by_account:
                self._by_account[each] = Counter()
                self._uncounted[each] = last_id + 1
        if self._uncounted:
            self._count_earlier(conn, first_id)

    def _count_earlier(self, conn: sqlite3.Connection, first_id: int) -> None:
        room = _EARLIER_BATCH
        for account_id, bound in [*self._uncounted.items()]:
            columns = "line.id, line.destination, line.price"
            found = account_messages.list_account_messages(
                conn, account_id, first_id, bound, columns, newest_first=True, limit=room
            )
            self._count({account_id: [destination for _, destination, price in found if price]})
            room -= len(found)
            if not room:
                self._uncounted[account_id] = found[-1][0]
                return
            del self._uncounted[account_id]

    def _read_messages(self, conn: sqlite3.Connection, first_id: int, last_id: int) -> dict[int, Sequence[str]]:
        rows = conn.execute(
            "SELECT account_id, json_group_array(destination) FROM messages NOT INDEXED WHERE id > ? AND id <= ?"
            " AND price > 0 AND account_id IN (SELECT value FROM json_each(?)) GROUP BY account_id",
            (max(self._last_id, first_id - 1), last_id, str([*self._by_account])),
        )
        return {account_id: json.loads(destinations) for account_id, destinations in rows}

    def _count(self, destinations: Mapping[int, Sequence[str]]) -> None:
        for account_id, each in destinations.items():
            if each:
                counts = self._by_account[account_id]
                counts.update(each)
                self._most = max(self._most, *map(counts.__getitem__, each))

    def _count_pending(self) -> None:
        if not self._pending.account_ids:
            return
        destinations: dict[int, list[str]] = defaultdict(list)
        for account_id, destination in zip(*self._pending, strict=True):
            if account_id in self._by_account:
                destinations[account_id].append(destination)
        self._pending = _Destinations([], [])
        self._count(destinations)

    def add_stored(self, last_id: int, messages: Sequence[ChargedMessage]) -> None:
        """These were stored and charged, in the transaction in which it was caught up; `last_id`: the highest id."""
        self._own = _Destinations([*map(_get_account_id, messages)], [*map(_get_destination, messages)])
        self._own_last_id = last_id

    @property
    def is_behind(self) -> bool:
        """Whether earlier messages are still to be counted."""
        return bool(self._uncounted)

    @property
    def is_counting(self) -> bool:
        """Whether it has to be told of each batch of messages."""
        return bool(self._by_account)

    def get(self, account_id: int, destination: str) -> int:
        """How many messages of an account went to a number."""
        self._count_pending()
        return self._by_account[account_id][destination]

    def count_most(self) -> int:
        """How many messages of any account went to any number at most."""
        self._count_pending()
        return self._most

    def counts_of(self, account_id: int) -> bool:
        """Whether an account's messages are counted."""
        return account_id in self._by_account

    def has_room(self, account_ids: Collection[int], count: int, price: int, data_version: int, day: int) -> bool:
        """Whether no limit can be near, as far as is known, where these accounts send so many messages at this price
        together.
        """
        rooms = [self._rooms.get(each) for each in account_ids] if self._rooms_of == (data_version, day) else [None]
        messages, spent = self._sum_messages + count, self._sum_price + price
        most_to_number = _NO_LIMIT
        for room in rooms:
            if room is None or messages > room.messages or spent > room.price:
                return False
            most_to_number = min(most_to_number, room.to_number)
        # To count them only now is quicker: mostly there are too few of them to matter.
        pending_count = len(self._pending.account_ids)
        return self._most + pending_count + count <= most_to_number or self.count_most() + count <= most_to_number

    def set_rooms(
        self, account_ids: Collection[int], limits: Mapping[int, tuple[Caps, int, int]], data_version: int, day: int
    ) -> None:
        """Args: `limits`: of those of these accounts that have brakes, with what they have sent today."""
        if self._rooms_of != (data_version, day):
            self._rooms, self._rooms_of = {}, (data_version, day)
        for each in account_ids:
            caps, sent, spent = limits.get(each, (_NO_CAPS, 0, 0))
            self._rooms[each] = _Room(
                _NO_LIMIT if caps.day_messages is None else self._sum_messages + caps.day_messages - sent,
                _NO_LIMIT if caps.day_credits is None else self._sum_price + caps.day_credits - spent,
                _NO_LIMIT if caps.hour_messages is None else caps.hour_messages,
            )

    def add_asked(self, count: int, price: int) -> None:
        """So many messages at this price are to be sent by accounts with or without brakes."""
        self._sum_messages += count
        self._sum_price += price


class CapMeter:
    """What accounts with limits may still send, message by message; for one transaction."""

    def __init__(self, caps: Mapping[int, Caps], sent: Mapping[int, tuple[int, int]], counters: BrakeCounters) -> None:
        """Args: `sent`: how many messages and thousandths of a credit accounts have spent today."""
        self._caps = caps
        self._sent = {account_id: list(sent[account_id]) for account_id in caps}
        self._counters = counters
        self._to_number: Counter[tuple[int, str]] = Counter()

    def copy(self) -> "CapMeter":
        """One that counts by itself from here on; nothing was added to this one."""
        return CapMeter(self._caps, {each: (sent[0], sent[1]) for each, sent in self._sent.items()}, self._counters)

    def find_refusal(self, message: ChargedMessage) -> str:
        """Why it is refused, as a constant of `brakes`; empty where it isn't."""
        account_id = message.account_id
        caps = self._caps.get(account_id)
        if caps is None:
            return ""
        messages, spent = self._sent[account_id]
        if caps.day_messages is not None and messages >= caps.day_messages:
            return DAY_MESSAGES
        if caps.day_credits is not None and spent + message.price > caps.day_credits:
            return DAY_CREDITS
        if caps.hour_messages is not None:
            to_number = self._to_number[account_id, message.destination]
            if self._counters.get(account_id, message.destination) + to_number >= caps.hour_messages:
                return HOUR_MESSAGES
        return ""

    def add(self, message: ChargedMessage) -> None:
        """It is sent."""
        caps = self._caps.get(message.account_id)
        if caps is not None:
            sent = self._sent[message.account_id]
            sent[0] += 1
            sent[1] += message.price
            if caps.hour_messages is not None:
                self._to_number[message.account_id, message.destination] += 1


# As one row: Python releases the GIL for each.
_SELECT_LIMITS = f"""
SELECT json_group_array(json_array(account_id, most_messages, most_credits, most_to_number, sent, price))
FROM (SELECT brakes.account_id, {CAPS_SQL}, coalesce(sent, 0) AS sent, coalesce(price, 0) AS price
    FROM json_each(?) CROSS JOIN brakes ON brakes.account_id = value
    LEFT JOIN daily_totals ON daily_totals.account_id = brakes.account_id AND day = ?)
"""
_SELECT_LIMITED_BY_NUMBER = "SELECT account_id FROM brakes WHERE coalesce(hour_messages, own_hour_messages) IS NOT NULL"


def read_meter(
    conn: sqlite3.Connection,
    account_ids: Collection[int],
    counters: BrakeCounters,
    messages: Sequence[ChargedMessage],
    at: int,
    state: DatabaseState,
) -> CapMeter | None:
    """What these accounts may still send of their messages; None: all of them, as no limit is near.

    Args:
        at: now (milliseconds).
    """
    count, price, day = len(messages), sum(map(_get_price, messages)), at // DAY_MS
    if counters.is_counting:
        counters.catch_up(conn, (), at, state)
    meter = None
    if not counters.has_room(account_ids, count, price, state.data_version, day):
        rows = json.loads(conn.execute(_SELECT_LIMITS, (str([*account_ids]), day)).fetchone()[0])
        limits = {account_id: (Caps(*caps), sent, spent) for account_id, *caps, sent, spent in rows}
        uncounted = [
            each
            for each, (caps, *_) in limits.items()
            if caps.hour_messages is not None and not counters.counts_of(each)
        ]
        if uncounted:
            counters.catch_up(conn, uncounted, at, state)
        most = counters.count_most()
        near = {
            account_id: (caps, sent, spent)
            for account_id, (caps, sent, spent) in limits.items()
            if (caps.day_messages is not None and sent + count > caps.day_messages)
            or (caps.day_credits is not None and spent + price > caps.day_credits)
            or (caps.hour_messages is not None and most + count > caps.hour_messages)
        }
        counters.set_rooms(account_ids, limits, state.data_version, day)
        if near:
            sent_by_account = {each: (sent, spent) for each, (_, sent, spent) in near.items()}
            meter = CapMeter({each: caps for each, (caps, *_) in near.items()}, sent_by_account, counters)
    counters.add_asked(count, price)
    return meter


def load_counters(conn: sqlite3.Connection, at: int) -> BrakeCounters:
    """The counts of all accounts with such a limit, without anything left to be counted, for a process that begins to
    store messages at `at` (milliseconds).
    """
    account_ids = [row[0] for row in conn.execute(_SELECT_LIMITED_BY_NUMBER)]
    counters, state = BrakeCounters(), DatabaseState(*conn.execute(f"SELECT {STATE_SQL}").fetchone())
    counters.catch_up(conn, account_ids, at, state)
    while counters.is_behind:
        counters.catch_up(conn, (), at, state)
    return counters
