"""Whom to believe about where a request comes from."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network

import pytest
from flask import Flask, request

from portal.core import db
from portal.core.config import Config, WebSettings
from portal.web.core import access, context
from portal.web.core.proxies import is_from_this_machine, resolve_client_address
from tests.web.acting import get_field_value
from tests.web.core.conftest import HTTPS, browser_of

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
        ("10.0.0.1", "192.0.2.1:4444", "192.0.2.1"),
        ("10.0.0.1", "[2001:db8::1]:99", "2001:db8::1"),
        ("10.0.0.1", "198.51.100.1:1, [fd00::2]", "198.51.100.1"),
        # Who can't be read is nobody, and not the proxy.
        ("10.0.0.1", "unknown", "0.0.0.0"),
        ("10.0.0.1", "unix:", "0.0.0.0"),
        ("10.0.0.1", "198.51.100.1, garbage", "0.0.0.0"),
        ("10.0.0.1", "198.51.100.1, garbage, 10.0.0.2", "0.0.0.0"),
        ("10.0.0.1", "[198.51.100.1", "0.0.0.0"),
        ("10.0.0.1", "198.51.100.1:", "0.0.0.0"),
        ("10.0.0.1", "198.51.100.1, ", "0.0.0.0"),
        ("10.0.0.1", "", "0.0.0.0"),
        ("10.0.0.1", "fe80::9%eth0", "0.0.0.0"),
        ("10.0.0.1", "fe80::9%x Refused login from 192.0.2.1", "0.0.0.0"),
        ("10.0.0.1", "[fe80::9%x]:99", "0.0.0.0"),
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


@pytest.mark.parametrize("header", ["HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_VIA", "HTTP_X_FORWARDED_PROTO"])
def test_a_proxy_that_names_its_client_elsewhere_is_not_the_client(
    header: str,
) -> None:
    assert resolve_client_address({"REMOTE_ADDR": "10.0.0.1", header: "198.51.100.1"}, PROXIES) == "0.0.0.0"
    assert resolve_client_address({"REMOTE_ADDR": "203.0.113.9", header: "198.51.100.1"}, PROXIES) == "203.0.113.9"


def test_the_log_says_once_that_a_proxy_names_nobody(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        resolve_client_address({"REMOTE_ADDR": "10.9.9.9", "HTTP_X_FORWARDED_FOR": "unknown"}, PROXIES)
        is_from_this_machine({"REMOTE_ADDR": "127.9.9.9", "HTTP_X_REAL_IP": "198.51.100.1"}, PROXIES)
    assert caplog.messages == [
        "The proxy at 10.9.9.9 says in no X-Forwarded-For whom it asks for; they all share one limit.",
        "There is a proxy at 127.9.9.9 that isn't in [web] trusted_proxies; all its clients share one limit.",
    ]


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.8.0.1"])
def test_a_program_of_this_machine_is_told_from_a_proxy_on_it(peer: str) -> None:
    assert is_from_this_machine({"REMOTE_ADDR": peer, "HTTP_USER_AGENT": "curl"}, PROXIES)
    for header in ("FORWARDED", "VIA", "X_REAL_IP", "X_FORWARDED_FOR", "X_FORWARDED_HOST", "X_FORWARDED_PROTO"):
        assert not is_from_this_machine({"REMOTE_ADDR": peer, f"HTTP_{header}": "127.0.0.1"}, PROXIES)
    # A trusted one may add nothing at all.
    trusted = (ip_network("127.0.0.0/8"), ip_network("::1"))
    assert not is_from_this_machine({"REMOTE_ADDR": peer}, trusted)
    assert not is_from_this_machine({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": "127.0.0.1"}, trusted)


@pytest.mark.parametrize("peer", ["10.0.0.1", "203.0.113.9", ""])
def test_no_other_machine_says_that_it_is_this_one(peer: str) -> None:
    assert not is_from_this_machine({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": "127.0.0.1"}, PROXIES)


@pytest.mark.slow
def test_a_login_is_throttled_by_the_address_behind_the_proxy(https: Flask, conn: db.Connection) -> None:
    browser = browser_of(https)
    wrong = {"email": "nobody@acme.example", "password": "x"}
    direct = "https://localhost"
    for peer, forwarded, host in (("10.0.0.1", "198.51.100.1", HTTPS), ("203.0.113.9", "198.51.100.2", direct)):
        headers = {"X-Forwarded-For": forwarded, "Referer": f"{host}/"}
        environ = {"REMOTE_ADDR": peer}
        answer = browser.post("/login", data=wrong, headers=headers, environ_base=environ, base_url=direct)
        assert answer.status_code == 401
    buckets = {row[0] for row in conn.execute("SELECT name FROM throttle_buckets WHERE name LIKE '%address%'")}
    assert buckets == {"login:address:198.51.100.1", "login:address:203.0.113.9"}


@pytest.mark.parametrize(("peer", "secure"), [("10.0.0.1", True), ("203.0.113.9", False)])
def test_a_trusted_proxy_tells_that_https_is_spoken(https: Flask, peer: str, secure: bool) -> None:
    """What flask-wtf is strict about behind https shows what the application believes."""
    browser = browser_of(https)
    headers = {"X-Forwarded-Proto": "https"}
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


def test_the_public_url_alone_names_the_host_behind_a_proxy(
    make_app: Callable[[Config], Flask], config: Config
) -> None:
    """flask-wtf compares it with the referrer, which a browser writes."""
    web = WebSettings(public_url="https://Bücher.example:443/", trusted_proxies=("10.0.0.1",))
    browser = browser_of(make_app(replace(config, web=web)))

    for referrer, status in (("https://evil.example/", 400), ("https://xn--bcher-kva.example/login", 303)):
        headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example", "Referer": referrer}
        environ = {"REMOTE_ADDR": "10.0.0.1"}
        answer = browser.post("/language", data={"locale": "it"}, headers=headers, environ_base=environ)
        assert answer.status_code == status


@pytest.mark.parametrize("public_url", ["", "http://portal.example"])
def test_a_client_names_no_host(make_app: Callable[[Config], Flask], config: Config, public_url: str) -> None:
    app = make_app(replace(config, web=WebSettings(public_url=public_url, trusted_proxies=("10.0.0.1",))))
    hosts = []
    app.before_request(lambda: hosts.append(request.host))
    for peer in ("10.0.0.1", "203.0.113.9"):
        headers = {"X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example", "Host": "sms.example"}
        browser_of(app).get("/login", headers=headers, environ_base={"REMOTE_ADDR": peer})
    assert hosts == [public_url.removeprefix("http://") or "sms.example", "sms.example"]


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


def test_links_that_are_sent_have_the_path_before_ours_once(
    make_app: Callable[[Config], Flask], config: Config
) -> None:
    app = make_app(replace(config, web=WebSettings(public_url=f"{HTTPS}/sms")))
    for prefix in ("/sms", ""):
        with app.test_request_context("/", environ_overrides={"SCRIPT_NAME": prefix}):
            assert context.build_public_url("login.enrol", token="x") == f"{HTTPS}/sms/enrol/x"
