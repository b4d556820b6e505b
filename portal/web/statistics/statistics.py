"""An account's statistics: its messages in a period, as figures, charts, tables and CSV."""

from collections.abc import Callable, Iterable, Sequence
from datetime import date
from itertools import pairwise
from typing import Any

from flask import Blueprint, request
from flask.typing import ResponseReturnValue
from wtforms import SelectField

from portal.core import i18n
from portal.core.clock import DAY_MS, HOUR_MS, MINUTE_MS, now_ms
from portal.core.i18n import N_, _
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts
from portal.services.common.message_states import PTT_DESCRIPTIONS
from portal.services.common.periods import DAYS_30, STATISTICS_PERIODS
from portal.services.prices import countries
from portal.services.statistics import rollup, statistics
from portal.services.statistics.daily_totals import MessageCounts
from portal.services.statistics.statistics import DeliveryTimes, PreviousPeriod, Statistics
from portal.web.core import access, charts, context, downloads, htmx, periods, refused_counts
from portal.web.core.charts import Chart, ChartSeries
from portal.web.core.periods import PeriodFilter

blueprint = Blueprint("statistics", __name__)

_GRAINS = {charts.HOUR: rollup.HOUR, charts.DAY: rollup.DAY, charts.MONTH: rollup.MONTH}
_CHART_UNITS = {grain: unit for unit, grain in _GRAINS.items()}
_GRAIN_LABELS = {"": N_("Automatic"), "hour": N_("Hour"), "day": N_("Day"), "month": N_("Month")}
_MAX_TABLE_ROWS = 50
_COUNT_COLUMNS = "sent;delivered;failed;pending;stopped;refused;parts;credits;rate".split(";")
_CSV_COLUMNS = {
    "time": ["begins", *_COUNT_COLUMNS],
    "country": ["country", *_COUNT_COLUMNS],
    "sender": ["sender", *_COUNT_COLUMNS],
    "status": ["ptt", "description", "messages"],
}
# The layers of the chart from below, with the classes of their colours.
_CHART_LAYERS: Sequence[tuple[str, str, Callable[[MessageCounts], int]]] = (
    ("", N_("delivered"), lambda counts: counts.delivered),
    ("b", N_("failed"), lambda counts: counts.failed),
    ("c", N_("on their way"), lambda counts: counts.pending),
    ("d", N_("stopped"), lambda counts: counts.stopped),
)
_CHART_HEIGHT = 120
_SECOND_MS = 1_000
_DELIVERY_TIME_LIMITS = (
    *(_SECOND_MS * seconds for seconds in (1, 2, 5, 10, 30)),
    *(MINUTE_MS * minutes for minutes in (1, 5, 15)),
    *(HOUR_MS * hours for hours in (1, 6)),
    *(DAY_MS * days for days in (1, 3)),
)
_DURATION_UNITS = (
    (DAY_MS, N_("%(number)s d")),
    (HOUR_MS, N_("%(number)s h")),
    (MINUTE_MS, N_("%(number)s min")),
    (_SECOND_MS, N_("%(number)s s")),
)
# The range of times in the histogram: a few very long ones would leave no room for the others.
_DRAWN_QUANTILES = (0.005, 0.995)
_HISTOGRAM_BAR_COUNT = 24


class StatisticsFilterForm(periods.PeriodForm):
    """The form of the page's filter."""

    grain = SelectField(N_("Show by"), validate_choice=False)


def _read_filter() -> PeriodFilter:
    """The filter in this request's query (the grain is empty where the period's length decides); the default where the
    query is invalid."""
    period_param = periods.parse_period_param(DAYS_30, STATISTICS_PERIODS, statistics.TIMEZONE)
    return periods.parse_period_filter("grain", _GRAIN_LABELS, period_param)


def _read_statistics(account: Account, stats_filter: PeriodFilter) -> Statistics | None:
    period, grain = stats_filter.period_param, _GRAINS.get(stats_filter.choice)
    return statistics.read_statistics(context.get_conn(), account.id, period.choice, period.period, grain, now_ms())


@blueprint.get("/accounts/<name>/statistics")
@access.account_access_required
def show_statistics(account: Account) -> ResponseReturnValue:
    """The statistics. Query: `period` (with `from` and `to`) and `grain` (`hour`, `day`, `month`)."""
    stats_filter = _read_filter()
    stats = _read_statistics(account, stats_filter)
    previous = stats.previous if stats else None
    if stats and (stats.totals.submitted or (previous and previous.totals.submitted)):
        values = _statistics_context(stats_filter, stats)
    else:
        values = {"statistics": None, "began": statistics.get_first_message_day(context.get_conn(), account.id)}
    asked = stats_filter.period_param
    return htmx.render_page(
        "statistics/page.html",
        account=account,
        tab="statistics",
        filter=stats_filter.build_form(StatisticsFilterForm),
        query=stats_filter.query_string,
        refused_count=refused_counts.count_refused_messages(account, asked.choice, asked.period, now_ms()),
        **values,
    )


@blueprint.get("/accounts/<name>/statistics/table")
@access.account_access_required
def show_chart_table(account: Account) -> ResponseReturnValue:
    """What the chart shows, as a table; the query is the page's."""
    stats_filter = _read_filter()
    if stats_filter.period_param.error is not None:
        return stats_filter.redirect_to_page(".show_statistics", account)
    stats = _read_statistics(account, stats_filter)
    head, rows = _build_chart_table(stats) if stats else ([], [])
    return htmx.render_dialog(
        "statistics/_chart_table.html",
        account,
        title=_("Statistics"),
        tab="statistics",
        head=head,
        rows=rows,
        query=stats_filter.query_string,
    )


def _build_chart_table(stats: Statistics) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The names of the columns, and the rows, newest first; without empty columns, for phones are narrow."""
    columns: list[tuple[str, Callable[[MessageCounts], int]]] = [(_("sent"), lambda counts: counts.sent)]
    columns += [(_(words), count) for _kind, words, count in _CHART_LAYERS if count(stats.totals)]
    rows = [
        (_format_step(stats, step.at), [i18n.format_number(count(step.counts)) for _words, count in columns])
        for step in reversed(stats.steps)
    ]
    return [charts.format_step_heading(_CHART_UNITS[stats.grain]), *(words for words, _count in columns)], rows


@blueprint.get("/accounts/<name>/statistics.csv")
@access.account_access_required
def download_statistics_csv(account: Account) -> ResponseReturnValue:
    """One of the page's tables, whole. The query is the page's, and `of`: `time`, `country`, `sender` or `status`."""
    stats_filter = _read_filter()
    if stats_filter.period_param.error is not None:
        return stats_filter.redirect_to_page(".show_statistics", account)
    table_name = request.args.get("of", "")
    table_name = table_name if table_name in _CSV_COLUMNS else "time"
    stats = _read_statistics(account, stats_filter)
    filename = f"{account.name}-statistics-{table_name}.csv"
    rows = _iterate_csv_rows(stats, table_name) if stats else []
    return downloads.stream_csv(filename, _CSV_COLUMNS[table_name], rows, with_bom=request.args.get("bom") == "1")


def _iterate_csv_rows(stats: Statistics, table_name: str) -> Iterable[list[object]]:
    if table_name == "status":
        return ([ptt, _describe_ptt(ptt), messages] for ptt, messages in stats.messages_by_ptt)
    if table_name == "time":
        return ([i18n.format_iso8601(each.at), *_csv_columns_from_counts(each.counts)] for each in stats.steps)
    lines = stats.countries if table_name == "country" else stats.senders
    return ([each.name, *_csv_columns_from_counts(each.counts)] for each in lines)


def _csv_columns_from_counts(counts: MessageCounts) -> list[object]:
    return [
        counts.sent,
        counts.delivered,
        counts.failed,
        counts.pending,
        counts.stopped,
        counts.refused,
        counts.parts,
        credit_amounts.credits_to_json_number(counts.price),
        "" if counts.delivery_rate is None else f"{counts.delivery_rate:.4f}",
    ]


# --- what the page shows


def _statistics_context(stats_filter: PeriodFilter, stats: Statistics) -> dict[str, Any]:
    times = stats.times
    total = sum(messages for _ptt, messages in stats.messages_by_ptt)
    return {
        "statistics": stats,
        "days": _format_date_range(stats.first, stats.last),
        "before": _format_previous_period(stats.previous) if stats.previous else "",
        "figures": _build_key_figures(stats),
        "coarser": _GRAINS.get(stats_filter.choice, stats.grain) != stats.grain,
        "most_days": (
            statistics.MAX_DAYS[rollup.HOUR],
            statistics.MAX_DAYS[rollup.DAY],
            statistics.HOURLY_RETENTION_DAYS,
        ),
        "chart": _build_messages_chart(stats),
        "statuses": [(_describe_ptt(ptt), ptt, messages, messages / total) for ptt, messages in stats.messages_by_ptt],
        "countries": [
            _format_table_row(countries.get_country_name(each.name), each.counts)
            for each in stats.countries[:_MAX_TABLE_ROWS]
        ],
        "senders": [_format_table_row(each.name, each.counts) for each in stats.senders[:_MAX_TABLE_ROWS]],
        "more_countries": len(stats.countries) > _MAX_TABLE_ROWS,
        "more_senders": len(stats.senders) > _MAX_TABLE_ROWS,
        "times": _build_delivery_times_histogram(times) if times.message_count else None,
        "within": list(_iterate_delivery_time_shares(times)) if times.message_count else [],
    }


def _describe_ptt(ptt: int) -> str:
    return _(PTT_DESCRIPTIONS.get(ptt, PTT_DESCRIPTIONS[255]))


def _format_table_row(name: str, counts: MessageCounts) -> tuple[str, list[str]]:
    rate = "" if counts.delivery_rate is None else i18n.format_percent(counts.delivery_rate)
    return name, [*(i18n.format_number(each) for each in (counts.sent, counts.delivered, counts.failed)), rate]


def _format_date_range(first: date, last: date) -> str:
    """From one day to another: "25 Oct – 23 Nov 2026"."""
    begins, ends = statistics.utc_day_start_ms(first), statistics.utc_day_start_ms(last)
    if first == last:
        return i18n.format_date(ends)
    since = i18n.format_day(begins) if first.year == last.year else i18n.format_date(begins)
    return f"{since} – {i18n.format_date(ends)}"


def _format_previous_period(previous: PreviousPeriod) -> str:
    days = _format_date_range(previous.first, previous.last)
    if previous.until is None or previous.until == 24:
        return days
    return _("%(days)s, until %(hour)s", days=days, hour=f"{previous.until:02}:00")


def _format_step(stats: Statistics, at: int) -> str:
    return charts.format_step(_CHART_UNITS[stats.grain], at, statistics.TIMEZONE, with_day=stats.first != stats.last)


# --- figures, compared with those of the previous period


def _build_key_figures(stats: Statistics) -> list[dict[str, str]]:
    """Figures as texts, each with that of the previous period, and the change."""
    totals, times = stats.totals, stats.times
    previous, previous_times = (
        (stats.previous.totals, stats.previous.times) if stats.previous else (MessageCounts(), DeliveryTimes([]))
    )
    has_previous = bool(previous.submitted)

    now, then = times.quantile, previous_times.quantile

    def figure(
        label: str,
        value: Any,
        earlier: Any,
        format_value: Callable[[Any], str] = i18n.format_number,
        format_change: Callable[[Any, Any], str] = _format_relative_change,
    ) -> dict[str, str]:
        before, change = format_value(earlier) if has_previous else "", format_change(value, earlier)
        return {"label": label, "value": format_value(value), "before": before, "change": change}

    figures = [
        figure(_("sent"), totals.sent, previous.sent),
        figure(_("delivered"), totals.delivered, previous.delivered),
        figure(_("failed"), totals.failed, previous.failed),
        figure(_("stopped"), totals.stopped, previous.stopped),
        # A count of the moment can't be compared with one of an earlier time.
        {"label": _("on their way"), "value": i18n.format_number(totals.pending), "before": "", "change": ""},
    ]
    if totals.refused + previous.refused:
        figures.append(figure(_("not sent: no credits"), totals.refused, previous.refused))
    return [
        *figures,
        figure(_("delivery rate"), totals.delivery_rate, previous.delivery_rate, _format_rate, _format_point_change),
        figure(_("median time to delivery"), now(0.5), then(0.5), _format_approx_duration),
        figure(_("95 % delivered within"), now(0.95), then(0.95), _format_approx_duration),
        figure(_("parts"), totals.parts, previous.parts),
        figure(_("credits used"), totals.price, previous.price, i18n.format_credits),
    ]


def _format_relative_change(now: float | None, previous: float | None) -> str:
    """The relative change, in per cent; empty where there was nothing before."""
    return _format_signed((now - previous) / previous, i18n.format_percent) if previous and now is not None else ""


def _format_rate(rate: float | None) -> str:
    return "–" if rate is None else i18n.format_percent(rate)


def _format_point_change(now: float | None, previous: float | None) -> str:
    """The difference of two shares, in percentage points."""
    if now is None or previous is None:
        return ""
    return _("%(number)s points", number=_format_signed(round((now - previous) * 100, 1), i18n.format_number))


def _format_signed(number: float, format_number: Callable[[float], str]) -> str:
    return f"{'+' if number > 0 else ''}{format_number(number)}"


def _format_approx_duration(milliseconds: float | None) -> str:
    """A time with two significant digits: it isn't known more exactly."""
    return "–" if milliseconds is None else f"≈ {_format_duration(milliseconds)}"


def _format_duration(milliseconds: float) -> str:
    size, words = next(each for each in _DURATION_UNITS if milliseconds >= each[0] or each is _DURATION_UNITS[-1])
    return _(words, number=i18n.format_number(float(f"{milliseconds / size:.2g}")))


# --- charts


def _build_messages_chart(stats: Statistics) -> Chart:
    step_counts = [each.counts for each in stats.steps]
    highest = max(each.sent + each.stopped for each in step_counts)
    layers: list[ChartSeries] = []
    stacked_counts, heights = [0] * len(step_counts), [0] * len(step_counts)
    for kind, label, count in _CHART_LAYERS:
        layer_counts = [count(each) for each in step_counts]
        stacked_counts = [low + more for low, more in zip(stacked_counts, layer_counts, strict=True)]
        # One failure among thousands stays visible.
        heights = [
            max(total * _CHART_HEIGHT // max(highest, 1), height + 1) if more else height
            for total, more, height in zip(stacked_counts, layer_counts, heights, strict=True)
        ]
        if any(layer_counts):
            layers.append(ChartSeries(kind, _(label), sum(layer_counts), charts.build_bars_path(heights, layer_counts)))
    axis = [_format_step(stats, stats.steps[place].at) for place in (0, -1)]
    return Chart(len(step_counts) * charts.STEP_WIDTH, layers[::-1], axis, i18n.format_number(highest))


def _build_delivery_times_histogram(times: DeliveryTimes) -> Chart:
    """How many took how long: each bar stands for times that are longer than those of the one before by one factor."""
    lowest, highest = (max(times.quantile(share) or 0, 1) for share in _DRAWN_QUANTILES)
    # Whole buckets: the distribution within one is not known.
    lowest, highest = (
        max(rollup.get_delivery_bucket_bounds(rollup.get_delivery_time_bucket(int(lowest)))[0], 1),
        rollup.get_delivery_bucket_bounds(rollup.get_delivery_time_bucket(int(highest)))[1],
    )
    limits = [lowest * (highest / lowest) ** (step / _HISTOGRAM_BAR_COUNT) for step in range(_HISTOGRAM_BAR_COUNT + 1)]
    shares = [until - since for since, until in pairwise(times.shares_within(limits))]
    largest_share = max(shares)
    path = charts.build_bars_path([round(each * _CHART_HEIGHT / largest_share) for each in shares], shares)
    return Chart(
        _HISTOGRAM_BAR_COUNT * charts.STEP_WIDTH,
        [ChartSeries("", "", times.message_count, path)],
        [_format_duration(each) for each in (lowest, limits[_HISTOGRAM_BAR_COUNT // 2], highest)],
    )


def _iterate_delivery_time_shares(times: DeliveryTimes) -> Iterable[tuple[str, str]]:
    """Times, and the share delivered within them: from the first that isn't 0 % to the one with 100 %."""
    for limit, share in zip(_DELIVERY_TIME_LIMITS, times.shares_within(_DELIVERY_TIME_LIMITS), strict=True):
        if share >= 0.0005:
            yield _format_duration(limit), i18n.format_percent(share)
        if share > 0.9995:
            return
