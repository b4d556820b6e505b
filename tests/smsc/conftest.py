"""The settings and accounts that tests of the SMPP server need."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from portal.core import db, wakeup
from portal.core.config import Config
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from tests.support import Cast


@pytest.fixture
def limited(config: Config) -> Callable[..., Config]:
    """Gives the test's settings with other limits; those in seconds may be fractions."""

    def replace_limits(**limits: Any) -> Config:
        return replace(config, limits=replace(config.limits, **limits))

    return replace_limits


@pytest.fixture
def account(conn: db.Connection, cast: Cast) -> Account:
    """The account of most tests, as the services see it."""
    return accounts.get_account(conn, cast.smpp_acme_1.name)


@pytest.fixture
def wakeup_sender(data: Path) -> wakeup.WakeupSender:
    """What the web process does after each commit."""
    return wakeup.WakeupSender(data)


@pytest.fixture
def change_account(conn: db.Connection, cast: Cast, wakeup_sender: wakeup.WakeupSender) -> Callable[..., None]:
    """Sets columns of the account of most tests, and tells the server."""

    def update_account(**columns: int | str) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        conn.execute(f"UPDATE accounts SET {assignments} WHERE id = ?", (*columns.values(), cast.smpp_acme_1.id))
        wakeup_sender.send()

    return update_account
