"""What happens to somebody's login is told them by mail, and ends what it should."""

import re
import time
from collections.abc import Callable
from dataclasses import replace

import pyotp
import pytest
from flask import Flask

from portal.core import db
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.common import mail
from portal.services.common.audit import SHELL
from portal.services.people import authentication, two_factor, users
from tests.mailbox import Mailbox
from tests.services.mails import get_text
from tests.support import Cast, Person
from tests.web.conftest import Browser
from tests.web.people.test_profile import NEW, change, new_secret

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
Read = Callable[[], list[tuple[str, str, str]]]


@pytest.fixture
def read_new_mails(conn: db.Connection, keys: Keys, config: Config) -> Read:
    """Sends what is queued to a real server; the recipient, subject and text of each mail."""

    def read() -> list[tuple[str, str, str]]:
        with Mailbox().listening() as mailbox:
            sending = replace(config, mail=replace(config.mail, url=mailbox.url))
            received = [mailbox.wait_for_mail() for sent in mail.send_due_mails(conn, sending, keys) if sent]
        for each in received:
            assert get_text(each).split() == read_words(get_text(each, "html"))
        return [(each["To"], each["Subject"], get_text(each)) for each in received]

    return read


def read_words(html: str) -> list[str]:
    """The words of a mail, without what only one of its forms has."""
    cells = re.sub(r"</td>\s*<td>", ": ", html)
    return re.sub(r"<[^>]+>", " ", cells).replace(" : ", ": ").replace("&#39;", "'").split()


def log_in(browser: Browser, person: Person, step: int = 0, user_agent: str = FIREFOX, **second: str) -> None:
    browser.post("/login", data={"email": person.email, "password": person.password})
    code = second or {"code": person.totp_code(step)}
    answer = browser.post("/login/totp", data=code, headers={"User-Agent": user_agent})
    assert answer.status_code == 303


@pytest.mark.slow
def test_a_login_with_a_new_browser_is_told_once(
    app: Flask, browser: Browser, cast: Cast, read_new_mails: Read, conn: db.Connection, config: Config
) -> None:
    users.set_user_language(conn, users.get_user_by_email(conn, cast.alice.email), "it")
    log_in(browser, cast.alice)
    ((to, subject, text),) = read_new_mails()
    assert (to, subject) == (cast.alice.email, "Accesso da un nuovo browser")
    assert "Browser: Firefox, Linux" in text
    assert "Indirizzo: 127.0.0.1" in text
    assert f"{config.public_url}/profile" in text

    browser.post("/logout")
    log_in(browser, cast.alice, 1)
    assert read_new_mails() == []
    # Somebody else's first login with it.
    browser.post("/logout")
    log_in(browser, cast.bob)
    assert [each[:2] for each in read_new_mails()] == [(cast.bob.email, "Login with a new browser")]
    # Both are known now, and another browser isn't: what it says of itself counts for nothing.
    browser.post("/logout")
    log_in(browser, cast.alice, recovery=cast.alice.recovery_codes[0])
    assert read_new_mails() == []
    elsewhere = app.test_client()
    assert isinstance(elsewhere, Browser)
    elsewhere.set_cookie("portal_browser", "WzFd.invented")
    log_in(elsewhere, cast.alice, recovery=cast.alice.recovery_codes[1])
    assert len(read_new_mails()) == 1


def test_what_a_stranger_calls_their_browser_is_not_in_the_mail(
    browser: Browser, cast: Cast, read_new_mails: Read
) -> None:
    log_in(browser, cast.alice, user_agent="Call +1 555 0100 at once: https://evil.example/")
    ((_, _, text),) = read_new_mails()
    assert "Browser: unknown" in text.splitlines()
    assert "evil" not in text
    assert "evil" not in browser.get("/profile").text


@pytest.mark.slow
def test_who_has_enrolled_with_a_browser_is_told_of_that_and_not_of_the_login(
    browser: Browser, cast: Cast, conn: db.Connection, keys: Keys, read_new_mails: Read
) -> None:
    user = users.create_user(conn, keys, SHELL, "dora@globex.example", users.MANAGER, cast.globex)
    totp = pyotp.TOTP(two_factor.format_totp_secret(keys, authentication.read_totp_secret(conn, user)))
    link = f"/enrol/{authentication.create_enrolment_link(conn, user)}"
    data = {"password": NEW, "repeat": NEW, "code": totp.at(int(time.time()))}
    # What the page speaks is the user's own language from then on, as they have chosen none.
    assert browser.post(link, data=data, headers={"Accept-Language": "it"}).status_code == 200
    assert users.get_user_by_email(conn, user.email).language == "it"
    subject = "L’accesso è stato configurato con una nuova password e una nuova app di autenticazione"
    assert [each[:2] for each in read_new_mails()] == [(user.email, subject)]
    browser.post("/login", data={"email": user.email, "password": NEW})
    code = totp.at(int(time.time()) + 30)
    assert browser.post("/login/totp", data={"code": code}).status_code == 303
    assert read_new_mails() == []


@pytest.mark.slow
def test_another_authenticator_ends_the_other_sessions_and_is_told(
    client: Callable[[Person], Browser], cast: Cast, read_new_mails: Read
) -> None:
    alice, elsewhere, bob = client(cast.alice), client(cast.alice), client(cast.bob)
    alice.post("/profile/authenticator", data={"authenticator-current": cast.alice.password})
    totp = new_secret(alice)
    assert alice.post("/profile/authenticator/code", data={"code": "000000"}).status_code == 422
    assert read_new_mails() == []
    assert elsewhere.get("/profile").status_code == 200
    answer = alice.post("/profile/authenticator/code", data={"code": totp.at(int(time.time()))})
    assert "Wherever else you were logged in, you no longer are." in answer.text
    assert elsewhere.get("/profile").status_code == 302
    assert alice.get("/profile").status_code == bob.get("/profile").status_code == 200
    told = ("alice@acme.example", "Your login was moved to another authenticator app")
    assert [each[:2] for each in read_new_mails()] == [told]


@pytest.mark.slow
def test_a_new_password_and_new_recovery_codes_are_told(
    client: Callable[[Person], Browser], cast: Cast, read_new_mails: Read
) -> None:
    alice = client(cast.alice)
    assert change(alice, "not the one") == 422
    assert alice.post("/profile/recovery-codes", data={"recovery-current": "not the one"}).status_code == 422
    assert read_new_mails() == []
    assert change(alice, cast.alice.password) == 303
    ((to, subject, text),) = read_new_mails()
    assert (to, subject) == (cast.alice.email, "Your password was changed")
    assert "Address: 127.0.0.1" in text
    assert "Browser" not in text
    assert "ask whoever runs this portal" in text
    assert NEW not in text
    alice.post("/profile/recovery-codes", data={"recovery-current": NEW})
    assert [each[1] for each in read_new_mails()] == ["New recovery codes were made for your login"]
