"""Counting against the brakes of accounts, in the transaction that stores and charges their messages.

What an account sends in a day is in `daily_totals`. How much of it went to each number in this hour is in memory, and
is read from the messages that are committed: whichever process has stored them, and also after a restart. A row for
each number would be a page to write for each message.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

from portal.core.clock import DAY_MS, HOUR_MS
from portal.services.accounts import account_messages
from portal.services.common import ids
from portal.services.routing.brakes import DAY_CREDITS, DAY_MESSAGES, HOUR_MESSAGES


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


class HourlyCounts:
    """How many messages some accounts have sent to each number in the hour of the clock; of one process.

    Takes some 110 bytes for each number that such an account has sent to in the hour.
    """

    def __init__(self) -> None:
        self._hour = 0
        self._last_id = 0
        self._by_account: dict[int, dict[str, int]] = {}

    def catch_up(self, conn: sqlite3.Connection, account_ids: Collection[int], at: int) -> None:
        """Count what is committed by now, of these accounts from now on, too; `at`: now (milliseconds)."""
        hour = at // HOUR_MS
        first_id = ids.min_id_at_time(hour * HOUR_MS)
        # Ids grow from one transaction to the next: what is committed later has higher ones.
        (last_id,) = conn.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()
        if hour != self._hour:
            # An account that has sent nothing in the last hour may have no such limit any more.
            self._by_account = {each: {} for each, counts in self._by_account.items() if counts}
            self._hour = hour
        if self._by_account and last_id > self._last_id:
            rows = conn.execute(
                "SELECT account_id, destination FROM messages NOT INDEXED WHERE id > ? AND id <= ? AND price > 0"
                " AND account_id IN (SELECT value FROM json_each(?))",
                (max(self._last_id, first_id - 1), last_id, json.dumps([*self._by_account])),
            )
            for account_id, destination in rows:
                counts = self._by_account[account_id]
                counts[destination] = counts.get(destination, 0) + 1
        self._last_id = last_id
        for each in account_ids:
            if each not in self._by_account:
                found = account_messages.list_account_messages(
                    conn, each, first_id, last_id + 1, "line.destination", conditions="AND line.price > 0"
                )
                self._by_account[each] = dict(Counter(destination for (destination,) in found))

    @property
    def is_counting(self) -> bool:
        """Whether it has to be told of each batch of messages."""
        return bool(self._by_account)

    def get(self, account_id: int, destination: str) -> int:
        """How many messages of an account went to a number."""
        return self._by_account[account_id].get(destination, 0)


class CapMeter:
    """What accounts with limits may still send, message by message; for one transaction."""

    def __init__(self, caps: Mapping[int, Caps], sent: Mapping[int, tuple[int, int]], hourly: HourlyCounts) -> None:
        """Args: `sent`: how many messages and thousandths of a credit accounts have spent today."""
        self._caps = caps
        self._sent = {account_id: list(sent.get(account_id, (0, 0))) for account_id in caps}
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


def read_sent_today(conn: sqlite3.Connection, account_ids: Collection[int], at: int) -> dict[int, tuple[int, int]]:
    """How many messages, and thousandths of a credit, accounts have spent on the day (UTC) of `at` (milliseconds)."""
    rows = conn.execute(
        "SELECT account_id, sent, price FROM json_each(?) CROSS JOIN daily_totals ON account_id = value AND day = ?",
        (json.dumps([*account_ids]), at // DAY_MS),
    )
    return {account_id: (sent, price) for account_id, sent, price in rows}


def load_hourly_counts(conn: sqlite3.Connection, at: int) -> HourlyCounts:
    """The counts of all accounts with such a limit, for a process that begins to store messages
    at `at` (milliseconds).
    """
    limited = "hour_messages IS NOT NULL OR own_hour_messages IS NOT NULL"
    account_ids = [row[0] for row in conn.execute(f"SELECT account_id FROM brakes WHERE {limited}")]
    counts = HourlyCounts()
    counts.catch_up(conn, account_ids, at)
    return counts
