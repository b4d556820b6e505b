"""Who is connected, and who was turned away."""

from dataclasses import dataclass
from typing import Any

from flask import Blueprint, abort
from flask.typing import ResponseReturnValue

from portal.i18n import N_
from portal.i18n import gettext as _
from portal.services import allowed_ips, connections, credentials
from portal.services.accounts import Account
from portal.services.connections import Refusals
from portal.services.live import Pulse
from portal.web import access, context, live
from portal.web.accounts import needs_authorising
from portal.web.live import Part

blueprint = Blueprint("sessions", __name__)

_REASONS = {
    connections.WRONG_PASSWORD: N_("The password was wrong. Check it in the client, or generate a new one."),
    connections.NOT_AUTHORISED: N_("It is not an authorised IP."),
    connections.NO_IP: N_("No IP was authorised yet."),
    connections.ACCOUNT_DISABLED: N_("The account was disabled."),
    connections.CLASSIC: N_("This is a classic account, which has no SMPP login."),
    connections.TOO_MANY_BINDS: N_("As many sessions as the account may have were open already."),
    connections.THROTTLED: N_("Too many attempts had failed within a minute; the next ones were not looked at."),
}
_BIND_TYPES = {
    "transceiver": N_("Transceiver"),
    "transmitter": N_("Transmitter"),
    "receiver": N_("Receiver"),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """Refused binds of one address for one reason, in plain words; `mended`: nothing would refuse it now."""

    refusal: Refusals
    reason: str
    remedy: bool
    mended: bool


@blueprint.get("/accounts/<name>/sessions")
@access.see_account
def listed(account: Account) -> ResponseReturnValue:
    if account.kind != "smpp":
        abort(404)
    return live.show("sessions/page.html", "sessions", account)


def _open(account: Account, pulse: Pulse) -> dict[str, Any]:
    conn = context.conn()
    password = credentials.info(conn, account.id)
    return {
        "open": connections.of_account(conn, account.id),
        "bind_types": {name: _(label) for name, label in _BIND_TYPES.items()},
        "windowing": account.windowing,
        "password_id": password.id if password else 0,
    }


def _attempts(account: Account, pulse: Pulse) -> dict[str, Any]:
    conn = context.conn()
    entries = allowed_ips.of_account(conn, account.id)
    return {"attempts": [_attempt(each, entries) for each in connections.refusals(conn, account.id)]}


def _attempt(refusal: Refusals, entries: list[allowed_ips.AllowedIP]) -> Attempt:
    remedy = needs_authorising(refusal, entries)
    about_addresses = refusal.reason in (connections.NOT_AUTHORISED, connections.NO_IP)
    reason = _(_REASONS.get(refusal.reason, N_("The server refused it.")))
    return Attempt(refusal, reason, remedy, mended=about_addresses and not remedy)


live.register(
    "sessions",
    Part(
        "sessions/_open.html",
        lambda account, pulse: (
            pulse.settings,
            pulse.sessions,
            pulse.latest_session,
            pulse.submitted,
            pulse.delivered,
            pulse.in_flight,
        ),
        _open,
        ages=True,
    ),
    Part(
        "sessions/_attempts.html",
        lambda account, pulse: (pulse.refusals, pulse.latest_refusal, pulse.settings, pulse.authorised),
        _attempts,
        ages=True,
    ),
)
