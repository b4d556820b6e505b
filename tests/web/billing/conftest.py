"""Who buys, and an order."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask

from portal.core import db
from portal.core.config import Config, PaymentSettings
from portal.services.billing.orders import Order
from portal.services.people import authentication, users
from tests.support import Cast, Person
from tests.web.billing.ordering import SECRET, place_order
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


@pytest.fixture
def order(conn: db.Connection) -> Order:
    """An open order of Acme's first account: 100 credits for 7 euro."""
    return place_order(conn)


@pytest.fixture
def paying(make_app: Callable[[Config], Flask], config: Config, conn: db.Connection, cast: Cast) -> Browser:
    """Alice, where there is a payment page."""
    settings = PaymentSettings(
        instructions="To: Portal Ltd\nIBAN: AT61 1904", checkout_url="https://pay.example/?shop=7", secret=SECRET
    )
    app = make_app(replace(config, payments=settings))
    browser = app.test_client()
    assert isinstance(browser, Browser)
    return browser.use_login_session(
        authentication.start_login_session(conn, users.get_user_by_email(conn, cast.alice.email), "127.0.0.1", "a test")
    )
