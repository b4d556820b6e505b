"""`account add` and `password …`: what makes a password."""

from typing import Any

import click

from portal.cli.accounts import (
    ANY_SENDER_HELP,
    PACKED_GSM_HELP,
    account_group,
    binds_option,
    data_coding_option,
    throughput_option,
    windowing_option,
)
from portal.cli.groups import add_group
from portal.cli.shell import (
    Amount,
    CommandContext,
    CommandOutput,
    Duration,
    account_argument,
    format_names_and_values,
)
from portal.core.db import write_transaction
from portal.services.accounts import accounts, credentials
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL, Actor
from portal.services.credits import credits
from portal.services.people import customers

_DEFAULT_LIMITS = {
    "windowing": accounts.DEFAULT_WINDOWING,
    "throughput": accounts.DEFAULT_THROUGHPUT,
    "binds": accounts.DEFAULT_BINDS,
}

password_group = add_group("password")


@account_group.command(
    "add",
    example="account add --customer Acme --name smpp-acme-1 --credits 1000",
    context_settings={"default_map": _DEFAULT_LIMITS, "show_default": True},
)
@click.option("--customer", "customer_name", required=True, metavar="NAME")
@click.option("--kind", type=click.Choice(("smpp", "sms")), help="As the name says; otherwise smpp.")
@click.option("--name", default="", help="smpp-… or sms-…, at most 15 characters; made up when left out.")
@click.option("--description", default="", metavar="T")
@click.option("--credits", "amount", metavar="N", help="Granted at once.")
@windowing_option
@throughput_option
@binds_option
@click.option("--any-sender", is_flag=True, help=ANY_SENDER_HELP)
@data_coding_option
@click.option("--packed-gsm", is_flag=True, help=PACKED_GSM_HELP)
def _create_account(
    context: CommandContext,
    *,
    customer_name: str,
    kind: str | None,
    name: str,
    amount: str | None,
    data_codings: frozenset[int] | None,
    **account_settings: Any,
) -> CommandOutput:
    """Create one; prints its system_id and password, the password once."""
    customer = customers.get_customer(context.conn, customer_name)
    kind = kind or ("sms" if name.startswith("sms-") else "smpp")
    with write_transaction(context.conn):
        account = accounts.create_account(
            context.conn,
            SHELL,
            customer.id,
            kind=kind,
            name=name,
            data_codings=data_codings or frozenset(),
            **account_settings,
        )
        if amount not in (None, "0"):
            credits.grant_credits(context.conn, SHELL, account, Amount().convert(amount, None, None))
        if kind == "sms":
            return CommandOutput({"name": account.name, "system_id": None, "password": None}, account.name)
        password = credentials.regenerate_smpp_password(context.conn, context.keys, SHELL, account, send_mail=False)
    text = format_names_and_values({"system_id": account.name, "password": password})
    return CommandOutput({"name": account.name, "system_id": account.name, "password": password}, text)


@password_group.command("regenerate", example="password regenerate smpp-acme-1 --grace 15m")
@account_argument
@click.option(
    "--grace", type=Duration(), default=0, metavar="15m", help="How long the old one stays good, at most 24h."
)
@click.option("--mail", is_flag=True, help="Send it to the contact address instead.")
def _regenerate_password(context: CommandContext, account: Account, *, grace: int, mail: bool) -> CommandOutput:
    """Replace an account's; prints the new one, once."""
    contact = customers.get_customer_by_id(context.conn, account.customer_id)
    actor = Actor(SHELL.name, language=contact.language)
    password = credentials.regenerate_smpp_password(
        context.conn, context.keys, actor, account, grace_ms=grace, send_mail=mail
    )
    if mail:
        return CommandOutput({"password": None, "sent_to": contact.contact_email}, f"sent to {contact.contact_email}")
    return CommandOutput({"password": password}, password)
