"""What tests of the services have at hand: the cast's accounts as the services see them."""

import pytest

from portal.core.db import Connection
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from tests.support import Cast


@pytest.fixture
def acme_1(conn: Connection, cast: Cast) -> Account:
    """smpp-acme-1: bound from loopback, 1000 credits, sender ACME."""
    return accounts.get_account(conn, cast.smpp_acme_1.name)


@pytest.fixture
def acme_2(conn: Connection, cast: Cast) -> Account:
    """smpp-acme-2: no IPs, 100 credits."""
    return accounts.get_account(conn, cast.smpp_acme_2.name)


@pytest.fixture
def classic(conn: Connection, cast: Cast) -> Account:
    """sms-acme-1: 50 credits."""
    return accounts.get_account(conn, cast.sms_acme_1.name)


@pytest.fixture
def globex_1(conn: Connection, cast: Cast) -> Account:
    """smpp-globex-1: another customer's."""
    return accounts.get_account(conn, cast.smpp_globex_1.name)
