"""Which way a message would go, and why: for those who look after routes, also with one that isn't saved yet."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from portal.core.clock import now_ms
from portal.core.i18n import N_, format_credits
from portal.services.accounts import refused_messages, session_records
from portal.services.accounts.accounts import Account
from portal.services.brakes import brakes
from portal.services.brakes.brakes import Brakes
from portal.services.common.addresses import normalize_address
from portal.services.messages import smpp_config, validation
from portal.services.prices import countries, prices
from portal.services.prices.prices import PriceList
from portal.services.routing.route_table import RouteDecision, RouteTable
from portal.services.routing.routes import NoRoute, Route, format_route_texts
from portal.services.statistics import daily_totals
from portal.services.upstreams import binds, holds, upstreams
from portal.services.upstreams.health import FAILING

Sentence = tuple[str, dict[str, Any]]
"""An English sentence, which is the key of its translation, and its parameters."""

_OBSTACLES = {
    "disabled": N_("%(upstream)s is disabled, and gets nothing at this time."),
    "draining": N_("%(upstream)s is being drained, and gets nothing at this time."),
    FAILING: N_("%(upstream)s is failing, and gets nothing at this time."),
    "unbound": N_("%(upstream)s is not connected, and gets nothing at this time."),
}
_MISMATCHES = {
    "account": N_("the account is another"),
    "customer": N_("the customer is another"),
    "country": N_("the country is another"),
    "prefix": N_("the first digits are others"),
    "sender": N_("the sender is another"),
}
# Of the routes before the one that fits so many are explained.
_MAX_EXPLAINED = 10


@dataclass(slots=True)
class MessageWay:
    """The way of a message.

    `route`: the one that decides; None: no route fits. `upstreams`: names, in the order in which they are tried.
    `mismatches`: why the routes before the one that decides don't fit, each as its id and the reason (English).
    `is_refused`: whether its submit is refused.
    """

    route: Route | None
    upstreams: list[str]
    sentences: list[Sentence] = field(default_factory=list)
    mismatches: list[tuple[int, str]] = field(default_factory=list)
    is_refused: bool = False

    def __str__(self) -> str:
        return " ".join(sentence % params for sentence, params in self.sentences)


def find_message_way(
    conn: sqlite3.Connection, account: Account, number: str, sender: str, listed: Sequence[Route]
) -> MessageWay:
    """Find which way a message would go.

    Args:
        number: as typed, with its country code.
        sender: empty: not known; routes that ask for one don't fit, and it is not looked whether it is allowed.
        listed: the routes, in their order; they need not be those that are stored.

    Raises:
        InvalidPhoneNumber, and what `countries.parse_number_prefix` does
    """
    digits = countries.parse_number_prefix(number, "number")
    country = countries.find_country(digits)
    if country is None:
        raise countries.InvalidPhoneNumber(field="number", number=number)
    default_id = next((each.id for each in upstreams.list_upstreams(conn) if each.is_default), None)
    table = RouteTable(listed, {account.id: account.customer_id}, default_id)
    decision = table.choose(account.id, digits, country, sender)
    names = upstreams.get_upstream_names(conn)
    route = next((each for each in listed if each.id == decision.route_id), None)
    way = MessageWay(route, [names[each] for each in decision.upstream_ids])
    way.sentences += _explain_decision(conn, way, digits)
    price_list = prices.load_account_price_list(conn, account.id, now_ms())
    sold = price_list.find_price(digits)
    if route is not None:
        way.sentences += _explain_options(route, sold)
    way.sentences += _explain_upstreams(conn, decision)
    in_force = brakes.get_brakes(conn, account.id).in_force
    way.sentences += _explain_hold_and_limit(conn, account, in_force)
    refusal = [
        *_explain_refusal(conn, account, price_list, digits, sender),
        *_explain_caps(conn, account, in_force, 0 if sold is None else sold[1]),
    ]
    way.sentences += refusal
    way.is_refused = bool(refusal) or not (way.upstreams or not upstreams.list_upstreams(conn))
    if not countries.is_valid_number(digits):
        sentence = N_("%(number)s is like no known number of %(country)s: is its country code in front?")
        way.sentences.append((sentence, {"number": digits, "country": countries.get_country_name(country)}))
    before = listed if route is None else listed[: route.position - 1]
    way.mismatches = [
        (each.id, _find_mismatch(each, account, digits, country, sender)) for each in before[:_MAX_EXPLAINED]
    ]
    return way


def _explain_decision(conn: sqlite3.Connection, way: MessageWay, digits: str) -> Iterator[Sentence]:
    if way.route is not None:
        sentence = N_("Route %(route)s is the first that fits: %(conditions)s.")
        if not way.route.id:
            sentence = N_("The new route is the first that fits: %(conditions)s.")
        yield sentence, {"route": way.route.id, "conditions": RouteConditions(way.route)}
        sharing = [each.name for each in way.route.upstreams if each.weight is not None]
        if sharing:
            yield (
                N_("Of %(upstreams)s, which share, %(number)s is always %(first)s's."),
                {
                    "upstreams": ", ".join(sharing),
                    "number": digits,
                    "first": way.upstreams[0],
                },
            )
    elif way.upstreams:
        yield N_("No route fits, and %(upstream)s is the default upstream."), {"upstream": way.upstreams[0]}
    elif upstreams.list_upstreams(conn):
        yield NoRoute.sentence, {"destination": digits}
        yield N_("It is refused (ESME_RINVDSTADR)."), {}
    elif upstreams.has_ever_had_upstream(conn):
        yield N_("There is no upstream: messages wait."), {}
    else:
        yield N_("There is no upstream: messages go to the built-in simulator."), {}


class RouteConditions:
    """What a route is for, in words; empty conditions are all messages."""

    _NAMES = (
        ("account", N_("account %(value)s")),
        ("customer", N_("customer %(value)s")),
        ("country", N_("country %(value)s")),
        ("prefix", N_("first digits %(value)s")),
        ("sender", N_("sender %(value)s")),
    )

    def __init__(self, route: Route) -> None:
        self.route = route

    def list_sentences(self) -> list[Sentence]:
        values = ((sentence, getattr(self.route, name)) for name, sentence in self._NAMES)
        return [(sentence, {"value": value}) for sentence, value in values if value is not None] or [
            (N_("all messages"), {})
        ]

    def __str__(self) -> str:
        return ", ".join(sentence % params for sentence, params in self.list_sentences())


def describe_options(route: Route) -> list[Sentence]:
    """What a route does beside its upstreams, in words."""
    texts = format_route_texts(route)
    said = (
        (N_("sender becomes %(sender)s"), {"sender": texts.replace_sender}),
        (N_("quiet %(hours)s"), {"hours": texts.quiet_hours}),
        (N_("bought at %(price)s"), {"price": texts.buying_price}),
    )
    return [(sentence, params) for sentence, params in said if None not in params.values()]


def _explain_options(route: Route, sold: tuple[str, int] | None) -> Iterator[Sentence]:
    """What a route does with a message, a part of which is `sold` so (country and price)."""
    if route.replace_sender:
        yield N_("The sender %(sender)s goes out in place of its own."), {"sender": route.replace_sender}
    if route.quiet_hours is not None:
        now = now_ms()
        sentence = N_("It goes at once, because quiet hours are only %(hours)s.")
        if route.quiet_hours.includes(now):
            sentence = N_("It waits, because quiet hours are %(hours)s.")
        yield sentence, {"hours": str(route.quiet_hours)}
    if route.buying_price is not None:
        sentence = N_("A part is bought for %(price)s credits and sold for %(sold)s.")
        if sold is None:
            sentence = N_("A part is bought for %(price)s credits.")
        amounts = {"price": route.buying_price, "sold": 0 if sold is None else sold[1]}
        yield sentence, {name: format_credits(amount) for name, amount in amounts.items()}


def _explain_upstreams(conn: sqlite3.Connection, decision: RouteDecision) -> Iterator[Sentence]:
    """Which upstreams get nothing at this time."""
    is_running = session_records.is_component_alive(conn, "smsc")
    for upstream_id in decision.upstream_ids:
        state = binds.get_upstream_state(conn, upstream_id)
        upstream = state.upstream
        if not upstream.enabled:
            why = "disabled"
        elif upstream.draining:
            why = "draining"
        elif state.health.state == FAILING:
            why = FAILING
        elif is_running and state.state in (binds.UNBOUND, binds.REFUSED):
            why = "unbound"
        else:
            continue
        yield _OBSTACLES[why], {"upstream": upstream.name}


def _explain_refusal(
    conn: sqlite3.Connection, account: Account, price_list: PriceList, digits: str, sender: str
) -> Iterator[Sentence]:
    """Why the account's submit is refused whatever its route."""
    (config,) = smpp_config.load_account_configs(conn, account_id=account.id)
    try:
        # Without a sender nothing is asked about it.
        if sender:
            validation.check_source(config, sender)
        validation.find_destination(config, price_list, digits)
    except validation.InvalidSource as refusal:
        yield refusal.sentence, refusal.params
        yield N_("It is refused all the same (ESME_RINVSRCADR)."), {}
    except validation.CountryNotAllowed as refusal:
        yield refusal.sentence, {"country": countries.get_country_name(refusal.country)}
        yield N_("It is refused all the same (ESME_RINVDSTADR)."), {}
    except validation.InvalidDestination:
        yield (
            N_("The price list of %(account)s has no price for it: it is refused all the same (ESME_RINVDSTADR)."),
            {"account": account.name},
        )


def _explain_hold_and_limit(conn: sqlite3.Connection, account: Account, in_force: Brakes) -> Iterator[Sentence]:
    if account.id in holds.list_held_account_ids(conn):
        yield N_("%(account)s is on hold: its messages wait until it is released."), {"account": account.name}
    limit = in_force.hour_messages
    if limit is not None:
        yield (
            N_("The account sends at most %(limit)s messages an hour to one number."),
            {"limit": brakes.format_limit(refused_messages.HOUR_MESSAGES, limit)},
        )


def _explain_caps(conn: sqlite3.Connection, account: Account, in_force: Brakes, price: int) -> Iterator[Sentence]:
    """Which limits of a day one more message is above, with one part that costs `price` (thousandths of a credit)."""
    today = daily_totals.sum_daily_totals(conn, account.id, 1)
    reached = [
        (name, limit)
        for name, wanted in (
            (refused_messages.DAY_MESSAGES, today.sent + 1),
            (refused_messages.DAY_CREDITS, today.price + price),
        )
        if (limit := getattr(in_force, name)) is not None and wanted > limit
    ]
    for name, limit in reached:
        yield brakes.LIMIT_TEXTS[name], {"limit": brakes.format_limit(name, limit)}
    if reached:
        yield N_("It is refused all the same (ESME_RSUBMITFAIL)."), {}


def _find_mismatch(route: Route, account: Account, digits: str, country: str, sender: str) -> str:
    """Why a route doesn't fit, as a part of a sentence, in English."""
    fits = {
        "account": route.account_id in (None, account.id),
        "customer": route.customer_id in (None, account.customer_id),
        "country": route.country in (None, country),
        "prefix": route.prefix is None or digits.startswith(route.prefix),
        "sender": route.sender in (None, normalize_address(sender)),
    }
    return next((_MISMATCHES[name] for name, is_fitting in fits.items() if not is_fitting), "")
