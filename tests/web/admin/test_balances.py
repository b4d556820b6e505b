"""The operator's side of credits: granting, corrections, refunds, everyone's balances."""

import csv
import io
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from portal.core import clock, db
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.billing import orders, packs, statement
from portal.services.common.audit import SHELL
from portal.services.credits import credits, expiry
from portal.services.history import refunds
from portal.services.people import customers
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
ACCOUNT = "/admin/accounts/smpp-acme-1"
CORRECT, REFUND = f"{ACCOUNT}/credits/correct", f"{ACCOUNT}/credits/refund"
BALANCES = "/admin/credits"


@pytest.fixture
def account(conn: db.Connection) -> Account:
    return acting.get_account(conn, "smpp-acme-1")


def balance(conn: db.Connection) -> int:
    return acting.get_account(conn, "smpp-acme-1").balance


def filled(page: str, **values: str) -> dict[str, str]:
    return {"amount": "100", "reason": "a reason", "form": get_field_value(page, "form")} | values


# --- granting


@pytest.mark.parametrize("htmx", [False, "grant"])
def test_credits_are_granted(olga: Browser, conn: db.Connection, account: Account, htmx: bool | str) -> None:
    data = {"amount": "250.5", "note": "Invoice 17"}
    answer = olga.post("/admin/accounts/smpp-acme-1/credits", data=data, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    assert balance(conn) == 1_250_500
    latest = statement.list_movements_page(conn, account.id)[0]
    assert (latest.kind, latest.note, latest.actor) == ("grant", "Invoice 17", "olga@portal.example")
    shown = answer.text if htmx else olga.get(answer.location).text
    assert "250.5 credits were granted." in shown
    assert "1,250.5" in shown
    assert "Invoice 17" not in shown


def test_a_grant_that_is_sent_twice_is_given_once(olga: Browser, conn: db.Connection) -> None:
    number = re.search(r'name="form"[^>]* value="([^"]+)"', olga.get("/admin/accounts/smpp-acme-1").text)
    assert number
    data = {"amount": "100", "note": "", "form": number[1]}
    assert olga.post("/admin/accounts/smpp-acme-1/credits", data=data).status_code == 303
    answer = olga.post("/admin/accounts/smpp-acme-1/credits", data=data)
    # With a new form, and not with the one that was sent: whoever presses once more has to mean it.
    assert answer.status_code == 303
    assert "This form was sent before" in olga.get(answer.location).text
    assert balance(conn) == 1_100_000


@pytest.mark.parametrize("htmx", [False, "grant"])
@pytest.mark.parametrize("amount", ["", "0", "-5", "many", "0.0001", "1e99"])
def test_an_amount_that_is_none_is_refused(olga: Browser, conn: db.Connection, amount: str, htmx: bool | str) -> None:
    answer = olga.post("/admin/accounts/smpp-acme-1/credits", data={"amount": amount, "note": "x"}, htmx=htmx)
    assert answer.status_code == 422
    assert 'aria-invalid="true"' in answer.text
    assert 'value="x"' in answer.text
    assert balance(conn) == 1_000_000


def test_credits_are_granted_until_the_end_of_a_day(olga: Browser, conn: db.Connection, account: Account) -> None:
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    olga.post(f"{ACCOUNT}/credits", data={"amount": "50", "until": tomorrow.isoformat()})
    (lot,) = expiry.list_expiring_credit_lots(conn, account.id)
    ends = datetime.combine(tomorrow + timedelta(days=1), datetime.min.time(), UTC)
    assert (lot.remaining, lot.expires_at) == (50_000, ends.timestamp() * 1000)


@pytest.mark.parametrize(("until", "sentence"), [("2020-01-01", "today at the earliest"), ("soon", "isn't a date")])
def test_a_day_that_is_over_or_none_is_refused_at_its_field(
    olga: Browser, conn: db.Connection, until: str, sentence: str
) -> None:
    answer = olga.post(f"{ACCOUNT}/credits", data={"amount": "50", "until": until})
    assert answer.status_code == 422
    assert sentence in extract_text(answer.text)
    assert 'id="valid-until-error"' in answer.text
    assert get_field_value(answer.text, "until") == until
    assert balance(conn) == 1_000_000


def test_the_customer_reads_what_runs_out_and_when(
    client: Client, cast: Cast, conn: db.Connection, account: Account
) -> None:
    bob, page = client(cast.bob), "/accounts/smpp-acme-1/credits"
    assert "run out" not in extract_text(bob.get(page).text)
    credits.grant_credits(conn, SHELL, account, 50_000, expires_at=clock.now_ms() + 3 * clock.DAY_MS)
    acting.send_texts(conn, account.name, "hello")
    assert "49 credits run out on" in extract_text(bob.get(page).text)
    assert "in 3 days" in extract_text(bob.get(page).text)
    credits.correct_balance(conn, SHELL, account, -49_000, "a reason")
    assert "run out on" not in extract_text(bob.get(page).text)


@pytest.mark.slow
def test_what_runs_out_is_told_by_date_the_next_three(
    client: Client, cast: Cast, conn: db.Connection, account: Account
) -> None:
    bob, now = client(cast.bob), clock.now_ms()
    for days, amount in ((5, 1_000), (3, 2_000), (3, 4_000), (9, 8_000), (7, 16_000), (11, 32_000)):
        credits.grant_credits(conn, SHELL, account, amount, expires_at=now + days * clock.DAY_MS)
    page_text = extract_text(bob.get("/accounts/smpp-acme-1/credits").text)
    assert re.findall(r"([\d.]+) credits run out", page_text) == ["6", "1", "16"]
    assert "40 more do so later." in page_text


# --- correcting and refunding


@pytest.mark.slow
@pytest.mark.parametrize("htmx", [False, "dialog"])
@pytest.mark.parametrize(
    ("address", "amount", "kind", "moved", "expected_text"),
    [
        (CORRECT, "-250.5", "correction", -250_500, "it is 749.5 now"),
        (CORRECT, "+1", "correction", 1_000, "it is 1,001 now"),
        (REFUND, "20", "refund", 20_000, "Credits refunded: 20."),
    ],
)
def test_credits_are_corrected_and_refunded(
    olga: Browser,
    conn: db.Connection,
    account: Account,
    address: str,
    amount: str,
    kind: str,
    moved: int,
    expected_text: str,
    htmx: bool | str,
) -> None:
    assert f'href="{address}" data-dialog' in olga.get(ACCOUNT).text
    dialog = olga.get(address, htmx=htmx).text
    assert "smpp-acme-1 holds 1,000 credits." in extract_text(dialog)
    answer = olga.post(address, data=filled(dialog, amount=amount, reason="Ticket 4711"), htmx=htmx)
    assert (answer.headers.get("HX-Redirect") if htmx else answer.location) == ACCOUNT
    assert expected_text in extract_text(olga.get(ACCOUNT).text)
    latest = statement.list_movements_page(conn, account.id)[0]
    assert (latest.kind, latest.amount, latest.note, latest.actor) == (
        kind,
        moved,
        "Ticket 4711",
        "olga@portal.example",
    )
    assert balance(conn) == 1_000_000 + moved


@pytest.mark.slow
@pytest.mark.parametrize("address", [CORRECT, REFUND])
def test_what_is_sent_twice_is_done_once(olga: Browser, conn: db.Connection, address: str) -> None:
    data = filled(olga.get(address).text)
    olga.post(address, data=data)
    olga.get(ACCOUNT)
    answer = olga.post(address, data=data)
    assert answer.status_code == 303
    assert "It was not done a second time." in extract_text(olga.get(ACCOUNT).text)
    assert balance(conn) == 1_100_000


@pytest.mark.parametrize("htmx", [False, "dialog"])
@pytest.mark.parametrize(
    ("address", "changed", "sentence", "field"),
    [
        (CORRECT, {"reason": " "}, "Say why", "reason"),
        (CORRECT, {"amount": "-1000.001"}, "holds 1,000 credits, which don't cover this", "amount"),
        (CORRECT, {"amount": "0"}, "“0” isn't a change of credits.", "amount"),
        (CORRECT, {"amount": acting.SCRIPT_INJECTION}, "isn't a change of credits.", "amount"),
        (REFUND, {"reason": ""}, "Say why", "reason"),
        (REFUND, {"amount": "-5"}, "“-5” isn't an amount of credits.", "amount"),
    ],
)
def test_a_refusal_says_why_at_the_field_and_keeps_what_was_typed(
    olga: Browser,
    conn: db.Connection,
    address: str,
    changed: dict[str, str],
    sentence: str,
    field: str,
    htmx: bool | str,
) -> None:
    data = filled(olga.get(address).text, **changed)
    answer = olga.post(address, data=data, htmx=htmx)
    assert answer.status_code == 422
    assert sentence in extract_text(answer.text)
    assert f'id="{field}-error"' in answer.text
    assert [get_field_value(answer.text, name) for name in ("amount", "reason", "form")] == [
        data[name] for name in ("amount", "reason", "form")
    ]
    assert acting.SCRIPT_INJECTION not in answer.text
    assert balance(conn) == 1_000_000


def test_an_amount_is_read_in_the_operator_s_language(olga: Browser, conn: db.Connection) -> None:
    italian = {"Accept-Language": "it"}
    data = filled(olga.get(CORRECT, headers=italian).text, amount="-0,5")
    olga.post(CORRECT, data=data, headers=italian)
    assert balance(conn) == 999_500


def test_an_account_that_is_not_there(olga: Browser) -> None:
    for address in ("correct", "refund"):
        assert olga.get(f"/admin/accounts/smpp-nobodys/credits/{address}").status_code == 404


# --- what a message cost


@pytest.mark.slow
@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_what_a_message_cost_is_given_back_from_its_place_in_the_history(
    olga: Browser, conn: db.Connection, account: Account, htmx: bool | str
) -> None:
    (message_id,) = acting.send_texts(conn, account.name, "x" * 200)
    shown, address = f"/accounts/smpp-acme-1/history/{message_id}", f"/admin/messages/{message_id}/refund"
    assert address not in olga.get(shown).text
    acting.fail_messages(conn, message_id)
    assert f'href="{address}" data-dialog' in olga.get(shown, htmx=htmx).text
    dialog = olga.get(address, htmx=htmx).text
    assert "Credits that go back to smpp-acme-1 for the message to 393401234567: 3 ." in extract_text(dialog)
    answer = olga.post(address, data={"reason": "Route down", "form": get_field_value(dialog, "form")}, htmx=htmx)
    assert (answer.headers.get("HX-Redirect") if htmx else answer.location) == shown
    page = olga.get(shown).text
    assert "Credits refunded: 3." in extract_text(page)
    assert "Credits 3 3 refunded" in extract_text(page)
    assert address not in page
    latest = statement.list_movements_page(conn, account.id)[0]
    assert (latest.kind, latest.amount, latest.note) == ("refund", 3_000, "Route down")


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_a_message_is_refunded_once_and_for_a_reason(
    olga: Browser, conn: db.Connection, account: Account, htmx: bool | str
) -> None:
    (message_id,) = acting.send_texts(conn, account.name, "hello")
    address = f"/admin/messages/{message_id}/refund"
    acting.deliver_messages(conn, message_id)
    dialog = olga.get(address).text
    answer = olga.post(address, data={"reason": "", "form": get_field_value(dialog, "form")}, htmx=htmx)
    assert answer.status_code == 422
    assert "Say why" in extract_text(answer.text)
    assert answer.text.count('id="modal-title">Refund this message?<') == 1
    refunds.refund_message(conn, SHELL, account, message_id, "somebody was quicker")
    answer = olga.post(address, data={"reason": "a reason", "form": get_field_value(answer.text, "form")}, htmx=htmx)
    assert answer.status_code == 422
    assert "has been given back already" in extract_text(answer.text)
    assert get_field_value(answer.text, "reason") == "a reason"
    assert balance(conn) == 1_000_000


def test_customers_are_not_offered_a_refund(client: Client, cast: Cast, conn: db.Connection) -> None:
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", "hello")
    acting.deliver_messages(conn, message_id)
    page = client(cast.alice).get(f"/accounts/smpp-acme-1/history/{message_id}").text
    assert "/admin/" not in page


# --- everyone's balances


def lines(answer: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(answer), delimiter=";"))


def accounts_in(page: str) -> list[str]:
    # Those in the table: the notice over the page names a command.
    return [each.split("<")[0] for each in page.partition("<tbody")[2].split("<code>")[1:]]


@pytest.mark.slow
def test_everyone_s_balances_with_what_they_use_and_owe(
    olga: Browser, conn: db.Connection, cast: Cast, account: Account
) -> None:
    acting.send_texts(conn, "smpp-acme-1", "one", "two")
    conn.execute("UPDATE daily_totals SET day = day - 10")
    acting.send_texts(conn, "smpp-acme-1", "three")
    conn.execute("UPDATE accounts SET alert_below = 1200000 WHERE id = ?", (account.id,))
    with db.write_transaction(conn):
        order = orders.insert_order(conn, SHELL, account.id, packs.get_pack(conn, 100_000), orders.AUTOMATIC)
        orders.credit_order(conn, SHELL, order)
        orders.insert_order(conn, SHELL, account.id, packs.get_pack(conn, 200_000), orders.CUSTOMER)
    page_text = extract_text(olga.get(BALANCES).text)
    assert "smpp-acme-1 Acme 1,097 1 3 100 low" in page_text
    assert "smpp-globex-1 Globex 500 0 0 0" in page_text
    assert "credits left 1,747 spent in 7 days 1 spent in 30 days 3 owed 100" in page_text
    assert lines(olga.get(f"{BALANCES}.csv").text)[:2] == [
        ["account", "customer", "balance", "spent7days", "spent30days", "owed", "alertBelow", "alert"],
        ["smpp-acme-1", "Acme", "1097", "1", "3", "100", "1200", "low"],
    ]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["smpp-acme-1", "smpp-acme-2", "sms-acme-1", "smpp-globex-1"]),
        ("?sort=balance", ["sms-acme-1", "smpp-acme-2", "smpp-globex-1", "smpp-acme-1"]),
        ("?sort=-balance", ["smpp-acme-1", "smpp-globex-1", "smpp-acme-2", "sms-acme-1"]),
        ("?sort=account", ["smpp-acme-1", "smpp-acme-2", "smpp-globex-1", "sms-acme-1"]),
        ("?sort=nonsense", ["smpp-acme-1", "smpp-acme-2", "sms-acme-1", "smpp-globex-1"]),
        ("?q=GLOB", ["smpp-globex-1"]),
        ("?q=acme&sort=-account", ["sms-acme-1", "smpp-acme-2", "smpp-acme-1"]),
    ],
)
def test_balances_are_searched_and_sorted_as_is_their_file(olga: Browser, query: str, found: list[str]) -> None:
    assert accounts_in(olga.get(BALANCES + query).text) == found
    assert [line[0] for line in lines(olga.get(f"{BALANCES}.csv{query}").text)[1:]] == found


def test_a_search_without_a_find_says_so(olga: Browser) -> None:
    page = olga.get(BALANCES, query_string={"q": acting.SCRIPT_INJECTION}).text
    assert "Nothing found" in page
    assert acting.SCRIPT_INJECTION not in page


@pytest.mark.slow
def test_more_than_anyone_reads_is_cut_off(olga: Browser, conn: db.Connection, cast: Cast) -> None:
    with db.write_transaction(conn):
        for number in range(200):
            accounts.create_account(conn, SHELL, cast.globex, name=f"smpp-many-{number}")
    page = olga.get(BALANCES).text
    assert len(accounts_in(page)) == 200
    assert "4 more accounts aren’t shown" in extract_text(page)
    assert len(lines(olga.get(f"{BALANCES}.csv").text)) == 205


def test_no_name_is_a_formula_to_a_spreadsheet(olga: Browser, conn: db.Connection) -> None:
    customer = customers.create_customer(conn, SHELL, "=1+1,＝A1", "eve@evil.example")
    accounts.create_account(conn, SHELL, customer.id, name="smpp-evil")
    assert ["smpp-evil", "'=1+1,'＝A1"] in [line[:2] for line in lines(olga.get(f"{BALANCES}.csv").text)]


def test_the_file_is_the_operators_alone(client: Client, cast: Cast) -> None:
    assert client(cast.alice).get(f"{BALANCES}.csv").status_code == 404
