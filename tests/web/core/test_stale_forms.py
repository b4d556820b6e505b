"""Forms that come too late: after a logout in another tab, from a page of a login session before, without a cookie."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import TestResponse

from portal.core import db
from portal.services.accounts import allowed_ips
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
HERE = "http://localhost"
SETTINGS = "/accounts/smpp-acme-2/options/smpp"
IPS = "/accounts/smpp-acme-2/ips"
LOGGED_OUT = "You are no longer logged in, so nothing has been changed. Log in, and send it again."
TO_GO_ON = "You are no longer logged in. Log in to go on."
OUT_OF_DATE = "This page was out of date, so nothing has been changed. Check it and send it again."


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


def send(browser: Browser, path: str, page: str, token: str, htmx: bool = False, **fields: Any) -> TestResponse:
    """Send a form as a browser does that shows this page."""
    headers = {"Referer": HERE + page, "Origin": HERE, "Sec-Fetch-Site": "same-origin"}
    if htmx:
        headers["HX-Current-URL"] = HERE + page
    data = {"csrf_token": token} | fields
    return browser.post(path, data=data, csrf=False, headers=headers, htmx=htmx)


def get_target(answer: TestResponse, htmx: bool, status: int = 303) -> str:
    """Where an answer leads."""
    assert answer.status_code == (204 if htmx else status)
    return answer.headers["HX-Redirect"] if htmx else answer.location or ""


def list_ips(conn: db.Connection) -> list[str]:
    return [each.network for each in allowed_ips.list_allowed_ips(conn, acting.get_account(conn, "smpp-acme-2").id)]


def find_login_notice(browser: Browser) -> str:
    """What the login's form says over its fields."""
    form = browser.get("/login").text.partition('<form class="form"')[2].partition("</form>")[0]
    return extract_text(form.partition('role="alert"')[2])


# --- the login's own forms


def test_a_login_form_whose_cookie_has_gone_is_shown_again(browser: Browser, cast: Cast) -> None:
    token = get_field_value(browser.get("/login").text, "csrf_token")
    browser.delete_cookie("portal_session")
    fields: dict[str, Any] = {"email": cast.alice.email, "password": cast.alice.password}
    path = "/login?next=/accounts/smpp-acme-1?period%3D7d"
    answer = send(browser, path, path, token, **fields)
    assert answer.status_code == 422
    assert "This page was out of date. Enter your password once more" in extract_text(answer.text)
    assert get_field_value(answer.text, "email") == cast.alice.email
    assert cast.alice.password not in answer.text
    # The form that has come is good.
    answer = send(browser, path, path, get_field_value(answer.text, "csrf_token"), **fields)
    assert (answer.status_code, answer.location) == (303, "/login/totp?next=/accounts/smpp-acme-1?period%3D7d")


def test_a_stale_login_form_never_logs_in(browser: Browser, cast: Cast) -> None:
    fields: dict[str, Any] = {"email": cast.alice.email, "password": cast.alice.password}
    assert send(browser, "/login", "/login", "invented", **fields).status_code == 422
    with browser.session_transaction() as session:
        assert "pending_login" not in session


@pytest.mark.parametrize("path", ["/login", "/login/totp"])
def test_where_another_tab_has_logged_in_a_login_form_leads_on(alice: Browser, path: str) -> None:
    there = f"{path}?next=/accounts/smpp-acme-1"
    answer = send(alice, there, there, "of-before-the-login", email="x", password="y", code="123456")
    assert (answer.status_code, answer.location) == (303, "/accounts/smpp-acme-1")
    answer = send(alice, f"{path}?next=//evil.example", path, "of-before-the-login")
    assert (answer.status_code, answer.location) == (303, "/")


def test_a_code_whose_cookie_has_gone_leads_to_the_first_step(browser: Browser, cast: Cast) -> None:
    browser.post("/login", data={"email": cast.alice.email, "password": cast.alice.password})
    page = "/login/totp?next=/profile"
    token = get_field_value(browser.get(page).text, "csrf_token")
    browser.delete_cookie("portal_session")
    answer = send(browser, page, page, token, code=cast.alice.totp_code())
    assert (answer.status_code, answer.location) == (303, "/login?next=/profile")
    assert "That took too long; nothing has been changed. Begin again." in find_login_notice(browser)


# --- after a logout


@pytest.mark.parametrize("htmx", [False, True])
@pytest.mark.parametrize("cookie", ["kept", "gone"])
def test_a_form_after_a_logout_leads_to_the_login_and_back(
    alice: Browser, conn: db.Connection, cookie: str, htmx: bool
) -> None:
    page = f"{SETTINGS}?lines=20"
    token = get_field_value(alice.get(page).text, "csrf_token")
    alice.post("/logout")
    alice.get("/login")
    if cookie == "gone":
        alice.delete_cookie("portal_session")
    answer = send(alice, IPS, page, token, htmx, network="203.0.113.7")
    assert get_target(answer, htmx, 302) == f"/login?next={SETTINGS}?lines%3D20"
    assert list_ips(conn) == []
    assert LOGGED_OUT in find_login_notice(alice)
    assert LOGGED_OUT not in extract_text(alice.get("/login").text)


@pytest.mark.parametrize("htmx", [False, True])
def test_a_form_after_the_end_of_its_session_leads_to_the_login_too(
    alice: Browser, conn: db.Connection, htmx: bool
) -> None:
    token = get_field_value(alice.get(SETTINGS).text, "csrf_token")
    conn.execute("DELETE FROM login_sessions")
    for _ in range(2):
        answer = send(alice, IPS, SETTINGS, token, htmx, network="203.0.113.7")
        assert get_target(answer, htmx, 302) == f"/login?next={SETTINGS}"
    assert list_ips(conn) == []
    # Twice sent, once said.
    assert extract_text(alice.get("/login").text).count(LOGGED_OUT) == 1


@pytest.mark.parametrize("htmx", [False, True])
def test_a_page_after_the_end_of_its_session_says_why_it_is_not_shown(
    alice: Browser, conn: db.Connection, htmx: bool
) -> None:
    conn.execute("DELETE FROM login_sessions")
    answer = alice.get(SETTINGS, htmx=htmx, headers={"HX-Current-URL": HERE + SETTINGS} if htmx else {})
    assert get_target(answer, htmx, 302) == f"/login?next={SETTINGS}"
    assert TO_GO_ON in find_login_notice(alice)
    assert find_login_notice(alice) == ""


def test_a_poll_after_a_logout_says_why(alice: Browser) -> None:
    alice.post("/logout")
    alice.get("/login")
    live = "/accounts/smpp-acme-2/live?page=home&seen="
    answer = alice.get(live, htmx=True, headers={"HX-Current-URL": HERE + SETTINGS})
    assert get_target(answer, True) == f"/login?next={SETTINGS}"
    assert TO_GO_ON in find_login_notice(alice)


def test_whoever_has_just_come_is_told_nothing(browser: Browser) -> None:
    assert browser.get("/profile").location == "/login?next=/profile"
    assert find_login_notice(browser) == ""


def test_a_second_logout_is_no_loss(alice: Browser) -> None:
    token = get_field_value(alice.get(SETTINGS).text, "csrf_token")
    alice.post("/logout")
    alice.get("/login")
    assert send(alice, "/logout", SETTINGS, token).location == f"/login?next={SETTINGS}"
    assert LOGGED_OUT not in alice.get("/login").text


@pytest.mark.parametrize(
    ("path", "referrer", "page"),
    [
        ("/accounts/smpp-acme-1/password", "/accounts/smpp-acme-1/nowhere", "/accounts/smpp-acme-1/password"),
        # What is no page leads to the nearest one above it.
        ("/profile/sessions/1/end", "", "/profile"),
        ("/profile/sessions/1/end", "/profile/sessions/1/end", "/profile"),
        ("/accounts/smpp-acme-1/senders", "", "/accounts/smpp-acme-1/senders"),
        ("/accounts/smpp-acme-1/senders?p=2", "http://elsewhere.example/", "/accounts/smpp-acme-1/senders?p%3D2"),
        (
            "/accounts/smpp-acme-1/credits/transfer",
            "http://localhost//evil.example/",
            "/accounts/smpp-acme-1/credits/transfer",
        ),
        ("/profile/password", "http://[", "/profile"),
        ("/admin/packs", "", "/admin/packs"),
    ],
)
def test_what_comes_after_the_login_is_a_page(browser: Browser, path: str, referrer: str, page: str) -> None:
    url = referrer if referrer.startswith("http") else HERE + referrer if referrer else ""
    answer = browser.post(path, data={"csrf_token": "x"}, csrf=False, headers={"Referer": url})
    assert answer.location == f"/login?next={page}"


# --- while somebody is logged in


@pytest.mark.parametrize("htmx", [False, True])
def test_a_form_of_a_login_session_before_leads_to_its_page(
    client: Client, cast: Cast, conn: db.Connection, alice: Browser, htmx: bool
) -> None:
    page = f"{SETTINGS}?lines=20"
    token = get_field_value(client(cast.alice).get(page).text, "csrf_token")
    answer = send(alice, IPS, page, token, htmx, network="203.0.113.7")
    assert get_target(answer, htmx) == page
    assert list_ips(conn) == []
    shown = alice.get(page)
    assert OUT_OF_DATE in extract_text(shown.text)
    answer = send(alice, IPS, page, get_field_value(shown.text, "csrf_token"), htmx, network="203.0.113.7")
    assert answer.status_code == (200 if htmx else 303)
    assert list_ips(conn) == ["203.0.113.7"]


def test_an_enrolment_whose_cookie_has_gone_begins_again(
    olga: Browser, browser: Browser, conn: db.Connection, cast: Cast
) -> None:
    link = re.search(r"/enrol/[\w-]+", olga.post(f"/admin/users/{cast.bob.id}/link").text)
    assert link
    token = get_field_value(browser.get(link[0]).text, "csrf_token")
    browser.delete_cookie("portal_session")
    # Its page tells no more than the host (`_restrict_referrer`).
    answer = send(browser, link[0], "/", token, password="a long password", repeat="a long password", code="123456")
    assert (answer.status_code, answer.location) == (303, link[0])
    assert OUT_OF_DATE in extract_text(browser.get(link[0]).text)
    assert conn.execute("SELECT password_hash FROM users WHERE id = ?", (cast.bob.id,)).fetchone()[0] is None


def test_a_language_is_chosen_again(browser: Browser) -> None:
    token = get_field_value(browser.get("/login?next=/profile").text, "csrf_token")
    browser.delete_cookie("portal_session")
    answer = send(browser, "/language", "/login?next=/profile", token, locale="it", next="/login")
    assert (answer.status_code, answer.location) == (303, "/login?next=/profile")
    assert '<html lang="en">' in browser.get("/login").text
