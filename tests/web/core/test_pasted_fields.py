"""Marks that nobody sees come with what is pasted: no field of a page counts them, but passwords and texts."""

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
from flask_wtf import FlaskForm
from wtforms import PasswordField
from wtforms.fields.core import UnboundField

from portal.core import db
from portal.services.accounts import allowed_ips
from portal.services.messages import blacklist
from portal.services.people import customers, users
from portal.services.senders import senders
from portal.web.core.forms import TranslatedForm
from portal.web.core.request_values import UNTOUCHED_FIELDS
from tests.core.test_pasted_text import MARKS
from tests.documents import PDF
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
ACCOUNT = "/accounts/smpp-acme-2"


def put_marks(text: str) -> str:
    """A text as it is pasted: marks around it, and one in the middle."""
    middle = len(text) // 2
    return f"\u202a\u200e{text[:middle]}\u200b{text[middle:]}\u202c\ufeff\u00a0"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


@pytest.mark.parametrize("htmx", [False, True])
@pytest.mark.parametrize("mark", MARKS)
def test_an_address_is_what_is_seen(alice: Browser, conn: db.Connection, mark: str, htmx: bool) -> None:
    data = {"network": f"{mark}203.0.{mark}113.7{mark}", "label": f"Office{mark}"}
    assert alice.post(f"{ACCOUNT}/ips", data=data, htmx=htmx).status_code == (200 if htmx else 303)
    (added,) = allowed_ips.list_allowed_ips(conn, acting.get_account(conn, "smpp-acme-2").id)
    assert (added.network, added.label) == ("203.0.113.7", "Office")


def test_a_login_takes_what_is_seen(browser: Browser, cast: Cast) -> None:
    data = {"email": put_marks(cast.alice.email), "password": cast.alice.password}
    assert browser.post("/login", data=data).location == "/login/totp"
    assert browser.post("/login/totp", data={"code": put_marks(cast.alice.totp_code())}).location == "/"


def test_a_recovery_code_is_what_is_seen(browser: Browser, cast: Cast) -> None:
    browser.post("/login", data={"email": cast.alice.email, "password": cast.alice.password})
    assert browser.post("/login/totp", data={"recovery": put_marks(cast.alice.recovery_codes[0])}).location == "/"


def test_what_is_created_is_what_is_seen(olga: Browser, alice: Browser, conn: db.Connection, cast: Cast) -> None:
    data = {"name": put_marks("Initech"), "email": put_marks("bill@initech.example"), "language": "en"}
    assert olga.post("/admin/customers", data=data).status_code == 303
    assert customers.get_customer(conn, "Initech").contact_email == "bill@initech.example"
    data = {"user-email": put_marks("dora@acme.example"), "user-role": "viewer"}
    assert olga.post(f"/admin/customers/{cast.acme}/users", data=data).status_code == 200
    assert users.get_user_by_email(conn, "dora@acme.example").role == "viewer"
    document = (BytesIO(PDF), "paper.pdf")
    wish = {"sender": put_marks("SHOP"), "description": "Web shop", "reason": put_marks("Orders"), "document": document}
    assert alice.post(f"{ACCOUNT}/senders", data=wish).status_code == 303
    found = senders.list_senders(conn, acting.get_account(conn, "smpp-acme-2").id)
    assert [(each.address, each.reason) for each in found] == [("SHOP", "Orders")]


def test_amounts_are_what_is_seen(alice: Browser, conn: db.Connection) -> None:
    page = alice.get("/accounts/smpp-acme-1/credits/transfer").text
    data = {"target": "smpp-acme-2", "amount": put_marks("0.5"), "form": acting.get_field_value(page, "form")}
    before = acting.get_account(conn, "smpp-acme-2").balance
    assert alice.post("/accounts/smpp-acme-1/credits/transfer", data=data).status_code == 303
    assert acting.get_account(conn, "smpp-acme-2").balance == before + 500


@pytest.mark.parametrize(
    ("path", "name", "words", "found"),
    [
        ("/admin/prices/1", "q", "Italy", "+39"),
        ("/admin/prices/1", "q", "39342", "+39"),
        ("/admin/", "q", "Globex", "smpp-globex-1"),
    ],
)
def test_a_search_finds_what_is_seen(olga: Browser, path: str, name: str, words: str, found: str) -> None:
    assert found in extract_text(olga.get(path, query_string={name: put_marks(words)}).text)


def test_filters_take_what_is_seen(alice: Browser, conn: db.Connection) -> None:
    acting.send_texts(conn, "smpp-acme-1", "A text to be found")
    for name, value in (("recipient", "39"), ("sender", "ACME"), ("period", "7d")):
        page = alice.get("/accounts/smpp-acme-1/history", query_string={name: put_marks(value)}).text
        assert "A text to be found" in page
        assert 'aria-invalid="true"' not in page
    answer = alice.get("/accounts/smpp-acme-1/history.csv", query_string={"recipient": put_marks("39")})
    assert "A text to be found" in answer.text


def test_a_link_that_was_pasted_leads_where_it_should(alice: Browser, browser: Browser) -> None:
    assert alice.get(f"{ACCOUNT}\u200b").status_code == 200
    assert alice.get(f"{ACCOUNT}\u200b/history").status_code == 200


def test_numbers_in_files_are_what_is_seen(alice: Browser, conn: db.Connection) -> None:
    content = f"number\n{put_marks('+39 340 1234567')}\n\u202d393401234568\u202c\n".encode()
    page = alice.post(f"{ACCOUNT}/blacklist/import", data={"file": (BytesIO(content), "numbers.csv")}).text
    assert "393401234567 393401234568" in page
    alice.post(f"{ACCOUNT}/blacklist/import/confirm", data={"numbers": "393401234567 \u200e393401234568"})
    account_id = acting.get_account(conn, "smpp-acme-2").id
    wanted = ["393401234567", "393401234568"]
    found = blacklist.find_blacklist_entries(conn, account_id, wanted)
    assert sorted(each.number for each in found) == wanted


def test_prices_in_files_are_what_is_seen(olga: Browser) -> None:
    content = f"\ufeffdestination;price\n{put_marks('IT')};{put_marks('0,777')}\n".encode()
    page = olga.post("/admin/prices/1/import", data={"file": (BytesIO(content), "prices.csv")})
    assert page.status_code == 200
    assert "0.777" in extract_text(page.text)


# --- what stays


def iterate_forms(of: type[FlaskForm] = TranslatedForm) -> Iterator[type[FlaskForm]]:
    for each in of.__subclasses__():
        yield each
        yield from iterate_forms(each)


def test_no_password_is_touched(browser: Browser) -> None:
    passwords = {
        name
        for form in iterate_forms()
        for name in dir(form)
        if isinstance(field := getattr(form, name), UnboundField) and field.field_class is PasswordField
    }
    assert {"password", "current", "repeat"} <= passwords <= UNTOUCHED_FIELDS


def test_a_password_is_what_was_chosen(alice: Browser, cast: Cast, browser: Browser) -> None:
    chosen = "correct\u200b horse\u00a0battery"
    data = {"password-current": cast.alice.password, "password-password": chosen, "password-repeat": chosen}
    assert alice.post("/profile/password", data=data).status_code == 303
    for typed, status in ((chosen, 303), ("correct horse battery", 401)):
        assert browser.post("/login", data={"email": cast.alice.email, "password": typed}).status_code == status


@pytest.mark.parametrize(("text", "parts"), [("a" * 71, "GSM"), ("a" * 71 + "\u200b", "UCS-2")])
def test_the_text_of_a_message_is_what_it_is(alice: Browser, text: str, parts: Any) -> None:
    answer = alice.post("/accounts/smpp-acme-1/credits/cost", data={"text": text, "numbers": put_marks("393401234567")})
    assert answer.status_code == 200
    assert parts in extract_text(answer.text)
    assert ("\u200b" in answer.text) is ("\u200b" in text)
