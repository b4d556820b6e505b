"""`account …`: what accounts there are, what they may do, and what happens when their credits run out."""

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from portal.cli.shell import (
    CommandContext,
    CommandOutput,
    add_group,
    describe,
    format_names_and_values,
    list_rows,
)
from portal.core.db import write_transaction
from portal.core.gsm0338 import Encoding
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL, Actor
from portal.services.credits import alerts, credits
from portal.services.people import customers

_CODING_NAMES: dict[int, str] = {Encoding.ASCII: "ASCII", Encoding.LATIN_1: "Latin-1", Encoding.BINARY: "binary"}

account_group = add_group("account")


def _parse_codings(text: str) -> frozenset[int]:
    """Numbers with commas between them, or `none`."""
    try:
        return frozenset() if text == "none" else frozenset(map(int, text.split(",")))
    except ValueError:
        raise click.BadParameter(f"{text!r} isn't numbers with commas between them, like 1,3, or none") from None


_windowing_option = partial(
    click.option, "--windowing", type=int, metavar="N", help="Submits in flight on a connection; 0: no limit."
)
_throughput_option = partial(
    click.option, "--throughput", type=int, metavar="N", help="Submits a second on a connection; 0: no limit."
)
_binds_option = partial(
    click.option,
    "--binds",
    type=int,
    metavar="N",
    help="Transceivers, or pairs of transmitter and receiver; 0: no limit.",
)
_data_coding_option = click.option(
    "--data-coding",
    "data_codings",
    type=_parse_codings,
    metavar="N,…",
    help="Codings beside GSM 03.38 and UCS-2: "
    + ", ".join(f"{n} {name}" for n, name in _CODING_NAMES.items())
    + "; or none.",
)
_national_numbers_option = click.option(
    "--national-numbers",
    metavar="W",
    help="What TON 2 of a destination means: ignored (nothing), refused, or a country of whose numbers it is, like IT.",
)
_ANY_SENDER_HELP = "Messages may carry any source address."
_PACKED_GSM_HELP = "GSM 03.38 comes packed, eight characters in seven octets."


@account_group.command("add", example="account add --customer Acme --name smpp-acme-1 --credits 1000")
@click.option("--customer", "customer_name", required=True, metavar="NAME")
@click.option("--kind", type=click.Choice(("smpp", "sms")), help="As the name says; otherwise smpp.")
@click.option("--name", default="", help="smpp-… or sms-…, at most 15 characters; made up when left out.")
@click.option("--description", default="", metavar="T")
@click.option(
    "--credits",
    "amount",
    type=credit_amounts.parse_amount_or_zero,
    default="0",
    show_default=True,
    metavar="N",
    help="Granted at once.",
)
@_windowing_option(default=accounts.DEFAULT_WINDOWING, show_default=True)
@_throughput_option(default=accounts.DEFAULT_THROUGHPUT, show_default=True)
@_binds_option(default=accounts.DEFAULT_BINDS, show_default=True)
@click.option("--any-sender", is_flag=True, help=_ANY_SENDER_HELP)
@_data_coding_option
@click.option("--packed-gsm", is_flag=True, help=_PACKED_GSM_HELP)
@_national_numbers_option
def _create_account(
    context: CommandContext,
    *,
    customer_name: str,
    kind: str | None,
    name: str,
    amount: int,
    **account_settings: Any,
) -> CommandOutput:
    """Create one; prints its system_id and password, the password once."""
    # Imported here: it brings what mails are made with, a third of what `account list` takes in all.
    from portal.services.accounts import credentials

    customer = customers.get_customer(context.conn, customer_name)
    kind = kind or ("sms" if name.startswith("sms-") else "smpp")
    with write_transaction(context.conn):
        account = accounts.create_account(context.conn, SHELL, customer.id, kind=kind, name=name, **account_settings)
        if amount:
            credits.grant_credits(context.conn, SHELL, account, amount)
        if kind == "sms":
            return CommandOutput({"name": account.name, "system_id": None, "password": None}, account.name)
        password = credentials.regenerate_smpp_password(context.conn, context.keys, SHELL, account, send_mail=False)
    text = format_names_and_values({"system_id": account.name, "password": password})
    return CommandOutput({"name": account.name, "system_id": account.name, "password": password}, text)


@account_group.command("alert", example="account alert smpp-acme-1 --below 100 --to ops@acme.example")
@click.option("--below", type=credit_amounts.parse_amount_or_zero, metavar="N", help="Credits; 0: no mail.")
@click.option("--to", metavar="EMAIL,…", help="At most five; otherwise the customer's contact address.")
def _change_alert(context: CommandContext, account: Account, *, below: int | None, to: str | None) -> CommandOutput:
    """Mail when the balance falls below a threshold; without options: show it."""
    if below is not None or to is not None:
        threshold = account.alert_below if below is None else below or None
        addresses = account.alert_to if to is None else alerts.parse_email_addresses(to)
        alerts.set_alert_rule(context.conn, SHELL, account, threshold, addresses)
    return _describe_alert_recredit_rules(accounts.get_account(context.conn, account.name))


@account_group.command("recredit", example="account recredit smpp-acme-1 --below 100 --pack 1000")
@click.option(
    "--below",
    type=credit_amounts.parse_amount_or_zero,
    metavar="N",
    help="Credits; 0: buy none; without options: show it.",
)
@click.option("--pack", type=credit_amounts.parse_amount, metavar="N", help="Credits of the pack.")
@click.option("--per-day", type=int, metavar="N", help="How many a day (UTC) at most (default 1).")
def _change_recredit(
    context: CommandContext, account: Account, *, below: int | None, pack: int | None, per_day: int | None
) -> CommandOutput:
    """Buy a pack when messages take the balance below a threshold."""
    if (below, pack, per_day) != (None, None, None):
        threshold = account.recredit_below if below is None else below or None
        pack = account.recredit_pack if pack is None else pack
        per_day = account.recredit_per_day if per_day is None else per_day
        auto_recredit.set_recredit_rule(context.conn, SHELL, account, threshold, pack, per_day)
    return _describe_alert_recredit_rules(accounts.get_account(context.conn, account.name))


@account_group.command("change", example="account change smpp-acme-1 --throughput 50 --any-sender")
@_windowing_option()
@_throughput_option()
@_binds_option()
@click.option("--any-sender/--no-any-sender", default=None, help=_ANY_SENDER_HELP)
@_data_coding_option
@click.option("--packed-gsm/--no-packed-gsm", default=None, help=_PACKED_GSM_HELP)
@_national_numbers_option
def _change_account(context: CommandContext, account: Account, **account_settings: Any) -> CommandOutput:
    """Change what one may do; open sessions go on under it."""
    accounts.change_account(context.conn, SHELL, account, **account_settings)
    return _describe_account(accounts.get_account(context.conn, account.name))


@account_group.command("show", example="account show smpp-acme-1")
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
    return list_rows(rows, columns, lambda row: {"status": accounts.STATUS_LABELS[str(row["status"])]})


def _add_switch(name: str, switch: Callable[[sqlite3.Connection, Actor, Account], None], help: str) -> None:
    @account_group.command(name, help=help, example=f"account {name} smpp-acme-1")
    def switch_account(context: CommandContext, account: Account) -> CommandOutput:
        switch(context.conn, SHELL, account)
        return _describe_account(accounts.get_account(context.conn, account.name))


_add_switch("disable", accounts.disable_account, "Switch one off: its sessions are unbound, and nothing can bind.")
_add_switch("enable", accounts.enable_account, "Switch one on again.")


def _describe_account(account: Account) -> CommandOutput:
    codings = ["GSM 03.38, packed" if account.packed_gsm else "GSM 03.38", "UCS-2"]
    codings += [_CODING_NAMES[each] for each in sorted(account.data_codings)]
    words: dict[str, object] = {
        "status": accounts.STATUS_LABELS[account.status],
        "windowing": account.windowing or "no limit",
        "throughput": account.throughput or "no limit",
        "binds": account.binds or "no limit",
        "codings": "; ".join(codings),
        "national numbers": account.national_numbers,
    }
    return describe(_account_to_dict(account), **words)


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


def _describe_alert_recredit_rules(account: Account) -> CommandOutput:
    thousandths = {name: getattr(account, name) for name in ("alert_below", "recredit_below", "recredit_pack")}
    amounts = {
        name: None if amount is None else credit_amounts.credits_to_json_number(amount)
        for name, amount in thousandths.items()
    }
    words: dict[str, object] = {name: "none" for name, amount in amounts.items() if amount is None}
    words["alert_to"] = ", ".join(account.alert_to) or "the customer's contact address"
    return describe(
        {
            "name": account.name,
            **amounts,
            "recredit_per_day": account.recredit_per_day,
            "alert_to": list(account.alert_to),
        },
        **words,
    )
