"""Headers, cookies, CSRF, and whom to believe about where a request comes from."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network

import pytest
from flask import Flask

from portal.core import db
from portal.core.config import Config, Web
from portal.web.core.security import client_address
from tests.support import ROOT, Cast, Person
from tests.web.conftest import Browser
from tests.web.html import faults

PAGES = ("/login", "/enrol/invented", "/no-such-page", "/profile", "/accounts/smpp-acme-1", "/static/app.css")


def browser_of(app: Flask) -> Browser:
    made = app.test_client()
    assert isinstance(made, Browser)
    return made


@pytest.fixture
def https(make_app: Callable[[Config], Flask], config: Config) -> Flask:
    """The application as it runs behind a proxy that speaks TLS."""
    web = Web(public_url="https://portal.example", trusted_proxies=("127.0.0.1", "10.0.0.0/8"))
    return make_app(replace(config, web=web))


# --- headers


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("htmx", [False, True])
def test_every_answer_carries_the_headers(
    client: Callable[[Person], Browser], cast: Cast, path: str, htmx: bool
) -> None:
    headers = client(cast.alice).get(path, htmx=htmx).headers
    policy = dict(each.split(" ", 1) for each in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == policy["connect-src"] == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] in ("same-origin", "strict-origin")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Strict-Transport-Security" not in headers
    assert "Server" not in headers


@pytest.mark.parametrize("path", [each for each in PAGES if not each.startswith("/static/")])
def test_pages_are_kept_by_no_cache(client: Callable[[Person], Browser], cast: Cast, path: str) -> None:
    answer = client(cast.alice).get(path)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "HX-Request" in answer.headers["Vary"]


def test_https_is_insisted_on_where_it_is_spoken(https: Flask) -> None:
    headers = browser_of(https).get("/login").headers
    assert "max-age=31536000" in headers["Strict-Transport-Security"]
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"


def test_no_template_has_inline_code() -> None:
    """The pages that tests open are looked at as they come; this looks at what no test happens to reach, too."""
    for file in (ROOT / "templates").rglob("*.html"):
        if "mail" not in file.parts:
            text = file.read_text()
            assert " style=" not in text, file
            assert " hx-on" not in text, file
            assert "<style" not in text, file
            assert not [each for each in (" onclick=", " onload=", " onsubmit=", " onchange=") if each in text], file


def test_the_eye_sees_what_it_should() -> None:
    page = "<!doctype html><html><head><title>x</title></head><body>{}</body></html>"
    assert faults(page.format("<p>fine")) == []
    for wrong in (
        "<div>",
        "<b><i></b></i>",
        '<p id="a"></p><p id="a"></p>',
        '<p style="color:red"></p>',
        "<p onclick=x></p>",
        "<script>x</script>",
        '<label for="nowhere">x</label>',
        '<form method="post"></form>',
    ):
        assert faults(page.format(wrong)), wrong


# --- cookies


@pytest.mark.parametrize("secure", [False, True])
def test_the_session_s_cookie_is_closed_to_scripts_and_other_sites(app: Flask, https: Flask, secure: bool) -> None:
    answer = browser_of(https if secure else app).get("/login", base_url="https://localhost" if secure else None)
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("portal_session=")
    attributes = {each.strip() for each in cookie.split(";")[1:]}
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= attributes
    assert ("Secure" in attributes) is secure
    assert not [each for each in attributes if each.startswith(("Domain", "Expires", "Max-Age"))]


def test_a_cookie_of_another_installation_is_no_login(
    client: Callable[[Person], Browser], cast: Cast, make_app: Callable[[Config], Flask], config: Config
) -> None:
    other = make_app(config)
    other.secret_key = b"another installation's"
    alice = client(cast.alice)
    cookie = alice.get_cookie("portal_session")
    assert cookie
    stranger = browser_of(other)
    stranger.set_cookie("portal_session", cookie.value)
    assert stranger.get("/profile").status_code == 302


# --- CSRF


@pytest.mark.parametrize("token", [None, "", "invented"])
def test_a_change_without_its_token_is_400(
    client: Callable[[Person], Browser], cast: Cast, conn: db.Connection, token: str | None
) -> None:
    data = {"locale": "it"} | ({} if token is None else {"csrf_token": token})
    assert client(cast.alice).post("/language", data=data, csrf=False).status_code == 400
    assert conn.execute("SELECT language FROM users WHERE id = ?", (cast.alice.id,)).fetchone()[0] is None


def test_another_browser_s_token_is_400(client: Callable[[Person], Browser], cast: Cast) -> None:
    data = {"locale": "it", "csrf_token": client(cast.charlie).csrf_token()}
    assert client(cast.alice).post("/language", data=data, csrf=False).status_code == 400


def test_behind_https_a_form_from_elsewhere_is_400(https: Flask) -> None:
    browser = browser_of(https)
    here = "https://localhost"
    for referrer, status in ((here + "/login", 303), ("https://evil.example/", 400)):
        answer = browser.post("/language", data={"locale": "it"}, base_url=here, headers={"Referer": referrer})
        assert answer.status_code == status


# --- proxies

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
    assert client_address(environ, PROXIES) == address


def test_without_trusted_proxies_nobody_is_believed() -> None:
    assert client_address({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "192.0.2.1"}, ()) == "127.0.0.1"


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
