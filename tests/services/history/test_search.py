"""Finding texts: what is found is what a look at each of them finds, with and without chunks, in both directions."""

import re
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portal.core.clock import DAY_MS, now_ms
from portal.services.common import ids
from portal.services.common.message_states import DELIVERED, PTT, REJECTED, UNDELIVERABLE
from portal.services.common.periods import Period
from portal.services.history import search, search_index
from portal.services.history.history import texts_by_id
from portal.services.history.search import Wanted
from portal.services.messages import intake, outcomes
from portal.services.messages.outcomes import Outcome
from portal.services.messages.validation import UCS2, Segment
from tests.support import prepared

# Few of each, so that much of what is looked for is there, and much of it nearly.
SENDERS = ("ACME", "Acme Shop", "+39123", "39123", "GLOBEX")
NUMBERS = ("393401234567", "393401234568", "39340123", "393411234567", "4915112345678")
WORDS = ("parcel", "Parcels", "città", "CITTA", "ab", "Ünïted", "4711", "471", "a_b", "x", "perché", "7")
LOOKED_FOR = (*WORDS, "parc", "cit", "unit", "47", "47119", "b", "!", "perche parc", "città 4711", "È")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Chunks of few messages, so that few make many; all texts of the tests go together in a moment."""
    monkeypatch.setattr(search_index, "CHUNK", 3)


def index(conn):
    """Build all that can be built."""
    built = 0
    while step := sum(search_index.build(conn)):
        built += step
    return built


def send(conn, account, said, *, source="ACME", destination=NUMBERS[0], segment=None, at=None, **more):
    conn.execute("UPDATE accounts SET any_sender = 1 WHERE any_sender = 0")
    submit = prepared(
        conn,
        account.id,
        said.encode("utf-16-be"),
        data_coding=UCS2,
        source=source,
        destination=destination,
        segment=segment,
        **more,
    )
    return intake.store(conn, [submit], at).ids[0]


def end(conn, message_id, ptt):
    state = DELIVERED if ptt == 0 else REJECTED if ptt == 53 else UNDELIVERABLE
    outcomes.finish(conn, [Outcome(message_id, state, ptt, now_ms())])


def found(conn, account, **wanted):
    return [each.text for each in search.find(conn, account.id, Wanted(**wanted)).texts]


# --- against a look at each


def plain(text):
    return "".join(each for each in unicodedata.normalize("NFD", text.casefold()) if not unicodedata.combining(each))


def is_wanted(text, wanted):
    codes = {each.ptt for each in text.messages}
    said = re.findall(r"\w+", plain(text.text))
    asked = re.findall(r"\w+", plain(wanted.said))
    status = {
        "": True,
        "delivered": 0 in codes,
        "failed": bool(codes - {0, 254}),
        "pending": any(each.ptt == 254 and not each.waits for each in text.messages),
        "scheduled": any(each.waits for each in text.messages),
    }.get(wanted.status)
    if status is None:
        status = any(PTT[code] == PTT[int(wanted.status)] for code in codes)
    return (
        wanted.within.since <= text.at < wanted.within.until
        and wanted.sender.lstrip("+").lower() in ("", text.first.source.lstrip("+").lower())
        and text.first.destination.startswith(wanted.recipient)
        and status
        and (not wanted.said or bool(asked))
        and all(any(word.startswith(each) for word in said) for each in asked)
    )


def newest_first(conn, account):
    rows = conn.execute("SELECT id FROM messages WHERE account_id = ? AND joined_to IS NULL", (account.id,))
    return texts_by_id(conn, account.id, [row[0] for row in rows])[::-1]


said = st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)
messages = st.lists(
    st.fixed_dictionaries(
        {
            "said": said,
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
wanteds = st.fixed_dictionaries(
    {
        "days": st.sampled_from([(0, 5), (1, 2), (0, 1), (2, 3)]),
        "sender": st.sampled_from(["", *SENDERS, "acme", "NOBODY"]),
        "recipient": st.sampled_from(["", "3", "393", "39340", "39341", "4915112345678", *NUMBERS]),
        "status": st.sampled_from(["", "delivered", "failed", "pending", "scheduled", "3", "9", "53"]),
        "said": st.sampled_from(["", "", *LOOKED_FOR]),
    }
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    history=messages,
    wanted=st.lists(wanteds, min_size=1, max_size=6),
    size=st.integers(1, 4),
    indexed_after=st.integers(0, 25),
    runs=st.sampled_from([1, 16]),
)
def test_what_is_found_is_what_a_look_at_each_finds(
    monkeypatch, conn, acme_1, globex_1, history, wanted, size, indexed_after, runs
):
    monkeypatch.setattr(search, "_CHUNKS_AT_ONCE", runs)
    for table in ("deliveries", "history_chunks", "messages"):
        conn.execute(f"DELETE FROM {table}")
    conn.execute("UPDATE counters SET value = 0 WHERE name = 'message_id'")
    conn.execute("UPDATE accounts SET balance = 1000000000")
    now = now_ms()
    for place, each in enumerate(sorted(history, key=lambda message: -message["days_ago"])):
        if place == indexed_after:
            index(conn)
        at = now - each.pop("days_ago") * DAY_MS
        ptt, mine, scheduled = each.pop("ptt"), each.pop("mine"), each.pop("scheduled")
        more = {"scheduled_at": now + DAY_MS} if scheduled else {}
        message_id = send(conn, acme_1 if mine else globex_1, each.pop("said"), at=at, **each, **more)
        if ptt != 254:
            end(conn, message_id, ptt)
    everything = newest_first(conn, acme_1)
    for each in wanted:
        least, most = each.pop("days")
        each["within"] = Period(now - most * DAY_MS + 1, now - least * DAY_MS + DAY_MS, None, None)
        looked_for = Wanted(**each)
        expected = [text.id for text in everything if is_wanted(text, looked_for)]
        assert [text.id for text in search.each(conn, acme_1.id, looked_for, batch=size)] == expected
        for start in range(len(expected)):
            newer = search.find(conn, acme_1.id, looked_for, after=expected[start], limit=size).texts
            assert [text.id for text in newer] == expected[max(0, start - size) : start]
        for seen, following in pairwise(expected):
            assert search.find(conn, acme_1.id, looked_for, before=seen, limit=1).texts[0].id == following


# --- the chunks


def test_segments_that_may_still_come_hold_up_their_chunk(conn, acme_1):
    """A part that joins later is found by its words: the chunk of its text has them."""
    early = now_ms() - 3_600_000
    send(conn, acme_1, "one ", segment=Segment(1, 2, 1), at=early)
    for _ in range(5):
        send(conn, acme_1, "other", at=early)
    assert index(conn) == 0
    send(conn, acme_1, "wonderful", segment=Segment(1, 2, 2), at=early + 60_000)
    assert index(conn) == 2
    assert found(conn, acme_1, said="wonderful") == ["one wonderful"]


def test_a_text_that_stays_incomplete_holds_nothing_up_for_long(conn, acme_1):
    early = now_ms() - 3_600_000
    send(conn, acme_1, "one ", segment=Segment(1, 2, 1), at=early)
    for _ in range(3):
        send(conn, acme_1, "other", at=early)
    assert index(conn) == 0
    send(conn, acme_1, "much later", at=early + intake.SEGMENTS_TOGETHER_MS + 1)
    assert index(conn) == 1
    late = send(conn, acme_1, "wonderful", segment=Segment(1, 2, 2), at=early + intake.SEGMENTS_TOGETHER_MS + 1)
    assert conn.execute("SELECT joined_to FROM messages WHERE id = ?", (late,)).fetchone()[0] is None


def test_a_word_that_is_cut_in_two_is_found(conn, acme_1):
    for number, piece in enumerate(("your par", "cel is here"), 1):
        send(conn, acme_1, piece, segment=Segment(1, 2, number))
    send(conn, acme_1, "other")
    for built in (0, 1):
        assert found(conn, acme_1, said="parcel") == ["your parcel is here"]
        assert found(conn, acme_1, said="here your") == ["your parcel is here"]
        assert index(conn) == 1 - built


def test_chunks_are_left_out_by_what_they_say(conn, acme_1, monkeypatch):
    """Most of a history is not read: without the rows of the others the answer is the same."""
    monkeypatch.setattr(search_index, "CHUNK", 16)
    for number in range(160):
        unique = f"{number * 7919:07}"
        send(conn, acme_1, f"code {unique}", source=f"S{number // 16}", destination=f"39340{unique}")
    index(conn)
    looks = []
    rows = search._Query.rows

    def counted(self, *args):
        looks.append(args)
        return rows(self, *args)

    monkeypatch.setattr(search._Query, "rows", counted)
    for wanted in ({"sender": "S3"}, {"recipient": f"39340{50 * 7919:07}"}, {"said": f"{50 * 7919:07}"}):
        looks.clear()
        assert f"code {50 * 7919:07}" in found(conn, acme_1, **wanted)
        assert len(looks) <= 3, wanted


def test_a_word_that_is_nowhere_is_told_by_four_letters(conn, acme_1, monkeypatch):
    """Three of them are those of many a word."""
    monkeypatch.setattr(search_index, "CHUNK", 16)
    for number in range(160):
        send(conn, acme_1, f"parcel {number}")
    index(conn)
    looks = []
    monkeypatch.setattr(search._Query, "rows", lambda *args: looks.append(args) or [])
    # What has come after the last chunk is looked at in any case.
    for word, stretches in (("part", 1), ("parc", 2), ("par", 2)):
        looks.clear()
        assert found(conn, acme_1, said=word) == []
        assert len(looks) == stretches, word


@pytest.mark.parametrize("length", range(1, 13))
def test_beginnings_of_each_length_are_found(conn, acme_1, length):
    """Also where a word or a number is no longer than that."""
    word, number = "abcdefghijkl", "393401234567"
    send(conn, acme_1, word[:length])
    send(conn, acme_1, word, destination=number)
    send(conn, acme_1, "other", destination="4915112345678")
    assert index(conn) == 1
    assert found(conn, acme_1, said=word[:length]) == [word, word[:length]]
    assert found(conn, acme_1, recipient=number[:length]) == [word, word[:length]]


@pytest.mark.parametrize("length", [3, 4, 5, 8])
def test_a_word_that_is_just_as_long_as_its_term(conn, acme_1, length):
    for said in ("abcdefghijkl"[:length], "other", "another"):
        send(conn, acme_1, said)
    assert index(conn) == 1
    assert found(conn, acme_1, said="abcdefghijkl"[:length]) == ["abcdefghijkl"[:length]]


def test_chunks_survive_that_their_messages_go(conn, acme_1):
    sent = [send(conn, acme_1, f"text {number}") for number in range(7)]
    assert index(conn) == 2
    conn.execute("DELETE FROM deliveries")
    conn.execute("DELETE FROM messages WHERE id IN (?, ?)", (sent[0], sent[4]))
    assert found(conn, acme_1, said="text") == ["text 6", "text 5", "text 3", "text 2", "text 1"]


def test_a_search_that_takes_too_long_says_how_far_it_came(conn, acme_1, monkeypatch):
    monkeypatch.setattr(search, "_CHUNKS_AT_ONCE", 1)
    sent = [send(conn, acme_1, "here" if number in (0, 11) else "elsewhere") for number in range(12)]
    index(conn)
    # One letter is in no chunk's bits: each has to be read.
    wanted, before, seen = Wanted(said="h"), None, []
    for _ in range(5):
        answer = search.find(conn, acme_1.id, wanted, before=before, seconds=0)
        seen.append([each.id for each in answer.texts])
        assert before is None or answer.reached is None or answer.reached < before
        before = answer.reached
    assert seen == [[], [sent[11]], [], [], [sent[0]]]
    assert before is None


# --- what it costs


@pytest.mark.parametrize(
    ("wanted", "index_used"),
    [
        ({"status": "failed"}, "failed USING INDEX messages_failed"),
        ({"status": "53"}, "failed USING INDEX messages_failed"),
        ({"status": "pending"}, "part USING INDEX messages_unfinished"),
        ({"status": "delivered"}, "line USING INDEX messages_account"),
        ({"said": "parcel", "sender": "ACME"}, "line USING INDEX messages_account"),
    ],
)
def test_no_search_sorts_or_reads_another_account(conn, acme_1, wanted, index_used):
    for number in range(7):
        end(conn, send(conn, acme_1, "parcel", segment=Segment(1, 2, number % 2 + 1)), number % 2)
    send(conn, acme_1, "parcel")
    index(conn)
    asked = []
    conn.set_trace_callback(asked.append)
    found(conn, acme_1, **wanted, within=Period(1, 1 << 42, None, None))
    search.find(conn, acme_1.id, Wanted(**wanted), after=ids.first_id_at(1))
    conn.set_trace_callback(None)
    steps = [row["detail"] for sql in asked for row in conn.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert any(index_used in each for each in steps)
    assert not [each for each in steps if re.match(r"SCAN (messages|line|part|failed)", each) and "INDEX" not in each]
    # But the segments of a text.
    assert "said" in wanted or not [each for each in steps if "TEMP B-TREE FOR ORDER BY" in each]
