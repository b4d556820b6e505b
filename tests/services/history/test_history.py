import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.core.gsm0338 import Encoding
from portal.services.accounts import account_messages, accounts
from portal.services.accounts.accounts import Account
from portal.services.common import message_states
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED, EXPIRED
from portal.services.history import history, search
from portal.services.history.history import SentMessage, SentText
from portal.services.messages import outcomes, text_policy
from portal.services.messages.deliveries import DeliveryReceipt
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.validation import Segment
from portal.services.statistics import daily_totals
from tests.services.submitting import store_messages
from tests.support import list_submitted, prepare_submit


@pytest.fixture
def send(conn: Connection, acme_1: Account) -> Callable[..., list[int]]:
    """Stores messages of smpp-acme-1, with these texts."""

    def sent(*texts: str) -> list[int]:
        return store_messages(conn, [prepare_submit(conn, acme_1.id, text.encode()) for text in texts])

    return sent


@pytest.fixture
def submit(conn: Connection, acme_1: Account) -> Callable[..., int]:
    """Stores one message of smpp-acme-1, whose arguments the test may override, and returns its id."""

    def submitted(body: bytes, **overrides: object) -> int:
        (message_id,) = store_messages(conn, [prepare_submit(conn, acme_1.id, body, **overrides)])
        return message_id

    return submitted


@pytest.fixture
def end(conn: Connection) -> Callable[..., list[DeliveryReceipt]]:
    """Gives a message its final state."""
    return lambda message_id, state=DELIVERED, ptt=0: outcomes.finish_messages(
        conn, [MessageOutcome(message_id, state, ptt, now_ms())]
    )


def lines(conn: Connection, account_id: int, **turned: Any) -> list[SentText]:
    return search.search_texts(conn, account_id, **turned).texts


def texts(page: Iterable[SentText | SentMessage]) -> list[str]:
    return [each.text for each in page]


def test_pages_go_from_the_newest_to_the_oldest_and_back(conn, acme_1, send):
    send(*"abcdefg")
    first = lines(conn, acme_1.id, limit=3)
    second = lines(conn, acme_1.id, before=first[-1].id, limit=3)
    assert (texts(first), texts(second)) == (["g", "f", "e"], ["d", "c", "b"])
    assert texts(lines(conn, acme_1.id, after=second[0].id, limit=3)) == ["g", "f", "e"]


def test_nobody_sees_anothers_messages(conn, acme_1, globex_1, send):
    send("a")
    assert lines(conn, globex_1.id) == []


def test_totals_of_periods(conn, acme_1, send):
    first, second, *_ = send("a", "b", "c", "x" * 161)
    outcomes.finish_messages(
        conn, [MessageOutcome(first, DELIVERED, 0, now_ms()), MessageOutcome(second, EXPIRED, 801, now_ms())]
    )
    totals = daily_totals.sum_daily_totals(conn, acme_1.id, 1)
    assert (totals.sent, totals.delivered, totals.failed, totals.parts, totals.price) == (4, 1, 1, 5, 5000)
    conn.execute("UPDATE daily_totals SET day = day - 7")
    assert daily_totals.sum_daily_totals(conn, acme_1.id, 7).sent == 0
    assert daily_totals.sum_daily_totals(conn, acme_1.id, 8).sent == 4
    assert daily_totals.sum_daily_totals(conn, acme_1.id, None).sent == 4


def test_each_day_is_there_also_when_nothing_was_sent(conn, acme_1, send):
    send("a")
    days = daily_totals.list_daily_totals(conn, acme_1.id, 7)
    assert [at % DAY_MS for at, _ in days] == [0] * 7
    assert [totals.sent for _, totals in days] == [0] * 6 + [1]


def test_each_code_has_a_description(conn, acme_1, send):
    send("a")
    conn.execute("UPDATE messages SET ptt = 12345")
    assert list_submitted(conn, acme_1.id)[0].ptt_description == "Unknown"


# --- texts that clients cut up


def by_udh_8(reference: int, total: int, number: int) -> tuple[dict[str, object], bytes]:
    return {"esm_class": 0x40}, bytes((5, 0, 3, reference, total, number))


def by_udh_16(reference: int, total: int, number: int) -> tuple[dict[str, object], bytes]:
    return {"esm_class": 0x40}, bytes((6, 8, 4, 1, reference, total, number))


def by_sar(reference: int, total: int, number: int) -> tuple[dict[str, object], bytes]:
    return {"segment": Segment(reference, total, number)}, b""


def send_part(
    submit: Callable[..., int],
    way: Callable[[int, int, int], tuple[dict[str, object], bytes]],
    text: bytes,
    total: int,
    number: int,
    reference: int = 7,
    **overrides: object,
) -> int:
    fields, header = way(reference, total, number)
    return submit(header + text, **fields | overrides)


@pytest.mark.parametrize("way", [by_udh_8, by_udh_16, by_sar])
def test_a_text_in_parts_is_one_line(conn, acme_1, submit, way):
    before = submit(b"before")
    ids = [send_part(submit, way, text, 3, number) for number, text in [(2, b"two "), (3, b"three"), (1, b"one ")]]
    after = submit(b"after")
    texts = lines(conn, acme_1.id)
    assert [each.text for each in texts] == ["after", "one two three", "before"]
    assert [each.id for each in texts] == [after, ids[0], before]
    line = texts[1]
    assert (line.segment_count, line.parts, line.price, line.ptt, line.done_at) == (3, 3, 3000, 254, None)
    assert [each.id for each in line.messages] == [ids[2], ids[0], ids[1]]
    assert [each.id for each in list_submitted(conn, acme_1.id)] == [after, *ids[::-1], before]


@pytest.mark.parametrize(
    ("came", "text"),
    [
        ([1, 3], "a[…]c[…]"),
        ([3, 4], "[…]cd"),
        ([1, 2], "ab[…]"),
        ([4], "[…]d"),
        ([1, 4], "a[…]d"),
        ([1, 2, 3, 4], "abcd"),
    ],
)
def test_what_is_missing_of_a_text_is_shown(conn, acme_1, submit, came, text):
    for number in came:
        send_part(submit, by_sar, b"abcd"[number - 1 : number], 4, number)
    (line,) = lines(conn, acme_1.id)
    assert (line.text, line.segment_count, line.parts) == (text, 4, len(came))


def test_the_status_of_a_text_in_parts(conn, acme_1, submit, end):
    first, second, third = (send_part(submit, by_sar, b"x", 3, number) for number in (1, 2, 3))

    def line() -> tuple[int | None, int, bool]:
        (text,) = lines(conn, acme_1.id)
        return text.ptt, text.delivered_count, text.done_at is not None

    assert line() == (254, 0, False)
    end(first)
    assert line() == (None, 1, False)
    end(second)
    end(third, EXPIRED, 801)
    assert line() == (None, 2, True)
    conn.execute("UPDATE messages SET ptt = 801")
    assert line() == (801, 0, True)
    conn.execute("UPDATE messages SET ptt = 0")
    assert line() == (0, 3, True)
    conn.execute("DELETE FROM messages WHERE id = ?", (third,))
    assert line() == (None, 2, True)


def test_what_goes_together(conn, acme_1, submit):
    """Source, destination, reference and number of parts; a part that is there already begins another text."""
    segments: list[dict[str, Any]] = [
        {},
        {"number": 2},
        {"destination": "393401234568"},
        {"reference": 8},
        {"total": 3},
        {},
        {"number": 2, "destination": "393401234568"},
    ]
    for number, each in enumerate(segments):
        given: dict[str, Any] = {"way": by_sar, "total": 2, "number": 1}
        send_part(submit, text=b"%d" % number, **given | each)
    assert [each.text for each in lines(conn, acme_1.id)] == ["5[…]", "4[…]", "3[…]", "26", "01"]


def test_a_reference_is_used_again_for_another_text(conn, acme_1, submit):
    for number in (1, 2, 1, 2):
        send_part(submit, by_udh_8, b"%d" % number, 2, number)
    assert [each.text for each in lines(conn, acme_1.id)] == ["12", "12"]


def test_an_emoji_that_is_cut_in_two_is_one_again(conn, acme_1, submit):
    octets = "so 😀 it is".encode("utf-16-be")
    for number, piece in enumerate((octets[:8], octets[8:]), 1):
        send_part(submit, by_udh_16, piece, 2, number, data_coding=Encoding.UCS2)
    assert [each.text for each in lines(conn, acme_1.id)] == ["so 😀 it is"]
    assert [each.body for each in outcomes.list_outbound_messages(conn, outcomes.list_simulated_message_ids(conn))] == [
        octets[:8],
        octets[8:],
    ]
    assert texts(list_submitted(conn, acme_1.id)) == ["\ufffd it is", "so \ufffd"]


@pytest.mark.parametrize("way", [by_udh_8, by_udh_16, by_sar])
@pytest.mark.parametrize(
    ("pieces", "fields", "shown"),
    [
        ((b"x" * 151 + b"\x1b", b"e now"), {}, ["x" * 151, "€ now"]),
        ((b"a\x1b", b"\x1b", b"e b\x1b"), {}, ["a", " ", "e b"]),
        (("я😀".encode("utf-16-be")[:3], "я😀".encode("utf-16-be")[3:]), {"data_coding": 8}, ["я", "😀"]),
        (("я".encode("utf-16-be")[:1], "я".encode("utf-16-be")[1:]), {"data_coding": 0x18}, ["", "я"]),
        ((b"caf\xe8 ", b"ok\x1b<"), {}, ["caf\ufffd ", "ok["]),
    ],
)
def test_a_character_that_is_cut_in_two_is_one_again(conn, acme_1, submit, way, pieces, fields, shown):
    numbers = range(1, len(pieces) + 1)
    for number in (*numbers[1:], 1):
        send_part(submit, way, pieces[number - 1], len(pieces), number, **fields)
    (line,) = lines(conn, acme_1.id)
    assert line.text == "".join(shown)
    assert [each.content for each in line.messages] == shown
    stored = outcomes.list_outbound_messages(conn, outcomes.list_simulated_message_ids(conn))
    octets = {each.segment.number: each.body for each in stored if each.segment and each.body is not None}
    assert octets.items() <= dict(zip(numbers, pieces, strict=True)).items()


def test_a_beginning_waits_only_for_its_own_end(conn, acme_1, submit):
    """Not for another part's, nor for one in another coding; and what was not kept begins nothing."""
    send_part(submit, by_sar, b"a\x1b", 3, 1)
    send_part(submit, by_sar, b"e", 3, 3)
    (line,) = lines(conn, acme_1.id)
    assert line.text == "a[…]e"
    for number, octets, data_coding in ((1, b"a\x1b", 0), (2, b"\x00e", 8)):
        send_part(submit, by_sar, octets, 2, number, reference=8, data_coding=data_coding)
    assert lines(conn, acme_1.id)[0].text == "ae"
    for number, octets in ((1, b"a\x1b"), (2, b"b"), (3, b"e")):
        send_part(submit, by_sar, octets, 3, number, reference=9)
    conn.execute(f"UPDATE messages SET {text_policy.BLANK_TEXT_SQL} WHERE segment_number = 2")
    assert texts(lines(conn, acme_1.id)) == ["a[…]e", "a[…]", "a[…]e"]


def test_a_part_that_was_not_kept_as_octets_shows_its_text(conn, acme_1, submit):
    """Where the octets can't be made of it: binary, and characters that its alphabet lacks."""
    conn.execute("UPDATE accounts SET data_codings = '4'")
    for reference, data_coding, octets in ((8, 4, b"\xff"), (9, 0, b"a\x1b")):
        for number in (1, 2, 3):
            send_part(submit, by_sar, octets, 3, number, reference=reference, data_coding=data_coding)
    conn.execute("UPDATE messages SET body = NULL, text = '' WHERE data_coding = 4 AND segment_number = 2")
    conn.execute("UPDATE messages SET body = NULL, text = 'я' WHERE data_coding = 0 AND segment_number = 2")
    assert texts(lines(conn, acme_1.id)) == ["aяa", "ff  ff"]
    found = search.search_texts(conn, acme_1.id, search.SearchQuery(text="aяa")).texts
    assert texts(found) == ["aяa"]


def test_parts_in_tables_of_national_languages(conn, acme_1, submit):
    for number, octets in ((1, b"Te\x1bs\x1b"), (2, b"i \x1bbir")):
        submit(bytes((8, 0, 3, 7, 2, number, 0x24, 1, 1)) + octets, esm_class=0x40)
    assert texts(lines(conn, acme_1.id)) == ["Teşı bir"]
    for number, octets in ((1, b"ab"), (2, b"c")):
        submit(bytes((8, 0, 3, 8, 2, number, 0x25, 1, 4)) + octets, esm_class=0x40)
    assert texts(lines(conn, acme_1.id)) == ["61 62 63", "Teşı bir"]


def test_binary_is_shown_as_hexadecimal_digits(conn, acme_1, submit):
    accounts.change_account(conn, SHELL, acme_1, data_codings={4})
    for number in (1, 2):
        send_part(submit, by_sar, b"\x00\xff", 2, number, data_coding=4)
    (line,) = lines(conn, acme_1.id)
    assert (line.text, line.first_message.content) == ("00 ff 00 ff", "00 ff")


def test_pages_of_texts_go_there_and_back(conn, acme_1, submit):
    for letter in "abcdefg":
        for number in (1, 2):
            send_part(submit, by_sar, letter.encode(), 2, number, reference=ord(letter))
    first = lines(conn, acme_1.id, limit=3)
    second = lines(conn, acme_1.id, before=first[-1].id, limit=3)
    assert (texts(first), texts(second)) == (["gg", "ff", "ee"], ["dd", "cc", "bb"])
    assert texts(lines(conn, acme_1.id, after=second[0].id, limit=3)) == ["gg", "ff", "ee"]


def test_any_part_leads_to_its_text(conn, acme_1, globex_1, submit):
    ids = [send_part(submit, by_sar, b"x", 2, number) for number in (1, 2)]
    for each in ids:
        assert history.get_sent_text_by_message_id(conn, acme_1.id, each).id == ids[0]
        with pytest.raises(history.NoSuchMessage):
            history.get_sent_text_by_message_id(conn, globex_1.id, each)


def test_a_page_reads_no_more_than_it_shows(conn, acme_1, submit):
    """By an account's index and what has come since, and by the index of the joined ones: never a sort."""
    send_part(submit, by_sar, b"x", 2, 1)
    account_messages.index_message_batch(conn)
    send_part(submit, by_sar, b"x", 2, 1)
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    lines(conn, acme_1.id, limit=3)
    lines(conn, acme_1.id, after=1, limit=3)
    lines(conn, acme_1.id, before=1, limit=3)
    conn.set_trace_callback(None)
    details = {row["detail"] for sql in statements for row in conn.execute(f"EXPLAIN QUERY PLAN {sql}")}
    assert {re.sub(r"(SUBQUERY) \d+$", r"\1", each) for each in details} == {
        "SCAN CONSTANT ROW",
        "SCALAR SUBQUERY",
        # Of each that is under way, whether it waits.
        "CORRELATED SCALAR SUBQUERY",
        "SEARCH q USING PRIMARY KEY (path=? AND account_id=? AND priority_rank=? AND message_id=?)",
        "USING ROWID SEARCH ON TABLE queue_paths FOR IN-OPERATOR",
        "SEARCH h USING PRIMARY KEY (account_id=? AND destination=? AND message_id=?)",
        "SEARCH counters USING PRIMARY KEY (name=?)",
        "SEARCH own USING PRIMARY KEY (account_id=? AND message_id>? AND message_id<?)",
        "SEARCH line USING INTEGER PRIMARY KEY (rowid=?)",
        "SEARCH line USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
        "SEARCH messages USING INDEX messages_joined (joined_to=?)",
        "LIST SUBQUERY",
        "SCAN json_each VIRTUAL TABLE INDEX 1:",
    }


def test_the_codes_of_receipts():
    codes = {*range(11), 50, 51, 52, 53, 54, 100, 101, 102, 103, 254, 255, 800, 801, 802, 803, 804}
    assert set(message_states.PTT_DESCRIPTIONS) == codes
    assert all(message_states.PTT_DESCRIPTIONS.values())
