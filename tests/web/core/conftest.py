"""The application as it runs behind a proxy, for the tests of what every request goes through."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask

from portal.core.config import Config, WebSettings
from tests.web.conftest import Browser


def browser_of(app: Flask) -> Browser:
    """A browser in which nobody is logged in."""
    made = app.test_client()
    assert isinstance(made, Browser)
    return made


HTTPS = "https://portal.example"


@pytest.fixture
def https(make_app: Callable[[Config], Flask], config: Config) -> Flask:
    """The application as it runs behind a proxy that speaks TLS."""
    web = WebSettings(public_url=HTTPS, trusted_proxies=("127.0.0.1", "10.0.0.0/8"))
    return make_app(replace(config, web=web))
