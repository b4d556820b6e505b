"""A browser for the tests of pages: it runs no JavaScript, and checks the HTML of every answer."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jinja2 import FileSystemBytecodeCache
from werkzeug.datastructures import Headers
from werkzeug.test import TestResponse

from portal.core import db
from portal.core.config import Config, load_config
from portal.core.crypto import Keys
from portal.services.people import authentication, users
from portal.web.app import create_app
from portal.web.core import context
from portal.web.core.context import DEFAULT_PAGE_LIMITS, PageLimits
from tests.support import Cast, Person
from tests.web.html import find_html_errors, remove_layout

_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


class Browser(FlaskClient):
    """Flask's test client that sends the CSRF token by itself and fails on an answer whose HTML is wrong.

    Two arguments more than Flask's for get, post and the others:
        htmx: ask as htmx does; a string is the id of the element that the answer goes to (`hx-target`).
        csrf: False leaves the token out.
    """

    _cached_token: tuple[str, str] | None = None

    def open(self, *args: Any, htmx: bool | str = False, csrf: bool = True, **kwargs: Any) -> TestResponse:
        headers = Headers(kwargs.pop("headers", None))
        if htmx:
            headers["HX-Request"] = "true"
        if isinstance(htmx, str):
            headers["HX-Target"] = htmx
        if csrf and kwargs.get("method", "GET") not in ("GET", "HEAD", "OPTIONS"):
            headers["X-CSRFToken"] = self.csrf_token()
            # flask-wtf compares it behind https, as browsers send it.
            headers.setdefault("Referer", kwargs.get("base_url", "http://localhost") + "/")
        answer = super().open(*args, headers=headers, **kwargs)
        # A compressed answer is asked for by a test that compares it with the plain one.
        if answer.mimetype == "text/html" and not answer.content_encoding and not 300 <= answer.status_code < 400:
            page = answer.get_data(as_text=True)
            html_errors = find_html_errors(page)
            assert not html_errors, f"{answer.request.method} {answer.request.path}: {'; '.join(html_errors)}\n{page}"
            answer.set_data(remove_layout(page))
        return answer

    def csrf_token(self) -> str:
        """A token that is good for this browser's session; any page has one."""
        if self._cached_token is None or self._cached_token[0] != self._session_secret():
            field = _TOKEN.search(self.get("/no-such-page").text)
            assert field, "the page holds no CSRF token"
            self._cached_token = (self._session_secret(), field[1])
        return self._cached_token[1]

    def _session_secret(self) -> str:
        with self.session_transaction() as session:
            return str(session.get("csrf_token", ""))

    def use_login_session(self, token: str) -> "Browser":
        """Carry on with this login session."""
        with self.session_transaction() as session:
            session["_user_id"] = token
            session["_fresh"] = True
        return self


@pytest.fixture
def page_limits() -> PageLimits:
    """How long pages work; a test that wants another length parametrizes it."""
    return DEFAULT_PAGE_LIMITS


@pytest.fixture(scope="session")
def build_app(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config, Keys], Flask]:
    """Builds the web application, of whose templates each is compiled once in all processes of pytest-xdist.

    To compile all of them takes two seconds. What is kept is of this run alone: how they are read may change, too.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "compiled-templates"
    folder.mkdir(exist_ok=True)

    def build(config: Config, keys: Keys) -> Flask:
        app = create_app(config, keys)
        app.jinja_env.bytecode_cache = FileSystemBytecodeCache(str(folder))
        return app

    return build


@pytest.fixture
def make_app(
    data: object, keys: Keys, build_app: Callable[[Config, Keys], Flask]
) -> Iterator[Callable[[Config], Flask]]:
    """Builds the web application with settings of the test's own."""
    with ExitStack() as made:
        yield lambda config: made.enter_context(_open_app(build_app(config, keys)))


@pytest.fixture(scope="session")
def shared_app(template: tuple[Path, Cast], build_app: Callable[[Config, Keys], Flask]) -> Flask:
    """One that tests use one after the other: creating it and reading its templates takes longer than most of them."""
    data, _ = template
    with _open_app(build_app(load_config(data=data, env={}), Keys.load(data))) as app:
        return app


@pytest.fixture
def app(shared_app: Flask, config: Config, keys: Keys, page_limits: PageLimits) -> Iterator[Flask]:
    """The web application on the test's data folder."""
    context.init_request_context(shared_app, config, keys, page_limits)
    with _open_app(shared_app) as app:
        yield app


@contextmanager
def _open_app(app: Flask) -> Iterator[Flask]:
    app.testing = True
    app.test_client_class = Browser
    yield app
    with app.app_context():
        context.get_conn().close()


@pytest.fixture
def browser(app: Flask) -> Browser:
    """A browser in which nobody is logged in."""
    client = app.test_client()
    assert isinstance(client, Browser)
    return client


@pytest.fixture
def client(app: Flask, conn: db.Connection) -> Callable[[Person], Browser]:
    """Makes browsers in which one of the cast is logged in: `client(cast.alice).get("/")`.

    The session is opened as a login does in its end; what comes before that is the matter of test_login.py.
    """

    def log_in(person: Person) -> Browser:
        token = authentication.start_login_session(
            conn, users.get_user_by_email(conn, person.email), "127.0.0.1", "a test"
        )
        browser = app.test_client()
        assert isinstance(browser, Browser)
        return browser.use_login_session(token)

    return log_in


@pytest.fixture
def olga(client: Callable[[Person], Browser], cast: Cast) -> Browser:
    """The operator."""
    return client(cast.olga)
