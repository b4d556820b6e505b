"""A browser for the tests of pages: it runs no JavaScript, and checks the HTML of every answer."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jinja2.bccache import Bucket, BytecodeCache
from werkzeug.datastructures import Headers
from werkzeug.test import TestResponse

from portal.core import db
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.people import login_sessions, users
from portal.web.app import create_app
from portal.web.core import context
from portal.web.core.limits import DEFAULT_PAGE_LIMITS, PageLimits
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


class _SharedBytecodeCache(BytecodeCache):
    """Templates that another test's application has compiled: that is half of the time of these tests."""

    def __init__(self) -> None:
        self._by_key: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._by_key:
            bucket.bytecode_from_string(self._by_key[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._by_key[bucket.key] = bucket.bytecode_to_string()


_BYTECODE_CACHE = _SharedBytecodeCache()


@pytest.fixture
def page_limits() -> PageLimits:
    """How long pages work; a test that wants another length parametrizes it."""
    return DEFAULT_PAGE_LIMITS


@pytest.fixture
def make_app(data: object, keys: Keys, page_limits: PageLimits) -> Iterator[Callable[[Config], Flask]]:
    """Builds the web application with settings of the test's own."""
    made: list[Flask] = []

    def build_app(config: Config) -> Flask:
        app = create_app(config, keys, limits=page_limits)
        app.testing = True
        app.jinja_env.bytecode_cache = _BYTECODE_CACHE
        app.test_client_class = Browser
        made.append(app)
        return app

    yield build_app
    for app in made:
        with app.app_context():
            context.close_connections()


@pytest.fixture
def app(make_app: Callable[[Config], Flask], config: Config) -> Flask:
    """The web application on the test's data folder."""
    return make_app(config)


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
        token = login_sessions.start_login_session(
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
