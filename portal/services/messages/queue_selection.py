"""Which of the messages that wait for upstreams an operator means, how many they are, and the groups of a page."""

import heapq
import json
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from portal.core.clock import now_ms
from portal.services.common import ids
from portal.services.common.message_states import ENROUTE
from portal.services.routing import route_table, routes
from portal.services.routing.route_table import RouteTable
from portal.services.routing.route_usage import NO_ROUTE
from portal.services.routing.routes import Route
from portal.services.upstreams import holds, paths, steering, upstreams, waiting_counts
from portal.services.upstreams.paths import UpstreamPath
from portal.services.upstreams.waiting_counts import WaitingGroup

HOLD, RELEASE, CANCEL, MOVE = "hold", "release", "cancel", "move"
ACTIONS = (HOLD, RELEASE, CANCEL, MOVE)
UPSTREAM, ACCOUNT, ROUTE, AGE = "upstream", "account", "route", "age"
GROUPINGS = (UPSTREAM, ACCOUNT, ROUTE, AGE)
# How many messages are read at a time to see what they have cost, and which route they take.
_READ_BATCH = 500
# So long, or at so many ranges while nothing was found.
_LOOK_SECONDS, _MIN_LOOKED_RANGES = 0.02, 200


@dataclass(frozen=True, slots=True)
class QueueFilter:
    """Which of the messages that wait; what is None fits all.

    `route_id`: those that take a route; NO_ROUTE: none. `older_ms`: those that were submitted longer ago than that.
    `is_quiet`: those that wait at this moment for the end of their route's quiet hours.
    """

    upstream_id: int | None = None
    account_id: int | None = None
    route_id: int | None = None
    older_ms: int | None = None
    is_quiet: bool = False


@dataclass(frozen=True, slots=True)
class QueueSelection:
    """The messages that are meant: those with ids below `before_id` that wait on these paths, of an account, and that
    take a route; None: of all accounts, whichever route.
    """

    paths: tuple[UpstreamPath, ...]
    account_id: int | None
    route_id: int | None
    before_id: int

    def __str__(self) -> str:
        """As JSON; see `parse_selection`."""
        values = (self.account_id, self.route_id, self.before_id)
        return json.dumps([[paths.format_path(each) for each in self.paths], *values])

    @property
    def account_ids(self) -> Sequence[int] | None:
        return None if self.account_id is None else [self.account_id]


def parse_selection(text: str) -> QueueSelection:
    """Parse the JSON that `str` returns for a selection.

    Raises:
        ValueError: it is something else.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    match value:
        case [list(formatted), int() | None as account_id, int() | None as route_id, int(before_id)] if all(
            isinstance(each, str) for each in formatted
        ):
            found = tuple(map(paths.parse_path, formatted))
            bounded = [each or 0 for each in (account_id, route_id, before_id)]
            if all(abs(each) <= waiting_counts.MAX_MESSAGE_ID for each in (*bounded, *sum(found, ()))):
                return QueueSelection(found, account_id, route_id, before_id)
    raise ValueError(text)


def build_selection(conn: sqlite3.Connection, action: str, queue_filter: QueueFilter) -> QueueSelection:
    """What fits a filter at this moment, as far as an action has anything to do with it: what is held already isn't
    held, and only what was held or moved is released.

    Raises:
        NoSuchRoute
    """
    chosen = _choose_paths(conn, queue_filter)
    if action == HOLD:
        chosen = [each for each in chosen if not paths.is_held_path(each)]
    else:
        # What is being held at this moment is on its way there.
        chosen = [*dict.fromkeys(chosen + [paths.hold_path(each) for each in chosen if not paths.is_held_path(each)])]
    if action == RELEASE:
        chosen = [each for each in chosen if paths.is_steered_path(each)]
    before_id = _find_before_id(conn, queue_filter)
    return QueueSelection(tuple(chosen), queue_filter.account_id, queue_filter.route_id, before_id)


def _choose_paths(conn: sqlite3.Connection, queue_filter: QueueFilter) -> list[UpstreamPath]:
    """The paths on which what fits may wait."""
    chosen = [*paths.list_paths(conn).values()]
    if queue_filter.upstream_id is not None:
        takers = upstreams.find_takers(conn, chosen)
        chosen = [each for each in chosen if takers[each] == queue_filter.upstream_id]
    if queue_filter.route_id is not None:
        of_route: list[UpstreamPath] = [()]
        if queue_filter.route_id != NO_ROUTE:
            of_route = list_route_paths(routes.get_route(conn, queue_filter.route_id))
        chosen = [
            each for each in chosen if paths.may_be_of_any_route(each) or paths.get_path_upstreams(each) in of_route
        ]
    return [*_find_quiet_paths(conn, chosen)] if queue_filter.is_quiet else chosen


def _find_quiet_paths(conn: sqlite3.Connection, known: Iterable[UpstreamPath]) -> dict[UpstreamPath, tuple[int, int]]:
    """Those of these paths on which messages wait for the end of quiet hours: whose route's, and when that is."""
    route_ids = {each: paths.get_quiet_route(each) for each in known if not paths.is_held_path(each)}
    if not any(route_ids.values()):
        return {}
    now = now_ms()
    ends = {
        each.id: each.quiet_hours.get_end(now)
        for each in routes.list_routes(conn)
        if each.quiet_hours is not None and each.quiet_hours.includes(now)
    }
    return {path: (route_id, ends[route_id]) for path, route_id in route_ids.items() if route_id in ends}


def _find_before_id(conn: sqlite3.Connection, queue_filter: QueueFilter) -> int:
    """The id below which messages are old enough; those that come from now on never are."""
    if queue_filter.older_ms:
        return ids.min_id_at_time(now_ms() - queue_filter.older_ms)
    (latest_id,) = conn.execute("SELECT coalesce(max(id), 0) FROM messages").fetchone()
    return int(latest_id) + 1


def list_route_paths(route: Route) -> list[UpstreamPath]:
    """The upstreams of a route's messages in their order: of all, or by each one that shares them."""
    upstream_ids = tuple(each.id for each in route.upstreams)
    sharing_count = sum(each.weight is not None for each in route.upstreams)
    return [
        (upstream_ids[first], *upstream_ids[:first], *upstream_ids[first + 1 :]) for first in range(sharing_count or 1)
    ]


@dataclass(frozen=True, slots=True)
class QueuePreview:
    """What a work would be about: how many messages, by account, and where they would be cancelled, what they have cost
    (thousandths of a credit).

    `is_exact`: they were counted now, and there was time to look at each; otherwise `count` is that of some seconds
    ago where a great many wait, and what they cost, or how many take a route, follows from those that were looked at.
    """

    count: int
    refund: int
    counts_by_account: Mapping[int, int]
    is_exact: bool


def preview_selection(
    conn: sqlite3.Connection, action: str, selection: QueueSelection, older_ms: int | None = None
) -> QueuePreview:
    """Count the messages of a selection, as `waiting_counts.list_waiting_groups` does. Where it matters which routes
    they take, or what they have cost, single ones are looked at for a moment.

    Args:
        older_ms: that of the filter.
    """
    wanted = {*selection.paths}
    groups = [
        each
        for each in waiting_counts.list_waiting_groups(conn, older_ms, selection.before_id)
        if each.path in wanted and selection.account_id in (None, each.account_id)
    ]
    counts: Counter[int] = Counter()
    for group in groups:
        counts[group.account_id] += group.count
    are_kept = waiting_counts.are_counts_kept()
    if action != CANCEL and selection.route_id is None:
        return QueuePreview(counts.total(), 0, counts, not are_kept)
    total = counts.total()
    table = None if selection.route_id is None else route_table.load_route_table(conn)
    deadline = time.monotonic() + _LOOK_SECONDS
    looked = cost = 0
    fitting_counts: Counter[int] = Counter()
    ranges = (of for each in groups for of in steering.iterate_ranges(conn, [each.path_id], [each.account_id]))
    for number, of in enumerate(ranges):
        after_id = 0
        # However busy the machine is, some are looked at.
        while not looked or time.monotonic() < deadline:
            message_ids = steering.list_range_ids(conn, of, after_id, selection.before_id, _READ_BATCH)
            prices = read_fitting_prices(conn, selection, table, message_ids)
            looked += len(message_ids)
            fitting_counts[of.account_id] += len(prices)
            cost += sum(prices.values())
            if len(message_ids) < _READ_BATCH:
                break
            after_id = message_ids[-1]
        # Of what was counted some seconds ago nothing may be there any more.
        if (looked or number >= _MIN_LOOKED_RANGES) and time.monotonic() > deadline:
            break
    is_exact = looked >= total and not are_kept
    if table is not None:
        counts = fitting_counts
    if looked and looked < total:
        scale = total / looked
        cost = round(cost * scale)
        if table is not None:
            counts = Counter({each: round(count * scale) for each, count in counts.items()})
    return QueuePreview(sum(counts.values()), cost, {each: n for each, n in counts.items() if n}, is_exact)


def read_fitting_prices(
    conn: sqlite3.Connection, selection: QueueSelection, table: RouteTable | None, message_ids: Collection[int]
) -> dict[int, int]:
    """Those of these messages that take the selection's route, with what they have cost."""
    rows = conn.execute(
        "SELECT id, price, account_id, destination, country, source FROM messages"
        f" WHERE id IN (SELECT value FROM json_each(?)) AND +state = {ENROUTE}",
        (json.dumps([*message_ids]),),
    )
    return {
        message_id: price
        for message_id, price, *values in rows
        if table is None or (table.choose(*values).route_id or NO_ROUTE) == selection.route_id
    }


# --- in groups


@dataclass(frozen=True, slots=True)
class QuietMessages:
    """How many messages wait for the end of a route's quiet hours, and when that is (milliseconds)."""

    route_id: int
    ends_at: int
    count: int


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A group of messages that wait: how many go out in their turn, and how many are held, or of accounts on hold; when
    (milliseconds) the oldest was submitted.

    `name`: of the upstream or account; of a route, its number, several where they share a way; empty: none.
    `quiet`: those among the ones in their turn that wait for the end of quiet hours. `key`: what a filter has for this
    group, the id of the upstream, account or route (NO_ROUTE: none), or the age; None: no filter tells it apart.
    """

    name: str
    key: int | None
    waiting: int
    held: int
    oldest_at: int | None
    quiet: Sequence[QuietMessages]


@dataclass(frozen=True, slots=True)
class QueueGroups:
    """`rows`: the largest groups first; `left_count`: how many smaller ones there are; `waiting`, `held`: of all."""

    rows: Sequence[QueueRow]
    left_count: int
    waiting: int
    held: int


def list_queue_groups(
    conn: sqlite3.Connection, grouping: str, queue_filter: QueueFilter, limit: int | None = None
) -> QueueGroups:
    """What fits a filter, in groups by one of GROUPINGS. Some ten milliseconds for a million messages; of a route all
    count that take the same way.

    Args:
        limit: so many rows at most; None: all.
    """
    known = [*paths.list_paths(conn).values()]
    chosen = {*_choose_paths(conn, queue_filter)}
    quiet_paths = _find_quiet_paths(conn, chosen)
    held_account_ids = holds.list_held_account_ids(conn)

    def choose(groups: Iterable[WaitingGroup]) -> list[WaitingGroup]:
        account_id = queue_filter.account_id
        return [each for each in groups if each.path in chosen and account_id in (None, each.account_id)]

    def add_up(name: str, key: int | None, groups: Iterable[WaitingGroup]) -> QueueRow:
        waiting = held = 0
        oldest_id: int | None = None
        quiet: Counter[tuple[int, int]] = Counter()
        for each in groups:
            if paths.is_held_path(each.path) or each.account_id in held_account_ids:
                held += each.count
            else:
                waiting += each.count
                if each.path in quiet_paths:
                    quiet[quiet_paths[each.path]] += each.count
            oldest_id = each.oldest_id if oldest_id is None else min(oldest_id, each.oldest_id)
        oldest_at = None if oldest_id is None else ids.time_from_id(oldest_id)
        quiet_messages = [QuietMessages(*which, count) for which, count in sorted(quiet.items())]
        return QueueRow(name, key, waiting, held, oldest_at, quiet_messages)

    if grouping == AGE:
        by_age = waiting_counts.list_groups_by_age(conn)
        ages = [each for each in waiting_counts.AGES_MS if each >= (queue_filter.older_ms or 0)]
        rows = [add_up("", each, choose(by_age[each])) for each in ages]
        rows = [each for each in rows if each.waiting or each.held]
        # A message is of several ages.
        most_waiting = max((each.waiting for each in rows), default=0)
        return QueueGroups(rows, 0, most_waiting, max((each.held for each in rows), default=0))
    groups = choose(waiting_counts.list_waiting_groups(conn, queue_filter.older_ms))
    keys: Iterable[Any]
    if grouping == UPSTREAM:
        takers = upstreams.find_takers(conn, known)
        keys = [takers[each.path] or 0 for each in groups]
    elif grouping == ACCOUNT:
        keys = [each.account_id for each in groups]
    else:
        route_ids = _list_routes_by_path(conn)
        keys = [tuple(route_ids.get(paths.get_path_upstreams(each.path), [NO_ROUTE])) for each in groups]
    by_key: dict[Any, list[WaitingGroup]] = defaultdict(list)
    for key, group in zip(keys, groups, strict=True):
        by_key[key].append(group)
    # There may be thousands: no more of them are added up and named than are shown.
    counts = {key: sum(each.count for each in found) for key, found in by_key.items()}
    largest = heapq.nlargest(len(counts) if limit is None else limit, counts, key=counts.__getitem__)
    if grouping == ROUTE:
        names = {each: ", ".join(map(str, each)) if each != (NO_ROUTE,) else "" for each in largest}
        filter_keys = {each: each[0] for each in largest if len(each) == 1}
    else:
        names = upstreams.get_upstream_names(conn) if grouping == UPSTREAM else _read_account_names(conn, largest)
        filter_keys = {each: each for each in names}
    rows = [add_up(names.get(each, ""), filter_keys.get(each), by_key[each]) for each in largest]
    total = add_up("", None, groups)
    rows.sort(key=lambda row: (-row.waiting - row.held, row.name))
    return QueueGroups(rows, len(counts) - len(rows), total.waiting, total.held)


def list_largest_accounts(conn: sqlite3.Connection, preview: QueuePreview, limit: int) -> list[tuple[str, int]]:
    """The names of the accounts that have the most messages of a preview, with how many."""
    counts = heapq.nlargest(limit, preview.counts_by_account.items(), key=itemgetter(1))
    names = _read_account_names(conn, [account_id for account_id, _ in counts])
    return [(names[account_id], count) for account_id, count in counts]


def _read_account_names(conn: sqlite3.Connection, account_ids: Collection[int]) -> dict[int, str]:
    """The names of accounts by their ids."""
    rows = conn.execute(
        "SELECT id, name FROM accounts WHERE id IN (SELECT value FROM json_each(?))", (json.dumps([*account_ids]),)
    )
    return dict(rows.fetchall())


def _list_routes_by_path(conn: sqlite3.Connection) -> dict[UpstreamPath, list[int]]:
    """The ids of the routes that lead to each path, in their order."""
    found: dict[UpstreamPath, list[int]] = defaultdict(list)
    for route in routes.list_routes(conn):
        for path in list_route_paths(route):
            found[path].append(route.id)
    return found
