"""The token of forms, and the cookie that it is bound to."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from portal.core import db
from portal.core.config import Config, WebSettings
from portal.services.people.authentication import start_login_session
from portal.services.people.users import get_user_by_email
from tests.support import Cast, Person
from tests.web.conftest import Browser
from tests.web.core.conftest import HTTPS, browser_of


@pytest.mark.parametrize(
    ("public_url", "name", "path"),
    [
        ("", "portal_session", "/"),
        ("http://portal.example/sms/", "portal_session", "/sms"),
        ("https://portal.example/", "__Host-portal_session", "/"),
        ("https://portal.example/sms", "__Secure-portal_session", "/sms"),
        ("https://portal.example/our/sms/", "__Secure-portal_session", "/our/sms"),
    ],
)
def test_the_session_s_cookie_is_closed_to_scripts_and_other_sites(
    make_app: Callable[[Config], Flask], config: Config, public_url: str, name: str, path: str
) -> None:
    """OWASP's ASVS 5.0, 3.3.1 to 3.3.4."""
    answer = browser_of(make_app(replace(config, web=WebSettings(public_url=public_url)))).get("/login")
    (cookie,) = answer.headers.getlist("Set-Cookie")
    assert cookie.startswith(f"{name}=")
    attributes = {each.strip() for each in cookie.split(";")[1:]}
    secure = {"Secure"} if public_url.startswith("https:") else set()
    assert attributes == {"HttpOnly", "SameSite=Lax", f"Path={path}"} | secure


@pytest.mark.parametrize("prefix", ["", "/sms"])
def test_on_https_a_planted_cookie_of_the_plain_name_is_no_session(
    make_app: Callable[[Config], Flask], config: Config, conn: db.Connection, cast: Cast, prefix: str
) -> None:
    """Another host of the domain, or a page over plain http, can set one."""
    app = make_app(replace(config, web=WebSettings(public_url=f"https://portal.example{prefix}")))
    assert isinstance(app.session_interface, SecureCookieSessionInterface)
    serializer = app.session_interface.get_signing_serializer(app)
    assert serializer
    token = start_login_session(conn, get_user_by_email(conn, cast.alice.email), "127.0.0.1", "a test")
    value = str(serializer.dumps({"_user_id": token, "_fresh": True}))
    for name, status in (("portal_session", 302), (app.config["SESSION_COOKIE_NAME"], 200)):
        # Not the client's own cookies, which are put in place of this header.
        browser = app.test_client(use_cookies=False)
        assert browser.get("/profile", headers={"Cookie": f"{name}={value}"}).status_code == status


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


@pytest.mark.parametrize("token", [None, ""])
def test_a_change_without_its_token_is_400(
    client: Callable[[Person], Browser], cast: Cast, conn: db.Connection, token: str | None
) -> None:
    data = {"locale": "it"} | ({} if token is None else {"csrf_token": token})
    assert client(cast.alice).post("/language", data=data, csrf=False).status_code == 400
    assert conn.execute("SELECT language FROM users WHERE id = ?", (cast.alice.id,)).fetchone()[0] is None


def test_another_browser_s_token_or_an_invented_one_changes_nothing(
    client: Callable[[Person], Browser], cast: Cast, conn: db.Connection
) -> None:
    for token in ("invented", client(cast.charlie).csrf_token()):
        answer = client(cast.alice).post("/language", data={"locale": "it", "csrf_token": token}, csrf=False)
        assert (answer.status_code, answer.location) == (303, "/")
    assert conn.execute("SELECT language FROM users WHERE id = ?", (cast.alice.id,)).fetchone()[0] is None


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
@pytest.mark.parametrize(("path", "status"), [("/login", 400), ("/language", 400), ("/logout", 302)])
def test_another_site_s_form_gets_no_cookie(browser: Browser, path: str, status: int, headers: dict[str, str]) -> None:
    """It comes without ours (SameSite), and a new one in its answer would end the login session that there is."""
    answer = browser.post(path, data={"csrf_token": "invented"}, csrf=False, headers=headers)
    assert answer.status_code == status
    assert "Set-Cookie" not in answer.headers


def test_behind_https_a_form_from_elsewhere_is_400(https: Flask) -> None:
    browser = browser_of(https)
    for referrer, status in ((HTTPS + "/login", 303), ("https://evil.example/", 400)):
        answer = browser.post(
            "/language", data={"locale": "it"}, base_url="https://localhost", headers={"Referer": referrer}
        )
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"Origin": "http://localhost"}, 303),
        ({"Origin": "https://portal.example", "Sec-Fetch-Site": "same-origin"}, 303),
        ({"Origin": "https://evil.example", "Referer": "http://localhost/"}, 400),
        ({"Origin": "http://localhost.evil.example"}, 400),
        ({"Origin": "http://localhost:81"}, 400),
        ({"Origin": "null"}, 400),
        ({"Origin": "http://["}, 400),
        ({"Sec-Fetch-Site": "cross-site"}, 400),
        ({"Origin": "http://localhost", "Sec-Fetch-Site": "same-site"}, 400),
    ],
)
@pytest.mark.parametrize("htmx", [False, True])
def test_a_form_of_another_site_is_refused_even_with_the_token(
    client: Callable[[Person], Browser],
    cast: Cast,
    conn: db.Connection,
    htmx: bool,
    headers: dict[str, str],
    status: int,
) -> None:
    alice = client(cast.alice)
    answer = alice.post("/language", data={"locale": "it"}, headers=headers, htmx=htmx)
    assert answer.status_code in ((status, 204) if status == 303 else (status,))
    language = conn.execute("SELECT language FROM users WHERE id = ?", (cast.alice.id,)).fetchone()[0]
    assert language == ("it" if status == 303 else None)


def test_the_log_says_what_to_do_where_a_proxy_changes_the_host(
    client: Callable[[Person], Browser], cast: Cast, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        client(cast.alice).post("/language", data={"locale": "it"}, headers={"Origin": "http://sms.acme.example"})
    (line,) = [each.getMessage() for each in caplog.records if "public_url" in each.getMessage()]
    assert "at http://sms.acme.example and the request is for localhost" in line


def test_public_url_is_no_other_site(client: Callable[[Person], Browser], cast: Cast, config: Config) -> None:
    """Where a proxy says another Host than the browser does."""
    alice = client(cast.alice)
    assert alice.post("/language", data={"locale": "it"}, headers={"Origin": config.public_url}).status_code == 303
