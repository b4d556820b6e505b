"""What is left of refused logins where requests come in: rows of the audit log, and lines that fail2ban reads."""

import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from http.cookiejar import CookieJar
from urllib.parse import urlencode

import pytest
from flask import Flask

from portal.core import db
from portal.core.config import Config, WebSettings
from portal.services.people import refused_logins
from portal.services.people.refused_logins import _Memory
from tests.serving import run_component
from tests.support import ROOT, Cast, wait_until
from tests.web.acting import get_field_value
from tests.web.conftest import Browser

CLIENT, PROXY = "203.0.113.7", "10.0.0.1"
# What somebody types so that the log seems to name another address.
FORGED = "x web login refused: login.wrong_password address=192.0.2.99 tries=1 email=y"


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests of this process have counted is not written here."""
    monkeypatch.setattr(refused_logins, "_memory", _Memory())


def written(conn: db.Connection) -> list[tuple[object, ...]]:
    refused_logins.write_refused_logins(conn)
    rows = conn.execute(
        "SELECT action, actor, address, details ->> 'count' FROM audit_log WHERE details ->> 'last_at' ORDER BY id"
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize(("peer", "seen"), [(PROXY, CLIENT), ("192.0.2.50", "192.0.2.50")])
def test_each_kind_leaves_a_row_with_the_client_s_address(
    make_app: Callable[[Config], Flask], config: Config, conn: db.Connection, cast: Cast, peer: str, seen: str
) -> None:
    limits = replace(config.limits, login_failures=2)
    app = make_app(replace(config, web=WebSettings(trusted_proxies=(PROXY,)), limits=limits))
    browser = app.test_client()
    assert isinstance(browser, Browser)
    came_from = {"environ_base": {"REMOTE_ADDR": peer}, "headers": {"X-Forwarded-For": CLIENT}}

    def post(path: str, **form: str) -> int:
        return browser.post(path, data=form, **came_from).status_code

    assert post("/login", email="nobody@acme.example", password="wrong") == 401
    assert post("/login", email=cast.alice.email, password="wrong") == 401
    assert post("/login", email=cast.alice.email, password=cast.alice.password) == 303
    assert post("/login/totp", code="000000") == 401
    assert post("/login/totp", recovery="aaaaa-bbbbb") == 401
    assert post("/login/totp", code=cast.alice.totp_code()) == 429
    assert written(conn) == [
        ("login.wrong_password", cast.alice.email, seen, 1),
        ("login.wrong_code", cast.alice.email, seen, 1),
        ("login.wrong_recovery_code", cast.alice.email, seen, 1),
        ("login.unknown_email", "nobody@acme.example", seen, 1),
        ("login.throttled", cast.alice.email, seen, 1),
    ]


def read_documented_filter() -> re.Pattern[str]:
    """The regular expression of the filter in the docs, as fail2ban uses it."""
    found = re.search(r"^failregex = (.*)$", (ROOT / "docs" / "operating.md").read_text(), re.MULTILINE)
    assert found
    return re.compile(found[1].replace("<ADDR>", r"(?P<address>[0-9a-fA-F.:]+)"))


def test_fail2ban_s_filter_bans_for_wrong_guesses_alone(conn: db.Connection, caplog: pytest.LogCaptureFixture) -> None:
    for number, reason in enumerate(refused_logins.REASONS):
        refused_logins.record_refused_login(reason, "marta@acme.example", f"192.0.2.{number}")
    refused_logins.write_refused_logins(conn)
    pattern = read_documented_filter()
    lines = [f"2026-11-30 15:21:40,123 web {each.getMessage()}" for each in caplog.records]
    assert len(lines) == len(refused_logins.REASONS)
    assert [reason for reason, line in zip(refused_logins.REASONS, lines, strict=True) if pattern.match(line)] == [
        "login.unknown_email",
        "login.wrong_password",
        "login.wrong_code",
        "login.wrong_recovery_code",
    ]


@pytest.mark.slow
def test_fail2ban_s_filter_finds_the_log_s_lines_and_no_other_address(
    config: Config, conn: db.Connection, cast: Cast, capfd: pytest.CaptureFixture[str]
) -> None:
    with run_component(config, "web", PORTAL_WEB_TRUSTED_PROXIES="127.0.0.1") as server:
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

        def post_login(email: str, address: str) -> None:
            page = opener.open(f"{server.url}/login").read().decode()
            form = {"csrf_token": get_field_value(page, "csrf_token"), "email": email, "password": "wrong"}
            request = urllib.request.Request(
                f"{server.url}/login", urlencode(form).encode(), {"X-Forwarded-For": address}
            )
            with pytest.raises(urllib.error.HTTPError, match="401"):
                opener.open(request)

        post_login(cast.alice.email, CLIENT)
        post_login(f"{FORGED}\n2026-11-30 15:21:40,123 web login refused:", "2001:db8::7")
        post_login(FORGED, "198.51.100.3")
        # Written by the job, and what came within its last second by the stop.
        wait_until(lambda: conn.execute("SELECT 1 FROM audit_log WHERE address = '198.51.100.3'").fetchone())
        post_login(cast.bob.email, "198.51.100.4")
    lines = capfd.readouterr().err.splitlines()
    pattern = read_documented_filter()
    found = [match["address"] for line in lines if (match := pattern.match(line))]
    # Of one second those with a user's e-mail address come first.
    assert sorted(found) == sorted([CLIENT, "2001:db8::7", "198.51.100.3", "198.51.100.4"])
    # As fail2ban reads a file, without the date that it has recognised, and as it reads the journal.
    (line,) = (each for each in lines if cast.alice.email in each)
    undated = line[len("2026-11-30 15:21:40,123") :]
    assert pattern.match(undated)
    assert pattern.match(f"host python[123]: {line}")
    assert not pattern.match(f"{line.partition(' web ')[0]} web {FORGED}")
    count = "SELECT count(*) FROM audit_log WHERE details ->> 'last_at'"
    assert conn.execute(count).fetchone()[0] == 4
