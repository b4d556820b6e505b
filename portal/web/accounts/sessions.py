"""An account's open SMPP sessions, and the binds that were refused."""

from typing import Any

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from portal.core import clock, i18n
from portal.core.i18n import _
from portal.services.accounts import allowed_ips, credentials, refused_binds, session_records
from portal.services.accounts.accounts import Account
from portal.services.accounts.credentials import SmppPasswordInfo
from portal.services.accounts.session_records import NoSuchSmppSession, SmppSessionRecord
from portal.services.messages import refusal_mails, refusal_remedies
from portal.web.accounts.accounts import require_smpp_account
from portal.web.accounts.refused_lists import build_refused_list
from portal.web.core import access, context, htmx, live

blueprint = Blueprint("sessions", __name__)
blueprint.before_request(require_smpp_account)

# An account without limits may have thousands, and the page is drawn every two seconds.
_MAX_SESSIONS, _MAX_REFUSED_BINDS = 50, 25
_ACTIVE_NOW_MS, _MINUTE_MS = 10_000, 60_000
GRAPH_WIDTH, GRAPH_HEIGHT = 2 * session_records.RATE_SAMPLE_COUNT, 20


@blueprint.get("/accounts/<name>/sessions")
@access.account_access_required
def list_smpp_sessions(account: Account) -> ResponseReturnValue:
    user = access.get_current_user()
    mails = None if user.is_operator else refusal_mails.has_refusal_mails_enabled(context.get_conn(), user)
    return live.render_live_page("accounts/sessions/page.html", "sessions", account, mails=mails, mails_to=user.email)


# --- ending one


@blueprint.route("/accounts/<name>/sessions/<int:session_id>/end", methods=["GET", "POST"])
@access.account_change_required
def end_smpp_session(account: Account, session_id: int) -> ResponseReturnValue:
    """Say how to keep a session's client out; once confirmed, have the SMPP server unbind it."""
    conn = context.get_conn()
    values: dict[str, Any]
    try:
        if request.method == "POST":
            ended = session_records.request_smpp_session_end(conn, context.get_actor(), account, session_id)
            return htmx.answer_done(
                url_for(".list_smpp_sessions", name=account.name),
                htmx.Toast(_("The session of %(address)s is being disconnected.", address=ended.address)),
                *live.render_live_fragments(account, _OPEN_SESSIONS_PART),
                *live.render_live_fragments(account, live.STATUS_FRAGMENT, oob=True),
            )
        session = session_records.get_open_smpp_session_by_id(conn, account.id, session_id)
        values = {"session": session, "entry": _find_sole_allowed_ip(account, session)}
    except NoSuchSmppSession as refusal:
        # Sessions end by themselves too, while the confirmation is open.
        values = {"session": None, "has_ended": refusal.localized(), "status": 422}
    return htmx.render_dialog("accounts/sessions/_end.html", account, title=_("Disconnect"), tab="sessions", **values)


def _find_sole_allowed_ip(account: Account, session: SmppSessionRecord) -> allowed_ips.AllowedIP | None:
    """The one entry of the authorised IPs without which the client could not come back, if it is a single one."""
    entries = [
        each
        for each in allowed_ips.list_allowed_ips(context.get_conn(), account.id)
        if allowed_ips.is_ip_allowed([each], session.address)
    ]
    return entries[0] if len(entries) == 1 else None


# --- mails about what was refused


@blueprint.post("/profile/refusal-mails")
@access.login_required
def set_refusal_mails() -> ResponseReturnValue:
    """Switch on or off the mails that a user gets about refused binds and messages. Form: `wanted`; `next`, a page."""
    if access.get_current_user().is_operator:
        abort(404)
    enabled = "wanted" in request.form
    refusal_mails.set_refusal_mails_enabled(context.get_conn(), access.get_current_user(), enabled)
    toast = htmx.Toast(
        _("Mails about refused binds and messages are on.")
        if enabled
        else _("Mails about refused binds and messages are off.")
    )
    return htmx.answer_done(access.get_safe_redirect_path(request.form.get("next")), toast)


# --- what the page shows


def _read_session_activity(account: Account) -> tuple[object, ...]:
    activity = session_records.list_smpp_session_activity(context.get_conn(), account.id, _MAX_SESSIONS)
    return tuple((row, _get_idle_minutes(seen_at)) for seen_at, row in activity)


def _open_sessions_context(account: Account) -> dict[str, Any]:
    conn = context.get_conn()
    password = credentials.find_smpp_password_info(conn, account.id)
    rows = [
        _build_session_row(each, password)
        for each in session_records.list_open_smpp_sessions(conn, account.id, _MAX_SESSIONS)
    ]
    return {
        "open": rows,
        "count": live.read_change_counters().open_sessions,
        "windowing": account.windowing,
        "old_password_count": sum(each["uses_old_password"] for each in rows),
        "old_until": password.old_until if password else None,
        "graph_size": (GRAPH_WIDTH, GRAPH_HEIGHT),
        "is_server_alive": session_records.is_component_alive(conn, "smsc"),
    }


def _build_session_row(session: SmppSessionRecord, password: SmppPasswordInfo | None) -> dict[str, Any]:
    """An open session as the page shows it; `uses_old_password`: a password that has been replaced."""
    return {
        "session": session,
        "bind_type": _(session_records.BIND_TYPES[session.bind_type]),
        "rate_graph": _draw_rate_graph(session.rate_samples),
        "last_active": _format_last_active(session),
        "uses_old_password": password is not None and session.password_id != password.id,
    }


def _draw_rate_graph(rates: tuple[float, ...]) -> dict[str, str]:
    """A session's latest rates as the outline of an SVG path, and in words the rate now and the highest one.

    The latest is at the right; the highest one takes the whole height.
    """
    peak = max(rates, default=0.0)
    missing_count = session_records.RATE_SAMPLE_COUNT - len(rates)
    path = f"M{2 * missing_count} {GRAPH_HEIGHT}"
    for position, each in enumerate(rates, missing_count + 1):
        # The smallest rate above 0 stays visible.
        height = max(1, round(each / peak * GRAPH_HEIGHT)) if each else 0
        path += f"V{GRAPH_HEIGHT - height}H{2 * position}"
    now = rates[-1] if rates else 0.0
    outline = f"{path}V{GRAPH_HEIGHT}z" if rates else ""
    return {"path": outline, "now": i18n.format_number(now), "peak": i18n.format_number(peak)}


def _get_idle_minutes(seen_at: int) -> int:
    """Whole minutes since the last activity; -1: it is active now."""
    idle = clock.now_ms() - seen_at
    return -1 if idle < _ACTIVE_NOW_MS else idle // _MINUTE_MS


def _format_last_active(session: SmppSessionRecord) -> str:
    minutes = _get_idle_minutes(session.seen_at)
    if minutes < 0:
        return _("now")
    now = clock.now_ms()
    return i18n.format_relative_time(now - minutes * _MINUTE_MS, now) if minutes else _("less than a minute ago")


def _refused_binds_context(account: Account) -> dict[str, Any]:
    since = clock.now_ms() - refused_binds.SHOWN_MS
    refused = refusal_remedies.list_explained_refusals(
        context.get_conn(), account, since, is_bind=True, most=refusal_remedies.MANY
    )
    return {"list": build_refused_list(account, refused, _MAX_REFUSED_BINDS, has_addresses=True)}


_OPEN_SESSIONS_PART = live.LiveFragment("accounts/sessions/_open.html", _open_sessions_context, _read_session_activity)
live.register_live_page(
    "sessions", _OPEN_SESSIONS_PART, live.LiveFragment("accounts/sessions/_attempts.html", _refused_binds_context)
)
