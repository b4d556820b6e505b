"""How much a request may bring: a megabyte, and more where a view takes files."""

from collections.abc import Callable
from typing import TypeVar

from flask import Flask, current_app, request
from flask.typing import ResponseReturnValue

from portal.web.core import access

_View = TypeVar("_View", bound=Callable[..., ResponseReturnValue])

# A file that is larger than it may be comes this far, so that the form says so, with what was typed.
MOST_BYTES = 8 * 1024 * 1024


def takes_files(view: _View) -> _View:
    """Mark a view as one that is sent files. What is read of them it bounds itself."""
    view.takes_files = True  # type: ignore[attr-defined]
    return view


def attach(app: Flask) -> None:
    """Before anything reads a form: flask-wtf does, for its token."""
    app.before_request(_bound)


def _bound() -> None:
    view = current_app.view_functions.get(request.endpoint or "")
    # Strangers are asked to log in, however much they have brought.
    if getattr(view, "takes_files", False) and access.somebody() is not None:
        request.max_content_length = MOST_BYTES
