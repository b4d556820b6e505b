"""Who is connected, and who was turned away."""

from dataclasses import dataclass
from typing import Any

from flask import Blueprint, abort, request, url_for
from flask.typing import ResponseReturnValue

from portal.core import clock, i18n
from portal.core.i18n import gettext as _
from portal.services.accounts import allowed_ips, credentials, refusal_mails, refused_binds, session_records
from portal.services.accounts.accounts import Account
from portal.services.accounts.change_counters import Pulse
from portal.services.accounts.credentials import PasswordInfo
from portal.services.accounts.refused_binds import Refusals
from portal.services.accounts.session_records import Connection, NoSuchSession
from portal.web.accounts.accounts import needs_authorising
from portal.web.core import access, context, htmx, live
from portal.web.core.htmx import Toast
from portal.web.core.live import Part

blueprint = Blueprint("sessions", __name__)

# An account without limits may have thousands, and the page is drawn every two seconds.
_MOST_SESSIONS, _MOST_ATTEMPTS = 50, 25
_NOW_MS, _MINUTE_MS = 10_000, 60_000
GRAPH_WIDTH, GRAPH_HEIGHT = 2 * session_records.RATES_KEPT, 20


@dataclass(frozen=True, slots=True)
class Graph:
    """A session's latest rates: the outline of an SVG path, and in words the rate now and the highest one."""

    path: str
    now: str
    most: str


@dataclass(frozen=True, slots=True)
class Row:
    """An open session in the reader's words; `old`: it uses a password that has been replaced."""

    session: Connection
    bind: str
    graph: Graph
    active: str
    old: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """Refused binds of one address for one reason, in plain words.

    `remedy` is "authorise", "password", or empty where no button mends it; `mended`: nothing would refuse it now.
    """

    refusal: Refusals
    reason: str
    remedy: str
    mended: bool


@blueprint.get("/accounts/<name>/sessions")
@access.see_account
def listed(account: Account) -> ResponseReturnValue:
    _only_smpp(account)
    return live.show("accounts/sessions/page.html", "sessions", account, **_mails())


# --- ending one


@blueprint.get("/accounts/<name>/sessions/<int:session_id>/end")
@access.change_account
def ask(account: Account, session_id: int) -> ResponseReturnValue:
    """The question before a session is ended, and what keeps its client out."""
    _only_smpp(account)
    try:
        session = session_records.by_id(context.conn(), account.id, session_id)
    except NoSuchSession as refusal:
        return _has_ended(account, refusal)
    return _question(account, session=session, entry=_only_entry(account, session))


@blueprint.post("/accounts/<name>/sessions/<int:session_id>/end")
@access.change_account
def end(account: Account, session_id: int) -> ResponseReturnValue:
    """Have the SMPP server unbind a session."""
    _only_smpp(account)
    try:
        session = session_records.end(context.conn(), context.actor(), account, session_id)
    except NoSuchSession as refusal:
        return _has_ended(account, refusal)
    toast = Toast(_("The session of %(address)s is being disconnected.", address=session.address))
    if not htmx.wanted():
        return htmx.done(url_for(".listed", name=account.name), toast)
    around = live.draw(account, live.STATUS, oob=True)
    return htmx.parts(*live.draw(account, _OPEN).values(), *around.values(), toast=toast, changed=True)


def _question(account: Account, status: int = 200, **values: Any) -> ResponseReturnValue:
    return htmx.dialog(
        "accounts/sessions/_end.html",
        account,
        title=_("Disconnect"),
        tab="sessions",
        status=status,
        **({"session": None} | values),
    )


def _has_ended(account: Account, refusal: NoSuchSession) -> ResponseReturnValue:
    """Sessions end by themselves too, while somebody is asked about them."""
    return _question(account, status=422, has_ended=refusal.localized())


def _only_entry(account: Account, session: Connection) -> allowed_ips.AllowedIP | None:
    """The one entry of the authorised IPs without which the client could not come back, if there is such a one."""
    entries = [
        each
        for each in allowed_ips.of_account(context.conn(), account.id)
        if allowed_ips.permits([each], session.address)
    ]
    return entries[0] if len(entries) == 1 else None


# --- mails about refused attempts


@blueprint.post("/profile/refusal-mails")
@access.user_only
def mails() -> ResponseReturnValue:
    """Switch on or off the mails that a user gets about refused attempts. Form: `wanted`; `next`, a page."""
    if access.user().is_operator:
        abort(404)
    want = "wanted" in request.form
    refusal_mails.choose(context.conn(), access.user(), want)
    toast = Toast(_("Mails about refused attempts are on.") if want else _("Mails about refused attempts are off."))
    if htmx.wanted():
        return htmx.parts("", toast=toast)
    return htmx.done(access.safe_next(request.form.get("next")), toast)


def _mails() -> dict[str, Any]:
    user = access.user()
    if user.is_operator:
        return {"mails": None}
    return {"mails": refusal_mails.wanted(context.conn(), user), "mails_to": user.email}


# --- what the page shows


def _only_smpp(account: Account) -> None:
    if account.kind != "smpp":
        abort(404)


def _follows_open(account: Account, pulse: Pulse) -> tuple[Any, ...]:
    moving = session_records.motion(context.conn(), account.id, _MOST_SESSIONS) if pulse.sessions else []
    ages = tuple(_minutes_idle(seen_at) for seen_at, _row in moving)
    return pulse.settings, pulse.graces, pulse.sessions, tuple(moving), ages


def _open(account: Account, pulse: Pulse) -> dict[str, Any]:
    conn = context.conn()
    password = credentials.info(conn, account.id)
    rows = [_row(each, password) for each in session_records.of_account(conn, account.id, _MOST_SESSIONS)]
    return {
        "open": rows,
        "count": pulse.sessions,
        "windowing": account.windowing,
        "old": sum(each.old for each in rows),
        "old_until": password.old_until if password else None,
        "graph_size": (GRAPH_WIDTH, GRAPH_HEIGHT),
        "answers": session_records.alive(conn, "smsc"),
    }


def _row(session: Connection, password: PasswordInfo | None) -> Row:
    return Row(
        session,
        _(session_records.BIND_TYPES[session.bind_type]),
        graph(session.rates),
        _active(session),
        old=password is not None and session.password_id != password.id,
    )


def graph(rates: tuple[float, ...]) -> Graph:
    """Draw a session's rates, the latest at the right; the highest one takes the whole height."""
    most = max(rates, default=0.0)
    before = session_records.RATES_KEPT - len(rates)
    path = f"M{2 * before} {GRAPH_HEIGHT}"
    for number, each in enumerate(rates, before + 1):
        # What is not nothing can be seen.
        height = max(1, round(each / most * GRAPH_HEIGHT)) if each else 0
        path += f"V{GRAPH_HEIGHT - height}H{2 * number}"
    now = rates[-1] if rates else 0.0
    return Graph(f"{path}V{GRAPH_HEIGHT}z" if rates else "", i18n.decimal(now), i18n.decimal(most))


def _minutes_idle(seen_at: int) -> int:
    """-1: not even for a moment."""
    idle = clock.now_ms() - seen_at
    return -1 if idle < _NOW_MS else idle // _MINUTE_MS


def _active(session: Connection) -> str:
    minutes = _minutes_idle(session.seen_at)
    if minutes < 0:
        return _("now")
    now = clock.now_ms()
    return i18n.relative(now - minutes * _MINUTE_MS, now) if minutes else _("less than a minute ago")


def _attempts(account: Account, pulse: Pulse) -> dict[str, Any]:
    conn = context.conn()
    entries = allowed_ips.of_account(conn, account.id)
    password = credentials.info(conn, account.id)
    refusals = refused_binds.refusals(conn, account.id)
    return {
        "attempts": [_attempt(each, entries, password) for each in refusals[:_MOST_ATTEMPTS]],
        "more": max(0, len(refusals) - _MOST_ATTEMPTS),
    }


def _attempt(refusal: Refusals, entries: list[allowed_ips.AllowedIP], password: PasswordInfo | None) -> Attempt:
    if refusal.reason in (refused_binds.NOT_AUTHORISED, refused_binds.NO_IP):
        missing = needs_authorising(refusal, entries)
        return Attempt(refusal, _reason(refusal), "authorise" if missing else "", mended=not missing)
    if refusal.reason in (refused_binds.WRONG_PASSWORD, refused_binds.REPLACED_PASSWORD):
        # A newer one has been made since: it only has to reach the client.
        stale = password is not None and password.changed_at > refusal.last_at
        return Attempt(refusal, _reason(refusal), "" if stale else "password", mended=False)
    return Attempt(refusal, _reason(refusal), "", mended=False)


def _reason(refusal: Refusals) -> str:
    if refusal.reason == refused_binds.REPLACED_PASSWORD and refusal.replaced_at is not None:
        when = i18n.clock(refusal.replaced_at, clock.now_ms(), context.config().timezone)
        return _("The password it uses was replaced (%(when)s).", when=when)
    return _(refused_binds.REASONS[refusal.reason])


_OPEN = Part("accounts/sessions/_open.html", _follows_open, _open, ages=True)
live.register(
    "sessions",
    _OPEN,
    Part(
        "accounts/sessions/_attempts.html",
        lambda account, pulse: (pulse.refusals, pulse.latest_refusal, pulse.settings, pulse.authorised),
        _attempts,
        ages=True,
    ),
)
