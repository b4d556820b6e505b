"""`init`, `customer …` and `user …`: who there is."""

import sys
from argparse import ArgumentParser, Namespace

from portal import migrations
from portal.cli.shell import (
    Answer,
    Commands,
    Failure,
    Shell,
    command,
    database_command,
    group,
    iso,
    load_settings,
    opened,
    pairs,
    table,
)
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.core.db import immediate
from portal.core.i18n import DEFAULT_LANGUAGE, LANGUAGES
from portal.services.billing import auto_recredit
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.messages import text_policy
from portal.services.people import customers, enrolment, password_hashing, two_factor, users
from portal.services.people.users import User
from portal.services.prices import prices


def register(commands: "Commands[ArgumentParser]") -> None:
    init = command(commands, "init", _init, "make a fresh installation; prints the first operator's one-time link")
    init.add_argument("--email", required=True, help="the first operator's address")

    customer = group(commands, "customer", "companies and teams that own accounts")
    add = database_command(customer, "add", _add_customer, "create a customer")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--email", required=True, help="contact address, where generated passwords go")
    add.add_argument("--language", choices=LANGUAGES, default=DEFAULT_LANGUAGE, help="of mails to that address")
    change = database_command(
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
    database_command(customer, "list", _list_customers, "list the customers")

    user = group(commands, "user", "people who log in")
    add = database_command(user, "add", _add_user, "create a user; prints a one-time enrolment link")
    add.add_argument("--email", required=True)
    add.add_argument("--customer", metavar="NAME", help="whose user; without it, an operator")
    add.add_argument("--role", choices=users.ROLES, help="owner where there is a customer, otherwise operator")
    add.add_argument("--password-stdin", action="store_true", help="enrol at once; the password is stdin's first line")
    add.add_argument("--totp", action="store_true", help="with it: print the otpauth:// URI and the recovery codes")
    add.set_defaults(wrong_usage=add.error)
    link = database_command(user, "link", _new_link, "print a new one-time enrolment link; earlier ones end")
    link.add_argument("email", metavar="EMAIL")
    listing = database_command(user, "list", _list_users, "list the users")
    listing.add_argument("--customer", metavar="NAME", help="only this customer's")


def _init(args: Namespace) -> Answer:
    config = load_settings(args)
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not config.database.exists():
        Keys.create(config.data)
        migrations.migrate(config.database, keep_backups=config.retention.backups)
        config.database.chmod(0o600)
    with opened(config) as shell, immediate(shell.conn):
        # What an earlier init left half done is finished by this one.
        if users.of_customer(shell.conn, None):
            raise Failure(f"There is an installation in {config.data} already. A new link: user link EMAIL")
        user = users.add(shell.conn, shell.keys, SHELL, args.email, users.OPERATOR, None)
        prices.put(shell.conn, SHELL, prices.starting())
        return _link(shell, user, "setup")


def _link(shell: Shell, user: User, kind: str) -> Answer:
    link = f"{shell.config.public_url}/{kind}/{enrolment.new_link(shell.conn, user)}"
    ends = iso(now_ms() + enrolment.LINK_VALID_MS)
    text = f"{link}\n\nGood once, until {ends}. Start the server (serve), then open it to choose a password."
    return Answer({"email": user.email, "link": link, "expires_at": ends}, text)


def _add_customer(shell: Shell, args: Namespace) -> Answer:
    added = customers.add(shell.conn, SHELL, args.name, args.email, args.language)
    return Answer(_customer(added), pairs(_customer(added)))


def _change_customer(shell: Shell, args: Namespace) -> Answer:
    credit_line = None if args.credit_line is None else auto_recredit.parse_credit_line(args.credit_line)
    if args.remove_stored and args.texts != text_policy.NONE:
        args.wrong_usage("--remove-stored goes with --texts none")
    with immediate(shell.conn):
        customer = customers.by_name(shell.conn, args.name)
        customers.change(
            shell.conn,
            SHELL,
            customer,
            credit_line=credit_line,
            min_age_days=args.min_age,
            messages_months=args.messages_months,
        )
        if args.texts is not None:
            text_policy.change(shell.conn, SHELL, customer, args.texts, remove_stored=args.remove_stored)
    customer = customers.by_name(shell.conn, args.name)
    values: dict[str, object] = {
        "name": customer.name,
        "credit_line": credit_amounts.plain(customer.credit_line),
        "owed": credit_amounts.plain(auto_recredit.owed(shell.conn, customer.id)),
        "min_age_days": customer.recredit_min_age_days,
        "texts": customer.texts,
        "messages_months": customer.messages_months or shell.config.retention.messages_months,
    }
    return Answer(values, pairs(values))


def _list_customers(shell: Shell, args: Namespace) -> Answer:
    found = [_customer(each) for each in customers.everyone(shell.conn)]
    return Answer(found, table(("name", "email", "language"), [list(each.values()) for each in found]))


def _customer(customer: customers.Customer) -> dict[str, object]:
    return {"name": customer.name, "email": customer.contact_email, "language": customer.language}


def _add_user(shell: Shell, args: Namespace) -> Answer:
    if args.password_stdin != args.totp:
        args.wrong_usage("--password-stdin and --totp belong together: everyone has both a password and TOTP")
    customer = customers.by_name(shell.conn, args.customer) if args.customer else None
    role = args.role or (users.OWNER if customer else users.OPERATOR)
    password_hash = password_hashing.hash_password(sys.stdin.readline().rstrip("\r\n")) if args.password_stdin else None
    with immediate(shell.conn):
        user = users.add(shell.conn, shell.keys, SHELL, args.email, role, customer.id if customer else None)
        if password_hash is None:
            return _link(shell, user, "enrol")
        codes = enrolment.enrol_at_once(shell.conn, SHELL, user, password_hash)
    uri = two_factor.uri(shell.keys, enrolment.totp_secret(shell.conn, user), user.email, shell.config.name)
    text = f"{uri}\n\nRecovery codes, each good once:\n" + "\n".join(f"  {code}" for code in codes)
    return Answer({"email": user.email, "otpauth_uri": uri, "recovery_codes": codes}, text)


def _new_link(shell: Shell, args: Namespace) -> Answer:
    return _link(shell, users.by_email(shell.conn, args.email), "enrol")


def _list_users(shell: Shell, args: Namespace) -> Answer:
    if args.customer:
        found = users.of_customer(shell.conn, customers.by_name(shell.conn, args.customer).id)
    else:
        groups = [None, *(each.id for each in customers.everyone(shell.conn))]
        found = [user for customer_id in groups for user in users.of_customer(shell.conn, customer_id)]
    rows = [
        {"email": each.email, "role": each.role, "customer": each.customer_name, "enrolled": each.enrolled}
        for each in found
    ]
    lines = [(each.email, each.role, each.customer_name, "yes" if each.enrolled else "no") for each in found]
    return Answer(rows, table(("email", "role", "customer", "enrolled"), lines))
