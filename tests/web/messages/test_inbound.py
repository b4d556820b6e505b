"""What handsets have sent, as pages, files and one by one, and what became of its delivery."""

import csv
import io
import json
import re
from collections.abc import Callable
from html import unescape

import pytest

from portal.core import clock, db
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.messages import deliveries, inbound, inbound_numbers
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.web.core.context import PageLimits
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text
from tests.web.conftest import Browser
from tests.web.core.test_live import OpenPage

Client = Callable[[Person], Browser]
PAGE = "/accounts/smpp-acme-1/received"
HANDSET, OTHER = "393337654321", "447911123456"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


@pytest.fixture(autouse=True)
def routed(conn: db.Connection) -> None:
    account = acting.get_account(conn, "smpp-acme-1")
    for number, keyword in (("48484", "info"), ("48484", ""), ("393990001112", "")):
        inbound_numbers.add_inbound_number(conn, SHELL, account, number, keyword)


def come(conn: db.Connection, text: str, source: str = HANDSET, to: str = "48484", **values: object) -> int:
    """A handset sends something; returns the message's id."""
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage(source, to, text, **values)])  # type: ignore[arg-type]
    (found,) = conn.execute("SELECT max(id) FROM received").fetchone()
    return int(found)


def age(conn: db.Connection, received_id: int, days: int) -> int:
    """Let a message have come so many days before."""
    older = received_id - ids.id_span(days * clock.DAY_MS)
    conn.execute("UPDATE received SET id = ? WHERE id = ?", (older, received_id))
    return older


def accept(conn: db.Connection) -> None:
    """A client accepts all that waits."""
    account_id = acting.get_account(conn, "smpp-acme-1").id
    deliveries.remove_accepted_deliveries(
        conn, deliveries.list_due_deliveries(conn, account_id, clock.now_ms(), 1000).ready
    )


def give_up(conn: db.Connection) -> None:
    deliveries.expire_deliveries(conn, clock.now_ms() + 8 * clock.DAY_MS)


def shown(page: str) -> list[str]:
    """The texts of the list."""
    return [unescape(each) for each in re.findall(r'id="r\d+">(.*?)</a>', page)]


@pytest.fixture
def five(conn: db.Connection) -> None:
    come(conn, "Où est mon colis?", "33612345678", "393990001112")
    come(conn, "INFO orari")
    accept(conn)
    come(conn, "Grazie, tutto a posto")
    give_up(conn)
    come(conn, "Second thoughts", OTHER)
    come(conn, "grazie mille", OTHER, "393990001112")


# --- the list


def test_an_empty_one_says_what_it_is_for(alice: Browser) -> None:
    page = alice.get(PAGE).text
    assert "No message yet" in page
    assert re.search(r'/history"[^>]*aria-current="page"', page), "it is under the history's tab"


def test_a_line_says_all_that_matters(alice: Browser, conn: db.Connection, five: None) -> None:
    page = alice.get(PAGE).text
    table = re.search(r'aria-label="Received messages".*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    assert table
    lines = [re.sub(r"^.* UTC ", "", extract_text(row)) for row in table[1].split("<tr>")[1:]]
    assert lines == [
        f"{OTHER} 393990001112 grazie mille Waits for a client",
        f"{OTHER} 48484 Second thoughts Waits for a client",
        f"{HANDSET} 48484 Grazie, tutto a posto Given up",
        f"{HANDSET} 48484 INFO INFO orari Accepted by a client",
        "33612345678 393990001112 Où est mon colis? Accepted by a client",
    ]


def test_pages_go_on_where_the_one_before_ended(alice: Browser, conn: db.Connection) -> None:
    for number in range(40):
        come(conn, f"text {number}")
    page, seen = alice.get(PAGE).text, []
    while True:
        seen += shown(page)
        older = re.search(r'class="btn next" href="([^"]+)"', page)
        if not older:
            break
        page = alice.get(PAGE + unescape(older[1])).text
    assert seen == [f"text {number}" for number in reversed(range(40))]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"sender": OTHER}, ["grazie mille", "Second thoughts"]),
        ({"sender": "+39 333"}, ["Grazie, tutto a posto", "INFO orari"]),
        ({"recipient": "39399"}, ["grazie mille", "Où est mon colis?"]),
        ({"keyword": "info"}, ["INFO orari"]),
        ({"text": "GRAZIE"}, ["grazie mille", "Grazie, tutto a posto"]),
        ({"text": "mill graz"}, ["grazie mille"]),
        ({"text": "ou"}, ["Où est mon colis?"]),
        ({"text": "razie"}, []),
        ({"text": "?!"}, []),
        ({"state": "waiting"}, ["grazie mille", "Second thoughts"]),
        ({"state": "delivered"}, ["INFO orari", "Où est mon colis?"]),
        ({"state": "given-up"}, ["Grazie, tutto a posto"]),
        ({"state": "unknown"}, []),
        ({"state": "x", "text": "mille"}, ["grazie mille"]),
        ({"sender": OTHER, "text": "grazie", "recipient": "48484"}, []),
    ],
)
def test_what_is_looked_for_is_found(alice: Browser, five: None, query: dict[str, str], found: list[str]) -> None:
    page = alice.get(PAGE, query_string=query).text
    assert shown(page) == found
    assert ("No such message" in page) == (not found)
    lines = alice.get(f"{PAGE}.jsonl", query_string=query).text.splitlines()
    assert [json.loads(each)["message"] for each in lines] == found


def test_a_period_and_a_filter_stay_while_one_turns_the_page(alice: Browser, conn: db.Connection) -> None:
    age(conn, come(conn, "old wine"), 10)
    for number in range(30):
        come(conn, f"wine {number}")
        come(conn, f"water {number}")
    week = alice.get(f"{PAGE}?period=7d&text=wine").text
    older = re.search(r'class="btn next" href="([^"]+)"', week)
    assert older
    assert shown(alice.get(PAGE + unescape(older[1])).text) == [f"wine {number}" for number in range(4, -1, -1)]
    assert shown(alice.get(f"{PAGE}?period=30d&text=old").text) == ["old wine"]
    assert alice.get(f"{PAGE}?period=range&from=x").status_code == 422


def test_what_is_no_number_is_refused_and_stays(alice: Browser, conn: db.Connection) -> None:
    come(conn, "hello")
    answer = alice.get(f"{PAGE}?sender=Acme&recipient=48484x&text=hello")
    assert answer.status_code == 422
    page_text = extract_text(answer.text)
    for each in ("Acme", "48484x"):
        assert f"{each} is no number. Enter its digits" in page_text
    assert [acting.get_field_value(answer.text, name) for name in ("sender", "recipient")] == ["Acme", "48484x"]
    assert alice.get(f"{PAGE}.csv?sender=Acme", follow_redirects=False).status_code == 303


@pytest.mark.parametrize("page_limits", [PageLimits(search_seconds=0)])
def test_a_long_search_stops_and_goes_on(alice: Browser, conn: db.Connection) -> None:
    come(conn, "needle")
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48484", "hay")] * 1000)
    page = alice.get(f"{PAGE}?text=needle").text
    assert shown(page) == []
    assert "No such message" not in page
    further = re.search(r'href="(\?[^"]+)" rel="next">Look further back', page)
    assert further
    assert shown(alice.get(PAGE + unescape(further[1])).text) == ["needle"]


# --- one of them


def test_all_about_one(alice: Browser, conn: db.Connection) -> None:
    binary = come(conn, "", body=b"\x00\xffAB", udh=bytes.fromhex("050003070201"), data_coding=4)
    page = extract_text(alice.get(f"{PAGE}/{binary}").text)
    for expected_text in (
        f"Message from {HANDSET}",
        "00 ff 41 42",
        "Waits for a client No client has been offered it yet.",
        "Encoding Binary",
        "Length 4 octets",
        "User data header 05 00 03 07 02 01",
        "Keyword (no keyword)",
        f"Message id {binary}",
    ):
        assert expected_text in page
    account_id = acting.get_account(conn, "smpp-acme-1").id
    (waiting,) = deliveries.list_due_deliveries(conn, account_id, clock.now_ms(), 10).ready
    waiting.attempts = 3
    deliveries.schedule_retries(conn, [(waiting, clock.now_ms() + 60_000)])
    assert "3 failed attempts, the next one at" in alice.get(f"{PAGE}/{binary}").text
    accept(conn)
    conn.execute("UPDATE deliveries SET next_attempt_at = 0")
    accept(conn)
    assert "Accepted by a client" in alice.get(f"{PAGE}/{binary}").text
    conn.execute("UPDATE received SET ended_at = 0")
    assert "It came before this was written down." in alice.get(f"{PAGE}/{binary}").text


@pytest.mark.parametrize(
    ("text", "data_coding", "udh", "body", "shown"),
    [
        ("so \ufffd", 8, b"\x05\x00\x03\x07\x02\x01", "so 😀".encode("utf-16-be")[:8], "so \ufffd"),
        ("Teşı", 0, b"\x03\x24\x01\x01", b"Te\x1bs\x1bi", "Teşı"),
        ("", 0, b"\x03\x24\x01\x04", b"\x1ba", "1b 61"),  # Bengali, whose table isn't here
        ("", 0xF5, None, b"\x00\xff", "00 ff"),
    ],
)
def test_what_is_text_is_shown_as_text(
    alice: Browser, conn: db.Connection, text: str, data_coding: int, udh: bytes | None, body: bytes, shown: str
) -> None:
    message = come(conn, text, data_coding=data_coding, udh=udh, body=body)
    page = alice.get(f"{PAGE}/{message}").text
    assert shown in extract_text(page)
    assert (re.search(r"<p class=\"message mono\">", page) is None, "octets" in page) == (bool(text), not text)
    (line,) = list(csv.reader(io.StringIO(alice.get(f"{PAGE}.csv").text), delimiter=";"))[1:]
    assert line[-1] == shown


def test_another_customer_finds_nothing(client: Client, cast: Cast, conn: db.Connection) -> None:
    message = come(conn, "for Acme")
    charlie = client(cast.charlie)
    for path in ("", ".csv", ".jsonl", f"/{message}"):
        assert charlie.get(PAGE + path).status_code == 404
    assert charlie.get(f"/accounts/smpp-globex-1/received/{message}").status_code == 404
    assert "for Acme" not in charlie.get("/accounts/smpp-globex-1/received").text


def test_what_somebody_wrote_is_text(alice: Browser, conn: db.Connection) -> None:
    message = come(conn, acting.SCRIPT_INJECTION)
    for address in (PAGE, f"{PAGE}/{message}", f"{PAGE}?text=script"):
        page = alice.get(address).text
        assert acting.SCRIPT_INJECTION not in page
        assert "&lt;script&gt;" in page


# --- files


def test_the_files_hold_everything(alice: Browser, conn: db.Connection) -> None:
    first = come(conn, "=1+1")
    accept(conn)
    second = come(conn, "", body=b"\x00\xff", udh=b"\x05\x00", data_coding=4)
    lines = list(csv.reader(io.StringIO(alice.get(f"{PAGE}.csv").text), delimiter=";"))
    assert lines[0] == "id;date;sender;receiver;keyword;status;statusDate;encoding;udh;message".split(";")
    assert [each[:1] + each[2:6] + each[7:] for each in lines[1:]] == [
        [str(second), HANDSET, "48484", "", "waiting", "4", "0500", "00 ff"],
        [str(first), HANDSET, "48484", "", "delivered", "0", "", "'=1+1"],
    ]
    assert [bool(each[6]) for each in lines[1:]] == [False, True]
    assert alice.get(f"{PAGE}.csv?bom=1").text.startswith("\ufeffid;")
    objects = [json.loads(each) for each in alice.get(f"{PAGE}.jsonl").text.splitlines()]
    assert [(each["id"], each["message"]) for each in objects] == [(str(second), "00 ff"), (str(first), "=1+1")]
    assert alice.get(f"{PAGE}.csv?period=range&from=x").status_code == 303


# --- live


def test_an_open_page_shows_what_comes_and_what_becomes_of_it(alice: Browser, conn: db.Connection) -> None:
    come(conn, "first")
    page = OpenPage(alice, PAGE)
    assert page.ask().status_code == 204
    come(conn, "second")
    assert shown(page.ask().text) == ["second", "first"]
    accept(conn)
    answer = page.ask().text
    assert answer.count("Accepted by a client") == 2
    assert 'id="received-list" class="stack" hx-swap-oob="true"' in answer
    assert page.ask().status_code == 204
    come(conn, "third")
    give_up(conn)
    assert "Given up" in page.ask().text
