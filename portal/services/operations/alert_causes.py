"""What is wrong now and alerts operators, from the database and the disk; the numbers are those of `[alerts]`."""

import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from portal.core.clock import MINUTE_MS
from portal.core.config import AlertSettings, Config
from portal.services.accounts import session_records
from portal.services.common import mail
from portal.services.common.audit import SYSTEM
from portal.services.routing import routes
from portal.services.upstreams import binds, holds, load, paths, upstreams, waiting, waiting_counts
from portal.services.upstreams.load import DeliveryRates
from portal.services.upstreams.waiting_counts import WaitingGroup

SERVER_STOPPED, UPSTREAM_UNBOUND, DELIVERY_RATE = "server_stopped", "upstream_unbound", "delivery_rate"
OLD_QUEUE, ACCOUNT_HELD, FULL_DISK = "old_queue", "account_held", "full_disk"
FAILING_MAILS, REFUSED_MAILS = "failing_mails", "refused_mails"
"""Mails can't be sent; or the mail server refuses their recipients, which one wrong address is enough for."""

# What is told is over only where it is clearly better: by half, or where a tenth more of a disk is free. Figures that
# go up and down around a limit would be told again and again otherwise.
_HALF, _MORE_FREE = 0.5, 1.1


@dataclass(frozen=True, slots=True)
class Cause:
    """Something that is wrong. `subject_id`: of the upstream or account that it is about, and `subject` its name; 0 and
    "": none. `figures`: what is told of it. `since`: milliseconds; None: that isn't known.
    """

    kind: str
    subject_id: int = 0
    subject: str = ""
    figures: Mapping[str, int | float | str] = field(default_factory=dict)
    since: int | None = None


def find_causes(
    conn: sqlite3.Connection, config: Config, told: Collection[tuple[str, int]], now: int
) -> dict[str, list[Cause] | None]:
    """What is wrong at a moment (milliseconds), by kind. None: that can't be said now. Kinds that are switched off are
    left out.

    Args:
        told: kind and subject of what is told of already.
    """
    settings = config.alerts
    found: dict[str, list[Cause] | None] = {ACCOUNT_HELD: [*_find_held_accounts(conn, told)]}
    if settings.unbound_minutes:
        is_running = session_records.is_component_alive(conn, "smsc")
        found[SERVER_STOPPED] = [] if is_running else [Cause(SERVER_STOPPED)]
        # That the server isn't running is told once, and not for each upstream.
        found[UPSTREAM_UNBOUND] = [*_find_unbound_upstreams(conn)] if is_running else None
    if settings.delivery_points:
        found[DELIVERY_RATE] = [*_find_fallen_rates(conn, settings, told)]
    if settings.queue_minutes:
        found[OLD_QUEUE] = [*_find_old_queues(conn, settings, told, now)]
    if settings.mail_minutes:
        failing = mail.find_oldest_failing(conn)
        for is_refused, kind in ((False, FAILING_MAILS), (True, REFUSED_MAILS)):
            count, since = failing.get(is_refused, (0, now))
            is_wrong = count and now - since >= _get_age_limit(settings.mail_minutes, (kind, 0) in told)
            found[kind] = [Cause(kind, figures={"mails": count}, since=since)] if is_wrong else []
    if settings.disk_percent or settings.disk_mb:
        found[FULL_DISK] = [*_find_full_disk(config.data, settings, told)]
    return found


def _find_unbound_upstreams(conn: sqlite3.Connection) -> Iterator[Cause]:
    """Those that are to be bound, and have not one bind of a kind that they need: without a receiver no receipts
    come.
    """
    for state in binds.list_upstream_states(conn):
        bound_kinds = {each.kind for each in state.binds if each.state == binds.BOUND}
        lacking = [each for each in state.binds if each.kind not in bound_kinds]
        if state.upstream.enabled and lacking:
            error = next((each.error for each in lacking if each.error), "")
            yield Cause(UPSTREAM_UNBOUND, state.upstream.id, state.upstream.name, {"error": error})


def _find_fallen_rates(
    conn: sqlite3.Connection, settings: AlertSettings, told: Collection[tuple[str, int]]
) -> Iterator[Cause]:
    rates = load.list_delivery_rates(conn)
    for upstream in upstreams.list_upstreams(conn):
        known = rates.get(upstream.id, DeliveryRates())
        least, points = settings.delivery_messages, float(settings.delivery_points)
        if (DELIVERY_RATE, upstream.id) in told:
            # At night fewer messages would say that it is over.
            least, points = 1, points * _HALF
        if known.has_fallen(points, least, settings.delivery_messages):
            figures = {"rate": known.hour.rate or 0.0, "usual": known.before.rate or 0.0}
            yield Cause(DELIVERY_RATE, upstream.id, upstream.name, figures)


def _find_old_queues(
    conn: sqlite3.Connection, settings: AlertSettings, told: Collection[tuple[str, int]], now: int
) -> Iterator[Cause]:
    """Upstreams for which messages wait that nobody holds back: no operator, no account's hold, no quiet hours."""
    on_hold = holds.list_held_account_ids(conn)
    groups: dict[tuple[int, int | None], list[WaitingGroup]] = defaultdict(list)
    listed = [each for each in waiting_counts.list_waiting_groups(conn) if each.account_id not in on_hold]
    takers = upstreams.find_takers(conn, {each.path for each in listed})
    for each in listed:
        if not paths.is_held_path(each.path):
            groups[takers[each.path] or 0, paths.get_quiet_route(each.path)].append(each)
    quiet_hours = {each.id: each.quiet_hours for each in routes.list_routes(conn)} if groups else {}
    counts: dict[int, int] = defaultdict(int)
    oldest: dict[int, int] = {}
    for (upstream_id, route_id), waiting_groups in groups.items():
        hours = quiet_hours.get(route_id) if route_id is not None else None
        if hours is not None and hours.includes(now):
            continue
        since = waiting.find_oldest_time(conn, waiting_groups)
        # What has waited for the end of quiet hours is late only from then on.
        since = since if hours is None else max(since, hours.get_last_end(now))
        counts[upstream_id] += sum(each.count for each in waiting_groups)
        oldest[upstream_id] = min(since, oldest.get(upstream_id, since))
    names = upstreams.get_upstream_names(conn)
    for upstream_id, since in oldest.items():
        if now - since >= _get_age_limit(settings.queue_minutes, (OLD_QUEUE, upstream_id) in told):
            figures = {"messages": counts[upstream_id]}
            yield Cause(OLD_QUEUE, upstream_id, names.get(upstream_id, ""), figures, since)


def _get_age_limit(minutes: int, is_told: bool) -> float:
    return minutes * MINUTE_MS * (_HALF if is_told else 1)


def _find_held_accounts(conn: sqlite3.Connection, told: Collection[tuple[str, int]]) -> Iterator[Cause]:
    """Accounts that a brake holds, or has held until an operator held them; what else operators hold they know of."""
    for each in holds.list_account_holds(conn):
        if each.actor == SYSTEM.name or (ACCOUNT_HELD, each.account_id) in told:
            yield Cause(ACCOUNT_HELD, each.account_id, each.account, since=each.since)


def _find_full_disk(data: Path, settings: AlertSettings, told: Collection[tuple[str, int]]) -> Iterator[Cause]:
    usage = shutil.disk_usage(data)
    least = max(usage.total * settings.disk_percent / 100, settings.disk_mb << 20)
    if usage.free < least * (_MORE_FREE if (FULL_DISK, 0) in told else 1):
        yield Cause(FULL_DISK, figures={"free_mb": usage.free >> 20, "share": usage.free / usage.total})
