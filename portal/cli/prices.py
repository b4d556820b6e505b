"""`price …`: what a part costs."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from portal.cli.progress import show_progress
from portal.cli.shell import (
    CommandContext,
    CommandError,
    CommandOutput,
    Commands,
    add_command_group,
    add_database_command,
    format_table,
    format_timestamp,
)
from portal.core.clock import now_ms
from portal.core.db import write_transaction
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.common.csv_import import InvalidCsvLines
from portal.services.people import customers
from portal.services.prices import countries, price_csv, price_lists, prices
from portal.services.prices.price_lists import PriceListSummary
from portal.services.prices.prices import PriceChange, PriceRow

_DEFAULT_LIST_NAME = "default prices"
_FROM_HELP = "from when on: 2027-01-31 or 2027-01-31T08:00, in the installation's time zone; without it, at once"


def register_commands(commands: "Commands[ArgumentParser]") -> None:
    price = add_command_group(
        commands, "price", "price lists: credits a part, by country or by the first digits of numbers"
    )
    listing = add_database_command(price, "list", _list_prices, "show a list: what holds, and what is to come")
    put = add_database_command(price, "set", _set_price, "set a price")
    close = add_database_command(price, "close", _close_destination, "send nothing to a destination")
    remove = add_database_command(
        price, "remove", _remove_price, "let a list say nothing of a destination, or call a change off"
    )
    for each in (put, close, remove):
        each.add_argument("destination", metavar="DESTINATION", help="a country like IT, or first digits like 39342")
        each.add_argument("--from", dest="valid_from", default="", metavar="DATE", help=_FROM_HELP)
    put.add_argument("price", metavar="PRICE", help="credits a part, like 0.8")
    load = add_database_command(price, "import", _import_prices, "change prices as a CSV file says, all or none")
    load.add_argument("file", metavar="FILE", help="columns destination,price[,valid_from]; - reads stdin")
    load.add_argument("--dry-run", action="store_true", help="only say what would change")
    export = add_database_command(price, "export", _export_prices, "print a list as CSV, as import reads it")
    for each in (listing, put, close, remove, load, export):
        each.add_argument("--list", dest="price_list", metavar="NAME", help="another list than the default one")
    add_database_command(price, "lists", _list_price_lists, "show the lists")
    create = add_database_command(
        price, "create", _create_price_list, "make a list; it says what differs from the default one"
    )
    create.add_argument("name", metavar="NAME")
    rename = add_database_command(price, "rename", _rename_price_list, "rename a list")
    rename.add_argument("name", metavar="NAME")
    rename.add_argument("new_name", metavar="NEW-NAME")
    delete = add_database_command(price, "delete", _delete_price_list, "delete a list that no customer has")
    delete.add_argument("name", metavar="NAME")
    assign = add_database_command(
        price, "assign", _assign_price_list, "let a customer pay by a list, or again by the default one"
    )
    assign.add_argument("customer", metavar="CUSTOMER")
    assign.add_argument("name", metavar="NAME", nargs="?", help="without it, the default one")


# --- what a list says


def _list_prices(context: CommandContext, args: Namespace) -> CommandOutput:
    return _describe_prices(context, _get_price_list(context, args))


def _describe_prices(context: CommandContext, price_list: PriceListSummary, destination: str = "") -> CommandOutput:
    """A list, or one destination of it."""
    rows = [
        each
        for each in prices.list_price_rows(context.conn, price_list.id, now_ms())
        if destination in ("", each.destination)
    ]
    headings = ("destination", "country", "price", "said by", "to come")
    lines = [
        (
            each.destination,
            _format_country(each),
            _format_price(each.price) if each.in_force else "not yet",
            "" if not each.in_force else "this list" if each.own else "default",
            "; ".join(
                f"{_format_price(coming.price)} from {_format_date(context, coming.valid_from)}"
                for coming in each.scheduled
            ),
        )
        for each in rows
    ]
    return CommandOutput([_price_row_to_dict(each) for each in rows], format_table(headings, lines))


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


def _format_date(context: CommandContext, at: int) -> str:
    return prices.format_valid_from(at, context.config.timezone)


def _get_price_list(context: CommandContext, args: Namespace) -> PriceListSummary:
    if args.price_list is None:
        return price_lists.get_price_list_by_id(context.conn, price_lists.DEFAULT_LIST)
    return price_lists.get_price_list(context.conn, args.price_list)


# --- changing it


def _set_price(context: CommandContext, args: Namespace) -> CommandOutput:
    return _change_price(context, args, prices.parse_price(args.price))


def _close_destination(context: CommandContext, args: Namespace) -> CommandOutput:
    return _change_price(context, args, None)


def _change_price(context: CommandContext, args: Namespace, price: int | None) -> CommandOutput:
    price_list, destination = _get_price_list(context, args), prices.parse_destination(args.destination)
    timezone = context.config.timezone
    change = PriceChange(destination, price, prices.parse_valid_from(args.valid_from, timezone))
    prices.change_prices(context.conn, SHELL, price_list.id, [change], timezone)
    return _describe_prices(context, price_list, destination)


def _remove_price(context: CommandContext, args: Namespace) -> CommandOutput:
    price_list, destination = _get_price_list(context, args), prices.parse_destination(args.destination)
    valid_from = prices.parse_valid_from(args.valid_from, context.config.timezone)
    if valid_from is None:
        prices.remove_price(context.conn, SHELL, price_list.id, destination)
    else:
        prices.cancel_price_change(context.conn, SHELL, price_list.id, destination, valid_from)
    return _describe_prices(context, price_list, destination)


def _import_prices(context: CommandContext, args: Namespace) -> CommandOutput:
    content = sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()
    price_list, now = _get_price_list(context, args), now_ms()
    try:
        with show_progress("Import", "the prices are as they were") as progress, write_transaction(context.conn):
            plan = price_csv.plan_import(context.conn, price_list.id, content, context.config.timezone, now)
            if not args.dry_run:
                timezone = context.config.timezone
                price_csv.apply_import_plan(context.conn, SHELL, price_list.id, plan, timezone, now, progress)
    except InvalidCsvLines as refusal:
        raise CommandError(" ".join([refusal.localized(), *map(str, refusal.summarize_lines())])) from None
    value = {"new": len(plan.new), "changed": len(plan.changed), "unchanged": plan.unchanged_count}
    summary = ", ".join(f"{number} {name}" for name, number in value.items())
    return CommandOutput(value, f"{summary}; nothing was imported" if args.dry_run else summary)


def _export_prices(context: CommandContext, args: Namespace) -> CommandOutput:
    rows = prices.list_price_rows(context.conn, _get_price_list(context, args).id, now_ms())
    timezone = context.config.timezone
    text = price_csv.format_price_csv(rows, timezone).replace("\r\n", "\n").rstrip("\n")
    return CommandOutput(list(price_csv.iterate_price_lines(rows, timezone)), text)


# --- the lists


def _list_price_lists(context: CommandContext, args: Namespace) -> CommandOutput:
    return _describe_price_lists(price_lists.list_price_lists(context.conn))


def _describe_price_lists(lists: list[PriceListSummary]) -> CommandOutput:
    lines = [(each.name or _DEFAULT_LIST_NAME, each.customer_count, each.price_count) for each in lists]
    return CommandOutput(
        [_price_list_to_dict(each) for each in lists], format_table(("name", "customers", "own prices"), lines)
    )


def _price_list_to_dict(price_list: PriceListSummary) -> dict[str, object]:
    return {
        "name": price_list.name or None,
        "default": price_list.is_default,
        "customers": price_list.customer_count,
        "prices": price_list.price_count,
    }


def _create_price_list(context: CommandContext, args: Namespace) -> CommandOutput:
    price_list = price_lists.create_price_list(context.conn, SHELL, args.name)
    return CommandOutput(_price_list_to_dict(price_list), price_list.name)


def _rename_price_list(context: CommandContext, args: Namespace) -> CommandOutput:
    renamed = price_lists.rename_price_list(
        context.conn, SHELL, price_lists.get_price_list(context.conn, args.name).id, args.new_name
    )
    return CommandOutput(_price_list_to_dict(renamed), renamed.name)


def _delete_price_list(context: CommandContext, args: Namespace) -> CommandOutput:
    price_list = price_lists.get_price_list(context.conn, args.name)
    price_lists.delete_price_list(context.conn, SHELL, price_list.id)
    return CommandOutput(_price_list_to_dict(price_list), f"{price_list.name} deleted")


def _assign_price_list(context: CommandContext, args: Namespace) -> CommandOutput:
    customer = customers.get_customer(context.conn, args.customer)
    list_id = price_lists.DEFAULT_LIST if args.name is None else price_lists.get_price_list(context.conn, args.name).id
    price_list = price_lists.assign_price_list(context.conn, SHELL, customer, list_id)
    return CommandOutput(
        {"customer": customer.name, "price_list": price_list.name or None},
        f"{customer.name}  {price_list.name or _DEFAULT_LIST_NAME}",
    )
