"""Enrolment by a one-time link: a password is chosen, an authenticator proved, recovery codes shown once."""

import re
import time
from collections.abc import Callable
from dataclasses import replace

import pyotp
import pytest
from flask import Flask

from portal.core import clock, db
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.common.audit import SHELL
from portal.services.people import authentication, two_factor, users
from portal.services.people.users import User
from tests.support import Cast, Person
from tests.web.acting import get_field_value
from tests.web.conftest import Browser

PASSWORD = "correct horse battery"


@pytest.fixture
def carol(conn: db.Connection, keys: Keys, cast: Cast) -> User:
    """A new manager at Acme."""
    return users.create_user(conn, keys, SHELL, "carol@acme.example", users.MANAGER, cast.acme)


@pytest.fixture
def link(conn: db.Connection, carol: User) -> str:
    return f"/enrol/{authentication.create_enrolment_link(conn, carol)}"


@pytest.fixture
def code(conn: db.Connection, keys: Keys, carol: User) -> Callable[[], str]:
    totp = pyotp.TOTP(two_factor.format_totp_secret(keys, authentication.read_totp_secret(conn, carol)))
    return lambda: totp.at(int(time.time()))


def filled(code: str, password: str = PASSWORD, repeat: str | None = None) -> dict[str, str]:
    return {"password": password, "repeat": password if repeat is None else repeat, "code": code}


def test_the_page_shows_the_secret_as_qr_code_text_and_address(
    browser: Browser, link: str, conn: db.Connection, keys: Keys, carol: User
) -> None:
    answer = browser.get(link)
    secret = two_factor.format_totp_secret(keys, authentication.read_totp_secret(conn, carol))
    assert answer.status_code == 200
    assert 'role="img" aria-label="QR code' in answer.text
    assert re.search(r"<svg [^>]*viewBox[^>]*><path ", answer.text)
    assert f'data-copy="{secret}"' in answer.text
    assert f"otpauth://totp/SMPP%20Portal:carol%40acme.example?secret={secret}" in answer.text
    assert 'value="carol@acme.example"' in answer.text


@pytest.mark.slow
@pytest.mark.parametrize("way", ["enrol", "setup"])
def test_password_and_code_finish_it_and_the_login_follows(
    browser: Browser, link: str, code: Callable[[], str], way: str, conn: db.Connection, carol: User
) -> None:
    answer = browser.post(link.replace("enrol", way), data=filled(code()))
    assert answer.status_code == 200
    codes = re.findall(r"<li>(\w{4}(?:-\w{4}){3})</li>", answer.text)
    assert len(set(codes)) == 10
    assert 'href="/login"' in answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    assert browser.post("/login", data={"email": carol.email, "password": PASSWORD}).status_code == 303
    assert browser.post("/login/totp", data={"recovery": codes[0]}).status_code == 303
    assert browser.get("/profile").status_code == 200


@pytest.mark.slow
def test_the_page_with_the_codes_has_the_token_of_the_new_session(
    browser: Browser, link: str, code: Callable[[], str]
) -> None:
    page = browser.post(link, data=filled(code())).text
    token = get_field_value(page, "csrf_token")
    browser.post("/language", data={"csrf_token": token, "locale": "it"}, csrf=False)
    assert '<html lang="it">' in browser.get("/login").text


@pytest.mark.slow
def test_a_link_is_good_once(browser: Browser, link: str, code: Callable[[], str]) -> None:
    browser.post(link, data=filled(code()))
    for answer in (browser.get(link), browser.post(link, data=filled(code()))):
        assert answer.status_code == 404
        assert "This link was used, replaced or has run out. Ask for a new one." in answer.text


@pytest.mark.slow
def test_the_code_of_the_enrolment_does_not_log_in_too(
    browser: Browser, link: str, code: Callable[[], str], carol: User
) -> None:
    used = code()
    browser.post(link, data=filled(used))
    browser.post("/login", data={"email": carol.email, "password": PASSWORD})
    assert browser.post("/login/totp", data={"code": used}).status_code == 401


def test_a_replaced_link_an_old_one_and_an_invented_one_are_no_good(
    browser: Browser, link: str, conn: db.Connection, carol: User
) -> None:
    newer = f"/enrol/{authentication.create_enrolment_link(conn, carol)}"
    assert browser.get(link).status_code == 404
    assert browser.get(newer).status_code == 200
    conn.execute("UPDATE one_time_links SET expires_at = ?", (clock.now_ms(),))
    assert browser.get(newer).status_code == 404
    assert browser.get("/enrol/invented").status_code == 404


@pytest.mark.slow
@pytest.mark.parametrize(
    ("password", "repeat", "sentence"),
    [
        ("short-short", "short-short", "A password has at least 12 characters."),
        ("x" * 1001, "x" * 1001, "A password has at most 1000 characters."),
        ("", "", "A password has at least 12 characters."),
        (PASSWORD, "something else", "The two passwords differ."),
        ("P@ssw0rd2026!", "P@ssw0rd2026!", "This is one of the passwords that are tried first"),
        ("carol@acme.example", "carol@acme.example", "This is too easy to guess."),
        ("SMPP-Portal-2026", "SMPP-Portal-2026", "This is too easy to guess."),
    ],
)
def test_a_password_that_cannot_be_is_refused_and_the_code_is_still_good(
    browser: Browser, link: str, code: Callable[[], str], password: str, repeat: str, sentence: str
) -> None:
    now = code()
    answer = browser.post(link, data=filled(now, password, repeat))
    assert answer.status_code == 422
    assert sentence in answer.text
    assert browser.post(link, data=filled(now)).status_code == 200


@pytest.mark.parametrize(
    ("password", "sentence"),
    [
        (PASSWORD, ""),
        ("", ""),
        ("eleven char", "A password has at least 12 characters."),
        ("password1234", "This is one of the passwords that are tried first"),
        ("carol@acme.example", "This is too easy to guess."),
    ],
)
def test_what_is_wrong_with_a_password_is_said_when_its_field_is_left(
    browser: Browser, link: str, password: str, sentence: str
) -> None:
    address = f"{link}/password"
    assert f'hx-post="{address}" hx-swap="innerHTML" hx-target="#password-check" hx-trigger="change"' in " ".join(
        sorted(re.findall(r'hx-(?:post|swap|target|trigger)="[^"]*"', browser.get(link).text))
    )
    answer = browser.post(address, data={"password": password}, htmx="password-check")
    assert answer.status_code == 200
    assert sentence in answer.text
    assert bool(answer.text.strip()) == bool(sentence)
    assert password not in answer.text or not password
    assert browser.post("/enrol/invented/password", data={"password": password}).status_code == 404


@pytest.mark.parametrize("password", ["portale.fabbrica.example", "Smsc.Officina.Example-1", "fabbrica-officina"])
def test_the_hosts_of_the_installation_are_names_too(
    make_app: Callable[[Config], Flask], config: Config, link: str, password: str
) -> None:
    url = "http://portale.fabbrica.example:8080"
    web, smpp = replace(config.web, public_url=url), replace(config.smpp, public_host="smsc.officina.example")
    for changed, refused in ((config, False), (replace(config, web=web, smpp=smpp), True)):
        browser = make_app(changed).test_client()
        assert isinstance(browser, Browser)
        headers = {"Referer": f"{changed.web.public_url or 'http://localhost'}/"}
        answer = browser.post(f"{link}/password", data={"password": password}, headers=headers)
        assert answer.status_code == 200
        assert ("This is too easy to guess." in answer.text) == refused


@pytest.mark.slow
def test_a_wrong_code_is_refused_and_nothing_typed_comes_back(browser: Browser, link: str) -> None:
    answer = browser.post(link, data=filled("918273"))
    assert answer.status_code == 422
    assert "That code isn" in answer.text
    assert "918273" not in answer.text
    assert PASSWORD not in answer.text
    assert 'value="carol@acme.example"' in answer.text
    assert browser.get(link).status_code == 200


@pytest.mark.slow
def test_the_token_is_in_no_referrer_and_the_form_can_be_sent_behind_https(browser: Browser, link: str) -> None:
    for answer in (browser.get(link), browser.get("/enrol/invented"), browser.post(link, data=filled("1"))):
        assert answer.headers.getlist("Referrer-Policy") == ["strict-origin"]
    # A browser then sends the origin alone, with which flask-wtf is content.
    answer = browser.post(
        link, data=filled("1"), base_url="https://localhost", headers={"Referer": "https://localhost/"}
    )
    assert answer.status_code == 422


def test_whoever_was_logged_in_here_no_longer_is(
    client: Callable[[Person], Browser], cast: Cast, link: str, code: Callable[[], str]
) -> None:
    browser = client(cast.olga)
    assert browser.post(link, data=filled(code())).status_code == 200
    assert browser.get("/profile").status_code == 302
