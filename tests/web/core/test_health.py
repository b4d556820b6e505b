"""For monitoring: open to this machine, and to who has the token."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask

from portal.core import clock, db
from portal.core.config import Config, WebSettings
from portal.services.accounts import session_records
from tests.web.conftest import Browser
from tests.web.core.conftest import browser_of

ADDRESSES = ("/healthz", "/readyz", "/metrics")
AWAY = {"REMOTE_ADDR": "203.0.113.9"}


@pytest.fixture
def guarded(make_app: Callable[[Config], Flask], config: Config, conn: db.Connection) -> Browser:
    """An installation with a token and a proxy, whose SMPP server runs."""
    session_records.record_component_heartbeat(conn, "smsc", clock.now_ms())
    made = make_app(
        replace(config, web=WebSettings(metrics_token="s3cret", trusted_proxies=("10.0.0.1",)))
    ).test_client()
    assert isinstance(made, Browser)
    return made


def test_it_lives(browser: Browser) -> None:
    answer = browser.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")


def test_it_is_ready_once_the_smpp_server_is(browser: Browser, conn: db.Connection) -> None:
    answer = browser.get("/readyz")
    assert answer.status_code == 503
    assert "SMPP server isn't ready" in answer.text
    session_records.record_component_heartbeat(conn, "smsc", clock.now_ms())
    assert browser.get("/readyz").status_code == 200
    session_records.remove_component_heartbeat(conn, "smsc")
    assert browser.get("/readyz").status_code == 503


def test_figures_are_in_the_text_format_of_prometheus(browser: Browser) -> None:
    answer = browser.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE " in answer.text


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize(
    "header",
    [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-Real-IP", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
        ("CF-Connecting-IP", "203.0.113.9"),
        ("True-Client-IP", "203.0.113.9"),
        ("X-Client-IP", "203.0.113.9"),
        ("X-Original-Forwarded-For", "203.0.113.9"),
    ],
)
def test_a_proxy_that_was_not_made_known_lets_nobody_in(browser: Browser, path: str, header: tuple[str, str]) -> None:
    assert browser.get(path, headers=[header]).status_code == 404


@pytest.mark.parametrize("path", ADDRESSES)
def test_from_elsewhere_without_a_token_there_is_nothing(browser: Browser, path: str) -> None:
    assert browser.get(path, environ_base=AWAY).status_code == 404
    for header in ("Bearer ", "Bearer None", ""):
        headers = {"Authorization": header}
        assert browser.get(path, environ_base=AWAY, headers=headers).status_code == 404


@pytest.mark.parametrize("path", ADDRESSES)
def test_the_token_opens_it_from_elsewhere(guarded: Browser, path: str) -> None:
    def status(header: str) -> int:
        return guarded.get(path, environ_base=AWAY, headers={"Authorization": header}).status_code

    assert status("Bearer s3cret") == 200
    assert status("Bearer s3cre") == status("Bearer ") == status("Bearer é") == 404


@pytest.mark.parametrize("path", ADDRESSES)
@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"X-Forwarded-For": "unknown"},
        {"X-Forwarded-For": "192.0.2.1:4444"},
        {"X-Forwarded-For": "[2001:db8::1]:99"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Real-IP": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {},
    ],
)
def test_a_proxy_on_this_machine_is_not_mistaken_for_it(https: Flask, path: str, headers: dict[str, str]) -> None:
    assert browser_of(https).get(path, headers=headers).status_code == 404


def test_monitoring_leaves_no_cookie(browser: Browser) -> None:
    assert "Set-Cookie" not in browser.get("/healthz").headers


def test_a_database_that_can_not_be_read_is_not_ready(browser: Browser, conn: db.Connection) -> None:
    conn.execute("ALTER TABLE components RENAME TO elsewhere")
    answer = browser.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "database: no such table: components\n")


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DELETE FROM _sqlite_migrations WHERE name = 'm0001_initial'", "older version (without m0001_initial)"),
        (
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('portal', 'm9999_x', '')",
            "newer version (m9999_x)",
        ),
    ],
)
def test_another_version_s_schema_is_not_ready(
    guarded: Browser, browser: Browser, conn: db.Connection, statement: str, reason: str
) -> None:
    assert browser.get("/readyz").status_code == 200
    conn.execute(statement)
    answer = browser.get("/readyz")
    assert answer.status_code == 503
    assert reason in answer.text
