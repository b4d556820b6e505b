"""`credits …`: balances, and what an operator gives, takes and moves."""

from argparse import ArgumentParser, Namespace

from portal.cli.shell import (
    CommandContext,
    CommandError,
    CommandOutput,
    Commands,
    add_account_command,
    add_command_group,
    add_database_command,
    format_timestamp,
)
from portal.core.db import write_transaction
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits, expiry
from portal.services.history import refunds

_REASON_HELP = "stands in the ledger, where the customer reads it"


def register_commands(commands: "Commands[ArgumentParser]") -> None:
    credit = add_command_group(commands, "credits", "balances")
    add_account_command(credit, "show", _show_balance, "show an account's balance, and what of it runs out")
    grant = add_account_command(credit, "grant", _grant_credits, "give an account credits")
    grant.add_argument("amount", metavar="N")
    grant.add_argument("--note", default="", metavar="T", help="stands in the ledger")
    grant.add_argument("--until", default="", metavar="DATE", help="the last day on which they are good: 2027-12-31")
    transfer = add_database_command(
        credit, "transfer", _transfer_credits, "move credits between two accounts of one customer"
    )
    for name in ("source", "target"):
        transfer.add_argument(name, metavar={"source": "FROM", "target": "TO"}[name])
    transfer.add_argument("amount", metavar="N")
    correct = add_account_command(credit, "correct", _correct_balance, "put a balance right")
    correct.add_argument("amount", metavar="±N", help="with a minus they are taken away, as far as there are so many")
    correct.add_argument("--reason", required=True, metavar="T", help=_REASON_HELP)
    refund = add_account_command(credit, "refund", _refund_credits, "give credits back, or what a message cost")
    refund.add_argument("amount", nargs="?", metavar="N", help="left out with --message")
    refund.add_argument("--message", type=int, metavar="ID", help="give back what this message cost, once")
    refund.add_argument("--reason", required=True, metavar="T", help=_REASON_HELP)
    refund.set_defaults(wrong_usage=refund.error)


def _show_balance(context: CommandContext, args: Namespace) -> CommandOutput:
    account = accounts.get_account(context.conn, args.account)
    output, lots = (
        _describe_balance(account, account.balance),
        expiry.list_expiring_credit_lots(context.conn, account.id),
    )
    if not lots:
        return output
    rows = [
        {
            "amount": credit_amounts.credits_to_json_number(each.remaining),
            "expires_at": format_timestamp(each.expires_at),
        }
        for each in lots
    ]
    lines = [f"{row['amount']} of them run out at {row['expires_at']}" for row in rows]
    assert isinstance(output.value, dict)
    return CommandOutput(output.value | {"expiring": rows}, "\n".join([output.text, *lines]))


def _grant_credits(context: CommandContext, args: Namespace) -> CommandOutput:
    account = accounts.get_account(context.conn, args.account)
    amount, expires_at = (
        credit_amounts.parse_amount(args.amount),
        expiry.parse_credit_expiry_date(args.until, context.config.timezone),
    )
    return _describe_balance(
        account, credits.grant_credits(context.conn, SHELL, account, amount, args.note, expires_at=expires_at)
    )


def _transfer_credits(context: CommandContext, args: Namespace) -> CommandOutput:
    source, target = (accounts.get_account(context.conn, name) for name in (args.source, args.target))
    balances = credits.transfer_credits(context.conn, SHELL, source, target, credit_amounts.parse_amount(args.amount))
    outputs = [_describe_balance(account, balance) for account, balance in zip((source, target), balances, strict=True)]
    return CommandOutput(
        dict(zip(("from", "to"), [each.value for each in outputs], strict=True)),
        "\n".join(each.text for each in outputs),
    )


def _correct_balance(context: CommandContext, args: Namespace) -> CommandOutput:
    account = accounts.get_account(context.conn, args.account)
    return _describe_balance(
        account,
        credits.correct_balance(
            context.conn, SHELL, account, credit_amounts.parse_amount_change(args.amount), args.reason
        ),
    )


def _refund_credits(context: CommandContext, args: Namespace) -> CommandOutput:
    if args.amount is None and args.message is None:
        args.wrong_usage("give N, or --message ID")
    account = accounts.get_account(context.conn, args.account)
    amount = None if args.amount is None else credit_amounts.parse_amount(args.amount)
    with write_transaction(context.conn):
        if args.message is None:
            assert amount is not None
            credits.refund_credits(context.conn, SHELL, account, amount, args.reason)
        else:
            cost = refunds.refund_message(context.conn, SHELL, account, args.message, args.reason)
            if amount not in (None, cost):
                raise CommandError(
                    f"Message {args.message} cost {credit_amounts.credits_to_json_number(cost)}:"
                    " leave N out, or give that."
                )
        return _describe_balance(account, credits.get_balance(context.conn, account.id))


def _describe_balance(account: Account, thousandths: int) -> CommandOutput:
    balance = credit_amounts.credits_to_json_number(thousandths)
    return CommandOutput({"account": account.name, "balance": balance}, f"{account.name}  {balance}")
