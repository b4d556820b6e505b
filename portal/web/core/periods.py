"""The period that a page is about: how its address says it, and the form that asks for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flask import request
from wtforms import SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core.clock import now_ms
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.common import periods
from portal.services.common.errors import Refused
from portal.services.common.periods import Period
from portal.web.core import context, forms

ASKS = ("period", "from", "to")
_WORDS = {
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
class Asked:
    """The period that an address asks for, out of what choices, what says so in it, and what was wrong with that."""

    choices: Sequence[str]
    choice: str
    within: Period
    said: Mapping[str, str]
    refusal: Refused | None


def asked(usual: str, choices: Sequence[str] = periods.PERIODS, timezone: str = "") -> Asked:
    """Read this request's query.

    Args:
        usual: of the choices; stands for what isn't said, or can't be read.
        choices: in the order in which the form shows them.
        timezone: IANA name; of the days, where that isn't the installation's.
    """
    said = {name: request.args.get(name, "").strip() for name in ASKS}
    choice = said["period"]
    if choice not in choices:
        choice = periods.RANGE if not choice and (said["from"] or said["to"]) else usual
    timezone, now = timezone or context.config().timezone, now_ms()
    try:
        within = periods.period(choice, said["from"], said["to"], timezone, now)
    except Refused as refusal:
        return Asked(choices, usual, periods.period(usual, "", "", timezone, now), {"period": usual}, refusal)
    return Asked(choices, choice, within, said if choice == periods.RANGE else {"period": choice}, None)


class Form(forms.Form):
    """A GET form: its answer has an address that can be shared, and the way back leads to it."""

    class Meta:
        csrf = False

    period = SelectField(N_("Period"), validate_choice=False)
    since = StringField(N_("From"), name="from", id="from")
    until = StringField(N_("To"), name="to", id="to")

    def show(self, found: Asked) -> None:
        """Show what was asked for, or what is wrong with it."""
        self.period.choices = [SelectChoice(name, _(_WORDS[name])) for name in found.choices]
        if found.refusal is None:
            self.period.data = found.choice
        else:
            forms.attach(self, found.refusal, **{"from": "since", "to": "until"})
