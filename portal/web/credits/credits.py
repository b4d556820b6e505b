"""Moving credits from one of a customer's accounts to another."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import HiddenField, SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts, idempotency
from portal.services.common.errors import Refused
from portal.services.credits import credits, ledger
from portal.web.core import access, context, htmx
from portal.web.core.forms import Form, attach
from portal.web.core.htmx import Toast

blueprint = Blueprint("credits", __name__)

# What the form's buttons ask for; without one of these the credits move.
_MAX, _LOOK = "max", "look"


class TransferForm(Form):
    """`source` and `target` are names of accounts; `form` makes a form that is sent twice move credits once."""

    source = SelectField(N_("From"), validate_choice=False)
    target = SelectField(N_("To"), validate_choice=False)
    amount = StringField(N_("Credits"))
    form = HiddenField()


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two accounts: its balance now, and after the transfer (None: no amount has been typed)."""

    name: str
    before: int
    after: int | None
    disabled: bool


@dataclass(frozen=True, slots=True)
class _Preview:
    """What a transfer would do; `refusal` says why it can't be done, in words."""

    sides: Sequence[_Side]
    refusal: str = ""


@blueprint.get("/accounts/<name>/credits/transfer")
@access.change_account
def ask(account: Account) -> ResponseReturnValue:
    form = TransferForm()
    form.source.data = account.name
    return _form(account, form)


@blueprint.post("/accounts/<name>/credits/transfer")
@access.change_account
def transfer(account: Account) -> ResponseReturnValue:
    """Move credits between two accounts of the customer, at once.

    With `do=max` the form comes back with all that the source holds, with `do=look` it shows both balances as they
    would be; neither moves anything.
    """
    form = TransferForm()
    do = request.form.get("do", "")
    if do == _LOOK and htmx.wanted():
        preview = _preview(form, _own(account))
        return htmx.parts("credits/_transfer_after.html", preview=preview)
    if do in (_MAX, _LOOK):
        if do == _MAX:
            source = _find(_own(account), form.source.data or account.name)
            form.amount.data = i18n.credits(source.balance) if source else ""
        return _form(account, form, focus=True)
    address = url_for("statement.show_statement", name=account.name)
    try:
        toast = _transfer(account, form)
    except idempotency.AlreadySent as refusal:
        toast = Toast(refusal.localized(), "info")
    except Refused as refusal:
        attach(form, refusal)
        return _form(account, form, status=422)
    return htmx.moved(address, toast)


def _transfer(account: Account, form: TransferForm) -> Toast:
    source = _account(account, form.source.data or account.name, "source")
    target = _account(account, form.target.data or "", "target")
    amount = credit_amounts.parse(form.amount.data or "")
    number = form.form.data or ""
    credits.transfer(context.conn(), context.actor(), source, target, amount, form=number)
    return Toast(_("%(amount)s credits moved to %(account)s.", amount=i18n.credits(amount), account=target.name))


def _account(account: Account, name: str, field: str) -> Account:
    try:
        return accounts.by_name(context.conn(), name, account.customer_id)
    except accounts.NoSuchAccount as refusal:
        refusal.field = field
        raise


def _own(account: Account) -> list[Account]:
    """The accounts between which credits may move: those of the customer, also when an operator acts."""
    return accounts.of_customer(context.conn(), account.customer_id)


def _find(own: Sequence[Account], name: str | None) -> Account | None:
    return next((each for each in own if each.name == name), None)


def _preview(form: TransferForm, own: Sequence[Account]) -> _Preview:
    source, target = _find(own, form.source.data), _find(own, form.target.data)
    known = [each for each in (source, target) if each is not None]
    as_they_are = [_Side(each.name, each.balance, None, each.disabled) for each in known]
    if source is None or target is None:
        return _Preview(as_they_are)
    try:
        if source.id == target.id:
            raise credits.SameAccount()
        if not (form.amount.data or "").strip():
            return _Preview(as_they_are)
        amount = credit_amounts.parse(form.amount.data or "")
        if amount > source.balance:
            raise ledger.NotEnoughCredits(account=source.name, balance=i18n.credits(source.balance))
    except Refused as refusal:
        return _Preview(as_they_are[:1] if source.id == target.id else as_they_are, refusal.localized())
    moved = ((source, -amount), (target, amount))
    return _Preview([_Side(each.name, each.balance, each.balance + change, each.disabled) for each, change in moved])


def _form(account: Account, form: TransferForm, status: int = 200, *, focus: bool = False) -> ResponseReturnValue:
    own = _own(account)
    choices = [SelectChoice(each.name, _entry(each)) for each in own]
    form.source.choices = choices
    # The likely target first: another account than the source.
    form.target.choices = sorted(choices, key=lambda choice: choice.value == (form.source.data or account.name))
    form.target.data = form.target.data or str(form.target.choices[0].value)
    # A form that was refused has moved nothing: its number is still good.
    form.form.data = form.form.data or idempotency.new()
    return htmx.dialog(
        "credits/_transfer.html",
        account,
        title=_("Transfer credits"),
        tab="credits",
        status=status,
        form=form,
        alone=len(own) < 2,
        # A refused form says why at its field.
        preview=_preview(form, own) if status == 200 else _Preview(()),
        focus=focus,
    )


def _entry(account: Account) -> str:
    shown = f"{account.name} · {i18n.credits(account.balance)}"
    return f"{shown} · {_('Disabled')}" if account.disabled else shown
