"""`route …`: which upstreams a message takes."""

from typing import Any

import click

from portal.cli.shell import CommandContext, CommandOutput, add_group, fields_to_dict, format_table, named_argument
from portal.core.clock import now_ms
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.messages import smpp_config, validation
from portal.services.people import customers
from portal.services.prices import countries, prices
from portal.services.routing import routes
from portal.services.routing.routes import NoRoute, Route, RouteDecision
from portal.services.upstreams import binds, upstreams
from portal.services.upstreams.health import FAILING

route_group = add_group("route", route=named_argument("ID", routes.get_route, type=int))

_before_option = click.option(
    "--before", "before_id", type=int, metavar="ID", help="In front of this route; without it, last."
)


@route_group.command("add", example="route add --customer Acme --country IT --upstream carrier:70,other:30,spare")
@click.option(
    "--upstream",
    "upstreams_text",
    required=True,
    metavar="NAME[:WEIGHT],…",
    help="A,B: B where A fails. A:70,B:30: they share the numbers. A:70,B:30,C: and C where both fail.",
)
@click.option("--customer", metavar="C", help="Only messages of this customer's accounts.")
@click.option("--account", "account_name", metavar="A", help="Only messages of this account.")
@click.option("--country", metavar="CC", help="Only to numbers of this country (ISO 3166, like IT).")
@click.option("--prefix", metavar="DIGITS", help="Only to numbers that begin with these digits (39340).")
@click.option("--sender", metavar="S", help="Only messages with this sender.")
@_before_option
def _create_route(
    context: CommandContext,
    *,
    upstreams_text: str,
    customer: str | None,
    account_name: str | None,
    before_id: int | None,
    **conditions: str | None,
) -> CommandOutput:
    """Add a route, the last one unless --before says else. The first that fits a message decides, and no other."""
    route = routes.create_route(
        context.conn,
        SHELL,
        upstreams_text,
        customer=None if customer is None else customers.get_customer(context.conn, customer),
        account=None if account_name is None else accounts.get_account(context.conn, account_name),
        before_id=before_id,
        **conditions,
    )
    return _describe_changed_route(context, route)


@route_group.command("move", example="route move 7 --before 3")
@_before_option
def _move_route(context: CommandContext, route: Route, *, before_id: int | None) -> CommandOutput:
    """Put one in front of another, or last."""
    return _describe_changed_route(context, routes.move_route(context.conn, SHELL, route, before_id))


@route_group.command("remove", example="route remove 7")
def _remove_route(context: CommandContext, route: Route) -> CommandOutput:
    """Remove one."""
    routes.remove_route(context.conn, SHELL, route)
    return CommandOutput({"id": route.id}, f"Route {route.id} removed ({_format_conditions(route)}).")


@route_group.command("list", example="route list")
def _list_routes(context: CommandContext) -> CommandOutput:
    """List all in their order, and which can't be reached."""
    listed = routes.list_routes(context.conn)
    unreachable = routes.find_unreachable_routes(context.conn, listed)
    rows = [
        (
            each.id,
            each.account or each.customer,
            each.prefix or each.country,
            each.sender,
            routes.format_route_upstreams(each.upstreams),
            f"never reached: route {unreachable[each.id]} takes all of it" if each.id in unreachable else "",
        )
        for each in listed
    ]
    default = next((each.name for each in upstreams.list_upstreams(context.conn) if each.is_default), None)
    table = format_table(("id", "account or customer", "to", "sender", "upstreams", ""), rows)
    rest = (
        f"What no route takes goes to the default upstream, {default}." if default else "There is no default upstream."
    )
    return CommandOutput(
        [_route_to_dict(each, unreachable) for each in listed], f"{table}\n{rest}" if rows else f"No route. {rest}"
    )


@route_group.command("test", example="route test smpp-acme-1 393401234567 ACME")
@click.argument("number", metavar="NUMBER")
@click.argument("sender", required=False, default="")
def _test_route(context: CommandContext, account: Account, number: str, sender: str) -> CommandOutput:
    """Say which upstreams a message would take, and why. Nothing is sent.

    Without a sender, routes that ask for one fit nothing.
    """
    digits = countries.parse_number_prefix(number, "number")
    country = countries.find_country(digits)
    if country is None:
        raise countries.InvalidPhoneNumber(number=number)
    decision = routes.load_route_table(context.conn).choose(account.id, digits, country, sender)
    names = upstreams.get_upstream_names(context.conn)
    chosen = [names[each] for each in decision.upstream_ids]
    reason = _explain_decision(context, decision, digits, chosen)
    reason += "".join(_explain_rest(context, each) for each in decision.upstream_ids)
    reason += _explain_refusal(context, account, digits, sender)
    if not countries.is_valid_number(digits):
        name = countries.get_country_name(country)
        reason += f" {digits} is like no known number of {name}: is its country code in front?"
    value = {"route": decision.route_id, "upstreams": chosen, "reason": reason}
    return CommandOutput(value, f"{', then '.join(chosen) or 'nowhere'}\n{reason}")


def _explain_decision(context: CommandContext, decision: RouteDecision, digits: str, chosen: list[str]) -> str:
    if decision.route_id is not None:
        route = routes.get_route(context.conn, decision.route_id)
        reason = f"Route {route.id} is the first that fits: {_format_conditions(route)}."
        sharing = [each.name for each in route.upstreams if each.weight is not None]
        return (
            f"{reason} Of {', '.join(sharing)}, which share, {digits} is always {chosen[0]}'s." if sharing else reason
        )
    if chosen:
        return f"No route fits, and {chosen[0]} is the default upstream."
    if upstreams.list_upstreams(context.conn):
        return f"{NoRoute(destination=digits)} It is refused (ESME_RINVDSTADR)."
    if upstreams.has_ever_had_upstream(context.conn):
        return "There is no upstream: messages wait."
    return "There is no upstream: messages go to the built-in simulator."


def _explain_rest(context: CommandContext, upstream_id: int) -> str:
    """Why an upstream gets nothing at this time, as a sentence; empty where it does, as far as it is bound."""
    state = binds.get_upstream_state(context.conn, upstream_id)
    upstream = state.upstream
    if upstream.enabled and not upstream.draining and state.health.state != FAILING:
        return ""
    why = "disabled" if not upstream.enabled else "being drained" if upstream.draining else state.health.state
    return f" {upstream.name} is {why}, and gets nothing at this time."


def _explain_refusal(context: CommandContext, account: Account, digits: str, sender: str) -> str:
    """Why the account's submit is refused whatever its route, as a sentence; empty where it isn't."""
    config = next(each for each in smpp_config.load_account_configs(context.conn) if each.id == account.id)
    price_list = prices.load_account_price_list(context.conn, account.id, now_ms())
    try:
        # Without a sender nothing is asked about it.
        if sender:
            validation.check_source(config, sender)
        validation.find_destination(config, price_list, digits)
    except validation.InvalidSource as refusal:
        return f" {refusal} It is refused all the same (ESME_RINVSRCADR)."
    except validation.InvalidDestination:
        return f" The price list of {account.name} has no price for it: it is refused all the same (ESME_RINVDSTADR)."
    return ""


def _describe_changed_route(context: CommandContext, route: Route) -> CommandOutput:
    unreachable = routes.find_unreachable_routes(context.conn, routes.list_routes(context.conn))
    # Those that this one is to blame for, and itself.
    warnings = [
        f"Route {each} can never be reached: route {earlier} takes all that it fits."
        for each, earlier in unreachable.items()
        if route.id in (each, earlier)
    ]
    upstreams_text = routes.format_route_upstreams(route.upstreams)
    return CommandOutput(
        _route_to_dict(route, unreachable),
        f"Route {route.id}, at place {route.position}: {_format_conditions(route)} → {upstreams_text}",
        " ".join(warnings),
    )


def _route_to_dict(route: Route, unreachable: dict[int, int]) -> dict[str, object]:
    return {
        **fields_to_dict(route, "id", "position", "customer", "account", "country", "prefix", "sender"),
        "upstreams": [fields_to_dict(each, "name", "weight") for each in route.upstreams],
        "unreachable_behind": unreachable.get(route.id),
    }


def _format_conditions(route: Route) -> str:
    conditions: dict[str, Any] = {
        "account": route.account,
        "customer": route.customer,
        "country": route.country,
        "first digits": route.prefix,
        "sender": route.sender,
    }
    return ", ".join(f"{name} {value}" for name, value in conditions.items() if value is not None) or "all messages"
