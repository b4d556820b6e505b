"""Moving credits between a customer's accounts, and what happens when an account's run out: alert, automatic re-credit,
and what the operator allows for it.
"""

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField, TextAreaField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_, _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import auto_recredit, orders
from portal.services.common import credit_amounts
from portal.services.common.errors import Refused
from portal.services.credits import alerts, credits, ledger
from portal.services.people import customers
from portal.services.people.customers import Customer
from portal.web.core import access, context, htmx, live
from portal.web.core.forms import OnceForm, TranslatedForm, parse_row_id, refusals_on

blueprint = Blueprint("credits", __name__)

# Values of the transfer's buttons; without one of these the credits are transferred.
_DO_MAX, _DO_PREVIEW = "max", "look"


class TransferForm(OnceForm):
    """`source` and `target` are names of accounts."""

    source = SelectField(N_("From"), validate_choice=False)
    target = SelectField(N_("To"), validate_choice=False)
    amount = StringField(N_("Credits"))


class CreditAlertForm(TranslatedForm):
    below = StringField(N_("Alert below (credits)"))
    to = TextAreaField(N_("Mail to"))


class AutoRecreditForm(TranslatedForm):
    """`pack` is its credits in thousandths; "" where none is chosen."""

    below = StringField(N_("Buy below (credits)"))
    pack = SelectField(N_("Pack"), validate_choice=False)
    per_day = SelectField(
        N_("Packs a day at most"),
        choices=[SelectChoice(str(each), str(each)) for each in range(1, auto_recredit.MAX_PACKS_PER_DAY + 1)],
        validate_choice=False,
    )


class CreditLineForm(TranslatedForm):
    credit_line = StringField(N_("Credit line (credits)"))
    min_age = StringField(N_("Minimum age of an account (days)"))


# --- moving credits


@blueprint.route("/accounts/<name>/credits/transfer", methods=["GET", "POST"])
@access.account_change_required
def transfer_credits(account: Account) -> ResponseReturnValue:
    """Move credits between two accounts of the customer, at once.

    With `do=max` the form comes back with all that the source holds, with `do=look` it shows both balances as they
    would be; neither moves anything.
    """
    form, conn = TransferForm(), context.get_conn()
    # Those of the customer, also when an operator acts.
    customer_accounts = accounts.list_accounts(conn, account.customer_id)
    if not form.is_submitted():
        form.source.data = account.name
        return _render_transfer_form(account, form, customer_accounts)
    action = request.form.get("do", "")
    if action == _DO_PREVIEW and htmx.is_htmx_request():
        preview = _build_preview(form, customer_accounts)
        return htmx.render_fragments("credits/_transfer_after.html", preview=preview)
    if action == _DO_MAX:
        source = _find_account_by_name(customer_accounts, form.source.data or account.name)
        form.amount.data = i18n.format_credits(source.balance) if source else ""
    if action in (_DO_MAX, _DO_PREVIEW):
        return _render_transfer_form(account, form, customer_accounts, focus=True)
    with refusals_on(form):
        source = _get_transfer_account(account, form.source.data or account.name, "source")
        target = _get_transfer_account(account, form.target.data, "target")
        amount = credit_amounts.parse_amount(form.amount.data)
        address = url_for("statement.show_statement", name=account.name)
        with htmx.once(address):
            credits.transfer_credits(conn, context.get_actor(), source, target, amount)
        moved = i18n.format_credits(amount)
        toast = htmx.Toast(_("%(amount)s credits moved to %(account)s.", amount=moved, account=target.name))
        return htmx.redirect_browser_or_htmx(address, toast)
    return _render_transfer_form(account, form, customer_accounts)


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


def _render_transfer_form(
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


# --- alert and automatic re-credit


@blueprint.get("/accounts/<name>/credits/settings")
@access.account_access_required
def show_credit_settings(account: Account) -> ResponseReturnValue:
    """The rules of the alert and of automatic re-credit, and the forms that change them."""
    return htmx.render_page("credits/settings.html", **_build_page_values(account))


@blueprint.post("/accounts/<name>/credits/settings/alert")
@access.account_change_required
def change_alert(account: Account) -> ResponseReturnValue:
    """Set the alert; without a threshold there is none."""
    form, toast = CreditAlertForm(prefix="alert-"), None
    with refusals_on(form, amount="below"):
        below, addresses = _parse_credit_threshold(form.below.data), alerts.parse_email_addresses(form.to.data)
        alerts.set_alert_rule(context.get_conn(), context.get_actor(), account, below, addresses)
        toast = htmx.Toast(_("The alert was switched off.") if below is None else _("The alert was set."))
    return _answer_settings_form("credits/_settings_alert.html", account, toast, alert_form=form)


@blueprint.post("/accounts/<name>/credits/settings/recredit")
@access.account_change_required
def change_auto_recredit(account: Account) -> ResponseReturnValue:
    """Set automatic re-credit; without a threshold there is none."""
    access.require_billing()
    form, toast = AutoRecreditForm(prefix="recredit-"), None
    with refusals_on(form, amount="below"):
        below, pack = _parse_credit_threshold(form.below.data), request.form.get(form.pack.name, type=parse_row_id)
        per_day = auto_recredit.parse_packs_per_day(form.per_day.data or "1")
        auto_recredit.set_recredit_rule(context.get_conn(), context.get_actor(), account, below, pack, per_day)
        enabled = below is not None
        toast = htmx.Toast(_("Automatic re-credit was set.") if enabled else _("Automatic re-credit was switched off."))
    return _answer_settings_form("credits/_settings_recredit.html", account, toast, recredit_form=form)


def _answer_settings_form(
    template: str, account: Account, toast: htmx.Toast | None, **forms: TranslatedForm
) -> ResponseReturnValue:
    """The answer to a tile's form; see `htmx.answer_form`."""
    return htmx.answer_form(
        template,
        page="credits/settings.html",
        address=url_for(".show_credit_settings", name=account.name),
        toast=toast,
        # What was set is shown as it is stored.
        **_build_page_values(account, **({} if toast else forms)),
    )


def _parse_credit_threshold(text: str) -> int | None:
    return credit_amounts.parse_amount_or_zero(text.strip() or "0") or None


def _build_page_values(account: Account, **refused_forms: TranslatedForm) -> dict[str, Any]:
    values = live.build_live_page_values("credit-settings", account)
    account = values["account"]
    alert_below, recredit_below = (
        "" if each is None else i18n.format_credits(each) for each in (account.alert_below, account.recredit_below)
    )
    alert = {"below": alert_below, "to": "\n".join(account.alert_to)}
    alert_form = CreditAlertForm(prefix="alert-", formdata=None, data=alert)
    rule = {"below": recredit_below, "pack": account.recredit_pack or "", "per_day": account.recredit_per_day}
    recredit_form = AutoRecreditForm(prefix="recredit-", formdata=None, data=rule)
    forms = {"alert_form": alert_form, "recredit_form": recredit_form} | refused_forms
    choices = [SelectChoice("", _("Choose a pack"))]
    for each in auto_recredit.list_auto_recredit_packs(context.get_conn()):
        size, price = i18n.format_credits(each.credits), i18n.format_money(each.price, each.currency)
        choices.append(SelectChoice(str(each.credits), _("%(credits)s credits · %(price)s", credits=size, price=price)))
    forms["recredit_form"].pack.choices = choices
    return values | forms


# --- what the pages show


def _alert_context(account: Account) -> dict[str, Any]:
    contact = customers.get_customer_by_id(context.get_conn(), account.customer_id).contact_email
    return {"below": account.alert_below, "addresses": account.alert_to, "contact": customers.mask_email(contact)}


def _recredit_context(account: Account) -> dict[str, Any]:
    conn = context.get_conn()
    recredit_status = auto_recredit.get_recredit_status(conn, account.id)
    return {
        "below": account.recredit_below,
        "recredit_status": recredit_status,
        # The rule's pack, also where it isn't sold any more.
        "pack": account.recredit_pack,
        "request": None
        if recredit_status.open_order_id is None
        else orders.get_order_by_id(conn, recredit_status.open_order_id),
    }


live.register_live_page(
    "credit-settings",
    live.LiveFragment("credits/_settings_alert_state.html", _alert_context),
    live.LiveFragment(
        "credits/_settings_recredit_state.html",
        _recredit_context,
        lambda account: auto_recredit.get_recredit_status(context.get_conn(), account.id),
    ),
)


# --- what the operator allows


@blueprint.route("/admin/customers/<int:customer_id>/credit-line", methods=["GET", "POST"])
@access.operator_required
def change_credit_line(customer: Customer) -> ResponseReturnValue:
    """Set how many credits may be owed, and how old an account must be."""
    access.require_billing()
    form, conn, actor = CreditLineForm(), context.get_conn(), context.get_actor()
    if not form.is_submitted():
        form.credit_line.data = i18n.format_credits(customer.credit_line)
        form.min_age.data = str(customer.recredit_min_age_days)
    else:
        with refusals_on(form):
            credit_line = auto_recredit.parse_credit_line(form.credit_line.data)
            min_age = customers.parse_recredit_min_age(form.min_age.data)
            customers.change_customer(conn, actor, customer, credit_line=credit_line, min_age_days=min_age)
            toast = htmx.Toast(_("The credit line of %(name)s was changed.", name=customer.name))
            address = url_for("admin_customers.show_customer", customer_id=customer.id)
            return htmx.redirect_browser_or_htmx(address, toast)
    return htmx.render_dialog(
        "credits/_credit_line_form.html",
        title=_("Credit line of %(name)s", name=customer.name),
        customer=customer,
        form=form,
        owed=auto_recredit.get_owed_credits(conn, customer.id),
    )
