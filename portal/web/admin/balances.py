"""Credits, for operators: all balances, grants, corrections and refunds."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_, _
from portal.services.accounts.accounts import Account
from portal.services.billing import statement
from portal.services.billing.statement import AccountBalance
from portal.services.common import credit_amounts
from portal.services.credits import credits, expiry
from portal.services.history import history, refunds
from portal.web.admin.customers import GrantCreditsForm, account_url, answer_account_form
from portal.web.core import access, context, downloads, htmx
from portal.web.core.forms import GetForm, OnceForm, refusals_on

blueprint = Blueprint("admin_balances", __name__, url_prefix="/admin")

_CSV_COLUMNS = "account;customer;balance;spent7days;spent30days;owed;alertBelow;alert".split(";")
# The search finds the others, and the CSV file has all.
_MAX_ROWS_SHOWN = 200
_ALERT_ORDER = (statement.LOW, statement.ENOUGH, statement.NO_ALERT)

# What the list is sorted by, a minus before it: descending. It is ordered by customer before, and sorting is stable.
_SORTS: dict[str, tuple[str, Callable[[AccountBalance], Any]]] = {
    "customer": (N_("Customer"), lambda row: 0),
    "account": (N_("Account"), lambda row: row.account),
    "balance": (N_("Balance, lowest first"), lambda row: row.balance),
    "-balance": (N_("Balance, highest first"), lambda row: row.balance),
    "-week": (N_("Spent in 7 days, most first"), lambda row: row.spent_7_days),
    "-month": (N_("Spent in 30 days, most first"), lambda row: row.spent_30_days),
    "-owed": (N_("Owed, most first"), lambda row: row.owed),
    "alert": (N_("Alert, low balances first"), lambda row: _ALERT_ORDER.index(row.alert_state)),
}
_SORT_KEYS = {name.removeprefix("-"): key for name, (_label, key) in _SORTS.items()}


class BalanceSearchForm(GetForm):
    """Which accounts are shown: those with the words of `q`, sorted as `sort` says."""

    q = StringField(N_("Account or customer"))
    sort = SelectField(N_("Sorted by"), choices=[SelectChoice(name, label) for name, (label, _key) in _SORTS.items()])


class BalanceChangeForm(OnceForm):
    """Credits that are given or taken for a `reason`."""

    amount = StringField(N_("Credits"))
    reason = StringField(N_("Reason"))


class RefundReasonForm(OnceForm):
    reason = StringField(N_("Reason"))


# --- everyone's balances


@blueprint.get("/credits")
@access.operator_required
def list_balances() -> ResponseReturnValue:
    """Everyone's balances. Query: `q`, `sort`; see `BalanceSearchForm`."""
    form = BalanceSearchForm(request.args)
    if not access.is_billing_enabled():
        form.sort.choices = [each for each in form.sort.choices if each.value != "-owed"]
    matches = _search_balances(form)
    return htmx.render_page(
        "admin/credits.html",
        form=form,
        sort=_read_sort_column(form),
        rows=matches[:_MAX_ROWS_SHOWN],
        totals=statement.sum_balances(matches),
        query=urlencode({"q": form.q.data, "sort": _read_sort_column(form)}),
    )


@blueprint.get("/credits.csv")
@access.operator_required
def download_balances_csv() -> ResponseReturnValue:
    """All of them as a file. The query is that of `list_balances`."""
    return downloads.stream_csv(
        "credits.csv", _CSV_COLUMNS, map(_to_csv_row, _search_balances(BalanceSearchForm(request.args)))
    )


def _to_csv_row(row: AccountBalance) -> list[object]:
    amounts = (row.balance, row.spent_7_days, row.spent_30_days, row.owed, row.alert_below)
    numbers = ["" if each is None else credit_amounts.credits_to_json_number(each) for each in amounts]
    return [row.account, row.customer, *numbers, row.alert_state]


def _search_balances(form: BalanceSearchForm) -> list[AccountBalance]:
    query = form.q.data.strip().casefold()
    rows = [
        row
        for row in statement.list_all_balances(context.get_conn())
        if query in row.account.casefold() or query in row.customer.casefold()
    ]
    sort = _read_sort_column(form)
    return sorted(rows, key=_SORT_KEYS[sort.removeprefix("-")], reverse=sort.startswith("-"))


def _read_sort_column(form: BalanceSearchForm) -> str:
    sort: str = form.sort.data
    return sort if sort.removeprefix("-") in _SORT_KEYS else "customer"


# --- granting credits


@blueprint.post("/accounts/<name>/credits")
@access.operator_required
def grant_credits(account: Account) -> ResponseReturnValue:
    conn, actor, form = context.get_conn(), context.get_actor(), GrantCreditsForm()
    with refusals_on(form):
        amount = credit_amounts.parse_amount(form.amount.data)
        expires_at = expiry.parse_credit_expiry_date(form.until.data, context.get_config().timezone)
        with htmx.once(account_url(account)):
            credits.grant_credits(conn, actor, account, amount, form.note.data, expires_at=expires_at)
        toast = htmx.Toast(_("%(amount)s credits were granted.", amount=i18n.format_credits(amount)))
        return answer_account_form("admin/_credits.html", account, "_account_figures.html", toast=toast)
    return answer_account_form("admin/_credits.html", account, grant_form=form)


# --- correcting a balance, and giving credits back


@blueprint.route("/accounts/<name>/credits/correct", methods=["GET", "POST"])
@access.operator_required
def correct_balance(account: Account) -> ResponseReturnValue:
    less = i18n.format_credits(-2500)
    return _change_balance(
        account,
        credits.correct_balance,
        credit_amounts.parse_amount_change,
        title=_("Correct the balance"),
        verb=_("Correct"),
        hint=_("With a minus they are taken away. Examples: %(more)s, %(less)s", more="100", less=less),
        describe=lambda amount, balance: _(
            "The balance was corrected: it is %(balance)s now.", balance=i18n.format_credits(balance)
        ),
    )


@blueprint.route("/accounts/<name>/credits/refund", methods=["GET", "POST"])
@access.operator_required
def refund_credits(account: Account) -> ResponseReturnValue:
    return _change_balance(
        account,
        credits.refund_credits,
        credit_amounts.parse_amount,
        title=_("Refund credits"),
        verb=_("Refund"),
        hint=_("What a single message cost is refunded from its place in the history."),
        describe=lambda amount, balance: _describe_refund(amount),
    )


def _change_balance(
    account: Account,
    change: Callable[..., int],
    parse_amount: Callable[[str], int],
    *,
    describe: Callable[[int, int], str],
    **words: str,
) -> ResponseReturnValue:
    """Add credits to a balance, or take some away.

    Args:
        change: does it, and returns the balance afterwards.
        describe: says what was done, from the amount and that balance.
        words: of the form: its `title`, `verb` and `hint`.
    """
    conn, actor, form = context.get_conn(), context.get_actor(), BalanceChangeForm()
    if form.is_submitted():
        with refusals_on(form):
            amount = parse_amount(form.amount.data)
            with htmx.once(account_url(account)):
                balance = change(conn, actor, account, amount, form.reason.data)
            return htmx.redirect_browser_or_htmx(account_url(account), htmx.Toast(describe(amount, balance)))
    return htmx.render_dialog("admin/_credits_change.html", account, tab="admin", form=form, **words)


def _describe_refund(amount: int) -> str:
    return _("Credits refunded: %(amount)s.", amount=i18n.format_credits(amount))


# --- refunding a message


@blueprint.route("/messages/<int:message_id>/refund", methods=["GET", "POST"])
@access.operator_required
def refund_message(message_id: int) -> ResponseReturnValue:
    """Refund a message, and the others of its text, once how many credits that are has been confirmed."""
    conn, actor, form = context.get_conn(), context.get_actor(), RefundReasonForm()
    account = refunds.get_account_by_message_id(conn, message_id)
    text = history.get_sent_text_by_message_id(conn, account.id, message_id)
    if form.is_submitted():
        with refusals_on(form):
            address = url_for("history.show_sent_message", name=account.name, message_id=text.id)
            with htmx.once(address):
                amount = refunds.refund_text(conn, actor, account, text, form.reason.data)
            return htmx.redirect_browser_or_htmx(address, htmx.Toast(_describe_refund(amount)))
    return htmx.render_dialog(
        "admin/_credits_message.html",
        account,
        title=_("Refund this message?"),
        tab="history",
        form=form,
        text=text,
        amount=text.price - refunds.sum_refunds(conn, text),
    )
