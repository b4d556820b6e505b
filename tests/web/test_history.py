"""The messages that an account has sent."""

import csv
import io
from collections.abc import Callable
from time import gmtime, strftime

import pytest

from portal import db, i18n
from portal.services import ids
from tests.support import Cast, Person
from tests.web import acting
from tests.web.acting import words
from tests.web.conftest import Browser

Client = Callable[[Person], Browser]
HISTORY = "/accounts/smpp-acme-1/history"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


def linked(page: str, rel: str) -> str:
    return HISTORY + page.split(f'rel="{rel}"')[0].rsplit('href="', 1)[1].split('"')[0]


def rows(answer: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(answer), delimiter=";"))


# --- the list


def test_an_empty_history(alice: Browser) -> None:
    assert "No message yet" in alice.get(HISTORY).text


def test_messages_newest_first_with_what_became_of_them(alice: Browser, conn: db.Connection) -> None:
    delivered, failed, stopped, _underway = acting.send(conn, "smpp-acme-1", "first", "second", "third", "fourth")
    acting.deliver(conn, delivered)
    acting.fail(conn, failed)
    acting.fail(conn, stopped, ptt=53)
    said = words(alice.get(HISTORY).text)
    expected = [
        "ACME 393401234567 fourth 1 1 On its way",
        "ACME 393401234567 third 1 1 Blacklisted: the recipient sent STOP",
        "ACME 393401234567 second 1 1 Undeliverable",
        "ACME 393401234567 first 1 1 Delivered",
    ]
    places = [said.index(each) for each in expected]
    assert places == sorted(places)


def test_a_message_that_credits_did_not_cover_is_there(alice: Browser, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET balance = 0")
    acting.send(conn, "smpp-acme-1", "too dear")
    assert "too dear 1 0 Not enough credits" in words(alice.get(HISTORY).text)


def test_paging_there_and_back(alice: Browser, conn: db.Connection) -> None:
    acting.send(conn, "smpp-acme-1", *(f"text {number}." for number in range(40)))
    first = alice.get(HISTORY).text
    second = alice.get(linked(first, "next")).text
    third = alice.get(linked(second, "next")).text
    assert [f"text {number}." in first for number in (39, 26, 25)] == [True, True, False]
    assert [f"text {number}." in second for number in (26, 25, 12, 11)] == [False, True, True, False]
    assert [f"text {number}." in third for number in (12, 11, 0)] == [False, True, True]
    assert 'rel="prev"' not in first
    assert 'rel="next"' not in third
    back = alice.get(linked(third, "prev")).text
    assert [f"text {number}." in back for number in (26, 25, 12, 11)] == [False, True, True, False]


def test_all_about_one_message(alice: Browser, conn: db.Connection) -> None:
    (message_id,) = acting.send(conn, "smpp-acme-1", "x" * 200)
    address = f"{HISTORY}/{message_id}"
    assert f'href="history/{message_id}" data-dialog' in alice.get(HISTORY).text
    for htmx in (False, "dialog"):
        page = alice.get(address, htmx=htmx).text
        said = words(page)
        assert "x" * 200 in said
        for each in ("Message to 393401234567", "On its way", "ptt 254", "Not yet", "Parts 3", "Credits 3 for IT"):
            assert each in said
        assert str(message_id) in page
    acting.deliver(conn, message_id)
    assert "Not yet" not in alice.get(address).text


def test_a_message_with_a_date_waits_for_it(alice: Browser, conn: db.Connection) -> None:
    tomorrow = db.now_ms() + db.DAY_MS
    message_id = acting.schedule(conn, "smpp-acme-1", "Not before tomorrow", tomorrow)
    assert "Not before tomorrow 1 1 Scheduled" in words(alice.get(HISTORY).text)
    said = words(alice.get(f"{HISTORY}/{message_id}").text)
    assert f"Scheduled for {i18n.date_time(tomorrow, 'UTC')}" in said
    assert "Submitted at" in said
    assert "refunded" not in said
    acting.call_back(conn, "smpp-acme-1", message_id)
    said = words(alice.get(f"{HISTORY}/{message_id}").text)
    assert "Deleted" in said
    assert "Credits 1 1 refunded" in said


def test_a_text_in_parts_is_one_line_with_its_parts(alice: Browser, conn: db.Connection) -> None:
    one, two, _three = acting.send_in_parts(conn, "smpp-acme-1", "first, ", "second, ", "third")
    acting.send_in_parts(conn, "smpp-acme-1", "first, ", "second", total=3)
    acting.deliver(conn, one, two)
    said = words(alice.get(HISTORY).text)
    assert "first, second, third 3 3 2 of 3 parts delivered" in said
    assert "first, second[…] 2 2 On its way" in said
    for part in (one, two):
        said = words(alice.get(f"{HISTORY}/{part}").text)
        for each in ("first, second, third", "2 of 3 parts delivered", f"1 of 3 {one} Delivered", "Not yet", "Parts 3"):
            assert each in said
    assert "On its way" in said


def test_another_account_s_message_is_not_found(alice: Browser, conn: db.Connection) -> None:
    (message_id,) = acting.send(conn, "smpp-globex-1", "theirs", source="GLOBEX")
    assert alice.get(f"{HISTORY}/{message_id}").status_code == 404
    assert alice.get(f"{HISTORY}/1").status_code == 404


def test_what_somebody_sent_is_text(alice: Browser, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET any_sender = 1")
    (message_id,) = acting.send(conn, "smpp-acme-1", acting.HOSTILE, source="<b>A</b>")
    for address in (HISTORY, f"{HISTORY}/{message_id}"):
        page = alice.get(address).text
        assert acting.HOSTILE not in page
        assert "<b>A</b>" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


# --- the download


def test_the_csv(alice: Browser, conn: db.Connection) -> None:
    first, second = acting.send(conn, "smpp-acme-1", "first", 'with "quotes"; and\nlines')
    acting.deliver(conn, first)
    answer = alice.get(f"{HISTORY}.csv")
    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="smpp-acme-1-history.csv"'
    assert answer.text.startswith("id;date;sender;receiver;ptt;operatorCode;descriptionDlr;tag;message\r\n")
    date = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(ids.time_of(first) // 1000))
    assert rows(answer.text)[1:] == [
        [str(second), date, "ACME", "393401234567", "254", "", "On its way", "", 'with "quotes"; and\nlines'],
        [str(first), date, "ACME", "393401234567", "0", "", "Delivered", "", "first"],
    ]


def test_the_csv_has_a_line_for_each_part(alice: Browser, conn: db.Connection) -> None:
    ids = acting.send_in_parts(conn, "smpp-acme-1", "first", "second")
    acting.deliver(conn, ids[0])
    lines = rows(alice.get(f"{HISTORY}.csv").text)[1:]
    assert [(line[0], line[4], line[-1]) for line in lines] == [
        (str(ids[1]), "254", "second"),
        (str(ids[0]), "0", "first"),
    ]


def test_the_csv_of_many_is_whole_and_comes_in_pieces(alice: Browser, conn: db.Connection) -> None:
    ids = acting.send(conn, "smpp-acme-1", *(["text"] * 999))
    answer = alice.get(f"{HISTORY}.csv")
    assert answer.is_streamed
    assert [int(row[0]) for row in rows(answer.text)[1:]] == ids[::-1]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x")'])
def test_no_text_is_a_formula_to_a_spreadsheet(alice: Browser, conn: db.Connection, text: str) -> None:
    acting.send(conn, "smpp-acme-1", text)
    assert rows(alice.get(f"{HISTORY}.csv").text)[1][-1] == f"'{text}"


def test_two_downloads_at_a_time(alice: Browser, client: Client, cast: Cast) -> None:
    first, second = alice.get(f"{HISTORY}.csv"), client(cast.bob).get(f"{HISTORY}.csv")
    third = client(cast.alice).get(f"{HISTORY}.csv")
    assert third.status_code == 503
    assert "The portal is busy" in third.text
    second.close()
    first.close()
    assert client(cast.alice).get(f"{HISTORY}.csv").status_code == 200


def test_the_csv_speaks_the_reader_s_language(alice: Browser, conn: db.Connection) -> None:
    (message_id,) = acting.send(conn, "smpp-acme-1", "ciao")
    acting.deliver(conn, message_id)
    answer = alice.get(f"{HISTORY}.csv", headers={"Accept-Language": "it"})
    assert rows(answer.text)[1][6] == "Consegnato"


# --- who may


def test_a_viewer_sees_it_all(client: Client, cast: Cast, conn: db.Connection) -> None:
    (message_id,) = acting.send(conn, "smpp-acme-1", "hello")
    bob = client(cast.bob)
    for address in (HISTORY, f"{HISTORY}/{message_id}", f"{HISTORY}.csv"):
        assert "hello" in bob.get(address).text


def test_another_customer_finds_nothing(client: Client, cast: Cast, conn: db.Connection) -> None:
    (message_id,) = acting.send(conn, "smpp-acme-1", "hello")
    for address in (HISTORY, f"{HISTORY}/{message_id}", f"{HISTORY}.csv"):
        assert client(cast.charlie).get(address).status_code == 404
