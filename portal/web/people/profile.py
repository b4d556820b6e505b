"""A user's own things: password, authenticator, recovery codes, open login sessions, language."""

from base64 import b64decode, b64encode
from typing import Any

from flask import Blueprint, redirect, session, url_for
from flask.typing import ResponseReturnValue
from wtforms import PasswordField, StringField

from portal.core import clock, i18n
from portal.core.i18n import N_, _
from portal.services.people import authentication, two_factor
from portal.web.core import access, context, htmx
from portal.web.core.forms import NewPasswordForm, TranslatedForm, refusals_on
from portal.web.people import totp_setup
from portal.web.people.user_agents import describe_user_agent

blueprint = Blueprint("profile", __name__, url_prefix="/profile")

_NEW_SECRET_KEY = "new_authenticator"
_NEW_SECRET_LIFETIME_MS = 10 * 60_000


class ChangePasswordForm(NewPasswordForm):
    current = PasswordField(N_("Current password"))


class ConfirmPasswordForm(TranslatedForm):
    """Asks for the password before something that a passer-by at an open screen must not do."""

    current = PasswordField(N_("Current password"))


class TotpCodeForm(TranslatedForm):
    code = StringField(N_("Code"))


@blueprint.get("")
@access.login_required
def show_profile() -> ResponseReturnValue:
    return _render_page()


def _render_page(**forms: TranslatedForm) -> ResponseReturnValue:
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
        codes_left=two_factor.count_unused_recovery_codes(context.get_conn(), access.get_current_user().id),
        languages=i18n.LANGUAGES.items(),
        **_login_sessions_context(),
    )


@blueprint.post("/password")
@access.login_required
def change_password() -> ResponseReturnValue:
    """Change the login password; the user's other sessions end."""
    form = ChangePasswordForm(prefix="password-")
    if form.validate_on_submit():
        with refusals_on(form):
            authentication.change_password(
                context.get_conn(),
                context.get_actor(),
                access.get_current_user(),
                form.current.data,
                form.password.data,
                access.get_session_token(),
                context.get_config().limits.login_failures,
            )
            text = _("Your password has been changed. Wherever else you were logged in, you no longer are.")
            return htmx.redirect_after_post(url_for("profile.show_profile"), htmx.Toast(text))
    return _render_page(password=form)


@blueprint.post("/authenticator")
@access.login_required
def start_authenticator_change() -> ResponseReturnValue:
    """Begin to move to another authenticator: make a secret, which changes nothing until a code has proved it."""
    form = ConfirmPasswordForm(prefix="authenticator-")
    with refusals_on(form):
        _confirm_password(form)
        # Sealed, for the cookie is signed but can be read.
        sealed_secret = two_factor.new_totp_secret(context.get_crypto_keys())
        session[_NEW_SECRET_KEY] = {"sealed": b64encode(sealed_secret).decode(), "at": clock.now_ms()}
        return redirect(url_for("profile.show_new_authenticator"), 303)
    return _render_page(authenticator=form)


@blueprint.get("/authenticator")
@access.login_required
def show_new_authenticator() -> ResponseReturnValue:
    """The new secret, and the form for its first code."""
    return _render_new_authenticator(TotpCodeForm())


@blueprint.post("/authenticator/code")
@access.login_required
def replace_authenticator() -> ResponseReturnValue:
    """Put the new secret into force; the old recovery codes end with the old one."""
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
            )
            del session[_NEW_SECRET_KEY]
            return htmx.render_page("people/profile/codes.html", codes=codes, moved=True)
    return _render_new_authenticator(form)


def _render_new_authenticator(form: TotpCodeForm) -> ResponseReturnValue:
    sealed_secret = _find_pending_secret()
    if sealed_secret is None:
        text = _("That took too long; nothing has been changed. Begin again.")
        return htmx.redirect_after_post(url_for("profile.show_profile"), htmx.Toast(text, "warn"))
    setup = totp_setup.build_authenticator_setup(sealed_secret, access.get_current_user())
    return htmx.render_page("people/profile/authenticator.html", form=form, authenticator=setup)


def _find_pending_secret() -> bytes | None:
    """The sealed secret that waits for its first code; None where there is none, or it has expired."""
    pending = session.get(_NEW_SECRET_KEY)
    if not pending or not 0 <= clock.now_ms() - pending["at"] < _NEW_SECRET_LIFETIME_MS:
        return None
    return b64decode(pending["sealed"])


@blueprint.post("/recovery-codes")
@access.login_required
def renew_recovery_codes() -> ResponseReturnValue:
    """Make new recovery codes; the old ones end."""
    form = ConfirmPasswordForm(prefix="recovery-")
    with refusals_on(form):
        _confirm_password(form)
        codes = authentication.renew_recovery_codes(context.get_conn(), context.get_actor(), access.get_current_user())
        return htmx.render_page("people/profile/codes.html", codes=codes, moved=False)
    return _render_page(recovery=form)


@blueprint.post("/sessions/<int:session_id>/end")
@access.login_required
def end_login_session(session_id: int) -> ResponseReturnValue:
    """End one of the user's own login sessions; with another user's number nothing ends, and the answer is the same."""
    authentication.end_login_session_by_id(context.get_conn(), access.get_current_user(), session_id)
    address, toast = url_for("profile.show_profile") + "#sessions", htmx.Toast(_("The session was ended."))
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
        context.get_client_address(),
        context.get_config().limits.login_failures,
    )
