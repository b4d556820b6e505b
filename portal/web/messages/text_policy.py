"""The operator's page about a customer's texts: who sees them, and whether they are kept."""

from typing import Any

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue
from wtforms import BooleanField, RadioField
from wtforms.fields.choices import SelectChoice

from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.common.errors import Refused
from portal.services.messages import text_policy
from portal.services.people.customers import Customer
from portal.web.core import access, context, htmx
from portal.web.core.forms import TranslatedForm, add_form_error
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
    try:
        text_policy.change_text_policy(
            context.get_conn(),
            context.get_actor(),
            customer,
            form.texts.data or "",
            remove_stored=form.remove_stored.data,
        )
    except Refused as refusal:
        add_form_error(form, refusal)
        return _render_form(customer, form, status=422)
    toast = Toast(_("The texts of %(name)s: changed.", name=customer.name))
    return htmx.redirect_browser_or_htmx(url_for("admin_customers.show_customer", customer_id=customer.id), toast)


def _render_form(customer: Customer, form: TextPolicyForm, *, status: int = 200) -> ResponseReturnValue:
    values: dict[str, Any] = {"customer": customer, "form": form}
    if htmx.is_htmx_request():
        return htmx.render_fragments("messages/text_policy/_form.html", status=status, **values)
    return htmx.render_page("messages/text_policy/page.html", status=status, **values)
