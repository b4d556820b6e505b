"""Price lists themselves: the operator's pages about their names, and about who has which."""

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import StringField

from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.common.errors import Refused
from portal.services.people import customers
from portal.services.prices import price_lists
from portal.services.prices.price_lists import NamedList
from portal.web.core import access, context, htmx
from portal.web.core.forms import Form, attach, row_id
from portal.web.core.htmx import Toast

blueprint = Blueprint("price_lists", __name__)


class ListForm(Form):
    name = StringField(N_("Name"))


def named(list_id: int) -> NamedList:
    """The list that an address names."""
    try:
        return price_lists.by_id(context.conn(), list_id)
    except price_lists.NoSuchList:
        abort(404)


def list_name(price_list: NamedList) -> str:
    """What people call a list."""
    return price_list.name or _("Default prices")


def address_of(price_list: NamedList) -> str:
    """Where a list's prices are."""
    return url_for("prices.index") if price_list.is_default else url_for("prices.shown", list_id=price_list.id)


def lists_with_addresses() -> list[tuple[NamedList, str]]:
    """All lists, with where their prices are."""
    return [(each, address_of(each)) for each in price_lists.lists(context.conn())]


@blueprint.get("/admin/prices/lists")
@access.operate
def lists() -> ResponseReturnValue:
    return _lists_page(ListForm())


@blueprint.post("/admin/prices/lists")
@access.operate
def add_list() -> ResponseReturnValue:
    form = ListForm()
    try:
        made = price_lists.create(context.conn(), context.actor(), form.name.data or "")
    except Refused as refusal:
        attach(form, refusal)
        return _lists_page(form)
    toast = Toast(_("%(name)s was added. All costs as in the default list until you set a price.", name=made.name))
    return htmx.done(address_of(made), toast)


def _lists_page(form: ListForm) -> ResponseReturnValue:
    return htmx.page(
        "prices/lists.html",
        status=422 if form.errors else 200,
        lists=lists_with_addresses(),
        list_name=list_name,
        form=form,
    )


@blueprint.get("/admin/prices/<int:list_id>/settings")
@access.operate
def settings(list_id: int) -> ResponseReturnValue:
    """A list's name, who has it, and whether it can be deleted."""
    price_list = named(list_id)
    return _settings_page(price_list, ListForm(formdata=None, data={"name": price_list.name}))


@blueprint.post("/admin/prices/<int:list_id>/settings")
@access.operate
def rename(list_id: int) -> ResponseReturnValue:
    price_list, form = named(list_id), ListForm()
    try:
        renamed = price_lists.rename(context.conn(), context.actor(), list_id, form.name.data or "")
    except Refused as refusal:
        attach(form, refusal)
        return _settings_page(price_list, form)
    return htmx.done(address_of(renamed), Toast(_("The list is called %(name)s now.", name=renamed.name)))


@blueprint.post("/admin/prices/<int:list_id>/delete")
@access.operate
def delete(list_id: int) -> ResponseReturnValue:
    price_list = named(list_id)
    form = ListForm(formdata=None, data={"name": price_list.name})
    try:
        price_lists.delete(context.conn(), context.actor(), list_id)
    except Refused as refusal:
        attach(form, refusal)
        return _settings_page(price_list, form)
    return htmx.done(url_for(".lists"), Toast(_("%(name)s was deleted.", name=price_list.name)))


def _settings_page(price_list: NamedList, form: ListForm) -> ResponseReturnValue:
    reason = ""
    try:
        price_lists.deletable(context.conn(), price_list.id)
    except Refused as refusal:
        reason = refusal.localized()
    return htmx.page(
        "prices/settings.html",
        status=422 if form.errors else 200,
        price_list=price_list,
        list_name=list_name,
        address=address_of(price_list),
        form=form,
        reason=reason,
    )


@blueprint.post("/admin/customers/<int:customer_id>/prices")
@access.operate
def assign(customer_id: int) -> ResponseReturnValue:
    """Give a customer the list `price_list`."""
    conn = context.conn()
    try:
        customer = customers.by_id(conn, customer_id)
    except customers.NoSuchCustomer:
        abort(404)
    try:
        chosen = price_lists.assign(conn, context.actor(), customer, request.form.get("price_list", 0, type=row_id))
    except price_lists.NoSuchList as refusal:
        # Deleted by a colleague while the page was open.
        toast = Toast(refusal.localized(), "warn")
    else:
        toast = Toast(_("%(customer)s pays by %(name)s now.", customer=customer.name, name=list_name(chosen)))
    return htmx.done(url_for("admin_customers.show_customer", customer_id=customer_id), toast)
