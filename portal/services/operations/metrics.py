"""Metrics for monitoring, in the Prometheus text format."""

import sqlite3
from collections.abc import Mapping

from portal.core.clock import now_ms
from portal.services.accounts import session_records
from portal.services.common import ids
from portal.services.upstreams import binds, counters, queue, upstreams
from portal.services.upstreams.counters import COUNTERS
from portal.services.upstreams.health import FAILING
from portal.services.upstreams.paths import UpstreamPath

_METRICS = {
    "smpp_portal_messages_total": ("counter", "Messages accepted", "SELECT sum(sent) FROM daily_totals"),
    "smpp_portal_delivered_total": ("counter", "Messages delivered", "SELECT sum(delivered) FROM daily_totals"),
    "smpp_portal_refused_total": (
        "counter",
        "Messages not covered by credits",
        "SELECT sum(refused) FROM daily_totals",
    ),
    "smpp_portal_sessions": ("gauge", "Open SMPP sessions", "SELECT count(*) FROM connections"),
    "smpp_portal_receipts_waiting": ("gauge", "Receipts that wait for a receiver", "SELECT count(*) FROM deliveries"),
    "smpp_portal_mails_waiting": (
        "gauge",
        "Mails that wait to be sent",
        "SELECT count(*) FROM mails WHERE next_attempt_at IS NOT NULL",
    ),
    "smpp_portal_unroutable_total": (
        "counter",
        "Messages refused because no route takes them, and there is no default upstream",
        "SELECT value FROM counters WHERE name = 'unroutable_submits'",
    ),
    "smpp_portal_unmatched_receipts": (
        "gauge",
        "Receipts of upstreams that belong to no message known here",
        "SELECT count(*) FROM unmatched_receipts",
    ),
    "smpp_portal_unowned_messages": (
        "gauge",
        "Messages from handsets that no account takes",
        "SELECT count(*) FROM unowned_messages",
    ),
}


# What is counted of each upstream, by the names in COUNTERS.
_UPSTREAM_COUNTERS = {
    "submitted": "submit_sm sent to an upstream, those sent again included",
    "accepted": "Messages that an upstream has accepted",
    "throttled": "submit_sm that an upstream has refused as too many",
    "retried": "submit_sm sent again after a refusal of the moment",
    "failed": "Messages that an upstream has refused for good, or hasn't answered and that aren't sent again",
    "unsure": "Messages of which it isn't known whether an upstream has them",
    "resent": "Unsure messages that were sent again",
    "receipts": "Receipts that an upstream has sent",
    "unmatched": "Receipts of an upstream that belonged to no message when they came",
    "unknown_answers": "Responses of an upstream to nothing that waits for one",
    "answers_without_id": "Messages that an upstream has accepted without an id, so that no receipt is theirs",
    "malformed": "PDUs of an upstream that are not SMPP 3.4",
}


# Among those that were submitted first, some may wait only since their dates. Where a million wait, the look at them
# takes a tenth of a second, as counting them does.
_MAX_FIRST_SUBMITTED = 10_000
_OLDEST_QUERY = f"""
SELECT min(max({ids.build_time_sql("message_id")}, coalesce(scheduled_at, 0))) FROM (
    SELECT message_id FROM queued_messages UNION ALL SELECT message_id FROM held_messages ORDER BY message_id LIMIT ?
) LEFT JOIN messages ON id = message_id
"""


def render_metrics(conn: sqlite3.Connection) -> str:
    lines = []
    for name, (kind, help, query) in _METRICS.items():
        value = conn.execute(query).fetchone()[0] or 0
        lines += _render_metric(name, kind, help, {"": value})
    waiting = queue.count_waiting_messages_by_path(conn)
    lines += _render_metric(
        "smpp_portal_messages_waiting",
        "gauge",
        "Messages that wait for an upstream, or to be tried again",
        {"": sum(waiting.values())},
    )
    lines += _render_metric(
        "smpp_portal_messages_waiting_oldest_seconds",
        "gauge",
        "How long the oldest message that waits for an upstream has waited",
        {"": _measure_oldest_age(conn) // 1000},
    )
    lines += _render_upstream_metrics(conn, waiting)
    up = int(session_records.is_component_alive(conn, "smsc"))
    lines += _render_metric("smpp_portal_smsc_up", "gauge", "The SMPP server is alive", {"": up})
    return "\n".join(lines) + "\n"


def _render_metric(name: str, kind: str, help: str, values: dict[str, int]) -> list[str]:
    """The lines of a metric; the values by the upstreams that they are of, where they are."""
    # An upstream's name needs no quoting: `upstreams.create_upstream`.
    labelled = {upstream and f'{{upstream="{upstream}"}}': value for upstream, value in values.items()}
    return [
        f"# HELP {name} {help}",
        f"# TYPE {name} {kind}",
        *(f"{name}{label} {value}" for label, value in labelled.items()),
    ]


def _render_upstream_metrics(conn: sqlite3.Connection, waiting: Mapping[UpstreamPath, int]) -> list[str]:
    states = binds.list_upstream_states(conn)
    if not states:
        return []
    waiting_by_id = upstreams.count_waiting_messages(conn, waiting)
    lines: list[str] = []
    for name, help, read_value in (
        (
            "binds_bound",
            "Binds of an upstream that are bound",
            lambda each: sum(bind.state == binds.BOUND for bind in each.binds),
        ),
        # A disabled one lacks none.
        ("binds", "Binds that an upstream should have", lambda each: len(each.binds) if each.upstream.enabled else 0),
        (
            "failing",
            "An upstream is unbound, or answers nothing but errors: others take over from it, where a route says so",
            lambda each: int(each.health.state == FAILING),
        ),
        (
            "messages_waiting",
            "Messages that wait for an upstream, or to be tried again there",
            lambda each: waiting_by_id.get(each.upstream.id, 0),
        ),
    ):
        values = {each.upstream.name: read_value(each) for each in states}
        lines += _render_metric(f"smpp_portal_upstream_{name}", "gauge", help, values)
    counted = {each.upstream.name: counters.get_counters(conn, each.upstream.id) for each in states}
    for counter in COUNTERS:
        values = {name: each[counter] for name, each in counted.items()}
        lines += _render_metric(f"smpp_portal_upstream_{counter}_total", "counter", _UPSTREAM_COUNTERS[counter], values)
    return lines


def _measure_oldest_age(conn: sqlite3.Connection) -> int:
    """How long the oldest message waits, in milliseconds, 0 where none does; since its date, where it has one."""
    now = now_ms()
    (since,) = conn.execute(_OLDEST_QUERY, (_MAX_FIRST_SUBMITTED,)).fetchone()
    return max(now - (since or now), 0)
