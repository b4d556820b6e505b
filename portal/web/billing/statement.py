"""An account's statement: its movements in a period, as a page, a chart and files, and what its months cost."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, abort, g, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.clock import HOUR_MS, now_ms
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts.accounts import Account
from portal.services.accounts.change_counters import ChangeCounters
from portal.services.billing import statement
from portal.services.billing.statement import MonthlyUsage, Movement
from portal.services.common import audit, credit_amounts
from portal.services.common.periods import DAYS_30, Period, period_from_month
from portal.services.credits import expiry, forecast, ledger
from portal.services.prices import countries
from portal.web.core import access, context, downloads, htmx, live, paging, periods
from portal.web.core.live import LiveFragment
from portal.web.core.periods import PeriodParam

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
_PAGE_SIZE = 12
_MAX_SENDERS = 50
# Of the dates at which credits run out.
_MAX_EXPIRY_DATES = 3


class StatementFilterForm(periods.PeriodForm):
    kind = SelectField(N_("Movements"), validate_choice=False)


@dataclass(frozen=True)
class _StatementFilter:
    """Which movements are shown: those of a period, of one kind or of all."""

    period: PeriodParam
    kind: str

    @property
    def selected_period(self) -> Period:
        return self.period.period

    @property
    def query_string(self) -> str:
        return self.query_string_for_kind(self.kind)

    def query_string_for_kind(self, kind: str) -> str:
        """The query for the same period, and this kind."""
        return urlencode({name: value for name, value in {**self.period.params, "kind": kind}.items() if value})


def _get_statement_filter() -> _StatementFilter:
    """The filter in this request's query, parsed once; the default where the query is invalid."""
    if "statement_filter" not in g:
        kind = request.args.get("kind", "").strip()
        g.statement_filter = _StatementFilter(periods.parse_period_param(DAYS_30), kind if kind in ledger.KINDS else "")
    statement_filter: _StatementFilter = g.statement_filter
    return statement_filter


@blueprint.get("/accounts/<name>/credits")
@access.account_access_required
def show_statement(account: Account) -> ResponseReturnValue:
    """The statement. Query: `period` (with `from` and `to`), `kind`, and `before` or `after`, which turn the page."""
    statement_filter = _get_statement_filter()
    values = {"filter": _build_filter_form(statement_filter), "query": statement_filter.query_string}
    return live.render_live_page(
        "billing/statement/page.html",
        "credits",
        account,
        status=422 if statement_filter.period.error else 200,
        **values,
    )


def _build_filter_form(statement_filter: _StatementFilter) -> StatementFilterForm:
    form = StatementFilterForm(request.args)
    form.fill(statement_filter.period)
    form.kind.choices = [
        SelectChoice("", _("All")),
        *(SelectChoice(name, _(words)) for name, words in _KIND_FILTER_LABELS.items()),
    ]
    form.kind.data = statement_filter.kind
    return form


@blueprint.get("/accounts/<name>/credits.csv")
@access.account_access_required
def download_statement_csv(account: Account) -> ResponseReturnValue:
    """The movements that the same query shows in the page, newest first."""
    statement_filter = _get_statement_filter()
    if statement_filter.period.error is not None:
        return htmx.redirect_after_post(
            f"{url_for('.show_statement', name=account.name)}?{request.query_string.decode('latin-1')}"
        )
    rows = map(
        _to_csv_row,
        statement.iterate_movements(
            context.get_conn(), account.id, statement_filter.selected_period, statement_filter.kind
        ),
    )
    return downloads.stream_csv(f"{account.name}-credits.csv", _CSV_COLUMNS, rows)


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
    title = _("Balance and usage")
    return htmx.render_dialog(
        "billing/statement/_chart_table.html", account, title=title, tab="credits", **_chart_context(account)
    )


# --- parts of the page


def _ledger_context(account: Account, counters: ChangeCounters) -> dict[str, Any]:
    statement_filter = _get_statement_filter()
    conn, within, kind = context.get_conn(), statement_filter.selected_period, statement_filter.kind
    return {
        "page": paging.paginate(partial(statement.list_movements_page, conn, account.id, within, kind), _PAGE_SIZE),
        "sums": statement.sum_movements(conn, account.id, within, kind),
        "query": statement_filter.query_string,
        "args": {name: request.args[name] for name in (*_QUERY_PARAMS, *paging.PAGING_ARGS) if request.args.get(name)},
        "describe_movement": _describe_movement,
        "describe_message_count": _describe_message_count,
        "history_path": _build_history_path,
        "format_actor": _format_actor,
        "format_kind": _format_movement_kind,
        "query_for_kind": statement_filter.query_string_for_kind,
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


def _format_movement_kind(kind: str) -> str:
    return _(_KIND_FILTER_LABELS[kind])


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


def _chart_fragment_context(account: Account, counters: ChangeCounters) -> dict[str, Any]:
    return _chart_context(account)


def _chart_context(account: Account) -> dict[str, Any]:
    statement_filter, timezone, now = _get_statement_filter(), context.get_config().timezone, now_ms()
    balance_history = statement.load_balance_history(
        context.get_conn(), account.id, statement_filter.selected_period, timezone, now
    )
    format_time = {"hour": i18n.format_time, "month": i18n.format_month}.get(
        balance_history.unit if balance_history else "", i18n.format_day
    )
    return {
        "balance_history": balance_history,
        "query": statement_filter.query_string,
        "label": lambda step: format_time(step.at, timezone),
    }


def _expiring_credits_context(account: Account, counters: ChangeCounters) -> dict[str, Any]:
    amounts: Counter[int] = Counter()
    for lot in expiry.list_expiring_credit_lots(context.get_conn(), account.id):
        amounts[lot.expires_at] += lot.remaining
    dates = sorted(amounts.items())
    return {"dates": dates[:_MAX_EXPIRY_DATES], "later": sum(amount for _at, amount in dates[_MAX_EXPIRY_DATES:])}


def _forecast_context(account: Account, counters: ChangeCounters) -> dict[str, Any]:
    now = now_ms()
    return {"words": forecast.compute_forecast(context.get_conn(), account.id, now).to_text(now)}


def _ledger_cache_key(account: Account, counters: ChangeCounters) -> Hashable:
    # The bounds too: "today" is another day after midnight.
    period = _get_statement_filter().selected_period
    return account.balance, counters.latest_movement, period.since, period.until


def _chart_cache_key(account: Account, counters: ChangeCounters) -> Hashable:
    # The chart of today ends with the current hour.
    return _ledger_cache_key(account, counters), now_ms() // HOUR_MS


live.register_live_page(
    "credits",
    LiveFragment(
        "billing/statement/_ledger.html",
        _ledger_cache_key,
        _ledger_context,
        query_args=(*_QUERY_PARAMS, *paging.PAGING_ARGS),
    ),
    LiveFragment("billing/statement/_chart.html", _chart_cache_key, _chart_fragment_context, query_args=_QUERY_PARAMS),
    LiveFragment(
        "billing/statement/_expiring.html",
        lambda account, counters: (account.balance, counters.latest_movement),
        _expiring_credits_context,
        shows_relative_times=True,
    ),
    LiveFragment(
        "billing/statement/_forecast.html",
        lambda account, counters: (account.balance, counters.total_sent),
        _forecast_context,
        shows_relative_times=True,
    ),
)


# --- months


@dataclass(frozen=True, slots=True)
class _MonthlyCostLine:
    """What messages to a country, or from a sender, cost in a month, and their share of all of it."""

    name: str
    use: MonthlyUsage
    share: float


@blueprint.get("/accounts/<name>/credits/months")
@access.account_access_required
def show_monthly_costs(account: Account) -> ResponseReturnValue:
    """What a month's messages cost, by country and by sender. Query: `month` ("2026-11"); the current one without."""
    conn = context.get_conn()
    month_numbers = statement.list_statement_months(conn, account.id)
    number = _read_month() or month_numbers[0]
    by_country = statement.list_usage_by_country(conn, account.id, number)
    by_sender = statement.list_usage_by_sender(conn, account.id, number, _MAX_SENDERS + 1)
    total = MonthlyUsage(
        "",
        "",
        sum(each.messages for each in by_country),
        sum(each.parts for each in by_country),
        sum(each.price for each in by_country),
    )
    return htmx.render_page(
        "billing/statement/months.html",
        account=account,
        tab="credits",
        choices=[(statement.format_month(each), _format_month(each)) for each in month_numbers],
        month=statement.format_month(number),
        month_words=_format_month(number),
        countries=[_build_cost_line(countries.get_country_name(each.country), each, total) for each in by_country],
        senders=[_build_cost_line(each.source, each, total) for each in by_sender[:_MAX_SENDERS]],
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
        for each in statement.iterate_monthly_usage(context.get_conn(), account.id, number)
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


def _build_cost_line(name: str, use: MonthlyUsage, total: MonthlyUsage) -> _MonthlyCostLine:
    return _MonthlyCostLine(name, use, use.price / total.price if total.price else 0)
