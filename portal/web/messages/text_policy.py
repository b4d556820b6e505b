"""The operator's page about a customer's texts: who sees them, and whether they are kept."""

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue
from wtforms import BooleanField, RadioField
from wtforms.fields.choices import SelectChoice

from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.messages import text_policy
from portal.services.people.customers import Customer
from portal.web.core import access, context, htmx
from portal.web.core.forms import TranslatedForm, refusals_on
from portal.web.core.htmx import Toast

blueprint = Blueprint("text_policy", __name__, url_prefix="/admin")


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


@blueprint.get("/customers/<int:customer_id>/texts")
@access.operator_required
def show_text_policy_form(customer: Customer) -> ResponseReturnValue:
    """The choices, with what each of them means."""
    return _render_form(customer, TextPolicyForm(formdata=None, data={"texts": customer.texts}))


@blueprint.post("/customers/<int:customer_id>/texts")
@access.operator_required
def change_text_policy(customer: Customer) -> ResponseReturnValue:
    """Set the policy; stored texts are removed in the background, if that was chosen."""
    form = TextPolicyForm()
    with refusals_on(form):
        remove_stored = form.remove_stored.data
        text_policy.change_text_policy(
            context.get_conn(), context.get_actor(), customer, form.texts.data, remove_stored=remove_stored
        )
        toast = Toast(_("The texts of %(name)s: changed.", name=customer.name))
        return htmx.redirect_browser_or_htmx(url_for("admin_customers.show_customer", customer_id=customer.id), toast)
    return _render_form(customer, form)


def _render_form(customer: Customer, form: TextPolicyForm) -> ResponseReturnValue:
    title = _("Texts of %(name)s", name=customer.name)
    return htmx.render_dialog("messages/text_policy/_form.html", title=title, customer=customer, form=form)
