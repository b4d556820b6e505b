"""Generating a new SMPP password: asked first, shown once, mailed."""

from flask import Blueprint
from flask.typing import ResponseReturnValue
from wtforms import HiddenField, RadioField
from wtforms.fields.choices import SelectChoice

from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import credentials
from portal.services.accounts.accounts import Account
from portal.services.common import idempotency
from portal.services.common.errors import Refused
from portal.services.people import customers
from portal.web.accounts.accounts import why_no_password
from portal.web.core import access, context, htmx, layout
from portal.web.core.forms import Form, attach

blueprint = Blueprint("password", __name__)


class PasswordForm(Form):
    """`grace` is a key of `credentials.GRACE_PERIODS`; `form` makes a reloaded answer generate nothing."""

    grace = RadioField(
        N_("The old password"),
        choices=[
            SelectChoice("0", N_("stops at once")),
            SelectChoice("15m", N_("stays good for 15 minutes")),
            SelectChoice("1h", N_("stays good for 1 hour")),
            SelectChoice("24h", N_("stays good for 24 hours")),
        ],
        default="0",
        validate_choice=False,
    )
    form = HiddenField()


@blueprint.get("/accounts/<name>/password")
@access.change_account
def ask(account: Account) -> ResponseReturnValue:
    """Says what is about to happen, and where the new password goes."""
    return _question(account, PasswordForm())


@blueprint.post("/accounts/<name>/password")
@access.change_account
def generate(account: Account) -> ResponseReturnValue:
    """Generate it, mail it, and show it in this answer: the only place where it is ever seen."""
    form = PasswordForm()
    try:
        grace = credentials.grace(form.grace.data or "0")
        password = credentials.regenerate(
            context.conn(),
            context.keys(),
            context.actor(),
            account,
            grace=grace,
            only_when_ready=True,
            form=form.form.data or "",
        )
    except Refused as refusal:
        attach(form, refusal)
        return _question(account, form, status=422)
    shown = {"password": password, "contact": _contact(account), "grace": form.grace.data}
    if htmx.wanted():
        return htmx.parts(
            "accounts/credentials/_shown.html", changed=True, account=layout.account_view(account), **shown
        )
    return htmx.page(
        "dialog.html", account=account, title=_("Your new password"), part="accounts/credentials/_shown.html", **shown
    )


def _question(account: Account, form: PasswordForm, status: int = 200) -> ResponseReturnValue:
    form.form.data = idempotency.new()
    return htmx.dialog(
        "accounts/credentials/_ask.html",
        account,
        title=_("Generate a new password"),
        tab="home",
        status=status,
        form=form,
        contact=_contact(account),
        why_not=why_no_password(account),
    )


def _contact(account: Account) -> str:
    return customers.masked(customers.by_id(context.conn(), account.customer_id).contact_email)
