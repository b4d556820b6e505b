"""The inbound numbers and short codes of an account, for operators: add and remove."""

from typing import Any

from flask import Blueprint, abort, url_for
from flask.typing import ResponseReturnValue

from portal.core.i18n import gettext as _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common.errors import Refused
from portal.services.messages import inbound_numbers
from portal.services.messages.inbound_numbers import InboundNumber
from portal.web.admin.accounts import InboundNumberForm, account_or_404, render_account_page, render_account_tile
from portal.web.core import access, context, htmx
from portal.web.core.forms import add_form_error

blueprint = Blueprint("admin_inbound_numbers", __name__, url_prefix="/admin")


@blueprint.post("/accounts/<name>/numbers")
@access.operator_required
def add_inbound_number(name: str) -> ResponseReturnValue:
    account, form = account_or_404(name), InboundNumberForm()
    try:
        added = inbound_numbers.add_inbound_number(
            context.get_conn(), context.get_actor(), account, form.number.data or "", form.keyword.data or ""
        )
    except Refused as refusal:
        add_form_error(form, refusal)
        if htmx.is_htmx_request():
            return _render_numbers_tile(account, status=422, number_form=form)
        return render_account_page(account, number_form=form)
    toast = htmx.Toast(_("What is sent to %(number)s reaches %(account)s.", number=added, account=name))
    if htmx.is_htmx_request():
        return _render_numbers_tile(account, toast=toast, number_form=InboundNumberForm(formdata=None))
    return htmx.redirect_after_post(url_for("admin_accounts.show_account", name=name), toast)


@blueprint.get("/numbers/<int:number_id>/delete")
@access.operator_required
def ask_remove_inbound_number(number_id: int) -> ResponseReturnValue:
    """Ask for confirmation before a number is removed from its account."""
    account, inbound_number = _inbound_number_or_404(number_id)
    return htmx.render_dialog(
        "admin/_number.html", account, title=_("Delete this number?"), tab="admin", inbound_number=inbound_number
    )


@blueprint.post("/numbers/<int:number_id>/delete")
@access.operator_required
def remove_inbound_number(number_id: int) -> ResponseReturnValue:
    account, inbound_number = _inbound_number_or_404(number_id)
    inbound_numbers.remove_inbound_number(
        context.get_conn(), context.get_actor(), account, inbound_number.number, inbound_number.keyword
    )
    toast = htmx.Toast(_("%(number)s was removed.", number=inbound_number))
    if htmx.is_htmx_request():
        return _render_numbers_tile(account, toast=toast, number_form=InboundNumberForm(formdata=None))
    return htmx.redirect_after_post(url_for("admin_accounts.show_account", name=account.name), toast)


def _render_numbers_tile(account: Account, **values: Any) -> ResponseReturnValue:
    return render_account_tile(
        "admin/_numbers.html",
        account.name,
        inbound_numbers=inbound_numbers.list_inbound_numbers(context.get_conn(), account.id),
        **values,
    )


def _inbound_number_or_404(number_id: int) -> tuple[Account, InboundNumber]:
    try:
        inbound_number = inbound_numbers.get_inbound_number_by_id(context.get_conn(), number_id)
    except inbound_numbers.NoSuchInboundNumber:
        abort(404)
    owners = (each for each in accounts.list_accounts(context.get_conn()) if each.id == inbound_number.account_id)
    return next(owners, None) or abort(404), inbound_number
