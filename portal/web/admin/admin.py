"""The operator's side: customers, and their users and accounts."""

from collections import defaultdict
from typing import Any

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import BooleanField, HiddenField, SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.db import immediate
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import accounts, credentials, session_records
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit
from portal.services.common import credit_amounts, idempotency
from portal.services.common.errors import Refused
from portal.services.credits import credits, expiry
from portal.services.messages import inbound_numbers, smpp_config, text_policy
from portal.services.messages.inbound_numbers import Route
from portal.services.operations import daily_self_check
from portal.services.people import customers, enrolment, users
from portal.services.people.customers import Customer
from portal.services.people.users import User
from portal.services.prices import price_lists
from portal.services.senders import senders
from portal.web.core import access, context, htmx, layout
from portal.web.core.forms import Form, attach

blueprint = Blueprint("admin", __name__, url_prefix="/admin")

_CODINGS = {"ascii": accounts.ASCII, "latin_1": accounts.LATIN_1, "binary": accounts.BINARY}
_HEADER = ("_account_status.html", "_account_figures.html")


class CustomerForm(Form):
    name = StringField(N_("Name"))
    email = StringField(N_("Contact e-mail address"))


class UserForm(Form):
    email = StringField(N_("E-mail address"))
    role = SelectField(
        N_("Role"),
        choices=[
            SelectChoice(users.OWNER, N_("Owner")),
            SelectChoice(users.MANAGER, N_("Manager")),
            SelectChoice(users.VIEWER, N_("Viewer: changes nothing")),
        ],
    )


class AccountForm(Form):
    kind = SelectField(N_("Kind"), choices=[SelectChoice("smpp", "SMPP"), SelectChoice("sms", N_("SMS (classic)"))])
    name = StringField(N_("Name"))
    description = StringField(N_("Description"))


class GrantForm(Form):
    """`form` makes a form that is sent twice give credits once."""

    amount = StringField(N_("Credits"))
    note = StringField(N_("Note"))
    # The stylesheet knows a field #until, which another choice brings.
    until = StringField(N_("Valid until"), id="valid-until")
    form = HiddenField()


class LimitsForm(Form):
    """What an account may do; `ascii`, `latin_1` and `binary` are data codings."""

    windowing = StringField(N_("Windowing"))
    throughput = StringField(N_("Permitted throughput"))
    binds = StringField(N_("Binds at the same time"))
    any_sender = BooleanField(N_("Any sender, without approval"))
    ascii = BooleanField(N_("ASCII (data_coding 1)"))
    latin_1 = BooleanField(N_("Latin-1 (data_coding 3)"))
    binary = BooleanField(N_("Binary (data_coding 4)"))
    packed_gsm = BooleanField(N_("GSM 03.38 comes packed: eight characters in seven octets"))

    def data_codings(self) -> set[int]:
        """Those that are ticked."""
        return {number for name, number in _CODINGS.items() if self[name].data}


class NumberForm(Form):
    number = StringField(N_("Number or short code"))
    keyword = StringField(N_("Keyword"))


# --- customers


@blueprint.get("/")
@access.operate
def index() -> ResponseReturnValue:
    return _index(CustomerForm())


@blueprint.post("/customers")
@access.operate
def add_customer() -> ResponseReturnValue:
    form = CustomerForm()
    try:
        customer = customers.add(context.conn(), context.actor(), form.name.data or "", form.email.data or "")
    except Refused as refusal:
        attach(form, refusal)
        return _index(form)
    toast = htmx.Toast(_("%(name)s was added. Next: a user who can log in, and an account.", name=customer.name))
    return htmx.done(url_for("admin.customer", customer_id=customer.id), toast)


def _index(form: CustomerForm) -> ResponseReturnValue:
    """Everyone and everything, or what holds the words of the search."""
    conn, wanted = context.conn(), request.args.get("q", "").strip()
    of_customer: dict[int, list[layout.AccountView]] = defaultdict(list)
    for account in accounts.of_customer(conn):
        of_customer[account.customer_id].append(layout.account_view(account))
    found = []
    for customer in customers.everyone(conn):
        own = of_customer[customer.id]
        if not _holds(wanted, customer.name, customer.contact_email):
            own = [each for each in own if _holds(wanted, each.name, each.description)]
            if not own:
                continue
        found.append((customer, own))
    return htmx.page(
        "admin/page.html",
        status=422 if form.errors else 200,
        form=form,
        customers=found,
        q=wanted,
        waiting=senders.count_waiting(conn),
        check=daily_self_check.last(conn),
    )


def _holds(wanted: str, *texts: str) -> bool:
    return any(wanted.casefold() in each.casefold() for each in texts)


@blueprint.get("/customers/<int:customer_id>")
@access.operate
def customer(customer_id: int) -> ResponseReturnValue:
    return _customer_page(access.customer_or_404(customer_id))


def _customer_page(customer: Customer, **forms: Form) -> ResponseReturnValue:
    conn = context.conn()
    # Each form has a prefix, for both are on one page.
    values = {"user": UserForm(prefix="user-"), "account": AccountForm(prefix="account-")} | forms
    return htmx.page(
        "admin/customer.html",
        status=422 if any(each.errors for each in values.values()) else 200,
        customer=customer,
        users=users.of_customer(conn, customer.id),
        owed=auto_recredit.owed(conn, customer.id),
        customer_accounts=[layout.account_view(each) for each in accounts.of_customer(conn, customer.id)],
        price_lists=price_lists.lists(conn),
        usual_months=context.config().retention.messages_months,
        removing_texts=text_policy.removing(conn, customer.id),
        user_form=values["user"],
        account_form=values["account"],
    )


# --- their users


@blueprint.post("/customers/<int:customer_id>/users")
@access.operate
def add_user(customer_id: int) -> ResponseReturnValue:
    conn, customer = context.conn(), access.customer_or_404(customer_id)
    form = UserForm(prefix="user-")
    try:
        with immediate(conn):
            user = users.add(
                conn, context.keys(), context.actor(), form.email.data or "", form.role.data or "", customer.id
            )
            token = enrolment.new_link(conn, user)
    except Refused as refusal:
        attach(form, refusal)
        return _customer_page(customer, user=form)
    return _show_link(user, token)


@blueprint.get("/users/<int:user_id>/link")
@access.operate
def ask_new_link(user_id: int) -> ResponseReturnValue:
    """What happens to the user's login, before it does."""
    return _dialog("admin/new_link.html", "admin/_new_link.html", user=_user(user_id))


@blueprint.post("/users/<int:user_id>/link")
@access.operate
def new_link(user_id: int) -> ResponseReturnValue:
    user = _user(user_id)
    return _show_link(user, enrolment.start_over(context.conn(), context.keys(), context.actor(), user))


def _user(user_id: int) -> User:
    """A customer's user; operators look after each other in the shell."""
    try:
        user = users.by_id(context.conn(), user_id)
    except users.NoSuchUser:
        abort(404)
    return user if user.customer_id is not None else abort(404)


def _show_link(user: User, token: str) -> ResponseReturnValue:
    link = context.config().public_url + url_for("login.enrol", token=token)
    return _dialog(
        "admin/once.html",
        "admin/_once.html",
        title=_("Enrolment link for %(email)s", email=user.email),
        text=_("Send it to them. It is good once, for seven days, and is not shown again."),
        values=[(_("Link"), link)],
        back=url_for("admin.customer", customer_id=user.customer_id),
    )


# --- their accounts


@blueprint.post("/customers/<int:customer_id>/accounts")
@access.operate
def add_account(customer_id: int) -> ResponseReturnValue:
    conn, actor, customer = context.conn(), context.actor(), access.customer_or_404(customer_id)
    form = AccountForm(prefix="account-")
    password = ""
    try:
        with immediate(conn):
            account = accounts.add(
                conn,
                actor,
                customer.id,
                kind=form.kind.data or "",
                name=form.name.data or "",
                description=form.description.data or "",
            )
            if account.kind == "smpp":
                password = credentials.regenerate(conn, context.keys(), actor, account, send_mail=False)
    except Refused as refusal:
        attach(form, refusal)
        return _customer_page(customer, account=form)
    here = url_for("admin.account", name=account.name)
    if not password:
        return htmx.done(here, htmx.Toast(_("%(name)s was added.", name=account.name)))
    return _dialog(
        "admin/once.html",
        "admin/_once.html",
        title=_("%(name)s was added", name=account.name),
        text=_("Its clients log in with these. The password is not shown again."),
        values=[(_("SystemID"), account.name), (_("Password"), password)],
        back=here,
    )


@blueprint.get("/accounts/<name>")
@access.operate
def account(name: str) -> ResponseReturnValue:
    """What operators do with an account; htmx asks how far the SMPP server is with a change of its state."""
    found = _account(name)
    if htmx.wanted():
        return _part("admin/_status.html", name, *_HEADER)
    return _account_page(found)


@blueprint.get("/accounts/<name>/disable")
@access.operate
def ask_disable(name: str) -> ResponseReturnValue:
    """What happens to the account's clients, before it does."""
    found = _account(name)
    return htmx.dialog(
        "admin/_disable.html",
        found,
        title=_("Disable this account?"),
        tab="admin",
        open_now=len(session_records.of_account(context.conn(), found.id)),
    )


@blueprint.post("/accounts/<name>/disable")
@access.operate
def disable(name: str) -> ResponseReturnValue:
    accounts.disable(context.conn(), context.actor(), _account(name))
    return _switched(name, _("%(name)s was disabled.", name=name))


@blueprint.post("/accounts/<name>/enable")
@access.operate
def enable(name: str) -> ResponseReturnValue:
    accounts.enable(context.conn(), context.actor(), _account(name))
    return _switched(name, _("%(name)s was enabled.", name=name))


def _switched(name: str, text: str) -> ResponseReturnValue:
    toast = htmx.Toast(text)
    if htmx.wanted():
        return _part("admin/_status.html", name, *_HEADER, toast=toast)
    return htmx.done(url_for("admin.account", name=name), toast)


@blueprint.post("/accounts/<name>/credits")
@access.operate
def grant(name: str) -> ResponseReturnValue:
    found, form = _account(name), GrantForm()
    try:
        amount = credit_amounts.parse(form.amount.data or "")
        note, number = form.note.data or "", form.form.data or ""
        ends = expiry.end_of_day(form.until.data or "", context.config().timezone)
        credits.grant(context.conn(), context.actor(), found, amount, note, expires_at=ends, form=number)
        toast = htmx.Toast(_("%(amount)s credits were granted.", amount=i18n.credits(amount)))
    except idempotency.AlreadySent as refusal:
        toast = htmx.Toast(refusal.localized(), "info")
    except Refused as refusal:
        attach(form, refusal)
        # A form that was refused has granted nothing: its number is still good.
        form.form.data = form.form.data or idempotency.new()
        if htmx.wanted():
            return _part("admin/_credits.html", name, status=422, grant_form=form)
        return _account_page(found, grant_form=form)
    if htmx.wanted():
        return _part("admin/_credits.html", name, "_account_figures.html", toast=toast, grant_form=_blank_grant())
    return htmx.done(url_for("admin.account", name=name), toast)


def _blank_grant() -> GrantForm:
    return GrantForm(formdata=None, data={"form": idempotency.new()})


@blueprint.post("/accounts/<name>/limits")
@access.operate
def limits(name: str) -> ResponseReturnValue:
    found, form = _account(name), LimitsForm()
    try:
        accounts.change(
            context.conn(),
            context.actor(),
            found,
            windowing=accounts.parse_limit("windowing", form.windowing.data or ""),
            throughput=accounts.parse_limit("throughput", form.throughput.data or ""),
            binds=accounts.parse_limit("binds", form.binds.data or ""),
            any_sender=form.any_sender.data,
            data_codings=form.data_codings(),
            packed_gsm=form.packed_gsm.data,
        )
    except Refused as refusal:
        attach(form, refusal)
        if htmx.wanted():
            return _part("admin/_limits.html", name, status=422, limits_form=form)
        return _account_page(found, limits_form=form)
    toast = htmx.Toast(_("The limits of %(name)s were changed.", name=name))
    if htmx.wanted():
        return _part("admin/_limits.html", name, toast=toast, limits_form=form)
    return htmx.done(url_for("admin.account", name=name), toast)


def _account(name: str) -> Account:
    try:
        return accounts.by_name(context.conn(), name)
    except accounts.NoSuchAccount:
        abort(404)


def _account_page(account: Account, **forms: Form) -> ResponseReturnValue:
    conn = context.conn()
    codings = {name: number in account.data_codings for name, number in _CODINGS.items()}
    limits_form = LimitsForm(formdata=None, obj=account, data=codings)
    values = {
        "number_form": NumberForm(formdata=None),
        "grant_form": _blank_grant(),
        "limits_form": limits_form,
    } | forms
    return htmx.page(
        "admin/account.html",
        status=422 if any(each.errors for each in values.values()) else 200,
        account=account,
        sessions=len(session_records.of_account(conn, account.id)),
        tab="admin",
        customer=customers.by_id(conn, account.customer_id),
        unconfirmed=smpp_config.unconfirmed(conn, account.id),
        routes=inbound_numbers.of_account(conn, account.id),
        **values,
    )


def _part(template: str, name: str, *also: str, **values: Any) -> ResponseReturnValue:
    """One tile of an account's page, as things are now."""
    conn, account = context.conn(), _account(name)
    return htmx.parts(
        template,
        *also,
        account=layout.account_view(account, len(session_records.of_account(conn, account.id))),
        unconfirmed=smpp_config.unconfirmed(conn, account.id),
        **values,
    )


# --- the numbers that reach them


@blueprint.post("/accounts/<name>/numbers")
@access.operate
def add_number(name: str) -> ResponseReturnValue:
    found, form = _account(name), NumberForm()
    try:
        added = inbound_numbers.add(
            context.conn(), context.actor(), found, form.number.data or "", form.keyword.data or ""
        )
    except Refused as refusal:
        attach(form, refusal)
        if htmx.wanted():
            return _numbers(found, status=422, number_form=form)
        return _account_page(found, number_form=form)
    toast = htmx.Toast(_("What is sent to %(route)s reaches %(account)s.", route=added, account=name))
    if htmx.wanted():
        return _numbers(found, toast=toast, number_form=NumberForm(formdata=None))
    return htmx.done(url_for("admin.account", name=name), toast)


@blueprint.get("/numbers/<int:route_id>/delete")
@access.operate
def ask_remove_number(route_id: int) -> ResponseReturnValue:
    """The question before a number is taken from its account."""
    found, route = _route(route_id)
    return htmx.dialog("admin/_number.html", found, title=_("Delete this number?"), tab="admin", route=route)


@blueprint.post("/numbers/<int:route_id>/delete")
@access.operate
def remove_number(route_id: int) -> ResponseReturnValue:
    found, route = _route(route_id)
    inbound_numbers.remove(context.conn(), context.actor(), found, route.number, route.keyword)
    toast = htmx.Toast(_("%(route)s was removed.", route=route))
    if htmx.wanted():
        return _numbers(found, toast=toast, number_form=NumberForm(formdata=None))
    return htmx.done(url_for("admin.account", name=found.name), toast)


def _numbers(account: Account, **values: Any) -> ResponseReturnValue:
    return _part(
        "admin/_numbers.html", account.name, routes=inbound_numbers.of_account(context.conn(), account.id), **values
    )


def _route(route_id: int) -> tuple[Account, Route]:
    try:
        route = inbound_numbers.by_id(context.conn(), route_id)
    except inbound_numbers.NoSuchRoute:
        abort(404)
    owner = (each for each in accounts.of_customer(context.conn()) if each.id == route.account_id)
    return next(owner, None) or abort(404), route


def _dialog(page: str, part: str, **values: Any) -> ResponseReturnValue:
    """Something that opens in the dialog, and is a page of its own without JavaScript."""
    return htmx.parts(part, **values) if htmx.wanted() else htmx.page(page, **values)
