"""What is shown when something can't be: in words, with a way on.

A form may come too late: its login session has ended, or its token is of another one. Nothing is done, and the answer
leads to a page that can be loaded again: the login, with the form's page after it, or the form's page itself.
"""

import logging
import sqlite3
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import SplitResult, quote, unquote, urlsplit

from flask import Flask, g, redirect, request, session, url_for
from flask.globals import request_ctx
from flask.typing import ResponseReturnValue
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug import exceptions
from werkzeug.exceptions import HTTPException

from portal.core.i18n import _
from portal.services.common.errors import NotFound
from portal.web.core import access, context, htmx
from portal.web.core.access import NotLoggedIn
from portal.web.core.htmx import Toast

_log = logging.getLogger(__name__)

# In the session: why the next login page is shown.
_LOGIN_NOTICE_KEY = "login_notice"


def init_error_handlers(app: Flask) -> None:
    app.register_error_handler(HTTPException, _handle_http_error)
    app.register_error_handler(NotFound, lambda error: _handle_http_error(exceptions.NotFound()))
    app.register_error_handler(sqlite3.OperationalError, _handle_database_error)
    app.register_error_handler(NotLoggedIn, _handle_not_logged_in)
    app.register_error_handler(CSRFError, handle_csrf_error)


def _handle_http_error(error: HTTPException) -> ResponseReturnValue:
    if error.code is None or error.response is not None:
        return error.get_response()
    if request_ctx.url_adapter is None:
        # The Host header is no host's name, and so no address of ours can be made for a page.
        return "bad Host\n", 400, {"Content-Type": "text/plain; charset=utf-8"}
    error_texts = {
        403: (
            _("You don't have permission to change this"),
            _("Your role can view this, but not change it. Ask an owner of your team."),
        ),
        404: (_("Not found"), _("There is no such page, or you don't have permission to see it.")),
        405: (_("Not found"), _("There is no such page, or you don't have permission to see it.")),
        413: (_("Too large"), _("What was sent is larger than anything this portal takes.")),
        503: (_("The portal is busy"), _("Nothing has been changed. Wait a moment, then try it once more.")),
    }
    title, text = error_texts.get(
        error.code, (_("That did not work"), _("Nothing has been changed. Go back and try it once more."))
    )
    return render_error(error.code, title, text)


def _handle_database_error(error: sqlite3.OperationalError) -> ResponseReturnValue:
    _log.error("%s %s: %s", request.method, request.path, error)
    return _handle_http_error(exceptions.ServiceUnavailable())


def render_error(code: int, title: str, text: str) -> ResponseReturnValue:
    """A page that says what can't be, or for htmx the words alone."""
    if htmx.is_htmx_request():
        # htmx leaves the page as it is and app.js says that it failed; a toast with the reason would be thrown away.
        return text, code, {"Content-Type": "text/plain; charset=utf-8"}
    return htmx.render_plain_page("error.html", status=code, heading=title, explanation=text)


# --- forms that come too late, or from elsewhere


class FormProtection(CSRFProtect):
    """Besides the token looks at where a form comes from: a token may be stolen, and these headers can't be set."""

    def protect(self, apply_exemptions: bool = False) -> None:
        super().protect(apply_exemptions)
        # Set where the token was right; not where none is needed.
        if g.get("csrf_valid") and _is_from_another_site():
            raise CSRFError("The form comes from another site.")


def is_stale(error: CSRFError) -> bool:
    """Whether a form is of one of our pages, and its token good no longer; not one that another site has sent."""
    # Behind https flask-wtf compares the referrer, too.
    fields = [value for name, value in request.form.items() if name.endswith("csrf_token")]
    return (
        any((*fields, request.headers.get("X-CSRFToken")))
        and not _is_from_another_site()
        and "referrer" not in (error.description or "")
    )


def handle_csrf_error(error: CSRFError) -> ResponseReturnValue:
    """Lead to the form's page again, which shows who is logged in now; what is not one of our forms is 400."""
    heading, text = _("This form is out of date"), _("Load the page again and repeat what you did.")
    if _is_from_another_site():
        if g.get("csrf_valid"):
            _warn_of_another_site(request.headers.get("Origin"), request.host)
        # It came without our cookie. A page would set a new one, and so end the login session that there is.
        return f"{heading}\n", 400, {"Content-Type": "text/plain; charset=utf-8"}
    if not is_stale(error):
        return render_error(400, heading, text)
    toast = Toast(_("This page was out of date, so nothing has been changed. Check it and send it again."), "warn")
    return htmx.redirect_browser_or_htmx(access.get_safe_redirect_path(_find_page_path()), toast)


def _handle_not_logged_in(error: NotLoggedIn) -> ResponseReturnValue:
    page = _find_page_path()
    address = url_for("login.login", next=page if page != "/" else None)
    if not _is_from_another_site():  # or else, again, no new cookie
        was_logged_in = session.pop("_user_id", None) is not None
        if request.method not in htmx.READING_METHODS:
            if request.endpoint != "login.logout":
                text = _("You are no longer logged in, so nothing has been changed. Log in, and send it again.")
                session[_LOGIN_NOTICE_KEY] = text
        elif htmx.is_htmx_request() or was_logged_in:
            session.setdefault(_LOGIN_NOTICE_KEY, _("You are no longer logged in. Log in to go on."))
    if htmx.is_htmx_request():
        # A 302 would be followed by the browser, unseen by htmx, and put the login page into the middle of this one.
        return "", 204, {"HX-Redirect": address}
    return redirect(address)


def lead_to_first_step() -> ResponseReturnValue:
    """Lead a code that comes too late to the first step of the login, which says why."""
    if request.method == "POST":
        session[_LOGIN_NOTICE_KEY] = _("That took too long; nothing has been changed. Begin again.")
    return redirect(url_for("login.login", next=request.args.get("next")), 303)


def take_login_notice() -> str:
    """Why the login page is shown, to be said once; empty where somebody has just come to it."""
    # Looked up first: taking from a session, even in vain, sends its cookie anew.
    return session.pop(_LOGIN_NOTICE_KEY) if _LOGIN_NOTICE_KEY in session else ""


def _is_from_another_site() -> bool:
    """Whether a page of another origin has sent this, as its browser says; what is no browser says nothing."""
    if "Sec-Fetch-Site" in request.headers:
        return request.headers["Sec-Fetch-Site"] not in ("same-origin", "none")
    # Older browsers, and all on plain http.
    origin = request.headers.get("Origin")
    own_hosts = (request.host, _split_url(context.get_config().public_url).netloc)
    return origin is not None and _split_url(origin).netloc not in own_hosts


@lru_cache(maxsize=10)
def _warn_of_another_site(origin: str | None, host: str) -> None:
    """Say once what to do where it is our own page, to which a proxy has given another name."""
    _log.warning(
        "a form with a good token was refused, for its page is at %s and the request is for %s: behind a proxy that"
        " changes the Host header set [web] public_url",
        origin,
        host,
    )


def _find_page_path() -> str:
    """The page that this request belongs to, with its query: where it was sent from, itself, or the nearest above."""
    return next(path for path in _iterate_page_paths() if _is_page(path))


def _iterate_page_paths() -> Iterator[str]:
    if htmx.is_htmx_request():
        yield _get_path(request.headers.get("HX-Current-URL", ""))
    else:
        referrer = request.referrer or ""
        # Pages with a token in their address tell no more than the host.
        is_told = _split_url(referrer).netloc == request.host and _get_path(referrer) != "/"
        if is_told and request.method not in htmx.READING_METHODS:
            yield _get_path(referrer)
        yield request.full_path.rstrip("?")
    own_path = quote(request.path)
    while own_path := own_path.rpartition("/")[0]:
        yield own_path
    yield "/"


def _is_page(path: str) -> bool:
    adapter = request_ctx.url_adapter
    return adapter is not None and access.is_own_path(path) and adapter.test(unquote(urlsplit(path).path), "GET")


def _get_path(url: str) -> str:
    parts = _split_url(url)
    path = parts.path.removeprefix(request.script_root)
    return f"{path}?{parts.query}" if parts.query else path


def _split_url(url: str) -> SplitResult:
    """Its parts, which are empty where it is no URL."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
