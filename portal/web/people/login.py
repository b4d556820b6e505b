"""People's logins: logging in and out, enrolment by a one-time link, and the profile.

There is a user's own: password, authenticator, recovery codes, open login sessions, language.
"""

from base64 import b64decode, b64encode
from typing import Any

import segno
from flask import (
    Blueprint,
    Flask,
    Response,
    g,
    make_response,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_user
from flask_wtf.csrf import CSRFError
from markupsafe import Markup
from wtforms import PasswordField, StringField

from portal.core import clock, i18n
from portal.core.db import write_transaction
from portal.core.i18n import N_, _
from portal.services.common.errors import Refused
from portal.services.people import authentication, password_rules, two_factor, unlock_links, users
from portal.services.people.password_hashing import HashingBusy
from portal.services.people.user_agents import describe_user_agent
from portal.services.people.users import User
from portal.web.core import access, context, errors, htmx
from portal.web.core.forms import NewPasswordForm, TranslatedForm, refusals_on
from portal.web.people import known_browsers

blueprint = Blueprint("login", __name__)

# Between password and code.
_PENDING_LOGIN_MS = 5 * clock.MINUTE_MS
_PENDING_LOGIN_KEY = "pending_login"
_LINK_NOTICE_KEY = "link_notice"
_NEW_SECRET_KEY = "new_authenticator"
_NEW_SECRET_MS = 10 * clock.MINUTE_MS


class LoginForm(TranslatedForm):
    refused_status = 401

    email = StringField(N_("E-mail address"))
    password = PasswordField(N_("Password"))


class UnlockForm(TranslatedForm):
    email = StringField(N_("E-mail address"))


class SecondFactorForm(TranslatedForm):
    refused_status = 401

    code = StringField(N_("Code"))
    recovery = StringField(N_("Recovery code"))


class EnrolForm(NewPasswordForm):
    email = StringField(N_("E-mail address"))
    code = StringField(N_("Code"))


class ChangePasswordForm(NewPasswordForm):
    current = PasswordField(N_("Current password"))


class ConfirmPasswordForm(TranslatedForm):
    """Asks for the password before something that a passer-by at an open screen must not do."""

    current = PasswordField(N_("Current password"))


class TotpCodeForm(TranslatedForm):
    code = StringField(N_("Code"))


# --- logging in and out


@blueprint.route("/login", methods=["GET", "POST"])
@access.public_view
def login() -> ResponseReturnValue:
    """The first step: e-mail address and password."""
    if current_user.is_authenticated:
        return redirect(access.get_safe_redirect_path(request.args.get("next")), 303)
    form = LoginForm()
    if request.method != "POST":
        link = _take_link_notice()
        form.email.data = link.get("email", "")
        notice = errors.take_login_notice()
        return htmx.render_plain_page(
            "people/login/page.html", form=form, notice=notice, has_asked_for_link=link.get("is_sent")
        )
    # Of before the password is looked at: there may be another one after that.
    credentials = known_browsers.digest_credentials(form.email.data)
    # Over the form, at none of its fields: either may be wrong.
    with refusals_on(form, email=""):
        user = authentication.check_login(
            context.get_conn(),
            form.email.data,
            form.password.data,
            known_browsers.get_visitor(form.email.data),
            context.get_config().limits.login_failures,
        )
        session[_PENDING_LOGIN_KEY] = {"user": user.id, "at": clock.now_ms(), "credentials": credentials}
        return redirect(url_for("login.verify_second_factor", next=request.args.get("next")), 303)
    return htmx.render_plain_page("people/login/page.html", form=form)


def build_busy_page(app: Flask, language: str) -> str:
    """The page of who finds too many others logging in, before a request is looked at (`asgi`)."""
    with i18n.override_language(language):
        template = app.jinja_env.get_template("people/login/busy.html")
        return template.render(locale=language, explanation=HashingBusy().localized())


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
        # What is wrong stands at the field that was used; where a recovery code is, at that of recovery codes.
        with refusals_on(form, **dict.fromkeys(("code", ""), used_field)):
            authentication.check_second_factor(
                context.get_conn(),
                context.get_crypto_keys(),
                user,
                form[used_field].data,
                known_browsers.get_visitor(user.email),
                context.get_config().limits.login_failures,
            )
            with write_transaction(context.get_conn()):
                # Once more: a new password or authenticator meanwhile has ended all sessions but this one.
                if _find_user_awaiting_code() is None:
                    return errors.lead_to_first_step()
                _start_login_session(user)
            # Not made anew here: who doesn't get the answer would have none.
            if used_field == "recovery" and two_factor.is_short_recovery_code(form.recovery.data):
                return redirect(url_for("login.show_profile", short=1, _anchor="recovery"), 303)
            return redirect(access.get_safe_redirect_path(request.args.get("next")), 303)
    return htmx.render_plain_page("people/login/totp.html", form=form, email=user.email)


@blueprint.route("/login/link", methods=["GET", "POST"])
@access.public_view
def send_unlock_link() -> ResponseReturnValue:
    """Mail a link that lifts the lock, if there is such a user: the answer is the same."""
    form = UnlockForm()
    if request.method != "POST":
        return htmx.render_plain_page("people/login/link.html", form=form)
    with refusals_on(form):
        unlock_links.queue_unlock_link(
            context.get_conn(),
            context.get_crypto_keys(),
            form.email.data,
            context.get_client_address(),
            context.get_config().limits.login_failures,
            i18n.current_language(),
        )
        _leave_link_notice(form.email.data, is_sent=True)
        return redirect(url_for("login.login"), 303)
    return htmx.render_plain_page("people/login/link.html", form=form)


@blueprint.route("/login/link/<token>", methods=["GET", "POST"])
@access.public_view
def unlock(token: str) -> ResponseReturnValue:
    """Lift the lock for this browser, once it is asked for: programs that look at mails open their links, too."""
    conn = context.get_conn()
    if request.method == "POST":
        email = unlock_links.use_unlock_link(conn, token, context.get_client_address()).email
        known_browsers.unlock_browser(email)
        _leave_link_notice(email, is_sent=False)
        text = _("You can log in with this browser for the next 15 minutes, whatever others try.")
        return _restrict_referrer(htmx.redirect_after_post(url_for("login.login"), htmx.Toast(text)))
    user = unlock_links.get_user_by_unlock_link(conn, token)
    return _restrict_referrer(htmx.render_plain_page("people/login/unlock.html", email=user.email))


def _leave_link_notice(email: str, *, is_sent: bool) -> None:
    """Leave for the login page whose address to show, and whether a link was asked for: addresses are kept in logs."""
    # A cookie holds 4 kB.
    session[_LINK_NOTICE_KEY] = {"email": email.strip()[:254], "is_sent": is_sent}


def _take_link_notice() -> dict[str, Any]:
    # Looked up first: taking from a session, even in vain, sends its cookie anew.
    notice: dict[str, Any] = session.pop(_LINK_NOTICE_KEY) if _LINK_NOTICE_KEY in session else {}
    return notice


@blueprint.errorhandler(CSRFError)
def _handle_csrf_error(error: CSRFError) -> ResponseReturnValue:
    """A login form whose cookie has gone is shown again; where another tab has logged in meanwhile, that is enough.

    Other forms of these pages are treated as everywhere.
    """
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
            user = authentication.get_user_by_enrolment_link(conn, token)
            codes = authentication.enrol_by_link(
                conn,
                context.get_crypto_keys(),
                token,
                form.password.data,
                form.code.data,
                context.get_client_address(),
                context.get_config().known_names,
                i18n.current_language(),
            )
            known_browsers.remember_browser(user.email)
            # The browser may have been logged in as somebody else; what follows is the new user's login.
            if current_user.is_authenticated:
                authentication.end_login_session(conn, access.get_session_token())
            _clear_browser_session()
            return _restrict_referrer(htmx.render_plain_page("people/enrol/codes.html", codes=codes))
    user = authentication.get_user_by_enrolment_link(conn, token)
    form.email.data = user.email
    authenticator = _build_authenticator_setup(authentication.read_totp_secret(conn, user), user)
    check_address = url_for("login.check_first_password", token=token)
    return _restrict_referrer(
        htmx.render_plain_page(
            "people/enrol/page.html", form=form, check_address=check_address, authenticator=authenticator
        )
    )


@blueprint.post("/enrol/<token>/password")
@access.public_view
def check_first_password(token: str) -> ResponseReturnValue:
    """Say what is wrong with a password, when its field is left; it isn't kept."""
    return _check_password(authentication.get_user_by_enrolment_link(context.get_conn(), token), EnrolForm())


def _check_password(user: User, form: NewPasswordForm) -> ResponseReturnValue:
    names, refusal = password_rules.list_known_names(user, context.get_config().known_names), ""
    try:
        password_rules.check_new_password(form.password.data, names)
    except password_rules.InvalidPassword as error:
        refusal = error.localized() if form.password.data else ""
    # Nothing has changed, so the page's other parts need no look.
    return render_template("people/_password_check.html", refusal=refusal)


@blueprint.errorhandler(authentication.InvalidEnrolmentLink)
@blueprint.errorhandler(unlock_links.InvalidUnlockLink)
def _render_invalid_link(refusal: Refused) -> Response:
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
    """The user who has entered the password, and may now enter the code; None where nobody has (see `_is_pending`)."""
    pending = session.get(_PENDING_LOGIN_KEY)
    if not pending:
        return None
    try:
        user = users.get_user_by_id(context.get_conn(), pending["user"])
    except users.NoSuchUser:
        return None
    return user if _is_pending(pending, user, _PENDING_LOGIN_MS) else None


def _is_pending(begun: dict[str, Any], user: User, valid_ms: int) -> bool:
    """Whether what was begun can be finished: not after too long, or a new password or authenticator meanwhile."""
    is_in_time = 0 <= clock.now_ms() - begun["at"] < valid_ms
    # One that a version before this has begun has none.
    return is_in_time and begun.get("credentials") == known_browsers.digest_credentials(user.email)


def _start_login_session(user: User) -> None:
    # A cookie that somebody planted before the login (session fixation) must not become the login's.
    _clear_browser_session()
    user_agent = request.headers.get("User-Agent", "")
    mail_keys = None if known_browsers.is_known_to(user.email) else context.get_crypto_keys()
    token = authentication.start_login_session(
        context.get_conn(), user, context.get_client_address(), user_agent, mail_keys
    )
    known_browsers.remember_browser(user.email)
    login_user(access.SessionUser(user, token))


def _clear_browser_session() -> None:
    """Empty the browser's session, but for the language, which belongs to whoever sits there."""
    language = session.get("language")
    session.clear()
    # Flask-WTF keeps the token for the rest of the request: one of the old session is no good on the page that follows.
    g.pop("csrf_token", None)
    if language:
        session["language"] = language


# --- the profile


@blueprint.get("/profile")
@access.login_required
def show_profile() -> ResponseReturnValue:
    """Query: `short` after a login with one of the short recovery codes of older versions."""
    return _render_profile()


def _render_profile(**forms: TranslatedForm) -> ResponseReturnValue:
    """The whole profile, with the form that was refused, if one was."""
    # Each form has a prefix, for all of them are on one page.
    values = {
        "password": ChangePasswordForm(prefix="password-"),
        "authenticator": ConfirmPasswordForm(prefix="authenticator-"),
        "recovery": ConfirmPasswordForm(prefix="recovery-"),
    } | forms
    return htmx.render_page(
        "people/profile/page.html",
        **values,
        used_short_code="short" in request.args,
        codes_left=two_factor.count_unused_recovery_codes(context.get_conn(), access.get_current_user().id),
        languages=i18n.LANGUAGES.items(),
        **_login_sessions_context(),
    )


@blueprint.post("/profile/password")
@access.login_required
def change_password() -> ResponseReturnValue:
    """Change the login password; the user's other sessions end."""
    form = ChangePasswordForm(prefix="password-")
    if form.validate_on_submit():
        with refusals_on(form):
            authentication.change_password(
                context.get_conn(),
                context.get_crypto_keys(),
                context.get_actor(),
                access.get_current_user(),
                form.current.data,
                form.password.data,
                access.get_session_token(),
                context.get_config().limits.login_failures,
                context.get_config().known_names,
            )
            known_browsers.remember_browser(access.get_current_user().email)
            text = _("Your password has been changed. Wherever else you were logged in, you no longer are.")
            return htmx.redirect_after_post(url_for("login.show_profile"), htmx.Toast(text))
    return _render_profile(password=form)


@blueprint.post("/profile/password/check")
@access.login_required
def check_password() -> ResponseReturnValue:
    """Say what is wrong with a new password, when its field is left; it isn't kept."""
    return _check_password(access.get_current_user(), ChangePasswordForm(prefix="password-"))


@blueprint.post("/profile/authenticator")
@access.login_required
def start_authenticator_change() -> ResponseReturnValue:
    """Begin to move to another authenticator: make a secret, which changes nothing until a code has proved it."""
    form = ConfirmPasswordForm(prefix="authenticator-")
    credentials = known_browsers.digest_credentials(access.get_current_user().email)
    with refusals_on(form):
        _confirm_password(form)
        # Sealed, for the cookie is signed but can be read.
        sealed_secret = two_factor.new_totp_secret(context.get_crypto_keys())
        session[_NEW_SECRET_KEY] = {
            "sealed": b64encode(sealed_secret).decode(),
            "at": clock.now_ms(),
            "credentials": credentials,
        }
        return redirect(url_for("login.show_new_authenticator"), 303)
    return _render_profile(authenticator=form)


@blueprint.get("/profile/authenticator")
@access.login_required
def show_new_authenticator() -> ResponseReturnValue:
    """The new secret, and the form for its first code."""
    return _render_new_authenticator(TotpCodeForm())


@blueprint.post("/profile/authenticator/code")
@access.login_required
def replace_authenticator() -> ResponseReturnValue:
    """Put the new secret into force; the old recovery codes and the user's other sessions end with the old one."""
    sealed_secret, form = _find_pending_secret(), TotpCodeForm()
    if sealed_secret is not None:
        with refusals_on(form):
            codes = authentication.replace_totp_secret(
                context.get_conn(),
                context.get_crypto_keys(),
                context.get_actor(),
                access.get_current_user(),
                sealed_secret,
                form.code.data,
                access.get_session_token(),
            )
            known_browsers.remember_browser(access.get_current_user().email)
            del session[_NEW_SECRET_KEY]
            return htmx.render_page("people/profile/codes.html", codes=codes, moved=True)
    return _render_new_authenticator(form)


def _render_new_authenticator(form: TotpCodeForm) -> ResponseReturnValue:
    sealed_secret = _find_pending_secret()
    if sealed_secret is None:
        text = _("That took too long; nothing has been changed. Begin again.")
        return htmx.redirect_after_post(url_for("login.show_profile"), htmx.Toast(text, "warn"))
    setup = _build_authenticator_setup(sealed_secret, access.get_current_user())
    return htmx.render_page("people/profile/authenticator.html", form=form, authenticator=setup)


def _find_pending_secret() -> bytes | None:
    """The sealed secret that waits for its first code; None where there is none (see `_is_pending`)."""
    pending = session.get(_NEW_SECRET_KEY)
    if not pending or not _is_pending(pending, access.get_current_user(), _NEW_SECRET_MS):
        return None
    return b64decode(pending["sealed"])


@blueprint.post("/profile/recovery-codes")
@access.login_required
def renew_recovery_codes() -> ResponseReturnValue:
    """Make new recovery codes; the old ones end."""
    form = ConfirmPasswordForm(prefix="recovery-")
    with refusals_on(form):
        _confirm_password(form)
        codes = authentication.renew_recovery_codes(
            context.get_conn(), context.get_crypto_keys(), context.get_actor(), access.get_current_user()
        )
        return htmx.render_page("people/profile/codes.html", codes=codes, moved=False)
    return _render_profile(recovery=form)


@blueprint.post("/profile/sessions/<int:session_id>/end")
@access.login_required
def end_login_session(session_id: int) -> ResponseReturnValue:
    """End one of the user's own login sessions; with another user's number nothing ends, and the answer is the same."""
    authentication.end_login_session_by_id(context.get_conn(), access.get_current_user(), session_id)
    address, toast = url_for("login.show_profile") + "#sessions", htmx.Toast(_("The session was ended."))
    return htmx.answer_done(address, toast, "people/profile/_sessions.html", **_login_sessions_context())


def _login_sessions_context() -> dict[str, Any]:
    open_sessions = authentication.list_login_sessions(
        context.get_conn(), access.get_current_user(), access.get_session_token()
    )
    return {"login_sessions": [(each, describe_user_agent(each["user_agent"])) for each in open_sessions]}


def _confirm_password(form: ConfirmPasswordForm) -> None:
    authentication.confirm_password(
        context.get_conn(),
        access.get_current_user(),
        form.current.data,
        access.get_session_token(),
        context.get_client_address(),
        context.get_config().limits.login_failures,
    )


def _build_authenticator_setup(sealed_secret: bytes, user: User) -> dict[str, str]:
    """Unseal a secret for its owner's eyes, in the forms that apps accept: a QR code, an `otpauth://` address, and text
    to type, also in groups of four, for reading it off."""
    uri = two_factor.format_totp_uri(context.get_crypto_keys(), sealed_secret, user.email, context.get_config().name)
    # One path without a style attribute, which the Content-Security-Policy would forbid; its white border is app.css's.
    qr = segno.make(uri, error="m", micro=False).svg_inline(omitsize=True, border=0)
    secret = two_factor.format_totp_secret(context.get_crypto_keys(), sealed_secret)
    grouped_secret = " ".join(secret[at : at + 4] for at in range(0, len(secret), 4))
    return {"qr": Markup(qr), "uri": uri, "secret": secret, "grouped_secret": grouped_secret}
