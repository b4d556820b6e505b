"""`simulate …`, `route …` and `blacklist …`: messages from handsets (MO)."""

import csv
import sys
from argparse import ArgumentParser, Namespace
from io import StringIO
from pathlib import Path

from portal.cli.shell import Answer, Commands, Failure, Shell, database_command, group, iso, table
from portal.services.accounts import accounts, session_records
from portal.services.common.audit import SHELL
from portal.services.common.csv_import import BadLines
from portal.services.messages import blacklist, inbound, inbound_numbers
from portal.services.messages.blacklist import Listed
from portal.services.messages.inbound_numbers import Route


def register(commands: "Commands[ArgumentParser]") -> None:
    _register_simulate(commands)
    _register_route(commands)
    _register_blacklist(commands)


# --- simulate


def _register_simulate(commands: "Commands[ArgumentParser]") -> None:
    simulate = group(commands, "simulate", "what the built-in upstream makes up")
    mo = database_command(simulate, "mo", _mo, "a message from a handset, to a number or short code of an account")
    mo.add_argument("--from", dest="source", required=True, metavar="NUMBER", help="the handset's, with country code")
    mo.add_argument("--to", dest="destination", required=True, metavar="NUMBER", help="a number, or a short code")
    mo.add_argument("text", metavar="TEXT")


def _mo(shell: Shell, args: Namespace) -> Answer:
    found = inbound.simulate(shell.conn, args.source, args.destination, args.text)
    all_names = {each.id: each.name for each in accounts.of_customer(shell.conn)}
    names = [all_names[each] for each in found.account_ids]
    running = session_records.alive(shell.conn, "smsc")
    whom = ", ".join(names)
    lines = [f"For {whom}. It waits seven days for a receiver or transceiver to accept it."]
    if found.stops:
        lines.append(f"It asks for no more messages: {args.source} goes on the blacklist of {whom}.")
    if not running:
        lines.append("The SMPP server isn't running: it takes the message when it starts.")
    value = {"accounts": names, "keyword": found.keyword, "stop": found.stops, "running": running}
    return Answer(value, "\n".join(lines))


# --- route


def _register_route(commands: "Commands[ArgumentParser]") -> None:
    route = group(commands, "route", "numbers and short codes that reach an account")
    for name, run, help in (
        ("add", _add_route, "let what is sent to a number reach an account"),
        ("remove", _remove_route, "let it reach the account no more"),
    ):
        about = database_command(route, name, run, help)
        about.add_argument("account", metavar="ACCOUNT")
        about.add_argument("number", metavar="NUMBER")
        about.add_argument("--keyword", default="", metavar="WORD", help="only what begins with it; without: the rest")
    listed = database_command(route, "list", _list_routes, "list them")
    listed.add_argument("account", metavar="ACCOUNT")


def _add_route(shell: Shell, args: Namespace) -> Answer:
    account = accounts.by_name(shell.conn, args.account)
    added = inbound_numbers.add(shell.conn, SHELL, account, args.number, args.keyword)
    return Answer(_route(added), f"What is sent to {added} reaches {account.name}.")


def _remove_route(shell: Shell, args: Namespace) -> Answer:
    account = accounts.by_name(shell.conn, args.account)
    removed = inbound_numbers.remove(shell.conn, SHELL, account, args.number, args.keyword)
    return Answer(_route(removed), f"{removed} removed")


def _list_routes(shell: Shell, args: Namespace) -> Answer:
    found = inbound_numbers.of_account(shell.conn, accounts.by_name(shell.conn, args.account).id)
    rows = [(each.number, each.keyword) for each in found]
    return Answer([_route(each) for each in found], table(("number", "keyword"), rows))


def _route(route: Route) -> dict[str, object]:
    return {"number": route.number, "keyword": route.keyword}


# --- blacklist


def _register_blacklist(commands: "Commands[ArgumentParser]") -> None:
    listing = group(commands, "blacklist", "numbers that get no messages of an account, most because they said STOP")
    for name, run, help in (
        ("add", _add_number, "put a number on it"),
        ("remove", _remove_number, "take a number off it: messages reach it again"),
    ):
        about = database_command(listing, name, run, help)
        about.add_argument("account", metavar="ACCOUNT")
        about.add_argument("number", metavar="NUMBER")
    listed = database_command(listing, "list", _list_numbers, "list it")
    listed.add_argument("account", metavar="ACCOUNT")
    exported = database_command(listing, "export", _export_numbers, "print it as CSV, as import reads it")
    exported.add_argument("account", metavar="ACCOUNT")
    imported = database_command(listing, "import", _import_numbers, "put a CSV file's numbers on it, all or none")
    imported.add_argument("account", metavar="ACCOUNT")
    imported.add_argument(
        "file", metavar="FILE", help="with a column “number”, or a number a line; - is standard input"
    )
    imported.add_argument("--dry-run", action="store_true", help="say what would be added, and change nothing")


def _add_number(shell: Shell, args: Namespace) -> Answer:
    added = blacklist.add(shell.conn, SHELL, accounts.by_name(shell.conn, args.account), args.number)
    return Answer(_listed(added), f"{added.number} gets no messages of {args.account}.")


def _remove_number(shell: Shell, args: Namespace) -> Answer:
    removed = blacklist.remove(shell.conn, SHELL, accounts.by_name(shell.conn, args.account), args.number)
    return Answer(_listed(removed), f"{removed.number} removed")


def _list_numbers(shell: Shell, args: Namespace) -> Answer:
    found = blacklist.of_account(shell.conn, accounts.by_name(shell.conn, args.account).id)
    rows = [(each.number, iso(each.since), each.reason, each.added_by) for each in found]
    return Answer([_listed(each) for each in found], table(("number", "since", "reason", "added by"), rows))


def _listed(each: Listed) -> dict[str, object]:
    return {"number": each.number, "since": iso(each.since), "reason": each.reason, "added_by": each.added_by}


def _export_numbers(shell: Shell, args: Namespace) -> Answer:
    found = blacklist.of_account(shell.conn, accounts.by_name(shell.conn, args.account).id)
    buffer = StringIO()
    writer = csv.writer(buffer, delimiter=";", lineterminator="\n")
    writer.writerow(blacklist.COLUMNS)
    writer.writerows((each.number, iso(each.since), each.reason, each.added_by, each.received_id) for each in found)
    return Answer([_listed(each) for each in found], buffer.getvalue().rstrip("\n"))


def _import_numbers(shell: Shell, args: Namespace) -> Answer:
    account = accounts.by_name(shell.conn, args.account)
    content = sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()
    try:
        numbers = blacklist.read(content, blacklist.MOST_AT_ONCE)
    except BadLines as refusal:
        raise Failure(f"{refusal.localized()} {refusal}") from None
    known = len(blacklist.some(shell.conn, account.id, numbers))
    value = {"added": len(numbers) - known, "known": known}
    if args.dry_run:
        return Answer(value, f"{value['added']} numbers would be added; {known} are on it already.")
    value["added"] = blacklist.import_all(shell.conn, SHELL, account, numbers)
    return Answer(
        value, f"{value['added']} numbers added to the blacklist of {account.name}; {known} were on it already."
    )
