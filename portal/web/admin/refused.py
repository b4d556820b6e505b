"""What was refused of all accounts, for operators."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_, _
from portal.services.accounts import refused_binds, refused_messages
from portal.services.accounts.accounts import OPTIONAL_DATA_CODINGS
from portal.services.accounts.refusals import OTHERS, RefusalGroup
from portal.services.common.periods import DAYS_30, TODAY, WEEK
from portal.services.messages import all_refusals, refusal_remedies
from portal.services.messages.all_refusals import REASON_LABELS, RefusalFilter, RefusedAccount
from portal.services.senders import senders
from portal.web.core import access, context, downloads, htmx, periods

blueprint = Blueprint("admin_refused", __name__, url_prefix="/admin")

_CSV_COLUMNS = "account;customer;kind;reason;value;count;first;latest;text".split(";")
_PERIODS = (TODAY, WEEK, DAYS_30)
_MAX_FIELD_LENGTH = 100
_MAX_ACCOUNTS = 30
# The account's own page has the others.
_MAX_GROUPS_PER_ACCOUNT = 3
_MAX_UNKNOWN = 25
_BY_WEIGHT, _BY_TIME = "weight", "latest"
_SORT_LABELS = {_BY_WEIGHT: N_("Most often first"), _BY_TIME: N_("Latest first")}

# Where operators set what it was refused for: the words, the endpoint, and the part of its page.
_LIMITS = N_("Limits"), "admin_customers.show_account", "limits"
_BRAKES = N_("Brakes"), "admin_customers.show_account", "brakes"
_IPS = N_("Authorised IPs"), "allowed_ips.list_allowed_ips", ""
_REMEDIES = {
    refused_binds.NOT_AUTHORISED: _IPS,
    refused_binds.NO_IP: _IPS,
    refused_binds.ACCOUNT_DISABLED: (N_("Account"), "admin_customers.show_account", ""),
    refused_binds.TOO_MANY_BINDS: _LIMITS,
    refused_messages.SENDER: (N_("Senders"), "senders.list_senders", ""),
    refused_messages.NATIONAL_NUMBER: _LIMITS,
    refused_messages.PRICE: (N_("Prices"), "prices.show_default_prices", ""),
    refused_messages.ROUTE: (N_("Routes"), "routes.list_routes", ""),
    refused_messages.THROUGHPUT: _LIMITS,
    refused_messages.WINDOW: _LIMITS,
    refused_messages.COUNTRY: _BRAKES,
    refused_messages.DAY_MESSAGES: _BRAKES,
    refused_messages.DAY_CREDITS: _BRAKES,
    refused_messages.HOUR_MESSAGES: _BRAKES,
    refusal_remedies.NO_CREDITS: (N_("Grant credits"), "admin_customers.show_account", "grant"),
    refusal_remedies.BLACKLISTED: (N_("Blacklist"), "blacklist.show_blacklist", ""),
}
_OF_NO_ACCOUNT = ("prices.show_default_prices", "routes.list_routes")


class RefusalFilterForm(periods.PeriodForm):
    reason = SelectField(N_("Reason"), validate_choice=False)
    q = StringField(N_("Account or customer"))
    sort = SelectField(N_("Sorted by"), validate_choice=False)


@dataclass(frozen=True)
class _ShownAccount:
    """An account, the first of what was refused of it, and how many values more there are."""

    account: RefusedAccount
    groups: list[dict[str, Any]]
    more: int


@dataclass(frozen=True)
class _RefusedQuery:
    """What this request's query asks for."""

    wanted: RefusalFilter
    by_time: bool
    form: RefusalFilterForm
    params: Mapping[str, str]


def _read_query() -> _RefusedQuery:
    period_param = periods.parse_period_param(TODAY, _PERIODS)
    form = RefusalFilterForm(request.args)
    form.fill(period_param)
    reasons = sorted(((name, _(label)) for name, label in REASON_LABELS.items()), key=lambda each: each[1].casefold())
    form.reason.choices = [SelectChoice("", _("Any")), *(SelectChoice(*each) for each in reasons)]
    form.sort.choices = [SelectChoice(name, _(label)) for name, label in _SORT_LABELS.items()]
    if form.reason.data not in REASON_LABELS:
        form.reason.data = ""
    if form.sort.data not in _SORT_LABELS:
        form.sort.data = _BY_WEIGHT
    words = form.q.data.strip()[:_MAX_FIELD_LENGTH]
    wanted = RefusalFilter(period_param.period.since, period_param.period.until, form.reason.data, words)
    params = {**period_param.params, "reason": form.reason.data, "q": words, "sort": form.sort.data}
    return _RefusedQuery(
        wanted, form.sort.data == _BY_TIME, form, {name: text for name, text in params.items() if text}
    )


@blueprint.get("/refused")
@access.operator_required
def list_refused() -> ResponseReturnValue:
    """The accounts of which most was refused, with the weightiest reasons; and system_ids that no account has.

    Query: `period`, `reason`, `q` (part of an account's or customer's name), `sort` (`weight`, `latest`).
    """
    conn, query = context.get_conn(), _read_query()
    accounts, account_count = all_refusals.list_refused_accounts(
        conn, query.wanted, by_time=query.by_time, limit=_MAX_ACCOUNTS
    )
    unknown = refused_binds.list_unknown_binds(conn, query.wanted.since)
    return htmx.render_page(
        "admin/refused.html",
        filter=query.form,
        params=query.params,
        accounts=[_build_shown_account(each, query) for each in accounts],
        more=account_count - len(accounts),
        unknown=unknown[:_MAX_UNKNOWN],
        more_unknown=max(len(unknown) - _MAX_UNKNOWN, 0),
    )


@blueprint.get("/refused.csv")
@access.operator_required
def download_refused() -> ResponseReturnValue:
    """All of it, with every value, as a file. The query is that of `list_refused`."""
    query, conn = _read_query(), context.open_stream_conn()
    rows = all_refusals.iterate_all_refusals(conn, query.wanted, by_time=query.by_time)
    return downloads.stream_csv("refused.csv", _CSV_COLUMNS, _iterate_csv_rows(rows))


def _iterate_csv_rows(rows: Iterator[tuple[RefusedAccount, RefusalGroup]]) -> Iterator[list[object]]:
    for account, group in rows:
        yield [
            account.name,
            account.customer,
            "bind" if group.is_bind else "message",
            group.reason,
            group.value,
            group.count,
            i18n.format_iso8601(group.first_at),
            i18n.format_iso8601(group.last_at),
            refusal_remedies.describe_group(group),
        ]


def _build_shown_account(account: RefusedAccount, query: _RefusedQuery) -> _ShownAccount:
    groups = all_refusals.list_account_groups(context.get_conn(), account.id, query.wanted, by_time=query.by_time)
    shown = groups[:_MAX_GROUPS_PER_ACCOUNT]
    waiting: dict[str, int] = {}
    if any(each.reason == refused_messages.SENDER for each in shown):
        listed = senders.list_senders(context.get_conn(), account.id)
        waiting = {each.address: each.id for each in listed if each.status == senders.WAITING}
    return _ShownAccount(
        account,
        [
            {
                "group": each,
                "text": refusal_remedies.describe_group(each),
                "value": "" if each.value == OTHERS or not each.is_bind else each.value,
                "remedy": _find_remedy(account, each, waiting),
            }
            for each in shown
        ],
        len(groups) - len(shown),
    )


def _find_remedy(account: RefusedAccount, group: RefusalGroup, waiting: Mapping[str, int]) -> tuple[str, str] | None:
    """The words and the address of what operators can do; None: nothing."""
    if group.reason == refused_messages.SENDER and group.value in waiting:
        return _("Decide"), url_for("senders.decide_sender_request", sender_id=waiting[group.value])
    remedy = _REMEDIES.get(group.reason)
    if group.reason == refused_messages.CODING and group.value.isdigit():
        remedy = _LIMITS if int(group.value) in OPTIONAL_DATA_CODINGS else None
    if remedy is None:
        return None
    label, endpoint, part = remedy
    if endpoint in _OF_NO_ACCOUNT:
        return _(label), url_for(endpoint)
    return _(label), url_for(endpoint, name=account.name, _anchor=part or None)
