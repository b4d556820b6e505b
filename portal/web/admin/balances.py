"""The operator's side of credits: everyone's balances, corrections, and giving back."""

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
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import balances
from portal.services.billing.balances import Balance
from portal.services.common import credit_amounts, idempotency
from portal.services.common.errors import Refused
from portal.services.credits import credits
from portal.services.history import history, refunds
from portal.services.history.history import Text
from portal.web.core import access, context, downloads, htmx
from portal.web.core.forms import Form, attach
from portal.web.core.htmx import Toast

blueprint = Blueprint("admin_credits", __name__, url_prefix="/admin")

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
def everyone() -> ResponseReturnValue:
    """Everyone's balances. Query: `q`, `sort`; see `SearchForm`."""
    form = SearchForm(request.args)
    found = _found(form)
    return htmx.page(
        "admin/credits.html",
        form=form,
        sort=_sort(form),
        rows=found[:_MOST_SHOWN],
        totals=balances.together(found),
        query=urlencode({"q": form.q.data or "", "sort": _sort(form)}),
    )


@blueprint.get("/credits.csv")
@access.operate
def download() -> ResponseReturnValue:
    """All of them as a file. The query is that of `everyone`."""
    return downloads.send("credits.csv", _COLUMNS, map(_row, _found(SearchForm(request.args))))


def _row(row: Balance) -> list[object]:
    amounts = (row.balance, row.week, row.month, row.owed)
    alert_below = "" if row.alert_below is None else credit_amounts.plain(row.alert_below)
    return [row.account, row.customer, *map(credit_amounts.plain, amounts), alert_below, row.alert]


# They come by customer, and stay so where the column is the same.
_KEYS: dict[str, Callable[[Balance], Any]] = {
    "account": lambda row: row.account,
    "balance": lambda row: row.balance,
    "week": lambda row: row.week,
    "month": lambda row: row.month,
    "owed": lambda row: row.owed,
    "alert": lambda row: (balances.LOW, balances.ENOUGH, balances.NONE).index(row.alert),
}


def _found(form: SearchForm) -> list[Balance]:
    wanted = (form.q.data or "").strip().casefold()
    rows = [
        row
        for row in balances.everyone(context.conn())
        if wanted in row.account.casefold() or wanted in row.customer.casefold()
    ]
    sort = _sort(form)
    if key := _KEYS.get(sort.removeprefix("-")):
        rows.sort(key=key, reverse=sort.startswith("-"))
    return rows


def _sort(form: SearchForm) -> str:
    sort: str = form.sort.data or ""
    return sort if sort.removeprefix("-") in _KEYS else "customer"


# --- putting a balance right


@blueprint.get("/accounts/<name>/credits/correct")
@access.operate
def ask_correct(name: str) -> ResponseReturnValue:
    return _correction(_account(name), _blank())


@blueprint.post("/accounts/<name>/credits/correct")
@access.operate
def correct(name: str) -> ResponseReturnValue:
    """Add credits to a balance, or take some away."""
    account, form = _account(name), ChangeForm()
    try:
        amount = credit_amounts.parse_change(form.amount.data or "")
        reason, number = form.reason.data or "", form.form.data or ""
        after = credits.correct(context.conn(), context.actor(), account, amount, reason, form=number)
    except idempotency.AlreadySent as refusal:
        return _back(name, Toast(refusal.localized(), "info"))
    except Refused as refusal:
        attach(form, refusal)
        return _correction(account, form, status=422)
    return _back(name, Toast(_("The balance was corrected: it is %(balance)s now.", balance=i18n.credits(after))))


def _correction(account: Account, form: ChangeForm, status: int = 200) -> ResponseReturnValue:
    return htmx.dialog(
        "admin/_credits_change.html",
        account,
        title=_("Correct the balance"),
        tab="admin",
        status=status,
        form=form,
        action=url_for(".correct", name=account.name),
        hint=_("With a minus they are taken away. Examples: %(more)s, %(less)s", more="100", less=i18n.credits(-2500)),
        verb=_("Correct"),
    )


@blueprint.get("/accounts/<name>/credits/refund")
@access.operate
def ask_refund(name: str) -> ResponseReturnValue:
    return _refund(_account(name), _blank())


@blueprint.post("/accounts/<name>/credits/refund")
@access.operate
def refund(name: str) -> ResponseReturnValue:
    """Give credits back."""
    account, form = _account(name), ChangeForm()
    try:
        amount = credit_amounts.parse(form.amount.data or "")
        reason, number = form.reason.data or "", form.form.data or ""
        credits.refund(context.conn(), context.actor(), account, amount, reason, form=number)
    except idempotency.AlreadySent as refusal:
        return _back(name, Toast(refusal.localized(), "info"))
    except Refused as refusal:
        attach(form, refusal)
        return _refund(account, form, status=422)
    return _back(name, Toast(_("Credits refunded: %(amount)s.", amount=i18n.credits(amount))))


def _refund(account: Account, form: ChangeForm, status: int = 200) -> ResponseReturnValue:
    return htmx.dialog(
        "admin/_credits_change.html",
        account,
        title=_("Refund credits"),
        tab="admin",
        status=status,
        form=form,
        action=url_for(".refund", name=account.name),
        hint=_("What a single message cost is refunded from its place in the history."),
        verb=_("Refund"),
    )


def _blank() -> ChangeForm:
    return ChangeForm(formdata=None, data={"form": idempotency.new()})


def _back(name: str, toast: Toast) -> ResponseReturnValue:
    return htmx.moved(url_for("admin.account", name=name), toast)


def _account(name: str) -> Account:
    try:
        return accounts.by_name(context.conn(), name)
    except accounts.NoSuchAccount:
        abort(404)


# --- giving back what a message cost


@blueprint.get("/messages/<int:message_id>/refund")
@access.operate
def ask_refund_message(message_id: int) -> ResponseReturnValue:
    """What is given back, before it is."""
    account, text = _text(message_id)
    return _message(account, text, ReasonForm(formdata=None, data={"form": idempotency.new()}))


@blueprint.post("/messages/<int:message_id>/refund")
@access.operate
def refund_message(message_id: int) -> ResponseReturnValue:
    account, text = _text(message_id)
    form = ReasonForm()
    try:
        reason, number = form.reason.data or "", form.form.data or ""
        amount = refunds.refund_text(context.conn(), context.actor(), account, text, reason, form=number)
        toast = Toast(_("Credits refunded: %(amount)s.", amount=i18n.credits(amount)))
    except idempotency.AlreadySent as refusal:
        toast = Toast(refusal.localized(), "info")
    except Refused as refusal:
        attach(form, refusal)
        return _message(account, text, form, status=422)
    return htmx.moved(url_for("history.view", name=account.name, message_id=text.id), toast)


def _message(account: Account, text: Text, form: ReasonForm, status: int = 200) -> ResponseReturnValue:
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


def _text(message_id: int) -> tuple[Account, Text]:
    """A message's account, and the text that it belongs to."""
    try:
        account = refunds.account_of(context.conn(), message_id)
        return account, history.by_id(context.conn(), account.id, message_id)
    except history.NoSuchMessage:
        abort(404)
