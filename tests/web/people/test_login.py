"""Logging in: two steps, throttled, each code good once; logging out ends the session on the server."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from portal.core import clock, db
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.common.audit import SHELL
from portal.services.people import authentication, password_hashing, two_factor, users
from tests.support import Cast, Person, store_as_older_versions
from tests.web.conftest import Browser


def first_step(browser: Browser, person: Person, password: str | None = None, to: str = "/login") -> TestResponse:
    given = person.password if password is None else password
    return browser.post(to, data={"email": person.email, "password": given})


def is_logged_in(browser: Browser) -> bool:
    return browser.get("/profile").status_code == 200


def test_the_page_asks_for_address_and_password(browser: Browser) -> None:
    answer = browser.get("/login")
    assert answer.status_code == 200
    assert 'name="email"' in answer.text
    assert 'autocomplete="current-password"' in answer.text


@pytest.mark.slow
def test_password_and_code_log_in(browser: Browser, cast: Cast) -> None:
    answer = first_step(browser, cast.alice)
    assert (answer.status_code, answer.location) == (303, "/login/totp")
    assert not is_logged_in(browser)
    answer = browser.post("/login/totp", data={"code": cast.alice.totp_code()})
    assert (answer.status_code, answer.location) == (303, "/")
    assert is_logged_in(browser)


def test_the_address_may_be_written_otherwise(browser: Browser, cast: Cast) -> None:
    answer = browser.post("/login", data={"email": " Alice@ACME.example ", "password": cast.alice.password})
    assert answer.status_code == 303


def test_a_code_may_be_typed_with_a_space(browser: Browser, cast: Cast) -> None:
    first_step(browser, cast.alice)
    code = cast.alice.totp_code()
    assert browser.post("/login/totp", data={"code": f"{code[:3]} {code[3:]}"}).status_code == 303


@pytest.mark.parametrize("email", ["alice@acme.example", "nobody@acme.example", "", "%"])
def test_a_wrong_password_or_address_is_401_without_telling_which(browser: Browser, email: str) -> None:
    answer = browser.post("/login", data={"email": email, "password": "not the one"})
    assert answer.status_code == 401
    assert "E-mail address or password is wrong." in answer.text


def test_a_refused_form_keeps_the_address_and_not_the_password(browser: Browser, cast: Cast) -> None:
    answer = first_step(browser, cast.alice, "a wrong password")
    assert f'value="{cast.alice.email}"' in answer.text
    assert "a wrong password" not in answer.text


@pytest.mark.slow
def test_an_unknown_address_takes_as_long_as_a_wrong_password(browser: Browser, cast: Cast) -> None:
    def cpu_seconds(email: str) -> float:
        began = time.process_time()
        assert browser.post("/login", data={"email": email, "password": "not the one"}).status_code == 401
        return time.process_time() - began

    cpu_seconds("nobody@acme.example")  # the first one also makes what unknown addresses are compared with
    unknown = min(cpu_seconds("nobody@acme.example") for _ in range(3))
    known = min(cpu_seconds(cast.alice.email) for _ in range(3))
    # Without argon2 the answer would take a fiftieth.
    assert unknown > known / 2


def test_who_has_not_enrolled_does_not_log_in(browser: Browser, cast: Cast, conn: db.Connection) -> None:
    conn.execute("UPDATE users SET totp_enrolled_at = NULL WHERE id = ?", (cast.alice.id,))
    assert first_step(browser, cast.alice).status_code == 401


def test_the_second_step_needs_the_first(browser: Browser) -> None:
    for answer in (browser.get("/login/totp"), browser.post("/login/totp", data={"code": "123456"})):
        assert (answer.status_code, answer.location) == (303, "/login")


def test_the_second_step_waits_five_minutes(browser: Browser, cast: Cast) -> None:
    first_step(browser, cast.alice)
    with browser.session_transaction() as session:
        session["pending_login"] = session["pending_login"] | {"at": clock.now_ms() - 5 * 60_000}
    answer = browser.post("/login/totp", data={"code": cast.alice.totp_code()})
    assert (answer.status_code, answer.location) == (303, "/login")
    assert not is_logged_in(browser)


def change_credentials(conn: db.Connection, keys: Keys, person: Person, what: str) -> None:
    """As another browser of this person does in the end."""
    if what == "password":
        new = password_hashing.hash_password("an entirely other sentence")
        conn.execute("UPDATE users SET password_hash = ? WHERE id = ?", (new, person.id))
    elif what == "authenticator":
        conn.execute("UPDATE users SET totp_secret = ? WHERE id = ?", (two_factor.new_totp_secret(keys), person.id))
    elif what == "both":
        authentication.reset_enrolment(conn, keys, SHELL, users.get_user_by_email(conn, person.email))
    else:
        conn.execute("DELETE FROM recovery_codes WHERE user_id = ?", (person.id,))
        conn.execute("DELETE FROM users WHERE id = ?", (person.id,))


@pytest.mark.parametrize("what", ["password", "authenticator", "both", "user"])
def test_a_login_that_was_begun_before_a_change_is_not_finished(
    browser: Browser, cast: Cast, conn: db.Connection, keys: Keys, what: str
) -> None:
    first_step(browser, cast.alice)
    assert browser.get("/login/totp").status_code == 200
    change_credentials(conn, keys, cast.alice, what)
    answer = browser.post("/login/totp", data={"code": cast.alice.totp_code()})
    assert (answer.status_code, answer.location) == (303, "/login")
    assert not is_logged_in(browser)
    # Where it can't be, no code is tried.
    assert conn.execute("SELECT sum(wrong_codes) FROM users").fetchone()[0] == 0


@pytest.mark.parametrize("step", ["password", "code"])
def test_a_change_during_either_step_ends_the_login(
    browser: Browser, cast: Cast, conn: db.Connection, keys: Keys, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    overtaken = (password_hashing, "verify_password") if step == "password" else (authentication, "check_second_factor")
    check = getattr(*overtaken)

    def check_and_be_overtaken(*args: Any) -> object:
        result = check(*args)
        change_credentials(conn, keys, cast.alice, "password")
        return result

    code = {"code": cast.alice.totp_code()}
    if step == "code":
        first_step(browser, cast.alice)
    monkeypatch.setattr(*overtaken, check_and_be_overtaken)
    if step == "password":
        first_step(browser, cast.alice)
    answer = browser.post("/login/totp", data=code)
    assert (answer.status_code, answer.location) == (303, "/login")
    assert not is_logged_in(browser)
    assert conn.execute("SELECT count(*) FROM login_sessions").fetchone()[0] == 0


def test_a_wrong_code_is_401_and_not_kept(browser: Browser, cast: Cast) -> None:
    first_step(browser, cast.alice)
    answer = browser.post("/login/totp", data={"code": "918273"})
    assert answer.status_code == 401
    assert "That code isn" in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert "918273" not in answer.text
    assert not is_logged_in(browser)


@pytest.mark.slow
def test_a_code_is_good_once(app: Flask, cast: Cast) -> None:
    code = cast.alice.totp_code()
    answers = []
    for browser in (app.test_client(), app.test_client()):
        assert isinstance(browser, Browser)
        first_step(browser, cast.alice)
        answers.append(browser.post("/login/totp", data={"code": code}).status_code)
    assert answers == [303, 401]


def test_another_users_code_is_wrong(browser: Browser, cast: Cast) -> None:
    first_step(browser, cast.alice)
    assert browser.post("/login/totp", data={"code": cast.bob.totp_code()}).status_code == 401


@pytest.mark.parametrize(
    ("typed", "field", "sentence"),
    [
        ({"recovery": "aaaa-bbbb-cccc-dddd"}, "recovery", "one of your recovery codes"),
        ({"code": "aaaa-bbbb-cccc-dddd"}, "recovery", "one of your recovery codes"),
        ({"recovery": "000000"}, "recovery", "That code isn"),
        ({"code": "000 000"}, "code", "That code isn"),
    ],
)
def test_a_wrong_code_is_said_at_its_field(
    browser: Browser, cast: Cast, typed: dict[str, str], field: str, sentence: str
) -> None:
    first_step(browser, cast.alice)
    page = browser.post("/login/totp", data=typed).text
    assert re.findall(r'<p class="error" id="(\w+)-error">', page) == [field]
    assert sentence in page
    assert ('<details class="fold" open>' in page) == (field == "recovery")


@pytest.mark.slow
def test_a_recovery_code_logs_in_once(app: Flask, cast: Cast, conn: db.Connection) -> None:
    code = cast.alice.recovery_codes[3]
    answers = []
    for browser in (app.test_client(), app.test_client()):
        assert isinstance(browser, Browser)
        first_step(browser, cast.alice)
        answers.append(browser.post("/login/totp", data={"recovery": f" {code.upper().replace('-', '')} "}))
    assert [each.status_code for each in answers] == [303, 401]
    assert "recovery codes, or it was used already" in answers[1].text
    assert two_factor.count_unused_recovery_codes(conn, cast.alice.id) == 9


@pytest.mark.slow
def test_a_short_recovery_code_logs_in_and_leads_to_where_new_ones_are_made(
    app: Flask, browser: Browser, cast: Cast, conn: db.Connection
) -> None:
    def log_in(code: str) -> TestResponse:
        elsewhere = app.test_client()
        assert isinstance(elsewhere, Browser)
        first_step(elsewhere, cast.alice)
        return elsewhere.post("/login/totp", data={"recovery": code})

    store_as_older_versions(conn, cast.alice.id, ["aaaaabbbbb", "cccccddddd", "eeeeefffff"])
    first_step(browser, cast.alice)
    answer = browser.post("/login/totp?next=/accounts/smpp-acme-1", data={"recovery": "aaaaa-bbbbb"})
    assert (answer.status_code, answer.location) == (303, "/profile?short=1#recovery")
    page = browser.get(answer.location).text
    assert "one of the short codes of older versions" in page
    assert 'id="recovery"' in page
    # Whoever has not made new ones has those that are left.
    assert log_in("ccccc-ddddd").location == answer.location
    renewed = browser.post("/profile/recovery-codes", data={"recovery-current": cast.alice.password})
    codes = re.findall(r"<li>(\w{4}(?:-\w{4}){3})</li>", renewed.text)
    assert len(set(codes)) == 10
    assert log_in("eeeee-fffff").status_code == 401
    assert log_in(codes[0]).location == "/"
    assert log_in(cast.alice.totp_code()).location == "/"


@pytest.mark.slow
def test_failures_are_throttled_by_user_even_with_the_right_password(
    browser: Browser, cast: Cast, config: Config
) -> None:
    for _ in range(config.limits.login_failures):
        assert first_step(browser, cast.alice, "wrong").status_code == 401
    answer = first_step(browser, cast.alice)
    assert answer.status_code == 429
    assert "Too many attempts. Try again in" in answer.text
    assert f'value="{cast.alice.email}"' in answer.text
    assert first_step(browser, cast.bob).status_code == 303


@pytest.mark.slow
def test_failures_are_throttled_by_address(browser: Browser, cast: Cast, conn: db.Connection) -> None:
    conn.execute("INSERT INTO throttle_buckets VALUES ('login:address:203.0.113.7', 1, ?)", (clock.now_ms(),))
    for number, status in ((1, 401), (2, 429)):
        data = {"email": f"nobody-{number}@acme.example", "password": "x"}
        away = {"REMOTE_ADDR": "203.0.113.7"}
        assert browser.post("/login", data=data, environ_base=away).status_code == status
    assert first_step(browser, cast.alice).status_code == 303  # from elsewhere


def test_codes_are_throttled(browser: Browser, cast: Cast, config: Config) -> None:
    first_step(browser, cast.alice)
    for _ in range(config.limits.login_failures):
        assert browser.post("/login/totp", data={"code": "000000"}).status_code == 401
    answer = browser.post("/login/totp", data={"code": cast.alice.totp_code()})
    assert answer.status_code == 429
    assert "Too many attempts" in answer.text


def test_the_way_goes_on_to_where_it_was_headed(browser: Browser, cast: Cast) -> None:
    answer = browser.get("/accounts/smpp-acme-1?period=7d")
    assert answer.location == "/login?next=/accounts/smpp-acme-1?period%3D7d"
    answer = first_step(browser, cast.alice, to=answer.location)
    answer = browser.post(answer.location, data={"code": cast.alice.totp_code()})
    assert answer.location == "/accounts/smpp-acme-1?period=7d"


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "javascript:alert(1)",
        "evil.example",
        "",
    ],
)
def test_the_way_never_goes_on_to_another_host(browser: Browser, cast: Cast, elsewhere: str) -> None:
    first_step(browser, cast.alice)
    answer = browser.post("/login/totp", query_string={"next": elsewhere}, data={"code": cast.alice.totp_code()})
    assert (answer.status_code, answer.location) == (303, "/")
    answer = browser.get("/login", query_string={"next": elsewhere})
    assert (answer.status_code, answer.location) == (303, "/")


def test_the_login_renews_the_session(browser: Browser, cast: Cast) -> None:
    """Whoever planted a session in this browser knows nothing of the one that follows (fixation)."""
    with browser.session_transaction() as session:
        session["planted"] = "by somebody"
        session["language"] = "it"
    planted_token = browser.csrf_token()
    first_step(browser, cast.alice)
    browser.post("/login/totp", data={"code": cast.alice.totp_code()})
    with browser.session_transaction() as session:
        assert "planted" not in session
        assert "pending_login" not in session
        assert session["language"] == "it"
    browser.post("/language", data={"locale": "en", "csrf_token": planted_token}, csrf=False)
    with browser.session_transaction() as session:
        assert session["language"] == "it"


def test_a_login_over_an_open_one_needs_a_logout_first(client: Callable[[Person], Browser], cast: Cast) -> None:
    browser = client(cast.alice)
    answer = browser.get("/login")
    assert (answer.status_code, answer.location) == (303, "/")


def test_a_logout_ends_the_session_on_the_server(client: Callable[[Person], Browser], cast: Cast) -> None:
    browser = client(cast.alice)
    with browser.session_transaction() as session:
        old_session = dict(session)
    answer = browser.post("/logout")
    assert (answer.status_code, answer.location) == (303, "/login")
    assert "You have logged out." in browser.get("/login").text
    assert not is_logged_in(browser)
    with browser.session_transaction() as session:
        session.update(old_session)  # a copy of the cookie from before
    assert not is_logged_in(browser)


def test_a_logout_leaves_other_browsers_alone(client: Callable[[Person], Browser], cast: Cast) -> None:
    here, there = client(cast.alice), client(cast.alice)
    here.post("/logout")
    assert is_logged_in(there)


@pytest.mark.parametrize(
    ("column", "age"), [("seen_at", authentication.SESSION_IDLE_MS), ("created_at", authentication.SESSION_VALID_MS)]
)
def test_a_session_runs_out(
    client: Callable[[Person], Browser], cast: Cast, conn: db.Connection, column: str, age: int
) -> None:
    browser = client(cast.alice)
    conn.execute(f"UPDATE login_sessions SET {column} = ?", (clock.now_ms() - age,))
    assert browser.get("/profile").location == "/login?next=/profile"


def test_the_login_is_noted(browser: Browser, cast: Cast, conn: db.Connection) -> None:
    first_step(browser, cast.alice)
    browser.post("/login/totp", data={"recovery": cast.alice.recovery_codes[0]})
    noted = conn.execute("SELECT action FROM audit_log WHERE actor = ? ORDER BY id", (cast.alice.email,)).fetchall()
    assert [each[0] for each in noted] == ["login.recovery_code", "login"]


def test_a_link_that_starts_a_login_over_ends_what_was_open(
    client: Callable[[Person], Browser], cast: Cast, conn: db.Connection, keys: Keys
) -> None:
    browser = client(cast.alice)
    authentication.reset_enrolment(conn, keys, SHELL, users.get_user_by_email(conn, cast.alice.email))
    assert not is_logged_in(browser)
    assert first_step(browser, cast.alice).status_code == 401
