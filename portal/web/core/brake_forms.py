"""The form of brakes: operators have one for an account, and its owner has one that can only be stricter."""

from collections.abc import Hashable, Mapping
from types import TracebackType
from typing import Any

from flask import abort
from wtforms import HiddenField, SelectField, StringField
from wtforms.fields.choices import SelectChoice

from portal.core import i18n
from portal.core.i18n import N_, gettext
from portal.services.accounts.accounts import Account
from portal.services.brakes import brakes, unusual_traffic
from portal.services.brakes.brakes import Brakes, BrakesChangedMeanwhile
from portal.services.common import credit_amounts
from portal.services.routing import sending_delays
from portal.services.statistics import daily_totals
from portal.web.core import access, context
from portal.web.core.forms import TranslatedForm, refusals_on


def _declare_reactions(labels: Mapping[str, str]) -> SelectField:
    return SelectField(N_("Unusual traffic"), choices=[SelectChoice(*each) for each in labels.items()])


class BrakesForm(TranslatedForm):
    """`seen`: the fingerprint of what was set when it was drawn."""

    found: Brakes | None = None
    """What somebody else has set meanwhile, so that this was refused."""

    countries = StringField(N_("Countries"))
    day_messages = StringField(N_("Most messages a day"))
    day_credits = StringField(N_("Most credits a day"))
    hour_messages = StringField(N_("Most messages an hour to one number"))
    unusual = _declare_reactions(brakes.REACTION_TEXTS)
    seen = HiddenField()

    def to_brakes(self) -> Brakes:
        """What was typed.

        Raises:
            InvalidCountry, InvalidBrakeLimit, InvalidAmount
        """
        if self.unusual.data not in brakes.REACTIONS:
            abort(400)
        return Brakes(
            brakes.parse_countries(self.countries.data),
            brakes.parse_limit("day_messages", self.day_messages.data),
            credit_amounts.parse_amount_or_zero(self.day_credits.data.strip() or "0") or None,
            brakes.parse_limit("hour_messages", self.hour_messages.data),
            self.unusual.data,
        )


class OwnBrakesForm(BrakesForm):
    """An owner's: there the mildest choice means what the operator has chosen."""

    unusual = _declare_reactions(brakes.REACTION_TEXTS | {brakes.OFF: N_("As the operator has chosen")})


class brake_refusals_on(refusals_on):
    """As `refusals_on`; where somebody else has set brakes meanwhile, the form shows those, and replaces them the next
    time.
    """

    def __init__(self, form: BrakesForm) -> None:
        super().__init__(form, amount="day_credits")
        self._brakes_form = form

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> bool:
        if isinstance(error, BrakesChangedMeanwhile):
            self._brakes_form.found, self._brakes_form.seen.data = error.found, error.found.fingerprint
        return super().__exit__(kind, error, traceback)


def draw_form(form_class: type[BrakesForm], shown: Brakes) -> BrakesForm:
    """A form that shows these brakes."""
    return form_class(
        formdata=None,
        data={
            "countries": brakes.format_countries(shown.countries),
            "day_messages": shown.day_messages or "",
            "day_credits": "" if shown.day_credits is None else i18n.format_credits(shown.day_credits),
            "hour_messages": shown.hour_messages or "",
            "unusual": shown.unusual,
            "seen": shown.fingerprint,
        },
    )


def build_brakes_values(account: Account) -> dict[str, Any]:
    """What `_brakes_in_force.html` shows: the brakes in force, and what was sent today."""
    in_force = brakes.get_brakes(context.get_conn(), account.id).in_force
    return {
        "in_force": in_force,
        "reaction": gettext(brakes.REACTION_TEXTS[in_force.unusual]),
        "today": daily_totals.sum_daily_totals(context.get_conn(), account.id, 1),
    }


def build_traffic_values(account: Account) -> dict[str, Any]:
    """What `_traffic.html` shows: what keeps messages waiting, what is unusual, and whether the account is held."""
    conn = context.get_conn()
    return {
        "events": [each for each in unusual_traffic.list_open_events(conn, account.id) if not each.answer],
        "delays": {each.kind: each.since for each in sending_delays.list_sending_delays(conn, account.id)},
        "is_operator": access.get_current_user().is_operator,
        "is_held": unusual_traffic.is_held_by_brake(conn, account.id),
    }


def read_traffic_state(account: Account) -> Hashable:
    """What `_traffic.html` changes with; read at each poll."""
    conn = context.get_conn()
    events = unusual_traffic.list_open_events(conn, account.id)
    delays = sending_delays.list_sending_delays(conn, account.id)
    return tuple((each.id, each.answer) for each in events), tuple(delays)
