"""The token that each form carries, so that no page of another site can send one (CSRF)."""

from collections.abc import Callable

from flask import Flask, session
from flask.typing import ResponseReturnValue
from flask_wtf import CSRFProtect
from flask_wtf.csrf import generate_csrf

from portal.web.core import context


def init_csrf_protection(app: Flask, *exempt: Callable[..., ResponseReturnValue]) -> None:
    """Require a token for every change, except in the views `exempt`."""
    protection = CSRFProtect(app)
    for view in exempt:
        protection.exempt(view)
    app.jinja_env.globals["csrf_token"] = get_csrf_token
    app.context_processor(lambda: {"csrf_token": get_csrf_token})


def get_csrf_token() -> str:
    """The token of this session's forms.

    Flask-WTF signs it anew each time with the time, which means nothing where tokens have no time limit. The cache
    makes the same page the same text.
    """
    if "csrf_token" not in session:
        return str(generate_csrf())
    return context.get_fragment_cache().get_or_render(("csrf_token", session["csrf_token"]), generate_csrf)
