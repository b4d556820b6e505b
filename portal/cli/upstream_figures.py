"""What `upstream list` and `show` print of how upstreams do at the moment."""

import sqlite3
from dataclasses import dataclass

from portal.cli.shell import format_timestamp
from portal.services.upstreams import load, waiting
from portal.services.upstreams.load import DeliveryRates, UpstreamLoad
from portal.services.upstreams.waiting import WaitingMessages


@dataclass(frozen=True, slots=True)
class UpstreamFigures:
    """Of one upstream: what was measured, what waits, and how much arrives."""

    load: UpstreamLoad
    rates: DeliveryRates
    waiting: WaitingMessages

    def to_dict(self) -> dict[str, object]:
        measured = self.load
        return {
            "oldest_queued": format_timestamp(self.waiting.oldest_at),
            "parts_per_second": measured.parts_per_second,
            "window_in_use": measured.window_in_use,
            "window_bound": measured.window,
            "slowed_to": measured.slowed_to,
            "latency_p50_ms": measured.latency_p50,
            "latency_p99_ms": measured.latency_p99,
            "delivered_last_hour": self.rates.hour.rate,
            "delivered_7_days": self.rates.before.rate,
            "last_error": measured.last_error,
            "last_error_at": format_timestamp(measured.last_error_at),
        }

    def to_rows(self) -> dict[str, object]:
        """For people; what hasn't been measured is left out."""
        measured, hour, before = self.load, self.rates.hour.rate, self.rates.before.rate
        rows: dict[str, object] = {}
        if self.waiting.oldest_at is not None:
            rows["oldest queued"] = format_timestamp(self.waiting.oldest_at)
        if measured.window:
            slowed = "" if measured.slowed_to is None else f", slowed to {measured.slowed_to:g}"
            rows["parts a second"] = f"{measured.parts_per_second:g}{slowed}"
            rows["window in use"] = f"{measured.window_in_use}/{measured.window}"
        if measured.latency_p50 is not None:
            rows["answers in"] = f"{measured.latency_p50:g} ms (p50), {measured.latency_p99:g} ms (p99)"
        told = [] if hour is None else [f"{hour:.1%} in the last hour"]
        told += [] if before is None else [f"{before:.1%} in the {load.RATE_DAYS} days before"]
        if told:
            rows["delivered"] = ", ".join(told)
        if measured.last_error:
            rows["last error"] = f"{format_timestamp(measured.last_error_at)}  {measured.last_error}"
        return rows


def list_figures(conn: sqlite3.Connection, upstream_ids: list[int]) -> dict[int, UpstreamFigures]:
    """The figures of these upstreams, by id."""
    loads, rates, waiting_messages = load.list_loads(conn), load.list_delivery_rates(conn), waiting.list_waiting(conn)
    return {
        each: UpstreamFigures(
            loads.get(each, UpstreamLoad()),
            rates.get(each, DeliveryRates()),
            waiting_messages.get(each, WaitingMessages(0, None)),
        )
        for each in upstream_ids
    }
