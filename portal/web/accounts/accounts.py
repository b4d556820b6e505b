"""The list of a customer's accounts, and an account's home: SMPP settings, service status and statistics.

A new SMPP password is generated from there: confirmed first, shown once, and mailed.
"""

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, abort, g, redirect, request, url_for
from flask.typing import ResponseReturnValue
from wtforms import RadioField
from wtforms.fields.choices import SelectChoice

from portal.core import clock, i18n
from portal.core.config import bracket_ipv6
from portal.core.i18n import N_, _
from portal.services.accounts import credentials, session_records
from portal.services.accounts.accounts import Account
from portal.services.common import idempotency, periods
from portal.services.messages import refusal_remedies
from portal.services.people import customers
from portal.services.statistics import daily_totals
from portal.web.accounts.refused_lists import build_refused_row
from portal.web.core import access, brake_forms, context, htmx, live, refused_counts
from portal.web.core.forms import OnceForm, refusals_on

blueprint = Blueprint("accounts", __name__)

# The periods of the statistics, in days, and how many days the chart beside the figures shows: a chart of one bar, or
# of all time, says nothing.
_PERIODS: dict[str, tuple[str, int | None, int]] = {
    "today": (N_("Today"), 1, 7),
    "7d": (N_("7 days"), 7, 7),
    "30d": (N_("30 days"), 30, 30),
    "all": (N_("All"), None, 30),
}
_DEFAULT_PERIOD = "30d"
_MAX_REFUSED_ROWS = 3


class SmppPasswordForm(OnceForm):
    """`grace` is a key of `credentials.GRACE_PERIODS`."""

    grace = RadioField(
        N_("The old password"),
        choices=[
            SelectChoice("0", N_("stops at once")),
            SelectChoice("15m", N_("stays good for 15 minutes")),
            SelectChoice("1h", N_("stays good for 1 hour")),
            SelectChoice("24h", N_("stays good for 24 hours")),
        ],
        default="0",
        validate_choice=False,
    )


@blueprint.get("/")
@access.login_required
def list_accounts() -> ResponseReturnValue:
    """The customer's accounts; a single one is opened at once."""
    if access.get_current_user().is_operator:
        return redirect(url_for("admin_customers.list_customers"))
    own_accounts = access.list_own_accounts()
    if len(own_accounts) == 1:
        return redirect(url_for(".show_account", name=own_accounts[0].name))
    # The sidebar would repeat the list.
    return htmx.render_page("accounts/index.html", accounts=own_accounts, sidebar_accounts=[])


@blueprint.get("/accounts/<name>")
@access.account_access_required
def show_account(account: Account) -> ResponseReturnValue:
    """General information, service status, statistics; for htmx the statistics of another period."""
    if htmx.is_htmx_request():
        return htmx.render_fragments(*live.render_live_fragments(account, _STATISTICS_PART))
    return live.render_live_page("accounts/home.html", "home", account)


def require_smpp_account() -> None:
    """Answer 404 for a classic account, which has no SMPP login: before each request of a blueprint."""
    if "account" in g and g.account.kind != "smpp":
        abort(404)


# --- general information


def _smpp_settings_context(account: Account) -> dict[str, Any]:
    smpp = context.get_config().smpp
    host = bracket_ipv6(smpp.public_host or _find_reachable_host(smpp.host))
    return {
        # Of the listener with TLS and of the one without; empty where that listener is off.
        "endpoints": {
            "secured": f"{host}:{smpp.tls_port}" if smpp.tls_port else "",
            "unsecured": f"{host}:{smpp.port}" if smpp.port else "",
            "tls_minimum": smpp.tls_minimum,
        },
        "windowing": account.windowing,
        "throughput": account.throughput,
    }


def _find_reachable_host(host: str) -> str:
    try:
        is_wildcard = ip_address(host).is_unspecified
    except ValueError:
        is_wildcard = not host
    # 0.0.0.0 and :: mean all addresses of this machine; the browser has used one that works.
    url = context.get_config().web.public_url or f"//{request.host}"
    return urlsplit(url).hostname or host if is_wildcard else host


# --- service status


def _status_context(account: Account) -> dict[str, Any]:
    conn = context.get_conn()
    password = credentials.find_smpp_password_info(conn, account.id) if account.kind == "smpp" else None
    has_sessions = live.read_change_counters().open_sessions
    sessions = session_records.list_open_smpp_sessions(conn, account.id) if has_sessions else []
    tls_versions = {each.tls for each in sessions}
    return {
        "password": password,
        # On the command line there is no user; to a customer it is the operator.
        "changed_by": password.changed_by if password and "@" in password.changed_by else _("the operator"),
        # `old_password_count` of them use a password that has been replaced.
        "connected": {
            "count": len(sessions),
            "addresses": sorted({each.address for each in sessions}, key=lambda text: (":" in text, ip_address(text))),
            "tls": " ".join(tls_versions).replace("TLSv", "TLS ") if len(tls_versions) == 1 else "",
            "old_password_count": sum(1 for each in sessions if password and each.password_id != password.id),
        },
        "password_blocked_reason": password_blocked_reason(account),
    }


def password_blocked_reason(account: Account) -> str:
    """Why no new password can be generated at the moment; empty when it can."""
    reasons = {
        "WAITING_IP": _("Possible once an IP is authorised: until then nothing could connect with it."),
        "UPDATING_IP": _("Possible in a moment: the server is taking over a change."),
        "ERROR": _("Not possible while the account is disabled."),
    }
    return reasons.get(account.status, "")


# --- a new password


@blueprint.route("/accounts/<name>/password", methods=["GET", "POST"])
@access.account_change_required
def generate_password(account: Account) -> ResponseReturnValue:
    """Ask for confirmation; then generate it, mail it, and show it in that answer: the only place where it is seen."""
    form = SmppPasswordForm()
    contact = customers.get_customer_by_id(context.get_conn(), account.customer_id).contact_email
    masked_contact = customers.mask_email(contact)
    if form.is_submitted():
        with refusals_on(form):
            with idempotency.once(context.get_conn(), form.form.data):
                password = credentials.regenerate_smpp_password(
                    context.get_conn(),
                    context.get_crypto_keys(),
                    context.get_actor(),
                    account,
                    grace_ms=credentials.parse_grace_period(form.grace.data),
                    require_ready=True,
                )
            return htmx.render_dialog(
                "accounts/credentials/_shown.html",
                account,
                title=_("Your new password"),
                tab="home",
                password=password,
                contact=masked_contact,
                grace=form.grace.data,
            )
    # A new one each time: where the form was sent before, the answer asks once more.
    form.form.data = idempotency.new_idempotency_key()
    return htmx.render_dialog(
        "accounts/credentials/_ask.html",
        account,
        title=_("Generate a new password"),
        tab="home",
        form=form,
        contact=masked_contact,
        password_blocked_reason=password_blocked_reason(account),
    )


# --- statistics


def _statistics_context(account: Account) -> dict[str, Any]:
    conn = context.get_conn()
    period = request.args.get("period", "")
    period = period if period in _PERIODS else _DEFAULT_PERIOD
    _label, days, chart_days = _PERIODS[period]
    totals = daily_totals.sum_daily_totals(conn, account.id, days)
    # Days are UTC's here.
    now = clock.now_ms()
    whole = periods.parse_period(period, "", "", "UTC", now)
    return {
        "period": period,
        "periods": [(name, _(label)) for name, (label, *_days) in _PERIODS.items()],
        "totals": totals,
        "delivery_rate": i18n.format_percent(totals.delivered / totals.sent) if totals.sent else "",
        "days": [
            {"label": i18n.format_day(at), "total": each.sent, "delivered": each.delivered}
            for at, each in daily_totals.list_daily_totals(conn, account.id, chart_days)
        ],
        "refused_count": refused_counts.count_refused_messages(account, period, whole, now),
    }


# --- what was refused


def _refused_context(account: Account) -> dict[str, Any]:
    """The weightiest of what was refused in the last 24 hours, and would be refused still."""
    refused = refusal_remedies.list_weightiest_refusals(context.get_conn(), account) if account.kind == "smpp" else []
    return {
        "refused": [build_refused_row(account, each) for each in refused[:_MAX_REFUSED_ROWS] if each.text],
        "more": max(0, len(refused) - _MAX_REFUSED_ROWS),
    }


GENERAL_PART = live.LiveFragment("accounts/_general.html", _smpp_settings_context)
STATUS_PART = live.LiveFragment("accounts/_status.html", _status_context)
_ACTIONS_PART = live.LiveFragment("accounts/_actions.html")
_STATISTICS_PART = live.LiveFragment("accounts/_statistics.html", _statistics_context)
_REFUSED_PART = live.LiveFragment("accounts/_refused.html", _refused_context)
_TRAFFIC_PART = live.LiveFragment(
    "accounts/_traffic.html", brake_forms.build_traffic_values, brake_forms.read_traffic_state
)
live.register_live_page(
    "home", _TRAFFIC_PART, _REFUSED_PART, GENERAL_PART, STATUS_PART, _ACTIONS_PART, _STATISTICS_PART
)
