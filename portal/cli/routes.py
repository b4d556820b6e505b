"""`route …`: which upstreams a message takes."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import click

from portal.cli.months import month_option, parse_month_option
from portal.cli.shell import (
    CommandContext,
    CommandOutput,
    add_group,
    fields_to_dict,
    format_table,
    list_rows,
    named_argument,
)
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.messages import message_ways
from portal.services.messages.message_ways import RouteConditions
from portal.services.routing import route_usage, routes
from portal.services.routing.routes import Route, RouteTexts
from portal.services.routing.unreachable_routes import find_unreachable_routes
from portal.services.statistics import months
from portal.services.upstreams import upstreams

route_group = add_group("route", route=named_argument("ID", routes.get_route, type=int))

_before_option = click.option(
    "--before", "before_id", type=int, metavar="ID", help="In front of this route; without it, last."
)


_OPTIONS = (
    click.option("--customer", metavar="C", help="Only messages of this customer's accounts."),
    click.option("--account", "account", metavar="A", help="Only messages of this account."),
    click.option("--country", metavar="CC", help="Only to numbers of this country (ISO 3166, like IT)."),
    click.option("--prefix", metavar="DIGITS", help="Only to numbers that begin with these digits (39340)."),
    click.option("--sender", metavar="S", help="Only messages with this sender."),
    click.option("--replace-sender", metavar="S", help="What goes out as their sender, in place of their own."),
    click.option("--quiet-hours", metavar="T", help="When they wait, each day: '22:00-08:00 Europe/Rome'."),
    click.option("--buying-price", metavar="N", help="What a part costs you, in credits (0.7)."),
)
_TAKEN_AWAY = [each.name.replace("_", "-") for each in fields(RouteTexts) if each.name != "upstreams"]


def _add_options(*, is_new: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what gives a command the options of what a route says."""
    upstreams_option = click.option(
        "--upstream",
        "upstreams",
        required=is_new,
        metavar="NAME[:WEIGHT],…",
        help="A,B: B where A fails. A:70,B:30: they share the numbers. A:70,B:30,C: and C where both fail.",
    )

    def add_options(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in (*reversed(_OPTIONS), upstreams_option):
            command = option(command)
        return command

    return add_options


@route_group.command("add", example="route add --customer Acme --country IT --upstream carrier:70,other:30,spare")
@_add_options(is_new=True)
@_before_option
def _create_route(
    context: CommandContext, *, upstreams: str, before_id: int | None, **texts: str | None
) -> CommandOutput:
    """Add a route, the last one unless --before says else. The first that fits a message decides, and no other."""
    return _describe_changed_route(
        context, routes.add_route(context.conn, SHELL, RouteTexts(upstreams, **texts), before_id)
    )


@route_group.command("change", example="route change 7 --upstream other,carrier --without sender")
@_add_options(is_new=False)
@click.option(
    "--without",
    "taken_away",
    multiple=True,
    type=click.Choice(_TAKEN_AWAY),
    help="Take this away; can be given several times.",
)
def _change_route(
    context: CommandContext, route: Route, *, taken_away: tuple[str, ...], **texts: str | None
) -> CommandOutput:
    """Let one say something else, in its place. What isn't given stays as it is."""
    given: dict[str, Any] = {name: text for name, text in texts.items() if text is not None}
    given |= {name.replace("-", "_"): None for name in taken_away}
    changed = replace(routes.format_route_texts(route), **given)
    return _describe_changed_route(context, routes.change_route(context.conn, SHELL, route.id, changed, route.version))


@route_group.command("move", example="route move 7 --before 3")
@_before_option
def _move_route(context: CommandContext, route: Route, *, before_id: int | None) -> CommandOutput:
    """Put one in front of another, or last."""
    return _describe_changed_route(context, routes.move_route(context.conn, SHELL, route, before_id))


@route_group.command("remove", example="route remove 7")
def _remove_route(context: CommandContext, route: Route) -> CommandOutput:
    """Remove one."""
    routes.remove_route(context.conn, SHELL, route)
    return CommandOutput({"id": route.id}, f"Route {route.id} removed ({RouteConditions(route)}).")


@route_group.command("list", example="route list")
def _list_routes(context: CommandContext) -> CommandOutput:
    """List all in their order, and which can't be reached."""
    listed = routes.list_routes(context.conn)
    unreachable = find_unreachable_routes(context.conn, listed)
    rows = [
        (
            each.id,
            each.account or each.customer,
            each.prefix or each.country,
            each.sender,
            routes.format_route_upstreams(each.upstreams),
            ", ".join(sentence % params for sentence, params in message_ways.describe_options(each)),
            f"never reached: route {unreachable[each.id]} takes all of it" if each.id in unreachable else "",
        )
        for each in listed
    ]
    default = next((each.name for each in upstreams.list_upstreams(context.conn) if each.is_default), None)
    table = format_table(("id", "account or customer", "to", "sender", "upstreams", "also", ""), rows)
    rest = (
        f"What no route takes goes to the default upstream, {default}." if default else "There is no default upstream."
    )
    return CommandOutput(
        [_route_to_dict(each, unreachable) for each in listed], f"{table}\n{rest}" if rows else f"No route. {rest}"
    )


@route_group.command("usage", example="route usage --month 2026-11")
@month_option
def _show_usage(context: CommandContext, *, month: str | None) -> CommandOutput:
    """Say what went by each in a month (UTC), by country, with what it was charged, has cost, and left."""
    listed = route_usage.list_route_usage(context.conn, parse_month_option(month))
    rows: list[dict[str, object]] = [
        {
            "month": months.format_month(each.month),
            "route": each.route_id or None,
            **fields_to_dict(each, "country", "messages", "parts"),
            "credits": credit_amounts.credits_to_json_number(each.price),
            "cost": None if each.margin is None else credit_amounts.credits_to_json_number(each.cost),
            "margin": None if each.margin is None else credit_amounts.credits_to_json_number(each.margin),
        }
        for each in listed
    ]
    return list_rows(rows, ("month", "route", "country", "messages", "parts", "credits", "cost", "margin"))


@route_group.command("test", example="route test smpp-acme-1 393401234567 ACME")
@click.argument("number", metavar="NUMBER")
@click.argument("sender", required=False, default="")
def _test_route(context: CommandContext, account: Account, number: str, sender: str) -> CommandOutput:
    """Say which upstreams a message would take, and why. Nothing is sent.

    Without a sender, routes that ask for one fit nothing.
    """
    way = message_ways.find_message_way(context.conn, account, number, sender, routes.list_routes(context.conn))
    value = {"route": way.route and way.route.id, "upstreams": way.upstreams, "reason": str(way)}
    return CommandOutput(value, f"{', then '.join(way.upstreams) or 'nowhere'}\n{way}")


def _describe_changed_route(context: CommandContext, route: Route) -> CommandOutput:
    unreachable = find_unreachable_routes(context.conn, routes.list_routes(context.conn))
    # Those that this one is to blame for, and itself.
    warnings = [
        f"Route {each} can never be reached: route {earlier} takes all that it fits."
        for each, earlier in unreachable.items()
        if route.id in (each, earlier)
    ]
    upstreams_text = routes.format_route_upstreams(route.upstreams)
    return CommandOutput(
        _route_to_dict(route, unreachable),
        f"Route {route.id}, at place {route.position}: {RouteConditions(route)} → {upstreams_text}",
        " ".join(warnings),
    )


def _route_to_dict(route: Route, unreachable: dict[int, int]) -> dict[str, object]:
    return {
        **fields_to_dict(route, "id", "position", "customer", "account", "country", "prefix", "sender"),
        "upstreams": [fields_to_dict(each, "name", "weight") for each in route.upstreams],
        "unreachable_behind": unreachable.get(route.id),
        "replace_sender": route.replace_sender,
        "quiet_hours": route.quiet_hours and str(route.quiet_hours),
        "buying_price": route.buying_price and credit_amounts.credits_to_json_number(route.buying_price),
    }
