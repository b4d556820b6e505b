"""The operator's page about how long a customer's messages are kept."""

from typing import Any

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue
from wtforms import StringField

from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.common.errors import Refused
from portal.services.people import customers
from portal.services.people.customers import Customer
from portal.web.core import access, context, htmx
from portal.web.core.forms import Form, attach
from portal.web.core.htmx import Toast

blueprint = Blueprint("retention", __name__, url_prefix="/admin")


class MonthsForm(Form):
    months = StringField(N_("Months"))


@blueprint.get("/customers/<int:customer_id>/retention")
@access.operate
def ask(customer_id: int) -> ResponseReturnValue:
    """How long it is, and what fewer months mean."""
    customer = access.customer_or_404(customer_id)
    own = customer.messages_months
    return _dialog(customer, MonthsForm(formdata=None, data={"months": str(own) if own else ""}))


@blueprint.post("/customers/<int:customer_id>/retention")
@access.operate
def change(customer_id: int) -> ResponseReturnValue:
    """Set it; empty: as the settings say. What is too old by that is removed within the hour."""
    customer, form = access.customer_or_404(customer_id), MonthsForm()
    try:
        months = customers.parse_months(form.months.data or "")
        customers.change(context.conn(), context.actor(), customer, messages_months=months)
    except Refused as refusal:
        attach(form, refusal, messages_months="months")
        return _dialog(customer, form, status=422)
    toast = Toast(_("How long messages of %(name)s are kept: changed.", name=customer.name))
    return htmx.moved(url_for("admin_customers.show_customer", customer_id=customer.id), toast)


def _dialog(customer: Customer, form: MonthsForm, *, status: int = 200) -> ResponseReturnValue:
    usual = context.config().retention.messages_months
    values: dict[str, Any] = {"customer": customer, "form": form, "usual": usual}
    if htmx.wanted():
        return htmx.parts("admin/_retention_form.html", status=status, **values)
    return htmx.page("admin/retention.html", status=status, **values)
