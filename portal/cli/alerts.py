"""`account alert` and `account recredit`: what happens when an account's credits run out."""

import click

from portal.cli.accounts import account_group
from portal.cli.shell import (
    Amount,
    CommandContext,
    CommandOutput,
    account_argument,
    format_names_and_values,
)
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import alerts


@account_group.command("alert", example="account alert smpp-acme-1 --below 100 --to ops@acme.example")
@account_argument
@click.option("--below", metavar="N", help="Credits; 0: no mail.")
@click.option("--to", metavar="EMAIL,…", help="At most five; otherwise the customer's contact address.")
def _change_alert(context: CommandContext, account: Account, *, below: str | None, to: str | None) -> CommandOutput:
    """Mail when the balance falls below a threshold; without options: show it."""
    if below is not None or to is not None:
        threshold = account.alert_below if below is None else _parse_credit_threshold(below)
        addresses = account.alert_to if to is None else alerts.parse_email_addresses(to)
        alerts.set_alert_rule(context.conn, SHELL, account, threshold, addresses)
    return _describe_alert_recredit_rules(accounts.get_account(context.conn, account.name))


@account_group.command("recredit", example="account recredit smpp-acme-1 --below 100 --pack 1000")
@account_argument
@click.option("--below", metavar="N", help="Credits; 0: buy none; without options: show it.")
@click.option("--pack", type=Amount(), metavar="N", help="Credits of the pack.")
@click.option("--per-day", type=int, metavar="N", help="How many a day (UTC) at most (default 1).")
def _change_recredit(
    context: CommandContext, account: Account, *, below: str | None, pack: int | None, per_day: int | None
) -> CommandOutput:
    """Buy a pack when messages take the balance below a threshold."""
    if (below, pack, per_day) != (None, None, None):
        threshold = account.recredit_below if below is None else _parse_credit_threshold(below)
        pack = account.recredit_pack if pack is None else pack
        per_day = account.recredit_per_day if per_day is None else per_day
        auto_recredit.set_recredit_rule(context.conn, SHELL, account, threshold, pack, per_day)
    return _describe_alert_recredit_rules(accounts.get_account(context.conn, account.name))


def _parse_credit_threshold(text: str) -> int | None:
    return None if text == "0" else credit_amounts.parse_amount(text)


def _describe_alert_recredit_rules(account: Account) -> CommandOutput:
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
