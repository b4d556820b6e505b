"""Logging in and out, and enrolment by a one-time link."""

from flask import Blueprint, Response, make_response, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_user
from wtforms import PasswordField, StringField

from portal.core import clock
from portal.core.i18n import N_
from portal.core.i18n import gettext as _
from portal.services.common.errors import Refused
from portal.services.common.rate_limit import TooManyAttempts
from portal.services.people import authentication, enrolment, login_sessions, users
from portal.services.people.users import User
from portal.web.core import access, context, htmx
from portal.web.core.forms import Form, NewPasswordForm, attach
from portal.web.people import totp_setup

blueprint = Blueprint("login", __name__)

# Between password and code.
_PENDING_MS = 5 * 60_000
_PENDING = "pending_login"


class LoginForm(Form):
    email = StringField(N_("E-mail address"))
    password = PasswordField(N_("Password"))


class CodeForm(Form):
    code = StringField(N_("Code"))
    recovery = StringField(N_("Recovery code"))


class EnrolForm(NewPasswordForm):
    email = StringField(N_("E-mail address"))
    code = StringField(N_("Code"))


@blueprint.route("/login", methods=["GET", "POST"])
@access.public
def login() -> ResponseReturnValue:
    """The first step: e-mail address and password."""
    if current_user.is_authenticated:
        return redirect(access.safe_next(request.args.get("next")), 303)
    form = LoginForm()
    if request.method == "GET":
        return htmx.plain_page("people/login/page.html", form=form)
    try:
        user = authentication.check_login(
            context.conn(),
            form.email.data or "",
            form.password.data or "",
            context.client_address(),
            context.config().limits.login_failures,
        )
    except Refused as refusal:
        return htmx.plain_page("people/login/page.html", form=form, error=refusal.localized(), status=_status(refusal))
    session[_PENDING] = {"user": user.id, "at": clock.now_ms()}
    return redirect(url_for("login.totp", next=request.args.get("next")), 303)


@blueprint.route("/login/totp", methods=["GET", "POST"])
@access.public
def totp() -> ResponseReturnValue:
    """The second step: a code of the authenticator, or a recovery code."""
    user = _pending_user()
    if user is None:
        return redirect(url_for("login.login", next=request.args.get("next")), 303)
    form = CodeForm()
    if request.method == "GET":
        return htmx.plain_page("people/login/totp.html", form=form)
    try:
        authentication.check_second_step(
            context.conn(),
            context.keys(),
            user,
            form.recovery.data or form.code.data or "",
            context.client_address(),
            context.config().limits.login_failures,
        )
    except Refused as refusal:
        field = form.recovery if form.recovery.data else form.code
        field.errors = [refusal.localized()]
        return htmx.plain_page("people/login/totp.html", form=form, status=_status(refusal))
    _begin(user)
    return redirect(access.safe_next(request.args.get("next")), 303)


@blueprint.post("/logout")
@access.user_only
def logout() -> ResponseReturnValue:
    """End this login session, on the server too: a copy of its cookie is worth nothing afterwards."""
    login_sessions.end_session(context.conn(), access.session_token())
    _forget()
    return htmx.done(url_for("login.login"), htmx.Toast(_("You have logged out.")))


@blueprint.route("/enrol/<token>", endpoint="enrol", methods=["GET", "POST"])
@blueprint.route("/setup/<token>", endpoint="setup", methods=["GET", "POST"])
@access.public
def enrol(token: str) -> ResponseReturnValue:
    """Choose a password and prove an authenticator, once, by the link that a user was given."""
    conn = context.conn()
    try:
        user = enrolment.of_link(conn, token)
    except enrolment.LinkInvalid as refusal:
        return _dead_link(refusal)
    form = EnrolForm()
    if not form.validate_on_submit():
        return _enrolment(user, form)
    try:
        codes = enrolment.enrol(
            conn, context.keys(), token, form.password.data or "", form.code.data or "", context.client_address()
        )
    except enrolment.LinkInvalid as refusal:
        return _dead_link(refusal)
    except Refused as refusal:
        attach(form, refusal)
        return _enrolment(user, form)
    # Who opened the link may have been somebody else until now; what follows is the new user's login.
    if current_user.is_authenticated:
        login_sessions.end_session(conn, access.session_token())
    _forget()
    return _discreet(htmx.plain_page("people/enrol/codes.html", codes=codes))


def _enrolment(user: User, form: EnrolForm) -> Response:
    form.email.data = user.email
    authenticator = totp_setup.authenticator(enrolment.totp_secret(context.conn(), user), user)
    status = 422 if form.errors else 200
    return _discreet(htmx.plain_page("people/enrol/page.html", form=form, authenticator=authenticator, status=status))


def _dead_link(refusal: enrolment.LinkInvalid) -> Response:
    heading = _("This link is no longer good")
    return _discreet(htmx.plain_page("error.html", heading=heading, explanation=refusal.localized(), status=404))


def _discreet(answer: ResponseReturnValue) -> Response:
    """The address holds a token: not even our own pages learn it from a referrer.

    Not `no-referrer`, which would keep the form from being sent: behind https flask-wtf wants to see the origin.
    """
    response = make_response(answer)
    response.headers["Referrer-Policy"] = "strict-origin"
    return response


def _status(refusal: Refused) -> int:
    return 429 if isinstance(refusal, TooManyAttempts) else 401


def _pending_user() -> User | None:
    """Who has given the password, and may now give the code."""
    pending = session.get(_PENDING)
    if not pending or not 0 <= clock.now_ms() - pending["at"] < _PENDING_MS:
        return None
    try:
        return users.by_id(context.conn(), pending["user"])
    except users.NoSuchUser:
        return None


def _begin(user: User) -> None:
    # A cookie that somebody planted before the login (session fixation) must not become the login's.
    _forget()
    user_agent = request.headers.get("User-Agent", "")
    token = login_sessions.start_session(context.conn(), user, context.client_address(), user_agent)
    login_user(access.LoggedIn(user, token))


def _forget() -> None:
    """Empty the browser's session, but for the language, which belongs to whoever sits there."""
    language = session.get("language")
    session.clear()
    if language:
        session["language"] = language
