"""Credits, for operators: all balances, grants, corrections and refunds."""

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
from portal.services.billing.balances import AccountBalance
from portal.services.common import credit_amounts, idempotency
from portal.services.common.errors import Refused
from portal.services.credits import credits, expiry
from portal.services.history import history, refunds
from portal.services.history.history import SentText
from portal.web.admin.accounts import (
    GrantCreditsForm,
    account_or_404,
    make_blank_grant_form,
    render_account_page,
    render_account_tile,
)
from portal.web.core import access, context, downloads, htmx
from portal.web.core.forms import TranslatedForm, add_form_error
from portal.web.core.htmx import Toast

blueprint = Blueprint("admin_balances", __name__, url_prefix="/admin")

_CSV_COLUMNS = "account;customer;balance;spent7days;spent30days;owed;alertBelow;alert".split(";")
# The search finds the others, and the CSV file has all.
_MAX_ROWS_SHOWN = 200


class BalanceSearchForm(TranslatedForm):
    """Which accounts are shown: those with the words of `q`, sorted by a column (a minus before it: descending)."""

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


class BalanceChangeForm(TranslatedForm):
    """Credits that are given or taken for a `reason`; `form` makes a form that is sent twice do it once."""

    amount = StringField(N_("Credits"))
    reason = StringField(N_("Reason"))
    form = HiddenField()


class RefundReasonForm(TranslatedForm):
    reason = StringField(N_("Reason"))
    form = HiddenField()


# --- everyone's balances


@blueprint.get("/credits")
@access.operator_required
def list_balances() -> ResponseReturnValue:
    """Everyone's balances. Query: `q`, `sort`; see `BalanceSearchForm`."""
    form = BalanceSearchForm(request.args)
    matches = _search_balances(form)
    return htmx.render_page(
        "admin/credits.html",
        form=form,
        sort=_read_sort_column(form),
        rows=matches[:_MAX_ROWS_SHOWN],
        totals=balances.sum_balances(matches),
        query=urlencode({"q": form.q.data or "", "sort": _read_sort_column(form)}),
    )


@blueprint.get("/credits.csv")
@access.operator_required
def download_balances_csv() -> ResponseReturnValue:
    """All of them as a file. The query is that of `list_balances`."""
    return downloads.stream_csv(
        "credits.csv", _CSV_COLUMNS, map(_to_csv_row, _search_balances(BalanceSearchForm(request.args)))
    )


def _to_csv_row(row: AccountBalance) -> list[object]:
    amounts = (row.balance, row.spent_7_days, row.spent_30_days, row.owed)
    alert_below = "" if row.alert_below is None else credit_amounts.credits_to_json_number(row.alert_below)
    return [
        row.account,
        row.customer,
        *map(credit_amounts.credits_to_json_number, amounts),
        alert_below,
        row.alert_state,
    ]


# Rows are ordered by customer before; sorting is stable.
_SORT_KEYS: dict[str, Callable[[AccountBalance], Any]] = {
    "account": lambda row: row.account,
    "balance": lambda row: row.balance,
    "week": lambda row: row.spent_7_days,
    "month": lambda row: row.spent_30_days,
    "owed": lambda row: row.owed,
    "alert": lambda row: (balances.LOW, balances.ENOUGH, balances.NO_ALERT).index(row.alert_state),
}


def _search_balances(form: BalanceSearchForm) -> list[AccountBalance]:
    query = (form.q.data or "").strip().casefold()
    rows = [
        row
        for row in balances.list_all_balances(context.get_conn())
        if query in row.account.casefold() or query in row.customer.casefold()
    ]
    sort = _read_sort_column(form)
    if key := _SORT_KEYS.get(sort.removeprefix("-")):
        rows.sort(key=key, reverse=sort.startswith("-"))
    return rows


def _read_sort_column(form: BalanceSearchForm) -> str:
    sort: str = form.sort.data or ""
    return sort if sort.removeprefix("-") in _SORT_KEYS else "customer"


# --- granting credits


@blueprint.post("/accounts/<name>/credits")
@access.operator_required
def grant_credits(name: str) -> ResponseReturnValue:
    account, form = account_or_404(name), GrantCreditsForm()
    try:
        amount = credit_amounts.parse_amount(form.amount.data or "")
        note, idempotency_key = form.note.data or "", form.form.data or ""
        expires_at = expiry.parse_credit_expiry_date(form.until.data or "", context.get_config().timezone)
        credits.grant_credits(
            context.get_conn(),
            context.get_actor(),
            account,
            amount,
            note,
            expires_at=expires_at,
            idempotency_key=idempotency_key,
        )
        toast = Toast(_("%(amount)s credits were granted.", amount=i18n.format_credits(amount)))
    except idempotency.FormAlreadySent as refusal:
        toast = Toast(refusal.localized(), "info")
    except Refused as refusal:
        add_form_error(form, refusal)
        # A form that was refused has granted nothing: its idempotency key is still unused.
        form.form.data = form.form.data or idempotency.new_idempotency_key()
        if htmx.is_htmx_request():
            return render_account_tile("admin/_credits.html", name, status=422, grant_form=form)
        return render_account_page(account, grant_form=form)
    if htmx.is_htmx_request():
        return render_account_tile(
            "admin/_credits.html", name, "_account_figures.html", toast=toast, grant_form=make_blank_grant_form()
        )
    return htmx.redirect_after_post(url_for("admin_accounts.show_account", name=name), toast)


# --- correcting a balance


@blueprint.get("/accounts/<name>/credits/correct")
@access.operator_required
def ask_correct_balance(name: str) -> ResponseReturnValue:
    return _render_correction_form(account_or_404(name), _make_blank_change_form())


@blueprint.post("/accounts/<name>/credits/correct")
@access.operator_required
def correct_balance(name: str) -> ResponseReturnValue:
    """Add credits to a balance, or take some away."""
    account, form = account_or_404(name), BalanceChangeForm()
    try:
        amount = credit_amounts.parse_amount_change(form.amount.data or "")
        reason, idempotency_key = form.reason.data or "", form.form.data or ""
        new_balance = credits.correct_balance(
            context.get_conn(), context.get_actor(), account, amount, reason, idempotency_key=idempotency_key
        )
    except idempotency.FormAlreadySent as refusal:
        return _redirect_to_account(name, Toast(refusal.localized(), "info"))
    except Refused as refusal:
        add_form_error(form, refusal)
        return _render_correction_form(account, form, status=422)
    return _redirect_to_account(
        name, Toast(_("The balance was corrected: it is %(balance)s now.", balance=i18n.format_credits(new_balance)))
    )


def _render_correction_form(account: Account, form: BalanceChangeForm, status: int = 200) -> ResponseReturnValue:
    return htmx.render_dialog(
        "admin/_credits_change.html",
        account,
        title=_("Correct the balance"),
        tab="admin",
        status=status,
        form=form,
        action=url_for(".correct_balance", name=account.name),
        hint=_(
            "With a minus they are taken away. Examples: %(more)s, %(less)s",
            more="100",
            less=i18n.format_credits(-2500),
        ),
        verb=_("Correct"),
    )


@blueprint.get("/accounts/<name>/credits/refund")
@access.operator_required
def ask_refund_credits(name: str) -> ResponseReturnValue:
    return _render_refund_form(account_or_404(name), _make_blank_change_form())


@blueprint.post("/accounts/<name>/credits/refund")
@access.operator_required
def refund_credits(name: str) -> ResponseReturnValue:
    """Give credits back."""
    account, form = account_or_404(name), BalanceChangeForm()
    try:
        amount = credit_amounts.parse_amount(form.amount.data or "")
        reason, idempotency_key = form.reason.data or "", form.form.data or ""
        credits.refund_credits(
            context.get_conn(), context.get_actor(), account, amount, reason, idempotency_key=idempotency_key
        )
    except idempotency.FormAlreadySent as refusal:
        return _redirect_to_account(name, Toast(refusal.localized(), "info"))
    except Refused as refusal:
        add_form_error(form, refusal)
        return _render_refund_form(account, form, status=422)
    return _redirect_to_account(name, Toast(_("Credits refunded: %(amount)s.", amount=i18n.format_credits(amount))))


def _render_refund_form(account: Account, form: BalanceChangeForm, status: int = 200) -> ResponseReturnValue:
    return htmx.render_dialog(
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


def _make_blank_change_form() -> BalanceChangeForm:
    return BalanceChangeForm(formdata=None, data={"form": idempotency.new_idempotency_key()})


def _redirect_to_account(name: str, toast: Toast) -> ResponseReturnValue:
    return htmx.redirect_browser_or_htmx(url_for("admin_accounts.show_account", name=name), toast)


# --- refunding a message


@blueprint.get("/messages/<int:message_id>/refund")
@access.operator_required
def ask_refund_message(message_id: int) -> ResponseReturnValue:
    """Ask for confirmation: how many credits are refunded."""
    account, text = _account_and_text_or_404(message_id)
    return _render_message_refund_form(
        account, text, RefundReasonForm(formdata=None, data={"form": idempotency.new_idempotency_key()})
    )


@blueprint.post("/messages/<int:message_id>/refund")
@access.operator_required
def refund_message(message_id: int) -> ResponseReturnValue:
    account, text = _account_and_text_or_404(message_id)
    form = RefundReasonForm()
    try:
        reason, idempotency_key = form.reason.data or "", form.form.data or ""
        amount = refunds.refund_text(
            context.get_conn(), context.get_actor(), account, text, reason, idempotency_key=idempotency_key
        )
        toast = Toast(_("Credits refunded: %(amount)s.", amount=i18n.format_credits(amount)))
    except idempotency.FormAlreadySent as refusal:
        toast = Toast(refusal.localized(), "info")
    except Refused as refusal:
        add_form_error(form, refusal)
        return _render_message_refund_form(account, text, form, status=422)
    return htmx.redirect_browser_or_htmx(
        url_for("history.show_sent_message", name=account.name, message_id=text.id), toast
    )


def _render_message_refund_form(
    account: Account, text: SentText, form: RefundReasonForm, status: int = 200
) -> ResponseReturnValue:
    return htmx.render_dialog(
        "admin/_credits_message.html",
        account,
        title=_("Refund this message?"),
        tab="history",
        status=status,
        form=form,
        text=text,
        amount=text.price - refunds.sum_refunds(context.get_conn(), text),
    )


def _account_and_text_or_404(message_id: int) -> tuple[Account, SentText]:
    """A message's account, and the text that it belongs to."""
    try:
        account = refunds.get_account_by_message_id(context.get_conn(), message_id)
        return account, history.get_sent_text_by_message_id(context.get_conn(), account.id, message_id)
    except history.NoSuchMessage:
        abort(404)
