"""`account …`, `password …` and `ip …`: accounts, what they may do, who may bind, what happens without credits."""

import sqlite3
from collections.abc import Callable
from typing import Any

import click

from portal.cli.shell import (
    CommandContext,
    CommandDecorator,
    CommandFunction,
    CommandOutput,
    add_group,
    describe,
    fields_to_dict,
    format_names_and_values,
    format_timestamp,
    list_rows,
    parse_duration,
)
from portal.core.clock import now_ms
from portal.core.db import write_transaction
from portal.core.gsm0338 import Encoding
from portal.services.accounts import accounts, allowed_ips
from portal.services.accounts.accounts import Account
from portal.services.accounts.allowed_ips import AllowedIP
from portal.services.billing import auto_recredit
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL, Actor
from portal.services.credits import alerts, credits
from portal.services.people import customers

_CODING_NAMES: dict[int, str] = {Encoding.ASCII: "ASCII", Encoding.LATIN_1: "Latin-1", Encoding.BINARY: "binary"}

account_group = add_group("account")
password_group = add_group("password")
ip_group = add_group("ip")


def _parse_codings(text: str) -> frozenset[int]:
    """Numbers with commas between them, or `none`."""
    try:
        return frozenset() if text == "none" else frozenset(map(int, text.split(",")))
    except ValueError:
        raise click.BadParameter(f"{text!r} isn't numbers with commas between them, like 1,3, or none") from None


def _settings_options(*, is_new: bool) -> CommandDecorator:
    """What an account may do: a new one has the defaults; of another one stays what isn't given."""

    def limit(name: str, default: int, help: str) -> CommandDecorator:
        attributes: dict[str, Any] = {"default": default, "show_default": True} if is_new else {}
        return click.option(name, type=int, metavar="N", help=f"{help}; 0: no limit.", **attributes)

    def flag(name: str, help: str) -> CommandDecorator:
        if is_new:
            return click.option(name, is_flag=True, help=help)
        return click.option(f"{name}/--no-{name[2:]}", default=None, help=help)

    coding_names = ", ".join(f"{number} {name}" for number, name in _CODING_NAMES.items())
    options = (
        limit("--windowing", accounts.DEFAULT_WINDOWING, "Submits in flight on a connection"),
        limit("--throughput", accounts.DEFAULT_THROUGHPUT, "Submits a second on a connection"),
        limit("--binds", accounts.DEFAULT_BINDS, "Transceivers, or pairs of transmitter and receiver"),
        flag("--any-sender", "Messages may carry any source address."),
        click.option(
            "--data-coding",
            "data_codings",
            type=_parse_codings,
            metavar="N,…",
            help=f"Codings beside GSM 03.38 and UCS-2: {coding_names}; or none.",
        ),
        flag("--packed-gsm", "GSM 03.38 comes packed, eight characters in seven octets."),
        click.option(
            "--national-numbers",
            metavar="W",
            help="What TON 2 of a destination means: ignored (nothing), refused, or a country of whose numbers it is,"
            " like IT.",
        ),
    )

    def add_options(run: CommandFunction) -> CommandFunction:
        for each in reversed(options):
            run = each(run)
        return run

    return add_options


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
@_settings_options(is_new=True)
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
@_settings_options(is_new=False)
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
    listed = accounts.list_accounts(context.conn)
    rows = [_account_to_dict(each) | {"customer": names[each.customer_id]} for each in listed]
    words = {each.name: accounts.STATUS_LABELS[each.shown_status] for each in listed}
    columns = ("name", "customer", "kind", "status", "balance")
    return list_rows(rows, columns, lambda row: {"status": words[str(row["name"])]})


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
        "status": accounts.STATUS_LABELS[account.shown_status],
        "windowing": account.windowing or "no limit",
        "throughput": account.throughput or "no limit",
        "binds": account.binds or "no limit",
        "codings": "; ".join(codings),
        "national numbers": account.national_numbers,
    }
    return describe(_account_to_dict(account), **words)


def _account_to_dict(account: Account) -> dict[str, object]:
    fields = fields_to_dict(account, "name", "kind", "status", "balance", "windowing", "throughput", "binds")
    return fields | {"balance": credit_amounts.credits_to_json_number(account.balance)}


def _describe_alert_recredit_rules(account: Account) -> CommandOutput:
    amounts = ("alert_below", "recredit_below", "recredit_pack")
    values = fields_to_dict(account, "name", *amounts, "recredit_per_day", "alert_to")
    words: dict[str, object] = {"alert_to": ", ".join(account.alert_to) or "the customer's contact address"}
    for name in amounts:
        if (thousandths := getattr(account, name)) is None:
            words[name] = "none"
        else:
            values[name] = credit_amounts.credits_to_json_number(thousandths)
    return describe(values, **words)


# --- password


@password_group.command("regenerate", example="password regenerate smpp-acme-1 --grace 15m")
@click.option(
    "--grace", type=parse_duration, default="0", metavar="15m", help="How long the old one stays good, at most 24h."
)
@click.option("--mail", is_flag=True, help="Send it to the contact address instead.")
def _regenerate_password(context: CommandContext, account: Account, *, grace: int, mail: bool) -> CommandOutput:
    """Replace an account's; prints the new one, once."""
    # Imported here: see `account add`.
    from portal.services.accounts import credentials

    contact = customers.get_customer_by_id(context.conn, account.customer_id)
    actor = Actor(SHELL.name, language=contact.language)
    password = credentials.regenerate_smpp_password(
        context.conn, context.keys, actor, account, grace_ms=grace, send_mail=mail
    )
    if mail:
        return CommandOutput({"password": None, "sent_to": contact.contact_email}, f"sent to {contact.contact_email}")
    return CommandOutput({"password": password}, password)


# --- ip

_network_argument = click.argument("network", metavar="IP|CIDR")


@ip_group.command("add", example="ip add smpp-acme-1 203.0.113.0/28 --label office --expires 8h")
@_network_argument
@click.option("--label", default="", metavar="T")
@click.option("--expires", type=parse_duration, metavar="8h", help="Good for so long; without it, until removed.")
def _add_allowed_ip(
    context: CommandContext, account: Account, network: str, *, label: str, expires: int | None
) -> CommandOutput:
    """Authorise an address or a range."""
    entry = allowed_ips.add_allowed_ip(
        context.conn,
        SHELL,
        account,
        network,
        label=label,
        expires_at=None if expires is None else now_ms() + expires,
        limit=context.config.limits.ips_per_account,
    )
    return _describe_allowed_ips(_allowed_ip_to_dict(entry))


@ip_group.command("remove", example="ip remove smpp-acme-1 203.0.113.0/28")
@_network_argument
def _remove_allowed_ip(context: CommandContext, account: Account, network: str) -> CommandOutput:
    """Take one off the list: sessions that only it allowed are unbound."""
    entry = allowed_ips.get_allowed_ip_by_network(context.conn, account.id, network)
    removed_entry = allowed_ips.remove_allowed_ip(context.conn, SHELL, account, entry.id)
    return CommandOutput(_allowed_ip_to_dict(removed_entry), f"{removed_entry.network} removed")


@ip_group.command("list", example="ip list smpp-acme-1")
def _list_allowed_ips(context: CommandContext, account: Account) -> CommandOutput:
    """List them."""
    return _describe_allowed_ips(
        [_allowed_ip_to_dict(each) for each in allowed_ips.list_allowed_ips(context.conn, account.id)]
    )


def _allowed_ip_to_dict(entry: AllowedIP) -> dict[str, object]:
    fields = fields_to_dict(entry, "id", "network", "label", "expires_at")
    return fields | {"expires_at": format_timestamp(entry.expires_at)}


def _describe_allowed_ips(value: dict[str, object] | list[dict[str, object]]) -> CommandOutput:
    return list_rows(value, ("network", "expires", "label"), lambda row: {"expires": row["expires_at"] or "never"})
