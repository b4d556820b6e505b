"""The source addresses that an account's messages may carry."""

from collections.abc import Callable

import pytest

from portal import db
from portal.services import senders
from portal.services.audit import SHELL
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import value_of, words
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
# Has ACME, approved.
SENDERS = "/accounts/smpp-acme-1/senders"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


def listed(conn: db.Connection) -> dict[str, str]:
    return {each.address: each.status for each in senders.of_account(conn, acting.account(conn, "smpp-acme-1").id)}


def test_the_list_with_types_and_states(alice: Browser, conn: db.Connection) -> None:
    account = acting.account(conn, "smpp-acme-1")
    senders.add(conn, SHELL, account, "4711", description="Voting")
    senders.add(conn, SHELL, account, "393401234567")
    senders.decide(conn, SHELL, account, "393401234567", approve=False, comment="Not yours.")
    said = words(alice.get(SENDERS).text)
    assert "ACME Letters and digits Enabled" in said
    assert "4711 Short code Waiting for a decision Voting" in said
    assert "393401234567 Number Refused Not yours." in said


def test_an_empty_list_says_what_a_sender_is(alice: Browser) -> None:
    assert "No sender yet" in alice.get("/accounts/smpp-acme-2/senders").text


@pytest.mark.parametrize("htmx", [False, "senders"])
def test_asking_for_one(alice: Browser, conn: db.Connection, htmx: bool | str) -> None:
    form = {"sender": "ACME Shop", "description": "Web shop", "reason": "Orders"}
    answer = alice.post(SENDERS, data=form, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    page = answer.text if htmx else alice.get(answer.location).text
    said = words(page)
    assert "ACME Shop was added. It can be used once it has been approved." in said
    assert "ACME Shop Letters and digits Waiting for a decision Web shop" in said
    assert value_of(page, "sender") == ""
    assert listed(conn)["ACME Shop"] == senders.WAITING


@pytest.mark.parametrize("htmx", [False, "senders"])
@pytest.mark.parametrize(
    ("form", "sentence", "field"),
    [
        ({"sender": "A"}, "“A” can't be a sender: it is 3 to 11 letters and digits", "sender"),
        ({"sender": "ACME"}, "ACME is already in the list.", "sender"),
        ({"sender": acting.HOSTILE}, "can't be a sender", "sender"),
        ({"sender": "SHOP", "description": "x" * 201}, "At most 200 characters.", "description"),
    ],
)
def test_a_refusal_says_why_at_the_field_and_keeps_what_was_typed(
    alice: Browser, conn: db.Connection, form: dict[str, str], sentence: str, field: str, htmx: bool | str
) -> None:
    before = listed(conn)
    answer = alice.post(SENDERS, data={"reason": "kept too"} | form, htmx=htmx)
    assert answer.status_code == 422
    assert sentence in words(answer.text)
    assert f'id="{field}-error"' in answer.text
    assert value_of(answer.text, "sender") == form["sender"]
    assert "kept too</textarea>" in answer.text
    assert acting.HOSTILE not in answer.text
    assert listed(conn) == before


@pytest.fixture
def acme(conn: db.Connection) -> int:
    return senders.by_address(conn, acting.account(conn, "smpp-acme-1"), "ACME").id


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_removing_asks_first(alice: Browser, conn: db.Connection, acme: int, htmx: bool | str) -> None:
    said = words(alice.get(f"{SENDERS}/{acme}/delete", htmx=htmx).text)
    assert "Messages from ACME are refused from now on." in said
    assert said.index("Exit") < said.rindex("Delete ACME")
    assert "ACME" in listed(conn)


def test_removing_by_a_plain_form(alice: Browser, conn: db.Connection, acme: int) -> None:
    answer = alice.post(f"{SENDERS}/{acme}/delete")
    assert (answer.status_code, answer.location) == (303, SENDERS)
    assert "ACME was removed." in alice.get(SENDERS).text
    assert listed(conn) == {}


def test_removing_with_htmx_answers_with_the_list(alice: Browser, conn: db.Connection, acme: int) -> None:
    answer = alice.delete(f"{SENDERS}/{acme}", htmx="senders-list")
    assert answer.text.lstrip().startswith('<div id="senders-list"')
    assert "ACME was removed." in answer.text
    assert listed(conn) == {}
    assert alice.delete(f"{SENDERS}/{acme}", htmx=True).status_code == 404
    assert alice.get(f"{SENDERS}/{acme}/delete").status_code == 404


def test_what_somebody_wrote_is_text(alice: Browser, conn: db.Connection) -> None:
    account = acting.account(conn, "smpp-acme-1")
    senders.add(conn, SHELL, account, "SHOP", description=acting.HOSTILE)
    senders.decide(conn, SHELL, account, "SHOP", approve=False, comment=acting.HOSTILE)
    page = alice.get(SENDERS).text
    assert acting.HOSTILE not in page
    assert page.count("&lt;script&gt;") == 2


def test_a_viewer_sees_the_list_and_changes_nothing(client: Client, cast: Cast, conn: db.Connection, acme: int) -> None:
    bob = client(cast.bob)
    page = bob.get(SENDERS).text
    assert "ACME" in page
    assert "Add a sender" not in page
    assert "/delete" not in page
    assert bob.post(SENDERS, data={"sender": "SHOP"}).status_code == 403
    assert bob.delete(f"{SENDERS}/{acme}").status_code == 403
    assert listed(conn) == {"ACME": senders.ENABLED}


def test_another_customer_finds_nothing(client: Client, cast: Cast, conn: db.Connection, acme: int) -> None:
    charlie = client(cast.charlie)
    assert charlie.get(SENDERS).status_code == 404
    assert charlie.post(SENDERS, data={"sender": "SHOP"}).status_code == 404
    assert charlie.delete(f"/accounts/smpp-globex-1/senders/{acme}").status_code == 404
    assert listed(conn) == {"ACME": senders.ENABLED}
