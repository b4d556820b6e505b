"""Moving credits from one of a customer's accounts to another."""

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_, _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts, idempotency
from portal.services.common.errors import Refused
from portal.services.credits import credits, ledger
from portal.web.core import access, context, htmx
from portal.web.core.forms import OnceForm, refusals_on

blueprint = Blueprint("credits", __name__)

# Values of the form's buttons; without one of these the credits are transferred.
_DO_MAX, _DO_PREVIEW = "max", "look"


class TransferForm(OnceForm):
    """`source` and `target` are names of accounts."""

    source = SelectField(N_("From"), validate_choice=False)
    target = SelectField(N_("To"), validate_choice=False)
    amount = StringField(N_("Credits"))


@blueprint.route("/accounts/<name>/credits/transfer", methods=["GET", "POST"])
@access.account_change_required
def transfer_credits(account: Account) -> ResponseReturnValue:
    """Move credits between two accounts of the customer, at once.

    With `do=max` the form comes back with all that the source holds, with `do=look` it shows both balances as they
    would be; neither moves anything.
    """
    form = TransferForm()
    # Those of the customer, also when an operator acts.
    customer_accounts = accounts.list_accounts(context.get_conn(), account.customer_id)
    if not form.is_submitted():
        form.source.data = account.name
        return _render_form(account, form, customer_accounts)
    action = request.form.get("do", "")
    if action == _DO_PREVIEW and htmx.is_htmx_request():
        preview = _build_preview(form, customer_accounts)
        return htmx.render_fragments("credits/_transfer_after.html", preview=preview)
    if action == _DO_MAX:
        source = _find_account_by_name(customer_accounts, form.source.data or account.name)
        form.amount.data = i18n.format_credits(source.balance) if source else ""
    if action in (_DO_MAX, _DO_PREVIEW):
        return _render_form(account, form, customer_accounts, focus=True)
    with refusals_on(form):
        source = _get_transfer_account(account, form.source.data or account.name, "source")
        target = _get_transfer_account(account, form.target.data, "target")
        amount = credit_amounts.parse_amount(form.amount.data)
        try:
            credits.transfer_credits(
                context.get_conn(), context.get_actor(), source, target, amount, idempotency_key=form.form.data
            )
            words = _(
                "%(amount)s credits moved to %(account)s.", amount=i18n.format_credits(amount), account=target.name
            )
            toast = htmx.Toast(words)
        except idempotency.FormAlreadySent as refusal:
            toast = htmx.Toast(refusal.localized(), "info")
        return htmx.redirect_browser_or_htmx(url_for("statement.show_statement", name=account.name), toast)
    return _render_form(account, form, customer_accounts)


def _get_transfer_account(account: Account, name: str, field: str) -> Account:
    try:
        return accounts.get_account(context.get_conn(), name, account.customer_id)
    except accounts.NoSuchAccount as refusal:
        refusal.field = field
        raise


def _find_account_by_name(customer_accounts: Sequence[Account], name: str | None) -> Account | None:
    return next((each for each in customer_accounts if each.name == name), None)


def _build_preview(form: TransferForm, customer_accounts: Sequence[Account]) -> dict[str, Any]:
    """What a transfer would do: both accounts with their balances after it (None: no amount has been typed); `refusal`
    says why it can't be done, in words."""
    source, target = (_find_account_by_name(customer_accounts, each.data) for each in (form.source, form.target))
    unchanged = [(each, None) for each in (source, target) if each is not None]
    if source is None or target is None:
        return {"sides": unchanged}
    try:
        if source.id == target.id:
            raise credits.TransferToSameAccount()
        if not form.amount.data.strip():
            return {"sides": unchanged}
        amount = credit_amounts.parse_amount(form.amount.data)
        if amount > source.balance:
            raise ledger.NotEnoughCredits(account=source.name, balance=i18n.format_credits(source.balance))
    except Refused as refusal:
        sides = unchanged[:1] if source.id == target.id else unchanged
        return {"sides": sides, "refusal": refusal.localized()}
    return {"sides": [(source, source.balance - amount), (target, target.balance + amount)]}


def _render_form(
    account: Account, form: TransferForm, customer_accounts: Sequence[Account], *, focus: bool = False
) -> ResponseReturnValue:
    choices = [SelectChoice(each.name, _format_account_choice(each)) for each in customer_accounts]
    form.source.choices = choices
    # The likely target first: another account than the source.
    form.target.choices = sorted(choices, key=lambda choice: choice.value == (form.source.data or account.name))
    form.target.data = form.target.data or str(form.target.choices[0].value)
    return htmx.render_dialog(
        "credits/_transfer.html",
        account,
        title=_("Transfer credits"),
        tab="credits",
        form=form,
        alone=len(customer_accounts) < 2,
        # A refused form shows the reason at its field.
        preview=_build_preview(form, customer_accounts) if not form.errors else {},
        focus=focus,
    )


def _format_account_choice(account: Account) -> str:
    label = f"{account.name} · {i18n.format_credits(account.balance)}"
    return f"{label} · {_('Disabled')}" if account.disabled else label
