"""`init`, `customer …` and `user …`: who there is."""

import sys
from argparse import ArgumentParser, Namespace

from portal import migrations
from portal.cli.shell import (
    CommandContext,
    CommandError,
    CommandOutput,
    Commands,
    add_command,
    add_command_group,
    add_database_command,
    format_names_and_values,
    format_table,
    format_timestamp,
    load_config,
    open_database,
)
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.core.i18n import DEFAULT_LANGUAGE, LANGUAGES
from portal.services.billing import auto_recredit
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.messages import text_policy
from portal.services.people import customers, enrolment, password_hashing, two_factor, users
from portal.services.people.users import User
from portal.services.prices import prices


def register_commands(commands: "Commands[ArgumentParser]") -> None:
    init = add_command(
        commands, "init", _init_installation, "make a fresh installation; prints the first operator's one-time link"
    )
    init.add_argument("--email", required=True, help="the first operator's address")

    customer = add_command_group(commands, "customer", "companies and teams that own accounts")
    add = add_database_command(customer, "add", _create_customer, "create a customer")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--email", required=True, help="contact address, where generated passwords go")
    add.add_argument("--language", choices=LANGUAGES, default=DEFAULT_LANGUAGE, help="of mails to that address")
    change = add_database_command(
        customer,
        "change",
        _change_customer,
        "set what automatic re-credit may do for one, what becomes of texts, and how long messages are kept",
    )
    change.add_argument("name", metavar="NAME")
    change.add_argument("--credit-line", metavar="N", help="credits that it may buy before they are paid; 0: none")
    change.add_argument("--min-age", type=int, metavar="DAYS", help="how old an account must be for it")
    change.add_argument("--texts", choices=text_policy.CHOICES, help="shown; hidden (from viewers); none: not kept")
    change.add_argument("--remove-stored", action="store_true", help="with none: the texts that are stored, too")
    change.add_argument(
        "--messages-months",
        type=int,
        metavar="N",
        help="how long messages are kept; 0: as [retention] of the settings says",
    )
    change.set_defaults(wrong_usage=change.error)
    add_database_command(customer, "list", _list_customers, "list the customers")

    user = add_command_group(commands, "user", "people who log in")
    add = add_database_command(user, "add", _create_user, "create a user; prints a one-time enrolment link")
    add.add_argument("--email", required=True)
    add.add_argument("--customer", metavar="NAME", help="whose user; without it, an operator")
    add.add_argument("--role", choices=users.ROLES, help="owner where there is a customer, otherwise operator")
    add.add_argument("--password-stdin", action="store_true", help="enrol at once; the password is stdin's first line")
    add.add_argument("--totp", action="store_true", help="with it: print the otpauth:// URI and the recovery codes")
    add.set_defaults(wrong_usage=add.error)
    link = add_database_command(
        user, "link", _renew_enrolment_link, "print a new one-time enrolment link; earlier ones end"
    )
    link.add_argument("email", metavar="EMAIL")
    listing = add_database_command(user, "list", _list_users, "list the users")
    listing.add_argument("--customer", metavar="NAME", help="only this customer's")


def _init_installation(args: Namespace) -> CommandOutput:
    config = load_config(args)
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not config.database_file.exists():
        Keys.create(config.data)
        migrations.migrate(config.database_file, keep_backups=config.retention.backups)
        config.database_file.chmod(0o600)
    with open_database(config) as context, write_transaction(context.conn):
        # What an earlier init left half done is finished by this one.
        if users.list_users(context.conn, None):
            raise CommandError(f"There is an installation in {config.data} already. A new link: user link EMAIL")
        user = users.create_user(context.conn, context.keys, SHELL, args.email, users.OPERATOR, None)
        prices.set_prices(context.conn, SHELL, prices.read_initial_prices())
        return _create_enrolment_link(context, user, "setup")


def _create_enrolment_link(context: CommandContext, user: User, kind: str) -> CommandOutput:
    link = f"{context.config.public_url}/{kind}/{enrolment.create_enrolment_link(context.conn, user)}"
    expires_at = format_timestamp(now_ms() + enrolment.LINK_VALID_MS)
    text = f"{link}\n\nGood once, until {expires_at}. Start the server (serve), then open it to choose a password."
    return CommandOutput({"email": user.email, "link": link, "expires_at": expires_at}, text)


def _create_customer(context: CommandContext, args: Namespace) -> CommandOutput:
    customer = customers.create_customer(context.conn, SHELL, args.name, args.email, args.language)
    return CommandOutput(_customer_to_dict(customer), format_names_and_values(_customer_to_dict(customer)))


def _change_customer(context: CommandContext, args: Namespace) -> CommandOutput:
    credit_line = None if args.credit_line is None else auto_recredit.parse_credit_line(args.credit_line)
    if args.remove_stored and args.texts != text_policy.NONE:
        args.wrong_usage("--remove-stored goes with --texts none")
    with write_transaction(context.conn):
        customer = customers.get_customer(context.conn, args.name)
        customers.change_customer(
            context.conn,
            SHELL,
            customer,
            credit_line=credit_line,
            min_age_days=args.min_age,
            messages_months=args.messages_months,
        )
        if args.texts is not None:
            text_policy.change_text_policy(context.conn, SHELL, customer, args.texts, remove_stored=args.remove_stored)
    customer = customers.get_customer(context.conn, args.name)
    values: dict[str, object] = {
        "name": customer.name,
        "credit_line": credit_amounts.credits_to_json_number(customer.credit_line),
        "owed": credit_amounts.credits_to_json_number(auto_recredit.get_owed_credits(context.conn, customer.id)),
        "min_age_days": customer.recredit_min_age_days,
        "texts": customer.texts,
        "messages_months": customer.messages_months or context.config.retention.messages_months,
    }
    return CommandOutput(values, format_names_and_values(values))


def _list_customers(context: CommandContext, args: Namespace) -> CommandOutput:
    rows = [_customer_to_dict(each) for each in customers.list_all_customers(context.conn)]
    return CommandOutput(rows, format_table(("name", "email", "language"), [list(each.values()) for each in rows]))


def _customer_to_dict(customer: customers.Customer) -> dict[str, object]:
    return {"name": customer.name, "email": customer.contact_email, "language": customer.language}


def _create_user(context: CommandContext, args: Namespace) -> CommandOutput:
    if args.password_stdin != args.totp:
        args.wrong_usage("--password-stdin and --totp belong together: everyone has both a password and TOTP")
    customer = customers.get_customer(context.conn, args.customer) if args.customer else None
    role = args.role or (users.OWNER if customer else users.OPERATOR)
    password_hash = password_hashing.hash_password(sys.stdin.readline().rstrip("\r\n")) if args.password_stdin else None
    with write_transaction(context.conn):
        user = users.create_user(context.conn, context.keys, SHELL, args.email, role, customer.id if customer else None)
        if password_hash is None:
            return _create_enrolment_link(context, user, "enrol")
        codes = enrolment.enrol_without_link(context.conn, SHELL, user, password_hash)
    uri = two_factor.format_totp_uri(
        context.keys, enrolment.read_totp_secret(context.conn, user), user.email, context.config.name
    )
    text = f"{uri}\n\nRecovery codes, each good once:\n" + "\n".join(f"  {code}" for code in codes)
    return CommandOutput({"email": user.email, "otpauth_uri": uri, "recovery_codes": codes}, text)


def _renew_enrolment_link(context: CommandContext, args: Namespace) -> CommandOutput:
    return _create_enrolment_link(context, users.get_user_by_email(context.conn, args.email), "enrol")


def _list_users(context: CommandContext, args: Namespace) -> CommandOutput:
    if args.customer:
        user_list = users.list_users(context.conn, customers.get_customer(context.conn, args.customer).id)
    else:
        customer_ids = [None, *(each.id for each in customers.list_all_customers(context.conn))]
        user_list = [user for customer_id in customer_ids for user in users.list_users(context.conn, customer_id)]
    rows = [
        {"email": each.email, "role": each.role, "customer": each.customer_name, "enrolled": each.enrolled}
        for each in user_list
    ]
    lines = [(each.email, each.role, each.customer_name, "yes" if each.enrolled else "no") for each in user_list]
    return CommandOutput(rows, format_table(("email", "role", "customer", "enrolled"), lines))
