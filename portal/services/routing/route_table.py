"""All routes in memory: which upstreams a message takes."""

import sqlite3
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from zlib import crc32

from portal.services.common.addresses import normalize_address
from portal.services.routing.routes import Route, list_routes
from portal.services.upstreams.paths import DEFAULT_PATH, UpstreamPath, mark_quiet_path


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Which upstreams a message takes, in the order in which they are tried; none where nothing takes it.

    `route_id` is the route that decided; None: no route fits, and it takes the default upstream, where there is one.
    `path`: what it waits on (see `paths`).
    """

    route_id: int | None
    upstream_ids: tuple[int, ...]
    path: UpstreamPath


def _build_decision(route: Route, upstream_ids: tuple[int, ...]) -> RouteDecision:
    path = upstream_ids if route.quiet_hours is None else mark_quiet_path(upstream_ids, route.id)
    return RouteDecision(route.id, upstream_ids, path)


class _Choice:
    """A route's decisions: one, or one for each upstream that shares its messages."""

    __slots__ = ("_bounds", "_decisions", "position")

    def __init__(self, route: Route) -> None:
        self.position = route.position
        ids = [each.id for each in route.upstreams]
        weights = [each.weight for each in route.upstreams if each.weight is not None]
        sums = list(accumulate(weights))
        # Where the hash of a destination begins to belong to the next one. As shares of all hashes, so that of two that
        # share a change of weights moves no more numbers than it has to.
        self._bounds = [(each << 32) // sums[-1] for each in sums[:-1]]
        self._decisions = [
            _build_decision(route, (ids[first], *ids[:first], *ids[first + 1 :])) for first in range(len(weights) or 1)
        ]

    def decide(self, destination: str) -> RouteDecision:
        if not self._bounds:
            return self._decisions[0]
        return self._decisions[bisect_right(self._bounds, crc32(destination.encode()))]


class _DestinationIndex:
    """Finds the first of some routes that differ in their destinations alone."""

    __slots__ = ("_choices", "_prefix_lengths")

    def __init__(self, routes: Iterable[Route]) -> None:
        """Args: `routes`: in their order."""
        first: dict[str, _Choice] = {}
        for each in routes:
            # Digits, letters, or nothing, which all numbers begin with.
            first.setdefault(each.prefix or each.country or "", _Choice(each))
        # What a route for fewer digits takes before it, a prefix never gets: so the longest one that a number begins
        # with says it for all.
        self._choices: dict[str, _Choice] = {}
        for key in first:
            wider_keys = [key, ""] if key.isalpha() else [key[:length] for length in range(len(key) + 1)]
            wider = [first[each] for each in wider_keys if each in first]
            self._choices[key] = min(wider, key=lambda choice: choice.position)
        lengths = {len(key) for key in first if not key.isalpha()}
        self._prefix_lengths = tuple(sorted(lengths, reverse=True))

    def find(self, destination: str, country: str) -> _Choice | None:
        found = None
        for length in self._prefix_lengths:
            found = self._choices.get(destination[:length])
            if found is not None:
                break
        of_country = self._choices.get(country)
        if of_country is None or (found is not None and found.position < of_country.position):
            return found
        return of_country


# The routes of one account, of one customer, or of all: by sender; what is for every sender is under "".
_RoutesBySender = Mapping[str, _DestinationIndex]


class RouteTable:
    """All routes at one moment, in memory; nothing of it changes.

    `default` is the decision where no route fits; without `has_routes` it always is. `tells_senders_apart`: whether
    what an account sends to one number may take different ways. `quiet_hours`: those of routes,
    and `with_options`: the routes that replace the sender, or have a buying price, by their ids.
    """

    __slots__ = (
        "_for_accounts",
        "_for_all",
        "default",
        "has_routes",
        "quiet_hours",
        "tells_senders_apart",
        "with_options",
    )

    def __init__(
        self, routes: Sequence[Route], customers_by_account: Mapping[int, int], default_upstream_id: int | None
    ) -> None:
        """Build the table.

        Args:
            routes: in their order.
            customers_by_account: the customer's id by the account's: of all accounts that routes name, and of all
                whose customers they name.
            default_upstream_id: what takes the rest; None: nothing does.
        """
        default_ids = () if default_upstream_id is None else (default_upstream_id,)
        self.default = RouteDecision(None, default_ids, DEFAULT_PATH)
        self.has_routes = bool(routes)
        self.quiet_hours = {each.id: each.quiet_hours for each in routes if each.quiet_hours}
        self.with_options = {each.id: each for each in routes if each.replace_sender or each.buying_price is not None}
        self.tells_senders_apart = any(each.sender for each in routes)
        grouped = _group_routes(routes)
        self._for_all = _find_all(grouped, [(None, None)])
        # Accounts without routes of their own share what is for all.
        self._for_accounts = {
            account_id: _find_all(grouped, [(None, account_id), (customer_id, None), (None, None)])
            for account_id, customer_id in customers_by_account.items()
        }

    def choose(self, account_id: int, destination: str, country: str, sender: str) -> RouteDecision:
        """Find the way of a message. It takes some microseconds, however many routes there are.

        A number always gets the same one of the upstreams that share by weight, and so does each part of a text.

        Args:
            destination: E.164 digits, as messages keep it.
            country: its country, as price lists have it (`PriceList.find_price`).
            sender: the source address as its client wrote it.
        """
        if not self.has_routes:
            return self.default
        if sender[:1] in "+0":
            sender = normalize_address(sender)
        best = None
        for by_sender in self._for_accounts.get(account_id, self._for_all):
            for key in ("", sender):
                index = by_sender.get(key)
                if index is not None:
                    found = index.find(destination, country)
                    if found is not None and (best is None or found.position < best.position):
                        best = found
        return self.default if best is None else best.decide(destination)


_Scope = tuple[int | None, int | None]


def _group_routes(routes: Iterable[Route]) -> Mapping[_Scope, _RoutesBySender]:
    grouped: dict[_Scope, dict[str, list[Route]]] = defaultdict(lambda: defaultdict(list))
    for each in routes:
        grouped[each.customer_id, each.account_id][each.sender or ""].append(each)
    return {
        scope: {sender: _DestinationIndex(group) for sender, group in by_sender.items()}
        for scope, by_sender in grouped.items()
    }


def _find_all(grouped: Mapping[_Scope, _RoutesBySender], scopes: Iterable[_Scope]) -> tuple[_RoutesBySender, ...]:
    return tuple(grouped[scope] for scope in scopes if scope in grouped)


@dataclass(frozen=True, slots=True)
class DecisiveRows:
    """All that decides which way messages take, as it is stored: not the names that a list shows.

    `routes`: in their order. `owners`: the customers of the accounts that these are for, by account. `options`: what
    routes do beside that, without moving what waits.
    """

    routes: Sequence[tuple[object, ...]]
    owners: Mapping[int, int]
    default_upstream_id: int | None
    options: Sequence[tuple[object, ...]] = ()


_OPTIONS_START = 8


def read_decisive_rows(conn: sqlite3.Connection) -> DecisiveRows:
    """Read what a `RouteTable` is made of, to see whether it has changed. A millisecond or two for a thousand routes.

    It changes with `smpp_config.read_config_version`, also by a new account of a customer that has routes.
    """
    listed = conn.execute(
        "SELECT id, customer_id, account_id, country, prefix, sender, upstreams, quiet_hours IS NULL,"
        " quiet_hours, replace_sender, buying_price FROM routes ORDER BY position"
    ).fetchall()
    owners = conn.execute(
        "SELECT id, customer_id FROM accounts WHERE id IN (SELECT account_id FROM routes)"
        " OR customer_id IN (SELECT customer_id FROM routes)"
    )
    default = conn.execute("SELECT id FROM upstreams WHERE is_default").fetchone()
    return DecisiveRows(
        [tuple(row[:_OPTIONS_START]) for row in listed],
        dict(owners.fetchall()),
        default and default[0],
        [tuple(row[_OPTIONS_START:]) for row in listed],
    )


def load_route_table(conn: sqlite3.Connection) -> RouteTable:
    """The routes as they are now. Some milliseconds for a thousand."""
    rows = read_decisive_rows(conn)
    return RouteTable(list_routes(conn), rows.owners, rows.default_upstream_id)
