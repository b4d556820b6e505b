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

from portal.core.db import BulkInsert
from portal.services.common import ids
from portal.services.statistics import months

NO_ROUTE = 0
"""Stands for a route's id where none fitted, and the default upstream has got the message."""
_COUNT_COLUMNS = ("messages", "parts", "price", "priced_parts", "cost")
# What is only counted never keeps from the disk what a carrier has answered: a count ends before SQLite's integers
# would overflow, also in the sum of all countries. Spreadsheets and JavaScript have it exactly, too.
_MAX_COUNT = 2**53
_UPSERT = BulkInsert(
    "route_usage",
    f"month, route_id, country, {', '.join(_COUNT_COLUMNS)}",
    "ON CONFLICT (month, route_id, country) DO UPDATE SET "
    + ", ".join(f"{name} = min({name} + excluded.{name}, {_MAX_COUNT})" for name in _COUNT_COLUMNS),
)


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

    @property
    def margin_share(self) -> float | None:
        """The margin as a share of the price; None where one of them isn't known, or nothing was charged."""
        return None if self.margin is None or not self.price else self.margin / self.price


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
        sums[:] = (min(each, _MAX_COUNT) for each in map(add, sums, added))
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
    return months.get_month(ids.time_from_id(message_id))


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
