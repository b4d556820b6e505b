"""`simulate …`, `number …` and `blacklist …`: messages from handsets (MO)."""

import sys
from pathlib import Path

import click

from portal.cli.groups import CommandError
from portal.cli.progress import show_progress
from portal.cli.shell import CommandContext, CommandOutput, add_group, fields_to_dict, format_timestamp, list_rows
from portal.services.accounts import accounts, session_records
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.common.csv_export import format_csv
from portal.services.common.csv_import import InvalidCsvLines
from portal.services.messages import blacklist, inbound, inbound_numbers
from portal.services.messages.blacklist import BlacklistEntry
from portal.services.messages.inbound_numbers import InboundNumber

simulate_group = add_group("simulate")
number_group = add_group("number")
blacklist_group = add_group("blacklist")

_number_argument = click.argument("number", metavar="NUMBER")
_keyword_option = click.option(
    "--keyword", default="", metavar="WORD", help="Only what begins with it; without: the rest."
)


# --- simulate


@simulate_group.command("mo", example="simulate mo --from 393401234567 --to 390399123 STOP")
@click.option("--from", "source", required=True, metavar="NUMBER", help="The handset's, with country code.")
@click.option("--to", "destination", required=True, metavar="NUMBER", help="A number, or a short code.")
@click.argument("text", metavar="TEXT", type=click.UNPROCESSED)
def _simulate_inbound_message(context: CommandContext, text: str, *, source: str, destination: str) -> CommandOutput:
    """A message from a handset, to a number or short code of an account."""
    result = inbound.simulate_inbound_message(context.conn, source, destination, text)
    all_names = {each.id: each.name for each in accounts.list_accounts(context.conn)}
    names = [all_names[each] for each in result.account_ids]
    running = session_records.is_component_alive(context.conn, "smsc")
    account_names = ", ".join(names)
    lines = [f"For {account_names}. It waits seven days for a receiver or transceiver to accept it."]
    if result.is_stop_request:
        lines.append(f"It asks for no more messages: {source} goes on the blacklist of {account_names}.")
    if not running:
        lines.append("The SMPP server isn't running: it takes the message when it starts.")
    value = {"accounts": names, "keyword": result.keyword, "stop": result.is_stop_request, "running": running}
    return CommandOutput(value, "\n".join(lines))


# --- number


@number_group.command("add", example="number add smpp-acme-1 390399123 --keyword WIN")
@_number_argument
@_keyword_option
def _add_inbound_number(context: CommandContext, account: Account, number: str, *, keyword: str) -> CommandOutput:
    """Let what is sent to a number reach an account."""
    added = inbound_numbers.add_inbound_number(context.conn, SHELL, account, number, keyword)
    return CommandOutput(_inbound_number_to_dict(added), f"What is sent to {added} reaches {account.name}.")


@number_group.command("remove", example="number remove smpp-acme-1 390399123 --keyword WIN")
@_number_argument
@_keyword_option
def _remove_inbound_number(context: CommandContext, account: Account, number: str, *, keyword: str) -> CommandOutput:
    """Let it reach the account no more."""
    removed = inbound_numbers.remove_inbound_number(context.conn, SHELL, account, number, keyword)
    return CommandOutput(_inbound_number_to_dict(removed), f"{removed} removed")


@number_group.command("list", example="number list smpp-acme-1")
def _list_inbound_numbers(context: CommandContext, account: Account) -> CommandOutput:
    """List them."""
    numbers = inbound_numbers.list_inbound_numbers(context.conn, account.id)
    return list_rows([_inbound_number_to_dict(each) for each in numbers], ("number", "keyword"))


def _inbound_number_to_dict(number: InboundNumber) -> dict[str, object]:
    return fields_to_dict(number, "number", "keyword")


# --- blacklist


@blacklist_group.command("add", example="blacklist add smpp-acme-1 393401234567")
@_number_argument
def _add_blacklist_entry(context: CommandContext, account: Account, number: str) -> CommandOutput:
    """Put a number on it."""
    entry = blacklist.add_blacklist_number(context.conn, SHELL, account, number)
    return CommandOutput(_blacklist_entry_to_dict(entry), f"{entry.number} gets no messages of {account.name}.")


@blacklist_group.command("remove", example="blacklist remove smpp-acme-1 393401234567")
@_number_argument
def _remove_blacklist_entry(context: CommandContext, account: Account, number: str) -> CommandOutput:
    """Take a number off it: messages reach it again."""
    entry = blacklist.remove_blacklist_number(context.conn, SHELL, account, number)
    return CommandOutput(_blacklist_entry_to_dict(entry), f"{entry.number} removed")


@blacklist_group.command("list", example="blacklist list smpp-acme-1")
def _list_blacklist(context: CommandContext, account: Account) -> CommandOutput:
    """List it."""
    values = [_blacklist_entry_to_dict(each) for each in blacklist.list_blacklist(context.conn, account.id)]
    return list_rows(values, ("number", "since", "reason", "added by"), lambda row: {"added by": row["added_by"]})


def _blacklist_entry_to_dict(entry: BlacklistEntry) -> dict[str, object]:
    fields = fields_to_dict(entry, "number", "since", "reason", "added_by")
    return fields | {"since": format_timestamp(entry.since)}


@blacklist_group.command("export", example="blacklist export smpp-acme-1")
def _export_blacklist(context: CommandContext, account: Account) -> CommandOutput:
    """Print it as CSV, as import reads it."""
    entries = blacklist.list_blacklist(context.conn, account.id)
    values = [_blacklist_entry_to_dict(each) for each in entries]
    rows = [(*value.values(), each.received_id) for value, each in zip(values, entries, strict=True)]
    return CommandOutput(values, format_csv([blacklist.CSV_COLUMNS, *rows], line_end="\n").rstrip("\n"))


@blacklist_group.command("import", example="blacklist import smpp-acme-1 numbers.csv --dry-run")
@click.argument("file", metavar="FILE", type=click.Path(readable=False, allow_dash=True))
@click.option("--dry-run", is_flag=True, help="Say what would be added, and change nothing.")
def _import_blacklist(context: CommandContext, account: Account, file: str, *, dry_run: bool) -> CommandOutput:
    """Put a CSV file's numbers on it, all or none: a column “number”, or a number a line; - reads stdin."""
    content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    try:
        numbers = blacklist.parse_numbers_csv(content, blacklist.MAX_NUMBERS_AT_ONCE)
    except InvalidCsvLines as refusal:
        raise CommandError(f"{refusal.localized()} {refusal}") from None
    known_count = len(blacklist.find_blacklist_entries(context.conn, account.id, numbers))
    value = {"added": len(numbers) - known_count, "known": known_count}
    if dry_run:
        return CommandOutput(value, f"{value['added']} numbers would be added; {known_count} are on it already.")
    with show_progress("Import", "the blacklist is as it was") as progress:
        value["added"] = blacklist.import_blacklist_numbers(context.conn, SHELL, account, numbers, progress)
    return CommandOutput(
        value, f"{value['added']} numbers added to the blacklist of {account.name}; {known_count} were on it already."
    )
