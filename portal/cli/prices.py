"""`price …`: what a part costs."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from portal.cli.shell import Answer, Commands, Failure, Shell, database_command, group, iso, table
from portal.core.clock import now_ms
from portal.core.db import immediate
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.common.csv_import import BadLines
from portal.services.people import customers
from portal.services.prices import countries, price_csv, price_lists, prices
from portal.services.prices.price_lists import NamedList
from portal.services.prices.prices import Change, Row

_DEFAULT = "default prices"
_FROM_HELP = "from when on: 2027-01-31 or 2027-01-31T08:00, in the installation's time zone; without it, at once"


def register(commands: "Commands[ArgumentParser]") -> None:
    price = group(commands, "price", "price lists: credits a part, by country or by the first digits of numbers")
    listing = database_command(price, "list", _list, "show a list: what holds, and what is to come")
    put = database_command(price, "set", _set, "set a price")
    close = database_command(price, "close", _close, "send nothing to a destination")
    remove = database_command(price, "remove", _remove, "let a list say nothing of a destination, or call a change off")
    for each in (put, close, remove):
        each.add_argument("destination", metavar="DESTINATION", help="a country like IT, or first digits like 39342")
        each.add_argument("--from", dest="valid_from", default="", metavar="DATE", help=_FROM_HELP)
    put.add_argument("price", metavar="PRICE", help="credits a part, like 0.8")
    load = database_command(price, "import", _import, "change prices as a CSV file says, all or none")
    load.add_argument("file", metavar="FILE", help="columns destination,price[,valid_from]; - reads stdin")
    load.add_argument("--dry-run", action="store_true", help="only say what would change")
    export = database_command(price, "export", _export, "print a list as CSV, as import reads it")
    for each in (listing, put, close, remove, load, export):
        each.add_argument("--list", dest="price_list", metavar="NAME", help="another list than the default one")
    database_command(price, "lists", _lists, "show the lists")
    create = database_command(price, "create", _create, "make a list; it says what differs from the default one")
    create.add_argument("name", metavar="NAME")
    rename = database_command(price, "rename", _rename, "rename a list")
    rename.add_argument("name", metavar="NAME")
    rename.add_argument("new_name", metavar="NEW-NAME")
    delete = database_command(price, "delete", _delete, "delete a list that no customer has")
    delete.add_argument("name", metavar="NAME")
    assign = database_command(price, "assign", _assign, "let a customer pay by a list, or again by the default one")
    assign.add_argument("customer", metavar="CUSTOMER")
    assign.add_argument("name", metavar="NAME", nargs="?", help="without it, the default one")


# --- what a list says


def _list(shell: Shell, args: Namespace) -> Answer:
    return _rows(shell, _chosen(shell, args))


def _rows(shell: Shell, price_list: NamedList, destination: str = "") -> Answer:
    """A list, or one destination of it."""
    found = [each for each in prices.rows(shell.conn, price_list.id, now_ms()) if destination in ("", each.destination)]
    head = ("destination", "country", "price", "said by", "to come")
    lines = [
        (
            each.destination,
            _country(each),
            _price(each.price) if each.holds else "not yet",
            "" if not each.holds else "this list" if each.own else "default",
            "; ".join(f"{_price(coming.price)} from {_date(shell, coming.valid_from)}" for coming in each.coming),
        )
        for each in found
    ]
    return Answer([_row(each) for each in found], table(head, lines))


def _row(row: Row) -> dict[str, object]:
    return {
        "destination": row.destination,
        "country": _country(row),
        "price": prices.in_credits(row.price),
        "own": row.own,
        "coming": [
            {"valid_from": iso(each.valid_from), "price": prices.in_credits(each.price), "own": each.own}
            for each in row.coming
        ],
    }


def _country(row: Row) -> str:
    return countries.name(row.country) if row.country else ""


def _price(price: int | None) -> str:
    return "closed" if price is None else str(credit_amounts.plain(price))


def _date(shell: Shell, at: int) -> str:
    return prices.written_date(at, shell.config.timezone)


def _chosen(shell: Shell, args: Namespace) -> NamedList:
    if args.price_list is None:
        return price_lists.by_id(shell.conn, price_lists.DEFAULT_LIST)
    return price_lists.by_name(shell.conn, args.price_list)


# --- changing it


def _set(shell: Shell, args: Namespace) -> Answer:
    return _change(shell, args, prices.parse_price(args.price))


def _close(shell: Shell, args: Namespace) -> Answer:
    return _change(shell, args, None)


def _change(shell: Shell, args: Namespace, price: int | None) -> Answer:
    price_list, destination = _chosen(shell, args), prices.checked_destination(args.destination)
    timezone = shell.config.timezone
    wanted = Change(destination, price, prices.parse_date(args.valid_from, timezone))
    prices.change(shell.conn, SHELL, price_list.id, [wanted], timezone)
    return _rows(shell, price_list, destination)


def _remove(shell: Shell, args: Namespace) -> Answer:
    price_list, destination = _chosen(shell, args), prices.checked_destination(args.destination)
    valid_from = prices.parse_date(args.valid_from, shell.config.timezone)
    if valid_from is None:
        prices.remove(shell.conn, SHELL, price_list.id, destination)
    else:
        prices.call_off(shell.conn, SHELL, price_list.id, destination, valid_from)
    return _rows(shell, price_list, destination)


def _import(shell: Shell, args: Namespace) -> Answer:
    content = sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()
    price_list, now = _chosen(shell, args), now_ms()
    try:
        with immediate(shell.conn):
            plan = price_csv.plan(shell.conn, price_list.id, content, shell.config.timezone, now)
            if not args.dry_run:
                price_csv.carry_out(shell.conn, SHELL, price_list.id, plan, shell.config.timezone, now)
    except BadLines as bad:
        raise Failure(" ".join([bad.localized(), *map(str, bad.shown())])) from None
    value = {"new": len(plan.new), "changed": len(plan.changed), "unchanged": plan.unchanged}
    said = ", ".join(f"{number} {name}" for name, number in value.items())
    return Answer(value, f"{said}; nothing was imported" if args.dry_run else said)


def _export(shell: Shell, args: Namespace) -> Answer:
    rows = prices.rows(shell.conn, _chosen(shell, args).id, now_ms())
    timezone = shell.config.timezone
    text = price_csv.write(rows, timezone).replace("\r\n", "\n").rstrip("\n")
    return Answer(list(price_csv.lines(rows, timezone)), text)


# --- the lists


def _lists(shell: Shell, args: Namespace) -> Answer:
    return _shown(price_lists.lists(shell.conn))


def _shown(found: list[NamedList]) -> Answer:
    lines = [(each.name or _DEFAULT, each.customers, each.prices) for each in found]
    return Answer([_named(each) for each in found], table(("name", "customers", "own prices"), lines))


def _named(price_list: NamedList) -> dict[str, object]:
    return {
        "name": price_list.name or None,
        "default": price_list.is_default,
        "customers": price_list.customers,
        "prices": price_list.prices,
    }


def _create(shell: Shell, args: Namespace) -> Answer:
    made = price_lists.create(shell.conn, SHELL, args.name)
    return Answer(_named(made), made.name)


def _rename(shell: Shell, args: Namespace) -> Answer:
    renamed = price_lists.rename(shell.conn, SHELL, price_lists.by_name(shell.conn, args.name).id, args.new_name)
    return Answer(_named(renamed), renamed.name)


def _delete(shell: Shell, args: Namespace) -> Answer:
    gone = price_lists.by_name(shell.conn, args.name)
    price_lists.delete(shell.conn, SHELL, gone.id)
    return Answer(_named(gone), f"{gone.name} deleted")


def _assign(shell: Shell, args: Namespace) -> Answer:
    customer = customers.by_name(shell.conn, args.customer)
    wanted = price_lists.DEFAULT_LIST if args.name is None else price_lists.by_name(shell.conn, args.name).id
    chosen = price_lists.assign(shell.conn, SHELL, customer, wanted)
    return Answer(
        {"customer": customer.name, "price_list": chosen.name or None}, f"{customer.name}  {chosen.name or _DEFAULT}"
    )
