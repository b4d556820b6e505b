"""`account …`: what accounts there are, and what they may do. Commands that need more have modules of their own."""

from typing import Any

import click

from portal.cli.groups import add_group
from portal.cli.shell import (
    CommandContext,
    CommandOutput,
    account_argument,
    format_names_and_values,
    format_table,
)
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.people import customers

_CODING_NAMES = {accounts.ASCII: "ASCII", accounts.LATIN_1: "Latin-1", accounts.BINARY: "binary"}

account_group = add_group("account", {"add": "passwords", "alert": "alerts", "recredit": "alerts"})


class Codings(click.ParamType[frozenset[int]]):
    """Numbers with commas between them, or `none`."""

    name = "codings"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[int]:
        try:
            return frozenset() if value == "none" else frozenset(map(int, value.split(",")))
        except ValueError:
            self.fail(f"{value!r} isn't numbers with commas between them, like 1,3, or none", param, ctx)


windowing_option = click.option(
    "--windowing", type=int, metavar="N", help="Submits in flight on a connection; 0: no limit."
)
throughput_option = click.option(
    "--throughput", type=int, metavar="N", help="Submits a second on a connection; 0: no limit."
)
binds_option = click.option(
    "--binds",
    type=int,
    metavar="N",
    help="Transceivers, or pairs of transmitter and receiver; 0: no limit.",
)
data_coding_option = click.option(
    "--data-coding",
    "data_codings",
    type=Codings(),
    metavar="N,…",
    help="Codings beside GSM 03.38 and UCS-2: "
    + ", ".join(f"{n} {name}" for n, name in _CODING_NAMES.items())
    + "; or none.",
)
ANY_SENDER_HELP = "Messages may carry any source address."
PACKED_GSM_HELP = "GSM 03.38 comes packed, eight characters in seven octets."


@account_group.command("change", example="account change smpp-acme-1 --throughput 50 --any-sender")
@account_argument
@windowing_option
@throughput_option
@binds_option
@click.option("--any-sender/--no-any-sender", default=None, help=ANY_SENDER_HELP)
@data_coding_option
@click.option("--packed-gsm/--no-packed-gsm", default=None, help=PACKED_GSM_HELP)
def _change_account(context: CommandContext, account: Account, **account_settings: Any) -> CommandOutput:
    """Change what one may do; open sessions go on under it."""
    accounts.change_account(context.conn, SHELL, account, **account_settings)
    return _describe_account(accounts.get_account(context.conn, account.name))


@account_group.command("show", example="account show smpp-acme-1")
@account_argument
def _show_account(context: CommandContext, account: Account) -> CommandOutput:
    """Show one."""
    return _describe_account(account)


@account_group.command("list", example="account list --json")
def _list_accounts(context: CommandContext) -> CommandOutput:
    """List all."""
    names = {each.id: each.name for each in customers.list_all_customers(context.conn)}
    rows = [
        _account_to_dict(each) | {"customer": names[each.customer_id]} for each in accounts.list_accounts(context.conn)
    ]
    columns = ("name", "customer", "kind", "status", "balance")
    return CommandOutput(rows, format_table(columns, [[row[column] for column in columns] for row in rows]))


@account_group.command("disable", example="account disable smpp-acme-1")
@account_argument
def _disable_account(context: CommandContext, account: Account) -> CommandOutput:
    """Switch one off: its sessions are unbound, and nothing can bind."""
    accounts.disable_account(context.conn, SHELL, account)
    return _describe_account(accounts.get_account(context.conn, account.name))


@account_group.command("enable", example="account enable smpp-acme-1")
@account_argument
def _enable_account(context: CommandContext, account: Account) -> CommandOutput:
    """Switch one on again."""
    accounts.enable_account(context.conn, SHELL, account)
    return _describe_account(accounts.get_account(context.conn, account.name))


def _describe_account(account: Account) -> CommandOutput:
    values = _account_to_dict(account)
    limits = {name: values[name] or "no limit" for name in ("windowing", "throughput", "binds")}
    codings = ["GSM 03.38, packed" if account.packed_gsm else "GSM 03.38", "UCS-2"]
    codings += [_CODING_NAMES[each] for each in sorted(account.data_codings)]
    return CommandOutput(values, format_names_and_values(values | limits | {"codings": "; ".join(codings)}))


def _account_to_dict(account: Account) -> dict[str, object]:
    return {
        "name": account.name,
        "kind": account.kind,
        "status": account.status,
        "balance": credit_amounts.credits_to_json_number(account.balance),
        "windowing": account.windowing,
        "throughput": account.throughput,
        "binds": account.binds,
    }
