"""The source addresses that an account's messages may carry."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from flask import Flask
from werkzeug.datastructures import FileStorage
from werkzeug.test import encode_multipart

from portal.core import db
from portal.core.config import Config, DocumentSettings
from portal.core.crypto import Keys
from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.messages import inbound_numbers
from portal.services.senders import documents, senders
from portal.web.app import MAX_BODY_BYTES
from portal.web.core import context
from portal.web.core.context import PageLimits
from tests.clamd import EICAR, Clamd
from tests.documents import JPEG, PDF, create_png
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
# Has ACME, approved.
SENDERS = "/accounts/smpp-acme-1/senders"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


def listed(conn: db.Connection) -> dict[str, str]:
    return {
        each.address: each.status for each in senders.list_senders(conn, acting.get_account(conn, "smpp-acme-1").id)
    }


def test_the_list_with_types_and_states(alice: Browser, conn: db.Connection) -> None:
    account = acting.get_account(conn, "smpp-acme-1")
    senders.add_sender(conn, SHELL, account, "4711", description="Voting")
    senders.add_sender(conn, SHELL, account, "393401234567")
    senders.decide_sender(conn, SHELL, account, "393401234567", approve=False, comment="Not yours.")
    page_text = extract_text(alice.get(SENDERS).text)
    assert "ACME Letters and digits Enabled" in page_text
    assert "4711 Short code Waiting for a decision Voting" in page_text
    assert "393401234567 Number Refused Not yours." in page_text
    inbound_numbers.add_inbound_number(conn, SHELL, account, "393401234567")
    assert "393401234567 Virtual number Refused" in extract_text(alice.get(SENDERS).text)


def test_an_empty_list_says_what_a_sender_is(alice: Browser) -> None:
    assert "No sender yet" in alice.get("/accounts/smpp-acme-2/senders").text


@pytest.mark.parametrize("htmx", [False, "senders"])
def test_asking_for_one(alice: Browser, conn: db.Connection, htmx: bool | str) -> None:
    form = {"sender": "ACME Shop", "description": "Web shop", "reason": "Orders"}
    answer = alice.post(SENDERS, data=form, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    page = answer.text if htmx else alice.get(answer.location).text
    page_text = extract_text(page)
    assert "ACME Shop was added. It can be used once it has been approved." in page_text
    assert "ACME Shop Letters and digits Waiting for a decision Web shop" in page_text
    assert get_field_value(page, "sender") == ""
    assert listed(conn)["ACME Shop"] == senders.WAITING


@pytest.mark.parametrize("htmx", [False, "senders"])
@pytest.mark.parametrize(
    ("form", "sentence", "field"),
    [
        ({"sender": "A"}, "“A” can't be a sender: it is 3 to 11 letters and digits", "sender"),
        ({"sender": "ACME"}, "ACME is already in the list.", "sender"),
        ({"sender": acting.SCRIPT_INJECTION}, "can't be a sender", "sender"),
        ({"sender": "SHOP", "description": "x" * 201}, "At most 200 characters.", "description"),
    ],
)
def test_a_refusal_says_why_at_the_field_and_keeps_what_was_typed(
    alice: Browser, conn: db.Connection, form: dict[str, str], sentence: str, field: str, htmx: bool | str
) -> None:
    before = listed(conn)
    answer = alice.post(SENDERS, data={"reason": "kept too"} | form, htmx=htmx)
    assert answer.status_code == 422
    assert sentence in extract_text(answer.text)
    assert f'id="{field}-error"' in answer.text
    assert get_field_value(answer.text, "sender") == form["sender"]
    assert "kept too</textarea>" in answer.text
    assert acting.SCRIPT_INJECTION not in answer.text
    assert listed(conn) == before


@pytest.fixture
def acme(conn: db.Connection) -> int:
    return senders.get_sender(conn, acting.get_account(conn, "smpp-acme-1"), "ACME").id


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_removing_asks_first(alice: Browser, conn: db.Connection, acme: int, htmx: bool | str) -> None:
    page_text = extract_text(alice.get(f"{SENDERS}/delete?id={acme}", htmx=htmx).text)
    assert "Messages from ACME are refused from now on." in page_text
    assert page_text.index("Exit") < page_text.rindex("Delete ACME")
    assert "ACME" in listed(conn)


def test_removing_by_a_plain_form(alice: Browser, conn: db.Connection, acme: int) -> None:
    answer = alice.post(f"{SENDERS}/delete", data={"id": acme})
    assert (answer.status_code, answer.location) == (303, SENDERS)
    assert "ACME was removed." in alice.get(SENDERS).text
    assert listed(conn) == {}


def test_removing_with_htmx_answers_with_the_list(alice: Browser, conn: db.Connection, acme: int) -> None:
    answer = alice.post(f"{SENDERS}/delete", data={"id": acme}, htmx="senders-list")
    assert answer.text.lstrip().startswith('<div id="senders-list"')
    assert "ACME was removed." in answer.text
    assert listed(conn) == {}
    assert alice.post(f"{SENDERS}/delete", data={"id": acme}, htmx=True).status_code == 404


def test_what_somebody_wrote_is_text(alice: Browser, conn: db.Connection) -> None:
    account = acting.get_account(conn, "smpp-acme-1")
    senders.add_sender(conn, SHELL, account, "SHOP", description=acting.SCRIPT_INJECTION)
    senders.decide_sender(conn, SHELL, account, "SHOP", approve=False, comment=acting.SCRIPT_INJECTION)
    page = alice.get(SENDERS).text
    assert acting.SCRIPT_INJECTION not in page
    assert page.count("&lt;script&gt;") == 2


def test_a_viewer_sees_the_list_and_changes_nothing(client: Client, cast: Cast, conn: db.Connection, acme: int) -> None:
    bob = client(cast.bob)
    page = bob.get(SENDERS).text
    assert "ACME" in page
    assert "Add a sender" not in page
    assert "/delete" not in page
    assert "checkbox" not in page
    assert "Disable" not in page
    for address, form in (("", {"sender": "SHOP"}), ("/delete", {"id": acme}), ("/switch", {"disable": acme})):
        assert bob.post(SENDERS + address, data=form).status_code == 403
    assert listed(conn) == {"ACME": senders.ENABLED}


def test_another_customer_finds_nothing(client: Client, cast: Cast, conn: db.Connection, acme: int) -> None:
    charlie = client(cast.charlie)
    assert charlie.get(SENDERS).status_code == 404
    assert charlie.post(SENDERS, data={"sender": "SHOP"}).status_code == 404
    own = "/accounts/smpp-globex-1/senders"
    for address, form in (("/delete", {"id": acme}), ("/switch", {"disable": acme}), (f"/restore?id={acme}", {})):
        assert charlie.post(own + address, data=form).status_code == 404
        assert charlie.post(SENDERS + address, data=form).status_code == 404
    assert "No sender was selected" in charlie.get(f"{own}/delete?id={acme}").text
    assert listed(conn) == {"ACME": senders.ENABLED}


# --- the document


def asking(content: bytes, name: str = "paper.pdf", sender: str = "SHOP") -> dict[str, Any]:
    """The arguments of a POST that sends a file."""
    form = {"sender": sender, "description": "Web shop", "document": FileStorage(BytesIO(content), name)}
    # The test client would write a large one to a file that it leaves open.
    boundary, body = encode_multipart(form)
    return {"data": body, "content_type": f"multipart/form-data; boundary={boundary}"}


@pytest.mark.parametrize(
    ("content", "name", "media_type"),
    [
        (PDF, "../../etc/passwd", "application/pdf"),
        (create_png(), "<script>.html", "image/png"),
        (JPEG, "paper.exe", "image/jpeg"),
    ],
    ids=["pdf", "png", "jpeg"],
)
@pytest.mark.parametrize("htmx", [False, "senders"])
def test_a_document_comes_back_as_a_file_to_save(
    alice: Browser, conn: db.Connection, content: bytes, name: str, media_type: str, htmx: bool | str
) -> None:
    answer = alice.post(SENDERS, **asking(content, name), htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    sender = senders.get_sender(conn, acting.get_account(conn, "smpp-acme-1"), "SHOP")
    page = alice.get(SENDERS).text
    assert f'href="senders/{sender.id}/document"' in page
    assert name not in page
    file = alice.get(f"{SENDERS}/{sender.id}/document")
    assert file.data == content
    assert file.headers["Content-Type"] == media_type
    ending = media_type.partition("/")[2]
    assert re.fullmatch(rf'attachment; filename="[0-9a-f]{{32}}\.{ending}"', file.headers["Content-Disposition"])
    assert file.headers["X-Content-Type-Options"] == "nosniff"
    assert file.headers["Cache-Control"] == "no-store"
    assert any("sandbox" in each for each in file.headers.getlist("Content-Security-Policy"))


@pytest.mark.parametrize("htmx", [False, "senders"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "This file isn't a PDF, PNG or JPEG"),
        (b"MZ" + PDF, "This file isn't a PDF, PNG or JPEG"),
        (create_png(padding=5 * 1024 * 1024), "The document is too large: at most 5 MB."),
        (create_png(12_001, 1), "The picture has 12001 × 1 pixels: at most 12000 a side"),
    ],
    ids=["empty", "nothing known", "too large", "too many pixels"],
)
def test_what_is_no_document_is_refused_at_its_field(
    alice: Browser, conn: db.Connection, content: bytes, sentence: str, htmx: bool | str
) -> None:
    answer = alice.post(SENDERS, **asking(content), htmx=htmx)
    assert answer.status_code == 422
    assert sentence in extract_text(answer.text)
    assert 'id="document-error"' in answer.text
    assert get_field_value(answer.text, "sender") == "SHOP"
    assert listed(conn) == {"ACME": senders.ENABLED}


@pytest.fixture
def clamd(app: Flask, config: Config, keys: Keys, page_limits: PageLimits) -> Iterator[Clamd]:
    """A scanner that the pages ask."""
    with Clamd().listening() as started:
        scanned = replace(config, documents=DocumentSettings(clamd=started.address))
        context.init_request_context(app, scanned, keys, page_limits)
        yield started


@pytest.mark.parametrize("htmx", [False, "senders"])
def test_a_document_with_a_virus_is_refused_at_its_field(
    alice: Browser, conn: db.Connection, clamd: Clamd, htmx: bool | str
) -> None:
    answer = alice.post(SENDERS, **asking(PDF + EICAR), htmx=htmx)
    assert answer.status_code == 422
    page_text = extract_text(answer.text)
    assert "The virus scanner has found Eicar-Test-Signature in this document. It isn't kept." in page_text
    assert 'id="document-error"' in answer.text
    assert get_field_value(answer.text, "sender") == "SHOP"
    assert listed(conn) == {"ACME": senders.ENABLED}
    assert conn.execute("SELECT count(*) FROM sender_documents").fetchone()[0] == 0
    alice.post(SENDERS, **asking(PDF))
    assert clamd.received == [PDF + EICAR, PDF]
    assert listed(conn)["SHOP"] == senders.WAITING


def test_a_document_that_can_t_be_scanned_is_refused_at_its_field(
    alice: Browser, conn: db.Connection, clamd: Clamd
) -> None:
    clamd.answer = b"INSTREAM: Can't allocate memory ERROR\0"
    answer = alice.post(SENDERS, **asking(PDF))
    assert answer.status_code == 422
    assert "can't be scanned for viruses at the moment. Try again in a few minutes." in extract_text(answer.text)
    assert 'id="document-error"' in answer.text
    assert get_field_value(answer.text, "sender") == "SHOP"
    assert listed(conn) == {"ACME": senders.ENABLED}
    assert alice.post(SENDERS, data={"sender": "SHOP"}).status_code == 303, "without a document nothing is scanned"


def test_the_document_of_a_refused_form_is_to_be_chosen_once_more(alice: Browser, conn: db.Connection) -> None:
    answer = alice.post(SENDERS, **asking(PDF, sender="A"))
    assert "Choose the document once more." in answer.text
    assert conn.execute("SELECT count(*) FROM sender_documents").fetchone()[0] == 0


def test_a_browser_that_chose_no_file_sends_an_empty_one(alice: Browser, conn: db.Connection) -> None:
    assert alice.post(SENDERS, **asking(b"", name="")).status_code == 303
    assert senders.get_sender(conn, acting.get_account(conn, "smpp-acme-1"), "SHOP").document is None


def test_more_than_any_form_takes_is_refused_unread(alice: Browser, conn: db.Connection) -> None:
    answer = alice.post(SENDERS, **asking(bytes(MAX_BODY_BYTES)))
    assert answer.status_code == 413
    assert "larger than anything this portal takes" in answer.text
    assert listed(conn) == {"ACME": senders.ENABLED}


def test_a_stranger_s_upload_is_not_read(browser: Browser) -> None:
    answer = browser.post(SENDERS, **asking(bytes(2 << 20)))
    assert (answer.status_code, answer.location) == (302, f"/login?next={SENDERS}")


def test_a_document_is_for_its_customer_and_operators(
    client: Client, cast: Cast, conn: db.Connection, acme: int
) -> None:
    account = acting.get_account(conn, "smpp-acme-1")
    sender = senders.add_sender(conn, SHELL, account, "SHOP", document=PDF)
    path = f"{SENDERS}/{sender.id}/document"
    for person in (cast.alice, cast.bob, cast.olga):
        assert client(person).get(path).data == PDF
    charlie = client(cast.charlie)
    assert charlie.get(path).status_code == 404
    assert charlie.get(f"/accounts/smpp-globex-1/senders/{sender.id}/document").status_code == 404
    alice = client(cast.alice)
    assert alice.get(f"/accounts/smpp-acme-2/senders/{sender.id}/document").status_code == 404
    assert alice.get(f"{SENDERS}/{acme}/document").status_code == 404, "it has none"
    senders.remove_senders(conn, SHELL, account, [sender.id])
    assert alice.get(path).status_code == 404


def test_half_a_document_is_none(alice: Browser, conn: db.Connection) -> None:
    sender = senders.add_sender(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), "SHOP", document=PDF)
    assert sender.document
    conn.execute("UPDATE sender_document_pieces SET content = x'00'")
    assert documents.read_document(conn, sender.document) is None
    assert alice.get(f"{SENDERS}/{sender.id}/document").status_code == 404


# --- disabling and enabling


@pytest.mark.parametrize("htmx", [False, "senders-list"])
def test_disabling_and_taking_it_back(alice: Browser, conn: db.Connection, acme: int, htmx: bool | str) -> None:
    page = alice.get(SENDERS).text
    assert f'form="switch" name="disable" value="{acme}"' in page
    answer = alice.post(f"{SENDERS}/switch", data={"disable": acme}, htmx=htmx)
    assert answer.status_code == (200 if htmx else 303)
    shown = answer.text if htmx else alice.get(SENDERS).text
    assert "ACME was disabled. Messages from it are refused." in extract_text(shown)
    assert "ACME Letters and digits Disabled" in extract_text(shown)
    assert listed(conn) == {"ACME": senders.DISABLED}
    undo = re.search(r'action="([^"]+/switch\?enable=\d+)"', shown)
    assert undo
    alice.post(undo[1], htmx=htmx)
    assert listed(conn) == {"ACME": senders.ENABLED}


def test_what_waits_can_t_be_switched(alice: Browser, conn: db.Connection) -> None:
    sender = senders.add_sender(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), "SHOP")
    assert f'form="switch" name="enable" value="{sender.id}"' not in alice.get(SENDERS).text
    alice.post(f"{SENDERS}/switch", data={"enable": sender.id})
    assert "SHOP has not been approved" in extract_text(alice.get(SENDERS).text)
    assert listed(conn)["SHOP"] == senders.WAITING


@pytest.mark.parametrize("number", ["", "x", "0", "999", "9" * 30])
def test_what_is_no_sender_s_number_switches_nothing(alice: Browser, number: str) -> None:
    assert alice.post(f"{SENDERS}/switch", data={"disable": number}).status_code == 404


# --- several at once


@pytest.fixture
def several(conn: db.Connection) -> list[int]:
    account = acting.get_account(conn, "smpp-acme-1")
    return [senders.add_sender(conn, SHELL, account, each).id for each in ("SHOP", "NEWS", "4711")]


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_removing_several_asks_first(
    alice: Browser, conn: db.Connection, acme: int, several: list[int], htmx: bool | str
) -> None:
    answer = alice.get(f"{SENDERS}/delete", query_string={"id": [acme, *several[:2], 999, "x"]}, htmx=htmx)
    page_text = extract_text(answer.text)
    assert "Delete 3 senders?" in page_text
    assert "Messages from NEWS , SHOP , ACME are refused from now on." in page_text
    assert len(listed(conn)) == 4


@pytest.mark.parametrize("htmx", [False, "dialog"])
def test_without_a_selection_it_says_so(alice: Browser, several: list[int], htmx: bool | str) -> None:
    answer = alice.get(f"{SENDERS}/delete", htmx=htmx)
    assert answer.status_code == 200
    assert "No sender was selected" in answer.text
    assert "<button" not in answer.text.partition("modal-title")[2].partition("</div>")[0]


@pytest.mark.parametrize("htmx", [False, "senders-list"])
def test_removing_several_and_bringing_them_back(
    alice: Browser, conn: db.Connection, acme: int, several: list[int], htmx: bool | str
) -> None:
    before = listed(conn)
    answer = alice.post(f"{SENDERS}/delete", data={"id": [acme, *several[:2]]}, htmx=htmx)
    shown = answer.text if htmx else alice.get(SENDERS).text
    assert "3 senders were removed." in shown
    assert listed(conn) == {"4711": senders.WAITING}
    undo = re.search(r'action="([^"]+/restore[^"]+)"', shown)
    assert undo
    back = alice.post(undo[1].replace("&amp;", "&"), htmx=bool(htmx))
    assert "3 senders are back in the list." in (back.text if htmx else alice.get(SENDERS).text)
    assert listed(conn) == before


def test_an_undo_that_comes_too_late_says_why(alice: Browser, conn: db.Connection, acme: int) -> None:
    alice.post(f"{SENDERS}/delete", data={"id": acme})
    alice.post(SENDERS, data={"sender": "ACME"})
    assert "ACME is already in the list." in alice.post(f"{SENDERS}/restore?id={acme}", htmx=True).text
    assert listed(conn) == {"ACME": senders.WAITING}
    assert alice.post(f"{SENDERS}/restore?id=999").status_code == 404


def test_where_any_sender_is_allowed_nothing_is_refused(alice: Browser, conn: db.Connection, acme: int) -> None:
    accounts.change_account(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), any_sender=True)
    page_text = extract_text(alice.get(f"{SENDERS}/delete?id={acme}").text)
    assert "This account may send with any sender: its messages go on." in page_text
    assert "refused" not in page_text


# --- order and search


def order(page: str) -> list[str]:
    return re.findall(r'name="id" value="\d+"> ([^<]+?) ?<', page)


@pytest.mark.parametrize(
    ("sort", "shown"),
    [
        ("", ["4711", "NEWS", "SHOP", "ACME"]),
        ("nonsense", ["4711", "NEWS", "SHOP", "ACME"]),
        ("-asked", ["4711", "NEWS", "SHOP", "ACME"]),
        ("asked", ["ACME", "SHOP", "NEWS", "4711"]),
        ("sender", ["4711", "ACME", "NEWS", "SHOP"]),
        ("-sender", ["SHOP", "NEWS", "ACME", "4711"]),
        ("type", ["NEWS", "SHOP", "ACME", "4711"]),
        ("status", ["ACME", "4711", "NEWS", "SHOP"]),
    ],
)
def test_the_address_says_the_order(alice: Browser, several: list[int], sort: str, shown: list[str]) -> None:
    page = alice.get(SENDERS, query_string={"sort": sort} if sort else {}).text
    assert order(page) == shown
    column = sort.lstrip("-") if sort not in ("", "nonsense") else "asked"
    (marked,) = re.findall(r'aria-sort="(\w+)"><a href="[^"]*sort=-?(\w+)', page)
    assert marked == ("descending" if sort in ("", "nonsense") or sort[0] == "-" else "ascending", column)


def test_a_column_s_heading_turns_its_order_round(alice: Browser) -> None:
    assert 'href="?sort=sender"' in alice.get(SENDERS).text
    assert 'href="?sort=-sender"' in alice.get(f"{SENDERS}?sort=sender").text


def test_what_is_done_leaves_the_order_as_it_was(alice: Browser, acme: int, several: list[int]) -> None:
    list_query = "?sort=sender&q=s"
    page = alice.get(SENDERS + list_query).text
    assert order(page) == ["NEWS", "SHOP"]
    assert 'name="sort" value="sender"' in page
    question = alice.get(f"{SENDERS}/delete{list_query}&id={several[0]}").text
    assert f'action="{SENDERS}/delete?sort=sender&amp;q=s"' in question
    answer = alice.post(f"{SENDERS}/delete{list_query}", data={"id": several[0]})
    assert answer.location == SENDERS + list_query
    part = alice.post(f"{SENDERS}/delete{list_query}", data={"id": several[1]}, htmx="senders-list").text
    assert "Nothing found" in part


def test_a_long_list_is_searched(alice: Browser, conn: db.Connection) -> None:
    assert 'type="search"' not in alice.get(SENDERS).text
    account = acting.get_account(conn, "smpp-acme-1")
    for number in range(26):
        senders.add_sender(conn, SHELL, account, f"SHOP{number}", description="For summer" if number == 7 else "")
    page = alice.get(SENDERS).text
    assert 'type="search"' in page
    assert order(alice.get(f"{SENDERS}?q=hop1").text) == [*(f"SHOP{number}" for number in range(19, 9, -1)), "SHOP1"]
    assert order(alice.get(f"{SENDERS}?q=SUMMER").text) == ["SHOP7"]
    hostile = alice.get(SENDERS, query_string={"q": acting.SCRIPT_INJECTION}).text
    assert "Nothing found" in hostile
    assert acting.SCRIPT_INJECTION not in hostile


def test_twenty_five_are_on_a_page(alice: Browser, conn: db.Connection) -> None:
    account = acting.get_account(conn, "smpp-acme-1")
    for number in range(50):
        senders.add_sender(conn, SHELL, account, f"SHOP{number:02}")
    assert order(alice.get(f"{SENDERS}?sort=sender").text)[::24] == ["ACME", "SHOP23"]
    second = alice.get(f"{SENDERS}?sort=sender&p=2").text
    assert order(second)[::24] == ["SHOP24", "SHOP48"]
    assert 'href="?sort=sender&amp;p=1"' in second
    assert 'href="?sort=sender&amp;p=3"' in second
    assert 'href="?sort=-sender"' in second, "another order begins at its beginning"
    last = alice.get(f"{SENDERS}?sort=sender&p=3").text
    assert order(last) == ["SHOP49"]
    assert "p=4" not in last
    for page, shown in (("99", "SHOP49"), ("0", "ACME"), ("-1", "ACME"), ("x", "ACME")):
        assert order(alice.get(f"{SENDERS}?sort=sender&p={page}").text)[0] == shown


def test_a_page_that_is_open_is_drawn_anew_as_it_is(alice: Browser, conn: db.Connection) -> None:
    account = acting.get_account(conn, "smpp-acme-1")
    for number in range(50):
        senders.add_sender(conn, SHELL, account, f"SHOP{number:02}")
    poll_url = f"{SENDERS.removesuffix('senders')}live?page=senders&sort=sender&p=2"
    assert order(alice.get(poll_url, htmx=True).text)[::24] == ["SHOP24", "SHOP48"]
