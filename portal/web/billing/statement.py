"""An account's statement: its movements in a period, as a page, a chart and files, and what its months cost."""

from collections import Counter
from functools import partial
from typing import Any

from flask import Blueprint, abort, request
from flask.typing import ResponseReturnValue
from wtforms import SelectField

from portal.core import i18n
from portal.core.clock import now_ms
from portal.core.i18n import N_, _
from portal.services.accounts.accounts import Account
from portal.services.billing import statement
from portal.services.billing.statement import BalanceHistory, MonthlyUsage, Movement
from portal.services.common import audit, credit_amounts
from portal.services.common.periods import DAYS_30, period_from_month
from portal.services.credits import alerts, expiry, ledger
from portal.services.prices import countries
from portal.web.core import access, charts, context, downloads, htmx, live, paging, periods
from portal.web.core.charts import Chart, ChartSeries
from portal.web.core.periods import PeriodFilter

blueprint = Blueprint("statement", __name__)

_KIND_LABELS = {
    ledger.GRANT: N_("Granted"),
    ledger.PURCHASE: N_("Bought"),
    ledger.TRANSFER_OUT: N_("Transfer to %(account)s"),
    ledger.TRANSFER_IN: N_("Transfer from %(account)s"),
    ledger.USAGE: N_("Messages sent"),
    ledger.REFUND: N_("Refunded"),
    ledger.CORRECTION: N_("Corrected"),
    ledger.EXPIRY: N_("Run out"),
}
_KIND_FILTER_LABELS = _KIND_LABELS | {
    ledger.TRANSFER_OUT: N_("Transferred away"),
    ledger.TRANSFER_IN: N_("Transferred here"),
}
_ACTOR_LABELS = {audit.SHELL.name: N_("operator"), audit.SYSTEM.name: N_("automatic")}
_QUERY_PARAMS = (*periods.PERIOD_ARGS, "kind")
_CSV_COLUMNS = "id;date;kind;credits;balance;by;note;account;order;messages;first_message;last_message".split(";")
_MONTH_CSV_COLUMNS = "month;country;sender;messages;parts;credits".split(";")
# Short, for chart, filter and banners are on the page as well.
_MAX_SENDERS = 50
# Of the drawing: bars below, and the line over them.
_USAGE_HEIGHT, _BALANCE_BASE, _BALANCE_HEIGHT = 60, 70, 90
# Of the dates at which credits run out.
_MAX_EXPIRY_DATES = 3


class StatementFilterForm(periods.PeriodForm):
    kind = SelectField(N_("Movements"), validate_choice=False)


@context.once_per_request
def _get_statement_filter() -> PeriodFilter:
    """The filter in this request's query, parsed once; the default where the query is invalid."""
    labels = {"": N_("All")} | _KIND_FILTER_LABELS
    return periods.parse_period_filter("kind", labels, periods.parse_period_param(DAYS_30))


@blueprint.get("/accounts/<name>/credits")
@access.account_access_required
def show_statement(account: Account) -> ResponseReturnValue:
    """The statement. Query: `period` (with `from` and `to`), `kind`, and `before` or `after`, which turn the page."""
    statement_filter = _get_statement_filter()
    return live.render_live_page(
        "billing/statement/page.html",
        "credits",
        account,
        filter=statement_filter.build_form(StatementFilterForm),
        query=statement_filter.query_string,
    )


@blueprint.get("/accounts/<name>/credits.csv")
@access.account_access_required
def download_statement_csv(account: Account) -> ResponseReturnValue:
    """The movements that the same query shows in the page, newest first."""
    statement_filter = _get_statement_filter()
    period = statement_filter.period_param
    if period.error is not None:
        return statement_filter.redirect_to_page(".show_statement", account)
    conn = context.open_stream_conn()
    movements = statement.iterate_movements(conn, account.id, period.period, statement_filter.choice)
    return downloads.stream_csv(f"{account.name}-credits.csv", _CSV_COLUMNS, map(_to_csv_row, movements))


def _to_csv_row(movement: Movement) -> list[object]:
    return [
        movement.id,
        i18n.format_iso8601(movement.at),
        movement.kind,
        credit_amounts.credits_to_json_number(movement.amount),
        credit_amounts.credits_to_json_number(movement.balance_after),
        movement.actor,
        movement.note,
        movement.counterpart,
        movement.purchase_order_number,
        movement.messages,
        movement.first_message_id,
        movement.last_message_id,
    ]


@blueprint.get("/accounts/<name>/credits/course")
@access.account_access_required
def show_balance_chart_table(account: Account) -> ResponseReturnValue:
    """What the chart shows, as a table; the query is the statement's."""
    balance_history, timezone = _load_balance_history(account), context.get_config().timezone
    return htmx.render_dialog(
        "billing/statement/_chart_table.html",
        account,
        title=_("Balance and usage"),
        tab="credits",
        balance_history=balance_history,
        heading=charts.format_step_heading(balance_history.unit) if balance_history else "",
        label=lambda step: charts.format_step(balance_history.unit, step.at, timezone) if balance_history else "",
        query=_get_statement_filter().query_string,
    )


# --- parts of the page


def _ledger_context(account: Account) -> dict[str, Any]:
    statement_filter = _get_statement_filter()
    conn, within, kind = context.get_conn(), statement_filter.period_param.period, statement_filter.choice
    return {
        "page": paging.paginate(partial(statement.list_movements_page, conn, account.id, within, kind)),
        "sums": statement.sum_movements(conn, account.id, within, kind),
        "query": statement_filter.query_string,
        "args": {name: request.args[name] for name in (*_QUERY_PARAMS, *paging.PAGING_ARGS) if request.args.get(name)},
        "describe_movement": _describe_movement,
        "describe_message_count": _describe_message_count,
        "history_path": _build_history_path,
        "format_actor": _format_actor,
        "format_kind": lambda kind: _(_KIND_FILTER_LABELS[kind]),
        "query_for_kind": statement_filter.query_string_with,
    }


def _describe_movement(movement: Movement) -> str:
    """What a movement was, in words; nothing for usage, of which `_describe_message_count` says it."""
    return "" if movement.kind == ledger.USAGE else _(_KIND_LABELS[movement.kind], account=movement.counterpart)


def _describe_message_count(movement: Movement) -> str:
    """How many messages a movement was for."""
    count = movement.messages or 0
    if movement.kind == ledger.USAGE:
        return i18n.ngettext("%(num)s message sent", "%(num)s messages sent", count)
    return i18n.ngettext("%(num)s message", "%(num)s messages", count)


def _format_actor(movement: Movement) -> str:
    actor = movement.actor
    return _(_ACTOR_LABELS[actor]) if actor in _ACTOR_LABELS else actor


def _build_history_path(movement: Movement) -> str:
    """The history's address of a movement's messages, relative to the account's; empty where they aren't stored."""
    if not movement.in_history or movement.last_message_id is None:
        return ""
    if movement.messages == 1:
        return f"history/{movement.last_message_id}"
    return f"history?before={movement.last_message_id + 1}"


def _load_balance_history(account: Account) -> BalanceHistory | None:
    period, timezone = _get_statement_filter().period_param.period, context.get_config().timezone
    return statement.load_balance_history(context.get_conn(), account.id, period, timezone, now_ms())


def _chart_context(account: Account) -> dict[str, Any]:
    balance_history = _load_balance_history(account)
    values: dict[str, Any] = {"chart": None, "query": _get_statement_filter().query_string}
    if balance_history:
        values["chart"] = chart = _build_balance_chart(balance_history)
        values["summary"] = _(
            "From %(first)s to %(last)s: the balance went from %(opening)s to %(balance)s, %(used)s were used.",
            first=chart.axis[0],
            last=chart.axis[-1],
            opening=i18n.format_credits(balance_history.opening_balance),
            balance=i18n.format_credits(balance_history.steps[-1].balance),
            used=i18n.format_credits(balance_history.total_credits_used),
        )
    return values


def _build_balance_chart(history: BalanceHistory) -> Chart:
    """Usage as bars, and over them the balance as a line: their scales have nothing to do with each other."""
    usages = [each.usage for each in history.steps]
    balances = [history.opening_balance, *(each.balance for each in history.steps)]
    highest_usage, highest_balance = max(usages), max(balances)
    bars = [each * _USAGE_HEIGHT // max(highest_usage, 1) for each in usages]
    line = [_BALANCE_BASE + each * _BALANCE_HEIGHT // max(highest_balance, 1) for each in balances]
    timezone = context.get_config().timezone
    axis = [charts.format_step(history.unit, history.steps[place].at, timezone) for place in (0, -1)]
    line_label = _("Balance, highest: %(number)s", number=i18n.format_credits(max(highest_balance, 1)))
    bars_label = _("Usage, highest: %(number)s", number=i18n.format_credits(highest_usage))
    layers = [
        ChartSeries("", bars_label, sum(usages), charts.build_bars_path(bars, usages)),
        ChartSeries("line", line_label, balances[-1], charts.build_line_path(line)),
    ]
    return Chart(len(usages) * charts.STEP_WIDTH, layers, axis)


def _expiring_credits_context(account: Account) -> dict[str, Any]:
    amounts: Counter[int] = Counter()
    for lot in expiry.list_expiring_credit_lots(context.get_conn(), account.id):
        amounts[lot.expires_at] += lot.remaining
    dates = sorted(amounts.items())
    return {"dates": dates[:_MAX_EXPIRY_DATES], "later": sum(amount for _at, amount in dates[_MAX_EXPIRY_DATES:])}


def _forecast_context(account: Account) -> dict[str, Any]:
    now = now_ms()
    return {"words": alerts.compute_forecast(context.get_conn(), account.id, now).to_text(now)}


live.register_live_page(
    "credits",
    live.LiveFragment("billing/statement/_ledger.html", _ledger_context),
    live.LiveFragment("billing/statement/_chart.html", _chart_context),
    live.LiveFragment("billing/statement/_expiring.html", _expiring_credits_context),
    live.LiveFragment("billing/statement/_forecast.html", _forecast_context),
)


# --- months


@blueprint.get("/accounts/<name>/credits/months")
@access.account_access_required
def show_monthly_costs(account: Account) -> ResponseReturnValue:
    """What a month's messages cost, by country and by sender. Query: `month` ("2026-11"); the current one without."""
    conn = context.get_conn()
    month_numbers = statement.list_statement_months(conn, account.id)
    number = _read_month() or month_numbers[0]
    by_country = statement.list_dearest_usage(conn, account.id, number, statement.BY_COUNTRY)
    by_sender = statement.list_dearest_usage(conn, account.id, number, statement.BY_SENDER, _MAX_SENDERS + 1)
    summed = ("messages", "parts", "price")
    total = MonthlyUsage("", "", *(sum(getattr(each, name) for each in by_country) for name in summed))
    return htmx.render_page(
        "billing/statement/months.html",
        account=account,
        tab="credits",
        choices=[(statement.format_month(each), _format_month(each)) for each in month_numbers],
        month=statement.format_month(number),
        month_words=_format_month(number),
        countries=[(countries.get_country_name(each.country), each) for each in by_country],
        senders=[(each.source, each) for each in by_sender[:_MAX_SENDERS]],
        more_senders=len(by_sender) > _MAX_SENDERS,
        total=total,
        refunded=statement.sum_movements(conn, account.id, period_from_month(number), ledger.REFUND).total_in,
    )


@blueprint.get("/accounts/<name>/credits/months.csv")
@access.account_access_required
def download_monthly_costs_csv(account: Account) -> ResponseReturnValue:
    """What a month's messages cost, a line for each country and sender. The query: see `show_monthly_costs`."""
    number = _read_month() or statement.list_statement_months(context.get_conn(), account.id)[0]
    text = statement.format_month(number)
    rows = (
        (text, each.country, each.source, each.messages, each.parts, credit_amounts.credits_to_json_number(each.price))
        for each in statement.list_monthly_usage(context.get_conn(), account.id, number)
    )
    return downloads.stream_csv(f"{account.name}-{text}.csv", _MONTH_CSV_COLUMNS, rows)


def _read_month() -> int | None:
    """The month in this request's query; None: the current one."""
    text = request.args.get("month", "")
    number = statement.parse_month(text) if text else None
    if text and number is None:
        abort(404)
    return number


def _format_month(number: int) -> str:
    name = i18n.format_month(period_from_month(number).since, "UTC")
    return name[:1].upper() + name[1:]
