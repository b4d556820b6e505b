"""What people change about their own login."""

import re
import time
from collections.abc import Callable

import pyotp
import pytest
from argon2 import PasswordHasher
from werkzeug.test import TestResponse

from portal.core import clock, db
from portal.core.config import Config
from portal.core.crypto import Keys, hash_token
from portal.services.people import authentication, password_hashing, two_factor, users
from portal.services.people.password_rules import MIN_PASSWORD_LENGTH
from portal.services.people.user_agents import describe_user_agent
from portal.web.core.forms import NewPasswordForm
from tests.support import Cast, Person
from tests.web.conftest import Browser

NEW = "another long password"


@pytest.fixture
def alice(client: Callable[[Person], Browser], cast: Cast) -> Browser:
    return client(cast.alice)


def change(browser: Browser, current: str, new: str = NEW, repeat: str = NEW) -> int:
    data = {"password-current": current, "password-password": new, "password-repeat": repeat}
    return browser.post("/profile/password", data=data).status_code


def logs_in(browser: Browser, person: Person, password: str) -> bool:
    return browser.post("/login", data={"email": person.email, "password": password}).status_code == 303


def new_secret(browser: Browser) -> pyotp.TOTP:
    found = re.search(r'data-copy="([A-Z2-7]{32})"', browser.get("/profile/authenticator").text)
    assert found
    return pyotp.TOTP(found[1])


def test_the_page_shows_everything(alice: Browser) -> None:
    answer = alice.get("/profile")
    assert answer.status_code == 200
    for heading in ("Password", "Authenticator app", "Recovery codes", "Where you are logged in", "Language"):
        assert f">{heading}</h2>" in answer.text
    assert "10 left" in answer.text


def test_moving_to_another_app_can_be_left(alice: Browser, cast: Cast) -> None:
    alice.post("/profile/authenticator", data={"authenticator-current": cast.alice.password})
    assert '<a class="btn" href="/profile" data-close>Cancel</a>' in alice.get("/profile/authenticator").text


def test_no_field_of_several_forms_takes_the_focus(alice: Browser) -> None:
    assert "autofocus" not in alice.get("/profile").text


def test_viewers_and_operators_have_one_too(client: Callable[[Person], Browser], cast: Cast) -> None:
    for person in (cast.bob, cast.olga):
        assert client(person).get("/profile").status_code == 200


# --- password


@pytest.mark.slow
def test_the_password_is_changed_and_other_sessions_end(
    alice: Browser, client: Callable[[Person], Browser], browser: Browser, cast: Cast
) -> None:
    elsewhere = client(cast.alice)
    assert change(alice, cast.alice.password) == 303
    assert "Your password has been changed." in alice.get("/profile").text
    assert elsewhere.get("/profile").status_code == 302
    assert not logs_in(browser, cast.alice, cast.alice.password)
    assert logs_in(browser, cast.alice, NEW)


@pytest.mark.slow
def test_the_current_password_is_needed(alice: Browser, browser: Browser, cast: Cast) -> None:
    assert change(alice, "not the one") == 422
    assert logs_in(browser, cast.alice, cast.alice.password)


def test_a_change_that_another_one_has_overtaken_is_refused(
    alice: Browser, browser: Browser, cast: Cast, conn: db.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who knows the old password hashes one of their own while the person changes it."""
    hash_password = password_hashing.hash_password

    def hash_and_be_overtaken(password: str) -> str:
        other = hash_password("an entirely other sentence")
        conn.execute("UPDATE users SET password_hash = ? WHERE id = ?", (other, cast.alice.id))
        return hash_password(password)

    monkeypatch.setattr(password_hashing, "hash_password", hash_and_be_overtaken)
    assert change(alice, cast.alice.password) == 422
    assert logs_in(browser, cast.alice, "an entirely other sentence")


@pytest.mark.parametrize(
    ("new", "repeat"),
    [("short", "short"), (NEW, "differs"), ("", ""), ("password1234",) * 2, ("alice@acme.example",) * 2],
)
def test_a_password_that_cannot_be_is_refused(
    alice: Browser, browser: Browser, cast: Cast, new: str, repeat: str
) -> None:
    assert change(alice, cast.alice.password, new, repeat) == 422
    assert logs_in(browser, cast.alice, cast.alice.password)


def test_a_shorter_password_from_before_still_logs_in(
    alice: Browser, browser: Browser, cast: Cast, conn: db.Connection
) -> None:
    short_hash = PasswordHasher().hash("tenletters")
    conn.execute("UPDATE users SET password_hash = ? WHERE id = ?", (short_hash, cast.alice.id))
    assert logs_in(browser, cast.alice, "tenletters")
    assert change(alice, "tenletters") == 303


def test_what_is_wrong_with_a_password_is_said_when_its_field_is_left(
    alice: Browser, browser: Browser, cast: Cast
) -> None:
    def check(asking: Browser, password: str) -> TestResponse:
        return asking.post("/profile/password/check", data={"password-password": password}, htmx="password-check")

    assert 'hx-post="/profile/password/check"' in alice.get("/profile").text
    assert "at least 12 characters" in check(alice, "eleven char").text
    assert "This is too easy to guess." in check(alice, "acme-alice-2026").text
    assert not check(alice, NEW).text.strip()
    assert not logs_in(browser, cast.alice, NEW)
    assert check(browser, NEW).headers["HX-Redirect"].startswith("/login")


def test_the_form_tells_the_shortest_length_that_the_rules_have(
    alice: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert NewPasswordForm.min_length == MIN_PASSWORD_LENGTH
    monkeypatch.setattr(NewPasswordForm, "min_length", 15)
    page = alice.get("/profile").text
    assert 'minlength="15"' in page
    assert "At least 15 characters." in page


def test_no_password_comes_back(alice: Browser) -> None:
    data = {"password-current": "what I believed it was", "password-password": NEW, "password-repeat": "differs"}
    answer = alice.post("/profile/password", data=data)
    assert answer.status_code == 422
    assert "The two passwords differ." in answer.text
    for each in data.values():
        assert each not in answer.text


@pytest.mark.slow
def test_guessing_the_current_password_is_throttled(alice: Browser, cast: Cast, config: Config) -> None:
    for _ in range(config.limits.login_failures):
        assert change(alice, "a guess") == 422
    assert change(alice, cast.alice.password) == 429
    data = {"recovery-current": cast.alice.password}
    assert alice.post("/profile/recovery-codes", data=data).status_code == 429


# --- authenticator


@pytest.mark.slow
def test_another_authenticator_comes_into_force_with_its_first_code(
    alice: Browser, browser: Browser, cast: Cast
) -> None:
    answer = alice.post("/profile/authenticator", data={"authenticator-current": cast.alice.password})
    assert (answer.status_code, answer.location) == (303, "/profile/authenticator")
    totp = new_secret(alice)
    answer = alice.post("/profile/authenticator/code", data={"code": totp.at(int(time.time()))})
    assert answer.status_code == 200
    codes = re.findall(r"<li>(\w{4}(?:-\w{4}){3})</li>", answer.text)
    assert len(codes) == 10

    logs_in(browser, cast.alice, cast.alice.password)
    for old in ({"code": cast.alice.totp_code()}, {"recovery": cast.alice.recovery_codes[0]}):
        assert browser.post("/login/totp", data=old).status_code == 401
    assert browser.post("/login/totp", data={"code": totp.at(int(time.time()) + 30)}).status_code == 303


@pytest.mark.slow
def test_a_wrong_code_leaves_the_old_authenticator_in_force(alice: Browser, browser: Browser, cast: Cast) -> None:
    alice.post("/profile/authenticator", data={"authenticator-current": cast.alice.password})
    before = new_secret(alice)
    answer = alice.post("/profile/authenticator/code", data={"code": cast.alice.totp_code()})
    assert answer.status_code == 422
    assert new_secret(alice).secret == before.secret  # the QR code on the phone's screen stays good
    logs_in(browser, cast.alice, cast.alice.password)
    assert browser.post("/login/totp", data={"code": cast.alice.totp_code()}).status_code == 303


def test_the_password_is_needed_before_a_secret_is_shown(alice: Browser) -> None:
    answer = alice.post("/profile/authenticator", data={"authenticator-current": "not the one"})
    assert answer.status_code == 422
    assert "isn&#39;t your current password" in answer.text
    assert alice.get("/profile/authenticator").location == "/profile"
    assert alice.post("/profile/authenticator/code", data={"code": "123456"}).location == "/profile"


def test_a_new_secret_waits_ten_minutes(alice: Browser, cast: Cast) -> None:
    alice.post("/profile/authenticator", data={"authenticator-current": cast.alice.password})
    with alice.session_transaction() as session:
        session["new_authenticator"] = session["new_authenticator"] | {"at": clock.now_ms() - 10 * 60_000}
    assert alice.get("/profile/authenticator").location == "/profile"
    assert "That took too long" in alice.get("/profile").text


def test_a_new_secret_of_before_another_password_is_not_put_into_force(
    alice: Browser, cast: Cast, conn: db.Connection
) -> None:
    alice.post("/profile/authenticator", data={"authenticator-current": cast.alice.password})
    totp = new_secret(alice)
    other = password_hashing.hash_password("an entirely other sentence")
    conn.execute("UPDATE users SET password_hash = ? WHERE id = ?", (other, cast.alice.id))
    code = {"code": totp.at(int(time.time()))}
    assert alice.post("/profile/authenticator/code", data=code).location == "/profile"


def test_the_cookie_does_not_tell_the_secret(alice: Browser, cast: Cast) -> None:
    alice.post("/profile/authenticator", data={"authenticator-current": cast.alice.password})
    secret = new_secret(alice).secret
    with alice.session_transaction() as session:
        assert secret not in str(dict(session))


# --- recovery codes


@pytest.mark.slow
def test_new_recovery_codes_replace_the_old_ones(
    alice: Browser, browser: Browser, cast: Cast, conn: db.Connection, keys: Keys
) -> None:
    assert two_factor.use_recovery_code(conn, keys, cast.alice.id, cast.alice.recovery_codes[9])
    assert "9 left" in alice.get("/profile").text
    answer = alice.post("/profile/recovery-codes", data={"recovery-current": cast.alice.password})
    codes = re.findall(r"<li>(\w{4}(?:-\w{4}){3})</li>", answer.text)
    assert len(codes) == 10
    assert "10 left" in alice.get("/profile").text
    assert codes[0] not in alice.get("/profile").text
    logs_in(browser, cast.alice, cast.alice.password)
    assert browser.post("/login/totp", data={"recovery": cast.alice.recovery_codes[0]}).status_code == 401
    assert browser.post("/login/totp", data={"recovery": codes[0]}).status_code == 303


def test_recovery_codes_need_the_password(alice: Browser, cast: Cast, conn: db.Connection, keys: Keys) -> None:
    answer = alice.post("/profile/recovery-codes", data={"recovery-current": "not the one"})
    assert answer.status_code == 422
    assert "<li>" not in answer.text.partition('id="recovery"')[2].partition("</section>")[0]
    assert two_factor.use_recovery_code(conn, keys, cast.alice.id, cast.alice.recovery_codes[0])


# --- sessions


def number_of(conn: db.Connection, token: str) -> int:
    row = conn.execute("SELECT id FROM login_sessions WHERE token_hash = ?", (hash_token(token),)).fetchone()
    return int(row[0])


def test_open_sessions_are_listed_and_one_can_be_ended(
    alice: Browser, browser: Browser, cast: Cast, conn: db.Connection
) -> None:
    phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Mobile/15E148 Safari/604.1"
    token = authentication.start_login_session(
        conn, users.get_user_by_email(conn, cast.alice.email), "2001:db8::7", phone
    )
    listed = alice.get("/profile").text
    assert "Safari, iPhone" in listed
    assert "2001:db8::7" in listed
    answer = alice.post(f"/profile/sessions/{number_of(conn, token)}/end")
    assert (answer.status_code, answer.location) == (303, "/profile#sessions")
    assert "2001:db8::7" not in alice.get("/profile").text
    assert browser.use_login_session(token).get("/profile").status_code == 302


def test_htmx_gets_the_list_alone(alice: Browser, cast: Cast, conn: db.Connection) -> None:
    token = authentication.start_login_session(conn, users.get_user_by_email(conn, cast.alice.email), "2001:db8::7", "")
    answer = alice.post(f"/profile/sessions/{number_of(conn, token)}/end", htmx="sessions")
    assert answer.status_code == 200
    assert answer.text.lstrip().startswith('<section class="tile wide" id="sessions"')
    assert "The session was ended." in answer.text
    assert "2001:db8::7" not in answer.text


def test_somebody_elses_session_stays(alice: Browser, browser: Browser, cast: Cast, conn: db.Connection) -> None:
    token = authentication.start_login_session(conn, users.get_user_by_email(conn, cast.bob.email), "192.0.2.1", "")
    alice.post(f"/profile/sessions/{number_of(conn, token)}/end")
    assert browser.use_login_session(token).get("/profile").status_code == 200


@pytest.mark.parametrize(
    ("user_agent", "words"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox, Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0", "Edge, Windows"),
        ("Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36", "Chrome, Android"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) Version/18.0 Safari/605.1.15", "Safari, macOS"),
        ("curl/8.5.0", "curl"),
        ("SomethingNew/1", ""),
        ("Call +1 555 0100 at once: https://evil.example/ Firefox/140.0", "Firefox"),
        ("", ""),
    ],
)
def test_browsers_are_named_in_words(user_agent: str, words: str) -> None:
    assert describe_user_agent(user_agent) == words
