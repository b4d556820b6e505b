"""What customers ask operators for: where it is listed, and the answers."""

from collections.abc import Callable

import pytest

from portal.core.db import Connection
from portal.services.common.audit import Actor
from portal.services.messages import account_requests
from portal.services.messages.account_requests import AccountRequest
from portal.services.people import users
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

ALICE = Actor("alice@acme.example")
START, ACCOUNT = "/admin/", "/admin/accounts/smpp-acme-1"


@pytest.fixture
def asked(conn: Connection, cast: Cast) -> AccountRequest:
    account = acting.get_account(conn, "smpp-acme-1")
    return account_requests.ask_operator(conn, ALICE, account, "windowing", "", f"50 {acting.SCRIPT_INJECTION}")


def test_the_start_and_the_account_list_what_waits(olga: Browser, asked: AccountRequest) -> None:
    for path in (START, ACCOUNT):
        page = olga.get(path).text
        text = extract_text(page)
        for each in (
            "A window of more than 10 unanswered messages for smpp-acme-1",
            "50 <script>",
            "Acme",
            "alice@acme.example",
        ):
            assert each in text
        assert acting.SCRIPT_INJECTION not in page
        for address in (f"{ACCOUNT}#limits", f"/admin/requests/{asked.id}/done", f"/admin/requests/{asked.id}/decline"):
            assert f'href="{address}"' in page
    assert 'id="requests"' not in olga.get("/admin/accounts/smpp-acme-2").text


def test_nothing_waits(olga: Browser) -> None:
    for path in (START, ACCOUNT):
        assert 'id="requests"' not in olga.get(path).text


def test_the_longest_waiting_come_first_and_the_others_follow(olga: Browser, conn: Connection, cast: Cast) -> None:
    for name in ("smpp-acme-1", "smpp-acme-2"):
        account = acting.get_account(conn, name)
        for code in ("FR", "DE", "ES", "PT", "GB", "IE"):
            account_requests.ask_operator(conn, ALICE, account, "route", code)
    text = extract_text(olga.get(START).text)
    assert "2 more wait behind these." in text
    assert "A route to France for smpp-acme-1" in text
    assert "A route to Ireland for smpp-acme-2" not in text
    assert "A route to Ireland for smpp-acme-2" in extract_text(olga.get("/admin/accounts/smpp-acme-2").text)


@pytest.mark.parametrize(
    ("path", "answer", "told"),
    [("done", "done", "was marked as done."), ("decline", "declined", "was declined.")],
)
def test_an_answer_without_javascript(
    olga: Browser, conn: Connection, asked: AccountRequest, path: str, answer: str, told: str
) -> None:
    address = f"/admin/requests/{asked.id}/{path}"
    page = olga.get(address, headers={"Referer": f"http://localhost{START}"}).text
    assert "A window of more than 10 unanswered messages for smpp-acme-1" in page
    assert acting.SCRIPT_INJECTION not in page
    refused = olga.post(address, data={"comment": 501 * "x", "back": START})
    assert refused.status_code == 422
    assert "At most 500 characters." in refused.text
    done = olga.post(address, data={"comment": "it is 50 now", "back": get_field_value(page, "back")})
    assert (done.status_code, done.location) == (303, START)
    found = account_requests.get_request(conn, asked.id)
    assert (found.answer, found.comment, found.answered_by) == (answer, "it is 50 now", "olga@portal.example")
    page = olga.get(START).text
    assert told in extract_text(page)
    assert 'id="requests"' not in page
    assert [each[0] for each in conn.execute("SELECT recipient FROM mails")] == [ALICE.name]


def test_an_answer_in_the_dialog(olga: Browser, conn: Connection, asked: AccountRequest) -> None:
    address = f"/admin/requests/{asked.id}/decline"
    here = f"http://localhost{ACCOUNT}"
    dialog = olga.get(address, htmx=True, headers={"HX-Current-URL": here}).text
    assert "<html" not in dialog
    answer = olga.post(address, data={"back": get_field_value(dialog, "back")}, htmx="dialog")
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (204, ACCOUNT)
    # Somebody else has the question open.
    answer = olga.post(f"/admin/requests/{asked.id}/done", data={"back": ACCOUNT})
    assert answer.location == ACCOUNT
    assert "Somebody has answered this already." in olga.get(ACCOUNT).text
    assert account_requests.get_request(conn, asked.id).answer == "declined"


def test_without_a_page_it_leads_to_the_account(olga: Browser, asked: AccountRequest) -> None:
    assert olga.post(f"/admin/requests/{asked.id}/done").location == f"{ACCOUNT}#requests"


def test_customers_answer_nothing(
    client: Callable[[Person], Browser], cast: Cast, conn: Connection, asked: AccountRequest
) -> None:
    for person in (cast.alice, cast.bob, cast.charlie):
        browser = client(person)
        for path in ("done", "decline"):
            assert browser.get(f"/admin/requests/{asked.id}/{path}").status_code == 404
            assert browser.post(f"/admin/requests/{asked.id}/{path}").status_code == 404
    assert account_requests.get_request(conn, asked.id).answer == ""


def test_what_is_not_there_is_not_found(olga: Browser) -> None:
    assert olga.get("/admin/requests/77/done").status_code == 404
    assert olga.post("/admin/requests/77/decline").status_code == 404


def test_in_italian(olga: Browser, conn: Connection, cast: Cast, asked: AccountRequest) -> None:
    users.set_user_language(conn, users.get_user_by_id(conn, cast.olga.id), "it")
    text = extract_text(olga.get(START).text)
    for each in ("Richieste", "Una finestra di più di 10 messaggi senza risposta per smpp-acme-1", "Respingi"):
        assert each in text
    assert "Segna come eseguita" in extract_text(olga.get(f"/admin/requests/{asked.id}/done").text)
