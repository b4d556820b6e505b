"""What was refused of an account: its binds and messages by reason, with what helps, as a page and as CSV."""

from collections.abc import Iterator, Sequence
from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue
from wtforms import SelectField

from portal.core import i18n
from portal.core.clock import DAY_MS, now_ms
from portal.core.i18n import N_, _
from portal.services.accounts.accounts import Account
from portal.services.accounts.refusals import RETENTION_MS
from portal.services.common import periods
from portal.services.messages import refusal_remedies
from portal.services.messages.refusal_remedies import ExplainedRefusal
from portal.web.accounts.accounts import require_smpp_account
from portal.web.accounts.refused_lists import build_refused_list
from portal.web.core import access, context, downloads, live
from portal.web.core.periods import PeriodFilter, PeriodForm, parse_period_filter, parse_period_param

blueprint = Blueprint("refused", __name__)
blueprint.before_request(require_smpp_account)

_PERIODS = (periods.TODAY, periods.WEEK, periods.DAYS_30, periods.RANGE)
_BINDS, _MESSAGES = "bind", "message"
_KIND_LABELS = {"": N_("All"), _MESSAGES: N_("Messages"), _BINDS: N_("Connections")}
_MAX_ROWS = 50
_CSV_COLUMNS = "kind;reason;value;count;first;latest;why".split(";")


class RefusedFilterForm(PeriodForm):
    kind = SelectField(N_("What"), validate_choice=False)


@context.once_per_request
def _get_filter() -> PeriodFilter:
    """The filter in this request's query, parsed once; the default where the query is invalid."""
    return parse_period_filter("kind", _KIND_LABELS, parse_period_param(periods.WEEK, _PERIODS))


def _list_refusals(account: Account, most: int | None = None) -> Sequence[ExplainedRefusal]:
    """What this request's query asks for; first what would be refused still, and what was refused most often.

    Args:
        most: as in `list_explained_refusals`.
    """
    period, kind = _get_filter().period_param.period, _get_filter().choice
    since = max(period.since, now_ms() - RETENTION_MS)
    found = refusal_remedies.list_explained_refusals(context.get_conn(), account, since, period.until, most=most)
    return sorted(
        (each for each in found if not kind or each.group.is_bind == (kind == _BINDS)),
        key=lambda each: (not each.text, each.is_resolved, -each.group.count, -each.group.last_at),
    )


@blueprint.get("/accounts/<name>/refused")
@access.account_access_required
def list_refused(account: Account) -> ResponseReturnValue:
    """Refused binds and messages. Query: `period` (with `from` and `to`), and `kind`."""
    return live.render_live_page(
        "accounts/refused/page.html",
        "refused",
        account,
        filter=_get_filter().build_form(RefusedFilterForm),
        query=_get_filter().query_string,
        kept_days=RETENTION_MS // DAY_MS,
    )


@blueprint.get("/accounts/<name>/refused.csv")
@access.account_access_required
def download_refused_csv(account: Account) -> ResponseReturnValue:
    """What the same query shows in the page, whole."""
    if _get_filter().period_param.error is not None:
        return _get_filter().redirect_to_page(".list_refused", account)
    return downloads.stream_csv(f"{account.name}-refused.csv", _CSV_COLUMNS, _build_csv_rows(_list_refusals(account)))


def _build_csv_rows(refused: Sequence[ExplainedRefusal]) -> Iterator[list[object]]:
    # The language in use is the request's, which has ended when a file is sent.
    return iter(
        [
            [
                _BINDS if each.group.is_bind else _MESSAGES,
                each.group.reason,
                each.group.value,
                each.group.count,
                i18n.format_iso8601(each.group.first_at),
                i18n.format_iso8601(each.group.last_at),
                each.text,
            ]
            for each in refused
        ]
    )


# --- what the page shows


def _lists_context(account: Account) -> dict[str, Any]:
    refused, kind = _list_refusals(account, refusal_remedies.MANY), _get_filter().choice
    params = {**_get_filter().period_param.params, "kind": kind}
    titles = {_MESSAGES: _("Refused messages"), _BINDS: _("Refused connections")}
    return {
        "params": {name: value for name, value in params.items() if value},
        "lists": [
            (
                each,
                title,
                build_refused_list(
                    account,
                    [row for row in refused if row.group.is_bind == (each == _BINDS)],
                    _MAX_ROWS,
                    has_addresses=each == _BINDS,
                ),
            )
            for each, title in titles.items()
            if kind in ("", each)
        ],
    }


live.register_live_page("refused", live.LiveFragment("accounts/refused/_lists.html", _lists_context), tab="sessions")
