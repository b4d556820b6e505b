"""The token that each form carries, so that no page of another site can send one (CSRF)."""

from collections.abc import Callable

from flask import Flask, session
from flask.typing import ResponseReturnValue
from flask_wtf import CSRFProtect
from flask_wtf.csrf import generate_csrf

from portal.web.core import context


def attach(app: Flask, *exempt: Callable[..., ResponseReturnValue]) -> None:
    """Have every change ask for its token, except for the views `exempt`."""
    protection = CSRFProtect(app)
    for view in exempt:
        protection.exempt(view)
    app.jinja_env.globals["csrf_token"] = csrf_token
    app.context_processor(lambda: {"csrf_token": csrf_token})


def csrf_token() -> str:
    """The token of this session's forms.

    Flask-WTF signs it anew each time with the moment, which says nothing where tokens have no time limit; kept, the
    same page is the same text.
    """
    if "csrf_token" not in session:
        return str(generate_csrf())
    return context.kept().get(("csrf_token", session["csrf_token"]), generate_csrf)
