"""Routes: which upstreams a message takes. The first by position that fits it decides; else the default upstream."""

import json
import re
import sqlite3
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from zlib import crc32

import phonenumbers

from portal.core.clock import now_ms
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_
from portal.services.accounts.accounts import Account
from portal.services.common import audit
from portal.services.common.addresses import normalize_address
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, require_found
from portal.services.people.customers import Customer
from portal.services.prices import countries
from portal.services.senders import senders
from portal.services.upstreams import upstreams

_MAX_WEIGHT = 1000
_MAX_PREFIX_DIGITS = 15
_UPSTREAM_PATTERN = re.compile(r"([^:]+)(?::([0-9]{1,9}))?")


class NoSuchRoute(NotFound, field="route"):
    sentence = N_("There is no route %(route)s.")


class CustomerAndAccountGiven(Refused, field="account"):
    sentence = N_("A route is for a customer or for an account, not for both: an account has one customer.")


class CountryAndPrefixGiven(Refused, field="prefix"):
    sentence = N_("A route is for a country or for first digits, not for both: the digits name the country, too.")


class InvalidRouteCountry(Refused, field="country"):
    sentence = N_("“%(country)s” isn't a country: two letters (ISO 3166), like IT.")


class InvalidRoutePrefix(Refused, field="prefix"):
    sentence = N_("No number begins with “%(prefix)s”: give its first digits, the country code in front, like 39340.")


class InvalidRouteUpstreams(Refused, field="upstreams"):
    sentence = N_(
        "“%(text)s” can't be a route's upstreams: names with commas between them, in the order in which they are tried"
        " (A,B); or with weights from 1 to %(limit)s, by which they share (A:70,B:30)."
    )


class RepeatedRouteUpstream(Refused, field="upstreams"):
    sentence = N_("A route's upstreams name “%(name)s” twice.")


class InvalidRouteWeights(Refused, field="upstreams"):
    sentence = N_(
        "“%(text)s”: upstreams that share have weights, are two at least, and come first; those that only help out have"
        " none, and follow (A:70,B:30,C)."
    )


class NoRoute(Refused, field="destination"):
    """What `RouteTable.choose` finds no upstream for, while there are upstreams: it is refused at submit."""

    sentence = N_("No route takes a message to %(destination)s, and there is no default upstream.")


@dataclass(frozen=True, slots=True)
class RouteUpstream:
    """An upstream of a route. Those with a `weight` share its messages; None: it follows where those before it fail."""

    id: int
    name: str
    weight: int | None


@dataclass(frozen=True, slots=True)
class Route:
    """A route. It fits a message that has all that is not None: an account, or a customer whose account it is; a
    country (ISO 3166), or first digits; a sender.

    `position` counts from 1. Routes of accounts that are disabled or deleted stay as long as these do, and fit nothing.
    """

    id: int
    position: int
    customer_id: int | None
    customer: str | None
    account_id: int | None
    account: str | None
    country: str | None
    prefix: str | None
    sender: str | None
    upstreams: tuple[RouteUpstream, ...]


# --- which upstreams a message takes


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """Which upstreams a message takes, in the order in which they are tried; none where nothing takes it.

    `route_id` is the route that decided; None: no route fits, and it takes the default upstream, where there is one.
    """

    route_id: int | None
    upstream_ids: tuple[int, ...]


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
            RouteDecision(route.id, (ids[first], *ids[:first], *ids[first + 1 :])) for first in range(len(weights) or 1)
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
    what an account sends to one number may take different ways.
    """

    __slots__ = ("_for_accounts", "_for_all", "default", "has_routes", "tells_senders_apart")

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
        self.default = RouteDecision(None, () if default_upstream_id is None else (default_upstream_id,))
        self.has_routes = bool(routes)
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

    `routes`: in their order. `owners`: the customers of the accounts that these are for, by account.
    """

    routes: Sequence[tuple[object, ...]]
    owners: Mapping[int, int]
    default_upstream_id: int | None


def read_decisive_rows(conn: sqlite3.Connection) -> DecisiveRows:
    """Read what a `RouteTable` is made of, to see whether it has changed. A millisecond or two for a thousand routes.

    It changes with `smpp_config.read_config_version`, also by a new account of a customer that has routes.
    """
    listed = conn.execute(
        "SELECT id, customer_id, account_id, country, prefix, sender, upstreams FROM routes ORDER BY position"
    )
    owners = conn.execute(
        "SELECT id, customer_id FROM accounts WHERE id IN (SELECT account_id FROM routes)"
        " OR customer_id IN (SELECT customer_id FROM routes)"
    )
    default = conn.execute("SELECT id FROM upstreams WHERE is_default").fetchone()
    return DecisiveRows([tuple(row) for row in listed], dict(owners.fetchall()), default and default[0])


def load_route_table(conn: sqlite3.Connection) -> RouteTable:
    """The routes as they are now. Some milliseconds for a thousand."""
    rows = read_decisive_rows(conn)
    return RouteTable(list_routes(conn), rows.owners, rows.default_upstream_id)


# --- the list of them


def list_routes(conn: sqlite3.Connection) -> list[Route]:
    """All routes, in their order."""
    names = upstreams.get_upstream_names(conn)
    rows = conn.execute(
        "SELECT routes.id, routes.customer_id, customers.name AS customer, account_id, accounts.name AS account,"
        " country, prefix, sender, upstreams FROM routes LEFT JOIN customers ON customers.id = routes.customer_id"
        " LEFT JOIN accounts ON accounts.id = account_id ORDER BY position"
    )
    listed = []
    for position, row in enumerate(map(dict, rows), start=1):
        stored = json.loads(row.pop("upstreams"))
        chosen = tuple(RouteUpstream(each["id"], names[each["id"]], each["weight"]) for each in stored)
        listed.append(Route(position=position, upstreams=chosen, **row))
    return listed


def get_route(conn: sqlite3.Connection, route_id: int) -> Route:
    """Raises: NoSuchRoute"""
    found = next((each for each in list_routes(conn) if each.id == route_id), None)
    return require_found(found, NoSuchRoute(route=route_id))


def create_route(
    conn: sqlite3.Connection,
    actor: Actor,
    upstreams_text: str,
    *,
    customer: Customer | None = None,
    account: Account | None = None,
    country: str | None = None,
    prefix: str | None = None,
    sender: str | None = None,
    before_id: int | None = None,
) -> Route:
    """Create a route. What of its conditions is None fits every message.

    Args:
        upstreams_text: see `parse_route_upstreams`.
        customer, account: whose messages; one of the two at most.
        country, prefix: where to, as typed: an ISO 3166 code, or first digits; one of the two at most.
        sender: as typed.
        before_id: the route in front of which it comes; None: it is the last.

    Raises:
        NoSuchRoute, CustomerAndAccountGiven, CountryAndPrefixGiven, InvalidRouteCountry, InvalidRoutePrefix
        those of `parse_route_upstreams` and of `senders.parse_sender`
    """
    if customer and account:
        raise CustomerAndAccountGiven()
    if country is not None and prefix is not None:
        raise CountryAndPrefixGiven()
    conditions = {
        "customer_id": customer and customer.id,
        "account_id": account and account.id,
        "country": None if country is None else _parse_country(country),
        "prefix": None if prefix is None else _parse_prefix(prefix),
        "sender": None if sender is None else senders.parse_sender(sender)[0],
    }
    with write_transaction(conn):
        chosen = parse_route_upstreams(conn, upstreams_text)
        stored = json.dumps([{"id": each.id, "weight": each.weight} for each in chosen])
        route_id = insert_row(conn, "routes", position=0, **conditions, upstreams=stored, created_at=now_ms())
        _store_position(conn, route_id, before_id)
        route = get_route(conn, route_id)
        _record_route_action(conn, actor, "route.add", route, before=before_id)
        return route


def move_route(conn: sqlite3.Connection, actor: Actor, route: Route, before_id: int | None = None) -> Route:
    """Put a route in front of another one, or last, and return it as it is then.

    Raises:
        NoSuchRoute: one of the two isn't there.
    """
    with write_transaction(conn):
        current = get_route(conn, route.id)
        if before_id != current.id:
            _store_position(conn, current.id, before_id)
        moved = get_route(conn, current.id)
        if moved.position != current.position:
            audit.record_action(conn, actor, "route.move", route=moved.id, before=before_id)
        return moved


def remove_route(conn: sqlite3.Connection, actor: Actor, route: Route) -> None:
    """Remove a route; what waits takes the way that it would take without it.

    Raises:
        NoSuchRoute: it was removed meanwhile.
    """
    with write_transaction(conn):
        if not conn.execute("DELETE FROM routes WHERE id = ?", (route.id,)).rowcount:
            raise NoSuchRoute(route=route.id)
        _record_route_action(conn, actor, "route.remove", route)


def _record_route_action(
    conn: sqlite3.Connection, actor: Actor, action: str, route: Route, **details: int | None
) -> None:
    conditions = {name: getattr(route, name) for name in ("customer", "account", "country", "prefix", "sender")}
    upstreams_text = format_route_upstreams(route.upstreams)
    audit.record_action(conn, actor, action, route=route.id, **conditions, upstreams=upstreams_text, **details)


def _store_position(conn: sqlite3.Connection, route_id: int, before_id: int | None) -> None:
    rows = conn.execute("SELECT id FROM routes WHERE id <> ? ORDER BY position", (route_id,))
    ids = [row[0] for row in rows]
    if before_id is not None and before_id not in ids:
        raise NoSuchRoute(route=before_id)
    ids.insert(len(ids) if before_id is None else ids.index(before_id), route_id)
    conn.executemany("UPDATE routes SET position = ?1 WHERE id = ?2 AND position <> ?1", [*enumerate(ids, start=1)])


# --- what is typed


def parse_route_upstreams(conn: sqlite3.Connection, text: str) -> tuple[RouteUpstream, ...]:
    """Read a route's upstreams: `A,B` (B where A fails), `A:70,B:30` (seven numbers of ten to A), `A:70,B:30,C`.

    Raises:
        InvalidRouteUpstreams, RepeatedRouteUpstream, InvalidRouteWeights, NoSuchUpstream
    """
    chosen: list[RouteUpstream] = []
    for part in text.split(","):
        match = _UPSTREAM_PATTERN.fullmatch(part.strip())
        if match is None or not 1 <= int(match[2] or 1) <= _MAX_WEIGHT:
            raise InvalidRouteUpstreams(text=text, limit=_MAX_WEIGHT)
        upstream = upstreams.get_upstream(conn, match[1].strip())
        if any(each.id == upstream.id for each in chosen):
            raise RepeatedRouteUpstream(name=upstream.name)
        chosen.append(RouteUpstream(upstream.id, upstream.name, int(match[2]) if match[2] else None))
    weighted_count = sum(each.weight is not None for each in chosen)
    if weighted_count == 1 or any(each.weight is None for each in chosen[:weighted_count]):
        raise InvalidRouteWeights(text=text)
    return tuple(chosen)


def format_route_upstreams(chosen: Iterable[RouteUpstream]) -> str:
    """What `parse_route_upstreams` reads."""
    return ",".join(each.name if each.weight is None else f"{each.name}:{each.weight}" for each in chosen)


def _parse_country(text: str) -> str:
    country = text.strip().upper()
    if country not in phonenumbers.SUPPORTED_REGIONS:
        raise InvalidRouteCountry(country=text)
    return country


def _parse_prefix(text: str) -> str:
    prefix = countries.strip_separators(text)
    is_prefix = prefix.isascii() and prefix.isdigit() and len(prefix) <= _MAX_PREFIX_DIGITS
    if not is_prefix or countries.find_prefix_country(prefix) is None:
        raise InvalidRoutePrefix(prefix=text)
    return prefix


# --- those that can never be reached: an earlier one takes all that they would take

# Whose messages, where to, and from which sender: what routes with the same three have in common.
_Conditions = tuple[_Scope, str, str]


def find_unreachable_routes(conn: sqlite3.Connection, routes: Sequence[Route]) -> dict[int, int]:
    """Find those that can't be reached because of one other route; that several together take all isn't seen.

    Args:
        routes: all, in their order.

    Returns:
        By the route's id the id of the first one that takes all of its messages before it.
    """
    named_countries = {each.country for each in routes if each.country is not None}
    customers_by_account = dict(conn.execute("SELECT id, customer_id FROM accounts").fetchall())
    first: dict[_Conditions, Route] = {}
    unreachable = {}
    for route in routes:
        conditions = _iterate_wider_conditions(route, customers_by_account, named_countries)
        wider = [first[each] for each in conditions if each in first]
        if wider:
            unreachable[route.id] = min(wider, key=lambda each: each.position).id
        own = ((route.customer_id, route.account_id), route.prefix or route.country or "", route.sender or "")
        first.setdefault(own, route)
    return unreachable


def _iterate_wider_conditions(
    route: Route, customers_by_account: Mapping[int, int], named_countries: Collection[str]
) -> Iterator[_Conditions]:
    """All conditions under which a route takes at least what this one takes, its own included."""
    scopes = [(None, None), (route.customer_id, route.account_id)]
    if route.account_id is not None:
        scopes.append((customers_by_account[route.account_id], None))
    for scope in scopes:
        for destination in _list_wider_destinations(route, named_countries):
            for sender in {"", route.sender or ""}:
                yield scope, destination, sender


def _list_wider_destinations(route: Route, named_countries: Collection[str]) -> list[str]:
    digits = route.prefix or (countries.get_first_digits(route.country) if route.country else "")
    destinations = [digits[:length] for length in range(len(digits) + 1)]
    if route.country is not None:
        destinations.append(route.country)
    else:
        country = countries.find_prefix_country(digits)
        # Asked only where it matters, as it may take milliseconds.
        if country is not None and country in named_countries and countries.is_prefix_of_country(digits, country):
            destinations.append(country)
    return destinations
