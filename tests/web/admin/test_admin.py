"""The operator's side: customers, users, accounts."""

import re
import sqlite3
from collections.abc import Callable

import pytest

from portal.core import db
from portal.core.crypto import Keys
from portal.services.accounts import accounts, session_records
from portal.services.accounts.accounts import Account
from portal.services.billing import statement
from portal.services.messages import smpp_config
from portal.services.operations import daily_self_check, self_check
from portal.services.operations.self_check import Problem
from portal.services.people import customers, users
from tests.support import Cast, Person
from tests.web.conftest import Browser


@pytest.fixture
def account(conn: db.Connection, cast: Cast) -> Callable[[], Account]:
    """Reads Acme's first account as it is now."""
    return lambda: accounts.by_name(conn, cast.smpp_acme_1.name)


# --- customers


def test_the_start_shows_every_customer_with_its_accounts(olga: Browser, cast: Cast) -> None:
    text = olga.get("/admin/").text
    for shown in ("Acme", "marta@acme.example", "Globex", "smpp-acme-1", "sms-acme-1", "smpp-globex-1", "1,000"):
        assert shown in text
    assert "Waiting for your IPs" in text


@pytest.mark.parametrize(
    ("words", "found", "hidden"),
    [
        ("acme", "smpp-acme-1", "smpp-globex-1"),
        ("HANK@", "smpp-globex-1", "smpp-acme-1"),
        ("sms-", "sms-acme-1", "smpp-acme-1"),
    ],
)
def test_the_search_looks_at_names_and_addresses(olga: Browser, words: str, found: str, hidden: str) -> None:
    text = olga.get("/admin/", query_string={"q": words}).text
    assert found in text
    assert hidden not in text
    assert f'value="{words}"' in text


def test_a_search_without_a_find_says_so(olga: Browser) -> None:
    text = olga.get("/admin/", query_string={"q": "<nothing>"}).text
    assert "Nothing found" in text
    assert "&lt;nothing&gt;" in text


def test_a_customer_is_added(olga: Browser, conn: db.Connection) -> None:
    answer = olga.post("/admin/customers", data={"name": " Initech ", "email": "bill@initech.example"})
    added = customers.by_name(conn, "Initech")
    assert (answer.status_code, answer.location) == (303, f"/admin/customers/{added.id}")
    text = olga.get(answer.location).text
    assert "Initech was added." in text
    assert "bill@initech.example" in text


@pytest.mark.parametrize(
    ("name", "email", "sentence"),
    [
        ("", "bill@initech.example", "Enter a name."),
        ("acme", "bill@initech.example", "There is already a customer “acme”."),
        ("Initech", "bill", "“bill” isn&#39;t an e-mail address."),
    ],
)
def test_a_refused_customer_keeps_what_was_typed(olga: Browser, name: str, email: str, sentence: str) -> None:
    answer = olga.post("/admin/customers", data={"name": name, "email": email})
    assert answer.status_code == 422
    assert sentence in answer.text
    assert f'value="{email}"' in answer.text
    assert 'aria-invalid="true"' in answer.text


def test_an_unknown_customer_account_or_user_is_404(olga: Browser, cast: Cast) -> None:
    for path in ("/admin/customers/999", "/admin/accounts/smpp-nobodys", "/admin/users/999/link"):
        assert olga.get(path).status_code == 404
    # Operators look after each other in the shell: nobody locks a colleague out by a click.
    assert olga.post(f"/admin/users/{cast.olga.id}/link").status_code == 404


@pytest.mark.parametrize(
    ("what", "table", "form"),
    [
        ("users", "one_time_links", {"user-email": "carol@acme.example", "user-role": users.OWNER}),
        ("accounts", "smpp_passwords", {"account-kind": "smpp", "account-name": "smpp-acme-9"}),
    ],
)
def test_nobody_is_added_without_the_way_to_log_in(
    olga: Browser, cast: Cast, conn: db.Connection, what: str, table: str, form: dict[str, str]
) -> None:
    conn.execute(f"CREATE TRIGGER full BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")
    before = conn.execute(f"SELECT count(*) FROM {what}").fetchone()[0]
    with pytest.raises(sqlite3.IntegrityError):
        olga.post(f"/admin/customers/{cast.acme}/{what}", data=form)
    assert conn.execute(f"SELECT count(*) FROM {what}").fetchone()[0] == before


# --- users


def shown_link(text: str) -> str:
    found = re.search(r"<code>http://127\.0\.0\.1:\d+(/enrol/[\w-]+)</code>", text)
    assert found
    return found[1]


@pytest.mark.parametrize("role", [users.OWNER, users.MANAGER, users.VIEWER])
def test_a_user_is_added_with_a_link_that_is_shown_once(
    olga: Browser, browser: Browser, cast: Cast, conn: db.Connection, role: str
) -> None:
    page = f"/admin/customers/{cast.acme}"
    answer = olga.post(page + "/users", data={"user-email": "carol@acme.example", "user-role": role})
    assert answer.status_code == 200
    link = shown_link(answer.text)
    assert browser.get(link).status_code == 200
    assert users.by_email(conn, "carol@acme.example").role == role
    again = olga.get(page).text
    assert "not enrolled yet" in again
    assert "/enrol/" not in again


@pytest.mark.parametrize(
    ("email", "role", "sentence"),
    [
        ("alice@acme.example", "owner", "There is already a user “alice@acme.example”."),
        ("carol", "owner", "“carol” isn&#39;t an e-mail address."),
        ("carol@acme.example", "operator", "A customer&#39;s user is owner, manager or viewer"),
        ("carol@acme.example", "", "A customer&#39;s user is owner, manager or viewer"),
    ],
)
def test_a_refused_user_keeps_what_was_typed(olga: Browser, cast: Cast, email: str, role: str, sentence: str) -> None:
    answer = olga.post(f"/admin/customers/{cast.acme}/users", data={"user-email": email, "user-role": role})
    assert answer.status_code == 422
    assert sentence in answer.text
    assert f'value="{email}"' in answer.text


def test_a_new_link_is_asked_about_first(olga: Browser, cast: Cast, client: Callable[[Person], Browser]) -> None:
    alice = client(cast.alice)
    path = f"/admin/users/{cast.alice.id}/link"
    page, part = olga.get(path), olga.get(path, htmx="dialog")
    assert "will be logged out everywhere" in page.text
    assert part.text.lstrip().startswith('<form class="confirm"')
    assert alice.get("/profile").status_code == 200


def test_a_new_link_starts_the_login_over(
    olga: Browser, browser: Browser, cast: Cast, client: Callable[[Person], Browser], conn: db.Connection
) -> None:
    alice = client(cast.alice)
    answer = olga.post(f"/admin/users/{cast.alice.id}/link", htmx="dialog")
    assert answer.text.lstrip().startswith('<div class="confirm"')
    enrolment = browser.get(shown_link(answer.text))
    assert enrolment.status_code == 200
    assert cast.alice.totp_secret not in enrolment.text
    assert alice.get("/profile").status_code == 302
    credentials = {"email": cast.alice.email, "password": cast.alice.password}
    assert browser.post("/login", data=credentials).status_code == 401


# --- accounts


def test_an_account_is_added_and_its_password_shown_once(
    olga: Browser, cast: Cast, conn: db.Connection, keys: Keys
) -> None:
    data = {"account-kind": "smpp", "account-name": "smpp-acme-9", "account-description": "Alarms"}
    answer = olga.post(f"/admin/customers/{cast.acme}/accounts", data=data)
    assert answer.status_code == 200
    assert "<code>smpp-acme-9</code>" in answer.text
    password = re.search(r"<code>(\w{8})</code>", answer.text)
    assert password
    digest = conn.execute(
        "SELECT digest FROM smpp_passwords JOIN accounts ON accounts.id = account_id WHERE name = 'smpp-acme-9'"
    ).fetchone()[0]
    assert digest == keys.smpp_digest(password[1])
    assert password[1] not in olga.get("/admin/accounts/smpp-acme-9").text


def test_a_classic_account_has_no_password(olga: Browser, cast: Cast, conn: db.Connection) -> None:
    data = {"account-kind": "sms", "account-name": "", "account-description": ""}
    answer = olga.post(f"/admin/customers/{cast.acme}/accounts", data=data)
    assert answer.status_code == 303
    assert re.fullmatch(r"/admin/accounts/sms-\w{6}-1", answer.location)
    assert olga.get(answer.location).status_code == 200


@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("smpp", "smpp-acme-1", "There is already an account “smpp-acme-1”."),
        ("smpp", "acme", "“acme” can&#39;t be an account&#39;s name"),
        ("sms", "smpp-acme-9", "it begins with sms-"),
        ("smpp", "smpp-far-too-long-1", "at most 15 characters"),
    ],
)
def test_a_refused_account_keeps_what_was_typed(olga: Browser, cast: Cast, kind: str, name: str, sentence: str) -> None:
    data = {"account-kind": kind, "account-name": name, "account-description": "Alarms"}
    answer = olga.post(f"/admin/customers/{cast.acme}/accounts", data=data)
    assert answer.status_code == 422
    assert sentence in answer.text
    assert f'value="{name}"' in answer.text
    assert 'value="Alarms"' in answer.text


def test_an_account_is_disabled_after_a_question_and_enabled_again(
    olga: Browser, conn: db.Connection, account: Callable[[], Account]
) -> None:
    assert "Disable this account?" in olga.get("/admin/accounts/smpp-acme-1/disable").text
    assert not account().disabled
    assert olga.post("/admin/accounts/smpp-acme-1/disable").location == "/admin/accounts/smpp-acme-1"
    assert account().disabled
    assert "smpp-acme-1 was disabled." in olga.get("/admin/accounts/smpp-acme-1").text
    olga.post("/admin/accounts/smpp-acme-1/enable")
    assert not account().disabled


def test_the_question_counts_the_sessions_that_will_end(
    olga: Browser, conn: db.Connection, account: Callable[[], Account]
) -> None:
    now = db.now_ms()
    rows = [
        session_records.Connection(number, account().id, "127.0.0.1", "transceiver", "", 1, now, now)
        for number in (1, 2)
    ]
    session_records.opened(conn, rows)
    assert "The 2 open sessions end at once." in olga.get("/admin/accounts/smpp-acme-1/disable", htmx="dialog").text


def test_disabling_moves_what_the_smpp_server_watches(
    olga: Browser, conn: db.Connection, account: Callable[[], Account]
) -> None:
    smpp_config.confirm(conn, {each.id: each.version for each in smpp_config.load(conn)})
    before = smpp_config.version(conn)
    tile = olga.post("/admin/accounts/smpp-acme-1/disable", htmx="status").text
    assert [each.enabled for each in smpp_config.load(conn, before)] == [False]
    assert "the SMPP server is about to take it over" in tile
    assert 'hx-trigger="every 1s"' in tile
    smpp_config.confirm(conn, {each.id: each.version for each in smpp_config.load(conn)})
    tile = olga.get("/admin/accounts/smpp-acme-1", htmx="status").text
    assert "about to take it over" not in tile
    assert "hx-trigger" not in tile


def test_htmx_gets_the_tile_the_header_and_a_toast(olga: Browser) -> None:
    answer = olga.post("/admin/accounts/smpp-acme-1/disable", htmx="status")
    assert answer.text.lstrip().startswith('<section class="tile" id="status"')
    assert 'id="account-status" hx-swap-oob="true"' in answer.text
    assert "smpp-acme-1 was disabled." in answer.text
    assert "<html" not in answer.text


@pytest.mark.parametrize("htmx", [False, "grant"])
def test_credits_are_granted(
    olga: Browser, conn: db.Connection, account: Callable[[], Account], htmx: bool | str
) -> None:
    data = {"amount": "250.5", "note": "Invoice 17"}
    answer = olga.post("/admin/accounts/smpp-acme-1/credits", data=data, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    assert account().balance == 1_250_500
    latest = statement.movements(conn, account().id)[0]
    assert (latest.kind, latest.note, latest.actor) == ("grant", "Invoice 17", "olga@portal.example")
    shown = answer.text if htmx else olga.get(answer.location).text
    assert "250.5 credits were granted." in shown
    assert "1,250.5" in shown
    assert "Invoice 17" not in shown


def test_a_grant_that_is_sent_twice_is_given_once(olga: Browser, account: Callable[[], Account]) -> None:
    number = re.search(r'name="form"[^>]* value="([^"]+)"', olga.get("/admin/accounts/smpp-acme-1").text)
    assert number
    data = {"amount": "100", "note": "", "form": number[1]}
    assert olga.post("/admin/accounts/smpp-acme-1/credits", data=data).status_code == 303
    answer = olga.post("/admin/accounts/smpp-acme-1/credits", data=data)
    # With a new form, and not with the one that was sent: whoever presses once more has to mean it.
    assert answer.status_code == 303
    assert "This form was sent before" in olga.get(answer.location).text
    assert account().balance == 1_100_000


@pytest.mark.parametrize("htmx", [False, "grant"])
@pytest.mark.parametrize("amount", ["", "0", "-5", "many", "0.0001", "1e99"])
def test_an_amount_that_is_none_is_refused(
    olga: Browser, account: Callable[[], Account], amount: str, htmx: bool | str
) -> None:
    answer = olga.post("/admin/accounts/smpp-acme-1/credits", data={"amount": amount, "note": "x"}, htmx=htmx)
    assert answer.status_code == 422
    assert 'aria-invalid="true"' in answer.text
    assert 'value="x"' in answer.text
    assert account().balance == 1_000_000


@pytest.mark.parametrize("htmx", [False, "limits"])
def test_limits_are_set(olga: Browser, account: Callable[[], Account], htmx: bool | str) -> None:
    data = {"windowing": "50", "throughput": "0", "binds": "3", "any_sender": "y"}
    answer = olga.post("/admin/accounts/smpp-acme-1/limits", data=data, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    changed = account()
    assert (changed.windowing, changed.throughput, changed.binds, changed.any_sender) == (50, 0, 3, True)
    shown = answer.text if htmx else olga.get(answer.location).text
    assert "The limits of smpp-acme-1 were changed." in shown
    assert 'value="50"' in shown


def test_codings_are_ticked_and_unticked(olga: Browser, account: Callable[[], Account]) -> None:
    limits = {"windowing": "5", "throughput": "5", "binds": "5"}
    olga.post("/admin/accounts/smpp-acme-1/limits", data=limits | {"latin_1": "y", "binary": "y", "packed_gsm": "y"})
    assert (account().data_codings, account().packed_gsm) == ({3, 4}, True)
    page = olga.get("/admin/accounts/smpp-acme-1").text
    ticked = {name for name in ("ascii", "latin_1", "binary", "packed_gsm") if f'<input checked id="{name}"' in page}
    assert ticked == {"latin_1", "binary", "packed_gsm"}
    olga.post("/admin/accounts/smpp-acme-1/limits", data=limits | {"ascii": "y"})
    assert (account().data_codings, account().packed_gsm) == ({1}, False)


@pytest.mark.parametrize("htmx", [False, "limits"])
@pytest.mark.parametrize(("field", "value"), [("windowing", "ten"), ("throughput", "-1"), ("binds", "100001")])
def test_a_limit_that_is_none_is_refused_at_its_field(
    olga: Browser, account: Callable[[], Account], field: str, value: str, htmx: bool | str
) -> None:
    data = {"windowing": "5", "throughput": "5", "binds": "5"} | {field: value}
    answer = olga.post("/admin/accounts/smpp-acme-1/limits", data=data, htmx=htmx)
    assert answer.status_code == 422
    assert f'id="{field}-error"' in answer.text
    assert f"“{value}” can&#39;t be a limit" in answer.text
    assert account().windowing == 10


# --- the daily check


def test_the_start_tells_what_the_daily_check_has_found(olga: Browser, conn: db.Connection, keys: Keys) -> None:
    assert "the first check is still to come" in olga.get("/admin/").text
    daily_self_check.keep(conn, keys, daily_self_check.Result(db.now_ms() - 7_200_000, []))
    text = re.sub(r"<[^>]+>", "", olga.get("/admin/").text)
    assert re.search(r"Checked 2 hours ago, [^:]+:\d\d:\d\d UTC: balances, ledger, messages and totals agree\.", text)
    damages = [Problem("file: %(line)s", {"line": f"page <{number}>"}) for number in range(22)]
    daily_self_check.keep(conn, keys, daily_self_check.Result(db.now_ms(), damages))
    text = olga.get("/admin/").text
    assert ": 22 things should not be." in text
    assert "<li>file: page &lt;0&gt;</li>" in text
    assert text.count("<li>file:") == 20
    assert "2 more are not listed here." in text


def test_what_it_has_found_is_told_in_the_readers_language(
    olga: Browser, conn: db.Connection, keys: Keys, cast: Cast
) -> None:
    users.set_language(conn, users.by_email(conn, cast.olga.email), "it")
    conn.execute("UPDATE accounts SET balance = balance + 1500 WHERE id = 1")
    daily_self_check.keep(conn, keys, daily_self_check.Result(db.now_ms(), self_check.prove(conn)))
    assert "smpp-acme-1: il saldo (riga 1 di accounts) differisce di 1,5 dalla" in olga.get("/admin/").text
