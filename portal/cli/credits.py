"""`credits …`: balances, and what an operator gives, takes and moves."""

from argparse import ArgumentParser, Namespace

from portal.cli.shell import Answer, Commands, Failure, Shell, account_command, database_command, group, iso
from portal.core.db import immediate
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits, expiry
from portal.services.history import refunds

_REASON = "stands in the ledger, where the customer reads it"


def register(commands: "Commands[ArgumentParser]") -> None:
    credit = group(commands, "credits", "balances")
    account_command(credit, "show", _show, "show an account's balance, and what of it runs out")
    grant = account_command(credit, "grant", _grant, "give an account credits")
    grant.add_argument("amount", metavar="N")
    grant.add_argument("--note", default="", metavar="T", help="stands in the ledger")
    grant.add_argument("--until", default="", metavar="DATE", help="the last day on which they are good: 2027-12-31")
    transfer = database_command(credit, "transfer", _transfer, "move credits between two accounts of one customer")
    for name in ("source", "target"):
        transfer.add_argument(name, metavar={"source": "FROM", "target": "TO"}[name])
    transfer.add_argument("amount", metavar="N")
    correct = account_command(credit, "correct", _correct, "put a balance right")
    correct.add_argument("amount", metavar="±N", help="with a minus they are taken away, as far as there are so many")
    correct.add_argument("--reason", required=True, metavar="T", help=_REASON)
    refund = account_command(credit, "refund", _refund, "give credits back, or what a message cost")
    refund.add_argument("amount", nargs="?", metavar="N", help="left out with --message")
    refund.add_argument("--message", type=int, metavar="ID", help="give back what this message cost, once")
    refund.add_argument("--reason", required=True, metavar="T", help=_REASON)
    refund.set_defaults(wrong_usage=refund.error)


def _show(shell: Shell, args: Namespace) -> Answer:
    account = accounts.by_name(shell.conn, args.account)
    answer, lots = _balance(account, account.balance), expiry.upcoming(shell.conn, account.id)
    if not lots:
        return answer
    rows = [{"amount": credit_amounts.plain(each.left), "expires_at": iso(each.expires_at)} for each in lots]
    lines = [f"{row['amount']} of them run out at {row['expires_at']}" for row in rows]
    assert isinstance(answer.value, dict)
    return Answer(answer.value | {"expiring": rows}, "\n".join([answer.text, *lines]))


def _grant(shell: Shell, args: Namespace) -> Answer:
    account = accounts.by_name(shell.conn, args.account)
    amount, ends = credit_amounts.parse(args.amount), expiry.end_of_day(args.until, shell.config.timezone)
    return _balance(account, credits.grant(shell.conn, SHELL, account, amount, args.note, expires_at=ends))


def _transfer(shell: Shell, args: Namespace) -> Answer:
    source, target = (accounts.by_name(shell.conn, name) for name in (args.source, args.target))
    balances = credits.transfer(shell.conn, SHELL, source, target, credit_amounts.parse(args.amount))
    answers = [_balance(account, after) for account, after in zip((source, target), balances, strict=True)]
    return Answer(
        dict(zip(("from", "to"), [each.value for each in answers], strict=True)),
        "\n".join(each.text for each in answers),
    )


def _correct(shell: Shell, args: Namespace) -> Answer:
    account = accounts.by_name(shell.conn, args.account)
    return _balance(
        account, credits.correct(shell.conn, SHELL, account, credit_amounts.parse_change(args.amount), args.reason)
    )


def _refund(shell: Shell, args: Namespace) -> Answer:
    if args.amount is None and args.message is None:
        args.wrong_usage("give N, or --message ID")
    account = accounts.by_name(shell.conn, args.account)
    amount = None if args.amount is None else credit_amounts.parse(args.amount)
    with immediate(shell.conn):
        if args.message is None:
            assert amount is not None
            credits.refund(shell.conn, SHELL, account, amount, args.reason)
        else:
            cost = refunds.refund_message(shell.conn, SHELL, account, args.message, args.reason)
            if amount not in (None, cost):
                raise Failure(f"Message {args.message} cost {credit_amounts.plain(cost)}: leave N out, or give that.")
        return _balance(account, credits.balance(shell.conn, account.id))


def _balance(account: Account, thousandths: int) -> Answer:
    plain = credit_amounts.plain(thousandths)
    return Answer({"account": account.name, "balance": plain}, f"{account.name}  {plain}")
