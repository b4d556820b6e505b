"""`account …`, `password …` and `ip …`: what an account has."""

from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from typing import Any

from portal.cli.shell import (
    Answer,
    Commands,
    Shell,
    account_command,
    database_command,
    duration,
    group,
    iso,
    pairs,
    table,
)
from portal.core.clock import now_ms
from portal.core.db import immediate
from portal.services.accounts import accounts, allowed_ips, credentials
from portal.services.accounts.accounts import Account
from portal.services.accounts.allowed_ips import AllowedIP
from portal.services.billing import auto_recredit
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL, Actor
from portal.services.credits import alerts, credits
from portal.services.people import customers

_CODINGS = {accounts.ASCII: "ASCII", accounts.LATIN_1: "Latin-1", accounts.BINARY: "binary"}
_CODINGS_HELP = "codings beside GSM 03.38 and UCS-2: " + ", ".join(f"{n} {name}" for n, name in _CODINGS.items())
_PACKED_HELP = "GSM 03.38 comes packed, eight characters in seven octets"
_LIMITS = (
    ("windowing", accounts.WINDOWING, "submits in flight on a connection"),
    ("throughput", accounts.THROUGHPUT, "submits a second on a connection"),
    ("binds", accounts.BINDS, "transceivers, or pairs of transmitter and receiver"),
)


def register(commands: "Commands[ArgumentParser]") -> None:
    _register_account(commands)
    _register_password(commands)
    _register_ip(commands)


# --- account


def _register_account(commands: "Commands[ArgumentParser]") -> None:
    account = group(commands, "account", "accounts that send SMS: smpp-… and classic (sms-…)")
    add = database_command(account, "add", _add, "create one; prints its system_id and password, the password once")
    add.add_argument("--customer", required=True, metavar="NAME")
    add.add_argument("--kind", choices=("smpp", "sms"), help="as the name says; otherwise smpp")
    add.add_argument("--name", default="", help="smpp-… or sms-…, at most 15 characters; made up when left out")
    add.add_argument("--description", default="", metavar="T")
    add.add_argument("--credits", metavar="N", help="granted at once")
    for name, default, help in _LIMITS:
        help = f"{help}; 0: no limit (default {default})"
        add.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help)
    add.add_argument("--any-sender", action="store_true", help="messages may carry any source address")
    add.add_argument("--data-coding", type=_data_codings, default=frozenset(), metavar="N,…", help=_CODINGS_HELP)
    add.add_argument("--packed-gsm", action="store_true", help=_PACKED_HELP)
    change = account_command(account, "change", _change, "change what one may do; open sessions go on under it")
    for name, _, help in _LIMITS:
        change.add_argument(f"--{name}", type=int, metavar="N", help=f"{help}; 0: no limit")
    change.add_argument("--any-sender", action=BooleanOptionalAction, help="messages may carry any source address")
    change.add_argument("--data-coding", type=_data_codings, metavar="N,…", help=f"{_CODINGS_HELP}, or none")
    change.add_argument("--packed-gsm", action=BooleanOptionalAction, help=_PACKED_HELP)
    account_command(account, "show", _show, "show one")
    database_command(account, "list", _list, "list all")
    alert = account_command(
        account, "alert", _alert, "mail when the balance falls below a threshold; without options: show it"
    )
    alert.add_argument("--below", metavar="N", help="credits; 0: no mail")
    alert.add_argument("--to", metavar="EMAIL,…", help="at most five; otherwise the customer's contact address")
    rule = account_command(
        account, "recredit", _recredit, "buy a pack when messages take the balance below a threshold"
    )
    rule.add_argument("--below", metavar="N", help="credits; 0: buy none; without options: show it")
    rule.add_argument("--pack", metavar="N", help="credits of the pack")
    rule.add_argument("--per-day", type=int, metavar="N", help="how many a day (UTC) at most (default 1)")
    account_command(account, "disable", _disable, "switch one off: its sessions are unbound, and nothing can bind")
    account_command(account, "enable", _enable, "switch one on again")


def _add(shell: Shell, args: Namespace) -> Answer:
    customer = customers.by_name(shell.conn, args.customer)
    kind = args.kind or ("sms" if args.name.startswith("sms-") else "smpp")
    with immediate(shell.conn):
        account = accounts.add(
            shell.conn,
            SHELL,
            customer.id,
            kind=kind,
            name=args.name,
            description=args.description,
            **_settings(args),
        )
        if args.credits not in (None, "0"):
            credits.grant(shell.conn, SHELL, account, credit_amounts.parse(args.credits))
        if kind == "sms":
            return Answer({"name": account.name, "system_id": None, "password": None}, account.name)
        password = credentials.regenerate(shell.conn, shell.keys, SHELL, account, send_mail=False)
    text = pairs({"system_id": account.name, "password": password})
    return Answer({"name": account.name, "system_id": account.name, "password": password}, text)


def _data_codings(text: str) -> frozenset[int]:
    """What `--data-coding` is given: numbers with commas between them, or none."""
    if text == "none":
        return frozenset()
    try:
        return frozenset(map(int, text.split(",")))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} isn't numbers with commas between them, like 1,3, or none") from None


def _change(shell: Shell, args: Namespace) -> Answer:
    accounts.change(shell.conn, SHELL, accounts.by_name(shell.conn, args.account), **_settings(args))
    return _show(shell, args)


def _settings(args: Namespace) -> dict[str, Any]:
    """What an account may do, as the shell was told."""
    return {
        "windowing": args.windowing,
        "throughput": args.throughput,
        "binds": args.binds,
        "any_sender": args.any_sender,
        "data_codings": args.data_coding,
        "packed_gsm": args.packed_gsm,
    }


def _show(shell: Shell, args: Namespace) -> Answer:
    return _shown(accounts.by_name(shell.conn, args.account))


def _alert(shell: Shell, args: Namespace) -> Answer:
    account = accounts.by_name(shell.conn, args.account)
    if args.below is not None or args.to is not None:
        below = account.alert_below if args.below is None else _threshold(args.below)
        to = account.alert_to if args.to is None else alerts.parse_addresses(args.to)
        alerts.set_rule(shell.conn, SHELL, account, below, to)
    return _rules(shell, args)


def _recredit(shell: Shell, args: Namespace) -> Answer:
    account = accounts.by_name(shell.conn, args.account)
    if (args.below, args.pack, args.per_day) != (None, None, None):
        below = account.recredit_below if args.below is None else _threshold(args.below)
        pack = account.recredit_pack if args.pack is None else credit_amounts.parse(args.pack)
        per_day = account.recredit_per_day if args.per_day is None else args.per_day
        auto_recredit.set_rule(shell.conn, SHELL, account, below, pack, per_day)
    return _rules(shell, args)


def _threshold(text: str) -> int | None:
    return None if text == "0" else credit_amounts.parse(text)


def _rules(shell: Shell, args: Namespace) -> Answer:
    """What happens when an account's credits run out."""
    account = accounts.by_name(shell.conn, args.account)
    amounts = {
        name: None if amount is None else credit_amounts.plain(amount)
        for name, amount in (
            ("alert_below", account.alert_below),
            ("recredit_below", account.recredit_below),
            ("recredit_pack", account.recredit_pack),
        )
    }
    values: dict[str, object] = {"name": account.name, **amounts, "recredit_per_day": account.recredit_per_day}
    shown = {name: "none" if value is None else value for name, value in values.items()}
    addresses = ", ".join(account.alert_to) or "the customer's contact address"
    return Answer(values | {"alert_to": list(account.alert_to)}, pairs(shown | {"alert_to": addresses}))


def _disable(shell: Shell, args: Namespace) -> Answer:
    accounts.disable(shell.conn, SHELL, accounts.by_name(shell.conn, args.account))
    return _show(shell, args)


def _enable(shell: Shell, args: Namespace) -> Answer:
    accounts.enable(shell.conn, SHELL, accounts.by_name(shell.conn, args.account))
    return _show(shell, args)


def _shown(account: Account) -> Answer:
    values = _values(account)
    limits = {name: values[name] or "no limit" for name in ("windowing", "throughput", "binds")}
    codings = ["GSM 03.38, packed" if account.packed_gsm else "GSM 03.38", "UCS-2"]
    codings += [_CODINGS[each] for each in sorted(account.data_codings)]
    return Answer(values, pairs(values | limits | {"codings": "; ".join(codings)}))


def _list(shell: Shell, args: Namespace) -> Answer:
    names = {each.id: each.name for each in customers.everyone(shell.conn)}
    rows = [_values(each) | {"customer": names[each.customer_id]} for each in accounts.of_customer(shell.conn)]
    head = ("name", "customer", "kind", "status", "balance")
    return Answer(rows, table(head, [[row[column] for column in head] for row in rows]))


def _values(account: Account) -> dict[str, object]:
    return {
        "name": account.name,
        "kind": account.kind,
        "status": account.status,
        "balance": credit_amounts.plain(account.balance),
        "windowing": account.windowing,
        "throughput": account.throughput,
        "binds": account.binds,
    }


# --- password


def _register_password(commands: "Commands[ArgumentParser]") -> None:
    password = group(commands, "password", "SMPP passwords")
    regenerate = account_command(password, "regenerate", _regenerate, "replace an account's; prints the new one, once")
    regenerate.add_argument(
        "--grace", type=duration, default=0, metavar="15m", help="how long the old one stays good, at most 24h"
    )
    regenerate.add_argument("--mail", action="store_true", help="send it to the contact address instead")


def _regenerate(shell: Shell, args: Namespace) -> Answer:
    account = accounts.by_name(shell.conn, args.account)
    contact = customers.by_id(shell.conn, account.customer_id)
    actor = Actor(SHELL.name, language=contact.language)
    password = credentials.regenerate(shell.conn, shell.keys, actor, account, grace=args.grace, send_mail=args.mail)
    if args.mail:
        return Answer({"password": None, "sent_to": contact.contact_email}, f"sent to {contact.contact_email}")
    return Answer({"password": password}, password)


# --- ip


def _register_ip(commands: "Commands[ArgumentParser]") -> None:
    ip = group(commands, "ip", "addresses from which an account's clients may bind")
    add = account_command(ip, "add", _add_ip, "authorise an address or a range")
    add.add_argument("network", metavar="IP|CIDR")
    add.add_argument("--label", default="", metavar="T")
    add.add_argument("--expires", type=duration, metavar="8h", help="good for so long; without it, until removed")
    remove = account_command(
        ip, "remove", _remove_ip, "take one off the list: sessions that only it allowed are unbound"
    )
    remove.add_argument("network", metavar="IP|CIDR")
    account_command(ip, "list", _list_ips, "list them")


def _add_ip(shell: Shell, args: Namespace) -> Answer:
    added = allowed_ips.add(
        shell.conn,
        SHELL,
        accounts.by_name(shell.conn, args.account),
        args.network,
        label=args.label,
        expires_at=None if args.expires is None else now_ms() + args.expires,
        limit=shell.config.limits.ips_per_account,
    )
    return Answer(_ip(added), _ips([added]))


def _remove_ip(shell: Shell, args: Namespace) -> Answer:
    account = accounts.by_name(shell.conn, args.account)
    entry = allowed_ips.by_network(shell.conn, account.id, args.network)
    removed = allowed_ips.remove(shell.conn, SHELL, account, entry.id)
    return Answer(_ip(removed), f"{removed.network} removed")


def _list_ips(shell: Shell, args: Namespace) -> Answer:
    entries = allowed_ips.of_account(shell.conn, accounts.by_name(shell.conn, args.account).id)
    return Answer([_ip(each) for each in entries], _ips(entries))


def _ip(entry: AllowedIP) -> dict[str, object]:
    return {"id": entry.id, "network": entry.network, "label": entry.label, "expires_at": iso(entry.expires_at)}


def _ips(entries: list[AllowedIP]) -> str:
    return table(("network", "expires", "label"), [(e.network, iso(e.expires_at) or "never", e.label) for e in entries])
