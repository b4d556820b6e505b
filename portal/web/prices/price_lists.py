"""Price lists themselves: the operator's pages about their names, and about who has which."""

from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import StringField

from portal.core.i18n import N_, _
from portal.services.common.errors import Refused
from portal.services.people.customers import Customer
from portal.services.prices import price_lists
from portal.services.prices.price_lists import PriceListSummary
from portal.web.core import access, context, htmx
from portal.web.core.forms import TranslatedForm, parse_row_id, refusals_on

blueprint = Blueprint("price_lists", __name__)


class PriceListForm(TranslatedForm):
    name = StringField(N_("Name"))


def render_list_page(template: str, price_list: PriceListSummary, **values: Any) -> ResponseReturnValue:
    """A page about a list."""
    return htmx.render_page(
        template,
        price_list=price_list,
        list_name=price_list_name,
        address=price_list_url(price_list),
        timezone=context.get_config().timezone,
        **values,
    )


def price_list_name(price_list: PriceListSummary) -> str:
    """A list's name for display."""
    return price_list.name or _("Default prices")


def price_list_url(price_list: PriceListSummary) -> str:
    """The address of a list's prices."""
    return (
        url_for("prices.show_default_prices")
        if price_list.is_default
        else url_for("prices.show_prices", list_id=price_list.id)
    )


def list_price_lists_with_urls() -> list[tuple[PriceListSummary, str]]:
    """All lists, with the addresses of their prices."""
    return [(each, price_list_url(each)) for each in price_lists.list_price_lists(context.get_conn())]


@blueprint.route("/admin/prices/lists", methods=["GET", "POST"])
@access.operator_required
def list_price_lists() -> ResponseReturnValue:
    """All lists, and the form that adds one."""
    form = PriceListForm()
    if form.is_submitted():
        with refusals_on(form):
            price_list = price_lists.create_price_list(context.get_conn(), context.get_actor(), form.name.data)
            toast = htmx.Toast(
                _("%(name)s was added. All costs as in the default list until you set a price.", name=price_list.name)
            )
            return htmx.redirect_after_post(price_list_url(price_list), toast)
    return htmx.render_page(
        "prices/lists.html", lists=list_price_lists_with_urls(), list_name=price_list_name, form=form
    )


@blueprint.route("/admin/prices/<int:list_id>/settings", methods=["GET", "POST"])
@access.operator_required
def rename_price_list(price_list: PriceListSummary) -> ResponseReturnValue:
    """A list's name, who has it, and whether it can be deleted."""
    conn, actor, form = context.get_conn(), context.get_actor(), PriceListForm()
    if not form.is_submitted():
        form.name.data = price_list.name
    else:
        with refusals_on(form):
            renamed = price_lists.rename_price_list(conn, actor, price_list.id, form.name.data)
            toast = htmx.Toast(_("The list is called %(name)s now.", name=renamed.name))
            return htmx.redirect_after_post(price_list_url(renamed), toast)
    return _render_settings_page(price_list, form)


@blueprint.post("/admin/prices/<int:list_id>/delete")
@access.operator_required
def delete_price_list(price_list: PriceListSummary) -> ResponseReturnValue:
    form = PriceListForm(formdata=None, obj=price_list)
    with refusals_on(form):
        price_lists.delete_price_list(context.get_conn(), context.get_actor(), price_list.id)
        toast = htmx.Toast(_("%(name)s was deleted.", name=price_list.name))
        return htmx.redirect_after_post(url_for(".list_price_lists"), toast)
    return _render_settings_page(price_list, form)


def _render_settings_page(price_list: PriceListSummary, form: PriceListForm) -> ResponseReturnValue:
    reason = ""
    try:
        price_lists.require_deletable_price_list(context.get_conn(), price_list.id)
    except Refused as refusal:
        reason = refusal.localized()
    return render_list_page("prices/settings.html", price_list, form=form, reason=reason)


@blueprint.post("/admin/customers/<int:customer_id>/prices")
@access.operator_required
def assign_price_list(customer: Customer) -> ResponseReturnValue:
    """Give a customer the list `price_list`."""
    list_id = request.form.get("price_list", 0, type=parse_row_id)
    try:
        price_list = price_lists.assign_price_list(context.get_conn(), context.get_actor(), customer, list_id)
    except price_lists.NoSuchPriceList as refusal:
        # Deleted by a colleague while the page was open.
        toast = htmx.Toast(refusal.localized(), "warn")
    else:
        toast = htmx.Toast(
            _("%(customer)s pays by %(name)s now.", customer=customer.name, name=price_list_name(price_list))
        )
    return htmx.redirect_after_post(url_for("admin_customers.show_customer", customer_id=customer.id), toast)
