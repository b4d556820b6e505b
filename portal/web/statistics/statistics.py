"""An account's statistics: what its messages of a period came to, drawn, as tables and as CSV."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from urllib.parse import urlencode

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.clock import DAY_MS, HOUR_MS, MINUTE_MS, now_ms
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.accounts.accounts import Account
from portal.services.common import credit_amounts
from portal.services.common.message_states import PTT
from portal.services.common.periods import DAYS_30, PERIODS_OF_STATISTICS
from portal.services.prices import countries
from portal.services.statistics import rollup, statistics
from portal.services.statistics.daily_totals import Counts
from portal.services.statistics.statistics import Before, Statistics, Times
from portal.web.core import access, context, downloads, htmx, periods
from portal.web.core.periods import Asked

blueprint = Blueprint("statistics", __name__)

_GRAINS = {"hour": rollup.HOUR, "day": rollup.DAY, "month": rollup.MONTH}
_GRAIN_WORDS = {"": N_("Automatic"), "hour": N_("Hour"), "day": N_("Day"), "month": N_("Month")}
_MOST_LINES = 50
_COUNTS = "sent;delivered;failed;pending;stopped;refused;parts;credits;rate".split(";")
_COLUMNS = {
    "time": ["begins", *_COUNTS],
    "country": ["country", *_COUNTS],
    "sender": ["sender", *_COUNTS],
    "status": ["ptt", "description", "messages"],
}
# The layers of the chart from below, with the classes of their colours.
_LAYERS: Sequence[tuple[str, str, Callable[[Counts], int]]] = (
    ("", N_("delivered"), lambda counts: counts.delivered),
    ("b", N_("failed"), lambda counts: counts.failed),
    ("c", N_("on their way"), lambda counts: counts.pending),
    ("d", N_("stopped"), lambda counts: counts.stopped),
)
_HEIGHT = 120
_SECOND_MS = 1_000
_LIMITS = (
    *(_SECOND_MS * seconds for seconds in (1, 2, 5, 10, 30)),
    *(MINUTE_MS * minutes for minutes in (1, 5, 15)),
    *(HOUR_MS * hours for hours in (1, 6)),
    *(DAY_MS * days for days in (1, 3)),
)
_UNITS = (
    (DAY_MS, N_("%(number)s d")),
    (HOUR_MS, N_("%(number)s h")),
    (MINUTE_MS, N_("%(number)s min")),
    (_SECOND_MS, N_("%(number)s s")),
)
# What is drawn of the times: without the few that took longest, which would leave the others no room.
_DRAWN = (0.005, 0.995)
_TIMES_BARS = 24


class FilterForm(periods.Form):
    """What the address asks for."""

    grain = SelectField(N_("Show by"), validate_choice=False)


@dataclass(frozen=True)
class _Filter:
    """What is shown: a period, and how it is cut up (empty: as suits it)."""

    period: Asked
    grain: str

    @property
    def query(self) -> str:
        said = {**self.period.said, "grain": self.grain}
        return urlencode({name: value for name, value in said.items() if value})

    def read(self, account: Account) -> Statistics | None:
        period = self.period
        grain = _GRAINS.get(self.grain)
        return statistics.read(context.conn(), account.id, period.choice, period.within, grain, now_ms())


def _asked() -> _Filter:
    """The filter that this request's address asks for; the usual one where what it says can't be read."""
    grain = request.args.get("grain", "").strip()
    return _Filter(
        periods.asked(DAYS_30, PERIODS_OF_STATISTICS, statistics.TIMEZONE), grain if grain in _GRAINS else ""
    )


@blueprint.get("/accounts/<name>/statistics")
@access.see_account
def page(account: Account) -> ResponseReturnValue:
    """The statistics. Query: `period` (with `from` and `to`) and `grain` (`hour`, `day`, `month`)."""
    asked = _asked()
    found = asked.read(account)
    before = found.before if found else None
    is_empty = found is None or not (found.totals.came or (before and before.totals.came))
    if is_empty or found is None:
        shown: dict[str, object] = {"found": None, "began": statistics.began(context.conn(), account.id)}
    else:
        shown = _shown(asked, found)
    return htmx.page(
        "statistics/page.html",
        status=422 if asked.period.refusal else 200,
        account=account,
        tab="statistics",
        filter=_filter_form(asked),
        query=asked.query,
        **shown,
    )


def _filter_form(asked: _Filter) -> FilterForm:
    form = FilterForm(request.args)
    form.show(asked.period)
    form.grain.choices = [SelectChoice(name, _(words)) for name, words in _GRAIN_WORDS.items()]
    form.grain.data = asked.grain
    return form


@blueprint.get("/accounts/<name>/statistics/table")
@access.see_account
def table(account: Account) -> ResponseReturnValue:
    """What the chart shows, as a table; the query is the page's."""
    asked = _asked()
    if asked.period.refusal is not None:
        return _mended(account)
    found = asked.read(account)
    head, rows = _step_table(found) if found else ([], [])
    return htmx.dialog(
        "statistics/_chart_table.html",
        account,
        title=_("Statistics"),
        tab="statistics",
        head=head,
        rows=rows,
        query=asked.query,
    )


def _step_table(found: Statistics) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The names of the columns, and the rows, newest first; without what there is none of, for phones are narrow."""
    columns: list[tuple[str, Callable[[Counts], int]]] = [(_("sent"), lambda counts: counts.sent)]
    columns += [(_(words), count) for _kind, words, count in _LAYERS if count(found.totals)]
    rows = [
        (_begins(found, step.at), [i18n.decimal(count(step.counts)) for _words, count in columns])
        for step in reversed(found.steps)
    ]
    return [_column(found), *(words for words, _count in columns)], rows


@blueprint.get("/accounts/<name>/statistics.csv")
@access.see_account
def download(account: Account) -> ResponseReturnValue:
    """One of the page's tables, whole. The query is the page's, and `of`: `time`, `country`, `sender` or `status`."""
    asked = _asked()
    if asked.period.refusal is not None:
        return _mended(account)
    of = request.args.get("of", "")
    of = of if of in _COLUMNS else "time"
    found = asked.read(account)
    name = f"{account.name}-statistics-{of}.csv"
    return downloads.send(name, _COLUMNS[of], _rows(found, of) if found else [], mark=request.args.get("bom") == "1")


def _mended(account: Account) -> ResponseReturnValue:
    """The page says what is wrong with the address."""
    return htmx.done(f"{url_for('.page', name=account.name)}?{request.query_string.decode('latin-1')}")


def _rows(found: Statistics, of: str) -> Iterable[list[object]]:
    if of == "status":
        return ([ptt, _words(ptt), messages] for ptt, messages in found.endings)
    if of == "time":
        return ([i18n.iso(each.at), *_amounts(each.counts)] for each in found.steps)
    lines = found.countries if of == "country" else found.senders
    return ([each.name, *_amounts(each.counts)] for each in lines)


def _amounts(counts: Counts) -> list[object]:
    return [
        counts.sent,
        counts.delivered,
        counts.failed,
        counts.pending,
        counts.stopped,
        counts.refused,
        counts.parts,
        credit_amounts.plain(counts.price),
        "" if counts.rate is None else f"{counts.rate:.4f}",
    ]


# --- what the page shows


def _shown(asked: _Filter, found: Statistics) -> dict[str, object]:
    times = found.times
    total = sum(messages for _ptt, messages in found.endings)
    return {
        "found": found,
        "days": _days(found.first, found.last),
        "before": _before_words(found.before) if found.before else "",
        "figures": _figures(found),
        "coarser": _GRAINS.get(asked.grain, found.grain) != found.grain,
        "most_days": (statistics.MOST_DAYS[rollup.HOUR], statistics.MOST_DAYS[rollup.DAY], statistics.HOURS_KEPT_DAYS),
        "chart": _chart(found),
        "statuses": [(_words(ptt), ptt, messages, messages / total) for ptt, messages in found.endings],
        "countries": [_line(countries.name(each.name), each.counts) for each in found.countries[:_MOST_LINES]],
        "senders": [_line(each.name, each.counts) for each in found.senders[:_MOST_LINES]],
        "more_countries": len(found.countries) > _MOST_LINES,
        "more_senders": len(found.senders) > _MOST_LINES,
        "times": _times_chart(times) if times.messages else None,
        "within": list(_within(times)) if times.messages else [],
    }


def _words(ptt: int) -> str:
    return _(PTT.get(ptt, PTT[255]))


def _line(name: str, counts: Counts) -> tuple[str, list[str]]:
    rate = "" if counts.rate is None else i18n.percent(counts.rate)
    return name, [*(i18n.decimal(each) for each in (counts.sent, counts.delivered, counts.failed)), rate]


def _days(first: date, last: date) -> str:
    """From one day to another: "25 Oct – 23 Nov 2026"."""
    begins, ends = statistics.begins_at(first), statistics.begins_at(last)
    if first == last:
        return i18n.date_with_year(ends)
    return (
        f"{i18n.day(begins) if first.year == last.year else i18n.date_with_year(begins)} – {i18n.date_with_year(ends)}"
    )


def _before_words(before: Before) -> str:
    days = _days(before.first, before.last)
    if before.until is None or before.until == 24:
        return days
    return _("%(days)s, until %(hour)s", days=days, hour=f"{before.until:02}:00")


def _column(found: Statistics) -> str:
    return {rollup.HOUR: _("Time"), rollup.DAY: _("Day"), rollup.MONTH: _("Month")}[found.grain]


def _begins(found: Statistics, at: int) -> str:
    """When a step begins, in words."""
    if found.grain == rollup.MONTH:
        return i18n.month(at, statistics.TIMEZONE)
    if found.grain == rollup.DAY:
        return i18n.day(at)
    hour = i18n.hour(at, statistics.TIMEZONE)
    return hour if found.first == found.last else f"{i18n.day(at)}, {hour}"


# --- figures beside those of the period before


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure in words, what it was before, and how it has changed."""

    label: str
    value: str
    before: str
    change: str


def _figures(found: Statistics) -> list[_Figure]:
    totals, times = found.totals, found.times
    before, times_before = (found.before.totals, found.before.times) if found.before else (Counts(), Times([]))
    had_any = bool(before.came)

    def count(
        label: str, now: int, then: int, leads: bool = True, write: Callable[[int], str] = i18n.decimal
    ) -> _Figure:
        return _Figure(label, write(now), write(then) if had_any else "", _change(now, then))

    def time(label: str, share: float) -> _Figure:
        now, then = times.quantile(share), times_before.quantile(share)
        return _Figure(label, _about(now), _about(then) if had_any else "", _change(now, then))

    return [
        count(_("sent"), totals.sent, before.sent),
        count(_("delivered"), totals.delivered, before.delivered),
        count(_("failed"), totals.failed, before.failed),
        count(_("stopped"), totals.stopped, before.stopped),
        # What is on its way now says nothing beside what was then.
        _Figure(_("on their way"), i18n.decimal(totals.pending), "", ""),
        *(
            [count(_("not sent: no credits"), totals.refused, before.refused)]
            if totals.refused + before.refused
            else []
        ),
        _Figure(
            _("delivery rate"),
            _rate(totals),
            _rate(before) if had_any else "",
            _points(totals.rate, before.rate),
        ),
        time(_("median time to delivery"), 0.5),
        time(_("95 % delivered within"), 0.95),
        count(_("parts"), totals.parts, before.parts),
        count(_("credits used"), totals.price, before.price, write=i18n.credits),
    ]


def _change(now: float | None, before: float | None) -> str:
    """By how much of what it was; empty where that was nothing."""
    return _signed((now - before) / before, i18n.percent) if before and now is not None else ""


def _rate(counts: Counts) -> str:
    return "–" if counts.rate is None else i18n.percent(counts.rate)


def _points(now: float | None, before: float | None) -> str:
    """A difference of shares is no share of one."""
    if now is None or before is None:
        return ""
    return _("%(number)s points", number=_signed(round((now - before) * 100, 1), i18n.decimal))


def _signed(number: float, write: Callable[[float], str]) -> str:
    return f"{'+' if number > 0 else ''}{write(number)}"


def _about(milliseconds: float | None) -> str:
    """A time to two digits: more of them would say what is not known."""
    return "–" if milliseconds is None else f"≈ {_duration(milliseconds)}"


def _duration(milliseconds: float) -> str:
    size, words = next(each for each in _UNITS if milliseconds >= each[0] or each is _UNITS[-1])
    return _(words, number=i18n.decimal(float(f"{milliseconds / size:.2g}")))


# --- charts


@dataclass(frozen=True, slots=True)
class _Layer:
    """One colour of a chart: its class, what it is, how many in all, and what is drawn."""

    kind: str
    label: str
    total: int
    path: str


@dataclass(frozen=True, slots=True)
class _Chart:
    """Bars, the highest layer first, for a lower one hides it; what stands below the first and last of them, in words;
    `most` is the highest one, or what stands below the middle."""

    width: int
    layers: Sequence[_Layer]
    first: str
    last: str
    most: str


def _chart(found: Statistics) -> _Chart:
    counted = [each.counts for each in found.steps]
    most = max(each.sent + each.stopped for each in counted)
    layers: list[_Layer] = []
    below, heights = [0] * len(counted), [0] * len(counted)
    for kind, label, count in _LAYERS:
        own = [count(each) for each in counted]
        below = [low + more for low, more in zip(below, own, strict=True)]
        # One that failed of a thousand is seen.
        heights = [
            max(total * _HEIGHT // max(most, 1), height + 1) if more else height
            for total, more, height in zip(below, own, heights, strict=True)
        ]
        if any(own):
            layers.append(_Layer(kind, _(label), sum(own), _bars(heights, own)))
    first, last = (_begins(found, found.steps[place].at) for place in (0, -1))
    return _Chart(len(counted) * 10, layers[::-1], first, last, i18n.decimal(most))


def _times_chart(times: Times) -> _Chart:
    """How many took how long: each bar stands for times that are longer than those of the one before by one factor."""
    lowest, highest = (max(times.quantile(share) or 0, 1) for share in _DRAWN)
    # Whole buckets: what lies within one is not known.
    lowest, highest = (
        max(rollup.bounds(rollup.bucket(int(lowest)))[0], 1),
        rollup.bounds(rollup.bucket(int(highest)))[1],
    )
    limits = [lowest * (highest / lowest) ** (step / _TIMES_BARS) for step in range(_TIMES_BARS + 1)]
    shares = [until - since for since, until in pairwise(times.within(limits))]
    most = max(shares)
    path = _bars([round(each * _HEIGHT / most) for each in shares], shares)
    middle = _duration(limits[_TIMES_BARS // 2])
    return _Chart(
        _TIMES_BARS * 10, [_Layer("", "", times.messages, path)], _duration(lowest), _duration(highest), middle
    )


def _bars(heights: Sequence[int], own: Sequence[float]) -> str:
    """A bar for each place that has something of its own, upwards from 0, and ten wide with the gap around it; what has
    nothing is passed over."""
    drawn, gap = ["M1.5 0"], 0
    for height, more in zip(heights, own, strict=True):
        if more:
            drawn.append(f"{f'h{gap}' if gap else ''}v-{height}h7V0")
            gap = 3
        else:
            gap += 10
    return "".join(drawn)


def _within(times: Times) -> Iterable[tuple[str, str]]:
    """Times, and what share was delivered in less: from the first one that says something to the one that says all."""
    for limit, share in zip(_LIMITS, times.within(_LIMITS), strict=True):
        if share >= 0.0005:
            yield _duration(limit), i18n.percent(share)
        if share > 0.9995:
            return
