"""The token that each form carries, so that no page of another site can send one (CSRF)."""

from collections.abc import Callable

from flask import Flask
from flask.typing import ResponseReturnValue
from flask_wtf import CSRFProtect
from flask_wtf.csrf import generate_csrf


def init_csrf_protection(app: Flask, *exempt: Callable[..., ResponseReturnValue]) -> None:
    """Require a token for every change, except in the views `exempt`."""
    protection = CSRFProtect(app)
    for view in exempt:
        protection.exempt(view)
    app.jinja_env.globals["csrf_token"] = generate_csrf
    app.context_processor(lambda: {"csrf_token": generate_csrf})
