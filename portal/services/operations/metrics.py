"""Metrics for monitoring, in the Prometheus text format."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence

from portal.core.clock import HOUR_MS, now_ms
from portal.services.accounts import refusals, refused_binds, refused_messages, session_records
from portal.services.common import ids
from portal.services.upstreams import binds, counters, upstreams, waiting_counts
from portal.services.upstreams.health import FAILING

# The names without what all begin with; by the convention of Prometheus those of counters end with `_total`.
_METRICS = {
    "messages_total": ("Messages accepted", "SELECT sum(sent) FROM daily_totals"),
    "delivered_total": ("Messages delivered", "SELECT sum(delivered) FROM daily_totals"),
    "refused_total": ("Messages not covered by credits", "SELECT sum(refused) FROM daily_totals"),
    "sessions": ("Open SMPP sessions", "SELECT count(*) FROM connections"),
    "receipts_waiting": ("Receipts that wait for a receiver", "SELECT count(*) FROM deliveries"),
    "mails_waiting": (
        "Mails that wait to be sent",
        "SELECT count(*) FROM mails WHERE next_attempt_at IS NOT NULL",
    ),
    "unroutable_total": (
        "Messages refused because no route takes them, and there is no default upstream",
        "SELECT value FROM counters WHERE name = 'unroutable_submits'",
    ),
    "unmatched_receipts": (
        "Receipts of upstreams that belong to no message known here",
        "SELECT count(*) FROM unmatched_receipts",
    ),
    "unowned_messages": ("Messages from handsets that no account takes", "SELECT count(*) FROM unowned_messages"),
}


# What is counted of each upstream, by the names of `counters.COUNTERS`.
_UPSTREAM_COUNTERS = {
    "submitted": "submit_sm sent to an upstream, those sent again included",
    "accepted": "Messages that an upstream has accepted",
    "throttled": "submit_sm that an upstream has refused as too many",
    "retried": "submit_sm sent again after a refusal of the moment",
    "failed": "Messages that an upstream has refused for good, or hasn't answered and that aren't sent again",
    "unsure": "Messages of which it isn't known whether an upstream has them",
    "resent": "Unsure messages that were sent again",
    "receipts": "Receipts that an upstream has sent",
    "delivered": "Messages, and parts of texts, of which a receipt of an upstream says that they have arrived",
    "undelivered": "Messages, and parts of texts, of which a receipt of an upstream says that they won't arrive",
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


# Without the prefix: its name, its help, the label that says what its values are of, and these by it ("": of nothing).
_Metric = tuple[str, str, str, Mapping[str, int]]
_UPSTREAM, _REASON = "upstream", "reason"


def render_metrics(conn: sqlite3.Connection) -> str:
    lines: list[str] = []
    for name, help, label, values in _iterate_metrics(conn):
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP smpp_portal_{name} {help}", f"# TYPE smpp_portal_{name} {kind}"]
        for of, value in values.items():
            # An upstream's name needs no quoting: `upstreams.create_upstream`.
            labels = f'{{{label}="{of}"}}' if of else ""
            lines.append(f"smpp_portal_{name}{labels} {value}")
    return "\n".join(lines) + "\n"


def _iterate_metrics(conn: sqlite3.Connection) -> Iterator[_Metric]:
    for name, (help, query) in _METRICS.items():
        yield name, help, "", {"": conn.execute(query).fetchone()[0] or 0}
    waiting = waiting_counts.read_path_counts(conn)
    yield (
        "messages_waiting",
        "Messages that wait for an upstream, or to be tried again",
        "",
        {"": sum(waiting.values())},
    )
    now = now_ms()
    # Since its date, where it has one.
    (since,) = conn.execute(_OLDEST_QUERY, (_MAX_FIRST_SUBMITTED,)).fetchone()
    yield (
        "messages_waiting_oldest_seconds",
        "How long the oldest message that waits for an upstream has waited",
        "",
        {"": max(now - (since or now), 0) // 1000},
    )
    yield from _iterate_refusal_metrics(conn, now)
    if states := binds.list_upstream_states(conn):
        yield from _iterate_upstream_metrics(conn, states, upstreams.count_waiting_messages(conn, waiting))
    yield "smsc_up", "The SMPP server is alive", "", {"": int(session_records.is_component_alive(conn, "smsc"))}


def _iterate_refusal_metrics(conn: sqlite3.Connection, now: int) -> Iterator[_Metric]:
    """Counters begin anew with each hour, as they do with programs that are started again: few rows are read."""
    for name, is_bind, reasons in (
        ("messages", False, refused_messages.REASONS),
        ("binds", True, refused_binds.REASON_TEXTS),
    ):
        counts = refusals.count_refusals_of_hour(conn, now // HOUR_MS, is_bind=is_bind)
        values = {reason: counts.get(reason, 0) for reason in reasons}
        yield f"refused_{name}_total", f"Refused {name}, since the hour began", _REASON, values


def _iterate_upstream_metrics(
    conn: sqlite3.Connection, states: Sequence[binds.UpstreamState], waiting: Mapping[int, int]
) -> Iterator[_Metric]:
    bound = {each.upstream.name: sum(bind.state == binds.BOUND for bind in each.binds) for each in states}
    yield "upstream_binds_bound", "Binds of an upstream that are bound", _UPSTREAM, bound
    # A disabled one lacks none.
    wanted = {each.upstream.name: len(each.binds) if each.upstream.enabled else 0 for each in states}
    yield "upstream_binds", "Binds that an upstream should have", _UPSTREAM, wanted
    yield (
        "upstream_failing",
        "An upstream is unbound, or answers nothing but errors: others take over from it, where a route says so",
        _UPSTREAM,
        {each.upstream.name: int(each.health.state == FAILING) for each in states},
    )
    yield (
        "upstream_messages_waiting",
        "Messages that wait for an upstream, or to be tried again there",
        _UPSTREAM,
        {each.upstream.name: waiting.get(each.upstream.id, 0) for each in states},
    )
    counted = {each.upstream.name: counters.get_counters(conn, each.upstream.id) for each in states}
    for counter, help in _UPSTREAM_COUNTERS.items():
        yield f"upstream_{counter}_total", help, _UPSTREAM, {name: each[counter] for name, each in counted.items()}
