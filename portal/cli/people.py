"""`init`, `customer …` and `user …`: who there is."""

from dataclasses import replace

import click

from portal import migrations
from portal.cli.groups import CommandError, CommonOptions
from portal.cli.months import month_option, parse_month_option
from portal.cli.shell import (
    Command,
    CommandContext,
    CommandOutput,
    add_group,
    describe,
    format_timestamp,
    list_rows,
    load_config,
    lock_and_migrate_database,
    named_argument,
    open_database,
    read_password,
    root_command,
    wrong_usage,
)
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.core.i18n import DEFAULT_LANGUAGE, LANGUAGES
from portal.services.billing import auto_recredit
from portal.services.brakes import brakes
from portal.services.brakes.brakes import Brakes
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.messages import text_policy
from portal.services.operations import database_key
from portal.services.people import authentication, customers, two_factor, users
from portal.services.people.customers import Customer
from portal.services.people.users import User
from portal.services.prices import prices
from portal.services.statistics import customer_usage
from portal.services.statistics.customer_usage import CustomerUsage

customer_group = add_group("customer", customer=named_argument("NAME", customers.get_customer))
user_group = add_group("user")


@root_command("init", cls=Command, example="init --email olga@portal.example")
@click.option("--email", required=True, help="The first operator's address.")
@click.option("--countries", metavar="CC,…", help="Those that new accounts send to, as IT,FR (brake default).")
def _init_installation(options: CommonOptions, *, email: str, countries: str | None) -> CommandOutput:
    allowed = brakes.parse_countries(countries or "")
    config = load_config(options)
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    # An init that was stopped may have left an empty database.
    if len(migrations.list_pending_migrations(config.database_file)) == len(migrations.KNOWN_NAMES):
        Keys.create(config.data)
        with lock_and_migrate_database(config):
            config.database_file.chmod(0o600)
    with open_database(config) as context, write_transaction(context.conn):
        # What an earlier init left half done is finished by this one.
        if users.list_users(context.conn, None):
            raise CommandError(
                f"There is an installation in {config.data} already. A new link:"
                f" {config.format_command('user link EMAIL')}"
            )
        user = users.create_user(context.conn, context.keys, SHELL, email, users.OPERATOR, None)
        prices.set_prices(context.conn, SHELL, prices.read_initial_prices())
        if allowed is not None:
            brakes.set_default_brakes(context.conn, SHELL, Brakes(allowed))
        return _format_link(context, user, "setup", authentication.create_enrolment_link(context.conn, user))


def _format_link(context: CommandContext, user: User, kind: str, token: str) -> CommandOutput:
    link = f"{context.config.public_url}/{kind}/{token}"
    expires_at = format_timestamp(now_ms() + authentication.LINK_VALID_MS)
    text = f"{link}\n\nGood once, until {expires_at}. Start the server (serve), then open it to choose a password."
    return CommandOutput({"email": user.email, "link": link, "expires_at": expires_at}, text)


@customer_group.command("add", example="customer add Acme --email marta@acme.example")
@click.argument("customer_name", metavar="NAME")
@click.option("--email", required=True, help="Contact address, where generated passwords go.")
@click.option(
    "--language", type=click.Choice(list(LANGUAGES)), default=DEFAULT_LANGUAGE, help="Of mails to that address."
)
def _create_customer(context: CommandContext, customer_name: str, *, email: str, language: str) -> CommandOutput:
    """Create a customer."""
    customer = customers.create_customer(context.conn, SHELL, customer_name, email, language)
    return describe(_customer_to_dict(customer))


@customer_group.command("change", example="customer change Acme --credit-line 500 --messages-months 6")
@click.option(
    "--credit-line",
    type=auto_recredit.parse_credit_line,
    metavar="N",
    help="Credits that it may buy before they are paid; 0: none.",
)
@click.option("--min-age", "min_age_days", type=int, metavar="DAYS", help="How old an account must be for it.")
@click.option("--texts", type=click.Choice(text_policy.CHOICES), help="Shown; hidden (from viewers); none: not kept.")
@click.option("--remove-stored", is_flag=True, help="With none: the texts that are stored, too.")
@click.option(
    "--messages-months",
    type=int,
    metavar="N",
    help="How long messages are kept; 0: as [retention] of the settings says.",
)
def _change_customer(
    context: CommandContext, customer: Customer, *, texts: str | None, remove_stored: bool, **limits: int | None
) -> CommandOutput:
    """Set what automatic re-credit may do for one, what becomes of texts, and how long messages are kept."""
    if remove_stored and texts != text_policy.NONE:
        wrong_usage("--remove-stored goes with --texts none")
    with write_transaction(context.conn):
        customers.change_customer(context.conn, SHELL, customer, **limits)
        if texts is not None:
            text_policy.change_text_policy(context.conn, SHELL, customer, texts, remove_stored=remove_stored)
    customer = customers.get_customer(context.conn, customer.name)
    owed = auto_recredit.get_owed_credits(context.conn, customer.id)
    return describe(
        {
            "name": customer.name,
            "credit_line": credit_amounts.credits_to_json_number(customer.credit_line),
            "owed": credit_amounts.credits_to_json_number(owed),
            "min_age_days": customer.recredit_min_age_days,
            "texts": customer.texts,
            "messages_months": customer.messages_months or context.config.retention.messages_months,
        }
    )


@customer_group.command("list", example="customer list")
def _list_customers(context: CommandContext) -> CommandOutput:
    """List the customers."""
    rows = [_customer_to_dict(each) for each in customers.list_all_customers(context.conn)]
    return list_rows(rows, ("name", "email", "language"))


def _customer_to_dict(customer: Customer) -> dict[str, object]:
    return {"name": customer.name, "email": customer.contact_email, "language": customer.language}


@customer_group.command("usage", example="customer usage --month 2026-11")
@month_option
def _list_customer_usage(context: CommandContext, *, month: str | None) -> CommandOutput:
    """Say what all have sent in a month (UTC), by account and country: for invoices."""
    rows: list[dict[str, object]] = [
        {**each._asdict(), "credits": credit_amounts.credits_to_json_number(each.credits)}
        for each in customer_usage.iterate_customer_usage(context.conn, parse_month_option(month))
    ]
    return list_rows(rows, CustomerUsage._fields)


@user_group.command("add", example="user add --email alice@acme.example --customer Acme --role viewer")
@click.option("--email", required=True)
@click.option("--customer", "customer_name", metavar="NAME", help="Whose user; without it, an operator.")
@click.option(
    "--role", type=click.Choice(list(users.ROLES)), help="Owner where there is a customer, otherwise operator."
)
@click.option("--password-stdin", is_flag=True, help="Enrol at once; the password is stdin's first line.")
@click.option("--totp", is_flag=True, help="With it: print the otpauth:// URI and the recovery codes.")
def _create_user(
    context: CommandContext,
    *,
    email: str,
    customer_name: str | None,
    role: str | None,
    password_stdin: bool,
    totp: bool,
) -> CommandOutput:
    """Create a user; prints a one-time enrolment link."""
    if password_stdin != totp:
        wrong_usage("--password-stdin and --totp belong together: everyone has both a password and TOTP")
    customer = customers.get_customer(context.conn, customer_name) if customer_name else None
    role = role or (users.OWNER if customer else users.OPERATOR)
    names = (email, customer_name or "", *context.config.known_names)
    password_hash = authentication.hash_new_password(read_password(), names) if password_stdin else None
    with write_transaction(context.conn):
        user = users.create_user(context.conn, context.keys, SHELL, email, role, customer.id if customer else None)
        if password_hash is None:
            return _format_link(context, user, "enrol", authentication.create_enrolment_link(context.conn, user))
        codes = authentication.enrol_user(context.conn, context.keys, SHELL, user, password_hash)
    uri = two_factor.format_totp_uri(
        context.keys, authentication.read_totp_secret(context.conn, user), user.email, context.config.name
    )
    text = f"{uri}\n\nRecovery codes, each good once:\n" + "\n".join(f"  {code}" for code in codes)
    return CommandOutput({"email": user.email, "otpauth_uri": uri, "recovery_codes": codes}, text)


@user_group.command("link", cls=Command, example="user link alice@acme.example")
@click.argument("email", metavar="EMAIL")
@click.option(
    "--new-key",
    is_flag=True,
    help="The old secret.key is lost for good, and there is a new one. For an operator, who begins anew under it.",
)
def _renew_enrolment_link(options: CommonOptions, email: str, *, new_key: bool) -> CommandOutput:
    """Print a new one-time link; password, authenticator and earlier links end at once."""
    with open_database(load_config(options), any_key=new_key) as context, write_transaction(context.conn):
        user = users.get_user_by_email(context.conn, email)
        if new_key:
            _require_new_key(context, user)
            authentication.end_all_links(context.conn)
        token = authentication.reset_enrolment(context.conn, context.keys, SHELL, user)
        output = _format_link(context, user, "enrol", token)
        return replace(output, problem=_describe_lost_key(context)) if new_key else output


def _require_new_key(context: CommandContext, user: User) -> None:
    """Raises: CommandError, unless the key opens nothing of the database, and the user is an operator."""
    if user.role != users.OPERATOR:
        raise CommandError(f"{user.email} is no operator: --new-key begins with one, who gives the others new links.")
    _ = context.keys
    if database_key.is_key_of_database(context.conn, context.config.data):
        raise CommandError("secret.key belongs to this database already: leave --new-key out.")


def _describe_lost_key(context: CommandContext) -> str:
    people = database_key.count_unopened_secrets(context.conn, context.keys)
    account_count = context.conn.execute("SELECT count(DISTINCT account_id) FROM smpp_passwords").fetchone()[0]
    return (
        f"The database is this key's now. People who need a new link before they can log in: {people}. SMPP accounts"
        f" that need a new password before they can bind: {account_count}. If the old key is found after all, put it"
        " back and give the same command again: what was made under that one is good again."
    )


@user_group.command("list", example="user list --customer Acme")
@click.option("--customer", "customer_name", metavar="NAME", help="Only this customer's.")
def _list_users(context: CommandContext, *, customer_name: str | None) -> CommandOutput:
    """List the users."""
    if customer_name:
        user_list = users.list_users(context.conn, customers.get_customer(context.conn, customer_name).id)
    else:
        customer_ids = [None, *(each.id for each in customers.list_all_customers(context.conn))]
        user_list = [user for customer_id in customer_ids for user in users.list_users(context.conn, customer_id)]
    rows: list[dict[str, object]] = [
        {"email": each.email, "role": each.role, "customer": each.customer_name, "enrolled": each.enrolled}
        for each in user_list
    ]
    return list_rows(rows, ("email", "role", "customer", "enrolled"))
