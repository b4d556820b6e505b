"""Routes that can never be reached: an earlier one takes all that they would take."""

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence

from portal.services.prices import countries
from portal.services.routing.routes import Route

_Scope = tuple[int | None, int | None]
# Whose messages, where to, and from which sender: what routes with the same three have in common.
_Conditions = tuple[_Scope, str, str]


def find_unreachable_routes(
    conn: sqlite3.Connection, routes: Sequence[Route], asked: Sequence[Route] | None = None
) -> dict[int, int]:
    """Find those that can't be reached because of one other route; that several together take all isn't seen.

    Args:
        routes: all, in their order.
        asked: those of them that are looked at; None: all.

    Returns:
        By the route's id the id of the first one that takes all of its messages before it.
    """
    named_countries = {each.country for each in routes if each.country is not None}
    looked_at = routes if asked is None else asked
    # Of accounts there may be thousands, and no more than some have routes of their own.
    rows = conn.execute(
        "SELECT id, customer_id FROM accounts WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps([each.account_id for each in looked_at if each.account_id is not None]),),
    )
    customers_by_account = dict(rows.fetchall())
    first: dict[_Conditions, Route] = {}
    for route in routes:
        own = ((route.customer_id, route.account_id), route.prefix or route.country or "", route.sender or "")
        first.setdefault(own, route)
    unreachable = {}
    for route in looked_at:
        conditions = _iterate_wider_conditions(route, customers_by_account, named_countries)
        widest = min((first[each] for each in conditions if each in first), key=lambda each: each.position)
        # It is among them itself, unless another one says the same.
        if widest.position < route.position:
            unreachable[route.id] = widest.id
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
