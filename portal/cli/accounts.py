"""`account …`, `password …` and `ip …`: what an account has."""

from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from typing import Any

from portal.cli.shell import (
    CommandContext,
    CommandOutput,
    Commands,
    add_account_command,
    add_command_group,
    add_database_command,
    format_names_and_values,
    format_table,
    format_timestamp,
    parse_duration,
)
from portal.core.clock import now_ms
from portal.core.db import write_transaction
from portal.services.accounts import accounts, allowed_ips, credentials
from portal.services.accounts.accounts import Account
from portal.services.accounts.allowed_ips import AllowedIP
from portal.services.billing import auto_recredit
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL, Actor
from portal.services.credits import alerts, credits
from portal.services.people import customers

_CODING_NAMES = {accounts.ASCII: "ASCII", accounts.LATIN_1: "Latin-1", accounts.BINARY: "binary"}
_CODINGS_HELP = "codings beside GSM 03.38 and UCS-2: " + ", ".join(f"{n} {name}" for n, name in _CODING_NAMES.items())
_PACKED_HELP = "GSM 03.38 comes packed, eight characters in seven octets"
_LIMIT_OPTIONS = (
    ("windowing", accounts.DEFAULT_WINDOWING, "submits in flight on a connection"),
    ("throughput", accounts.DEFAULT_THROUGHPUT, "submits a second on a connection"),
    ("binds", accounts.DEFAULT_BINDS, "transceivers, or pairs of transmitter and receiver"),
)


def register_commands(commands: "Commands[ArgumentParser]") -> None:
    _register_account_commands(commands)
    _register_password_commands(commands)
    _register_ip_commands(commands)


# --- account


def _register_account_commands(commands: "Commands[ArgumentParser]") -> None:
    account = add_command_group(commands, "account", "accounts that send SMS: smpp-… and classic (sms-…)")
    add = add_database_command(
        account, "add", _create_account, "create one; prints its system_id and password, the password once"
    )
    add.add_argument("--customer", required=True, metavar="NAME")
    add.add_argument("--kind", choices=("smpp", "sms"), help="as the name says; otherwise smpp")
    add.add_argument("--name", default="", help="smpp-… or sms-…, at most 15 characters; made up when left out")
    add.add_argument("--description", default="", metavar="T")
    add.add_argument("--credits", metavar="N", help="granted at once")
    for name, default, help in _LIMIT_OPTIONS:
        help = f"{help}; 0: no limit (default {default})"
        add.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help)
    add.add_argument("--any-sender", action="store_true", help="messages may carry any source address")
    add.add_argument("--data-coding", type=_parse_codings, default=frozenset(), metavar="N,…", help=_CODINGS_HELP)
    add.add_argument("--packed-gsm", action="store_true", help=_PACKED_HELP)
    change = add_account_command(
        account, "change", _change_account, "change what one may do; open sessions go on under it"
    )
    for name, _, help in _LIMIT_OPTIONS:
        change.add_argument(f"--{name}", type=int, metavar="N", help=f"{help}; 0: no limit")
    change.add_argument("--any-sender", action=BooleanOptionalAction, help="messages may carry any source address")
    change.add_argument("--data-coding", type=_parse_codings, metavar="N,…", help=f"{_CODINGS_HELP}, or none")
    change.add_argument("--packed-gsm", action=BooleanOptionalAction, help=_PACKED_HELP)
    add_account_command(account, "show", _show_account, "show one")
    add_database_command(account, "list", _list_accounts, "list all")
    alert = add_account_command(
        account, "alert", _change_alert, "mail when the balance falls below a threshold; without options: show it"
    )
    alert.add_argument("--below", metavar="N", help="credits; 0: no mail")
    alert.add_argument("--to", metavar="EMAIL,…", help="at most five; otherwise the customer's contact address")
    rule = add_account_command(
        account, "recredit", _change_recredit, "buy a pack when messages take the balance below a threshold"
    )
    rule.add_argument("--below", metavar="N", help="credits; 0: buy none; without options: show it")
    rule.add_argument("--pack", metavar="N", help="credits of the pack")
    rule.add_argument("--per-day", type=int, metavar="N", help="how many a day (UTC) at most (default 1)")
    add_account_command(
        account, "disable", _disable_account, "switch one off: its sessions are unbound, and nothing can bind"
    )
    add_account_command(account, "enable", _enable_account, "switch one on again")


def _create_account(context: CommandContext, args: Namespace) -> CommandOutput:
    customer = customers.get_customer(context.conn, args.customer)
    kind = args.kind or ("sms" if args.name.startswith("sms-") else "smpp")
    with write_transaction(context.conn):
        account = accounts.create_account(
            context.conn,
            SHELL,
            customer.id,
            kind=kind,
            name=args.name,
            description=args.description,
            **_account_settings_from_args(args),
        )
        if args.credits not in (None, "0"):
            credits.grant_credits(context.conn, SHELL, account, credit_amounts.parse_amount(args.credits))
        if kind == "sms":
            return CommandOutput({"name": account.name, "system_id": None, "password": None}, account.name)
        password = credentials.regenerate_smpp_password(context.conn, context.keys, SHELL, account, send_mail=False)
    text = format_names_and_values({"system_id": account.name, "password": password})
    return CommandOutput({"name": account.name, "system_id": account.name, "password": password}, text)


def _parse_codings(text: str) -> frozenset[int]:
    """What `--data-coding` is given: numbers with commas between them, or none."""
    if text == "none":
        return frozenset()
    try:
        return frozenset(map(int, text.split(",")))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} isn't numbers with commas between them, like 1,3, or none") from None


def _change_account(context: CommandContext, args: Namespace) -> CommandOutput:
    accounts.change_account(
        context.conn, SHELL, accounts.get_account(context.conn, args.account), **_account_settings_from_args(args)
    )
    return _show_account(context, args)


def _account_settings_from_args(args: Namespace) -> dict[str, Any]:
    """What an account may do, by the command's options."""
    return {
        "windowing": args.windowing,
        "throughput": args.throughput,
        "binds": args.binds,
        "any_sender": args.any_sender,
        "data_codings": args.data_coding,
        "packed_gsm": args.packed_gsm,
    }


def _show_account(context: CommandContext, args: Namespace) -> CommandOutput:
    return _describe_account(accounts.get_account(context.conn, args.account))


def _change_alert(context: CommandContext, args: Namespace) -> CommandOutput:
    account = accounts.get_account(context.conn, args.account)
    if args.below is not None or args.to is not None:
        below = account.alert_below if args.below is None else _parse_credit_threshold(args.below)
        to = account.alert_to if args.to is None else alerts.parse_email_addresses(args.to)
        alerts.set_alert_rule(context.conn, SHELL, account, below, to)
    return _show_alert_recredit_rules(context, args)


def _change_recredit(context: CommandContext, args: Namespace) -> CommandOutput:
    account = accounts.get_account(context.conn, args.account)
    if (args.below, args.pack, args.per_day) != (None, None, None):
        below = account.recredit_below if args.below is None else _parse_credit_threshold(args.below)
        pack = account.recredit_pack if args.pack is None else credit_amounts.parse_amount(args.pack)
        per_day = account.recredit_per_day if args.per_day is None else args.per_day
        auto_recredit.set_recredit_rule(context.conn, SHELL, account, below, pack, per_day)
    return _show_alert_recredit_rules(context, args)


def _parse_credit_threshold(text: str) -> int | None:
    return None if text == "0" else credit_amounts.parse_amount(text)


def _show_alert_recredit_rules(context: CommandContext, args: Namespace) -> CommandOutput:
    """What happens when an account's credits run out."""
    account = accounts.get_account(context.conn, args.account)
    amounts = {
        name: None if amount is None else credit_amounts.credits_to_json_number(amount)
        for name, amount in (
            ("alert_below", account.alert_below),
            ("recredit_below", account.recredit_below),
            ("recredit_pack", account.recredit_pack),
        )
    }
    values: dict[str, object] = {"name": account.name, **amounts, "recredit_per_day": account.recredit_per_day}
    texts = {name: "none" if value is None else value for name, value in values.items()}
    addresses = ", ".join(account.alert_to) or "the customer's contact address"
    return CommandOutput(
        values | {"alert_to": list(account.alert_to)}, format_names_and_values(texts | {"alert_to": addresses})
    )


def _disable_account(context: CommandContext, args: Namespace) -> CommandOutput:
    accounts.disable_account(context.conn, SHELL, accounts.get_account(context.conn, args.account))
    return _show_account(context, args)


def _enable_account(context: CommandContext, args: Namespace) -> CommandOutput:
    accounts.enable_account(context.conn, SHELL, accounts.get_account(context.conn, args.account))
    return _show_account(context, args)


def _describe_account(account: Account) -> CommandOutput:
    values = _account_to_dict(account)
    limits = {name: values[name] or "no limit" for name in ("windowing", "throughput", "binds")}
    codings = ["GSM 03.38, packed" if account.packed_gsm else "GSM 03.38", "UCS-2"]
    codings += [_CODING_NAMES[each] for each in sorted(account.data_codings)]
    return CommandOutput(values, format_names_and_values(values | limits | {"codings": "; ".join(codings)}))


def _list_accounts(context: CommandContext, args: Namespace) -> CommandOutput:
    names = {each.id: each.name for each in customers.list_all_customers(context.conn)}
    rows = [
        _account_to_dict(each) | {"customer": names[each.customer_id]} for each in accounts.list_accounts(context.conn)
    ]
    columns = ("name", "customer", "kind", "status", "balance")
    return CommandOutput(rows, format_table(columns, [[row[column] for column in columns] for row in rows]))


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


# --- password


def _register_password_commands(commands: "Commands[ArgumentParser]") -> None:
    password = add_command_group(commands, "password", "SMPP passwords")
    regenerate = add_account_command(
        password, "regenerate", _regenerate_password, "replace an account's; prints the new one, once"
    )
    regenerate.add_argument(
        "--grace", type=parse_duration, default=0, metavar="15m", help="how long the old one stays good, at most 24h"
    )
    regenerate.add_argument("--mail", action="store_true", help="send it to the contact address instead")


def _regenerate_password(context: CommandContext, args: Namespace) -> CommandOutput:
    account = accounts.get_account(context.conn, args.account)
    contact = customers.get_customer_by_id(context.conn, account.customer_id)
    actor = Actor(SHELL.name, language=contact.language)
    password = credentials.regenerate_smpp_password(
        context.conn, context.keys, actor, account, grace_ms=args.grace, send_mail=args.mail
    )
    if args.mail:
        return CommandOutput({"password": None, "sent_to": contact.contact_email}, f"sent to {contact.contact_email}")
    return CommandOutput({"password": password}, password)


# --- ip


def _register_ip_commands(commands: "Commands[ArgumentParser]") -> None:
    ip = add_command_group(commands, "ip", "addresses from which an account's clients may bind")
    add = add_account_command(ip, "add", _add_allowed_ip, "authorise an address or a range")
    add.add_argument("network", metavar="IP|CIDR")
    add.add_argument("--label", default="", metavar="T")
    add.add_argument("--expires", type=parse_duration, metavar="8h", help="good for so long; without it, until removed")
    remove = add_account_command(
        ip, "remove", _remove_allowed_ip, "take one off the list: sessions that only it allowed are unbound"
    )
    remove.add_argument("network", metavar="IP|CIDR")
    add_account_command(ip, "list", _list_allowed_ips, "list them")


def _add_allowed_ip(context: CommandContext, args: Namespace) -> CommandOutput:
    entry = allowed_ips.add_allowed_ip(
        context.conn,
        SHELL,
        accounts.get_account(context.conn, args.account),
        args.network,
        label=args.label,
        expires_at=None if args.expires is None else now_ms() + args.expires,
        limit=context.config.limits.ips_per_account,
    )
    return CommandOutput(_allowed_ip_to_dict(entry), _format_allowed_ips([entry]))


def _remove_allowed_ip(context: CommandContext, args: Namespace) -> CommandOutput:
    account = accounts.get_account(context.conn, args.account)
    entry = allowed_ips.get_allowed_ip_by_network(context.conn, account.id, args.network)
    removed_entry = allowed_ips.remove_allowed_ip(context.conn, SHELL, account, entry.id)
    return CommandOutput(_allowed_ip_to_dict(removed_entry), f"{removed_entry.network} removed")


def _list_allowed_ips(context: CommandContext, args: Namespace) -> CommandOutput:
    entries = allowed_ips.list_allowed_ips(context.conn, accounts.get_account(context.conn, args.account).id)
    return CommandOutput([_allowed_ip_to_dict(each) for each in entries], _format_allowed_ips(entries))


def _allowed_ip_to_dict(entry: AllowedIP) -> dict[str, object]:
    return {
        "id": entry.id,
        "network": entry.network,
        "label": entry.label,
        "expires_at": format_timestamp(entry.expires_at),
    }


def _format_allowed_ips(entries: list[AllowedIP]) -> str:
    return format_table(
        ("network", "expires", "label"),
        [(e.network, format_timestamp(e.expires_at) or "never", e.label) for e in entries],
    )
