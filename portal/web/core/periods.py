"""The period that a page is about: the arguments of its address, and the form that asks for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core.clock import now_ms
from portal.core.i18n import N_, _
from portal.services.accounts.accounts import Account
from portal.services.common import periods
from portal.services.common.errors import Refused
from portal.services.common.periods import Period
from portal.web.core import context, forms

PERIOD_ARGS = ("period", "from", "to")
_PERIOD_LABELS = {
    periods.TODAY: N_("Today"),
    periods.WEEK: N_("7 days"),
    periods.DAYS_30: N_("30 days"),
    periods.THIS_MONTH: N_("This month"),
    periods.LAST_MONTH: N_("Last month"),
    periods.MONTHS_12: N_("12 months"),
    periods.ALL: N_("All"),
    periods.RANGE: N_("From … to …"),
}


@dataclass(frozen=True)
class PeriodParam:
    """The period that an address asks for, the form's choices, the arguments of the query, and the error in them."""

    choices: Sequence[str]
    choice: str
    period: Period
    params: Mapping[str, str]
    error: Refused | None


def parse_period_param(default: str, choices: Sequence[str] = periods.PERIODS, timezone: str = "") -> PeriodParam:
    """Read this request's query.

    Args:
        default: of the choices; used where the query names no period, or none that can be read.
        choices: in the order in which the form shows them.
        timezone: IANA name; of the days, where that isn't the installation's.
    """
    params = {name: request.args.get(name, "").strip() for name in PERIOD_ARGS}
    choice = params["period"]
    if choice not in choices:
        choice = periods.RANGE if not choice and (params["from"] or params["to"]) else default
    timezone, now = timezone or context.get_config().timezone, now_ms()
    try:
        period = periods.parse_period(choice, params["from"], params["to"], timezone, now)
    except Refused as error:
        return PeriodParam(
            choices, default, periods.parse_period(default, "", "", timezone, now), {"period": default}, error
        )
    return PeriodParam(choices, choice, period, params if choice == periods.RANGE else {"period": choice}, None)


@dataclass(frozen=True)
class PeriodFilter:
    """What a page about a period shows: the period, and what else is chosen (empty: all).

    Args:
        name: of the choice, in the query and in the form.
        labels: what may be chosen, with the words for it (`N_`).
    """

    period_param: PeriodParam
    name: str
    choice: str
    labels: Mapping[str, str]

    @property
    def query_string(self) -> str:
        return self.query_string_with(self.choice)

    def query_string_with(self, choice: str) -> str:
        """The query for the same period, and this choice."""
        params = {**self.period_param.params, self.name: choice}
        return urlencode({name: value for name, value in params.items() if value})

    def build_form(self, form_class: type["PeriodForm"]) -> "PeriodForm":
        """The form that shows what was asked for, or the error in it."""
        form = form_class(request.args)
        form.fill(self.period_param)
        form[self.name].choices = [SelectChoice(name, _(words)) for name, words in self.labels.items()]
        form[self.name].data = self.choice
        return form

    def redirect_to_page(self, endpoint: str, account: Account) -> ResponseReturnValue:
        """From a file or a part of the page to the page, which shows what is wrong with the query."""
        return redirect(f"{url_for(endpoint, name=account.name)}?{request.query_string.decode('latin-1')}", 303)


def parse_period_filter(name: str, labels: Mapping[str, str], period_param: PeriodParam) -> PeriodFilter:
    """Read this request's query; the arguments: see `PeriodFilter`."""
    choice = request.args.get(name, "").strip()
    return PeriodFilter(period_param, name, choice if choice in labels else "", labels)


class PeriodForm(forms.GetForm):
    period = SelectField(N_("Period"), validate_choice=False)
    since = StringField(N_("From"), name="from", id="from")
    until = StringField(N_("To"), name="to", id="to")

    def fill(self, period_param: PeriodParam) -> None:
        """Show the period that was asked for, or the error in it."""
        self.period.choices = [SelectChoice(name, _(_PERIOD_LABELS[name])) for name in period_param.choices]
        if period_param.error is None:
            self.period.data = period_param.choice
        else:
            forms.add_form_error(self, period_param.error, **{"from": "since", "to": "until"})
