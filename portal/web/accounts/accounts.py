"""Choosing an account, and its home: what a client needs, whether it works, and what has passed."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from flask import Blueprint, redirect, request, url_for
from flask.typing import ResponseReturnValue

from portal.core import clock, i18n
from portal.core.i18n import gettext as _
from portal.services.accounts import allowed_ips, credentials, refused_binds, session_records
from portal.services.accounts.accounts import Account
from portal.services.accounts.change_counters import Pulse
from portal.services.accounts.credentials import PasswordInfo
from portal.services.accounts.refused_binds import Refusals
from portal.services.accounts.session_records import Connection
from portal.services.statistics import daily_totals
from portal.services.statistics.daily_totals import Counts
from portal.web.accounts import endpoints
from portal.web.core import access, context, htmx, layout, live
from portal.web.core.live import Part

blueprint = Blueprint("accounts", __name__)

# The periods of the statistics in days, and how many days the chart beside the figures shows: a chart of one bar, or of
# all time, says nothing.
_PERIODS: dict[str, tuple[int | None, int]] = {"today": (1, 7), "7d": (7, 7), "30d": (30, 30), "all": (None, 30)}
_DEFAULT_PERIOD = "30d"


@blueprint.get("/")
@access.user_only
def index() -> ResponseReturnValue:
    """The customer's accounts; a single one is opened at once."""
    if access.user().is_operator:
        return redirect(url_for("admin_customers.list_customers"))
    own = access.own_accounts()
    if len(own) == 1:
        return redirect(url_for(".home", name=own[0].name))
    # The list at the side would say the same once more.
    return htmx.page("accounts/index.html", accounts=[layout.account_view(each) for each in own], sidebar_accounts=[])


@blueprint.get("/accounts/<name>")
@access.see_account
def home(account: Account) -> ResponseReturnValue:
    """General information, service status, statistics; for htmx the statistics of another period."""
    if htmx.wanted():
        return htmx.parts(*live.draw(account, _STATISTICS).values())
    return live.show("accounts/home.html", "home", account)


# --- general information


def _general_information(account: Account, pulse: Pulse) -> dict[str, Any]:
    return {"endpoints": endpoints.shown(), "windowing": account.windowing, "throughput": account.throughput}


# --- service status


@dataclass(frozen=True, slots=True)
class Connected:
    """The open sessions in a nutshell; `old` of them use a password that has been replaced."""

    count: int
    addresses: list[str]
    tls: str
    old: int


def _service_status(account: Account, pulse: Pulse) -> dict[str, Any]:
    conn = context.conn()
    password = credentials.info(conn, account.id) if account.kind == "smpp" else None
    sessions = session_records.of_account(conn, account.id) if pulse.sessions else []
    return {
        "password": password,
        "changed_by": _author(password),
        "connected": _connected(sessions, password),
        "why_not": why_no_password(account),
    }


def _author(password: PasswordInfo | None) -> str:
    # A command of the shell has no name; to a customer it is whoever runs the portal.
    return password.changed_by if password and "@" in password.changed_by else _("the operator")


def _connected(sessions: list[Connection], password: PasswordInfo | None) -> Connected:
    secured = {each.tls for each in sessions}
    return Connected(
        count=len(sessions),
        addresses=sorted({each.address for each in sessions}, key=lambda text: (":" in text, ip_address(text))),
        tls=" ".join(secured).replace("TLSv", "TLS ") if len(secured) == 1 else "",
        old=sum(1 for each in sessions if password and each.password_id != password.id),
    )


def why_no_password(account: Account) -> str:
    """Why no new password can be generated at the moment; empty when it can."""
    reasons = {
        "WAITING_IP": _("Possible once an IP is authorised: until then nothing could connect with it."),
        "UPDATING_IP": _("Possible in a moment: the server is taking over a change."),
        "ERROR": _("Not possible while the account is disabled."),
    }
    return reasons.get(account.status, "")


# --- statistics


@dataclass(frozen=True, slots=True)
class Day:
    """A bar of the chart."""

    label: str
    total: int
    delivered: int


def _statistics(account: Account, pulse: Pulse) -> dict[str, Any]:
    conn = context.conn()
    period = request.args.get("period", "")
    period = period if period in _PERIODS else _DEFAULT_PERIOD
    days, charted = _PERIODS[period]
    by_day = daily_totals.per_day(conn, account.id, charted)
    totals = (
        daily_totals.totals(conn, account.id, None) if days is None else _sum([each for _day, each in by_day[-days:]])
    )
    return {
        "period": period,
        "periods": [
            ("today", _("Today")),
            ("7d", _("7 days")),
            ("30d", _("30 days")),
            ("all", _("All")),
        ],
        "totals": totals,
        "delivery_rate": i18n.percent(totals.delivered / totals.sent) if totals.sent else "",
        "days": [Day(i18n.day(at), each.sent, each.delivered) for at, each in by_day],
    }


def _sum(totals: list[Counts]) -> Counts:
    return Counts(
        sent=sum(each.sent for each in totals),
        delivered=sum(each.delivered for each in totals),
        failed=sum(each.failed for each in totals),
        stopped=sum(each.stopped for each in totals),
        refused=sum(each.refused for each in totals),
    )


# --- refused clients


def _refused(account: Account, pulse: Pulse) -> dict[str, Any]:
    return {"refused": _latest_refused(account) if pulse.refusals else None}


def _latest_refused(account: Account) -> Refusals | None:
    """The latest address that only needs to be put on the list."""
    conn = context.conn()
    entries = allowed_ips.of_account(conn, account.id)
    return next(
        (each for each in refused_binds.refusals(conn, account.id) if needs_authorising(each, entries)),
        None,
    )


def needs_authorising(refusal: Refusals, entries: list[allowed_ips.AllowedIP]) -> bool:
    """Whether the refused client would get in if its address were on the list."""
    missing = refusal.reason in (refused_binds.NOT_AUTHORISED, refused_binds.NO_IP)
    return missing and not allowed_ips.permits(entries, refusal.address)


GENERAL = Part(
    "accounts/_general.html",
    lambda account, pulse: (account.windowing, account.throughput, endpoints.shown()),
    _general_information,
)
STATUS = Part(
    "accounts/_status.html",
    lambda account, pulse: (account.status, pulse.settings, pulse.graces, pulse.sessions, pulse.latest_session),
    _service_status,
    ages=True,
)
_ACTIONS = Part("accounts/_actions.html", lambda account, pulse: None)
_STATISTICS = Part(
    "accounts/_statistics.html",
    lambda account, pulse: (account.balance, pulse.totals, clock.now_ms() // clock.DAY_MS),
    _statistics,
    asks=("period",),
)
_REFUSED = Part(
    "accounts/_refused.html",
    lambda account, pulse: (pulse.refusals, pulse.latest_refusal, pulse.settings, pulse.authorised),
    _refused,
    ages=True,
)
live.register("home", _REFUSED, GENERAL, STATUS, _ACTIONS, _STATISTICS)
