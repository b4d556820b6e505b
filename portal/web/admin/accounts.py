"""The operator's page of an account: its state, its limits, and the forms for its credits and numbers."""

from typing import Any

from flask import Blueprint, abort, url_for
from flask.typing import ResponseReturnValue
from wtforms import BooleanField, HiddenField, SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core.db import write_transaction
from portal.core.gsm0338 import Encoding
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import accounts, credentials, session_records
from portal.services.accounts.accounts import Account
from portal.services.common import idempotency
from portal.services.common.errors import Refused
from portal.services.messages import inbound_numbers, smpp_config
from portal.services.people import customers
from portal.services.prices import countries
from portal.web.admin.customers import AccountForm, render_customer_dialog, render_customer_page
from portal.web.core import access, context, htmx, layout
from portal.web.core.forms import TranslatedForm, add_form_error

blueprint = Blueprint("admin_accounts", __name__, url_prefix="/admin")

_DATA_CODING_FIELDS = {"ascii": Encoding.ASCII, "latin_1": Encoding.LATIN_1, "binary": Encoding.BINARY}
_HEADER_TEMPLATES = ("_account_status.html", "_account_figures.html")


class GrantCreditsForm(TranslatedForm):
    """`form` makes a form that is sent twice give credits once."""

    amount = StringField(N_("Credits"))
    note = StringField(N_("Note"))
    # The stylesheet knows a field #until, which another choice brings.
    until = StringField(N_("Valid until"), id="valid-until")
    form = HiddenField()


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

    def selected_data_codings(self) -> set[int]:
        """The data codings that are selected in the form."""
        return {number for name, number in _DATA_CODING_FIELDS.items() if self[name].data}


class InboundNumberForm(TranslatedForm):
    number = StringField(N_("Number or short code"))
    keyword = StringField(N_("Keyword"))


@blueprint.post("/customers/<int:customer_id>/accounts")
@access.operator_required
def create_account(customer_id: int) -> ResponseReturnValue:
    conn, actor, customer = context.get_conn(), context.get_actor(), access.get_customer_or_404(customer_id)
    form = AccountForm(prefix="account-")
    password = ""
    try:
        with write_transaction(conn):
            account = accounts.create_account(
                conn,
                actor,
                customer.id,
                kind=form.kind.data or "",
                name=form.name.data or "",
                description=form.description.data or "",
            )
            if account.kind == "smpp":
                password = credentials.regenerate_smpp_password(
                    conn, context.get_crypto_keys(), actor, account, send_mail=False
                )
    except Refused as refusal:
        add_form_error(form, refusal)
        return render_customer_page(customer, account_form=form)
    account_url = url_for("admin_accounts.show_account", name=account.name)
    if not password:
        return htmx.redirect_after_post(account_url, htmx.Toast(_("%(name)s was added.", name=account.name)))
    return render_customer_dialog(
        "admin/once.html",
        "admin/_once.html",
        title=_("%(name)s was added", name=account.name),
        text=_("Its clients log in with these. The password is not shown again."),
        values=[(_("SystemID"), account.name), (_("Password"), password)],
        back=account_url,
    )


@blueprint.get("/accounts/<name>")
@access.operator_required
def show_account(name: str) -> ResponseReturnValue:
    """The operator's page of an account; for htmx its state, which the SMPP server may still have to confirm."""
    account = account_or_404(name)
    if htmx.is_htmx_request():
        return render_account_tile("admin/_status.html", name, *_HEADER_TEMPLATES)
    return render_account_page(account)


@blueprint.get("/accounts/<name>/disable")
@access.operator_required
def ask_disable_account(name: str) -> ResponseReturnValue:
    """Ask for confirmation: what happens to the account's clients."""
    account = account_or_404(name)
    return htmx.render_dialog(
        "admin/_disable.html",
        account,
        title=_("Disable this account?"),
        tab="admin",
        open_now=len(session_records.list_open_smpp_sessions(context.get_conn(), account.id)),
    )


@blueprint.post("/accounts/<name>/disable")
@access.operator_required
def disable_account(name: str) -> ResponseReturnValue:
    accounts.disable_account(context.get_conn(), context.get_actor(), account_or_404(name))
    return _render_account_status(name, _("%(name)s was disabled.", name=name))


@blueprint.post("/accounts/<name>/enable")
@access.operator_required
def enable_account(name: str) -> ResponseReturnValue:
    accounts.enable_account(context.get_conn(), context.get_actor(), account_or_404(name))
    return _render_account_status(name, _("%(name)s was enabled.", name=name))


def _render_account_status(name: str, text: str) -> ResponseReturnValue:
    toast = htmx.Toast(text)
    if htmx.is_htmx_request():
        return render_account_tile("admin/_status.html", name, *_HEADER_TEMPLATES, toast=toast)
    return htmx.redirect_after_post(url_for("admin_accounts.show_account", name=name), toast)


@blueprint.post("/accounts/<name>/limits")
@access.operator_required
def change_account_limits(name: str) -> ResponseReturnValue:
    account, form = account_or_404(name), AccountLimitsForm()
    try:
        accounts.change_account(
            context.get_conn(),
            context.get_actor(),
            account,
            windowing=accounts.parse_account_limit("windowing", form.windowing.data or ""),
            throughput=accounts.parse_account_limit("throughput", form.throughput.data or ""),
            binds=accounts.parse_account_limit("binds", form.binds.data or ""),
            any_sender=form.any_sender.data,
            data_codings=form.selected_data_codings(),
            packed_gsm=form.packed_gsm.data,
            national_numbers=form.national_numbers.data,
        )
    except Refused as refusal:
        add_form_error(form, refusal)
        if htmx.is_htmx_request():
            return render_account_tile("admin/_limits.html", name, status=422, limits_form=form)
        return render_account_page(account, limits_form=form)
    toast = htmx.Toast(_("The limits of %(name)s were changed.", name=name))
    if htmx.is_htmx_request():
        return render_account_tile("admin/_limits.html", name, toast=toast, limits_form=form)
    return htmx.redirect_after_post(url_for("admin_accounts.show_account", name=name), toast)


def account_or_404(name: str) -> Account:
    """The account that an operator's address names; 404 where there is none."""
    try:
        return accounts.get_account(context.get_conn(), name)
    except accounts.NoSuchAccount:
        abort(404)


def render_account_page(account: Account, **forms: TranslatedForm) -> ResponseReturnValue:
    """The operator's page of an account.

    Args:
        forms: `number_form`, `grant_form` or `limits_form` where one was refused; the page keeps what was typed.
    """
    conn = context.get_conn()
    codings = {name: number in account.data_codings for name, number in _DATA_CODING_FIELDS.items()}
    values = {
        "number_form": InboundNumberForm(formdata=None),
        "grant_form": make_blank_grant_form(),
        "limits_form": AccountLimitsForm(formdata=None, obj=account, data=codings),
    } | forms
    return htmx.render_page(
        "admin/account.html",
        status=422 if any(each.errors for each in values.values()) else 200,
        account=account,
        sessions=len(session_records.list_open_smpp_sessions(conn, account.id)),
        tab="admin",
        customer=customers.get_customer_by_id(conn, account.customer_id),
        unconfirmed=smpp_config.has_unapplied_config_changes(conn, account.id),
        inbound_numbers=inbound_numbers.list_inbound_numbers(conn, account.id),
        **values,
    )


def render_account_tile(template: str, name: str, *other_templates: str, **values: Any) -> ResponseReturnValue:
    """One tile of an account's page for htmx, as things are now.

    Args:
        template: the tile's.
        other_templates: fragments of the page that change with it.
        values: see `htmx.render_fragments`.
    """
    conn, account = context.get_conn(), account_or_404(name)
    return htmx.render_fragments(
        template,
        *other_templates,
        account=layout.build_account_view(account, len(session_records.list_open_smpp_sessions(conn, account.id))),
        unconfirmed=smpp_config.has_unapplied_config_changes(conn, account.id),
        **values,
    )


def make_blank_grant_form() -> GrantCreditsForm:
    """An empty form with an idempotency key of its own."""
    return GrantCreditsForm(formdata=None, data={"form": idempotency.new_idempotency_key()})
