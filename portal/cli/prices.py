"""`price …`: what a part costs."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from portal.cli.groups import CommandError
from portal.cli.progress import show_progress
from portal.cli.shell import (
    CommandContext,
    CommandOutput,
    add_group,
    format_table,
    format_timestamp,
    list_rows,
    named_argument,
)
from portal.core.clock import now_ms
from portal.core.db import write_transaction
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.common.csv_import import InvalidCsvLines
from portal.services.people import customers
from portal.services.people.customers import Customer
from portal.services.prices import countries, price_csv, price_lists, prices
from portal.services.prices.price_lists import PriceListSummary
from portal.services.prices.prices import PriceChange, PriceRow

_DEFAULT_LIST_NAME = "default prices"

price_group = add_group("price")


def _list_option(run: Callable[..., CommandOutput]) -> Callable[..., CommandOutput]:
    """The function is called with the `price_list` that `--list` names."""

    @wraps(run)
    def run_with_list(context: CommandContext, *, list_name: str | None, **params: Any) -> CommandOutput:
        return run(context, price_list=_get_price_list(context, list_name), **params)

    return click.option("--list", "list_name", metavar="NAME", help="Another list than the default one.")(run_with_list)


def _get_price_list(context: CommandContext, name: str | None) -> PriceListSummary:
    if name is None:
        return price_lists.get_price_list_by_id(context.conn, price_lists.DEFAULT_LIST)
    return price_lists.get_price_list(context.conn, name)


# A country like IT, or first digits like 39342.
_destination_argument = click.argument("destination", type=prices.parse_destination, metavar="DESTINATION")
_from_option = click.option(
    "--from",
    "valid_from_text",
    default="",
    metavar="DATE",
    help="From when on: 2027-01-31 or 2027-01-31T08:00, in the installation's time zone; without it, at once.",
)
_list_argument = named_argument("NAME", price_lists.get_price_list)


# --- what a list says


@price_group.command("list", example="price list --list Resellers")
@_list_option
def _list_prices(context: CommandContext, price_list: PriceListSummary) -> CommandOutput:
    """Show a list: what holds, and what is to come."""
    return _describe_prices(context, price_list)


def _describe_prices(context: CommandContext, price_list: PriceListSummary, destination: str = "") -> CommandOutput:
    """A list, or one destination of it."""
    rows = [
        each
        for each in prices.list_price_rows(context.conn, price_list.id, now_ms())
        if destination in ("", each.destination)
    ]
    timezone = context.config.timezone
    lines = [
        (
            each.destination,
            _format_country(each),
            _format_price(each.price) if each.in_force else "not yet",
            "" if not each.in_force else "this list" if each.own else "default",
            "; ".join(
                f"{_format_price(coming.price)} from {prices.format_valid_from(coming.valid_from, timezone)}"
                for coming in each.scheduled
            ),
        )
        for each in rows
    ]
    table = format_table(("destination", "country", "price", "said by", "to come"), lines)
    return CommandOutput([_price_row_to_dict(each) for each in rows], table)


def _price_row_to_dict(row: PriceRow) -> dict[str, object]:
    return {
        "destination": row.destination,
        "country": _format_country(row),
        "price": prices.price_to_credits(row.price),
        "own": row.own,
        "coming": [
            {
                "valid_from": format_timestamp(each.valid_from),
                "price": prices.price_to_credits(each.price),
                "own": each.own,
            }
            for each in row.scheduled
        ],
    }


def _format_country(row: PriceRow) -> str:
    return countries.get_country_name(row.country) if row.country else ""


def _format_price(price: int | None) -> str:
    return "closed" if price is None else str(credit_amounts.credits_to_json_number(price))


# --- changing it


@price_group.command("set", example="price set IT 0.8 --from 2027-01-31")
@_destination_argument
@click.argument("price", type=prices.parse_price, metavar="PRICE")
@_from_option
@_list_option
def _set_price(context: CommandContext, **change: Any) -> CommandOutput:
    """Set a price, in credits a part, of a country like IT or of first digits like 39342."""
    return _change_price(context, **change)


@price_group.command("close", example="price close 39342")
@_destination_argument
@_from_option
@_list_option
def _close_destination(context: CommandContext, **change: Any) -> CommandOutput:
    """Send nothing to a destination."""
    return _change_price(context, price=None, **change)


def _change_price(
    context: CommandContext, price_list: PriceListSummary, destination: str, price: int | None, valid_from_text: str
) -> CommandOutput:
    timezone = context.config.timezone
    change = PriceChange(destination, price, prices.parse_valid_from(valid_from_text, timezone))
    prices.change_prices(context.conn, SHELL, price_list.id, [change], timezone)
    return _describe_prices(context, price_list, destination)


@price_group.command("remove", example="price remove IT --from 2027-01-31")
@_destination_argument
@_from_option
@_list_option
def _remove_price(
    context: CommandContext, price_list: PriceListSummary, destination: str, valid_from_text: str
) -> CommandOutput:
    """Let a list say nothing of a destination, or call a change off."""
    valid_from = prices.parse_valid_from(valid_from_text, context.config.timezone)
    prices.remove_price(context.conn, SHELL, price_list.id, destination, valid_from)
    return _describe_prices(context, price_list, destination)


@price_group.command("import", example="price import prices.csv --dry-run")
@click.argument("file", metavar="FILE", type=click.Path(readable=False, allow_dash=True))
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@_list_option
def _import_prices(context: CommandContext, price_list: PriceListSummary, file: str, *, dry_run: bool) -> CommandOutput:
    """Change prices as a CSV file says, all or none: columns destination,price[,valid_from]; - reads stdin."""
    content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    timezone, now = context.config.timezone, now_ms()
    try:
        with show_progress("Import", "the prices are as they were") as progress, write_transaction(context.conn):
            plan = price_csv.plan_import(context.conn, price_list.id, content, timezone, now)
            if not dry_run:
                prices.change_prices(
                    context.conn, SHELL, price_list.id, plan.changes, timezone, now=now, progress=progress
                )
    except InvalidCsvLines as refusal:
        raise CommandError(" ".join([refusal.localized(), *map(str, refusal.summarize_lines())])) from None
    value = {"new": len(plan.new), "changed": len(plan.changed), "unchanged": plan.unchanged_count}
    summary = ", ".join(f"{number} {name}" for name, number in value.items())
    return CommandOutput(value, f"{summary}; nothing was imported" if dry_run else summary)


@price_group.command("export", example="price export --list Resellers")
@_list_option
def _export_prices(context: CommandContext, price_list: PriceListSummary) -> CommandOutput:
    """Print a list as CSV, as import reads it."""
    rows, timezone = prices.list_price_rows(context.conn, price_list.id, now_ms()), context.config.timezone
    text = price_csv.format_price_csv(rows, timezone).replace("\r\n", "\n").rstrip("\n")
    return CommandOutput(list(price_csv.iterate_price_lines(rows, timezone)), text)


# --- the lists


@price_group.command("lists", example="price lists")
def _list_price_lists(context: CommandContext) -> CommandOutput:
    """Show the lists."""
    return list_rows(
        [_price_list_to_dict(each) for each in price_lists.list_price_lists(context.conn)],
        ("name", "customers", "own prices"),
        lambda row: {"name": row["name"] or _DEFAULT_LIST_NAME, "own prices": row["prices"]},
    )


def _price_list_to_dict(price_list: PriceListSummary) -> dict[str, object]:
    return {
        "name": price_list.name or None,
        "default": price_list.is_default,
        "customers": price_list.customer_count,
        "prices": price_list.price_count,
    }


@price_group.command("create", example="price create Resellers")
@click.argument("name", metavar="NAME")
def _create_price_list(context: CommandContext, name: str) -> CommandOutput:
    """Make a list; it says what differs from the default one."""
    price_list = price_lists.create_price_list(context.conn, SHELL, name)
    return CommandOutput(_price_list_to_dict(price_list), price_list.name)


@price_group.command("rename", example="price rename Resellers Partners")
@_list_argument
@click.argument("new_name", metavar="NEW-NAME")
def _rename_price_list(context: CommandContext, price_list: PriceListSummary, new_name: str) -> CommandOutput:
    """Rename a list."""
    renamed = price_lists.rename_price_list(context.conn, SHELL, price_list.id, new_name)
    return CommandOutput(_price_list_to_dict(renamed), renamed.name)


@price_group.command("delete", example="price delete Partners")
@_list_argument
def _delete_price_list(context: CommandContext, price_list: PriceListSummary) -> CommandOutput:
    """Delete a list that no customer has."""
    price_lists.delete_price_list(context.conn, SHELL, price_list.id)
    return CommandOutput(_price_list_to_dict(price_list), f"{price_list.name} deleted")


@price_group.command("assign", example="price assign Acme Resellers")
@named_argument("CUSTOMER", customers.get_customer)
@click.argument("name", metavar="[NAME]", required=False)
def _assign_price_list(context: CommandContext, customer: Customer, name: str | None) -> CommandOutput:
    """Let a customer pay by a list, or without NAME again by the default one."""
    price_list = price_lists.assign_price_list(context.conn, SHELL, customer, _get_price_list(context, name).id)
    return CommandOutput(
        {"customer": customer.name, "price_list": price_list.name or None},
        f"{customer.name}  {price_list.name or _DEFAULT_LIST_NAME}",
    )
