"""The operator's side of credits: everyone's balances, granting, correcting, and giving back."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import HiddenField, SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts.accounts import Account
from portal.services.billing import balances
from portal.services.billing.balances import Balance
from portal.services.common import credit_amounts, idempotency
from portal.services.common.errors import Refused
from portal.services.credits import credits, expiry
from portal.services.history import history, refunds
from portal.services.history.history import Text
from portal.web.admin.accounts import (
    GrantForm,
    account_or_404,
    blank_grant_form,
    render_account_page,
    render_account_tile,
)
from portal.web.core import access, context, downloads, htmx
from portal.web.core.forms import Form, attach
from portal.web.core.htmx import Toast

blueprint = Blueprint("admin_balances", __name__, url_prefix="/admin")

_COLUMNS = "account;customer;balance;spent7days;spent30days;owed;alertBelow;alert".split(";")
# More would make a page that nobody reads; the search finds the others, and the file has all.
_MOST_SHOWN = 200


class SearchForm(Form):
    """Which accounts are shown: those with the words of `q`, sorted by a column (a minus before it: downwards)."""

    class Meta:
        csrf = False

    q = StringField(N_("Account or customer"))
    sort = SelectField(
        N_("Sorted by"),
        choices=[
            SelectChoice("customer", N_("Customer")),
            SelectChoice("account", N_("Account")),
            SelectChoice("balance", N_("Balance, lowest first")),
            SelectChoice("-balance", N_("Balance, highest first")),
            SelectChoice("-week", N_("Spent in 7 days, most first")),
            SelectChoice("-month", N_("Spent in 30 days, most first")),
            SelectChoice("-owed", N_("Owed, most first")),
            SelectChoice("alert", N_("Alert, low balances first")),
        ],
    )


class ChangeForm(Form):
    """Credits that are given or taken for a `reason`; `form` makes a form that is sent twice do it once."""

    amount = StringField(N_("Credits"))
    reason = StringField(N_("Reason"))
    form = HiddenField()


class ReasonForm(Form):
    reason = StringField(N_("Reason"))
    form = HiddenField()


# --- everyone's balances


@blueprint.get("/credits")
@access.operate
def list_balances() -> ResponseReturnValue:
    """Everyone's balances. Query: `q`, `sort`; see `SearchForm`."""
    form = SearchForm(request.args)
    found = _search_balances(form)
    return htmx.page(
        "admin/credits.html",
        form=form,
        sort=_sort_column(form),
        rows=found[:_MOST_SHOWN],
        totals=balances.together(found),
        query=urlencode({"q": form.q.data or "", "sort": _sort_column(form)}),
    )


@blueprint.get("/credits.csv")
@access.operate
def download_balances() -> ResponseReturnValue:
    """All of them as a file. The query is that of `list_balances`."""
    return downloads.send("credits.csv", _COLUMNS, map(_csv_row, _search_balances(SearchForm(request.args))))


def _csv_row(row: Balance) -> list[object]:
    amounts = (row.balance, row.week, row.month, row.owed)
    alert_below = "" if row.alert_below is None else credit_amounts.plain(row.alert_below)
    return [row.account, row.customer, *map(credit_amounts.plain, amounts), alert_below, row.alert]


# They come by customer, and stay so where the column is the same.
_SORT_KEYS: dict[str, Callable[[Balance], Any]] = {
    "account": lambda row: row.account,
    "balance": lambda row: row.balance,
    "week": lambda row: row.week,
    "month": lambda row: row.month,
    "owed": lambda row: row.owed,
    "alert": lambda row: (balances.LOW, balances.ENOUGH, balances.NONE).index(row.alert),
}


def _search_balances(form: SearchForm) -> list[Balance]:
    wanted = (form.q.data or "").strip().casefold()
    rows = [
        row
        for row in balances.everyone(context.conn())
        if wanted in row.account.casefold() or wanted in row.customer.casefold()
    ]
    sort = _sort_column(form)
    if key := _SORT_KEYS.get(sort.removeprefix("-")):
        rows.sort(key=key, reverse=sort.startswith("-"))
    return rows


def _sort_column(form: SearchForm) -> str:
    sort: str = form.sort.data or ""
    return sort if sort.removeprefix("-") in _SORT_KEYS else "customer"


# --- granting credits


@blueprint.post("/accounts/<name>/credits")
@access.operate
def grant_credits(name: str) -> ResponseReturnValue:
    account, form = account_or_404(name), GrantForm()
    try:
        amount = credit_amounts.parse(form.amount.data or "")
        note, number = form.note.data or "", form.form.data or ""
        ends = expiry.end_of_day(form.until.data or "", context.config().timezone)
        credits.grant(context.conn(), context.actor(), account, amount, note, expires_at=ends, form=number)
        toast = Toast(_("%(amount)s credits were granted.", amount=i18n.credits(amount)))
    except idempotency.AlreadySent as refusal:
        toast = Toast(refusal.localized(), "info")
    except Refused as refusal:
        attach(form, refusal)
        # A form that was refused has granted nothing: its number is still good.
        form.form.data = form.form.data or idempotency.new()
        if htmx.wanted():
            return render_account_tile("admin/_credits.html", name, status=422, grant_form=form)
        return render_account_page(account, grant_form=form)
    if htmx.wanted():
        return render_account_tile(
            "admin/_credits.html", name, "_account_figures.html", toast=toast, grant_form=blank_grant_form()
        )
    return htmx.done(url_for("admin_accounts.show_account", name=name), toast)


# --- putting a balance right


@blueprint.get("/accounts/<name>/credits/correct")
@access.operate
def ask_correct_balance(name: str) -> ResponseReturnValue:
    return _render_correction(account_or_404(name), _blank_change_form())


@blueprint.post("/accounts/<name>/credits/correct")
@access.operate
def correct_balance(name: str) -> ResponseReturnValue:
    """Add credits to a balance, or take some away."""
    account, form = account_or_404(name), ChangeForm()
    try:
        amount = credit_amounts.parse_change(form.amount.data or "")
        reason, number = form.reason.data or "", form.form.data or ""
        after = credits.correct(context.conn(), context.actor(), account, amount, reason, form=number)
    except idempotency.AlreadySent as refusal:
        return _return_to_account(name, Toast(refusal.localized(), "info"))
    except Refused as refusal:
        attach(form, refusal)
        return _render_correction(account, form, status=422)
    return _return_to_account(
        name, Toast(_("The balance was corrected: it is %(balance)s now.", balance=i18n.credits(after)))
    )


def _render_correction(account: Account, form: ChangeForm, status: int = 200) -> ResponseReturnValue:
    return htmx.dialog(
        "admin/_credits_change.html",
        account,
        title=_("Correct the balance"),
        tab="admin",
        status=status,
        form=form,
        action=url_for(".correct_balance", name=account.name),
        hint=_("With a minus they are taken away. Examples: %(more)s, %(less)s", more="100", less=i18n.credits(-2500)),
        verb=_("Correct"),
    )


@blueprint.get("/accounts/<name>/credits/refund")
@access.operate
def ask_refund_credits(name: str) -> ResponseReturnValue:
    return _render_refund(account_or_404(name), _blank_change_form())


@blueprint.post("/accounts/<name>/credits/refund")
@access.operate
def refund_credits(name: str) -> ResponseReturnValue:
    """Give credits back."""
    account, form = account_or_404(name), ChangeForm()
    try:
        amount = credit_amounts.parse(form.amount.data or "")
        reason, number = form.reason.data or "", form.form.data or ""
        credits.refund(context.conn(), context.actor(), account, amount, reason, form=number)
    except idempotency.AlreadySent as refusal:
        return _return_to_account(name, Toast(refusal.localized(), "info"))
    except Refused as refusal:
        attach(form, refusal)
        return _render_refund(account, form, status=422)
    return _return_to_account(name, Toast(_("Credits refunded: %(amount)s.", amount=i18n.credits(amount))))


def _render_refund(account: Account, form: ChangeForm, status: int = 200) -> ResponseReturnValue:
    return htmx.dialog(
        "admin/_credits_change.html",
        account,
        title=_("Refund credits"),
        tab="admin",
        status=status,
        form=form,
        action=url_for(".refund_credits", name=account.name),
        hint=_("What a single message cost is refunded from its place in the history."),
        verb=_("Refund"),
    )


def _blank_change_form() -> ChangeForm:
    return ChangeForm(formdata=None, data={"form": idempotency.new()})


def _return_to_account(name: str, toast: Toast) -> ResponseReturnValue:
    return htmx.moved(url_for("admin_accounts.show_account", name=name), toast)


# --- giving back what a message cost


@blueprint.get("/messages/<int:message_id>/refund")
@access.operate
def ask_refund_message(message_id: int) -> ResponseReturnValue:
    """What is given back, before it is."""
    account, text = _text_or_404(message_id)
    return _render_message_refund(account, text, ReasonForm(formdata=None, data={"form": idempotency.new()}))


@blueprint.post("/messages/<int:message_id>/refund")
@access.operate
def refund_message(message_id: int) -> ResponseReturnValue:
    account, text = _text_or_404(message_id)
    form = ReasonForm()
    try:
        reason, number = form.reason.data or "", form.form.data or ""
        amount = refunds.refund_text(context.conn(), context.actor(), account, text, reason, form=number)
        toast = Toast(_("Credits refunded: %(amount)s.", amount=i18n.credits(amount)))
    except idempotency.AlreadySent as refusal:
        toast = Toast(refusal.localized(), "info")
    except Refused as refusal:
        attach(form, refusal)
        return _render_message_refund(account, text, form, status=422)
    return htmx.moved(url_for("history.view", name=account.name, message_id=text.id), toast)


def _render_message_refund(account: Account, text: Text, form: ReasonForm, status: int = 200) -> ResponseReturnValue:
    return htmx.dialog(
        "admin/_credits_message.html",
        account,
        title=_("Refund this message?"),
        tab="history",
        status=status,
        form=form,
        text=text,
        amount=text.price - refunds.refunded(context.conn(), text),
    )


def _text_or_404(message_id: int) -> tuple[Account, Text]:
    """A message's account, and the text that it belongs to."""
    try:
        account = refunds.account_of(context.conn(), message_id)
        return account, history.by_id(context.conn(), account.id, message_id)
    except history.NoSuchMessage:
        abort(404)
