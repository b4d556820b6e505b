"""`password …`: passwords of SMPP accounts."""

import click

from portal.cli.shell import CommandContext, CommandOutput, add_group, parse_duration
from portal.services.accounts import credentials
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL, Actor
from portal.services.people import customers

password_group = add_group("password")


@password_group.command("regenerate", example="password regenerate smpp-acme-1 --grace 15m")
@click.option(
    "--grace", type=parse_duration, default="0", metavar="15m", help="How long the old one stays good, at most 24h."
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
