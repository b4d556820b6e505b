"""Long messages from handsets: joined whatever the order, the binds and the pauses of their parts."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from portal.core import gsm0338
from portal.core.clock import now_ms
from portal.core.db import Connection
from portal.services.common.audit import SHELL
from portal.services.messages import blacklist, inbound, inbound_numbers, inbound_parts
from portal.services.messages.inbound_parts import HOLD_MS, PART_WAIT_MS, InboundPart
from portal.services.messages.validation import Segment
from portal.services.operations import self_check
from portal.services.upstreams import unclaimed

HANDSET, NUMBER = "393337654321", "48484"


@pytest.fixture
def account(conn, acme_1):
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, NUMBER)
    return acme_1


def build_part(content: bytes, number: int, total: int, reference: int = 7, **values: Any) -> InboundPart:
    defaults: dict[str, Any] = {
        "source": HANDSET,
        "destination": NUMBER,
        "upstream": 1,
        "data_coding": 0,
        "charset": "auto",
        "udh": bytes((5, 0, 3, reference, total, number)),
    }
    return InboundPart(segment=Segment(reference, total, number), content=content, **defaults | values)


def build_parts(contents: Sequence[bytes], **values: Any) -> list[InboundPart]:
    return [build_part(each, number, len(contents), **values) for number, each in enumerate(contents, start=1)]


def store(conn: Connection, *parts: InboundPart, at: int | None = None) -> set[int]:
    return inbound.store_inbound_messages(conn, parts, at)


def received(conn: Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in conn.execute("SELECT text, data_coding, udh, body FROM received ORDER BY id")]


def texts(conn: Connection) -> list[str]:
    return [text for text, *_ in received(conn)]


def count_waiting(conn: Connection, table: str = "inbound_parts") -> int:
    (count,) = conn.execute(f"SELECT count(*) FROM {table}").fetchone()
    return int(count)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("is_at_once", [False, True])
def test_parts_in_any_order_are_one_message(conn, account, order, is_at_once):
    parts = build_parts([b"one ", b"two ", b"three"])
    ordered = [parts[each] for each in order]
    if is_at_once:
        assert store(conn, *ordered) == {account.id}
    else:
        assert [store(conn, each) for each in ordered] == [set(), set(), {account.id}]
    assert received(conn) == [("one two three", 0, None, None)]
    assert count_waiting(conn) == 0
    assert self_check.list_problem_texts(conn) == []


def test_a_part_that_comes_twice_is_there_once(conn, account):
    first, second = build_parts([b"one ", b"two"])
    store(conn, first, first)
    store(conn, first)
    store(conn, second)
    assert texts(conn) == ["one two"]


@pytest.mark.parametrize("is_at_once", [True, False])
def test_a_part_that_comes_again_behind_its_message_is_none(conn, account, is_at_once):
    at = now_ms()
    first, second = build_parts([b"one ", b"two"])
    if is_at_once:
        store(conn, first, second, second, second, at=at)
    else:
        store(conn, first, second, at=at)
        assert store(conn, second, at=at + PART_WAIT_MS) == set()
    inbound.release_old_parts(conn, at + 2 * PART_WAIT_MS + 1)
    assert texts(conn) == ["one two"]
    assert count_waiting(conn) == count_waiting(conn, "joined_messages") == 0


@pytest.mark.parametrize("is_at_once", [True, False])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("order", ["rab", "rba", "arb", "bra"])
def test_a_part_that_comes_again_is_not_joined_with_those_of_the_next_text(conn, account, order, number, is_at_once):
    at = now_ms()
    old, new = build_parts([b"old ", b"text"]), build_parts([b"new ", b"one"])
    store(conn, *old, at=at)
    came = [{"r": old[number], "a": new[0], "b": new[1]}[each] for each in order]
    if is_at_once:
        store(conn, *came, at=at + 1)
    else:
        for each in came:
            store(conn, replace(each), at=at + 1)
    assert texts(conn) == ["old text", "new one"]
    # Now it is the new one whose parts may come again.
    store(conn, new[0], at=at + 2)
    inbound.release_old_parts(conn, at + 3 * PART_WAIT_MS)
    assert texts(conn) == ["old text", "new one"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_another_text_with_the_same_part_under_the_same_reference_is_whole_a_minute_later(conn, account, order):
    at = now_ms()
    store(conn, *build_parts([b"alarm: ", b"door ", b"open"]), at=at)
    parts = build_parts([b"alarm: ", b"window ", b"open"])
    store(conn, *(parts[each] for each in order), at=at + 1)
    assert inbound.release_old_parts(conn, at + 1 + HOLD_MS)[0] == set()
    assert inbound.release_old_parts(conn, at + 2 + HOLD_MS)[0] == {account.id}
    # Now it is this one whose parts may come again.
    store(conn, parts[1], at=at + 3 + HOLD_MS)
    inbound.release_old_parts(conn, at + 4 + HOLD_MS + PART_WAIT_MS)
    assert texts(conn) == ["alarm: door open", "alarm: window open"]
    assert count_waiting(conn) == 0


def test_a_repeated_part_does_not_put_a_text_off_for_ever(conn, account):
    at = now_ms()
    for parts in ([b"a ", b"first"], [b"a ", b"second"]):
        store(conn, *build_parts(parts), at=at)
    store(conn, build_part(b"a ", 1, 2), at=at + HOLD_MS // 2)
    inbound.release_old_parts(conn, at + HOLD_MS + 1)
    assert texts(conn) == ["a first", "a second"]


def test_parts_of_a_text_that_the_next_one_has_ended_may_come_again(conn, account):
    at = now_ms()
    for parts in ([b"a ", b"first"], [b"a ", b"second"]):
        store(conn, *build_parts(parts), at=at)
    store(conn, build_part(b"third", 2, 2), at=at)
    assert texts(conn) == ["a first", "a second"]
    store(conn, build_part(b"second", 2, 2), build_part(b"a ", 1, 2), at=at)
    inbound.release_old_parts(conn, at + PART_WAIT_MS + 1)
    assert texts(conn) == ["a first", "a second", "a third"]


def test_what_is_there_of_a_text_with_a_repeated_part_goes_as_it_came(conn, account):
    at = now_ms()
    store(conn, *build_parts([b"alarm: ", b"door ", b"open"]), at=at)
    store(conn, build_part(b"alarm: ", 1, 3), build_part(b"window ", 2, 3), at=at + 1)
    inbound.release_old_parts(conn, at + PART_WAIT_MS + 2)
    assert texts(conn) == ["alarm: door open", "alarm: ", "window "]


def test_a_text_that_comes_again_whole_is_another_message(conn, account):
    at = now_ms()
    parts = build_parts([b"one ", b"two"])
    store(conn, *parts, at=at)
    store(conn, *parts, at=at + 1)
    later = at + 2 + HOLD_MS
    inbound.release_old_parts(conn, later)
    assert texts(conn) == ["one two"] * 2
    # After an hour nothing is compared any more.
    inbound.release_old_parts(conn, later + PART_WAIT_MS + 1)
    store(conn, *parts, at=later + PART_WAIT_MS + 1)
    assert texts(conn) == ["one two"] * 3


def test_no_more_than_so_many_joined_messages_are_known(conn, account, monkeypatch):
    monkeypatch.setattr(inbound_parts, "MAX_WAITING_PARTS", 10)
    at = now_ms()
    for reference in range(15):
        store(conn, *build_parts([b"a", b"b"], reference=reference), at=at + reference)
    assert inbound.release_old_parts(conn, at + 20) == (set(), False)
    assert count_waiting(conn, "joined_messages") == 10
    monkeypatch.setattr(inbound, "RELEASE_BATCH_SIZE", 4)
    later = at + 20 + PART_WAIT_MS
    assert [inbound.release_old_parts(conn, later)[1] for _ in range(3)] == [True, True, False]
    assert count_waiting(conn, "joined_messages") == 0


@pytest.mark.parametrize(("character", "charset"), [("ç", "latin-1"), ("{", "ascii"), ("x", "gsm")])
def test_what_is_longer_joined_than_any_handset_sends_goes_as_it_came(conn, account, character, charset):
    store(conn, *build_parts([character.encode("latin-1") * 160] * 255, charset=charset, udh=None))
    assert texts(conn) == [character * 160] * 255
    store(conn, *build_parts([character.encode("latin-1") * 66] * 255, charset=charset, udh=None))
    assert texts(conn)[255:] == [character * 66 * 255]


@pytest.mark.parametrize(
    ("text", "data_coding", "charset", "encoded"),
    [
        ("perché € 😀 😀😀", 0, "utf-8", "perché € 😀 😀😀".encode()),
        ("però 😀😀 e poi", 8, "auto", "però 😀😀 e poi".encode("utf-16-be")),
        ("{[€]} e [poi]", 0, "gsm", gsm0338.encode("{[€]} e [poi]")),
        ("açoçaé", 0, "latin-1", "açoçaé".encode("latin-1")),
    ],
)
def test_a_letter_may_begin_in_one_part_and_end_in_the_next(conn, account, text, data_coding, charset, encoded):
    for reference, cut in enumerate(range(1, len(encoded))):
        store(
            conn,
            *build_parts([encoded[:cut], encoded[cut:]], reference=reference, data_coding=data_coding, charset=charset),
        )
    assert set(texts(conn)) == {text}
    assert len(texts(conn)) == len(encoded) - 1


def test_messages_are_told_apart_by_handset_number_upstream_reference_and_length(conn, account):
    others: list[dict[str, Any]] = [
        {},
        {"source": "393330000000"},
        {"destination": "48485"},
        {"upstream": 2},
        {"reference": 8},
        {"data_coding": 8},
    ]
    for each in others:
        store(conn, build_part(b"\0a", 1, 2, **each))
    store(conn, build_part(b"\0a", 1, 3))
    assert count_waiting(conn) == len(others) + 1
    assert received(conn) == []
    store(conn, build_part(b"\0b", 2, 2))
    assert texts(conn) == ["@a@b"]


def test_what_was_begun_under_the_same_reference_goes_as_it_came(conn, account):
    store(conn, build_part(b"lost ", 1, 2))
    assert store(conn, build_part(b"new ", 1, 2)) == {account.id}
    store(conn, build_part(b"text", 2, 2))
    assert received(conn) == [("lost ", 0, bytes((5, 0, 3, 7, 2, 1)), None), ("new text", 0, None, None)]


def test_what_else_a_header_says_stays(conn, account):
    ports = bytes((5, 4, 0x15, 0x81, 0, 0))
    header = bytes((11, 0, 3, 7, 2, 1)) + ports
    store(conn, *build_parts([b"\x01", b"\xff"], data_coding=4, udh=header))
    assert received(conn) == [("", 4, bytes((6,)) + ports, b"\x01\xff")]


def test_the_keyword_and_stop_are_seen_in_the_whole_text(conn, acme_1, globex_1):
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, NUMBER, "acme")
    inbound_numbers.add_inbound_number(conn, SHELL, globex_1, NUMBER, "stopwatch")
    assert store(conn, *build_parts([b"stop", b"watch please"])) == {globex_1.id}
    assert blacklist.list_blacklist(conn, globex_1.id) == []
    assert store(conn, *build_parts([b"ac", b"me stop"])) == {acme_1.id}
    assert [each.number for each in blacklist.list_blacklist(conn, acme_1.id)] == [HANDSET]


def test_of_a_text_that_is_not_all_there_the_beginning_says_whose_it_is(conn, acme_1, globex_1):
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, NUMBER, "acme")
    inbound_numbers.add_inbound_number(conn, SHELL, globex_1, NUMBER, "info")
    store(conn, build_part(b"acme please send me ", 1, 3), build_part(b"info", 2, 3))
    store(conn, build_part(b"stop", 2, 2, reference=8), build_part(b"info on this", 2, 2, reference=9))
    assert inbound.release_old_parts(conn, now_ms() + PART_WAIT_MS + 1)[0] == {acme_1.id}
    assert texts(conn) == ["acme please send me ", "info"]
    assert blacklist.list_blacklist(conn, acme_1.id) == blacklist.list_blacklist(conn, globex_1.id) == []
    kept = unclaimed.list_kept(conn, unclaimed.UNOWNED_MESSAGES, 1, 10)
    assert {each.text for each in kept} == {"stop", "info on this"}
    # Whoever has the number without a keyword gets them.
    inbound_numbers.add_inbound_number(conn, SHELL, globex_1, NUMBER)
    store(conn, build_part(b"acme", 2, 2))
    assert inbound.release_old_parts(conn, now_ms() + PART_WAIT_MS + 1)[0] == {globex_1.id}


def test_so_it_is_where_another_text_ends_it(conn, acme_1, globex_1):
    inbound_numbers.add_inbound_number(conn, SHELL, acme_1, NUMBER, "acme")
    inbound_numbers.add_inbound_number(conn, SHELL, globex_1, NUMBER, "info")
    store(conn, build_part(b"info", 2, 3), build_part(b"acme stop", 3, 3), build_part(b"other", 2, 3))
    assert texts(conn) == []
    kept = unclaimed.list_kept(conn, unclaimed.UNOWNED_MESSAGES, 1, 10)
    assert {each.text for each in kept} == {"info", "acme stop"}
    assert blacklist.list_blacklist(conn, acme_1.id) == []


def test_a_part_whose_others_do_not_come_goes_as_it_came(conn, account):
    at = now_ms()
    store(conn, build_part(b"two ", 2, 3), at=at - PART_WAIT_MS)
    store(conn, build_part(b"one ", 1, 3), build_part(b"ciao", 1, 2, reference=9, udh=None), at=at)
    assert inbound.release_old_parts(conn, at)[0] == set()
    assert inbound.release_old_parts(conn, at + 1) == ({account.id}, False)
    assert received(conn) == [
        ("one ", 0, bytes((5, 0, 3, 7, 3, 1)), None),
        ("two ", 0, bytes((5, 0, 3, 7, 3, 2)), None),
    ]
    # Of one that sar_* place in its text a header says so: customers' clients know no more than that.
    inbound.release_old_parts(conn, at + PART_WAIT_MS + 1)
    assert received(conn)[2] == ("ciao", 0, bytes((6, 8, 4, 0, 9, 2, 1)), None)
    assert count_waiting(conn) == 0


def test_no_more_than_so_many_wait(conn, account, monkeypatch):
    monkeypatch.setattr(inbound_parts, "MAX_WAITING_PARTS", 10)
    at = now_ms()
    for reference in range(15):
        store(conn, build_part(str(reference).encode(), 1, 2, reference=reference), at=at + reference)
    inbound.release_old_parts(conn, at + 20)
    assert texts(conn) == ["0", "1", "2", "3", "4"]
    assert count_waiting(conn) == 10


def test_one_that_can_not_be_written_keeps_no_other_back(conn, account):
    no_header = replace(build_part(b"bad", 1, 2, udh=None), segment=Segment(70_000, 2, 1))
    store(conn, no_header, build_part(b"\xffbad", 1, 2, reference=9, udh=b"\xff"))
    store(conn, build_part(b"good", 1, 2))
    inbound.release_old_parts(conn, now_ms() + PART_WAIT_MS + 1)
    assert sorted(received(conn), key=str) == [
        ("", 4, None, b"\xffbad"),
        ("", 4, None, b"bad"),
        ("good", 0, bytes((5, 0, 3, 7, 2, 1)), None),
    ]
    assert count_waiting(conn) == 0


@pytest.mark.parametrize("is_old", [True, False])
def test_more_than_a_batch_are_told(conn, account, monkeypatch, is_old):
    monkeypatch.setattr(inbound, "RELEASE_BATCH_SIZE", 4)
    monkeypatch.setattr(inbound_parts, "MAX_WAITING_PARTS", 100 if is_old else 0)
    at = now_ms()
    store(conn, *(build_part(b"x", 1, 2, reference=each) for each in range(10)), at=at)
    later = at + PART_WAIT_MS + 1 if is_old else at
    released = [inbound.release_old_parts(conn, later) for _ in range(4)]
    assert [has_more for _, has_more in released] == [True, True, False, False]
    assert len(texts(conn)) == 10


def test_one_that_nobody_takes_is_kept_whole(conn, account):
    store(conn, *build_parts([b"for ", b"nobody"], destination="48480"))
    (kept,) = unclaimed.list_kept(conn, unclaimed.UNOWNED_MESSAGES, 1, 10)
    assert (kept.source, kept.destination, kept.text) == (HANDSET, "48480", "for nobody")


def test_many_of_many_handsets_in_any_order_are_all_whole(conn, account):
    random = Random(17)
    sent = {f"39333{number:07d}": [b"%d," % number] * random.randrange(2, 9) for number in range(100)}
    parts = [each for source, contents in sent.items() for each in build_parts(contents, source=source)]
    random.shuffle(parts)
    for start in range(0, len(parts), 50):
        store(conn, *parts[start : start + 50])
    rows = conn.execute("SELECT source, text FROM received").fetchall()
    assert {row[0]: row[1] for row in rows} == {source: b"".join(each).decode() for source, each in sent.items()}
    assert len(rows) == len(sent)
    assert count_waiting(conn) == 0
