"""Logging in and out, and enrolment by a one-time link."""

from flask import Blueprint, Response, make_response, redirect, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_user
from flask_wtf.csrf import CSRFError
from wtforms import PasswordField, StringField

from portal.core import clock
from portal.core.i18n import N_, _
from portal.services.people import authentication, users
from portal.services.people.users import User
from portal.web.core import access, context, errors, htmx
from portal.web.core.forms import NewPasswordForm, TranslatedForm, refusals_on
from portal.web.people import totp_setup

blueprint = Blueprint("login", __name__)

# Between password and code.
_PENDING_LOGIN_MS = 5 * 60_000
_PENDING_LOGIN_KEY = "pending_login"


class LoginForm(TranslatedForm):
    refused_status = 401

    email = StringField(N_("E-mail address"))
    password = PasswordField(N_("Password"))


class SecondFactorForm(TranslatedForm):
    refused_status = 401

    code = StringField(N_("Code"))
    recovery = StringField(N_("Recovery code"))


class EnrolForm(NewPasswordForm):
    email = StringField(N_("E-mail address"))
    code = StringField(N_("Code"))


@blueprint.route("/login", methods=["GET", "POST"])
@access.public_view
def login() -> ResponseReturnValue:
    """The first step: e-mail address and password."""
    if current_user.is_authenticated:
        return redirect(access.get_safe_redirect_path(request.args.get("next")), 303)
    form = LoginForm()
    if request.method == "GET":
        return htmx.render_plain_page("people/login/page.html", form=form, notice=errors.take_login_notice())
    # Over the form, at none of its fields: either may be wrong.
    with refusals_on(form, email=""):
        user = authentication.check_login(
            context.get_conn(),
            form.email.data,
            form.password.data,
            context.get_client_address(),
            context.get_config().limits.login_failures,
        )
        session[_PENDING_LOGIN_KEY] = {"user": user.id, "at": clock.now_ms()}
        return redirect(url_for("login.verify_second_factor", next=request.args.get("next")), 303)
    return htmx.render_plain_page("people/login/page.html", form=form)


@blueprint.route("/login/totp", methods=["GET", "POST"])
@access.public_view
def verify_second_factor() -> ResponseReturnValue:
    """The second step: a code of the authenticator, or a recovery code."""
    user = _find_user_awaiting_code()
    if user is None:
        return errors.lead_to_first_step()
    form = SecondFactorForm()
    if request.method == "POST":
        used_field = "recovery" if form.recovery.data else "code"
        # Whatever is wrong stands at the field that was used.
        with refusals_on(form, **dict.fromkeys(("code", "recovery", ""), used_field)):
            authentication.check_second_factor(
                context.get_conn(),
                context.get_crypto_keys(),
                user,
                form[used_field].data,
                context.get_client_address(),
                context.get_config().limits.login_failures,
            )
            _start_login_session(user)
            return redirect(access.get_safe_redirect_path(request.args.get("next")), 303)
    return htmx.render_plain_page("people/login/totp.html", form=form)


@blueprint.errorhandler(CSRFError)
def _handle_csrf_error(error: CSRFError) -> ResponseReturnValue:
    """A login form whose cookie has gone is shown again; where another tab has logged in meanwhile, that is enough."""
    is_login = request.endpoint in ("login.login", "login.verify_second_factor")
    if not is_login or not errors.is_stale(error):
        return errors.handle_csrf_error(error)
    if current_user.is_authenticated:
        return redirect(access.get_safe_redirect_path(request.args.get("next")), 303)
    if request.endpoint == "login.verify_second_factor":
        return errors.lead_to_first_step()
    form = LoginForm()
    form.form_errors.append(
        _("This page was out of date. Enter your password once more; your browser has to accept cookies.")
    )
    return htmx.render_plain_page("people/login/page.html", form=form, status=422)


@blueprint.post("/logout")
@access.login_required
def logout() -> ResponseReturnValue:
    """End this login session, on the server too: a copy of its cookie is worth nothing afterwards."""
    authentication.end_login_session(context.get_conn(), access.get_session_token())
    _clear_browser_session()
    return htmx.redirect_after_post(url_for("login.login"), htmx.Toast(_("You have logged out.")))


@blueprint.route("/enrol/<token>", endpoint="enrol", methods=["GET", "POST"])
@blueprint.route("/setup/<token>", endpoint="setup", methods=["GET", "POST"])
@access.public_view
def enrol(token: str) -> ResponseReturnValue:
    """Choose a password and prove an authenticator, once, by the link that a user was given."""
    conn, form = context.get_conn(), EnrolForm()
    if form.validate_on_submit():
        with refusals_on(form):
            codes = authentication.enrol_by_link(
                conn, context.get_crypto_keys(), token, form.password.data, form.code.data, context.get_client_address()
            )
            # The browser may have been logged in as somebody else; what follows is the new user's login.
            if current_user.is_authenticated:
                authentication.end_login_session(conn, access.get_session_token())
            _clear_browser_session()
            return _restrict_referrer(htmx.render_plain_page("people/enrol/codes.html", codes=codes))
    user = authentication.get_user_by_enrolment_link(conn, token)
    form.email.data = user.email
    authenticator = totp_setup.build_authenticator_setup(authentication.read_totp_secret(conn, user), user)
    return _restrict_referrer(htmx.render_plain_page("people/enrol/page.html", form=form, authenticator=authenticator))


@blueprint.errorhandler(authentication.InvalidEnrolmentLink)
def _render_invalid_link(refusal: authentication.InvalidEnrolmentLink) -> Response:
    heading = _("This link is no longer good")
    return _restrict_referrer(
        htmx.render_plain_page("error.html", heading=heading, explanation=refusal.localized(), status=404)
    )


def _restrict_referrer(answer: ResponseReturnValue) -> Response:
    """Keep the token in the address out of referrers, even those of our own pages.

    Not `no-referrer`, which would break the form: behind https Flask-WTF checks the origin.
    """
    response = make_response(answer)
    response.headers["Referrer-Policy"] = "strict-origin"
    return response


def _find_user_awaiting_code() -> User | None:
    """The user who has entered the password, and may now enter the code; None where nobody has, or too long ago."""
    pending = session.get(_PENDING_LOGIN_KEY)
    if not pending or not 0 <= clock.now_ms() - pending["at"] < _PENDING_LOGIN_MS:
        return None
    try:
        return users.get_user_by_id(context.get_conn(), pending["user"])
    except users.NoSuchUser:
        return None


def _start_login_session(user: User) -> None:
    # A cookie that somebody planted before the login (session fixation) must not become the login's.
    _clear_browser_session()
    user_agent = request.headers.get("User-Agent", "")
    token = authentication.start_login_session(context.get_conn(), user, context.get_client_address(), user_agent)
    login_user(access.SessionUser(user, token))


def _clear_browser_session() -> None:
    """Empty the browser's session, but for the language, which belongs to whoever sits there."""
    language = session.get("language")
    session.clear()
    if language:
        session["language"] = language
