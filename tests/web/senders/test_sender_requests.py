"""The operator's side of senders: what waits, the decision, and deciding otherwise."""

from collections.abc import Callable

import pytest

from portal.core import db
from portal.services.accounts import accounts
from portal.services.accounts.accounts import Account
from portal.services.common.audit import SHELL
from portal.services.senders import senders
from portal.services.senders.senders import Sender
from tests.documents import PDF
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text, get_field_value
from tests.web.conftest import Browser

QUEUE = "/admin/senders"


@pytest.fixture
def account(conn: db.Connection, cast: Cast) -> Account:
    return accounts.get_account(conn, cast.smpp_acme_1.name)


@pytest.fixture
def shop(conn: db.Connection, account: Account) -> Sender:
    """Waits for a decision."""
    return senders.add_sender(conn, SHELL, account, "SHOP", description="Web shop", reason="Orders", document=PDF)


def now(conn: db.Connection, account: Account, address: str = "SHOP") -> Sender:
    return senders.get_sender(conn, account, address)


def test_the_start_says_how_many_wait(olga: Browser, shop: Sender) -> None:
    page = olga.get("/admin/").text
    assert "1 sender waits for your decision." in extract_text(page)
    assert f'href="{QUEUE}"' in page


def test_the_start_is_silent_when_none_does(olga: Browser) -> None:
    assert "your decision" not in olga.get("/admin/").text


def test_the_queue_tells_all_that_was_said(olga: Browser, shop: Sender) -> None:
    page = olga.get(QUEUE).text
    page_text = extract_text(page)
    assert "SHOP Waiting for a decision" in page_text
    for each in ("Acme", "smpp-acme-1", "Letters and digits", "Web shop", "Orders", "Document (PDF)", "1 kB"):
        assert each in page_text
    path = f"/accounts/smpp-acme-1/senders/{shop.id}/document"
    assert f'href="{path}"' in page
    assert olga.get(path).data == PDF
    assert "Looks like" not in page_text


def test_the_oldest_come_first_and_the_others_follow(olga: Browser, conn: db.Connection, account: Account) -> None:
    for number in range(7):
        senders.add_sender(conn, SHELL, account, f"SHOP{number}")
    page = olga.get(QUEUE).text
    assert "7 senders wait for your decision." in page
    assert "2 more wait behind these." in page
    assert "SHOP4" in page
    assert "SHOP5" not in page
    senders.decide_sender(conn, SHELL, account, "SHOP0", approve=False)
    assert "SHOP5" in olga.get(QUEUE).text


def test_an_empty_queue_says_so(olga: Browser) -> None:
    assert "No sender waits for a decision." in olga.get(QUEUE).text


def test_what_somebody_wrote_is_text(olga: Browser, conn: db.Connection, account: Account) -> None:
    senders.add_sender(
        conn, SHELL, account, "SHOP", description=acting.SCRIPT_INJECTION, reason=acting.SCRIPT_INJECTION
    )
    page = olga.get(QUEUE).text
    assert acting.SCRIPT_INJECTION not in page
    assert page.count("&lt;script&gt;") == 2


def test_what_resembles_another_customer_s_is_marked_with_whose_it_is(
    olga: Browser, conn: db.Connection, account: Account, shop: Sender
) -> None:
    pending = senders.add_sender(conn, SHELL, account, "GL0BEX")
    page_text = extract_text(olga.get(QUEUE).text)
    assert page_text.count("Looks like GLOBEX of Globex (smpp-globex-1)") == 1
    assert "Looks like GLOBEX" in extract_text(olga.get(f"{QUEUE}/{pending.id}").text)
    assert "Looks like" not in extract_text(olga.get(f"{QUEUE}/{shop.id}").text)


@pytest.mark.parametrize("htmx", [False, True])
@pytest.mark.parametrize(
    ("decision", "status", "expected_text", "label"),
    [
        ("approve", senders.ENABLED, "SHOP was approved.", "Enabled"),
        ("refuse", senders.REFUSED, "SHOP was refused.", "Refused"),
        ("", senders.REFUSED, "SHOP was refused.", "Refused"),
    ],
)
def test_deciding(
    olga: Browser,
    conn: db.Connection,
    account: Account,
    shop: Sender,
    decision: str,
    status: str,
    expected_text: str,
    label: str,
    htmx: bool,
) -> None:
    target = f"sender-{shop.id}"
    data = {"mark": get_field_value(olga.get(QUEUE).text, "mark"), "decision": decision, "comment": "Seen"}
    answer = olga.post(f"{QUEUE}/{shop.id}", data=data, htmx=target if htmx else False)
    assert (now(conn, account).status, now(conn, account).comment) == (status, "Seen")
    shown = answer.text if htmx else olga.get(answer.location).text
    assert expected_text in shown
    assert "No sender waits for a decision." in shown
    assert ("SHOP " + label in extract_text(shown)) == htmx
    if htmx:
        assert shown.lstrip().startswith('<section class="tile" id="' + target)
    assert conn.execute("SELECT count(*) FROM mails WHERE recipient = 'marta@acme.example'").fetchone()[0] == 1


@pytest.mark.parametrize("htmx", [False, True])
def test_a_page_that_is_out_of_date_decides_nothing(
    olga: Browser, conn: db.Connection, account: Account, shop: Sender, htmx: bool
) -> None:
    senders.decide_sender(conn, SHELL, account, "SHOP", approve=False, comment="No")
    for mark in (shop.revision, "", "nonsense"):
        data = {"mark": mark, "decision": "approve"}
        answer = olga.post(f"{QUEUE}/{shop.id}", data=data, htmx=htmx)
        assert answer.status_code == 422
        assert "SHOP has changed since you opened it" in answer.text
    assert now(conn, account).status == senders.REFUSED


def test_a_comment_that_is_too_long_comes_back(
    olga: Browser, conn: db.Connection, account: Account, shop: Sender
) -> None:
    data = {"mark": shop.revision, "decision": "refuse", "comment": "x" * 201}
    for htmx in (False, True):
        answer = olga.post(f"{QUEUE}/{shop.id}", data=data, htmx=htmx)
        assert answer.status_code == 422
        assert "At most 200 characters." in answer.text
        assert get_field_value(answer.text, "comment") == "x" * 201
    assert now(conn, account).status == senders.WAITING


@pytest.mark.parametrize("htmx", [False, True])
def test_one_that_is_gone_is_no_error(
    olga: Browser, conn: db.Connection, account: Account, shop: Sender, htmx: bool
) -> None:
    senders.remove_senders(conn, SHELL, account, [shop.id])
    answer = olga.post(f"{QUEUE}/{shop.id}", data={"mark": shop.revision, "decision": "approve"}, htmx=htmx)
    shown = answer.text if htmx else olga.get(answer.location).text
    assert "Nothing was decided: the sender has been removed meanwhile." in shown
    assert "SHOP" not in shown
    assert olga.get(f"{QUEUE}/{shop.id}").status_code == 404


def test_a_decision_is_changed_later(olga: Browser, conn: db.Connection, account: Account) -> None:
    acme = now(conn, account, "ACME")
    page = olga.get(QUEUE).text
    assert f'href="senders/{acme.id}"' in page
    one = olga.get(f"{QUEUE}/{acme.id}").text
    assert "Approve" not in one
    olga.post(
        f"{QUEUE}/{acme.id}", data={"mark": get_field_value(one, "mark"), "decision": "refuse", "comment": "Fraud"}
    )
    assert now(conn, account, "ACME").status == senders.REFUSED
    one = olga.get(f"{QUEUE}/{acme.id}").text
    assert "Last comment Fraud" in extract_text(one)
    olga.post(f"{QUEUE}/{acme.id}", data={"mark": get_field_value(one, "mark"), "decision": "approve"})
    assert now(conn, account, "ACME").status == senders.ENABLED


def test_what_was_decided_is_searched(olga: Browser) -> None:
    page = olga.get(QUEUE, query_string={"q": "glob"}).text
    assert "GLOBEX" in page
    assert "smpp-acme-1" not in page
    assert "Nothing found" in olga.get(QUEUE, query_string={"q": acting.SCRIPT_INJECTION}).text


def test_customers_have_no_queue(client: Callable[[Person], Browser], cast: Cast, shop: Sender) -> None:
    for person in (cast.alice, cast.bob, cast.charlie):
        browser = client(person)
        assert browser.get(QUEUE).status_code == 404
        assert browser.get(f"{QUEUE}/{shop.id}").status_code == 404
        assert (
            browser.post(f"{QUEUE}/{shop.id}", data={"mark": shop.revision, "decision": "approve"}).status_code == 404
        )
