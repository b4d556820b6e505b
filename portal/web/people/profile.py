"""A user's own things: password, authenticator, recovery codes, open login sessions, language."""

from base64 import b64decode, b64encode
from typing import Any

from flask import Blueprint, redirect, session, url_for
from flask.typing import ResponseReturnValue
from wtforms import PasswordField, StringField

from portal.core import clock, i18n
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.common.errors import Refused
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.people import authentication, enrolment, login_sessions, two_factor
from portal.web.core import access, context, htmx
from portal.web.core.forms import Form, NewPasswordForm, attach
from portal.web.people import totp_setup
from portal.web.people.user_agents import in_words

blueprint = Blueprint("profile", __name__, url_prefix="/profile")

_NEW_SECRET = "new_authenticator"
_NEW_SECRET_MS = 10 * 60_000


class PasswordForm(NewPasswordForm):
    current = PasswordField(N_("Current password"))


class ConfirmForm(Form):
    """Asks for the password before something that a passer-by at an open screen must not do."""

    current = PasswordField(N_("Current password"))


class CodeForm(Form):
    code = StringField(N_("Code"))


@blueprint.get("")
@access.user_only
def index() -> ResponseReturnValue:
    return _page()


def _page(status: int = 200, **forms: Form) -> ResponseReturnValue:
    """The whole profile, with the form that was refused, if one was."""
    # Each form has a prefix, for all of them are on one page.
    values = {
        "password": PasswordForm(prefix="password-"),
        "authenticator": ConfirmForm(prefix="authenticator-"),
        "recovery": ConfirmForm(prefix="recovery-"),
    } | forms
    return htmx.page(
        "people/profile/page.html",
        status=status,
        **values,
        codes_left=two_factor.recovery_codes_left(context.conn(), access.user().id),
        languages=i18n.LANGUAGES.items(),
        **_sessions(),
    )


@blueprint.post("/password")
@access.user_only
def password() -> ResponseReturnValue:
    """Change the login password; the user's other sessions end."""
    form = PasswordForm(prefix="password-")
    if not form.validate_on_submit():
        return _page(422, password=form)
    try:
        authentication.change_password(
            context.conn(),
            context.actor(),
            access.user(),
            form.current.data or "",
            form.password.data or "",
            access.session_token(),
            context.config().limits.login_failures,
        )
    except Refused as refusal:
        attach(form, refusal)
        return _page(_status(refusal), password=form)
    text = _("Your password has been changed. Wherever else you were logged in, you no longer are.")
    return htmx.done(url_for("profile.index"), htmx.Toast(text))


@blueprint.post("/authenticator")
@access.user_only
def new_authenticator() -> ResponseReturnValue:
    """Begin to move to another authenticator: make a secret, which changes nothing until a code has proved it."""
    form = ConfirmForm(prefix="authenticator-")
    try:
        _confirm_password(form)
    except Refused as refusal:
        attach(form, refusal)
        return _page(_status(refusal), authenticator=form)
    # Sealed, for the cookie is signed but can be read.
    secret = two_factor.new_secret(context.keys())
    session[_NEW_SECRET] = {"sealed": b64encode(secret).decode(), "at": clock.now_ms()}
    return redirect(url_for("profile.authenticator"), 303)


@blueprint.get("/authenticator")
@access.user_only
def authenticator() -> ResponseReturnValue:
    """The new secret, and the form for its first code."""
    return _authenticator(CodeForm())


@blueprint.post("/authenticator/code")
@access.user_only
def confirm_authenticator() -> ResponseReturnValue:
    """Put the new secret into force; the old recovery codes end with the old one."""
    sealed, form = _new_secret(), CodeForm()
    if sealed is None:
        return _authenticator(form)
    try:
        codes = enrolment.replace_totp(
            context.conn(), context.keys(), context.actor(), access.user(), sealed, form.code.data or ""
        )
    except Refused as refusal:
        attach(form, refusal)
        return _authenticator(form)
    del session[_NEW_SECRET]
    return htmx.page("people/profile/codes.html", codes=codes, moved=True)


def _authenticator(form: CodeForm) -> ResponseReturnValue:
    sealed = _new_secret()
    if sealed is None:
        text = _("That took too long; nothing has been changed. Begin again.")
        return htmx.done(url_for("profile.index"), htmx.Toast(text, "warn"))
    shown = totp_setup.authenticator(sealed, access.user())
    return htmx.page(
        "people/profile/authenticator.html", form=form, authenticator=shown, status=422 if form.errors else 200
    )


def _new_secret() -> bytes | None:
    """The sealed secret that waits for its first code; None where none does, or none does any more."""
    waiting = session.get(_NEW_SECRET)
    if not waiting or not 0 <= clock.now_ms() - waiting["at"] < _NEW_SECRET_MS:
        return None
    return b64decode(waiting["sealed"])


@blueprint.post("/recovery-codes")
@access.user_only
def recovery_codes() -> ResponseReturnValue:
    """Make new recovery codes; the old ones end."""
    form = ConfirmForm(prefix="recovery-")
    try:
        _confirm_password(form)
    except Refused as refusal:
        attach(form, refusal)
        return _page(_status(refusal), recovery=form)
    codes = enrolment.renew_recovery_codes(context.conn(), context.actor(), access.user())
    return htmx.page("people/profile/codes.html", codes=codes, moved=False)


@blueprint.post("/sessions/<int:session_id>/end")
@access.user_only
def end_session(session_id: int) -> ResponseReturnValue:
    """End one of the user's own login sessions; with another user's number nothing ends, and the answer is the same."""
    login_sessions.end_session_of(context.conn(), access.user(), session_id)
    toast = htmx.Toast(_("The session was ended."))
    if htmx.wanted():
        return htmx.parts("people/profile/_sessions.html", toast=toast, **_sessions())
    return htmx.done(url_for("profile.index") + "#sessions", toast)


def _sessions() -> dict[str, Any]:
    open_ones = login_sessions.sessions(context.conn(), access.user(), access.session_token())
    return {"login_sessions": [(each, in_words(each.user_agent), this_one) for each, this_one in open_ones]}


def _confirm_password(form: ConfirmForm) -> None:
    authentication.confirm_password(
        context.conn(),
        access.user(),
        form.current.data or "",
        context.client_address(),
        context.config().limits.login_failures,
    )


def _status(refusal: Refused) -> int:
    return 429 if isinstance(refusal, TooManyAttempts) else 422
