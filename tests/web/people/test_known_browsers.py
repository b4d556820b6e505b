"""Who has logged in with a browser before gets in while others try, and so does who opens the link that is mailed."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from threading import Event, Thread

import pytest
from argon2 import PasswordHasher
from flask import Flask
from werkzeug.test import TestResponse

from portal.core import clock, db
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.common import mail
from portal.services.people import password_hashing, unlock_links
from portal.web.people import known_browsers
from tests.support import Cast, Person, wait_until
from tests.web.acting import get_field_value
from tests.web.conftest import Browser
from tests.web.people.test_profile import NEW, change, new_secret

COOKIE_NAME = "portal_browser"
AWAY = {"REMOTE_ADDR": "203.0.113.7"}


def first_step(browser: Browser, person: Person) -> TestResponse:
    data = {"email": person.email, "password": person.password}
    return browser.post("/login", data=data, environ_base=AWAY)


@pytest.fixture
def known(app: Flask, cast: Cast) -> Browser:
    """A browser in which Alice has logged in and out."""
    browser = app.test_client()
    assert isinstance(browser, Browser)
    assert first_step(browser, cast.alice).status_code == 303
    data = {"recovery": cast.alice.recovery_codes[0]}
    assert browser.post("/login/totp", data=data, environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 303
    browser.post("/logout")
    return browser


@pytest.fixture
def locked(conn: db.Connection, cast: Cast) -> Person:
    """Alice, whose attempts strangers have used up, at both steps."""
    for name in (f"login:user:{cast.alice.email}", f"code:user:{cast.alice.email}", "login:address:203.0.113.7"):
        conn.execute("INSERT OR REPLACE INTO throttle_buckets VALUES (?, 0, ?)", (name, clock.now_ms()))
    return cast.alice


@pytest.fixture
def busy() -> Iterator[Callable[[], None]]:
    """Strangers hash, and wait for their turns: there is no place for more of them. Called, it ends what they do."""
    end = Event()

    def hash_until_the_end() -> None:
        with password_hashing.take_turn():
            end.wait()

    threads = [Thread(target=hash_until_the_end) for _ in range(password_hashing.MAX_STRANGERS)]
    for each in threads:
        each.start()
    wait_until(lambda: len(password_hashing._present) == len(threads))
    yield end.set
    end.set()
    for each in threads:
        each.join()


# --- where others keep people out


@pytest.mark.usefixtures("busy")
def test_where_too_many_hash_strangers_are_refused_at_once_and_keep_the_address(browser: Browser, cast: Cast) -> None:
    answer = first_step(browser, cast.alice)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert "Too many people are logging in at this moment." in answer.text
    assert f'value="{cast.alice.email}"' in answer.text
    assert 'action="/login/link"' in answer.text


def test_where_too_many_hash_a_known_browser_gets_in(app: Flask, cast: Cast, request: pytest.FixtureRequest) -> None:
    known = request.getfixturevalue("known")
    end = request.getfixturevalue("busy")
    answers: list[int] = []
    thread = Thread(target=lambda: answers.append(first_step(known, cast.alice).status_code))
    thread.start()
    wait_until(lambda: cast.alice.email in password_hashing._present)
    end()
    thread.join()
    assert answers == [303]


def test_a_known_browser_gets_in_where_strangers_are_locked_out(
    known: Browser, browser: Browser, locked: Person
) -> None:
    answer = first_step(browser, locked)
    assert answer.status_code == 429
    assert 'action="/login/link"' in answer.text
    assert first_step(known, locked).status_code == 303
    assert known.post("/login/totp", data={"code": locked.totp_code()}, environ_base=AWAY).status_code == 303


def test_a_browser_is_known_with_those_who_have_logged_in(known: Browser, cast: Cast, conn: db.Connection) -> None:
    name = f"login:user:{cast.bob.email}"
    conn.execute("INSERT INTO throttle_buckets VALUES (?, 0, ?)", (name, clock.now_ms()))
    assert first_step(known, cast.bob).status_code == 429


def test_a_flood_counts_the_browsers_of_one_person_together(
    known: Browser, browser: Browser, cast: Cast, config: Config, keys: Keys
) -> None:
    assert first_step(browser, cast.alice).status_code == 303
    assert browser.post("/login/totp", data={"recovery": cast.alice.recovery_codes[1]}).status_code == 303
    cookies = [each.get_cookie(COOKIE_NAME) for each in (known, browser)]
    found = [
        known_browsers.find_browser(config, keys, {"HTTP_COOKIE": f"{COOKIE_NAME}={cookie.value}"})
        for cookie in cookies
        if cookie
    ]
    assert len({name for name, _ in found}) == 2
    assert len({person for _, person in found}) == 1
    assert known_browsers.find_browser(config, keys, {"HTTP_COOKIE": f"{COOKIE_NAME}=invented"}) == ("", "")


def test_a_browser_stays_known_with_five(known: Browser, app: Flask, locked: Person) -> None:
    def log_in(email: str) -> None:
        """As the end of a login does."""
        cookie = known.get_cookie(COOKIE_NAME)
        assert cookie
        with app.test_request_context(headers={"Cookie": f"{cookie.key}={cookie.value}"}):
            known_browsers.remember_browser(email)
            answer = app.process_response(app.make_response(""))
        for header in answer.headers.getlist("Set-Cookie"):
            name, value = header.partition(";")[0].split("=", 1)
            if name == COOKIE_NAME:
                known.set_cookie(name, value)

    for number in range(4):
        log_in(f"colleague{number}@acme.example")
    assert first_step(known, locked).status_code == 303
    log_in("colleague4@acme.example")
    assert first_step(known, locked).status_code == 429


def test_a_made_up_cookie_is_nobodys(browser: Browser, known: Browser, locked: Person) -> None:
    cookie = known.get_cookie(COOKIE_NAME)
    assert cookie
    for value in ("x", cookie.value[:-2], f"{cookie.value}A", ""):
        browser.set_cookie(COOKIE_NAME, value)
        assert first_step(browser, locked).status_code == 429
    browser.set_cookie(COOKIE_NAME, cookie.value)
    assert first_step(browser, locked).status_code == 303


@pytest.mark.parametrize("what", ["password", "authenticator"])
def test_a_browser_of_before_a_change_is_a_strangers(
    known: Browser, browser: Browser, cast: Cast, request: pytest.FixtureRequest, conn: db.Connection, what: str
) -> None:
    """Somebody who knows Alice's password has logged in; she changes it, and they learn the new one, too."""
    alice, codes = cast.alice, cast.alice.recovery_codes
    assert first_step(browser, alice).status_code == 303
    assert browser.post("/login/totp", data={"recovery": codes[1]}).status_code == 303
    if what == "password":
        assert change(browser, alice.password) == 303
        alice = replace(alice, password=NEW)
    else:
        browser.post("/profile/authenticator", data={"authenticator-current": alice.password})
        totp = new_secret(browser)
        answer = browser.post("/profile/authenticator/code", data={"code": totp.at(int(time.time()))})
        codes = tuple(re.findall(r"<li>(\w{4}(?:-\w{4}){3})</li>", answer.text))
    browser.post("/logout")

    # The stranger has no place of their own; she keeps hers.
    request.getfixturevalue("locked")
    assert first_step(known, alice).status_code == 429
    assert first_step(browser, alice).status_code == 303
    conn.execute("DELETE FROM throttle_buckets")
    conn.execute("DELETE FROM mails")
    assert browser.post("/login/totp", data={"recovery": codes[2]}).status_code == 303
    assert conn.execute("SELECT count(*) FROM mails").fetchone()[0] == 0
    assert first_step(known, alice).status_code == 303
    assert known.post("/login/totp", data={"recovery": codes[3]}).status_code == 303
    assert conn.execute("SELECT count(*) FROM mails").fetchone()[0] == 1


def test_a_browser_stays_known_where_hashes_get_other_parameters(
    known: Browser, app: Flask, cast: Cast, conn: db.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = app.test_client()
    assert isinstance(other, Browser)
    codes = iter(cast.alice.recovery_codes[1:])

    def log_in(browser: Browser) -> None:
        assert first_step(browser, cast.alice).status_code == 303
        assert browser.post("/login/totp", data={"recovery": next(codes)}).status_code == 303
        browser.post("/logout")

    log_in(other)
    conn.execute("DELETE FROM mails")
    monkeypatch.setattr(password_hashing, "_hasher", PasswordHasher(memory_cost=64))
    query = "SELECT password_hash FROM users WHERE id = ?"
    before = conn.execute(query, (cast.alice.id,)).fetchone()[0]
    for browser in (known, other, known):
        log_in(browser)
    assert conn.execute(query, (cast.alice.id,)).fetchone()[0] != before
    assert conn.execute("SELECT count(*) FROM mails").fetchone()[0] == 0


@pytest.mark.parametrize(
    ("public_url", "name", "path"),
    [
        ("http://localhost", "portal_browser", "/"),
        ("https://localhost", "__Host-portal_browser", "/"),
        ("https://localhost/sms", "__Secure-portal_browser", "/sms"),
    ],
)
def test_the_cookie_is_for_the_server_alone_and_tells_no_address(
    make_app: Callable[[Config], Flask], config: Config, cast: Cast, public_url: str, name: str, path: str
) -> None:
    browser = make_app(replace(config, web=replace(config.web, public_url=public_url))).test_client()
    assert isinstance(browser, Browser)
    data = {"email": cast.alice.email, "password": cast.alice.password}
    browser.post("/login", data=data, base_url=public_url)
    answer = browser.post("/login/totp", data={"code": cast.alice.totp_code()}, base_url=public_url)
    (cookie,) = (each for each in answer.headers.getlist("Set-Cookie") if each.startswith(f"{name}="))
    attributes = set(cookie.split("; ")[1:])
    assert {"HttpOnly", "SameSite=Lax", "Max-Age=34560000", f"Path={path}"} <= attributes
    assert ("Secure" in attributes) == public_url.startswith("https")
    assert not any(each.startswith("Domain=") for each in attributes)
    assert "alice" not in cookie
    assert len(cookie) < 300


# --- the link that is mailed


@pytest.fixture
def read_link(conn: db.Connection, config: Config, keys: Keys) -> Callable[[], str]:
    """Sends what is queued, and finds the path of the link in the one mail that there is."""

    def read() -> str:
        assert [*mail.send_due_mails(conn, config, keys)] == [True]
        (file,) = (config.data / "outbox").glob("*.eml")
        text = file.read_text().replace("=\n", "")
        assert "To: alice@acme.example" in text
        found = re.search(rf"{re.escape(config.public_url)}(/login/link/[\w-]+)", text)
        assert found
        return found[1]

    return read


def test_a_link_lets_one_browser_in(
    app: Flask,
    browser: Browser,
    locked: Person,
    read_link: Callable[[], str],
    conn: db.Connection,
    config: Config,
    keys: Keys,
) -> None:
    answer = browser.post("/login/link", data={"email": locked.email})
    assert (answer.status_code, answer.location) == (303, "/login")
    shown = browser.get("/login").text
    assert get_field_value(shown, "email") == locked.email
    for sentence in ("a link is on its way", "good for an hour", "among spam", "one each 20 minutes"):
        assert sentence in shown
    # Once: what somebody has typed is nothing for who comes later.
    assert locked.email not in browser.get("/login").text
    link = read_link()
    # Programs that look at mails open what is in them.
    for _ in range(2):
        page = browser.get(link)
        assert page.status_code == 200
        assert locked.email in page.text
        assert page.headers.getlist("Referrer-Policy") == ["strict-origin"]
    assert first_step(browser, locked).status_code == 429
    assert browser.post(link).location == "/login"
    shown = browser.get("/login").text
    assert get_field_value(shown, "email") == locked.email
    assert "a link is on its way" not in shown
    # A flood lets it pass (`asgi`).
    cookie = browser.get_cookie(COOKIE_NAME)
    assert cookie
    assert all(known_browsers.find_browser(config, keys, {"HTTP_COOKIE": f"{cookie.key}={cookie.value}"}))
    other = app.test_client()
    assert isinstance(other, Browser)
    assert other.post(link).status_code == 404
    assert other.get(link).status_code == 404
    assert first_step(other, locked).status_code == 429
    # Password and code are asked for as always.
    wrong = {"email": locked.email, "password": "wrong password"}
    assert browser.post("/login", data=wrong, environ_base=AWAY).status_code == 401
    assert browser.get("/profile").status_code == 302
    assert first_step(browser, locked).status_code == 303
    assert browser.post("/login/totp", data={"code": "000000"}, environ_base=AWAY).status_code == 401
    assert browser.post("/login/totp", data={"code": locked.totp_code()}, environ_base=AWAY).status_code == 303
    # The link made none of this browser in which somebody has logged in before: the login is told.
    assert [*mail.send_due_mails(conn, config, keys)] == [True]


def test_a_link_lifts_the_lock_of_a_known_browser_whose_cookie_somebody_has(
    app: Flask, known: Browser, cast: Cast, read_link: Callable[[], str], conn: db.Connection
) -> None:
    thief = app.test_client()
    assert isinstance(thief, Browser)
    cookie = known.get_cookie(COOKIE_NAME)
    assert cookie
    thief.set_cookie(COOKIE_NAME, cookie.value)
    wrong = {"email": cast.alice.email, "password": "wrong password"}

    def use_up() -> None:
        answers = [thief.post("/login", data=wrong).status_code for _ in range(11)]
        assert answers[-1] == 429

    use_up()
    assert first_step(known, cast.alice).status_code == 429
    conn.execute("DELETE FROM mails")  # of the login
    known.post("/login/link", data={"email": cast.alice.email})
    known.post(read_link())
    # What the thief does from then on takes nothing from her either.
    use_up()
    before = conn.execute("SELECT count(*) FROM mails").fetchone()[0]
    assert first_step(known, cast.alice).status_code == 303
    assert known.post("/login/totp", data={"recovery": cast.alice.recovery_codes[1]}).status_code == 303
    # It is no new browser, and stays a known one.
    assert conn.execute("SELECT count(*) FROM mails").fetchone()[0] == before
    known.post("/logout")
    assert first_step(known, cast.alice).status_code == 303


def test_the_lock_is_lifted_for_a_quarter_of_an_hour_and_for_one_person(
    browser: Browser, locked: Person, cast: Cast, read_link: Callable[[], str], conn: db.Connection
) -> None:
    browser.post("/login/link", data={"email": locked.email})
    browser.post(read_link())
    name = f"login:user:{cast.bob.email}"
    conn.execute("INSERT INTO throttle_buckets VALUES (?, 0, ?)", (name, clock.now_ms()))
    assert first_step(browser, cast.bob).status_code == 429
    with browser.session_transaction() as session:
        session["unlocked"] = session["unlocked"] | {"at": clock.now_ms() - unlock_links.UNLOCKED_MS}
    assert first_step(browser, locked).status_code == 429


def test_who_asks_for_a_link_learns_of_nobody(browser: Browser, conn: db.Connection, cast: Cast) -> None:
    answers = [browser.post("/login/link", data={"email": each}) for each in (cast.alice.email, "nobody@acme.example")]
    assert len({(each.status_code, each.location, each.text) for each in answers}) == 1
    assert conn.execute("SELECT count(*) FROM mails").fetchone()[0] == 1


def test_questions_for_links_are_throttled_and_keep_the_address(browser: Browser, conn: db.Connection) -> None:
    conn.execute("INSERT INTO throttle_buckets VALUES ('unlock:address:127.0.0.1', 0, ?)", (clock.now_ms(),))
    answer = browser.post("/login/link", data={"email": "alice@acme.example"})
    assert answer.status_code == 429
    assert 'value="alice@acme.example"' in answer.text


def test_the_second_step_offers_the_link_too(known: Browser, browser: Browser, cast: Cast, conn: db.Connection) -> None:
    assert first_step(browser, cast.alice).status_code == 303
    name = f"code:user:{cast.alice.email}"
    conn.execute("INSERT OR REPLACE INTO throttle_buckets VALUES (?, 0, ?)", (name, clock.now_ms()))
    answer = browser.post("/login/totp", data={"code": cast.alice.totp_code()}, environ_base=AWAY)
    assert answer.status_code == 429
    assert f'name="email" value="{cast.alice.email}"' in answer.text
    # Either may be what others have used up.
    assert "with your e-mail address, or from your IP address" in answer.text
    assert browser.get("/login/link").status_code == 200
