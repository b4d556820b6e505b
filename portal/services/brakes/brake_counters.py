"""Counting against the brakes of accounts, in the transaction that stores and charges their messages.

What an account sends in a day is in `daily_totals`. How much of it went to each number in this hour is in memory, and
is read from the messages that are committed: whichever process has stored them, and also after a restart. A row for
each number would be a page to write for each message.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol

from portal.core.clock import DAY_MS, HOUR_MS
from portal.services.accounts import account_messages
from portal.services.brakes.brakes import CAPS_SQL, DAY_CREDITS, DAY_MESSAGES, HOUR_MESSAGES
from portal.services.common import ids


class Caps(NamedTuple):
    """The limits of an account that are in force, as in `brakes.Brakes`."""

    day_messages: int | None
    day_credits: int | None
    hour_messages: int | None


class ChargedMessage(Protocol):
    """What is asked of a message."""

    account_id: int
    destination: str
    price: int


_get_price = attrgetter("price")

_EARLIER_BATCH = 5_000
"""So many earlier messages at most are read at a time: some 15 ms."""


class HourlyCounts:
    """How many messages some accounts have sent to each number in the hour of the clock; of one process, which asks
    with one connection.

    What an account had sent before it was asked for is counted in batches, the latest first, so that clients don't wait
    for it: until the last batch a count is too low, and more than the limit is sent.

    `most`: the highest of the counts. Each number that such an account has sent to in the hour takes some 110 bytes.
    """

    def __init__(self) -> None:
        self._hour = 0
        self._by_account: dict[int, Counter[str]] = {}
        self.most = 0
        # Of the messages that were counted; and what this process has stored since, up to which id.
        self._last_id = 0
        self._own: Mapping[int, Sequence[str]] = {}
        self._own_last_id = 0
        self._data_version = 0
        # Accounts of which earlier messages are still to be counted: those with ids below this one.
        self._uncounted: dict[int, int] = {}

    def catch_up(self, conn: sqlite3.Connection, account_ids: Collection[int], at: int) -> None:
        """Count what is committed by now, of these accounts from now on, too; of what came before that, a batch.

        Args:
            at: now (milliseconds).
        """
        hour = at // HOUR_MS
        first_id = ids.min_id_at_time(hour * HOUR_MS)
        # Ids grow from one transaction to the next: what is committed later has higher ones.
        (last_id,) = conn.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()
        (data_version,) = conn.execute("PRAGMA data_version").fetchone()
        if hour != self._hour:
            # An account that has sent nothing in the last hour may have no such limit any more.
            self._by_account = {each: Counter() for each, counts in self._by_account.items() if counts}
            self.most, self._hour, self._uncounted = 0, hour, {}
        if self._by_account and last_id > max(self._last_id, first_id - 1):
            # The version stays the same while nobody else writes. Then it is what this process has stored itself, but
            # where that was rolled back. To read it again would cost more than all else that is counted.
            is_own = last_id == self._own_last_id and data_version == self._data_version
            self._count(self._own if is_own else self._read_messages(conn, first_id, last_id))
        self._last_id, self._data_version, self._own = last_id, data_version, {}
        for each in account_ids:
            if each not in self._by_account:
                self._by_account[each] = Counter()
                self._uncounted[each] = last_id + 1
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
                self.most = max(self.most, *map(counts.__getitem__, each))

    def add_stored(self, last_id: int, messages: Iterable[ChargedMessage]) -> None:
        """These were stored and charged, in the transaction in which it was caught up; `last_id`: the highest id."""
        own: dict[int, list[str]] = {account_id: [] for account_id in self._by_account}
        for each in messages:
            if each.account_id in own:
                own[each.account_id].append(each.destination)
        self._own, self._own_last_id = own, last_id

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
        return self._by_account[account_id][destination]

    def counts_of(self, account_id: int) -> bool:
        """Whether an account's messages are counted."""
        return account_id in self._by_account


class CapMeter:
    """What accounts with limits may still send, message by message; for one transaction."""

    def __init__(self, caps: Mapping[int, Caps], sent: Mapping[int, tuple[int, int]], hourly: HourlyCounts) -> None:
        """Args: `sent`: how many messages and thousandths of a credit accounts have spent today."""
        self._caps = caps
        self._sent = {account_id: list(sent[account_id]) for account_id in caps}
        self._hourly = hourly
        self._to_number: Counter[tuple[int, str]] = Counter()

    def copy(self) -> "CapMeter":
        """One that counts by itself from here on; nothing was added to this one."""
        return CapMeter(self._caps, {each: (sent[0], sent[1]) for each, sent in self._sent.items()}, self._hourly)

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
            if self._hourly.get(account_id, message.destination) + to_number >= caps.hour_messages:
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


# Of accounts with brakes: how many limit messages to one number; and those of which a limit may be reached.
_SELECT_NEAR_CAPS = f"""
SELECT count(most_to_number),
    json_group_array(json_array(account_id, most_messages, most_credits, most_to_number, sent, price))
    FILTER (WHERE most_messages < sent + :messages OR most_credits < price + :price OR most_to_number < :to_number)
FROM (SELECT brakes.account_id, {CAPS_SQL}, coalesce(sent, 0) AS sent, coalesce(price, 0) AS price
    FROM json_each(:accounts) CROSS JOIN brakes ON brakes.account_id = value
    LEFT JOIN daily_totals ON daily_totals.account_id = brakes.account_id AND day = :day)
"""
_SELECT_LIMITED_BY_NUMBER = "SELECT account_id FROM brakes WHERE coalesce(hour_messages, own_hour_messages) IS NOT NULL"


def read_meter(
    conn: sqlite3.Connection,
    account_ids: Collection[int],
    hourly: HourlyCounts,
    messages: Sequence[ChargedMessage],
    at: int,
) -> CapMeter | None:
    """What these accounts may still send of their messages; None: all of them, as no limit is near.

    Args:
        at: now (milliseconds).
    """
    if hourly.is_counting:
        hourly.catch_up(conn, (), at)
    values = {
        "accounts": str([*account_ids]),
        "day": at // DAY_MS,
        "messages": len(messages),
        "price": sum(map(_get_price, messages)),
        "to_number": hourly.most + len(messages),
    }
    limited_count, near = conn.execute(_SELECT_NEAR_CAPS, values).fetchone()
    if limited_count != sum(map(hourly.counts_of, account_ids)):
        # Some have got such a limit, or have it no more.
        limited = {row[0] for row in conn.execute(_SELECT_LIMITED_BY_NUMBER)}
        hourly.catch_up(conn, limited.intersection(account_ids), at)
        values["to_number"] = hourly.most + len(messages)
        _, near = conn.execute(_SELECT_NEAR_CAPS, values).fetchone()
    if near == "[]":
        return None
    rows = json.loads(near)
    caps = {account_id: Caps(*row) for account_id, *row, _, _ in rows}
    return CapMeter(caps, {account_id: (sent, price) for account_id, *_, sent, price in rows}, hourly)


def load_hourly_counts(conn: sqlite3.Connection, at: int) -> HourlyCounts:
    """The counts of all accounts with such a limit, without anything left to be counted, for a process that begins to
    store messages at `at` (milliseconds).
    """
    account_ids = [row[0] for row in conn.execute(_SELECT_LIMITED_BY_NUMBER)]
    counts = HourlyCounts()
    counts.catch_up(conn, account_ids, at)
    while counts.is_behind:
        counts.catch_up(conn, (), at)
    return counts
