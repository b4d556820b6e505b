"""An account's pulse: each number moves when its subject changes, and only then."""

from collections.abc import Callable
from dataclasses import asdict

import pytest

from portal.core import clock, db
from portal.core.crypto import Keys
from portal.services.accounts import allowed_ips, change_counters, credentials, refused_binds, session_records
from portal.services.accounts.accounts import Account, by_name
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from tests.support import Cast


@pytest.fixture
def account(conn: db.Connection, cast: Cast) -> Account:
    return by_name(conn, cast.smpp_acme_1.name)


@pytest.fixture
def moved(conn: db.Connection, account: Account) -> Callable[[], set[str]]:
    """Which numbers have moved since it was asked last."""
    last = [asdict(change_counters.pulse(conn, account.id))]

    def look() -> set[str]:
        last.append(asdict(change_counters.pulse(conn, account.id)))
        return {name for name, value in last[-1].items() if value != last[-2][name]}

    return look


def test_nothing_moves_by_itself_or_by_another_account(
    conn: db.Connection, cast: Cast, moved: Callable[[], set[str]]
) -> None:
    assert moved() == set()
    allowed_ips.add(conn, SHELL, by_name(conn, cast.smpp_globex_1.name), "203.0.113.7")
    assert moved() == set()


def test_addresses(conn: db.Connection, account: Account, moved: Callable[[], set[str]]) -> None:
    allowed_ips.add(conn, SHELL, account, "203.0.113.7", expires_at=clock.now_ms() + 60_000)
    assert moved() == {"settings", "authorised"}
    # One that runs out is no change of the settings, and yet one.
    conn.execute("UPDATE allowed_ips SET expires_at = 1 WHERE network = '203.0.113.7'")
    assert "authorised" in moved()


def test_passwords(conn: db.Connection, account: Account, keys: Keys, moved: Callable[[], set[str]]) -> None:
    credentials.regenerate(conn, keys, SHELL, account, grace=60_000, send_mail=False)
    assert moved() == {"settings", "graces"}


def test_sessions_and_refusals(conn: db.Connection, account: Account, moved: Callable[[], set[str]]) -> None:
    now = clock.now_ms()
    session_records.opened(
        conn, [session_records.Connection(5, account.id, "127.0.0.1", "transceiver", "", 1, now, now, 3, 2, 1)]
    )
    assert moved() == {"sessions", "latest_session", "submitted", "delivered", "in_flight"}
    session_records.progressed(conn, [session_records.Progress(5, now, 4, 2, 0)])
    assert moved() == {"submitted", "in_flight"}
    refused_binds.refused(
        conn, [refused_binds.RefusedBind(account.id, "203.0.113.7", refused_binds.WRONG_PASSWORD, now)]
    )
    assert moved() == {"refusals", "latest_refusal"}


def test_movements(conn: db.Connection, account: Account, moved: Callable[[], set[str]]) -> None:
    credits.grant(conn, SHELL, account, 1000)
    assert moved() == {"latest_movement"}
