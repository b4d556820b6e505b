"""How much a request may bring: a megabyte, and more where a view takes files."""

from collections.abc import Callable
from typing import TypeVar

from flask import Flask, current_app, request
from flask.typing import ResponseReturnValue

from portal.web.core import access

_View = TypeVar("_View", bound=Callable[..., ResponseReturnValue])

# A file that is larger than it may be comes this far, so that the form says so, with what was typed.
MAX_UPLOAD_BYTES = 8 * 1024 * 1024


def accepts_files(view: _View) -> _View:
    """Mark a view as one that is sent files. What is read of them it bounds itself."""
    view.takes_files = True  # type: ignore[attr-defined]
    return view


def init_upload_limits(app: Flask) -> None:
    """Before anything reads a form: flask-wtf does, for its token."""
    app.before_request(_raise_upload_limit)


def _raise_upload_limit() -> None:
    view = current_app.view_functions.get(request.endpoint or "")
    # Strangers are asked to log in, however much they have brought.
    if getattr(view, "takes_files", False) and access.find_current_user() is not None:
        request.max_content_length = MAX_UPLOAD_BYTES
