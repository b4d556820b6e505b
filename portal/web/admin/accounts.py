"""The operator's page of an account: its state, its limits, and the forms for its credits and numbers."""

from typing import Any

from flask import Blueprint, abort, url_for
from flask.typing import ResponseReturnValue
from wtforms import BooleanField, HiddenField, StringField

from portal.core.db import immediate
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import accounts, credentials, session_records
from portal.services.accounts.accounts import Account
from portal.services.common import idempotency
from portal.services.common.errors import Refused
from portal.services.messages import inbound_numbers, smpp_config
from portal.services.people import customers
from portal.web.admin.customers import AccountForm, render_customer_page, render_dialog
from portal.web.core import access, context, htmx, layout
from portal.web.core.forms import Form, attach

blueprint = Blueprint("admin_accounts", __name__, url_prefix="/admin")

_CODINGS = {"ascii": accounts.ASCII, "latin_1": accounts.LATIN_1, "binary": accounts.BINARY}
_HEADER = ("_account_status.html", "_account_figures.html")


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
        return render_customer_page(customer, account_form=form)
    here = url_for("admin_accounts.show_account", name=account.name)
    if not password:
        return htmx.done(here, htmx.Toast(_("%(name)s was added.", name=account.name)))
    return render_dialog(
        "admin/once.html",
        "admin/_once.html",
        title=_("%(name)s was added", name=account.name),
        text=_("Its clients log in with these. The password is not shown again."),
        values=[(_("SystemID"), account.name), (_("Password"), password)],
        back=here,
    )


@blueprint.get("/accounts/<name>")
@access.operate
def show_account(name: str) -> ResponseReturnValue:
    """What operators do with an account; htmx asks how far the SMPP server is with a change of its state."""
    account = account_or_404(name)
    if htmx.wanted():
        return render_account_tile("admin/_status.html", name, *_HEADER)
    return render_account_page(account)


@blueprint.get("/accounts/<name>/disable")
@access.operate
def ask_disable_account(name: str) -> ResponseReturnValue:
    """What happens to the account's clients, before it does."""
    account = account_or_404(name)
    return htmx.dialog(
        "admin/_disable.html",
        account,
        title=_("Disable this account?"),
        tab="admin",
        open_now=len(session_records.of_account(context.conn(), account.id)),
    )


@blueprint.post("/accounts/<name>/disable")
@access.operate
def disable_account(name: str) -> ResponseReturnValue:
    accounts.disable(context.conn(), context.actor(), account_or_404(name))
    return _show_new_state(name, _("%(name)s was disabled.", name=name))


@blueprint.post("/accounts/<name>/enable")
@access.operate
def enable_account(name: str) -> ResponseReturnValue:
    accounts.enable(context.conn(), context.actor(), account_or_404(name))
    return _show_new_state(name, _("%(name)s was enabled.", name=name))


def _show_new_state(name: str, text: str) -> ResponseReturnValue:
    toast = htmx.Toast(text)
    if htmx.wanted():
        return render_account_tile("admin/_status.html", name, *_HEADER, toast=toast)
    return htmx.done(url_for("admin_accounts.show_account", name=name), toast)


@blueprint.post("/accounts/<name>/limits")
@access.operate
def change_limits(name: str) -> ResponseReturnValue:
    account, form = account_or_404(name), LimitsForm()
    try:
        accounts.change(
            context.conn(),
            context.actor(),
            account,
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
            return render_account_tile("admin/_limits.html", name, status=422, limits_form=form)
        return render_account_page(account, limits_form=form)
    toast = htmx.Toast(_("The limits of %(name)s were changed.", name=name))
    if htmx.wanted():
        return render_account_tile("admin/_limits.html", name, toast=toast, limits_form=form)
    return htmx.done(url_for("admin_accounts.show_account", name=name), toast)


def account_or_404(name: str) -> Account:
    """The account that an operator's address names; 404 where there is none."""
    try:
        return accounts.by_name(context.conn(), name)
    except accounts.NoSuchAccount:
        abort(404)


def render_account_page(account: Account, **forms: Form) -> ResponseReturnValue:
    """The operator's page of an account.

    Args:
        forms: `number_form`, `grant_form` or `limits_form` where one was refused; the page keeps what was typed.
    """
    conn = context.conn()
    codings = {name: number in account.data_codings for name, number in _CODINGS.items()}
    values = {
        "number_form": NumberForm(formdata=None),
        "grant_form": blank_grant_form(),
        "limits_form": LimitsForm(formdata=None, obj=account, data=codings),
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


def render_account_tile(template: str, name: str, *also: str, **values: Any) -> ResponseReturnValue:
    """One tile of an account's page for htmx, as things are now.

    Args:
        template: the tile's.
        also: other fragments of the page that change with it; see `htmx.parts`, which takes `values` too.
    """
    conn, account = context.conn(), account_or_404(name)
    return htmx.parts(
        template,
        *also,
        account=layout.account_view(account, len(session_records.of_account(conn, account.id))),
        unconfirmed=smpp_config.unconfirmed(conn, account.id),
        **values,
    )


def blank_grant_form() -> GrantForm:
    """An empty form with a number of its own."""
    return GrantForm(formdata=None, data={"form": idempotency.new()})
