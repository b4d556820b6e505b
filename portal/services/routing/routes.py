"""The list of routes: which upstreams messages take. The first by position that fits one decides; else the default
upstream.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from zlib import crc32

import phonenumbers

from portal.core.clock import now_ms
from portal.core.db import insert_row, write_transaction
from portal.core.i18n import N_, format_credits
from portal.services.accounts import accounts
from portal.services.common import audit, credit_amounts
from portal.services.common.audit import Actor
from portal.services.common.errors import NotFound, Refused, parse_whole_number, require_found
from portal.services.people import customers
from portal.services.prices import countries, prices
from portal.services.routing.quiet_hours import QuietHours, parse_quiet_hours, read_stored_quiet_hours
from portal.services.senders import senders
from portal.services.upstreams import upstreams

_MAX_WEIGHT = 1000
_MAX_PREFIX_DIGITS = 15
_WEIGHT_PATTERN = re.compile(r"[0-9]{1,9}")
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


class NoUpstreamChosen(InvalidRouteUpstreams):
    sentence = N_("A route leads to one upstream at least.")


class InvalidRouteShare(InvalidRouteUpstreams):
    sentence = N_("“%(text)s” can't be a share: a whole number from 1 to %(limit)s.")


class InvalidRoutePlace(Refused, field="place"):
    sentence = N_("“%(text)s” is no place in the list: a whole number from 1 to %(limit)s.")


class RepeatedRouteUpstream(Refused, field="upstreams"):
    sentence = N_("A route's upstreams name “%(name)s” twice.")


class InvalidRouteWeights(Refused, field="upstreams"):
    sentence = N_(
        "“%(text)s”: upstreams that share have weights, are two at least, and come first; those that only help out have"
        " none, and follow (A:70,B:30,C)."
    )


class RouteChanged(Refused):
    sentence = N_(
        "Somebody else has changed this route meanwhile, so nothing was done. What it says now stands above;"
        " do it again to replace that."
    )


class RoutesReordered(Refused):
    sentence = N_("Somebody else has changed the order meanwhile, so nothing was moved. Look at the list again.")


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

    `version` grows with each change. `replace_sender`: the sender that goes out instead of the customer's; while
    `quiet_hours` are, its messages wait. `buying_price`: what a part costs, in thousandths of a credit. Each may be
    None.
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
    replace_sender: str | None = None
    quiet_hours: QuietHours | None = None
    buying_price: int | None = None
    version: int = 1


@dataclass(frozen=True, slots=True)
class RouteTexts:
    """What a route says, as it is typed: names of customer and account, and for `upstreams` see
    `parse_route_upstreams`. None: it says nothing about that.
    """

    upstreams: str
    customer: str | None = None
    account: str | None = None
    country: str | None = None
    prefix: str | None = None
    sender: str | None = None
    replace_sender: str | None = None
    quiet_hours: str | None = None
    buying_price: str | None = None


# --- the list of them


def list_routes(conn: sqlite3.Connection) -> list[Route]:
    """All routes, in their order."""
    return _read_routes(conn)


def _read_routes(conn: sqlite3.Connection, route_id: int | None = None, first_place: int = 1) -> list[Route]:
    """All routes, or one alone, if there is such a one; `first_place`: where the first of these is."""
    names = upstreams.get_upstream_names(conn)

    # Of thousands of routes most have the same.
    @cache
    def read_upstreams(text: str) -> tuple[RouteUpstream, ...]:
        return tuple(RouteUpstream(each["id"], names[each["id"]], each["weight"]) for each in json.loads(text))

    read_quiet_hours = cache(read_stored_quiet_hours)
    rows = conn.execute(
        "SELECT routes.id, routes.customer_id, customers.name AS customer, account_id, accounts.name AS account,"
        " country, prefix, sender, upstreams, replace_sender, quiet_hours, buying_price, version"
        " FROM routes LEFT JOIN customers ON customers.id = routes.customer_id"
        f" LEFT JOIN accounts ON accounts.id = account_id {'' if route_id is None else 'WHERE routes.id = ?'}"
        " ORDER BY position",
        () if route_id is None else (route_id,),
    )
    listed = []
    for position, row in enumerate(map(dict, rows), start=first_place):
        chosen, quiet_text = read_upstreams(row.pop("upstreams")), row.pop("quiet_hours")
        quiet_hours = read_quiet_hours(quiet_text) if quiet_text else None
        listed.append(Route(position=position, upstreams=chosen, quiet_hours=quiet_hours, **row))
    return listed


def get_route(conn: sqlite3.Connection, route_id: int) -> Route:
    """Raises: NoSuchRoute"""
    # There may be thousands of others.
    (place,) = conn.execute(
        "SELECT count(*) FROM routes WHERE position <= (SELECT position FROM routes WHERE id = ?)", (route_id,)
    ).fetchone()
    return require_found(next(iter(_read_routes(conn, route_id, place)), None), NoSuchRoute(route=route_id))


def add_route(conn: sqlite3.Connection, actor: Actor, texts: RouteTexts, before_id: int | None = None) -> Route:
    """Create a route, in front of another one, or as the last. Raises: NoSuchRoute, and those of `parse_route`."""
    with write_transaction(conn):
        columns = _get_columns(parse_route(conn, texts))
        route_id = insert_row(conn, "routes", position=0, **columns, created_at=now_ms())
        _store_position(conn, route_id, before_id)
        route = get_route(conn, route_id)
        _record_route_action(conn, actor, "route.add", route, before=before_id)
        return route


def change_route(
    conn: sqlite3.Connection, actor: Actor, route_id: int, texts: RouteTexts, version: int | None = None
) -> Route:
    """Let a route say something else, in its place, and return it as it is then.

    Args:
        version: of the route from which `texts` were made; None: whatever it is.

    Raises:
        NoSuchRoute, RouteChanged, and those of `parse_route`
    """
    with write_transaction(conn):
        current = get_route(conn, route_id)
        if version is not None and version != current.version:
            raise RouteChanged()
        before, columns = _get_columns(current), _get_columns(parse_route(conn, texts))
        if columns == before:
            return current
        assignments = ", ".join(f"{name} = ?" for name in columns)
        conn.execute(
            f"UPDATE routes SET version = version + 1, {assignments} WHERE id = ?", (*columns.values(), route_id)
        )
        changed, old = get_route(conn, route_id), _get_recorded_values(current)
        was = {name: old[name] for name, value in _get_recorded_values(changed).items() if value != old[name]}
        _record_route_action(conn, actor, "route.change", changed, was=was)
        return changed


def _get_columns(route: Route) -> dict[str, object]:
    """What a route says, as it is stored."""
    stored = json.dumps([{"id": each.id, "weight": each.weight} for each in route.upstreams])
    return {
        **{name: getattr(route, name) for name in ("customer_id", "account_id", "country", "prefix", "sender")},
        "upstreams": stored,
        "replace_sender": route.replace_sender,
        "quiet_hours": route.quiet_hours and str(route.quiet_hours),
        "buying_price": route.buying_price,
    }


def move_route(
    conn: sqlite3.Connection, actor: Actor, route: Route, before_id: int | None = None, order: str | None = None
) -> Route:
    """Put a route in front of another one, or last, and return it as it is then.

    Args:
        order: what `fingerprint_order` said when this was chosen; None: whatever the order is.

    Raises:
        NoSuchRoute: one of the two isn't there.
        RoutesReordered
    """
    with write_transaction(conn):
        if order is not None and order != fingerprint_order(list_routes(conn)):
            raise RoutesReordered()
        current = get_route(conn, route.id)
        if before_id != current.id:
            _store_position(conn, current.id, before_id)
        moved = get_route(conn, current.id)
        if moved.position != current.position:
            audit.record_action(conn, actor, "route.move", route=moved.id, before=before_id)
        return moved


def remove_route(conn: sqlite3.Connection, actor: Actor, route: Route, version: int | None = None) -> None:
    """Remove a route; what waits takes the way that it would take without it.

    Args:
        version: of the route that somebody has looked at; None: whatever it is.

    Raises:
        NoSuchRoute: it was removed meanwhile.
        RouteChanged
    """
    with write_transaction(conn):
        if version is not None and get_route(conn, route.id).version != version:
            raise RouteChanged()
        if not conn.execute("DELETE FROM routes WHERE id = ?", (route.id,)).rowcount:
            raise NoSuchRoute(route=route.id)
        _record_route_action(conn, actor, "route.remove", route)


def fingerprint_order(listed: Iterable[Route]) -> str:
    """A few characters that are others where the routes, or their order, are others."""
    return f"{crc32(repr([each.id for each in listed]).encode()):08x}"


def _record_route_action(conn: sqlite3.Connection, actor: Actor, action: str, route: Route, **details: Any) -> None:
    values = _get_recorded_values(route)
    told = {name: value for name, value in values.items() if value is not None or name not in _OPTIONS}
    audit.record_action(conn, actor, action, route=route.id, **told, **details)


_OPTIONS = ("replace_sender", "quiet_hours", "buying_price")


def _get_recorded_values(route: Route) -> dict[str, Any]:
    """What a route says, as the audit log has it."""
    return {
        **{name: getattr(route, name) for name in ("customer", "account", "country", "prefix", "sender")},
        "upstreams": format_route_upstreams(route.upstreams),
        "replace_sender": route.replace_sender,
        "quiet_hours": route.quiet_hours and str(route.quiet_hours),
        "buying_price": route.buying_price and credit_amounts.credits_to_json_number(route.buying_price),
    }


def _store_position(conn: sqlite3.Connection, route_id: int, before_id: int | None) -> None:
    rows = conn.execute("SELECT id FROM routes WHERE id <> ? ORDER BY position", (route_id,))
    ids = [row[0] for row in rows]
    if before_id is not None and before_id not in ids:
        raise NoSuchRoute(route=before_id)
    ids.insert(len(ids) if before_id is None else ids.index(before_id), route_id)
    conn.executemany("UPDATE routes SET position = ?1 WHERE id = ?2 AND position <> ?1", [*enumerate(ids, start=1)])


# --- what is typed


def parse_route(conn: sqlite3.Connection, texts: RouteTexts) -> Route:
    """Read a route, which is in no list: its id and its position are 0.

    Raises:
        CustomerAndAccountGiven, CountryAndPrefixGiven, InvalidRouteCountry, InvalidRoutePrefix
        NoSuchCustomer, NoSuchAccount, InvalidQuietHours
        those of `parse_route_upstreams`, of `senders.parse_sender` and of `prices.parse_price`
    """
    if texts.customer is not None and texts.account is not None:
        raise CustomerAndAccountGiven()
    if texts.country is not None and texts.prefix is not None:
        raise CountryAndPrefixGiven()
    customer = None if texts.customer is None else customers.get_customer(conn, texts.customer)
    account = None if texts.account is None else accounts.get_account(conn, texts.account)
    return Route(
        0,
        0,
        customer.id if customer else None,
        customer.name if customer else None,
        account.id if account else None,
        account.name if account else None,
        None if texts.country is None else _parse_country(texts.country),
        None if texts.prefix is None else _parse_prefix(texts.prefix),
        _parse_sender(texts.sender, "sender"),
        parse_route_upstreams(conn, texts.upstreams),
        _parse_sender(texts.replace_sender, "replace_sender"),
        None if texts.quiet_hours is None else parse_quiet_hours(texts.quiet_hours),
        None if texts.buying_price is None else _parse_buying_price(texts.buying_price),
    )


def format_route_texts(route: Route) -> RouteTexts:
    """What a route says, as `parse_route` reads it in the language in use."""
    return RouteTexts(
        format_route_upstreams(route.upstreams),
        route.customer,
        route.account,
        route.country,
        route.prefix,
        route.sender,
        route.replace_sender,
        None if route.quiet_hours is None else str(route.quiet_hours),
        None if route.buying_price is None else format_credits(route.buying_price),
    )


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


def join_route_upstreams(chosen: Iterable[tuple[str, str]]) -> str:
    """What `parse_route_upstreams` reads, of the names of upstreams, each with its weight as typed, or nothing.

    Raises:
        NoUpstreamChosen, InvalidRouteShare
    """
    parts = []
    for name, weight in chosen:
        if weight and not (_WEIGHT_PATTERN.fullmatch(weight) and 1 <= int(weight) <= _MAX_WEIGHT):
            raise InvalidRouteShare(text=weight, limit=_MAX_WEIGHT)
        parts.append(f"{name}:{weight}" if weight else name)
    if not parts:
        raise NoUpstreamChosen()
    return ",".join(parts)


def find_route_at_place(listed: Sequence[Route], route_id: int, text: str) -> int | None:
    """The route in front of which another one comes at a place, as typed, from 1; None: it is the last.

    Args:
        route_id: the other one's; 0: it is in no list yet.

    Raises:
        InvalidRoutePlace
    """
    ids = [each.id for each in listed if each.id != route_id]
    place = parse_whole_number(text, refusal := InvalidRoutePlace(text=text, limit=len(ids) + 1))
    if not 1 <= place <= len(ids) + 1:
        raise refusal
    return ids[place - 1] if place <= len(ids) else None


def place_route(listed: Sequence[Route], route: Route, before_id: int | None) -> list[Route]:
    """The list as it would be with a route, in place of the one with its id, in front of another one or as the last."""
    others = [each for each in listed if each.id != route.id]
    ids = [each.id for each in others]
    others.insert(len(others) if before_id is None else ids.index(before_id), route)
    return [replace(each, position=position) for position, each in enumerate(others, start=1)]


def format_route_upstreams(chosen: Iterable[RouteUpstream]) -> str:
    """What `parse_route_upstreams` reads."""
    return ",".join(each.name if each.weight is None else f"{each.name}:{each.weight}" for each in chosen)


def _parse_sender(text: str | None, field: str) -> str | None:
    try:
        return None if text is None else senders.parse_sender(text)[0]
    except Refused as refusal:
        refusal.field = field
        raise


def _parse_buying_price(text: str) -> int:
    try:
        return prices.check_price(credit_amounts.parse_amount(text))
    except Refused as refusal:
        refusal.field = "buying_price"
        raise


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
