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
from portal.services.accounts.change_counters import Pulse
from portal.services.billing import auto_recredit, orders
from portal.services.common.errors import Refused
from portal.services.credits import alerts, credits
from portal.services.people import customers
from portal.services.people.customers import Customer
from portal.web.core import access, context, htmx, layout, live
from portal.web.core.forms import Form, attach, row_id
from portal.web.core.htmx import Toast
from portal.web.core.live import Part

blueprint = Blueprint("credit_settings", __name__)


class AlertForm(Form):
    below = StringField(N_("Alert below (credits)"))
    to = TextAreaField(N_("Mail to"))


class RecreditForm(Form):
    """`pack` is its credits in thousandths; "" where none is chosen."""

    below = StringField(N_("Buy below (credits)"))
    pack = SelectField(N_("Pack"), validate_choice=False)
    per_day = SelectField(
        N_("Packs a day at most"),
        choices=[SelectChoice(str(each), str(each)) for each in range(1, auto_recredit.MOST_PER_DAY + 1)],
        validate_choice=False,
    )


class LineForm(Form):
    credit_line = StringField(N_("Credit line (credits)"))
    min_age = StringField(N_("Minimum age of an account (days)"))


@blueprint.get("/accounts/<name>/credits/settings")
@access.see_account
def settings(account: Account) -> ResponseReturnValue:
    """Both rules as they are, and the forms that change them."""
    return _page(account)


@blueprint.post("/accounts/<name>/credits/settings/alert")
@access.change_account
def change_alert(account: Account) -> ResponseReturnValue:
    """Set the alert; without a threshold there is none."""
    form = AlertForm(prefix="alert-")
    try:
        below = _threshold(form.below.data)
        alerts.set_rule(context.conn(), context.actor(), account, below, alerts.parse_addresses(form.to.data or ""))
    except Refused as refusal:
        attach(form, refusal, amount="below")
        if htmx.wanted():
            return htmx.parts("credits/_settings_alert.html", status=422, **_tile(account, alert_form=form))
        return _page(account, alert_form=form)
    toast = Toast(_("The alert was switched off.") if below is None else _("The alert was set."))
    if htmx.wanted():
        return htmx.parts("credits/_settings_alert.html", toast=toast, changed=True, **_tile(account))
    return htmx.done(url_for(".settings", name=account.name), toast)


@blueprint.post("/accounts/<name>/credits/settings/recredit")
@access.change_account
def change_recredit(account: Account) -> ResponseReturnValue:
    """Set automatic re-credit; without a threshold there is none."""
    form = RecreditForm(prefix="recredit-")
    try:
        below = _threshold(form.below.data)
        pack = _pack(form.pack.data)
        per_day = auto_recredit.parse_per_day(form.per_day.data or "1")
        auto_recredit.set_rule(context.conn(), context.actor(), account, below, pack, per_day)
    except Refused as refusal:
        attach(form, refusal, amount="below")
        if htmx.wanted():
            return htmx.parts("credits/_settings_recredit.html", status=422, **_tile(account, recredit_form=form))
        return _page(account, recredit_form=form)
    on = below is not None
    toast = Toast(_("Automatic re-credit was set.") if on else _("Automatic re-credit was switched off."))
    if htmx.wanted():
        return htmx.parts("credits/_settings_recredit.html", toast=toast, changed=True, **_tile(account))
    return htmx.done(url_for(".settings", name=account.name), toast)


def _threshold(text: str | None) -> int | None:
    return credits.parse(text) if text and text.strip() not in ("", "0") else None


def _pack(text: str | None) -> int | None:
    try:
        return row_id(text or "")
    except ValueError:
        return None


def _page(account: Account, **refused: Form) -> ResponseReturnValue:
    return live.show(
        "credits/settings.html",
        "credit-settings",
        account,
        status=422 if refused else 200,
        **_forms(account, **refused),
    )


def _tile(account: Account, **refused: Form) -> dict[str, Any]:
    """What a tile of the page needs, as things are now."""
    account = accounts.by_name(context.conn(), account.name)
    return {
        "account": layout.account_view(account),
        "may_change": access.may_change(),
        "parts": live.draw(account, _ALERT, _RECREDIT),
        **_forms(account, **refused),
    }


def _forms(account: Account, **refused: Form) -> dict[str, Form]:
    below, at = account.alert_below, account.recredit_below
    alert = AlertForm(
        prefix="alert-",
        formdata=None,
        data={"below": "" if below is None else i18n.credits(below), "to": "\n".join(account.alert_to)},
    )
    rule = RecreditForm(
        prefix="recredit-",
        formdata=None,
        data={
            "below": "" if at is None else i18n.credits(at),
            "pack": str(account.recredit_pack or ""),
            "per_day": str(account.recredit_per_day),
        },
    )
    forms = {"alert_form": alert, "recredit_form": rule} | refused
    forms["recredit_form"].pack.choices = [SelectChoice("", _("Choose a pack"))] + [
        SelectChoice(
            str(each.credits),
            _(
                "%(credits)s credits · %(price)s",
                credits=i18n.credits(each.credits),
                price=i18n.money(each.price, each.currency),
            ),
        )
        for each in auto_recredit.choices(context.conn())
    ]
    return forms


# --- what the pages show


def _alert(account: Account, pulse: Pulse) -> dict[str, Any]:
    return {
        "below": account.alert_below,
        "addresses": account.alert_to,
        "contact": customers.masked(customers.by_id(context.conn(), account.customer_id).contact_email),
    }


def _alert_ground(account: Account, pulse: Pulse) -> Hashable:
    return account.alert_below, account.alert_to, account.customer_id


def _rule(account: Account, pulse: Pulse) -> dict[str, Any]:
    conn = context.conn()
    found = auto_recredit.standing(conn, account.id)
    return {
        "below": account.recredit_below,
        "found": found,
        # The rule's pack, also where it isn't sold any more.
        "pack": account.recredit_pack,
        "request": None if found.request is None else orders.by_id(conn, found.request),
    }


def _rule_ground(account: Account, pulse: Pulse) -> Hashable:
    return account.recredit_below, account.recredit_pack, auto_recredit.standing(context.conn(), account.id)


_ALERT = Part("credits/_settings_alert_state.html", _alert_ground, _alert)
_RECREDIT = Part("credits/_settings_recredit_state.html", _rule_ground, _rule)
live.register("credit-settings", _ALERT, _RECREDIT)


# --- what the operator allows


@blueprint.get("/admin/customers/<int:customer_id>/credit-line")
@access.operate
def ask_line(customer_id: int) -> ResponseReturnValue:
    customer = access.customer_or_404(customer_id)
    form = LineForm(
        formdata=None,
        data={"credit_line": i18n.credits(customer.credit_line), "min_age": str(customer.recredit_min_age_days)},
    )
    return _line(customer, form)


@blueprint.post("/admin/customers/<int:customer_id>/credit-line")
@access.operate
def change_line(customer_id: int) -> ResponseReturnValue:
    """Set how many credits may be owed, and how old an account must be."""
    customer, form = access.customer_or_404(customer_id), LineForm()
    try:
        customers.change(
            context.conn(),
            context.actor(),
            customer,
            credit_line=auto_recredit.parse_credit_line(form.credit_line.data or ""),
            min_age_days=customers.parse_min_age(form.min_age.data or ""),
        )
    except Refused as refusal:
        attach(form, refusal)
        return _line(customer, form, status=422)
    toast = Toast(_("The credit line of %(name)s was changed.", name=customer.name))
    return htmx.moved(url_for("admin.customer", customer_id=customer.id), toast)


def _line(customer: Customer, form: LineForm, *, status: int = 200) -> ResponseReturnValue:
    values: dict[str, Any] = {
        "customer": customer,
        "form": form,
        "owed": auto_recredit.owed(context.conn(), customer.id),
    }
    if htmx.wanted():
        return htmx.parts("admin/_credit_line_form.html", status=status, **values)
    return htmx.page("admin/credit_line.html", status=status, **values)
