"""The operator's list of customers, and adding one."""

import re
import sqlite3

import pytest

from portal.core import clock, db
from portal.core.crypto import Keys
from portal.services.operations import daily_self_check, self_check
from portal.services.operations.self_check.problem import Problem
from portal.services.people import customers, users
from tests.support import Cast
from tests.web.conftest import Browser


@pytest.mark.slow
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
    added = customers.get_customer(conn, "Initech")
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


# --- the daily check


def test_the_start_tells_what_the_daily_check_has_found(olga: Browser, conn: db.Connection, keys: Keys) -> None:
    assert "the first check is still to come" in olga.get("/admin/").text
    daily_self_check.save_result(conn, keys, daily_self_check.SelfCheckResult(clock.now_ms() - 7_200_000, []))
    text = re.sub(r"<[^>]+>", "", olga.get("/admin/").text)
    assert re.search(r"Checked 2 hours ago, [^:]+:\d\d:\d\d UTC: balances, ledger, messages and totals agree\.", text)
    damages = [Problem("file: %(line)s", {"line": f"page <{number}>"}) for number in range(22)]
    daily_self_check.save_result(conn, keys, daily_self_check.SelfCheckResult(clock.now_ms(), damages))
    text = olga.get("/admin/").text
    assert ": 22 problems were found." in text
    assert "<li>file: page &lt;0&gt;</li>" in text
    assert text.count("<li>file:") == 20
    assert "2 more are not listed here." in text


def test_what_it_has_found_is_told_in_the_readers_language(
    olga: Browser, conn: db.Connection, keys: Keys, cast: Cast
) -> None:
    users.set_user_language(conn, users.get_user_by_email(conn, cast.olga.email), "it")
    conn.execute("UPDATE accounts SET balance = balance + 1500 WHERE id = 1")
    daily_self_check.save_result(
        conn, keys, daily_self_check.SelfCheckResult(clock.now_ms(), self_check.find_problems(conn))
    )
    assert "smpp-acme-1: il saldo (riga 1 di accounts) differisce di 1,5 dalla" in olga.get("/admin/").text
