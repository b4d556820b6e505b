"""The operator's forms about a customer's messages: how long they are kept, who sees their texts, and whether these
are kept."""

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue
from wtforms import BooleanField, RadioField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core.i18n import N_, _
from portal.services.messages import text_policy
from portal.services.people import customers
from portal.services.people.customers import Customer
from portal.web.core import access, context, htmx
from portal.web.core.forms import TranslatedForm, refusals_on

blueprint = Blueprint("customer_policies", __name__, url_prefix="/admin")


class RetentionForm(TranslatedForm):
    months = StringField(N_("Months"))


class TextPolicyForm(TranslatedForm):
    texts = RadioField(
        N_("Texts of messages"),
        choices=[
            SelectChoice(text_policy.SHOWN, N_("shown to everybody of the customer")),
            SelectChoice(text_policy.HIDDEN, N_("hidden from viewers")),
            SelectChoice(text_policy.NONE, N_("not kept")),
        ],
        validate_choice=False,
    )
    remove_stored = BooleanField(N_("Also remove the texts that are stored"))


@blueprint.route("/customers/<int:customer_id>/retention", methods=["GET", "POST"])
@access.operator_required
def change_retention(customer: Customer) -> ResponseReturnValue:
    """Set how long messages are kept; empty: the settings' default. Older messages are removed within the hour."""
    form = RetentionForm()
    if not form.is_submitted():
        form.months.data = str(customer.messages_months or "")
    else:
        with refusals_on(form, messages_months="months"):
            months = customers.parse_retention_months(form.months.data)
            customers.change_customer(context.get_conn(), context.get_actor(), customer, messages_months=months)
            words = _("How long messages of %(name)s are kept: changed.", name=customer.name)
            return _lead_to_customer(customer, words)
    return htmx.render_dialog(
        "messages/retention/_form.html",
        title=_("How long messages of %(name)s are kept", name=customer.name),
        customer=customer,
        form=form,
        default_months=context.get_config().retention.messages_months,
    )


@blueprint.route("/customers/<int:customer_id>/texts", methods=["GET", "POST"])
@access.operator_required
def change_text_policy(customer: Customer) -> ResponseReturnValue:
    """Set who sees texts; stored ones are removed in the background, if that was chosen."""
    conn, actor, form = context.get_conn(), context.get_actor(), TextPolicyForm()
    if not form.is_submitted():
        form.texts.data = customer.texts
    else:
        with refusals_on(form):
            remove_stored = form.remove_stored.data
            text_policy.change_text_policy(conn, actor, customer, form.texts.data, remove_stored=remove_stored)
            return _lead_to_customer(customer, _("The texts of %(name)s: changed.", name=customer.name))
    title = _("Texts of %(name)s", name=customer.name)
    return htmx.render_dialog("messages/text_policy/_form.html", title=title, customer=customer, form=form)


def _lead_to_customer(customer: Customer, text: str) -> ResponseReturnValue:
    address = url_for("admin_customers.show_customer", customer_id=customer.id)
    return htmx.redirect_browser_or_htmx(address, htmx.Toast(text))
