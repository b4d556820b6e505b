"""What is shown when something can't be: in words, with a way on."""

import logging
import sqlite3

from flask import Flask, request
from flask.globals import request_ctx
from flask.typing import ResponseReturnValue
from werkzeug import exceptions
from werkzeug.exceptions import HTTPException

from portal.core.i18n import _
from portal.services.common.errors import NotFound
from portal.web.core import htmx

_log = logging.getLogger(__name__)


def init_error_handlers(app: Flask) -> None:
    app.register_error_handler(HTTPException, _handle_http_error)
    app.register_error_handler(NotFound, lambda error: _handle_http_error(exceptions.NotFound()))
    app.register_error_handler(sqlite3.OperationalError, _handle_database_error)


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
