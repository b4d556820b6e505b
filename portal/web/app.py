"""The web application: Flask with its extensions, the areas of pages, and what each request passes through."""

import re
from collections.abc import MutableMapping
from importlib import import_module
from typing import Any

from flask import Flask
from flask.templating import Environment
from flask_login import LoginManager
from jinja2.ext import Extension
from werkzeug.utils import find_modules

from portal import __version__
from portal.core import paths
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.web.billing import payment_callback
from portal.web.core import access, context, errors, headers, language, proxies, request_values

# A file that is larger than it may be comes this far, so that the form says so, with what was typed. Fields alone may
# have half a megabyte (Werkzeug's limit).
MAX_BODY_BYTES = 8 << 20
# After a tag or a comment `trim_blocks` takes the line break: one space has to stay between what is before and behind.
_INDENTATION = re.compile(r"(?<![%#]\})\n +|(?<=[%#]\}\n) +(?= )")


class _IndentationRemover(Extension):
    """Takes indentation from a template when it is read: a fifth of a page, which is not compressed."""

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        return _INDENTATION.sub(lambda match: match[0].rstrip(" "), source)


class _PlainGlobalsEnvironment(Environment):
    """Templates share the environment's globals as they are.

    The chain of mappings that each has otherwise, against changes, made a page a tenth slower: nothing changes them.
    """

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        return super().make_globals(d) if d else self.globals


def create_app(config: Config, keys: Keys) -> Flask:
    """Build the web application.

    Args:
        config: the settings.
        keys: the installation's keys.
    """
    app = Flask("portal.web", template_folder=str(paths.TEMPLATES), static_folder=None)
    app.jinja_environment = _PlainGlobalsEnvironment
    # As in mails: a line that has a statement alone leaves nothing in the page.
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True, "extensions": [_IndentationRemover]}
    app.config.update(
        SECRET_KEY=keys.cookie_key,
        SESSION_COOKIE_NAME=headers.name_cookie(config, "portal_session"),
        SESSION_COOKIE_PATH=headers.get_cookie_path(config),
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=headers.is_https(config),
        # The token lives as long as the session it is bound to: a form that was left open overnight still works.
        WTF_CSRF_TIME_LIMIT=None,
        MAX_CONTENT_LENGTH=MAX_BODY_BYTES,
        MAX_FORM_PARTS=100,
    )
    request_values.init_request_values(app)
    context.init_request_context(app, config, keys)
    # Order matters: the language comes first, so that even a refusal is in the reader's own.
    login_manager = LoginManager()
    login_manager.init_app(app, add_context_processor=False)
    login_manager.user_loader(access.load_user)
    # Sessions are bound to a row in the database; a changed address must not end them (phones change theirs).
    login_manager.session_protection = None
    language.init_language(app)
    app.jinja_env.globals["version"] = __version__
    # Before tokens are looked at: who is not logged in any more is led to the login, whatever the form brings.
    access.init_access_control(app)
    # What posts there is no browser, and its signature says who it is.
    errors.FormProtection(app).exempt(payment_callback.receive_payment_callback)
    headers.init_headers(app, config)
    proxies.init_proxies(app, config)
    errors.init_error_handlers(app)
    # The views: each module that has some keeps them in its `blueprint`.
    for name in find_modules("portal.web", recursive=True):
        if blueprint := getattr(import_module(name), "blueprint", None):
            app.register_blueprint(blueprint)
    return app
