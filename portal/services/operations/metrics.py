"""Metrics for monitoring, in the Prometheus text format."""

import sqlite3
from collections.abc import Iterator, Mapping

from portal.core.clock import now_ms
from portal.services.accounts import session_records
from portal.services.common import ids
from portal.services.upstreams import binds, counters, paths, queue, upstreams
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


# In the search for the oldest message it is looked past so many with dates in all, and at so many that are held, for
# which all of these are read.
_MAX_DATED = _MAX_HELD = 1_000


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
    bound = {each.upstream.name: sum(bind.state == binds.BOUND for bind in each.binds) for each in states}
    lines = _render_metric("smpp_portal_upstream_binds_bound", "gauge", "Binds of an upstream that are bound", bound)
    # A disabled one lacks none.
    configured = {each.upstream.name: len(each.binds) if each.upstream.enabled else 0 for each in states}
    lines += _render_metric("smpp_portal_upstream_binds", "gauge", "Binds that an upstream should have", configured)
    failing = {each.upstream.name: int(each.health.state == FAILING) for each in states}
    help = "An upstream is unbound, or answers nothing but errors: others take over from it, where a route says so"
    lines += _render_metric("smpp_portal_upstream_failing", "gauge", help, failing)
    counts = upstreams.count_waiting_messages(conn, waiting)
    waiting_by_name = {each.upstream.name: counts.get(each.upstream.id, 0) for each in states}
    help = "Messages that wait for an upstream, or to be tried again there"
    lines += _render_metric("smpp_portal_upstream_messages_waiting", "gauge", help, waiting_by_name)
    counted = {each.upstream.name: counters.get_counters(conn, each.upstream.id) for each in states}
    for counter in COUNTERS:
        values = {name: each[counter] for name, each in counted.items()}
        lines += _render_metric(f"smpp_portal_upstream_{counter}_total", "counter", _UPSTREAM_COUNTERS[counter], values)
    return lines


def _measure_oldest_age(conn: sqlite3.Connection) -> int:
    """How long the oldest message waits, in milliseconds, 0 where none does; since its date, where it has one."""
    now = now_ms()
    since = [max(ids.time_from_id(message_id), scheduled_at or 0) for message_id, scheduled_at in _iterate_oldest(conn)]
    return max((now - each for each in since), default=0)


def _iterate_oldest(conn: sqlite3.Connection) -> Iterator[tuple[int, int | None]]:
    """Yield the id and the date of each message that may be the oldest one of a path, account and priority in the
    queue, or of what is held.
    """
    dated_left = _MAX_DATED
    for path_id in paths.list_paths(conn):
        for account_id, priority_rank, message_id, scheduled_at in _iterate_first_of_each(conn, path_id):
            yield message_id, scheduled_at
            if scheduled_at is not None and dated_left:
                behind = _list_behind_dated(conn, (path_id, account_id, priority_rank, message_id), dated_left)
                dated_left -= len(behind)
                yield from behind
    yield from conn.execute(
        "SELECT id, scheduled_at FROM messages WHERE id IN"
        " (SELECT message_id FROM held_messages ORDER BY message_id LIMIT ?)",
        (_MAX_HELD,),
    )


def _iterate_first_of_each(conn: sqlite3.Connection, path_id: int) -> Iterator[tuple[int, int, int, int | None]]:
    """Yield the first message of each account and priority that is queued on a path, with its account, rank and date.

    They are looked up in the index: to look at a million rows for the least id takes 60 ms.
    """
    select = (
        "SELECT waiting.account_id, priority_rank, message_id, scheduled_at FROM queued_messages AS waiting"
        " LEFT JOIN messages ON id = message_id WHERE waiting.path = ? AND"
    )
    order = "ORDER BY waiting.account_id, priority_rank, message_id LIMIT 1"
    row = conn.execute(f"{select} true {order}", (path_id,)).fetchone()
    while row:
        account_id, priority_rank, *_ = row
        yield row
        # Two statements: SQLite reads all of a rank for (account_id, priority_rank) > (?, ?).
        of_account = f"{select} waiting.account_id = ? AND priority_rank > ? {order}"
        row = (
            conn.execute(of_account, (path_id, account_id, priority_rank)).fetchone()
            or conn.execute(f"{select} waiting.account_id > ? {order}", (path_id, account_id)).fetchone()
        )


def _list_behind_dated(
    conn: sqlite3.Connection, position: tuple[int, int, int, int], limit: int
) -> list[tuple[int, int | None]]:
    """Those queued behind a message that waits since its date only, up to the first without a date: that one may have
    waited for longer, those behind it have not.

    Args:
        position: path, account, rank and id of that message.
    """
    rows = conn.execute(
        "SELECT message_id, scheduled_at FROM queued_messages AS waiting LEFT JOIN messages ON id = message_id"
        " WHERE waiting.path = ? AND waiting.account_id = ? AND priority_rank = ? AND message_id > ?"
        " ORDER BY message_id LIMIT ?",
        (*position, limit),
    )
    behind = []
    for waiting_id, scheduled_at in rows:
        behind.append((waiting_id, scheduled_at))
        if scheduled_at is None:
            break
    return behind
