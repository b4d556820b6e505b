"""Change counters of an account: each number moves when its subject changes, and only then."""

from collections.abc import Callable
from dataclasses import asdict

import pytest

from portal.core import clock, db
from portal.core.crypto import Keys
from portal.services.accounts import allowed_ips, change_counters, credentials, refused_binds, session_records
from portal.services.accounts.accounts import Account, get_account
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from tests.support import Cast, record_refused_messages


@pytest.fixture
def account(conn: db.Connection, cast: Cast) -> Account:
    return get_account(conn, cast.smpp_acme_1.name)


@pytest.fixture
def moved(conn: db.Connection, account: Account) -> Callable[[], set[str]]:
    """Which numbers have moved since the last call."""
    last = [asdict(change_counters.read_change_counters(conn, account.id))]

    def read_changed() -> set[str]:
        last.append(asdict(change_counters.read_change_counters(conn, account.id)))
        return {name for name, value in last[-1].items() if value != last[-2][name]}

    return read_changed


@pytest.mark.slow
def test_nothing_moves_by_itself_or_by_another_account(
    conn: db.Connection, cast: Cast, moved: Callable[[], set[str]]
) -> None:
    assert moved() == set()
    allowed_ips.add_allowed_ip(conn, SHELL, get_account(conn, cast.smpp_globex_1.name), "203.0.113.7")
    assert moved() == set()


def test_addresses(conn: db.Connection, account: Account, moved: Callable[[], set[str]]) -> None:
    allowed_ips.add_allowed_ip(conn, SHELL, account, "203.0.113.7", expires_at=clock.now_ms() + 60_000)
    assert moved() == {"config_version", "allowed_ips"}
    # One that runs out is no change of the settings, and yet one.
    conn.execute("UPDATE allowed_ips SET expires_at = 1 WHERE network = '203.0.113.7'")
    assert "allowed_ips" in moved()


def test_passwords(conn: db.Connection, account: Account, keys: Keys, moved: Callable[[], set[str]]) -> None:
    credentials.regenerate_smpp_password(conn, keys, SHELL, account, grace_ms=60_000, send_mail=False)
    assert moved() == {"config_version", "grace_passwords"}


def test_sessions_and_refusals(conn: db.Connection, account: Account, moved: Callable[[], set[str]]) -> None:
    now = clock.now_ms()
    session_records.insert_smpp_sessions(
        conn, [session_records.SmppSessionRecord(5, account.id, "127.0.0.1", "transceiver", "", 1, now, now, 3, 2, 1)]
    )
    assert moved() == {"open_sessions", "latest_session", "submitted", "delivered", "in_flight"}
    session_records.update_smpp_session_progress(conn, [session_records.SmppSessionProgress(5, now, 4, 2, 0)])
    assert moved() == {"submitted", "in_flight"}
    refused_binds.record_refused_binds(
        conn, [refused_binds.RefusedBind(account.id, "203.0.113.7", refused_binds.WRONG_PASSWORD, now)]
    )
    assert moved() == {"latest_refused_bind"}
    record_refused_messages(conn, account.id, {("sender", "NOTMINE"): 1})
    assert moved() == {"latest_refused_message"}


def test_movements(conn: db.Connection, account: Account, moved: Callable[[], set[str]]) -> None:
    credits.grant_credits(conn, SHELL, account, 1000)
    assert moved() == {"latest_movement"}
