"""What happens when an account's credits run out: alert, automatic re-credit, and what the operator allows for it."""

from collections.abc import Hashable
from typing import Any

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField, TextAreaField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.accounts.change_counters import ChangeCounters
from portal.services.billing import auto_recredit, orders
from portal.services.common import credit_amounts
from portal.services.common.errors import Refused
from portal.services.credits import alerts
from portal.services.people import customers
from portal.services.people.customers import Customer
from portal.web.core import access, context, htmx, layout, live
from portal.web.core.forms import TranslatedForm, add_form_error, parse_row_id
from portal.web.core.htmx import Toast
from portal.web.core.live import LiveFragment

blueprint = Blueprint("credit_settings", __name__)


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


@blueprint.get("/accounts/<name>/credits/settings")
@access.account_access_required
def show_credit_settings(account: Account) -> ResponseReturnValue:
    """The rules of the alert and of automatic re-credit, and the forms that change them."""
    return _render_page(account)


@blueprint.post("/accounts/<name>/credits/settings/alert")
@access.account_change_required
def change_alert(account: Account) -> ResponseReturnValue:
    """Set the alert; without a threshold there is none."""
    form = CreditAlertForm(prefix="alert-")
    try:
        below = _parse_credit_threshold(form.below.data)
        alerts.set_alert_rule(
            context.get_conn(), context.get_actor(), account, below, alerts.parse_email_addresses(form.to.data or "")
        )
    except Refused as refusal:
        add_form_error(form, refusal, amount="below")
        if htmx.is_htmx_request():
            return htmx.render_fragments(
                "credits/_settings_alert.html", status=422, **_tile_context(account, alert_form=form)
            )
        return _render_page(account, alert_form=form)
    toast = Toast(_("The alert was switched off.") if below is None else _("The alert was set."))
    if htmx.is_htmx_request():
        return htmx.render_fragments("credits/_settings_alert.html", toast=toast, **_tile_context(account))
    return htmx.redirect_after_post(url_for(".show_credit_settings", name=account.name), toast)


@blueprint.post("/accounts/<name>/credits/settings/recredit")
@access.account_change_required
def change_auto_recredit(account: Account) -> ResponseReturnValue:
    """Set automatic re-credit; without a threshold there is none."""
    access.require_billing()
    form = AutoRecreditForm(prefix="recredit-")
    try:
        below = _parse_credit_threshold(form.below.data)
        pack = _parse_pack_credits(form.pack.data)
        per_day = auto_recredit.parse_packs_per_day(form.per_day.data or "1")
        auto_recredit.set_recredit_rule(context.get_conn(), context.get_actor(), account, below, pack, per_day)
    except Refused as refusal:
        add_form_error(form, refusal, amount="below")
        if htmx.is_htmx_request():
            return htmx.render_fragments(
                "credits/_settings_recredit.html", status=422, **_tile_context(account, recredit_form=form)
            )
        return _render_page(account, recredit_form=form)
    enabled = below is not None
    toast = Toast(_("Automatic re-credit was set.") if enabled else _("Automatic re-credit was switched off."))
    if htmx.is_htmx_request():
        return htmx.render_fragments("credits/_settings_recredit.html", toast=toast, **_tile_context(account))
    return htmx.redirect_after_post(url_for(".show_credit_settings", name=account.name), toast)


def _parse_credit_threshold(text: str | None) -> int | None:
    return credit_amounts.parse_amount_or_zero((text or "").strip() or "0") or None


def _parse_pack_credits(text: str | None) -> int | None:
    try:
        return parse_row_id(text or "")
    except ValueError:
        return None


def _render_page(account: Account, **refused_forms: TranslatedForm) -> ResponseReturnValue:
    return live.render_live_page(
        "credits/settings.html",
        "credit-settings",
        account,
        status=422 if refused_forms else 200,
        **_build_forms(account, **refused_forms),
    )


def _tile_context(account: Account, **refused_forms: TranslatedForm) -> dict[str, Any]:
    """The variables of a tile of the page, from the account as it is now."""
    account = accounts.get_account(context.get_conn(), account.name)
    return {
        "account": layout.build_account_view(account),
        "may_change": access.may_change(),
        "parts": live.render_live_fragments(account, _ALERT_PART, _RECREDIT_PART),
        **_build_forms(account, **refused_forms),
    }


def _build_forms(account: Account, **refused_forms: TranslatedForm) -> dict[str, TranslatedForm]:
    alert_below, recredit_below = account.alert_below, account.recredit_below
    alert_form = CreditAlertForm(
        prefix="alert-",
        formdata=None,
        data={
            "below": "" if alert_below is None else i18n.format_credits(alert_below),
            "to": "\n".join(account.alert_to),
        },
    )
    recredit_form = AutoRecreditForm(
        prefix="recredit-",
        formdata=None,
        data={
            "below": "" if recredit_below is None else i18n.format_credits(recredit_below),
            "pack": str(account.recredit_pack or ""),
            "per_day": str(account.recredit_per_day),
        },
    )
    forms = {"alert_form": alert_form, "recredit_form": recredit_form} | refused_forms
    forms["recredit_form"].pack.choices = [SelectChoice("", _("Choose a pack"))] + [
        SelectChoice(
            str(each.credits),
            _(
                "%(credits)s credits · %(price)s",
                credits=i18n.format_credits(each.credits),
                price=i18n.format_money(each.price, each.currency),
            ),
        )
        for each in auto_recredit.list_auto_recredit_packs(context.get_conn())
    ]
    return forms


# --- what the pages show


def _alert_context(account: Account, counters: ChangeCounters) -> dict[str, Any]:
    return {
        "below": account.alert_below,
        "addresses": account.alert_to,
        "contact": customers.mask_email(
            customers.get_customer_by_id(context.get_conn(), account.customer_id).contact_email
        ),
    }


def _alert_cache_key(account: Account, counters: ChangeCounters) -> Hashable:
    return account.alert_below, account.alert_to, account.customer_id


def _recredit_context(account: Account, counters: ChangeCounters) -> dict[str, Any]:
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


def _recredit_cache_key(account: Account, counters: ChangeCounters) -> Hashable:
    return (
        account.recredit_below,
        account.recredit_pack,
        auto_recredit.get_recredit_status(context.get_conn(), account.id),
    )


_ALERT_PART = LiveFragment("credits/_settings_alert_state.html", _alert_cache_key, _alert_context)
_RECREDIT_PART = LiveFragment("credits/_settings_recredit_state.html", _recredit_cache_key, _recredit_context)
live.register_live_page("credit-settings", _ALERT_PART, _RECREDIT_PART)


# --- what the operator allows


@blueprint.get("/admin/customers/<int:customer_id>/credit-line")
@access.operator_required
def show_credit_line_form(customer: Customer) -> ResponseReturnValue:
    access.require_billing()
    form = CreditLineForm(
        formdata=None,
        data={"credit_line": i18n.format_credits(customer.credit_line), "min_age": str(customer.recredit_min_age_days)},
    )
    return _render_credit_line_form(customer, form)


@blueprint.post("/admin/customers/<int:customer_id>/credit-line")
@access.operator_required
def change_credit_line(customer: Customer) -> ResponseReturnValue:
    """Set how many credits may be owed, and how old an account must be."""
    access.require_billing()
    form = CreditLineForm()
    try:
        customers.change_customer(
            context.get_conn(),
            context.get_actor(),
            customer,
            credit_line=auto_recredit.parse_credit_line(form.credit_line.data or ""),
            min_age_days=customers.parse_recredit_min_age(form.min_age.data or ""),
        )
    except Refused as refusal:
        add_form_error(form, refusal)
        return _render_credit_line_form(customer, form, status=422)
    toast = Toast(_("The credit line of %(name)s was changed.", name=customer.name))
    return htmx.redirect_browser_or_htmx(url_for("admin_customers.show_customer", customer_id=customer.id), toast)


def _render_credit_line_form(customer: Customer, form: CreditLineForm, *, status: int = 200) -> ResponseReturnValue:
    values: dict[str, Any] = {
        "customer": customer,
        "form": form,
        "owed": auto_recredit.get_owed_credits(context.get_conn(), customer.id),
    }
    if htmx.is_htmx_request():
        return htmx.render_fragments("credits/_credit_line_form.html", status=status, **values)
    return htmx.render_page("credits/credit_line.html", status=status, **values)
