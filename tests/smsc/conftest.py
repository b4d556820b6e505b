"""The settings and accounts that tests of the SMPP server need."""

from dataclasses import replace

import pytest

from portal.core import wakeup
from portal.core.config import Config
from portal.services.accounts import accounts


@pytest.fixture
def limited(config):
    """Gives the test's settings with other limits; those in seconds may be fractions."""

    def replace_limits(**limits: float) -> Config:
        return replace(config, limits=replace(config.limits, **limits))

    return replace_limits


@pytest.fixture
def account(conn, cast):
    """The account of most tests, as the services see it."""
    return accounts.get_account(conn, cast.smpp_acme_1.name)


@pytest.fixture
def wakeup_sender(data):
    """What the web process does after each commit."""
    made = wakeup.WakeupSender(data)
    yield made
    made.close()


@pytest.fixture
def change_account(conn, cast, wakeup_sender):
    """Sets columns of the account of most tests, and tells the server."""

    def update_account(**columns: int) -> None:
        assignments = ", ".join(f"{name} = {value}" for name, value in columns.items())
        conn.execute(f"UPDATE accounts SET {assignments} WHERE id = ?", (cast.smpp_acme_1.id,))
        wakeup_sender.send()

    return update_account
