"""What went by routes: how much carriers have accepted, what was charged for it, and what they bill.

Counted in the transaction in which it is stored that a carrier has accepted a message, with the buying price that its
route has had when it was sent: what is changed later leaves it as it is. What simulators get is nobody's bill.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import add
from typing import NamedTuple

from portal.core.clock import DAY_MS
from portal.core.db import BulkInsert
from portal.core.i18n import N_
from portal.services.common import ids
from portal.services.common.errors import Refused
from portal.services.statistics.daily_totals import month_from_day
from portal.services.statistics.rollup import MONTH

NO_ROUTE = 0
"""Stands for a route's id where none fitted, and the default upstream has got the message."""
_COUNT_COLUMNS = ("messages", "parts", "price", "priced_parts", "cost")
_UPSERT = BulkInsert(
    "route_usage",
    f"month, route_id, country, {', '.join(_COUNT_COLUMNS)}",
    "ON CONFLICT (month, route_id, country) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _COUNT_COLUMNS),
)


class InvalidMonth(Refused, field="month"):
    sentence = N_("“%(text)s” isn't a month. Example: 2026-11.")


class RouteUse(NamedTuple):
    """How a message takes a route: the route's id, or NO_ROUTE; the country; how many parts it has, and what was
    charged for it; what one of them costs there (None: not known); and the sender that goes out instead of its own, or
    None. Amounts are in thousandths of a credit.
    """

    route_id: int
    country: str
    parts: int
    price: int
    buying_price: int | None
    sender: str | None


@dataclass(frozen=True, slots=True)
class RouteUsage:
    """What went by a route to a country in a month (of `month_from_day`): so many messages and parts, charged with
    `price`, less what was given back. `priced_parts` of them had a buying price, and cost `cost` (thousandths of a
    credit).
    """

    month: int
    route_id: int
    country: str
    messages: int
    parts: int
    price: int
    priced_parts: int
    cost: int

    @property
    def margin(self) -> int | None:
        """What is left of the price; None where the cost of some parts isn't known."""
        return self.price - self.cost if self.priced_parts == self.parts else None


def count_usage(conn: sqlite3.Connection, used: Sequence[tuple[int, RouteUse]]) -> None:
    """Count messages that carriers have accepted, each given as its id and its use, and store the senders that went
    out. The caller is inside `write_transaction()`.
    """
    if not used:
        return
    message_ids = [message_id for message_id, _ in used]
    month = _get_month(min(message_ids))
    if month == _get_month(max(message_ids)):
        # Many of a batch are alike.
        counted = [(month, use, count) for use, count in Counter([use for _, use in used]).items()]
    else:
        counted = [(_get_month(message_id), use, 1) for message_id, use in used]
    amounts: dict[tuple[int, int, str], list[int]] = {}
    for month, use, count in counted:
        sums = amounts.setdefault((month, use.route_id, use.country), [0] * len(_COUNT_COLUMNS))
        parts = use.parts * count
        added = [count, parts, use.price * count, 0, 0]
        if use.buying_price is not None:
            added[3:] = parts, parts * use.buying_price
        sums[:] = map(add, sums, added)
    _UPSERT.run(conn, [(*key, *sums) for key, sums in sorted(amounts.items())])
    if any(use.sender is not None for _, use, _ in counted):
        conn.executemany(
            "INSERT OR REPLACE INTO replaced_senders (message_id, sender) VALUES (?, ?)",
            [(message_id, use.sender) for message_id, use in used if use.sender is not None],
        )


def count_refunds(conn: sqlite3.Connection, refunds: Iterable[tuple[int, int]]) -> None:
    """Take back what was charged for messages, each given as its id and an amount, as far as carriers have accepted
    them. The caller is inside `write_transaction()`.
    """
    given_back = dict(refunds)
    rows = conn.execute(
        "SELECT id, route, country FROM messages WHERE id IN (SELECT value FROM json_each(?)) AND route IS NOT NULL",
        (json.dumps([*given_back]),),
    ).fetchall()
    _UPSERT.run(
        conn, [(_get_month(row[0]), row[1], row[2], 0, 0, -given_back[row[0]], 0, 0) for row in map(tuple, rows)]
    )


def _get_month(message_id: int) -> int:
    return month_from_day(ids.time_from_id(message_id) // DAY_MS)


def list_route_usage(conn: sqlite3.Connection, month: int, limit: int = -1) -> list[RouteUsage]:
    """What went by all routes in a month, route by route, most messages first.

    Args:
        limit: how many rows at most; -1: all.
    """
    rows = conn.execute(
        f"SELECT month, route_id, country, {', '.join(_COUNT_COLUMNS)} FROM route_usage WHERE month = ?"
        " ORDER BY route_id, messages DESC, country LIMIT ?",
        (month, limit),
    )
    return [RouteUsage(*row) for row in rows]


def sum_route_usage(conn: sqlite3.Connection, month: int) -> dict[int, RouteUsage]:
    """What went by each route in a month, to all countries, by its id."""
    sums = ", ".join(f"sum({name})" for name in _COUNT_COLUMNS)
    rows = conn.execute(
        f"SELECT month, route_id, '', {sums} FROM route_usage WHERE month = ? GROUP BY month, route_id", (month,)
    )
    return {row[1]: RouteUsage(*row) for row in rows}


def list_used_months(conn: sqlite3.Connection) -> list[int]:
    """The months in which anything was sent by any account, the newest first."""
    rows = conn.execute(f"SELECT month FROM route_usage UNION SELECT begins FROM statistics WHERE length = {MONTH}")
    return sorted((row[0] for row in rows), reverse=True)


# --- what customers have used


class CustomerUsage(NamedTuple):
    """What an account has sent to a country in a month; `credits` in thousandths, as they were charged."""

    customer: str
    account: str
    month: str
    country: str
    messages: int
    parts: int
    credits: int
    delivered: int
    failed: int


def list_customer_usage(conn: sqlite3.Connection, month: int) -> list[CustomerUsage]:
    """What all accounts have sent in a month, by customer, account and country; those that are deleted, too.

    It is as far as the statistics have been gathered (`rollup`): up to a second or two ago.
    """
    rows = conn.execute(
        "SELECT customers.name, accounts.name, s.country, sum(s.sent), sum(s.parts), sum(s.price), sum(s.delivered),"
        " sum(s.failed) FROM accounts CROSS JOIN statistics AS s"
        f" ON s.account_id = accounts.id AND s.length = {MONTH} AND s.begins = ?"
        " JOIN customers ON customers.id = accounts.customer_id GROUP BY accounts.id, s.country"
        " HAVING sum(s.sent) ORDER BY customers.name COLLATE NOCASE, accounts.name, s.country",
        (month,),
    )
    return [CustomerUsage(row[0], row[1], format_month(month), *tuple(row)[2:]) for row in rows]


# --- months


def parse_month(text: str) -> int:
    """Read a month like 2026-11. Raises: InvalidMonth"""
    year, _, month = text.strip().partition("-")
    digits = year + month
    if (len(year), len(month)) != (4, 2) or not (digits.isascii() and digits.isdigit()) or not 1 <= int(month) <= 12:
        raise InvalidMonth(text=text)
    return int(year) * 12 + int(month) - 1


def format_month(month: int) -> str:
    """What `parse_month` reads."""
    return f"{month // 12:04}-{month % 12 + 1:02}"


def get_this_month(now: int) -> int:
    """The month of a moment (milliseconds), in UTC."""
    return month_from_day(now // DAY_MS)
