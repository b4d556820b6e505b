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
from portal.services.accounts.change_counters import Pulse
from portal.services.billing import statement
from portal.services.billing.statement import Movement, Use
from portal.services.common import audit, credit_amounts
from portal.services.common.periods import DAYS_30, Period, month
from portal.services.credits import expiry, forecast, ledger
from portal.services.prices import countries
from portal.web.core import access, context, downloads, htmx, live, paging, periods
from portal.web.core.live import Part
from portal.web.core.periods import Asked

blueprint = Blueprint("statement", __name__)

_KINDS = {
    ledger.GRANT: N_("Granted"),
    ledger.PURCHASE: N_("Bought"),
    ledger.TRANSFER_OUT: N_("Transfer to %(account)s"),
    ledger.TRANSFER_IN: N_("Transfer from %(account)s"),
    ledger.USAGE: N_("Messages sent"),
    ledger.REFUND: N_("Refunded"),
    ledger.CORRECTION: N_("Corrected"),
    ledger.EXPIRY: N_("Run out"),
}
_KINDS_ALONE = _KINDS | {ledger.TRANSFER_OUT: N_("Transferred away"), ledger.TRANSFER_IN: N_("Transferred here")}
_ACTORS = {audit.SHELL.name: N_("operator"), audit.SYSTEM.name: N_("automatic")}
_ASKS = (*periods.ASKS, "kind")
_COLUMNS = "id;date;kind;credits;balance;by;note;account;order;messages;first_message;last_message".split(";")
_MONTH_COLUMNS = "month;country;sender;messages;parts;credits".split(";")
# Chart, filter and banners are on the page as well.
_PAGE = 12
_MOST_SENDERS = 50
# Of the dates at which credits run out.
_MOST_DATES = 3


class FilterForm(periods.Form):
    kind = SelectField(N_("Movements"), validate_choice=False)


@dataclass(frozen=True)
class _Filter:
    """What is shown: movements of a period, of one kind or of all."""

    period: Asked
    kind: str

    @property
    def within(self) -> Period:
        return self.period.within

    @property
    def query(self) -> str:
        return self.of_kind(self.kind)

    def of_kind(self, kind: str) -> str:
        """The query for the same period, and this kind."""
        return urlencode({name: value for name, value in {**self.period.said, "kind": kind}.items() if value})


def _asked() -> _Filter:
    """The filter that this request's address asks for, found once; the usual one where what it says can't be read."""
    if "statement_filter" not in g:
        kind = request.args.get("kind", "").strip()
        g.statement_filter = _Filter(periods.asked(DAYS_30), kind if kind in ledger.KINDS else "")
    found: _Filter = g.statement_filter
    return found


@blueprint.get("/accounts/<name>/credits")
@access.see_account
def show_statement(account: Account) -> ResponseReturnValue:
    """The statement. Query: `period` (with `from` and `to`), `kind`, and `before` or `after`, which turn the page."""
    asked = _asked()
    shown = {"filter": _filter_form(asked), "query": asked.query}
    return live.show("credits/page.html", "credits", account, status=422 if asked.period.refusal else 200, **shown)


def _filter_form(asked: _Filter) -> FilterForm:
    form = FilterForm(request.args)
    form.show(asked.period)
    form.kind.choices = [
        SelectChoice("", _("All")),
        *(SelectChoice(name, _(words)) for name, words in _KINDS_ALONE.items()),
    ]
    form.kind.data = asked.kind
    return form


@blueprint.get("/accounts/<name>/credits.csv")
@access.see_account
def download_statement(account: Account) -> ResponseReturnValue:
    """The movements that the same query shows in the page, newest first."""
    asked = _asked()
    if asked.period.refusal is not None:
        return htmx.done(f"{url_for('.show_statement', name=account.name)}?{request.query_string.decode('latin-1')}")
    rows = map(_row, statement.each(context.conn(), account.id, asked.within, asked.kind))
    return downloads.send(f"{account.name}-credits.csv", _COLUMNS, rows)


def _row(movement: Movement) -> list[object]:
    return [
        movement.id,
        i18n.iso(movement.at),
        movement.kind,
        credit_amounts.plain(movement.amount),
        credit_amounts.plain(movement.balance_after),
        movement.actor,
        movement.note,
        movement.counterpart,
        movement.order,
        movement.messages,
        movement.first_message_id,
        movement.last_message_id,
    ]


@blueprint.get("/accounts/<name>/credits/course")
@access.see_account
def show_course(account: Account) -> ResponseReturnValue:
    """What the chart shows, as a table; the query is the statement's."""
    title = _("Balance and usage")
    return htmx.dialog("credits/_chart_table.html", account, title=title, tab="credits", **_drawn_course(account))


# --- parts of the page


def _statement(account: Account, pulse: Pulse) -> dict[str, Any]:
    asked = _asked()
    conn, within, kind = context.conn(), asked.within, asked.kind
    return {
        "page": paging.page(partial(statement.movements, conn, account.id, within, kind), _PAGE),
        "sums": statement.sums(conn, account.id, within, kind),
        "query": asked.query,
        "args": {name: request.args[name] for name in (*_ASKS, *paging.ASKS) if request.args.get(name)},
        "words": _words,
        "about": _about,
        "sent": _sent,
        "who": _who,
        "kind_words": _kind_words,
        "of_kind": asked.of_kind,
    }


def _words(movement: Movement) -> str:
    """What a movement was, in words; nothing for usage, of which `_about` says it."""
    return "" if movement.kind == ledger.USAGE else _(_KINDS[movement.kind], account=movement.counterpart)


def _about(movement: Movement) -> str:
    """How many messages a movement was for."""
    count = movement.messages or 0
    if movement.kind == ledger.USAGE:
        return i18n.ngettext("%(num)s message sent", "%(num)s messages sent", count)
    return i18n.ngettext("%(num)s message", "%(num)s messages", count)


def _kind_words(kind: str) -> str:
    return _(_KINDS_ALONE[kind])


def _who(movement: Movement) -> str:
    actor = movement.actor
    return _(_ACTORS[actor]) if actor in _ACTORS else actor


def _sent(movement: Movement) -> str:
    """Where the history shows a movement's messages: the address under the account's; empty where it doesn't."""
    if not movement.in_history or movement.last_message_id is None:
        return ""
    if movement.messages == 1:
        return f"history/{movement.last_message_id}"
    return f"history?before={movement.last_message_id + 1}"


def _chart(account: Account, pulse: Pulse) -> dict[str, Any]:
    return _drawn_course(account)


def _drawn_course(account: Account) -> dict[str, Any]:
    asked, timezone, now = _asked(), context.config().timezone, now_ms()
    found = statement.course(context.conn(), account.id, asked.within, timezone, now)
    write = {"hour": i18n.hour, "month": i18n.month}.get(found.unit if found else "", i18n.day)
    return {"course": found, "query": asked.query, "label": lambda step: write(step.at, timezone)}


def _expiring(account: Account, pulse: Pulse) -> dict[str, Any]:
    amounts: Counter[int] = Counter()
    for lot in expiry.upcoming(context.conn(), account.id):
        amounts[lot.expires_at] += lot.left
    dates = sorted(amounts.items())
    return {"dates": dates[:_MOST_DATES], "later": sum(amount for _at, amount in dates[_MOST_DATES:])}


def _forecast(account: Account, pulse: Pulse) -> dict[str, Any]:
    now = now_ms()
    return {"words": forecast.of_account(context.conn(), account.id, now).words(now)}


def _ground(account: Account, pulse: Pulse) -> Hashable:
    # The bounds too: "today" is another day after midnight.
    within = _asked().within
    return account.balance, pulse.latest_movement, within.since, within.until


def _chart_ground(account: Account, pulse: Pulse) -> Hashable:
    # Today's goes on to the hour that runs.
    return _ground(account, pulse), now_ms() // HOUR_MS


live.register(
    "credits",
    Part("credits/_ledger.html", _ground, _statement, asks=(*_ASKS, *paging.ASKS)),
    Part("credits/_chart.html", _chart_ground, _chart, asks=_ASKS),
    Part("credits/_expiring.html", lambda account, pulse: pulse.latest_movement, _expiring, ages=True),
    Part("credits/_forecast.html", lambda account, pulse: (account.balance, pulse.total_sent), _forecast, ages=True),
)


# --- months


@dataclass(frozen=True, slots=True)
class _Line:
    """What messages to a country, or from a sender, cost in a month, and their share of all of it."""

    name: str
    use: Use
    share: float


@blueprint.get("/accounts/<name>/credits/months")
@access.see_account
def show_month(account: Account) -> ResponseReturnValue:
    """What a month's messages cost, by country and by sender. Query: `month` ("2026-11"); the current one without."""
    conn = context.conn()
    known = statement.months(conn, account.id)
    number = _month() or known[0]
    by_country = statement.used_by_country(conn, account.id, number)
    by_sender = statement.used_by_sender(conn, account.id, number, _MOST_SENDERS + 1)
    total = Use(
        "",
        "",
        sum(each.messages for each in by_country),
        sum(each.parts for each in by_country),
        sum(each.price for each in by_country),
    )
    return htmx.page(
        "credits/months.html",
        account=account,
        tab="credits",
        choices=[(statement.month_text(each), _month_words(each)) for each in known],
        month=statement.month_text(number),
        month_words=_month_words(number),
        countries=[_line(countries.name(each.country), each, total) for each in by_country],
        senders=[_line(each.source, each, total) for each in by_sender[:_MOST_SENDERS]],
        more_senders=len(by_sender) > _MOST_SENDERS,
        total=total,
        refunded=statement.sums(conn, account.id, month(number), ledger.REFUND).came,
    )


@blueprint.get("/accounts/<name>/credits/months.csv")
@access.see_account
def download_month(account: Account) -> ResponseReturnValue:
    """What a month's messages cost, a line for each country and sender. The query: see `show_month`."""
    number = _month() or statement.months(context.conn(), account.id)[0]
    text = statement.month_text(number)
    rows = (
        (text, each.country, each.source, each.messages, each.parts, credit_amounts.plain(each.price))
        for each in statement.used(context.conn(), account.id, number)
    )
    return downloads.send(f"{account.name}-{text}.csv", _MONTH_COLUMNS, rows)


def _month() -> int | None:
    """The month that the address asks for; None: the usual one."""
    text = request.args.get("month", "")
    number = statement.month_number(text) if text else None
    if text and number is None:
        abort(404)
    return number


def _month_words(number: int) -> str:
    words = i18n.month(month(number).since, "UTC")
    return words[:1].upper() + words[1:]


def _line(name: str, use: Use, total: Use) -> _Line:
    return _Line(name, use, use.price / total.price if total.price else 0)
