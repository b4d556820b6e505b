"""What each upstream does at the moment, as the SMPP server measures it, and how much of what it took has arrived."""

import math
import sqlite3
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields

from portal.core.clock import DAY_MS, HOUR_MS, now_ms
from portal.core.db import write_transaction
from portal.core.i18n import N_
from portal.services.accounts import session_records
from portal.services.upstreams.unclaimed import UNMATCHED_RECEIPTS

TOO_MANY = N_("too many at a time")
"""The last error of an upstream that has refused messages because they came too fast."""
RATE_DAYS = 7
"""The days with whose delivery rate that of the last hour is compared."""
# Receipts that match no message are many where they are so many, and such a share of all, or the second number.
_MIN_UNMATCHED, _MANY_UNMATCHED, _UNMATCHED_SHARE = 3, 10_000, 0.2


@dataclass(frozen=True, slots=True)
class UpstreamLoad:
    """What was measured last.

    `parts_per_second`: sent in the last seconds. `window_in_use`, `window`: submit_sm that wait for their answer, and
    how many may, on all binds that are bound. `slowed_to`: parts a second that are sent at most since it has refused
    some as too many; None: it isn't slowed down. `latency_p50`, `latency_p99`: milliseconds between a submit_sm and its
    answer, of the last answers; None: there is none. `last_error`: what went wrong last, and `last_error_at` when
    (milliseconds; None: nothing has).
    """

    parts_per_second: float = 0.0
    window_in_use: int = 0
    window: int = 0
    slowed_to: float | None = None
    latency_p50: float | None = None
    latency_p99: float | None = None
    last_error: str = ""
    last_error_at: int | None = None


_COLUMNS = [each.name for each in fields(UpstreamLoad)]


@dataclass(frozen=True, slots=True)
class DeliveryCounts:
    """How many messages, or parts, arrived by an upstream, and how many didn't: by its receipts, and by its refusals
    for good.
    """

    delivered: int = 0
    undelivered: int = 0

    @property
    def total(self) -> int:
        return self.delivered + self.undelivered

    @property
    def rate(self) -> float | None:
        """The share that arrived, from 0 to 1; None where nothing has ended."""
        return self.delivered / self.total if self.total else None


@dataclass(frozen=True, slots=True)
class DeliveryRates:
    """Of the last hour, up to two, since the hours are counted as the clock has them; and of the seven days.
    `receipts`: all that came in that hour; `lacks_matches`: whether many of them match no message.
    """

    hour: DeliveryCounts = DeliveryCounts()
    days: DeliveryCounts = DeliveryCounts()
    receipts: int = 0
    lacks_matches: bool = False

    @property
    def before(self) -> DeliveryCounts:
        """Of the seven days without the last hour."""
        hour, days = self.hour, self.days
        return DeliveryCounts(days.delivered - hour.delivered, days.undelivered - hour.undelivered)

    def has_fallen(self, points: float, least: int, least_before: int) -> bool:
        """Whether the rate of the last hour is lower than before.

        Args:
            points: by so many percentage points at least.
            least, least_before: fewer that have ended in the hour, or before it, say nothing.
        """
        hour, before = self.hour.rate, self.before.rate
        if hour is None or before is None or self.hour.total < least or self.before.total < least_before:
            return False
        return (before - hour) * 100 >= points


# --- written by the SMPP server


def record_load(conn: sqlite3.Connection, upstream_id: int, load: UpstreamLoad) -> None:
    """Store what was measured; without an error of its own it leaves the last one. Of an upstream that has been removed
    meanwhile nothing is stored.
    """
    measured = _COLUMNS if load.last_error else [each for each in _COLUMNS if not each.startswith("last_error")]
    with write_transaction(conn):
        conn.execute(
            f"INSERT INTO upstream_loads (upstream, {', '.join(_COLUMNS)})"
            f" SELECT id{', ?' * len(_COLUMNS)} FROM upstreams WHERE id = ? AND removed_at IS NULL"
            f" ON CONFLICT (upstream) DO UPDATE SET {', '.join(f'{each} = excluded.{each}' for each in measured)}",
            (*astuple(load), upstream_id),
        )


def clear_loads(conn: sqlite3.Connection) -> None:
    """Forget what was measured, but for the last errors: a process that starts has sent nothing."""
    with write_transaction(conn):
        conn.execute(
            "UPDATE upstream_loads SET parts_per_second = 0, window_in_use = 0, window = 0, slowed_to = NULL,"
            " latency_p50 = NULL, latency_p99 = NULL"
        )


# --- read by pages and commands


def list_loads(conn: sqlite3.Connection) -> dict[int, UpstreamLoad]:
    """What was measured, by the ids of the upstreams. Without a running SMPP server, the last errors alone."""
    is_running = session_records.is_component_alive(conn, "smsc")
    rows = conn.execute(f"SELECT upstream, {', '.join(_COLUMNS)} FROM upstream_loads")
    loads = {upstream_id: UpstreamLoad(*values) for upstream_id, *values in rows}
    if not is_running:
        return {
            upstream_id: UpstreamLoad(last_error=each.last_error, last_error_at=each.last_error_at)
            for upstream_id, each in loads.items()
        }
    return loads


def list_delivery_rates(conn: sqlite3.Connection, now: int | None = None) -> Mapping[int, DeliveryRates]:
    """What came of messages, by the ids of the upstreams that have had any in the last days."""
    hour = (now or now_ms()) // HOUR_MS
    rows = conn.execute(
        "SELECT upstream, sum(iif(name = 'delivered' AND hour >= ?1, value, 0)),"
        " sum(iif(name IN ('undelivered', 'failed') AND hour >= ?1, value, 0)),"
        " sum(iif(name = 'delivered', value, 0)), sum(iif(name IN ('undelivered', 'failed'), value, 0)),"
        " sum(iif(name = 'receipts' AND hour >= ?1, value, 0)) FROM upstream_hours"
        " WHERE hour > ?2 AND name IN ('delivered', 'undelivered', 'failed', 'receipts') GROUP BY upstream",
        (hour - 1, hour - RATE_DAYS * DAY_MS // HOUR_MS),
    )
    return {
        upstream_id: DeliveryRates(
            DeliveryCounts(*counts[:2]),
            DeliveryCounts(*counts[2:]),
            receipts,
            _lacks_matches(conn, upstream_id, receipts, (hour - 1) * HOUR_MS),
        )
        for upstream_id, *counts, receipts in rows
    }


def _lacks_matches(conn: sqlite3.Connection, upstream_id: int, receipts: int, since: int) -> bool:
    """Whether many of an upstream's receipts since a time (milliseconds) match no message up to now."""
    many = min(max(_MIN_UNMATCHED, math.ceil(receipts * _UNMATCHED_SHARE)), _MANY_UNMATCHED)
    row = conn.execute(
        f"SELECT received_at FROM {UNMATCHED_RECEIPTS} WHERE upstream = ? ORDER BY id DESC LIMIT 1 OFFSET ?",
        (upstream_id, many - 1),
    ).fetchone()
    return row is not None and row[0] >= since
