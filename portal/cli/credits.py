"""`credits …`: balances, and what an operator gives, takes and moves."""

import click

from portal.cli.groups import CommandError
from portal.cli.shell import CommandContext, CommandOutput, add_group, format_timestamp, wrong_usage
from portal.core.db import write_transaction
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits, expiry
from portal.services.history import refunds

credits_group = add_group("credits")

_amount_argument = click.argument("amount", type=credit_amounts.parse_amount, metavar="N")
_reason_option = click.option(
    "--reason", required=True, metavar="T", help="Stands in the ledger, where the customer reads it."
)


@credits_group.command("show", example="credits show smpp-acme-1")
def _show_balance(context: CommandContext, account: Account) -> CommandOutput:
    """Show an account's balance, and what of it runs out."""
    output = _describe_balance(account, account.balance)
    rows = [
        {
            "amount": credit_amounts.credits_to_json_number(each.remaining),
            "expires_at": format_timestamp(each.expires_at),
        }
        for each in expiry.list_expiring_credit_lots(context.conn, account.id)
    ]
    if not rows:
        return output
    lines = [f"{row['amount']} of them run out at {row['expires_at']}" for row in rows]
    assert isinstance(output.value, dict)
    return CommandOutput(output.value | {"expiring": rows}, "\n".join([output.text, *lines]))


@credits_group.command("grant", example="credits grant smpp-acme-1 1000 --until 2027-12-31")
@_amount_argument
@click.option("--note", default="", metavar="T", help="Stands in the ledger.")
@click.option("--until", default="", metavar="DATE", help="The last day on which they are good: 2027-12-31.")
def _grant_credits(context: CommandContext, account: Account, amount: int, *, note: str, until: str) -> CommandOutput:
    """Give an account credits."""
    expires_at = expiry.parse_credit_expiry_date(until, context.config.timezone)
    return _describe_balance(
        account, credits.grant_credits(context.conn, SHELL, account, amount, note, expires_at=expires_at)
    )


@credits_group.command("transfer", example="credits transfer smpp-acme-1 smpp-acme-2 250")
@click.argument("source_name", metavar="FROM")
@click.argument("target_name", metavar="TO")
@_amount_argument
def _transfer_credits(context: CommandContext, source_name: str, target_name: str, amount: int) -> CommandOutput:
    """Move credits between two accounts of one customer."""
    source, target = (accounts.get_account(context.conn, name) for name in (source_name, target_name))
    balances = credits.transfer_credits(context.conn, SHELL, source, target, amount)
    outputs = [_describe_balance(account, balance) for account, balance in zip((source, target), balances, strict=True)]
    return CommandOutput({"from": outputs[0].value, "to": outputs[1].value}, "\n".join(each.text for each in outputs))


@credits_group.command("correct", example="credits correct smpp-acme-1 -20 --reason 'granted twice'")
@click.argument("amount", type=credit_amounts.parse_amount_change, metavar="±N")
@_reason_option
def _correct_balance(context: CommandContext, account: Account, amount: int, *, reason: str) -> CommandOutput:
    """Put a balance right: with a minus credits are taken away, as far as there are so many."""
    return _describe_balance(account, credits.correct_balance(context.conn, SHELL, account, amount, reason))


@credits_group.command("refund", example="credits refund smpp-acme-1 --message 4711 --reason 'sent twice'")
@click.argument("amount", type=credit_amounts.parse_amount, metavar="[N]", required=False)
@click.option("--message", type=int, metavar="ID", help="Give back what this message cost, once; leave out N.")
@_reason_option
def _refund_credits(
    context: CommandContext, account: Account, amount: int | None, *, message: int | None, reason: str
) -> CommandOutput:
    """Give credits back, or what a message cost."""
    if amount is None and message is None:
        wrong_usage("give N, or --message ID")
    with write_transaction(context.conn):
        if message is None:
            assert amount is not None
            credits.refund_credits(context.conn, SHELL, account, amount, reason)
        else:
            cost = refunds.refund_message(context.conn, SHELL, account, message, reason)
            if amount not in (None, cost):
                raise CommandError(
                    f"Message {message} cost {credit_amounts.credits_to_json_number(cost)}: leave N out, or give that."
                )
        return _describe_balance(account, credits.get_balance(context.conn, account.id))


def _describe_balance(account: Account, thousandths: int) -> CommandOutput:
    balance = credit_amounts.credits_to_json_number(thousandths)
    return CommandOutput({"account": account.name, "balance": balance}, f"{account.name}  {balance}")
