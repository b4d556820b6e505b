"""Searching texts: the result is that of a comparison with each text, with and without chunks, in both directions."""

import re
import unicodedata
from datetime import date
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.core.gsm0338 import Encoding
from portal.services.accounts import account_messages
from portal.services.accounts.accounts import Account
from portal.services.common import ids
from portal.services.common.message_states import DELIVERED, PTT_DESCRIPTIONS, REJECTED, UNDELIVERABLE
from portal.services.common.periods import Period
from portal.services.history import search, search_index
from portal.services.history.history import SentText, list_texts_by_id
from portal.services.history.search import SearchQuery
from portal.services.messages import intake, outcomes
from portal.services.messages.outcomes import MessageOutcome
from portal.services.messages.validation import Segment
from tests.services.submitting import store_messages
from tests.support import prepare_submit

# Few of each, so that many searches match, and many match nearly.
SENDERS = ("ACME", "Acme Shop", "+39123", "39123", "+393401234567", "393401234567", "00393401234567", "0039123")
NUMBERS = ("393401234567", "393401234568", "39340123", "393411234567", "4915112345678")
WORDS = ("parcel", "Parcels", "città", "CITTA", "ab", "Ünïted", "4711", "471", "a_b", "x", "perché", "7")
SEARCH_TEXTS = (*WORDS, "parc", "cit", "unit", "47", "47119", "b", "!", "perche parc", "città 4711", "È")


def build_index(conn: Connection, chunk_size: int = 3) -> int:
    """Build all chunks that can be built, of few messages, so that a test needs few of them for several chunks."""
    built = 0
    while step := sum(search_index.build_search_chunks(conn, chunk_size=chunk_size)):
        built += step
    return built


def send(
    conn: Connection,
    account: Account,
    text: str,
    *,
    source: str = "ACME",
    destination: str = NUMBERS[0],
    segment: Segment | None = None,
    at: int | None = None,
    **more: object,
) -> int:
    conn.execute("UPDATE accounts SET any_sender = 1 WHERE any_sender = 0")
    submit = prepare_submit(
        conn,
        account.id,
        text.encode("utf-16-be"),
        data_coding=Encoding.UCS2,
        source=source,
        destination=destination,
        segment=segment,
        **more,
    )
    (message_id,) = store_messages(conn, [submit], at)
    return message_id


def end(conn: Connection, message_id: int, ptt: int) -> None:
    state = DELIVERED if ptt == 0 else REJECTED if ptt == 53 else UNDELIVERABLE
    outcomes.finish_messages(conn, [MessageOutcome(message_id, state, ptt, now_ms())])


def search_for(conn: Connection, account: Account, **fields: Any) -> list[str]:
    return [each.text for each in search.search_texts(conn, account.id, SearchQuery(**fields)).texts]


# --- against a comparison with each text


def fold(text: str) -> str:
    return "".join(each for each in unicodedata.normalize("NFD", text.casefold()) if not unicodedata.combining(each))


def normalize_sender(sender: str) -> str:
    return re.sub(r"^(\+|00(?=\d{7,15}$))", "", sender).lower()


def matches(text: SentText, query: SearchQuery) -> bool:
    codes = {each.ptt for each in text.messages}
    words = re.findall(r"\w+", fold(text.text))
    prefixes = re.findall(r"\w+", fold(query.text))
    status = {
        "": True,
        "delivered": 0 in codes,
        "failed": bool(codes - {0, 254}),
        "pending": any(each.ptt == 254 and not each.is_scheduled for each in text.messages),
        "scheduled": any(each.is_scheduled for each in text.messages),
    }.get(query.status)
    if status is None:
        status = any(PTT_DESCRIPTIONS[code] == PTT_DESCRIPTIONS[int(query.status)] for code in codes)
    return (
        query.period.since <= text.submitted_at < query.period.until
        and (not query.sender or normalize_sender(query.sender) == normalize_sender(text.first_message.source))
        and text.first_message.destination.startswith(query.recipient)
        and status
        and (not query.text or bool(prefixes))
        and all(any(word.startswith(each) for word in words) for each in prefixes)
    )


def list_newest_first(conn: Connection, account: Account) -> list[SentText]:
    rows = conn.execute("SELECT id FROM messages WHERE account_id = ? AND joined_to IS NULL", (account.id,))
    return list_texts_by_id(conn, account.id, [row[0] for row in rows])[::-1]


texts = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
messages = st.lists(
    st.fixed_dictionaries(
        {
            "text": texts,
            "source": st.sampled_from(SENDERS),
            "destination": st.sampled_from(NUMBERS),
            "segment": st.none() | st.builds(Segment, st.just(1), st.just(3), st.integers(1, 3)),
            "days_ago": st.integers(0, 1),
            "ptt": st.sampled_from([0, 0, 254, 3, 9, 53, 800]),
            "scheduled": st.booleans(),
            "mine": st.integers(0, 4).map(bool),
        }
    ),
    max_size=25,
)
queries = st.fixed_dictionaries(
    {
        "days": st.sampled_from([(0, 5), (1, 2), (0, 1), (2, 3)]),
        "sender": st.sampled_from(["", *SENDERS, "acme", "NOBODY"]),
        "recipient": st.sampled_from(["", "3", "393", "39340", "39341", "4915112345678", *NUMBERS]),
        "status": st.sampled_from(["", "delivered", "failed", "pending", "scheduled", "3", "9", "53"]),
        "text": st.sampled_from(["", "", *SEARCH_TEXTS]),
    }
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    history=messages,
    searches=st.lists(queries, min_size=1, max_size=6),
    size=st.integers(1, 4),
    # How many messages there are when they are taken into the index of the accounts' messages, and into chunks.
    in_index_after=st.integers(0, 25),
    indexed_after=st.integers(0, 25),
    # As chunks of one message they are more than are read at once.
    chunk_size=st.sampled_from([1, 3]),
)
@pytest.mark.slow
def test_what_is_found_is_what_a_look_at_each_finds(
    conn, acme_1, globex_1, history, searches, size, in_index_after, indexed_after, chunk_size
):
    for table in ("deliveries", "history_chunks", "account_messages", "messages"):
        conn.execute(f"DELETE FROM {table}")
    conn.execute("UPDATE counters SET value = 0 WHERE name IN ('message_id', 'indexed_message_id')")
    conn.execute("UPDATE accounts SET balance = 1000000000")
    now = now_ms()
    for position, each in enumerate(sorted(history, key=lambda message: -message["days_ago"])):
        if position == in_index_after:
            account_messages.index_message_batch(conn)
        if position == indexed_after:
            build_index(conn, chunk_size)
        at = now - each.pop("days_ago") * DAY_MS
        ptt, mine, scheduled = each.pop("ptt"), each.pop("mine"), each.pop("scheduled")
        more: dict[str, Any] = {"scheduled_at": now + DAY_MS} if scheduled else {}
        message_id = send(conn, acme_1 if mine else globex_1, each.pop("text"), at=at, **each, **more)
        if ptt != 254:
            end(conn, message_id, ptt)
    everything = list_newest_first(conn, acme_1)
    for each in searches:
        least, most = each.pop("days")
        each["period"] = Period(now - most * DAY_MS + 1, now - least * DAY_MS + DAY_MS, None, date.max)
        query = SearchQuery(**each)
        expected = [text.id for text in everything if matches(text, query)]
        assert [text.id for text in search.iterate_texts(conn, acme_1.id, query, batch_size=size)] == expected
        for start in range(len(expected)):
            newer = search.search_texts(conn, acme_1.id, query, after=expected[start], limit=size).texts
            assert [text.id for text in newer] == expected[max(0, start - size) : start]
        for seen, following in pairwise(expected):
            assert search.search_texts(conn, acme_1.id, query, before=seen, limit=1).texts[0].id == following


# --- the chunks


def test_segments_that_may_still_come_hold_up_their_chunk(conn, acme_1):
    """A segment that comes later is found by its words: the chunk of its text has them."""
    early = now_ms() - 3_600_000
    send(conn, acme_1, "one ", segment=Segment(1, 2, 1), at=early)
    for _ in range(5):
        send(conn, acme_1, "other", at=early)
    assert build_index(conn) == 0
    send(conn, acme_1, "wonderful", segment=Segment(1, 2, 2), at=early + 60_000)
    assert build_index(conn) == 2
    assert search_for(conn, acme_1, text="wonderful") == ["one wonderful"]


def test_a_text_that_stays_incomplete_holds_nothing_up_for_long(conn, acme_1):
    early = now_ms() - 3_600_000
    send(conn, acme_1, "one ", segment=Segment(1, 2, 1), at=early)
    for _ in range(3):
        send(conn, acme_1, "other", at=early)
    assert build_index(conn) == 0
    send(conn, acme_1, "much later", at=early + intake.MAX_SEGMENT_GAP_MS + 1)
    assert build_index(conn) == 1
    late = send(conn, acme_1, "wonderful", segment=Segment(1, 2, 2), at=early + intake.MAX_SEGMENT_GAP_MS + 1)
    assert conn.execute("SELECT joined_to FROM messages WHERE id = ?", (late,)).fetchone()[0] is None


def test_a_word_that_is_cut_in_two_is_search_for(conn, acme_1):
    for number, piece in enumerate(("your par", "cel is here"), 1):
        send(conn, acme_1, piece, segment=Segment(1, 2, number))
    send(conn, acme_1, "other")
    for built in (0, 1):
        assert search_for(conn, acme_1, text="parcel") == ["your parcel is here"]
        assert search_for(conn, acme_1, text="here your") == ["your parcel is here"]
        assert build_index(conn) == 1 - built


@pytest.mark.parametrize("indexed", [False, True])
def test_a_number_as_sender_is_found_however_it_is_written(conn, acme_1, indexed):
    spellings = ["393401234567", "+393401234567", "00393401234567"]
    for number, source in enumerate([*spellings, "123", "+123", "00123", "Acme", "+Acme"]):
        send(conn, acme_1, str(number), source=source)
    assert not indexed or build_index(conn, 1) == 8
    for sender in spellings:
        assert search_for(conn, acme_1, sender=sender) == ["2", "1", "0"]
    assert search_for(conn, acme_1, sender="123") == search_for(conn, acme_1, sender="+123") == ["4", "3"]
    for number, sender in ((5, "00123"), (6, "ACME"), (7, "+acme")):
        assert search_for(conn, acme_1, sender=sender) == [str(number)]


@pytest.fixture
def ranges_read(conn):
    """The statements that have read messages of a range of ids."""
    statements = []
    conn.set_trace_callback(lambda sql: statements.append(sql) if "messages AS line" in sql else None)
    yield statements
    conn.set_trace_callback(None)


@pytest.mark.slow
def test_chunks_are_left_out_by_what_they_say(conn, acme_1, ranges_read):
    """Most of a history is not read: without the rows of the others the answer is the same."""
    for number in range(160):
        unique = f"{number * 7919:07}"
        send(conn, acme_1, f"code {unique}", source=f"S{number // 16}", destination=f"39340{unique}")
    build_index(conn, 16)
    for fields in ({"sender": "S3"}, {"recipient": f"39340{50 * 7919:07}"}, {"text": f"{50 * 7919:07}"}):
        ranges_read.clear()
        assert f"code {50 * 7919:07}" in search_for(conn, acme_1, **fields)
        assert 1 <= len(ranges_read) <= 3, fields


@pytest.mark.slow
def test_a_word_that_is_nowhere_is_told_by_four_letters(conn, acme_1, ranges_read):
    """Many words share three letters."""
    for number in range(160):
        send(conn, acme_1, f"parcel {number}")
    build_index(conn, 16)
    # The messages after the last chunk are read in any case.
    for word, ranges in (("part", 1), ("parc", 2), ("par", 2)):
        ranges_read.clear()
        search.search_texts(conn, acme_1.id, SearchQuery(text=word), limit=1000)
        assert len(ranges_read) == ranges, word


@pytest.mark.parametrize("length", range(1, 13))
def test_beginnings_of_each_length_are_search_for(conn, acme_1, length):
    """Also where a word or a number is no longer than that."""
    word, number = "abcdefghijkl", "393401234567"
    send(conn, acme_1, word[:length])
    send(conn, acme_1, word, destination=number)
    send(conn, acme_1, "other", destination="4915112345678")
    assert build_index(conn) == 1
    assert search_for(conn, acme_1, text=word[:length]) == [word, word[:length]]
    assert search_for(conn, acme_1, recipient=number[:length]) == [word, word[:length]]


@pytest.mark.parametrize("length", [3, 4, 5, 8])
def test_a_word_that_is_just_as_long_as_its_term(conn, acme_1, length):
    for text in ("abcdefghijkl"[:length], "other", "another"):
        send(conn, acme_1, text)
    assert build_index(conn) == 1
    assert search_for(conn, acme_1, text="abcdefghijkl"[:length]) == ["abcdefghijkl"[:length]]


def test_chunks_survive_that_their_messages_go(conn, acme_1):
    sent = [send(conn, acme_1, f"text {number}") for number in range(7)]
    assert build_index(conn) == 2
    conn.execute("DELETE FROM deliveries")
    conn.execute("DELETE FROM messages WHERE id IN (?, ?)", (sent[0], sent[4]))
    assert search_for(conn, acme_1, text="text") == ["text 6", "text 5", "text 3", "text 2", "text 1"]


def test_a_search_that_takes_too_long_says_how_far_it_came(conn, acme_1):
    sent = [send(conn, acme_1, "here" if number in (0, 50) else "elsewhere") for number in range(51)]
    build_index(conn, 1)
    # One letter is too short for a term: every chunk has to be read, sixteen at once.
    query, before, seen = SearchQuery(text="h"), None, []
    for _ in range(5):
        answer = search.search_texts(conn, acme_1.id, query, before=before, seconds=0)
        seen.append([each.id for each in answer.texts])
        assert before is None or answer.reached is None or answer.reached < before
        before = answer.reached
    assert seen == [[], [sent[50]], [], [], [sent[0]]]
    assert before is None


# --- what it costs


@pytest.mark.parametrize(
    ("fields", "index_used"),
    [
        ({"status": "failed"}, "failed USING INDEX messages_failed"),
        ({"status": "53"}, "failed USING INDEX messages_failed"),
        ({"status": "pending"}, "part USING INDEX messages_unfinished"),
        ({"status": "delivered"}, "own USING PRIMARY KEY (account_id=? AND message_id>? AND message_id<?)"),
        ({"status": "delivered"}, "line USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
        (
            {"text": "parcel", "sender": "ACME"},
            "own USING PRIMARY KEY (account_id=? AND message_id>? AND message_id<?)",
        ),
        ({"text": "parcel", "sender": "ACME"}, "line USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    ],
)
def test_no_search_sorts_or_reads_another_account(conn, acme_1, fields, index_used):
    for number in range(7):
        end(conn, send(conn, acme_1, "parcel", segment=Segment(1, 2, number % 2 + 1)), number % 2)
    send(conn, acme_1, "parcel")
    build_index(conn)
    send(conn, acme_1, "newer than the index")
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    search_for(conn, acme_1, **fields, period=Period(1, 1 << 42, None, date.max))
    search.search_texts(conn, acme_1.id, SearchQuery(**fields), after=ids.min_id_at_time(1))
    conn.set_trace_callback(None)
    steps = [row["detail"] for sql in statements for row in conn.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert any(index_used in each for each in steps)
    assert not [
        each for each in steps if re.match(r"SCAN (messages|line|own|part|failed)", each) and "INDEX" not in each
    ]
    # Except the segments of a text, which are sorted.
    assert "text" in fields or not [each for each in steps if "TEMP B-TREE FOR ORDER BY" in each]


# --- characters that clients cut in two


def test_a_text_is_searched_as_it_is_shown(conn, acme_1):
    pieces = (b"costs 100\x1b", b"eabc")
    for number in (2, 1):
        submit = prepare_submit(conn, acme_1.id, pieces[number - 1], segment=Segment(7, 2, number))
        store_messages(conn, [submit])
    for indexed in range(2):
        assert search_for(conn, acme_1, text="abc") == search_for(conn, acme_1, text="100") == ["costs 100€abc"]
        assert search_for(conn, acme_1, text="eabc") == search_for(conn, acme_1, text="100eabc") == []
        assert build_index(conn, 2) == 1 - indexed


def test_parts_whose_texts_are_not_kept_are_passed_over(conn, acme_1):
    conn.execute("UPDATE accounts SET data_codings = '4'")
    for number in (1, 2):
        submit = prepare_submit(conn, acme_1.id, b"\xff", segment=Segment(7, 2, number), data_coding=4)
        store_messages(conn, [submit])
    conn.execute("UPDATE messages SET text = '', body = NULL, kept = 0 WHERE segment_number = 2")
    assert search_for(conn, acme_1, text="abc") == []
