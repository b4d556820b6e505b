"""The inbound numbers and short codes of an account, for operators: add and remove."""

from flask import Blueprint, abort
from flask.typing import ResponseReturnValue

from portal.core.i18n import gettext as _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.messages import inbound_numbers
from portal.services.messages.inbound_numbers import InboundNumber
from portal.web.admin.accounts import InboundNumberForm, answer_account_form
from portal.web.core import access, context, htmx
from portal.web.core.forms import refusals_on
from portal.web.core.htmx import Toast

blueprint = Blueprint("admin_inbound_numbers", __name__, url_prefix="/admin")


@blueprint.post("/accounts/<name>/numbers")
@access.operator_required
def add_inbound_number(account: Account) -> ResponseReturnValue:
    form = InboundNumberForm()
    with refusals_on(form):
        added = inbound_numbers.add_inbound_number(
            context.get_conn(), context.get_actor(), account, form.number.data, form.keyword.data
        )
        toast = Toast(_("What is sent to %(number)s reaches %(account)s.", number=added, account=account.name))
        return _answer_done(account, toast)
    return answer_account_form("admin/_numbers.html", account, number_form=form)


@blueprint.get("/numbers/<int:number_id>/delete")
@access.operator_required
def ask_remove_inbound_number(number_id: int) -> ResponseReturnValue:
    """Ask for confirmation before a number is removed from its account."""
    account, inbound_number = _get_inbound_number(number_id)
    return htmx.render_dialog(
        "admin/_number.html", account, title=_("Delete this number?"), tab="admin", inbound_number=inbound_number
    )


@blueprint.post("/numbers/<int:number_id>/delete")
@access.operator_required
def remove_inbound_number(number_id: int) -> ResponseReturnValue:
    account, inbound_number = _get_inbound_number(number_id)
    inbound_numbers.remove_inbound_number(
        context.get_conn(), context.get_actor(), account, inbound_number.number, inbound_number.keyword
    )
    return _answer_done(account, Toast(_("%(number)s was removed.", number=inbound_number)))


def _answer_done(account: Account, toast: Toast) -> ResponseReturnValue:
    form = InboundNumberForm(formdata=None)
    return answer_account_form("admin/_numbers.html", account, toast=toast, number_form=form)


def _get_inbound_number(number_id: int) -> tuple[Account, InboundNumber]:
    inbound_number = inbound_numbers.get_inbound_number_by_id(context.get_conn(), number_id)
    owners = (each for each in accounts.list_accounts(context.get_conn()) if each.id == inbound_number.account_id)
    return next(owners, None) or abort(404), inbound_number
