"""The blacklist's page: what is on it and why, finding, adding, importing, exporting, and taking off with a warning."""

import csv
import io
import re
from collections.abc import Callable
from html import unescape
from io import BytesIO
from itertools import chain

import pytest
from werkzeug.test import TestResponse

from portal.core import db
from portal.services.common.audit import SHELL
from portal.services.messages import blacklist, inbound, inbound_numbers
from portal.services.messages.inbound import MobileOriginatedMessage
from tests.services.audit_log import list_audit_entries
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import extract_text
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
PAGE = "/accounts/smpp-acme-1/blacklist"
HANDSET, OTHER = "393337654321", "393337654322"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


@pytest.fixture
def stopped(conn: db.Connection) -> int:
    """A handset has said STOP; the id of its message."""
    account = acting.get_account(conn, "smpp-acme-1")
    inbound_numbers.add_inbound_number(conn, SHELL, account, "48484")
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage(HANDSET, "48484", "Stop!")])
    (listed,) = blacklist.list_blacklist(conn, account.id)
    assert listed.received_id is not None
    return listed.received_id


def numbers(conn: db.Connection, name: str = "smpp-acme-1") -> list[str]:
    return [each.number for each in blacklist.list_blacklist(conn, acting.get_account(conn, name).id)]


def shown(page: str) -> list[str]:
    """The lines of the list, in words."""
    table = re.search(r'aria-label="Blacklist".*?<tbody>(.*?)</tbody>', page, re.DOTALL)
    return [extract_text(row) for row in table[1].split("<tr>")[1:]] if table else []


def many(conn: db.Connection, how_many: int) -> list[str]:
    """Numbers that were added one after the other, the newest first."""
    found = [f"39340{number:07}" for number in range(how_many)]
    blacklist.add_blacklist_numbers(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), found)
    conn.execute("UPDATE blacklist SET since = since + CAST(substr(number, 6) AS INTEGER)")
    return found[::-1]


def logged(conn: db.Connection) -> list[tuple[str, str, dict[str, object]]]:
    entries = list_audit_entries(conn, acting.get_account(conn, "smpp-acme-1").id)
    return [(each.actor, each.action, each.details) for each in entries if each.action.startswith("blacklist.")]


# --- what is on it


def test_an_empty_one_says_so(alice: Browser) -> None:
    page = alice.get(PAGE).text
    assert "Nobody has answered STOP" in page
    assert re.search(r'history"[^>]*aria-current="page"', page), "it is under the history's tab"


def test_a_line_says_since_when_and_why(alice: Browser, conn: db.Connection, stopped: int) -> None:
    alice.post(PAGE, data={"numbers": OTHER})
    blacklist.add_blacklist_number(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), "393330000000")
    page = alice.get(PAGE).text
    lines = shown(page)
    assert sorted(re.sub(r" \d+ \w+ \d{4}, [\d:]+ UTC", "", line) for line in lines) == [
        "393330000000 Added by operator",
        f"{HANDSET} STOP Stop!",
        f"{OTHER} Added by alice@acme.example",
    ]
    assert "3 numbers in all." in page
    assert f'href="/accounts/smpp-acme-1/received/{stopped}"' in page
    message = alice.get(f"/accounts/smpp-acme-1/received/{stopped}").text
    assert "With this message it said STOP." in message


def test_a_message_that_is_no_longer_kept_is_not_linked(alice: Browser, conn: db.Connection, stopped: int) -> None:
    conn.execute("DELETE FROM received")
    page = alice.get(PAGE).text
    assert "the message is no longer kept" in page
    assert f"received/{stopped}" not in page


def test_pages_go_on_where_the_one_before_ended(alice: Browser, conn: db.Connection) -> None:
    everyone = many(conn, 80)
    page, seen = alice.get(PAGE).text, []
    while True:
        seen.append([line.split()[0] for line in shown(page)])
        older = re.search(r'class="btn next" href="([^"]+)"', page)
        if not older:
            break
        page = alice.get(PAGE + unescape(older[1])).text
    assert [len(each) for each in seen] == [25, 25, 25, 5]
    assert list(chain.from_iterable(seen)) == everyone
    newer = re.search(r'class="btn prev" href="([^"]+)"', page)
    assert newer
    assert [line.split()[0] for line in shown(alice.get(PAGE + unescape(newer[1])).text)] == seen[2]


@pytest.mark.parametrize("place", ["x", "1", "-1-39", "99999999999999999999999-39", "1-", "é-1"])
def test_a_place_that_is_none_leads_to_a_page(alice: Browser, conn: db.Connection, place: str) -> None:
    many(conn, 3)
    for way in ("before", "after"):
        assert alice.get(f"{PAGE}?{way}={place}").status_code == 200


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("+39 340 000001", ["393400000019", "393400000018", "393400000017"]),
        ("393400000007", ["393400000007"]),
        ("4", []),
        ("x", []),
        ("3933401", []),
    ],
)
def test_a_number_is_found_by_how_it_begins(alice: Browser, conn: db.Connection, q: str, found: list[str]) -> None:
    many(conn, 20)
    answer = alice.get(PAGE, query_string={"q": q}, htmx="blacklist-list").text
    assert answer.lstrip().startswith('<div id="blacklist-list"')
    assert [line.split()[0] for line in shown(answer)][:3] == found
    assert ("Nothing found" in answer) == (not found)


def test_a_search_goes_on_over_pages(alice: Browser, conn: db.Connection) -> None:
    many(conn, 70)
    page = alice.get(f"{PAGE}?q=3934000000").text
    older = re.search(r'class="btn next" href="([^"]+)"', page)
    assert older
    assert shown(alice.get(PAGE + unescape(older[1])).text)[0].startswith("393400000044 ")


# --- adding


def test_many_are_added_and_each_bad_one_is_named(alice: Browser, conn: db.Connection) -> None:
    typed = f"+39 333 765-4321\n\n{OTHER}\n12\nACME\n{OTHER}"
    refused = alice.post(PAGE, data={"numbers": typed})
    assert refused.status_code == 422
    assert "Nothing was added: 2 lines are no phone numbers." in refused.text
    assert "Line 4: “12” is no phone number" in refused.text
    assert "Line 5: “ACME” is no phone number" in refused.text
    assert typed.replace("\n", "") in unescape(refused.text).replace("\r", "").replace("\n", ""), (
        "what was typed is there"
    )
    assert numbers(conn) == []
    added = alice.post(PAGE, data={"numbers": typed.replace("12\nACME\n", "")}, follow_redirects=True)
    assert "2 numbers were added." in added.text
    assert numbers(conn) == [HANDSET, OTHER]
    assert logged(conn) == [("alice@acme.example", "blacklist.add", {"numbers": [HANDSET, OTHER]})]
    again = alice.post(PAGE, data={"numbers": OTHER}, htmx="blacklist")
    assert "all of it was on the blacklist already" in again.text
    assert len(logged(conn)) == 1


def test_htmx_gets_the_part_that_changes(alice: Browser) -> None:
    refused = alice.post(PAGE, data={"numbers": "12"}, htmx="blacklist")
    assert refused.status_code == 422
    assert refused.text.lstrip().startswith('<div class="stack" id="blacklist"')
    added = alice.post(PAGE, data={"numbers": HANDSET}, htmx="blacklist")
    assert [line.split()[0] for line in shown(added.text)] == [HANDSET]
    assert "1 number was added." in added.text


@pytest.mark.parametrize(
    ("typed", "expected_text"),
    [(" \n", "Enter a number."), ("39340\n" * 1001, "At most 1000 numbers at once.")],
    ids=["nothing", "too much"],
)
def test_what_is_nothing_or_too_much(alice: Browser, typed: str, expected_text: str) -> None:
    answer = alice.post(PAGE, data={"numbers": typed})
    assert (answer.status_code, expected_text in answer.text) == (422, True)


def test_what_somebody_typed_is_text(alice: Browser) -> None:
    answer = alice.post(PAGE, data={"numbers": acting.SCRIPT_INJECTION}).text
    assert acting.SCRIPT_INJECTION not in answer
    assert acting.SCRIPT_INJECTION not in alice.get(PAGE, query_string={"q": acting.SCRIPT_INJECTION}).text


# --- taking off


def test_it_is_asked_first_with_a_warning(alice: Browser, conn: db.Connection, stopped: int) -> None:
    alice.post(PAGE, data={"numbers": OTHER})
    question = alice.get(f"{PAGE}/remove?number={HANDSET}&number={OTHER}&number=4711").text
    assert "Sending to somebody who said STOP may be unlawful." in question
    assert "At least one of these has said STOP itself." in question
    assert "Remove 2 numbers" in question
    assert 'value="4711"' not in question
    assert "has said STOP itself" not in alice.get(f"{PAGE}/remove?number={OTHER}").text
    assert numbers(conn) == [HANDSET, OTHER]
    done = alice.post(f"{PAGE}/remove", data={"number": [HANDSET, OTHER]}, follow_redirects=True)
    assert "2 numbers were removed." in done.text
    assert numbers(conn) == []
    removed = [(actor, action) for actor, action, _ in logged(conn)[:2]]
    assert removed == [("alice@acme.example", "blacklist.remove")] * 2
    assert {str(details["number"]) for *_, details in logged(conn)[:2]} == {HANDSET, OTHER}


def test_one_is_removed_within_the_page_and_the_search_stays(alice: Browser, conn: db.Connection) -> None:
    alice.post(PAGE, data={"numbers": f"{HANDSET}\n{OTHER}\n447911123456"})
    answer = alice.post(f"{PAGE}/remove", data={"number": HANDSET, "q": "3933"}, htmx="blacklist-list")
    assert answer.text.lstrip().startswith('<div id="blacklist-list"')
    assert [line.split()[0] for line in shown(answer.text)] == [OTHER]
    assert f"{HANDSET} was removed." in answer.text
    assert (
        "That was no longer on the blacklist."
        in alice.post(f"{PAGE}/remove", data={"number": HANDSET}, htmx="blacklist-list").text
    )


def test_nothing_ticked_is_nothing_removed(alice: Browser) -> None:
    answer = alice.get(f"{PAGE}/remove")
    assert (answer.status_code, "No number was selected" in answer.text) == (200, True)


# --- files


def upload(browser: Browser, content: bytes) -> TestResponse:
    answer = browser.post(f"{PAGE}/import", data={"file": (BytesIO(content), "numbers.csv")})
    # What is large, the client keeps in a file that nobody closes.
    answer.request.environ["wsgi.input"].close()
    return answer


@pytest.mark.parametrize(
    "content",
    [
        f"{HANDSET}\r\n+39 333 7654322\r\n".encode(),
        f"\ufeffnumber;since;reason\r\n{HANDSET};2026-11-22;STOP\r\n\r\n{OTHER};;\r\n".encode(),
        f'name,number\n"Rossi, Anna",{HANDSET}\nBianchi,"{OTHER}"\n"x",{OTHER}\n'.encode(),
    ],
    ids=["bare", "an export", "another column"],
)
def test_a_file_is_shown_before_it_is_taken_in(alice: Browser, conn: db.Connection, content: bytes) -> None:
    alice.post(PAGE, data={"numbers": OTHER})
    page = upload(alice, content).text
    assert re.search(r"<dt>new</dt><dd>1</dd>.*<dt>on the blacklist already</dt><dd>1</dd>", page, re.DOTALL)
    assert numbers(conn) == [OTHER], "nothing has changed yet"
    done = alice.post(
        f"{PAGE}/import/confirm", data={"numbers": acting.get_field_value(page, "numbers")}, follow_redirects=True
    )
    assert "1 number was added." in done.text
    assert numbers(conn) == [HANDSET, OTHER]
    assert logged(conn)[0] == ("alice@acme.example", "blacklist.import", {"added": 1, "numbers": 1})
    assert "All of it is on the blacklist already." in upload(alice, content).text


@pytest.mark.parametrize(
    ("content", "expected_text"),
    [
        (b"", "There is no number in the file."),
        (b"number\n\n", "There is no number in the file."),
        (b"\xff\xfe3\x009\x00", "UTF-8"),
        (f"number\n{HANDSET}\n12\n3,93334E+11\n".encode(), "Line 3: “12” is no phone number"),
        (f'{HANDSET}\n"393'.encode(), "Line 2: this isn&#39;t CSV"),
        (b"3933376543210\n" * 100_000, "The file is too big: 1 MB at most."),
        (b"".join(b"39333%07d\n" % number for number in range(20_001)), "At most 20000 numbers at once."),
    ],
    ids=["empty", "no line", "UTF-16", "bad", "cut off", "too big", "too many"],
)
def test_a_file_that_is_wrong_changes_nothing(
    alice: Browser, conn: db.Connection, content: bytes, expected_text: str
) -> None:
    answer = upload(alice, content)
    assert answer.status_code == 422
    assert expected_text in answer.text
    assert numbers(conn) == []


@pytest.mark.slow
def test_as_many_as_a_file_may_have_come_through(alice: Browser, conn: db.Connection) -> None:
    everyone = [f"39333765{number:07}" for number in range(20_000)]
    page = upload(alice, "\n".join(everyone).encode()).text
    sent = acting.get_field_value(page, "numbers")
    assert alice.post(f"{PAGE}/import/confirm", data={"numbers": sent}).status_code == 303
    assert len(numbers(conn)) == 20_000


def test_what_comes_back_is_judged_anew(alice: Browser, conn: db.Connection) -> None:
    assert alice.post(f"{PAGE}/import/confirm", data={"numbers": f"{HANDSET} x"}).status_code == 422
    assert alice.post(f"{PAGE}/import/confirm").status_code == 422
    assert numbers(conn) == []


def test_the_file_has_what_the_page_shows(alice: Browser, conn: db.Connection, stopped: int) -> None:
    alice.post(PAGE, data={"numbers": OTHER})
    conn.execute("UPDATE blacklist SET added_by = '=HYPERLINK(1)' WHERE number = ?", (OTHER,))
    lines = list(csv.reader(io.StringIO(alice.get(f"{PAGE}.csv").text), delimiter=";"))
    assert lines[0] == ["number", "since", "reason", "added_by", "message"]
    entries = sorted([number, reason, by, message] for number, _, reason, by, message in lines[1:])
    assert entries == [[HANDSET, "STOP", "", str(stopped)], [OTHER, "by hand", "'=HYPERLINK(1)", ""]]
    assert len(alice.get(f"{PAGE}.csv?q={OTHER}").text.splitlines()) == 2


def test_a_sender_that_is_no_number_is_on_the_page_and_in_the_file(alice: Browser, conn: db.Connection) -> None:
    inbound_numbers.add_inbound_number(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), "48484")
    inbound.store_inbound_messages(conn, [MobileOriginatedMessage("ACME", "48484", "STOP")])
    (line,) = shown(alice.get(PAGE).text)
    assert line.startswith("ACME ")
    lines = list(csv.reader(io.StringIO(alice.get(f"{PAGE}.csv").text), delimiter=";"))
    assert [each[0] for each in lines] == ["number", "ACME"]


# --- who may


def test_a_viewer_sees_it_and_changes_nothing(client: Client, cast: Cast, conn: db.Connection, stopped: int) -> None:
    bob = client(cast.bob)
    page = bob.get(PAGE).text
    assert HANDSET in page
    assert "checkbox" not in page
    assert "/remove" not in page
    assert "Add numbers" not in page
    assert "/import" not in page
    for path in ("", "/remove", "/import", "/import/confirm"):
        assert bob.post(PAGE + path, data={"number": HANDSET, "numbers": OTHER}).status_code == 403
    assert numbers(conn) == [HANDSET]


def test_another_customer_finds_nothing(client: Client, cast: Cast, conn: db.Connection, stopped: int) -> None:
    charlie = client(cast.charlie)
    for path in ("", ".csv", "/remove", "/import"):
        assert charlie.get(PAGE + path).status_code == 404
    there = "/accounts/smpp-globex-1/blacklist"
    assert "No number was selected" in charlie.get(f"{there}/remove?number={HANDSET}").text
    charlie.post(f"{there}/remove", data={"number": HANDSET})
    assert numbers(conn) == [HANDSET]
