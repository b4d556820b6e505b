"""`simulate …`, `route …` and `blacklist …`: messages from handsets (MO)."""

import csv
import sys
from argparse import ArgumentParser, Namespace
from io import StringIO
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
from portal.services.accounts import accounts, session_records
from portal.services.common.audit import SHELL
from portal.services.common.csv_import import InvalidCsvLines
from portal.services.messages import blacklist, inbound, inbound_numbers
from portal.services.messages.blacklist import BlacklistEntry
from portal.services.messages.inbound_numbers import InboundNumber


def register_commands(commands: "Commands[ArgumentParser]") -> None:
    _register_simulate_commands(commands)
    _register_number_commands(commands)
    _register_blacklist_commands(commands)


# --- simulate


def _register_simulate_commands(commands: "Commands[ArgumentParser]") -> None:
    simulate = add_command_group(commands, "simulate", "what the built-in upstream makes up")
    mo = add_database_command(
        simulate, "mo", _simulate_inbound_message, "a message from a handset, to a number or short code of an account"
    )
    mo.add_argument("--from", dest="source", required=True, metavar="NUMBER", help="the handset's, with country code")
    mo.add_argument("--to", dest="destination", required=True, metavar="NUMBER", help="a number, or a short code")
    mo.add_argument("text", metavar="TEXT")


def _simulate_inbound_message(context: CommandContext, args: Namespace) -> CommandOutput:
    result = inbound.simulate_inbound_message(context.conn, args.source, args.destination, args.text)
    all_names = {each.id: each.name for each in accounts.list_accounts(context.conn)}
    names = [all_names[each] for each in result.account_ids]
    running = session_records.is_component_alive(context.conn, "smsc")
    account_names = ", ".join(names)
    lines = [f"For {account_names}. It waits seven days for a receiver or transceiver to accept it."]
    if result.is_stop_request:
        lines.append(f"It asks for no more messages: {args.source} goes on the blacklist of {account_names}.")
    if not running:
        lines.append("The SMPP server isn't running: it takes the message when it starts.")
    value = {"accounts": names, "keyword": result.keyword, "stop": result.is_stop_request, "running": running}
    return CommandOutput(value, "\n".join(lines))


# --- route


def _register_number_commands(commands: "Commands[ArgumentParser]") -> None:
    route = add_command_group(commands, "route", "numbers and short codes that reach an account")
    for name, run, help in (
        ("add", _add_inbound_number, "let what is sent to a number reach an account"),
        ("remove", _remove_inbound_number, "let it reach the account no more"),
    ):
        about = add_database_command(route, name, run, help)
        about.add_argument("account", metavar="ACCOUNT")
        about.add_argument("number", metavar="NUMBER")
        about.add_argument("--keyword", default="", metavar="WORD", help="only what begins with it; without: the rest")
    listed = add_database_command(route, "list", _list_inbound_numbers, "list them")
    listed.add_argument("account", metavar="ACCOUNT")


def _add_inbound_number(context: CommandContext, args: Namespace) -> CommandOutput:
    account = accounts.get_account(context.conn, args.account)
    added = inbound_numbers.add_inbound_number(context.conn, SHELL, account, args.number, args.keyword)
    return CommandOutput(_inbound_number_to_dict(added), f"What is sent to {added} reaches {account.name}.")


def _remove_inbound_number(context: CommandContext, args: Namespace) -> CommandOutput:
    account = accounts.get_account(context.conn, args.account)
    removed = inbound_numbers.remove_inbound_number(context.conn, SHELL, account, args.number, args.keyword)
    return CommandOutput(_inbound_number_to_dict(removed), f"{removed} removed")


def _list_inbound_numbers(context: CommandContext, args: Namespace) -> CommandOutput:
    numbers = inbound_numbers.list_inbound_numbers(context.conn, accounts.get_account(context.conn, args.account).id)
    rows = [(each.number, each.keyword) for each in numbers]
    return CommandOutput([_inbound_number_to_dict(each) for each in numbers], format_table(("number", "keyword"), rows))


def _inbound_number_to_dict(number: InboundNumber) -> dict[str, object]:
    return {"number": number.number, "keyword": number.keyword}


# --- blacklist


def _register_blacklist_commands(commands: "Commands[ArgumentParser]") -> None:
    listing = add_command_group(
        commands, "blacklist", "numbers that get no messages of an account, most because they said STOP"
    )
    for name, run, help in (
        ("add", _add_blacklist_entry, "put a number on it"),
        ("remove", _remove_blacklist_entry, "take a number off it: messages reach it again"),
    ):
        about = add_database_command(listing, name, run, help)
        about.add_argument("account", metavar="ACCOUNT")
        about.add_argument("number", metavar="NUMBER")
    listed = add_database_command(listing, "list", _list_blacklist, "list it")
    listed.add_argument("account", metavar="ACCOUNT")
    exported = add_database_command(listing, "export", _export_blacklist, "print it as CSV, as import reads it")
    exported.add_argument("account", metavar="ACCOUNT")
    imported = add_database_command(listing, "import", _import_blacklist, "put a CSV file's numbers on it, all or none")
    imported.add_argument("account", metavar="ACCOUNT")
    imported.add_argument(
        "file", metavar="FILE", help="with a column “number”, or a number a line; - is standard input"
    )
    imported.add_argument("--dry-run", action="store_true", help="say what would be added, and change nothing")


def _add_blacklist_entry(context: CommandContext, args: Namespace) -> CommandOutput:
    entry = blacklist.add_blacklist_number(
        context.conn, SHELL, accounts.get_account(context.conn, args.account), args.number
    )
    return CommandOutput(_blacklist_entry_to_dict(entry), f"{entry.number} gets no messages of {args.account}.")


def _remove_blacklist_entry(context: CommandContext, args: Namespace) -> CommandOutput:
    entry = blacklist.remove_blacklist_number(
        context.conn, SHELL, accounts.get_account(context.conn, args.account), args.number
    )
    return CommandOutput(_blacklist_entry_to_dict(entry), f"{entry.number} removed")


def _list_blacklist(context: CommandContext, args: Namespace) -> CommandOutput:
    entries = blacklist.list_blacklist(context.conn, accounts.get_account(context.conn, args.account).id)
    rows = [(each.number, format_timestamp(each.since), each.reason, each.added_by) for each in entries]
    return CommandOutput(
        [_blacklist_entry_to_dict(each) for each in entries],
        format_table(("number", "since", "reason", "added by"), rows),
    )


def _blacklist_entry_to_dict(entry: BlacklistEntry) -> dict[str, object]:
    return {
        "number": entry.number,
        "since": format_timestamp(entry.since),
        "reason": entry.reason,
        "added_by": entry.added_by,
    }


def _export_blacklist(context: CommandContext, args: Namespace) -> CommandOutput:
    entries = blacklist.list_blacklist(context.conn, accounts.get_account(context.conn, args.account).id)
    buffer = StringIO()
    writer = csv.writer(buffer, delimiter=";", lineterminator="\n")
    writer.writerow(blacklist.CSV_COLUMNS)
    writer.writerows(
        (each.number, format_timestamp(each.since), each.reason, each.added_by, each.received_id) for each in entries
    )
    return CommandOutput([_blacklist_entry_to_dict(each) for each in entries], buffer.getvalue().rstrip("\n"))


def _import_blacklist(context: CommandContext, args: Namespace) -> CommandOutput:
    account = accounts.get_account(context.conn, args.account)
    content = sys.stdin.buffer.read() if args.file == "-" else Path(args.file).read_bytes()
    try:
        numbers = blacklist.parse_numbers_csv(content, blacklist.MAX_NUMBERS_AT_ONCE)
    except InvalidCsvLines as refusal:
        raise CommandError(f"{refusal.localized()} {refusal}") from None
    known_count = len(blacklist.find_blacklist_entries(context.conn, account.id, numbers))
    value = {"added": len(numbers) - known_count, "known": known_count}
    if args.dry_run:
        return CommandOutput(value, f"{value['added']} numbers would be added; {known_count} are on it already.")
    with show_progress("Import", "the blacklist is as it was") as progress:
        value["added"] = blacklist.import_blacklist_numbers(context.conn, SHELL, account, numbers, progress)
    return CommandOutput(
        value, f"{value['added']} numbers added to the blacklist of {account.name}; {known_count} were on it already."
    )
