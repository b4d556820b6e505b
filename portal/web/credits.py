"""An account's balance, every movement of it, and moving credits to another account."""

from functools import partial
from typing import Any

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue
from wtforms import HiddenField, SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal import i18n
from portal.i18n import N_
from portal.i18n import gettext as _
from portal.services import accounts, credits, once, statement
from portal.services.accounts import Account
from portal.services.errors import Refused
from portal.services.live import Pulse
from portal.services.statement import Movement
from portal.web import access, context, htmx, live, paging
from portal.web.forms import Form, attach
from portal.web.htmx import Toast
from portal.web.live import Part

blueprint = Blueprint("credits", __name__)

_KINDS = {
    "grant": N_("Granted"),
    "purchase": N_("Bought"),
    "transfer_out": N_("Transfer to %(account)s"),
    "transfer_in": N_("Transfer from %(account)s"),
    "usage": N_("Messages sent"),
    "refund": N_("Refunded"),
    "correction": N_("Corrected"),
    "expiry": N_("Run out"),
}


class TransferForm(Form):
    """`source` and `target` are names of accounts; `form` makes a form that is sent twice move credits once."""

    source = SelectField(N_("From"), validate_choice=False)
    target = SelectField(N_("To"), validate_choice=False)
    amount = StringField(N_("Credits"))
    form = HiddenField()


@blueprint.get("/accounts/<name>/credits")
@access.see_account
def ledger(account: Account) -> ResponseReturnValue:
    """The balance and a page of its movements, newest first; `?before=` and `?after=` turn it."""
    return live.show("credits/page.html", "credits", account)


@blueprint.get("/accounts/<name>/credits/transfer")
@access.change_account
def ask(account: Account) -> ResponseReturnValue:
    form = TransferForm()
    form.source.data = account.name
    return _form(account, form)


@blueprint.post("/accounts/<name>/credits/transfer")
@access.change_account
def transfer(account: Account) -> ResponseReturnValue:
    """Move credits between two accounts of the customer, at once."""
    form = TransferForm()
    address = url_for(".ledger", name=account.name)
    try:
        toast = _transfer(account, form)
    except once.AlreadySent as refusal:
        toast = Toast(refusal.localized(), "info")
    except Refused as refusal:
        attach(form, refusal)
        return _form(account, form, status=422)
    return htmx.moved(address, toast)


def _transfer(account: Account, form: TransferForm) -> Toast:
    source = _account(account, form.source.data or account.name, "source")
    target = _account(account, form.target.data or "", "target")
    amount = credits.parse(form.amount.data or "")
    number = form.form.data or ""
    credits.transfer(context.conn(), context.actor(), source, target, amount, form=number)
    return Toast(_("%(amount)s credits moved to %(account)s.", amount=i18n.credits(amount), account=target.name))


def _account(account: Account, name: str, field: str) -> Account:
    try:
        return accounts.by_name(context.conn(), name, account.customer_id)
    except accounts.NoSuchAccount as refusal:
        refusal.field = field
        raise


def _form(account: Account, form: TransferForm, status: int = 200) -> ResponseReturnValue:
    own = accounts.of_customer(context.conn(), account.customer_id)
    choices = [SelectChoice(each.name, f"{each.name} · {i18n.credits(each.balance)}") for each in own]
    form.source.choices = choices
    # The likely target first: another account than the source.
    form.target.choices = sorted(choices, key=lambda choice: choice.value == (form.source.data or account.name))
    # A form that was refused has moved nothing: its number is still good.
    form.form.data = form.form.data or once.new()
    return htmx.dialog(
        "credits/_transfer.html",
        account,
        title=_("Transfer credits"),
        tab="credits",
        status=status,
        form=form,
        alone=len(own) < 2,
    )


def _ledger(account: Account, pulse: Pulse) -> dict[str, Any]:
    return {"page": paging.page(partial(statement.movements, context.conn(), account.id)), "words": _words}


def _words(movement: Movement) -> str:
    """What a movement was, in words."""
    return _(_KINDS[movement.kind]) % {"account": movement.counterpart}


live.register(
    "credits",
    Part(
        "credits/_ledger.html",
        lambda account, pulse: (account.balance, pulse.latest_movement),
        _ledger,
        ages=True,
        asks=paging.ASKS,
    ),
)
