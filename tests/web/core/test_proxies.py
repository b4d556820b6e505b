"""Whom to believe about where a request comes from."""

from ipaddress import ip_network

import pytest
from flask import Flask

from portal.core import db
from portal.web.core import access
from portal.web.core.proxies import resolve_client_address
from tests.web.acting import get_field_value
from tests.web.core.conftest import browser_of

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "claimed", "address"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # nobody asked
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "192.0.2.66, 198.51.100.1", "198.51.100.1"),  # what stands left of it anyone may have written
        ("10.0.0.1", "192.0.2.66, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "not an address", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, garbage", "10.0.0.1"),
        ("10.0.0.1", " , ", "10.0.0.1"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("::ffff:203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("", None, "0.0.0.0"),  # a Unix socket
    ],
)
def test_the_address_is_read_from_the_right_and_from_trusted_proxies_only(
    peer: str, claimed: str | None, address: str
) -> None:
    environ = {"REMOTE_ADDR": peer} | ({"HTTP_X_FORWARDED_FOR": claimed} if claimed is not None else {})
    assert resolve_client_address(environ, PROXIES) == address


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert resolve_client_address({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "192.0.2.1"}, ()) == "127.0.0.1"


@pytest.mark.slow
def test_a_login_is_throttled_by_the_address_behind_the_proxy(https: Flask, conn: db.Connection) -> None:
    browser = browser_of(https)
    wrong = {"email": "nobody@acme.example", "password": "x"}
    for peer, forwarded in (("10.0.0.1", "198.51.100.1"), ("203.0.113.9", "198.51.100.2")):
        headers = {"X-Forwarded-For": forwarded, "Referer": "https://localhost/"}
        environ = {"REMOTE_ADDR": peer}
        answer = browser.post("/login", data=wrong, headers=headers, environ_base=environ, base_url="https://localhost")
        assert answer.status_code == 401
    buckets = {row[0] for row in conn.execute("SELECT name FROM throttle_buckets WHERE name LIKE '%address%'")}
    assert buckets == {"login:address:198.51.100.1", "login:address:203.0.113.9"}


@pytest.mark.parametrize(("peer", "secure"), [("10.0.0.1", True), ("203.0.113.9", False)])
def test_a_trusted_proxy_tells_that_https_is_spoken(https: Flask, peer: str, secure: bool) -> None:
    """What flask-wtf is strict about behind https shows what the application believes."""
    browser = browser_of(https)
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "portal.example"}
    environ = {"REMOTE_ADDR": peer}
    page = browser.get("/login", headers=headers, environ_base=environ)
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    token = page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
    answer = browser.post(
        "/language",
        data={"locale": "it", "csrf_token": token},
        headers=headers | {"Cookie": cookie},
        environ_base=environ,
        csrf=False,
    )
    assert answer.status_code == (400 if secure else 303)  # no referrer was sent


@pytest.mark.parametrize(
    ("peer", "prefix", "path"),
    [
        ("10.0.0.1", "/sms/", "/sms/login"),
        ("10.0.0.1", "//elsewhere.example", "/login"),
        ("203.0.113.9", "/sms/", "/login"),
    ],
)
def test_a_trusted_proxy_tells_the_path_before_ours(https: Flask, peer: str, prefix: str, path: str) -> None:
    answer = browser_of(https).get("/", headers={"X-Forwarded-Prefix": prefix}, environ_base={"REMOTE_ADDR": peer})
    assert answer.location == path


def test_the_way_back_has_the_path_before_ours(https: Flask) -> None:
    with https.test_request_context("/login", environ_overrides={"SCRIPT_NAME": "/sms"}):
        assert access.get_safe_redirect_path("/profile") == "/sms/profile"
        assert access.get_safe_redirect_path("//elsewhere.example") == "/sms/"


def test_a_page_after_a_refused_form_leads_to_the_start_without_the_path_before_ours(https: Flask) -> None:
    browser, environ = browser_of(https), {"REMOTE_ADDR": "10.0.0.1"}
    headers = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "portal.example",
        "X-Forwarded-Prefix": "/sms",
        "Referer": "https://portal.example/sms/login",
    }
    page = browser.get("/login", headers=headers, environ_base=environ)
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    form = {"email": "nobody@acme.example", "password": "wrong", "csrf_token": get_field_value(page.text, "csrf_token")}
    refused = browser.post("/login", data=form, headers=headers | {"Cookie": cookie}, environ_base=environ, csrf=False)
    assert refused.status_code == 401
    # What comes back is put behind the prefix, see the test above.
    assert get_field_value(refused.text, "next") == "/"
