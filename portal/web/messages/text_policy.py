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
from portal.web.core.forms import Form, attach
from portal.web.core.htmx import Toast

blueprint = Blueprint("privacy", __name__, url_prefix="/admin")


class TextsForm(Form):
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
@access.operate
def ask(customer_id: int) -> ResponseReturnValue:
    """What each choice means, before one is made."""
    customer = access.customer_or_404(customer_id)
    return _dialog(customer, TextsForm(formdata=None, data={"texts": customer.texts}))


@blueprint.post("/customers/<int:customer_id>/texts")
@access.operate
def change(customer_id: int) -> ResponseReturnValue:
    """Set what becomes of the texts; those that are stored are removed by and by, if that was asked for."""
    customer, form = access.customer_or_404(customer_id), TextsForm()
    try:
        text_policy.change(
            context.conn(),
            context.actor(),
            customer,
            form.texts.data or "",
            remove_stored=form.remove_stored.data,
        )
    except Refused as refusal:
        attach(form, refusal)
        return _dialog(customer, form, status=422)
    toast = Toast(_("The texts of %(name)s: changed.", name=customer.name))
    return htmx.moved(url_for("admin_customers.show_customer", customer_id=customer.id), toast)


def _dialog(customer: Customer, form: TextsForm, *, status: int = 200) -> ResponseReturnValue:
    values: dict[str, Any] = {"customer": customer, "form": form}
    if htmx.wanted():
        return htmx.parts("admin/_texts_form.html", status=status, **values)
    return htmx.page("admin/texts.html", status=status, **values)
