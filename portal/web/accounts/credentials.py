"""Generating a new SMPP password: confirmed first, shown once, and mailed."""

from flask import Blueprint
from flask.typing import ResponseReturnValue
from wtforms import RadioField
from wtforms.fields.choices import SelectChoice

from portal.core.i18n import N_, _
from portal.services.accounts import credentials
from portal.services.accounts.accounts import Account
from portal.services.common import idempotency
from portal.services.people import customers
from portal.web.accounts.accounts import password_blocked_reason
from portal.web.core import access, context, htmx
from portal.web.core.forms import OnceForm, refusals_on

blueprint = Blueprint("credentials", __name__)


class SmppPasswordForm(OnceForm):
    """`grace` is a key of `credentials.GRACE_PERIODS`."""

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


@blueprint.route("/accounts/<name>/password", methods=["GET", "POST"])
@access.account_change_required
def generate_password(account: Account) -> ResponseReturnValue:
    """Ask for confirmation; then generate it, mail it, and show it in that answer: the only place where it is seen."""
    form = SmppPasswordForm()
    contact = customers.get_customer_by_id(context.get_conn(), account.customer_id).contact_email
    masked_contact = customers.mask_email(contact)
    if form.is_submitted():
        with refusals_on(form):
            password = credentials.regenerate_smpp_password(
                context.get_conn(),
                context.get_crypto_keys(),
                context.get_actor(),
                account,
                grace_ms=credentials.parse_grace_period(form.grace.data),
                require_ready=True,
                idempotency_key=form.form.data,
            )
            return htmx.render_dialog(
                "accounts/credentials/_shown.html",
                account,
                title=_("Your new password"),
                tab="home",
                password=password,
                contact=masked_contact,
                grace=form.grace.data,
            )
    # A new one each time: where the form was sent before, the answer asks once more.
    form.form.data = idempotency.new_idempotency_key()
    return htmx.render_dialog(
        "accounts/credentials/_ask.html",
        account,
        title=_("Generate a new password"),
        tab="home",
        form=form,
        contact=masked_contact,
        password_blocked_reason=password_blocked_reason(account),
    )
