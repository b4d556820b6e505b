"""The operator's page about how long a customer's messages are kept."""

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue
from wtforms import StringField

from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.people import customers
from portal.services.people.customers import Customer
from portal.web.core import access, context, htmx
from portal.web.core.forms import TranslatedForm, refusals_on
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
    with refusals_on(form, messages_months="months"):
        months = customers.parse_retention_months(form.months.data)
        customers.change_customer(context.get_conn(), context.get_actor(), customer, messages_months=months)
        toast = Toast(_("How long messages of %(name)s are kept: changed.", name=customer.name))
        return htmx.redirect_browser_or_htmx(url_for("admin_customers.show_customer", customer_id=customer.id), toast)
    return _render_form(customer, form)


def _render_form(customer: Customer, form: RetentionForm) -> ResponseReturnValue:
    return htmx.render_dialog(
        "messages/retention/_form.html",
        title=_("How long messages of %(name)s are kept", name=customer.name),
        customer=customer,
        form=form,
        default_months=context.get_config().retention.messages_months,
    )
