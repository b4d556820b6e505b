"""The numbers and short codes that reach an account: operators give them to it and take them away."""

from typing import Any

from flask import Blueprint, abort, url_for
from flask.typing import ResponseReturnValue

from portal.core.i18n import gettext as _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common.errors import Refused
from portal.services.messages import inbound_numbers
from portal.services.messages.inbound_numbers import Route
from portal.web.admin.accounts import NumberForm, account_or_404, render_account_page, render_account_tile
from portal.web.core import access, context, htmx
from portal.web.core.forms import attach

blueprint = Blueprint("admin_inbound_numbers", __name__, url_prefix="/admin")


@blueprint.post("/accounts/<name>/numbers")
@access.operate
def add_number(name: str) -> ResponseReturnValue:
    account, form = account_or_404(name), NumberForm()
    try:
        added = inbound_numbers.add(
            context.conn(), context.actor(), account, form.number.data or "", form.keyword.data or ""
        )
    except Refused as refusal:
        attach(form, refusal)
        if htmx.wanted():
            return _render_numbers_tile(account, status=422, number_form=form)
        return render_account_page(account, number_form=form)
    toast = htmx.Toast(_("What is sent to %(route)s reaches %(account)s.", route=added, account=name))
    if htmx.wanted():
        return _render_numbers_tile(account, toast=toast, number_form=NumberForm(formdata=None))
    return htmx.done(url_for("admin_accounts.show_account", name=name), toast)


@blueprint.get("/numbers/<int:route_id>/delete")
@access.operate
def ask_remove_number(route_id: int) -> ResponseReturnValue:
    """The question before a number is taken from its account."""
    account, route = _number_or_404(route_id)
    return htmx.dialog("admin/_number.html", account, title=_("Delete this number?"), tab="admin", route=route)


@blueprint.post("/numbers/<int:route_id>/delete")
@access.operate
def remove_number(route_id: int) -> ResponseReturnValue:
    account, route = _number_or_404(route_id)
    inbound_numbers.remove(context.conn(), context.actor(), account, route.number, route.keyword)
    toast = htmx.Toast(_("%(route)s was removed.", route=route))
    if htmx.wanted():
        return _render_numbers_tile(account, toast=toast, number_form=NumberForm(formdata=None))
    return htmx.done(url_for("admin_accounts.show_account", name=account.name), toast)


def _render_numbers_tile(account: Account, **values: Any) -> ResponseReturnValue:
    return render_account_tile(
        "admin/_numbers.html", account.name, routes=inbound_numbers.of_account(context.conn(), account.id), **values
    )


def _number_or_404(route_id: int) -> tuple[Account, Route]:
    try:
        route = inbound_numbers.by_id(context.conn(), route_id)
    except inbound_numbers.NoSuchRoute:
        abort(404)
    owner = (each for each in accounts.of_customer(context.conn()) if each.id == route.account_id)
    return next(owner, None) or abort(404), route
