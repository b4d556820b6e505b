"""The operator's list of customers, the page of one with its users and accounts, and the page of an account."""

from collections import defaultdict
from typing import Any

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import BooleanField, SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core.db import write_transaction
from portal.core.gsm0338 import Encoding
from portal.core.i18n import N_, _
from portal.services.accounts import accounts, credentials, session_records
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit
from portal.services.brakes import brakes
from portal.services.messages import account_requests, inbound_numbers, smpp_config, text_policy
from portal.services.operations import alerts, daily_self_check
from portal.services.people import authentication, customers, users
from portal.services.people.customers import Customer
from portal.services.people.users import User
from portal.services.prices import countries, price_lists
from portal.services.senders import senders
from portal.web.core import access, brake_forms, context, htmx
from portal.web.core.brake_forms import BrakesForm
from portal.web.core.forms import OnceForm, TranslatedForm, refusals_on

blueprint = Blueprint("admin_customers", __name__, url_prefix="/admin")

_DATA_CODING_FIELDS = {"ascii": Encoding.ASCII, "latin_1": Encoding.LATIN_1, "binary": Encoding.BINARY}
# Of all accounts; the others are shown when these have been answered.
_MAX_REQUESTS = 10
_HEADER_TEMPLATES = ("_account_status.html", "_account_figures.html")


class CustomerForm(TranslatedForm):
    name = StringField(N_("Name"))
    email = StringField(N_("Contact e-mail address"))


class UserForm(TranslatedForm):
    email = StringField(N_("E-mail address"))
    role = SelectField(
        N_("Role"),
        choices=[
            SelectChoice(users.OWNER, N_("Owner")),
            SelectChoice(users.MANAGER, N_("Manager")),
            SelectChoice(users.VIEWER, N_("Viewer: changes nothing")),
        ],
    )


class AccountForm(TranslatedForm):
    kind = SelectField(N_("Kind"), choices=[SelectChoice("smpp", "SMPP"), SelectChoice("sms", N_("SMS (classic)"))])
    name = StringField(N_("Name"))
    description = StringField(N_("Description"))


class GrantCreditsForm(OnceForm):
    amount = StringField(N_("Credits"))
    note = StringField(N_("Note"))
    # The stylesheet knows a field #until, which another choice brings.
    until = StringField(N_("Valid until"), id="valid-until")


class AccountLimitsForm(TranslatedForm):
    """What an account may do; `ascii`, `latin_1` and `binary` are data codings."""

    windowing = StringField(N_("Windowing"))
    throughput = StringField(N_("Permitted throughput"))
    binds = StringField(N_("Binds at the same time"))
    any_sender = BooleanField(N_("Any sender, without approval"))
    ascii = BooleanField(N_("ASCII (data_coding 1)"))
    latin_1 = BooleanField(N_("Latin-1 (data_coding 3)"))
    binary = BooleanField(N_("Binary (data_coding 4)"))
    packed_gsm = BooleanField(N_("GSM 03.38 comes packed: eight characters in seven octets"))
    national_numbers = SelectField(
        N_("Destinations with TON 2 (national)"),
        choices=[
            SelectChoice(accounts.NATIONAL_IGNORED, N_("Read as E.164, as with any TON")),
            SelectChoice(accounts.NATIONAL_REFUSED, N_("Refused with an error")),
        ],
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        group = _("Read as national numbers of")
        countries_of_numbers = [SelectChoice(code, name, optgroup=group) for code, name in countries.list_countries()]
        self.national_numbers.choices = [*self.national_numbers.choices, *countries_of_numbers]


class InboundNumberForm(TranslatedForm):
    number = StringField(N_("Number or short code"))
    keyword = StringField(N_("Keyword"))


@blueprint.get("/")
@access.operator_required
def list_customers() -> ResponseReturnValue:
    """All customers with their accounts. Query: `q`, words that a customer or an account has to hold."""
    return _render_customers_page(CustomerForm())


@blueprint.post("/customers")
@access.operator_required
def create_customer() -> ResponseReturnValue:
    form = CustomerForm()
    with refusals_on(form):
        customer = customers.create_customer(context.get_conn(), context.get_actor(), form.name.data, form.email.data)
        toast = htmx.Toast(_("%(name)s was added. Next: a user who can log in, and an account.", name=customer.name))
        return htmx.redirect_after_post(url_for(".show_customer", customer_id=customer.id), toast)
    return _render_customers_page(form)


def _render_customers_page(form: CustomerForm) -> ResponseReturnValue:
    conn, query = context.get_conn(), request.args.get("q", "").strip()
    accounts_by_customer: dict[int, list[Account]] = defaultdict(list)
    for account in accounts.list_accounts(conn):
        accounts_by_customer[account.customer_id].append(account)
    matches = []
    for customer in customers.list_all_customers(conn):
        own_accounts = accounts_by_customer[customer.id]
        if not _any_contains(query, customer.name, customer.contact_email):
            own_accounts = [each for each in own_accounts if _any_contains(query, each.name, each.description)]
            if not own_accounts:
                continue
        matches.append((customer, own_accounts))
    return htmx.render_page(
        "admin/page.html",
        form=form,
        customers=matches,
        q=query,
        waiting=senders.count_pending_sender_requests(conn),
        alerts=alerts.list_alerts(conn),
        script_root=request.script_root,
        check=daily_self_check.find_last_result(conn),
        check_command=context.get_config().format_command("check"),
        open_requests=account_requests.list_open_requests(conn, limit=_MAX_REQUESTS),
        more_requests=max(0, account_requests.count_open_requests(conn) - _MAX_REQUESTS),
    )


def _any_contains(query: str, *texts: str) -> bool:
    return any(query.casefold() in each.casefold() for each in texts)


@blueprint.get("/customers/<int:customer_id>")
@access.operator_required
def show_customer(customer: Customer) -> ResponseReturnValue:
    return render_customer_page(customer)


def render_customer_page(customer: Customer, **forms: TranslatedForm) -> ResponseReturnValue:
    """The page of a customer.

    Args:
        forms: `user_form` or `account_form` where one was refused; the page keeps what was typed.
    """
    conn = context.get_conn()
    # Each form has a prefix, for both are on one page.
    values = {"user_form": UserForm(prefix="user-"), "account_form": AccountForm(prefix="account-")} | forms
    return htmx.render_page(
        "admin/customer.html",
        customer=customer,
        users=users.list_users(conn, customer.id),
        owed=auto_recredit.get_owed_credits(conn, customer.id),
        customer_accounts=accounts.list_accounts(conn, customer.id),
        price_lists=price_lists.list_price_lists(conn),
        default_months=context.get_config().retention.messages_months,
        removing_texts=text_policy.is_removing_texts(conn, customer.id),
        **values,
    )


# --- its users


@blueprint.post("/customers/<int:customer_id>/users")
@access.operator_required
def create_user(customer: Customer) -> ResponseReturnValue:
    conn, form = context.get_conn(), UserForm(prefix="user-")
    with refusals_on(form):
        with write_transaction(conn):
            user = users.create_user(
                conn, context.get_crypto_keys(), context.get_actor(), form.email.data, form.role.data, customer.id
            )
            token = authentication.create_enrolment_link(conn, user)
        return _render_enrolment_link(user, token)
    return render_customer_page(customer, user_form=form)


@blueprint.route("/users/<int:user_id>/link", methods=["GET", "POST"])
@access.operator_required
def renew_enrolment_link(user_id: int) -> ResponseReturnValue:
    """Make a new link, once what happens to the user's login has been confirmed."""
    user = users.get_user_by_id(context.get_conn(), user_id)
    if user.customer_id is None:
        abort(404)  # Operators are managed on the command line.
    if request.method != "POST":
        return htmx.render_dialog("admin/_new_link.html", title=_("New enrolment link?"), user=user)
    return _render_enrolment_link(
        user, authentication.reset_enrolment(context.get_conn(), context.get_crypto_keys(), context.get_actor(), user)
    )


def _render_enrolment_link(user: User, token: str) -> ResponseReturnValue:
    link = context.build_public_url("login.enrol", token=token)
    return htmx.render_dialog(
        "admin/_once.html",
        title=_("Enrolment link for %(email)s", email=user.email),
        text=_("Send it to them. It is good once, for seven days, and is not shown again."),
        values=[(_("Link"), link)],
        back=url_for(".show_customer", customer_id=user.customer_id),
    )


# --- accounts


@blueprint.post("/customers/<int:customer_id>/accounts")
@access.operator_required
def create_account(customer: Customer) -> ResponseReturnValue:
    conn, actor, form = context.get_conn(), context.get_actor(), AccountForm(prefix="account-")
    password = ""
    with refusals_on(form):
        with write_transaction(conn):
            account = accounts.create_account(
                conn,
                actor,
                customer.id,
                kind=form.kind.data,
                name=form.name.data,
                description=form.description.data,
            )
            if account.kind == "smpp":
                password = credentials.regenerate_smpp_password(
                    conn, context.get_crypto_keys(), actor, account, send_mail=False
                )
        if not password:
            toast = htmx.Toast(_("%(name)s was added.", name=account.name))
            return htmx.redirect_after_post(account_url(account), toast)
        return htmx.render_dialog(
            "admin/_once.html",
            title=_("%(name)s was added", name=account.name),
            text=_("Its clients log in with these. The password is not shown again."),
            values=[(_("SystemID"), account.name), (_("Password"), password)],
            back=account_url(account),
        )
    return render_customer_page(customer, account_form=form)


@blueprint.get("/accounts/<name>")
@access.operator_required
@access.polled
def show_account(account: Account) -> ResponseReturnValue:
    """The operator's page of an account; for htmx its state, which the SMPP server may still have to confirm."""
    return answer_account_form("admin/_status.html", account, *_HEADER_TEMPLATES)


@blueprint.route("/accounts/<name>/disable", methods=["GET", "POST"])
@access.operator_required
def disable_account(account: Account) -> ResponseReturnValue:
    """Disable it, once what happens to its clients has been confirmed."""
    if request.method != "POST":
        title, open_now = _("Disable this account?"), _count_open_sessions(account)
        return htmx.render_dialog("admin/_disable.html", account, title=title, tab="admin", open_now=open_now)
    accounts.disable_account(context.get_conn(), context.get_actor(), account)
    return _answer_status(account, _("%(name)s was disabled.", name=account.name))


@blueprint.post("/accounts/<name>/enable")
@access.operator_required
def enable_account(account: Account) -> ResponseReturnValue:
    accounts.enable_account(context.get_conn(), context.get_actor(), account)
    return _answer_status(account, _("%(name)s was enabled.", name=account.name))


def _answer_status(account: Account, text: str) -> ResponseReturnValue:
    return answer_account_form("admin/_status.html", account, *_HEADER_TEMPLATES, toast=htmx.Toast(text))


@blueprint.post("/accounts/<name>/limits")
@access.operator_required
def change_account_limits(account: Account) -> ResponseReturnValue:
    # What isn't sent stays as it is; what isn't ticked isn't sent.
    form = AccountLimitsForm(data={"national_numbers": account.national_numbers})
    toast = None
    with refusals_on(form):
        accounts.change_account(
            context.get_conn(),
            context.get_actor(),
            account,
            windowing=accounts.parse_account_limit("windowing", form.windowing.data),
            throughput=accounts.parse_account_limit("throughput", form.throughput.data),
            binds=accounts.parse_account_limit("binds", form.binds.data),
            any_sender=form.any_sender.data,
            data_codings={number for name, number in _DATA_CODING_FIELDS.items() if form[name].data},
            packed_gsm=form.packed_gsm.data,
            national_numbers=form.national_numbers.data,
        )
        toast = htmx.Toast(_("The limits of %(name)s were changed.", name=account.name))
    return answer_account_form("admin/_limits.html", account, toast=toast, limits_form=form)


@blueprint.post("/accounts/<name>/brakes")
@access.operator_required
def change_brakes(account: Account) -> ResponseReturnValue:
    form, conn, toast = BrakesForm(), context.get_conn(), None
    with brake_forms.brake_refusals_on(form):
        brakes.set_brakes(conn, context.get_actor(), account, form.to_brakes(), seen=form.seen.data)
        toast = htmx.Toast(_("The brakes of %(name)s were changed.", name=account.name))
    return answer_account_form("admin/_brakes.html", account, toast=toast, **({} if toast else {"brakes_form": form}))


# --- inbound numbers


@blueprint.post("/accounts/<name>/numbers")
@access.operator_required
def add_inbound_number(account: Account) -> ResponseReturnValue:
    form = InboundNumberForm()
    with refusals_on(form):
        added = inbound_numbers.add_inbound_number(
            context.get_conn(), context.get_actor(), account, form.number.data, form.keyword.data
        )
        toast = htmx.Toast(_("What is sent to %(number)s reaches %(account)s.", number=added, account=account.name))
        return answer_account_form("admin/_numbers.html", account, toast=toast)
    return answer_account_form("admin/_numbers.html", account, number_form=form)


@blueprint.route("/numbers/<int:number_id>/delete", methods=["GET", "POST"])
@access.operator_required
def remove_inbound_number(number_id: int) -> ResponseReturnValue:
    """Remove a number from its account, once that has been confirmed."""
    removed = inbound_numbers.get_inbound_number_by_id(context.get_conn(), number_id)
    owners = (each for each in accounts.list_accounts(context.get_conn()) if each.id == removed.account_id)
    account = next(owners, None) or abort(404)
    if request.method != "POST":
        title = _("Delete this number?")
        return htmx.render_dialog("admin/_number.html", account, title=title, tab="admin", inbound_number=removed)
    inbound_numbers.remove_inbound_number(
        context.get_conn(), context.get_actor(), account, removed.number, removed.keyword
    )
    toast = htmx.Toast(_("%(number)s was removed.", number=removed))
    return answer_account_form("admin/_numbers.html", account, toast=toast)


# --- what the page shows


def account_url(account: Account) -> str:
    """The address of the operator's page of an account."""
    return url_for("admin_customers.show_account", name=account.name)


def answer_account_form(
    template: str, account: Account, *out_of_band: str, toast: htmx.Toast | None = None, **forms: TranslatedForm
) -> ResponseReturnValue:
    """The answer to a form of the operator's page of an account; see `htmx.answer_form`.

    Args:
        template: the form's tile.
        out_of_band: fragments of the page that change with it.
        forms: the page's, as `number_form`, `grant_form`, `limits_form` or `brakes_form`.
    """
    # As it is now.
    conn, account = context.get_conn(), accounts.get_account(context.get_conn(), account.name)
    codings = {name: number in account.data_codings for name, number in _DATA_CODING_FIELDS.items()}
    values: dict[str, Any] = {
        "number_form": InboundNumberForm(formdata=None),
        "grant_form": GrantCreditsForm(formdata=None),
        "limits_form": AccountLimitsForm(formdata=None, obj=account, data=codings),
        "brakes_form": brake_forms.draw_form(BrakesForm, brakes.get_brakes(conn, account.id).operator),
        **brake_forms.build_brakes_values(account),
        **brake_forms.build_traffic_values(account),
    } | forms
    return htmx.answer_form(
        template,
        *out_of_band,
        page="admin/account.html",
        address=account_url(account),
        toast=toast,
        account=account,
        sessions=_count_open_sessions(account),
        tab="admin",
        customer=customers.get_customer_by_id(conn, account.customer_id),
        unconfirmed=smpp_config.has_unapplied_config_changes(conn, account.id),
        inbound_numbers=inbound_numbers.list_inbound_numbers(conn, account.id),
        open_requests=account_requests.list_open_requests(conn, account.id),
        script_root=request.script_root,
        **values,
    )


def _count_open_sessions(account: Account) -> int:
    return len(session_records.list_open_smpp_sessions(context.get_conn(), account.id))
