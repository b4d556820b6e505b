"""The messages that an account has sent."""

import csv
import html
import io
import json
import re
from collections.abc import Callable, Generator
from time import gmtime, strftime

import pytest

from portal.core import clock, db, i18n
from portal.services.accounts import account_messages, accounts, session_records
from portal.services.common import ids, message_states
from portal.services.common.audit import SHELL
from portal.services.history import search_index
from portal.services.messages import blacklist, intake, outcomes
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.validation import Segment
from portal.web.core import downloads
from portal.web.core.context import PageLimits
from tests.migrations.former_ids import former_id
from tests.support import Cast, Person, prepare_submit
from tests.web import acting
from tests.web.acting import extract_text
from tests.web.conftest import Browser
from tests.web.core.test_live import OpenPage

Client = Callable[[Person], Browser]
HISTORY = "/accounts/smpp-acme-1/history"


@pytest.fixture
def alice(client: Client, cast: Cast) -> Browser:
    return client(cast.alice)


def linked(page: str, rel: str) -> str:
    return HISTORY + page.split(f'rel="{rel}"')[0].rsplit('href="', 1)[1].split('"')[0]


def shown(page: str) -> list[str]:
    """The texts of the lines, as they are shown."""
    return re.findall(r'href="history/\d+" data-dialog[^>]*>([^<]*)<', page)


def rows(answer: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(answer), delimiter=";"))


# --- the list


def test_an_empty_history(alice: Browser) -> None:
    assert "No message yet" in alice.get(HISTORY).text


def test_messages_newest_first_with_what_became_of_them(alice: Browser, conn: db.Connection) -> None:
    delivered, failed, stopped, _underway = acting.send_texts(conn, "smpp-acme-1", "first", "second", "third", "fourth")
    acting.deliver_messages(conn, delivered)
    acting.fail_messages(conn, failed)
    acting.fail_messages(conn, stopped, ptt=53)
    page_text = extract_text(alice.get(HISTORY).text)
    expected = [
        "ACME 393401234567 fourth 1 1 On its way",
        "ACME 393401234567 third 1 1 Blacklisted: the recipient sent STOP",
        "ACME 393401234567 second 1 1 Undeliverable",
        "ACME 393401234567 first 1 1 Delivered",
    ]
    places = [page_text.index(each) for each in expected]
    assert places == sorted(places)


def test_a_message_that_credits_did_not_cover_is_there(alice: Browser, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET balance = 0")
    acting.send_texts(conn, "smpp-acme-1", "too dear")
    assert "too dear 1 0 Not enough credits" in extract_text(alice.get(HISTORY).text)


def test_paging_there_and_back(alice: Browser, conn: db.Connection) -> None:
    acting.send_texts(conn, "smpp-acme-1", *(f"text {number}." for number in range(80)))
    first = alice.get(HISTORY).text
    second = alice.get(linked(first, "next")).text
    third = alice.get(linked(second, "next")).text
    assert [shown(each) for each in (first, second, third)] == [
        [f"text {number}." for number in numbers]
        for numbers in (range(79, 54, -1), range(54, 29, -1), range(29, 4, -1))
    ]
    assert 'rel="prev"' not in first
    assert 'rel="next"' not in alice.get(linked(third, "next")).text
    assert shown(alice.get(linked(third, "prev")).text) == shown(second)


def test_all_about_one_message(alice: Browser, conn: db.Connection) -> None:
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", "x" * 200)
    address = f"{HISTORY}/{message_id}"
    assert f'href="history/{message_id}" data-dialog' in alice.get(HISTORY).text
    for htmx in (False, "dialog"):
        page = alice.get(address, htmx=htmx).text
        page_text = extract_text(page)
        assert "x" * 200 in page_text
        for each in ("Message to 393401234567", "On its way", "ptt 254", "Not yet", "Parts 3", "Credits 3 for Italy"):
            assert each in page_text
        assert str(message_id) in page
    acting.deliver_messages(conn, message_id)
    assert "Not yet" not in alice.get(address).text


def test_a_message_with_a_date_waits_for_it(alice: Browser, conn: db.Connection) -> None:
    tomorrow = clock.now_ms() + clock.DAY_MS
    message_id = acting.schedule_text(conn, "smpp-acme-1", "Not before tomorrow", tomorrow)
    assert "Not before tomorrow 1 1 Scheduled" in extract_text(alice.get(HISTORY).text)
    page_text = extract_text(alice.get(f"{HISTORY}/{message_id}").text)
    assert f"Scheduled for {i18n.format_date_time(tomorrow, 'UTC')}" in page_text
    assert "Accepted" in page_text
    assert "refunded" not in page_text
    acting.cancel_message(conn, "smpp-acme-1", message_id)
    page_text = extract_text(alice.get(f"{HISTORY}/{message_id}").text)
    assert "Status Deleted" in page_text
    assert "Credits 1 1 refunded" in page_text


def test_one_delivered_part_is_singular_where_a_language_has_that(alice: Browser, conn: db.Connection) -> None:
    one, two, *_ = acting.send_in_parts(conn, "smpp-acme-1", "first, ", "second, ", "third")
    alice.post("/language", data={"locale": "it", "next": "/"})
    acting.deliver_messages(conn, one)
    assert "1 parte consegnata su 3" in extract_text(alice.get(HISTORY).text)
    acting.deliver_messages(conn, two)
    assert "2 parti consegnate su 3" in extract_text(alice.get(HISTORY).text)


def test_a_text_in_parts_is_one_line_with_its_parts(alice: Browser, conn: db.Connection) -> None:
    one, two, _three = acting.send_in_parts(conn, "smpp-acme-1", "first, ", "second, ", "third")
    acting.send_in_parts(conn, "smpp-acme-1", "first, ", "second", total=3)
    acting.deliver_messages(conn, one, two)
    page_text = extract_text(alice.get(HISTORY).text)
    assert "first, second, third 3 3 2 of 3 parts delivered" in page_text
    assert "first, second[…] 2 2 On its way" in page_text
    for part in (one, two):
        page_text = extract_text(alice.get(f"{HISTORY}/{part}").text)
        for each in (
            "first, second, third",
            "2 of 3 parts delivered",
            "1 of 3 Delivered",
            str(one),
            "Not yet",
            "Parts 3",
        ):
            assert each in page_text
    assert "On its way" in page_text


def test_another_account_s_message_is_not_found(alice: Browser, conn: db.Connection) -> None:
    (message_id,) = acting.send_texts(conn, "smpp-globex-1", "theirs", source="GLOBEX")
    assert alice.get(f"{HISTORY}/{message_id}").status_code == 404
    assert alice.get(f"{HISTORY}/1").status_code == 404


def test_what_somebody_sent_is_text(alice: Browser, conn: db.Connection) -> None:
    conn.execute("UPDATE accounts SET any_sender = 1")
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", acting.SCRIPT_INJECTION, source="<b>A</b>")
    for address in (HISTORY, f"{HISTORY}/{message_id}"):
        page = alice.get(address).text
        assert acting.SCRIPT_INJECTION not in page
        assert "<b>A</b>" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


# --- looking for some of them


@pytest.fixture
def some(conn: db.Connection) -> list[int]:
    """Six messages: the oldest of 40 days ago, the next of 5; two delivered, one failed, one stopped, one scheduled."""
    conn.execute("UPDATE accounts SET any_sender = 1")
    sent = acting.send_texts(conn, "smpp-acme-1", "old parcel 4711", at=clock.now_ms() - 40 * clock.DAY_MS)
    sent += acting.send_texts(
        conn, "smpp-acme-1", "Il pacco è qui", at=clock.now_ms() - 5 * clock.DAY_MS, source="Acme Shop"
    )
    sent += acting.send_texts(conn, "smpp-acme-1", "parcel 4712", "code 99", "sorry")
    sent.append(acting.schedule_text(conn, "smpp-acme-1", "later", clock.now_ms() + clock.DAY_MS))
    acting.deliver_messages(conn, sent[0], sent[2])
    acting.fail_messages(conn, sent[3])
    acting.fail_messages(conn, sent[4], ptt=53)
    conn.execute("UPDATE messages SET destination = '4915112345678' WHERE id = ?", (sent[3],))
    return sent


@pytest.mark.usefixtures("some")
@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(
    ("query", "texts"),
    [
        ("", ["later", "sorry", "code 99", "parcel 4712", "Il pacco è qui", "old parcel 4711"]),
        ("period=30d", ["later", "sorry", "code 99", "parcel 4712", "Il pacco è qui"]),
        ("period=today", ["later", "sorry", "code 99", "parcel 4712"]),
        ("sender=acme+shop", ["Il pacco è qui"]),
        ("recipient=%2B49+151", ["code 99"]),
        ("recipient=0049151", ["code 99"]),
        ("recipient=4915112345678", ["code 99"]),
        ("status=delivered", ["parcel 4712", "old parcel 4711"]),
        ("status=failed", ["sorry", "code 99"]),
        ("status=53", ["sorry"]),
        ("status=9", ["code 99"]),
        ("status=pending", ["Il pacco è qui"]),
        ("status=scheduled", ["later"]),
        ("status=nonsense", ["later", "sorry", "code 99", "parcel 4712", "Il pacco è qui", "old parcel 4711"]),
        ("status=%D9%A5%D9%A3", ["later", "sorry", "code 99", "parcel 4712", "Il pacco è qui", "old parcel 4711"]),
        ("text=PARC", ["parcel 4712", "old parcel 4711"]),
        ("text=471+parcel&period=7d", ["parcel 4712"]),
        ("text=e", ["Il pacco è qui"]),
        ("text=arcel", []),
        ("text=%25", []),
        (
            "period=all&from=&to=&sender=ACME&recipient=3934&status=delivered&text=parcel",
            ["parcel 4712", "old parcel 4711"],
        ),
    ],
)
def test_the_address_says_which_messages(
    alice: Browser, conn: db.Connection, indexed: bool, query: str, texts: list[str]
) -> None:
    if indexed:
        assert sum(search_index.build_search_chunks(conn, chunk_size=2)) == 3
    page = alice.get(f"{HISTORY}?{query}").text
    assert shown(page) == texts
    assert ("No such message" in page) == (not texts)
    lines = rows(alice.get(f"{HISTORY}.csv?{query}").text)[1:]
    assert [line[-1] for line in lines] == texts
    assert [json.loads(line)["message"] for line in alice.get(f"{HISTORY}.jsonl?{query}").text.splitlines()] == texts


def test_what_was_looked_for_stays_in_the_form_and_in_the_links(alice: Browser, conn: db.Connection) -> None:
    acting.send_texts(conn, "smpp-acme-1", *(f"parcel {number}." for number in range(30)))
    page = alice.get(f"{HISTORY}?sender=acme&recipient=39+340&status=pending&text=parcel").text
    assert [acting.get_field_value(page, name) for name in ("sender", "recipient", "text")] == [
        "acme",
        "39 340",
        "parcel",
    ]
    assert '<option selected value="pending">' in page
    query = "sender=acme&amp;recipient=39340&amp;status=pending&amp;text=parcel"
    assert f'"history.csv?{query}"' in page
    assert f'"history.jsonl?{query}"' in page
    assert f'"history.csv?{query}&amp;bom=1"' in page
    second = alice.get(html.unescape(linked(page, "next"))).text
    assert shown(second) == [f"parcel {number}." for number in range(4, -1, -1)]
    assert shown(alice.get(html.unescape(linked(second, "prev"))).text) == shown(page)


def test_from_one_day_to_another(alice: Browser, some: list[int]) -> None:
    day = i18n.format_iso8601(ids.time_from_id(some[1]))[:10]
    for query in (f"period=range&from={day}&to={day}", f"from={day}&to={day}"):
        page = alice.get(f"{HISTORY}?{query}").text
        assert shown(page) == ["Il pacco è qui"]
        assert f'value="{day}"' in page


def test_the_reasons_that_there_were_are_there_for_who_looks_for_failures(alice: Browser, conn: db.Connection) -> None:
    acting.fail_messages(conn, *acting.send_texts(conn, "smpp-acme-1", "lost"), ptt=9)
    assert '<option value="9">' not in alice.get(HISTORY).text
    page = alice.get(f"{HISTORY}?status=failed").text
    assert '<option value="9">' in page
    assert '<option value="53">' not in page
    assert '<option selected value="53">' in alice.get(f"{HISTORY}?status=53").text
    blacklist.add_blacklist_number(conn, SHELL, acting.get_account(conn, "smpp-acme-1"), "393401234567")
    acting.send_texts(conn, "smpp-acme-1", "stopped")
    conn.execute("UPDATE accounts SET balance = 0")
    conn.execute("DELETE FROM blacklist")
    acting.send_texts(conn, "smpp-acme-1", "refused")
    page = alice.get(f"{HISTORY}?status=failed").text
    for ptt in (9, 10, 53):
        assert f'<option value="{ptt}">' in page


def test_a_date_that_is_none_is_refused(alice: Browser) -> None:
    answer = alice.get(f"{HISTORY}?period=range&from=yesterday")
    assert answer.status_code == 422
    assert "“yesterday” isn't a date" in html.unescape(answer.text)
    for file in ("csv", "jsonl"):
        answer = alice.get(f"{HISTORY}.{file}?period=range&from=yesterday")
        assert (answer.status_code, answer.location) == (303, f"{HISTORY}?period=range&from=yesterday")


def test_where_nothing_is_found_it_says_what_to_loosen(alice: Browser) -> None:
    page = alice.get(f"{HISTORY}?text=nothing&sender=NOBODY&period=7d").text
    found = dict(re.findall(r'href="\?([^"]*)">(Any \w+|All time)', page))
    assert {html.unescape(query): label for query, label in found.items()} == {
        "period=7d&sender=NOBODY": "Any text",
        "period=7d&text=nothing": "Any sender",
        "sender=NOBODY&text=nothing": "All time",
    }


@pytest.mark.parametrize("page_limits", [PageLimits(search_seconds=0)])
def test_a_long_search_says_how_far_it_came(alice: Browser, conn: db.Connection) -> None:
    acting.send_texts(conn, "smpp-acme-1", "wanted", *["other"] * 50)
    while any(search_index.build_search_chunks(conn, chunk_size=1)):
        pass
    address, seen = f"{HISTORY}?text=w", 0
    while "Look further back" in (page := alice.get(address).text):
        assert shown(page) == []
        assert "Looked through back to" in page
        address, seen = html.unescape(linked(page, "next")), seen + 1
    assert shown(page) == ["wanted"]
    assert seen >= 2


# --- live or not


@pytest.mark.parametrize(
    ("query", "follows"),
    [("", True), ("live=off", False), ("text=new", False), ("text=new&live=on", True), ("period=today&live=on", True)],
)
def test_new_messages_appear_where_that_is_wanted(
    alice: Browser, conn: db.Connection, query: str, follows: bool
) -> None:
    acting.send_texts(conn, "smpp-acme-1", "new 1")
    page = OpenPage(alice, f"{HISTORY}?{query}")
    assert f'aria-checked="{"true" if follows else "false"}"' in page.text
    acting.send_texts(conn, "smpp-acme-1", "new 2")
    assert ("new 2" in page.ask().text) == follows
    assert shown(alice.get(f"{HISTORY}?{query}").text) == ["new 2", "new 1"], "loaded again it is what there is"


def test_the_switch_keeps_what_was_looked_for(alice: Browser) -> None:
    def switched(query: str) -> str:
        return html.unescape(re.findall(r'role="switch"[^>]*href="\?([^"]*)"', alice.get(f"{HISTORY}?{query}").text)[0])

    assert switched("") == "live=off"
    assert switched("live=off") == "live=on"
    assert switched("text=a") == "text=a&live=on"
    assert switched("text=a&live=on") == "text=a&live=off"


@pytest.mark.usefixtures("some")
def test_what_is_no_number_is_refused_and_stays(alice: Browser) -> None:
    query = "recipient=39340abc&status=failed"
    answer = alice.get(f"{HISTORY}?{query}")
    assert answer.status_code == 422
    assert "39340abc is no number. Enter its digits" in extract_text(answer.text)
    assert acting.get_field_value(answer.text, "recipient") == "39340abc"
    assert shown(answer.text) == ["sorry", "code 99"], "what can be looked for still is"
    assert "Delete all that were found" in answer.text
    assert 'aria-checked="false"' in answer.text
    for name in ("history.csv", "history.jsonl"):
        assert f'"{name}?recipient=39340abc&amp;status=failed"' in answer.text
    for name in ("history.csv", "history.jsonl", "history/delete"):
        answer = alice.get(f"/accounts/smpp-acme-1/{name}?all=1&{query}", follow_redirects=False)
        assert answer.status_code == 303, name


@pytest.mark.usefixtures("some")
@pytest.mark.parametrize("recipient", ["%2B", "00", "-", "()", "%D9%A3%D9%A9"])
def test_no_digit_is_no_number(alice: Browser, recipient: str) -> None:
    assert alice.get(f"{HISTORY}?recipient={recipient}").status_code == 422


@pytest.mark.usefixtures("some")
def test_ticked_messages_are_asked_about_beside_a_number_that_is_none(alice: Browser, some: list[int]) -> None:
    answer = alice.get(f"{HISTORY}/delete?id={some[0]}&recipient=abc")
    assert answer.status_code == 200
    assert "1 stays: its delivery receipt waits for a client." in extract_text(answer.text)


# --- all about one


def test_a_message_is_found_by_the_id_that_its_client_was_given_before_ids_were_short(
    alice: Browser, conn: db.Connection, some: list[int]
) -> None:
    conn.execute("UPDATE counters SET value = ? WHERE name = 'former_message_id'", (some[0],))
    page = alice.get(f"{HISTORY}/{former_id(some[0])}")
    assert page.status_code == 200
    assert extract_text(page.text) == extract_text(alice.get(f"{HISTORY}/{some[0]}").text)
    assert alice.get(f"{HISTORY}/{former_id(some[0]) + 1}").status_code == 404


def test_the_course_of_a_message(alice: Browser, conn: db.Connection, some: list[int]) -> None:
    at = ids.time_from_id(some[0])
    conn.execute("UPDATE messages SET done_at = ? WHERE id = ?", (at + 2340, some[0]))
    page_text = extract_text(alice.get(f"{HISTORY}/{some[0]}").text)
    assert f"Accepted {i18n.format_date_time(at, 'UTC')} Sent on At once" in page_text
    assert f"Delivered {i18n.format_date_time(at + 2340, 'UTC')} after 2.3 s" in page_text
    for each in ("Encoding UCS-2", "TON 5 · NPI 0", "Delivery receipt Requested"):
        assert each in page_text
    never = extract_text(alice.get(f"{HISTORY}/{some[4]}").text)
    assert re.search(r"Submitted at [^:]+[\d:]+ UTC Sent on Never Failed", never)
    assert "Upstream’s id" not in never
    waits = extract_text(alice.get(f"{HISTORY}/{some[5]}").text)
    assert "Sent on Not yet Final status Not yet" in waits
    assert "Upstream’s id Not yet Upstream’s status Not yet" in waits
    acting.cancel_message(conn, "smpp-acme-1", some[5])
    page_text = extract_text(alice.get(f"{HISTORY}/{some[5]}").text)
    assert re.search(r"Accepted .* Scheduled for .* Sent on Never Cancelled \d", page_text)
    assert re.search(r"Refunded \d+ \w+ \d+, [\d:]+ UTC 1 ", page_text)


@pytest.mark.parametrize(
    ("data_coding", "subunit", "said"),
    [
        (0, None, "Encoding GSM 03.38 Delivery"),
        (0, 1, "Encoding GSM 03.38 flash: shown at once Delivery"),
        (0x10, None, "Encoding GSM 03.38 flash: shown at once Delivery"),
        (0x11, 2, "Encoding GSM 03.38 Delivery"),
        (0x18, None, "Encoding UCS-2 flash: shown at once Delivery"),
        (0xF4, None, "Encoding Binary flash: shown at once Delivery"),
        (1, None, "Encoding ASCII Delivery"),
        (3, None, "Encoding Latin-1 Delivery"),
    ],
)
def test_the_encoding_of_a_message(
    alice: Browser, conn: db.Connection, data_coding: int, subunit: int | None, said: str
) -> None:
    conn.execute("UPDATE accounts SET data_codings = '1 3 4' WHERE name = 'smpp-acme-1'")
    account = accounts.get_account(conn, "smpp-acme-1")
    submit = prepare_submit(conn, account.id, b"hihi", data_coding=data_coding, subunit=subunit)
    (message_id,) = intake.store_messages(conn, [submit]).message_ids
    assert said in extract_text(alice.get(f"{HISTORY}/{message_id}").text)


def test_what_the_upstream_said(alice: Browser, conn: db.Connection, some: list[int]) -> None:
    assert "Upstream’s id Not known Upstream’s status Not known" in extract_text(alice.get(f"{HISTORY}/{some[0]}").text)
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", "hello")
    ended = MessageOutcome(
        message_id, message_states.UNDELIVERABLE, 9, clock.now_ms(), "<1a2b>", "stat:UNDELIV err:011"
    )
    outcomes.finish_messages(conn, [ended])
    page = alice.get(f"{HISTORY}/{message_id}").text
    assert "Upstream’s id <1a2b> Copy the upstream’s id Upstream’s status stat:UNDELIV err:011" in extract_text(page)
    assert 'data-copy="&lt;1a2b&gt;"' in page


def test_the_id_of_an_old_client_is_shown_beside_the_message_s_own(alice: Browser, conn: db.Connection) -> None:
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", "hello")
    assert "Client’s id" not in alice.get(f"{HISTORY}/{message_id}").text
    conn.execute("INSERT INTO hex_ids VALUES (?, 0xABC)", (message_id,))
    page = alice.get(f"{HISTORY}/{message_id}").text
    assert "Client’s id 00000ABC" in extract_text(page)
    assert 'data-copy="00000ABC"' in page


def test_an_upstream_that_knows_of_a_stop(alice: Browser, conn: db.Connection) -> None:
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", "hello")
    outcomes.finish_messages(
        conn, [MessageOutcome(message_id, message_states.REJECTED, 53, clock.now_ms(), "1a", "stat:REJECTD err:053")]
    )
    page_text = extract_text(alice.get(f"{HISTORY}/{message_id}").text)
    assert "Sent on At once" in page_text
    assert "Upstream’s status stat:REJECTD err:053" in page_text


def test_what_the_upstream_said_of_each_part(alice: Browser, conn: db.Connection) -> None:
    one, two = acting.send_in_parts(conn, "smpp-acme-1", "first, ", "second")
    ends = [
        (one, message_states.DELIVERED, 0, "1a", "stat:DELIVRD err:000"),
        (two, message_states.EXPIRED, 801, "1b", "stat:EXPIRED"),
    ]
    at = clock.now_ms()
    outcomes.finish_messages(conn, [MessageOutcome(each, state, ptt, at, *extra) for each, state, ptt, *extra in ends])
    page_text = extract_text(alice.get(f"{HISTORY}/{one}").text)
    assert re.search(
        f"1 of 2 Delivered .* {one} .* 1a stat:DELIVRD err:000 2 of 2 Expired .* {two} .* 1b stat:EXPIRED", page_text
    )


def test_the_session_that_it_came_from(alice: Browser, conn: db.Connection) -> None:
    acting.open_session(conn, "smpp-acme-1", 7, address="203.0.113.7", bind_type="transmitter", tls="")
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", "hello", session_id=7)
    address = f"{HISTORY}/{message_id}"
    page_text = extract_text(alice.get(address).text)
    assert "Session 7 203.0.113.7 Transmitter not encrypted open since " in page_text
    session_records.close_smpp_sessions(
        conn, [session_records.SmppSessionEnd(7, clock.now_ms() + 60_000, keep_record=True)]
    )
    page_text = extract_text(alice.get(address).text)
    account_id = acting.get_account(conn, "smpp-acme-1").id
    ended_at = session_records.find_smpp_session_summaries(conn, account_id, [7])[7].ended_at
    assert ended_at is not None
    ended = i18n.format_date_time(ended_at, "UTC")
    assert "Session 7 203.0.113.7 Transmitter not encrypted from " in page_text
    assert f" to {ended}" in page_text
    conn.execute("DELETE FROM ended_sessions")
    assert "Session 7 Not kept any more" in extract_text(alice.get(address).text)
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", "from before there were such ids")
    assert "Session Not known" in extract_text(alice.get(f"{HISTORY}/{message_id}").text)
    conn.execute("UPDATE accounts SET any_sender = 1")
    (message_id,) = acting.send_texts(conn, "sms-acme-1", "a classic account has no sessions")
    assert "Session" not in extract_text(alice.get(f"/accounts/sms-acme-1/history/{message_id}").text)


def test_parts_that_came_from_two_sessions_name_both(alice: Browser, conn: db.Connection) -> None:
    for number in (7, 8):
        acting.open_session(conn, "smpp-acme-1", number, address=f"203.0.113.{number}")
    one, two = acting.send_in_parts(conn, "smpp-acme-1", "first, ", "second")
    conn.execute("UPDATE messages SET session_id = iif(id = ?, 8, 7)", (one,))
    page_text = extract_text(alice.get(f"{HISTORY}/{two}").text)
    assert page_text.index("Session 7 203.0.113.7 Transceiver · TLS 1.3") < page_text.index("Session 8 203.0.113.8")


def test_another_account_s_session_is_not_shown(alice: Browser, conn: db.Connection) -> None:
    acting.open_session(conn, "smpp-globex-1", 7, address="203.0.113.7")
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", "hello", session_id=7)
    assert "203.0.113.7" not in alice.get(f"{HISTORY}/{message_id}").text


# --- the download


def test_the_csv(alice: Browser, conn: db.Connection) -> None:
    first, second = acting.send_texts(conn, "smpp-acme-1", "first", 'with "quotes"; and\nlines')
    acting.deliver_messages(conn, first)
    answer = alice.get(f"{HISTORY}.csv")
    assert answer.content_type == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="smpp-acme-1-history.csv"'
    assert answer.text.startswith("id;date;sender;receiver;ptt;operatorCode;descriptionDlr;tag;message\r\n")
    date = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(ids.time_from_id(first) // 1000))
    assert rows(answer.text)[1:] == [
        [str(second), date, "ACME", "393401234567", "254", "", "On its way", "", 'with "quotes"; and\nlines'],
        [str(first), date, "ACME", "393401234567", "0", "", "Delivered", "", "first"],
    ]


def test_the_csv_has_a_line_for_each_part(alice: Browser, conn: db.Connection) -> None:
    ids = acting.send_in_parts(conn, "smpp-acme-1", "first", "second")
    acting.deliver_messages(conn, ids[0])
    lines = rows(alice.get(f"{HISTORY}.csv").text)[1:]
    assert [(line[0], line[4], line[-1]) for line in lines] == [
        (str(ids[1]), "254", "second"),
        (str(ids[0]), "0", "first"),
    ]


def test_a_character_that_was_cut_in_two_is_in_one_line_of_the_files(alice: Browser, conn: db.Connection) -> None:
    account = accounts.get_account(conn, "smpp-acme-1")
    submits = [
        prepare_submit(conn, account.id, octets, segment=Segment(7, 2, number))
        for number, octets in ((1, b"costs 100\x1b"), (2, b"e now"))
    ]
    first_id, _ = intake.store_messages(conn, submits).message_ids
    assert [line[-1] for line in rows(alice.get(f"{HISTORY}.csv").text)[1:]] == ["€ now", "costs 100"]
    assert [json.loads(line)["message"] for line in alice.get(f"{HISTORY}.jsonl").text.splitlines()] == [
        "€ now",
        "costs 100",
    ]
    assert "costs 100€ now" in alice.get(HISTORY).text
    assert "costs 100€ now" in alice.get(f"{HISTORY}/{first_id}").text


@pytest.mark.slow
@pytest.mark.parametrize("indexed", [0, 500, 999])
def test_the_csv_of_many_is_whole_and_comes_in_pieces(alice: Browser, conn: db.Connection, indexed: int) -> None:
    ids = acting.send_texts(conn, "smpp-acme-1", *(["text"] * 999))
    if indexed:
        account_messages.index_message_batch(conn, max_messages=indexed)
    answer = alice.get(f"{HISTORY}.csv")
    assert answer.is_streamed
    assert [int(row[0]) for row in rows(answer.text)[1:]] == ids[::-1]


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("=1+1", "'=1+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "\t'=1"),
        ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
        ("hi,=1+1", "hi,'=1+1"),
        ("hi,＝1+1", "hi,'＝1+1"),
    ],
)
def test_no_text_is_a_formula_to_a_spreadsheet(alice: Browser, conn: db.Connection, text: str, safe: str) -> None:
    acting.send_texts(conn, "smpp-acme-1", text)
    assert rows(alice.get(f"{HISTORY}.csv").text)[1][-1] == safe


def test_the_mark_that_excel_wants(alice: Browser) -> None:
    assert alice.get(f"{HISTORY}.csv").data.startswith(b"id;")
    assert alice.get(f"{HISTORY}.csv?bom=1").data.startswith(b"\xef\xbb\xbfid;")


def test_the_json_lines(alice: Browser, conn: db.Connection) -> None:
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", 'two\nlines, "è" ' + "x" * 70)
    answer = alice.get(f"{HISTORY}.jsonl")
    assert answer.content_type == "application/jsonl; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="smpp-acme-1-history.jsonl"'
    (line,) = answer.text.splitlines()
    assert json.loads(line) == {
        "id": str(message_id),
        "date": i18n.format_iso8601(ids.time_from_id(message_id)),
        "sender": "ACME",
        "receiver": "393401234567",
        "ptt": 254,
        "operatorCode": "",
        "descriptionDlr": "On its way",
        "tag": "",
        "message": 'two\nlines, "è" ' + "x" * 70,
        "parts": 2,
        "credits": 2,
    }


def test_a_customer_has_two_downloads_at_a_time(alice: Browser, client: Client, cast: Cast) -> None:
    first, second = alice.get(f"{HISTORY}.csv"), client(cast.bob).get(f"{HISTORY}.csv")
    third = client(cast.alice).get(f"{HISTORY}.jsonl")
    assert third.status_code == 503
    assert "The portal is busy" in third.text
    second.close()
    first.close()
    assert client(cast.alice).get(f"{HISTORY}.csv").status_code == 200


def test_all_customers_together_have_four_downloads_at_a_time() -> None:
    # Not by requests: those of one thread share what Flask keeps until they are closed, and so who asks.
    underway = [downloads.limit_downloads(customer, iter(["line"])) for customer in (1, 1, 1, 2, 2, 3)]
    assert [bool(next(each)) for each in underway] == [True, True, False, True, True, False]
    assert isinstance(underway[0], Generator)
    underway[0].close()
    assert next(downloads.limit_downloads(3, iter(["line"])))


def test_the_csv_speaks_the_reader_s_language(alice: Browser, conn: db.Connection) -> None:
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", "ciao")
    acting.deliver_messages(conn, message_id)
    answer = alice.get(f"{HISTORY}.csv", headers={"Accept-Language": "it"})
    assert rows(answer.text)[1][6] == "Consegnato"


# --- who may


def test_a_viewer_sees_it_all(client: Client, cast: Cast, conn: db.Connection) -> None:
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", "hello")
    bob = client(cast.bob)
    for address in (HISTORY, f"{HISTORY}/{message_id}", f"{HISTORY}.csv", f"{HISTORY}.jsonl"):
        assert "hello" in bob.get(address).text


def test_another_customer_finds_nothing(client: Client, cast: Cast, conn: db.Connection) -> None:
    (message_id,) = acting.send_texts(conn, "smpp-acme-1", "hello")
    for address in (HISTORY, f"{HISTORY}/{message_id}", f"{HISTORY}.csv", f"{HISTORY}.jsonl"):
        assert client(cast.charlie).get(address).status_code == 404


def test_a_page_has_as_many_lines_as_are_asked_for(alice: Browser, conn: db.Connection) -> None:
    acting.send_texts(conn, "smpp-acme-1", *(f"text {number}." for number in range(130)))
    usual = alice.get(HISTORY).text
    assert usual.count('data-dialog id="m') == 25
    assert '<a href="?lines=100">100</a>' in usual
    more = alice.get(f"{HISTORY}?recipient=39&lines=100").text
    assert more.count('data-dialog id="m') == 100
    assert '<a href="?recipient=39&amp;lines=100" aria-current="true">100</a>' in more
    assert '<a href="?recipient=39">25</a>' in more
    assert '<input type="hidden" name="lines" value="100">' in more
    older = re.search(r'href="\?(recipient=39&amp;lines=100&amp;before=\d+)" rel="next"', more)
    assert older
    assert alice.get(f"{HISTORY}?{html.unescape(older[1])}").text.count('data-dialog id="m') == 30
    assert alice.get(f"{HISTORY}?lines=100000").text.count('data-dialog id="m') == 25
