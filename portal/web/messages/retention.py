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
from portal.web.core.forms import TranslatedForm, add_form_error
from portal.web.core.htmx import Toast

blueprint = Blueprint("retention", __name__, url_prefix="/admin")


class RetentionForm(TranslatedForm):
    months = StringField(N_("Months"))


@blueprint.get("/customers/<int:customer_id>/retention")
@access.operator_required
def show_retention_form(customer: Customer) -> ResponseReturnValue:
    """How long it is, and what fewer months would delete."""
    own_months = customer.messages_months
    return _render_form(customer, RetentionForm(formdata=None, data={"months": str(own_months) if own_months else ""}))


@blueprint.post("/customers/<int:customer_id>/retention")
@access.operator_required
def change_retention(customer: Customer) -> ResponseReturnValue:
    """Set it; empty: the default of the settings. Older messages are removed within the hour."""
    form = RetentionForm()
    try:
        months = customers.parse_retention_months(form.months.data or "")
        customers.change_customer(context.get_conn(), context.get_actor(), customer, messages_months=months)
    except Refused as refusal:
        add_form_error(form, refusal, messages_months="months")
        return _render_form(customer, form, status=422)
    toast = Toast(_("How long messages of %(name)s are kept: changed.", name=customer.name))
    return htmx.redirect_browser_or_htmx(url_for("admin_customers.show_customer", customer_id=customer.id), toast)


def _render_form(customer: Customer, form: RetentionForm, *, status: int = 200) -> ResponseReturnValue:
    default_months = context.get_config().retention.messages_months
    values: dict[str, Any] = {"customer": customer, "form": form, "default_months": default_months}
    if htmx.is_htmx_request():
        return htmx.render_fragments("messages/retention/_form.html", status=status, **values)
    return htmx.render_page("messages/retention/page.html", status=status, **values)
