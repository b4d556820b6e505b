"""Receipts that matched nothing: which setting is told to find their messages, and that it does once it is set."""

from collections.abc import Sequence

import pytest

from portal.core.clock import HOUR_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED, ENROUTE
from portal.services.messages import kept_receipts, sending
from portal.services.operations import self_check
from portal.services.upstreams import counters, upstreams
from tests.services.messages.test_receipt_matching import NUMBER, OTHER_NUMBER, build, receive, send, states, tried
from tests.services.upstreams.waiting import add_upstream

COUNT = 40


def hex_ids(count: int = COUNT) -> list[str]:
    return [f"{0xAB00 + number:x}" for number in range(count)]


def decimal_ids(count: int = COUNT) -> list[str]:
    return [str(0xAB00 + number) for number in range(count)]


def find(conn: Connection) -> list[tuple[int, dict[str, str]]]:
    return [(each.count, dict(each.changes)) for each in kept_receipts.find_hints(conn)]


def set_hint(conn: Connection, keys: Keys) -> None:
    """As the page does it, and then as the SMPP server does."""
    (hint,) = kept_receipts.find_hints(conn)
    upstreams.change_upstream(
        conn, keys, SHELL, hint.upstream, expected_version=hint.upstream.version, **dict(hint.changes)
    )
    retry(conn)


def retry(conn: Connection) -> int:
    """Until nothing is left to do; returns how many receipts were queued for clients."""
    queued = 0
    while waiting := kept_receipts.list_upstreams_to_retry(conn):
        queued += len(kept_receipts.retry_receipts(conn, waiting[0]))
    return queued


@pytest.mark.parametrize("source", [NUMBER, ""])
@pytest.mark.parametrize(
    ("setting", "upstream_ids", "receipt_ids", "form"),
    [
        ("as-is", hex_ids(), decimal_ids(), "hex-to-dec"),
        ("as-is", decimal_ids(), hex_ids(), "dec-to-hex"),
        ("hex-to-dec", hex_ids(), hex_ids(), "as-is"),
    ],
)
def test_the_form_is_told_and_finds_them_once_it_is_set(
    conn, keys, cast, source, setting, upstream_ids, receipt_ids, form
):
    add_upstream(conn, keys, message_ids=setting)
    message_ids = send(conn, cast.smpp_acme_1.id, upstream_ids)
    assert not any(receive(conn, *(build(each, source=source) for each in receipt_ids)))
    before = counters.get_counters(conn, 1)
    assert find(conn) == [(COUNT, {"message_ids": form})]
    set_hint(conn, keys)
    assert set(states(conn, message_ids)) == {DELIVERED}
    assert tried(conn) == []
    after = counters.get_counters(conn, 1)
    assert (after["receipts"], after["unmatched"]) == (before["receipts"], before["unmatched"])
    assert after["delivered"] == COUNT
    assert kept_receipts.find_hints(conn) == []
    assert self_check.list_problem_texts(conn) == []


def test_no_receipt_ends_a_message_that_was_submitted_after_it_came(conn, keys, cast):
    """A carrier may begin its ids anew."""
    add_upstream(conn, keys, message_ids="as-is")
    sent = send(conn, cast.smpp_acme_1.id, hex_ids())
    receive(conn, *(build(each) for each in decimal_ids()))
    conn.execute("UPDATE unmatched_receipts SET received_at = received_at - ?", (HOUR_MS,))
    (upstream,) = upstreams.list_upstreams(conn)
    upstreams.change_upstream(conn, keys, SHELL, upstream, message_ids="hex-to-dec")
    retry(conn)
    assert set(states(conn, sent)) == {ENROUTE}
    assert len(tried(conn)) == COUNT


def test_where_receipts_name_no_number_another_form_is_told_though_all_are_looked_for(conn, keys, cast):
    add_upstream(conn, keys)
    send(conn, cast.smpp_acme_1.id, hex_ids())
    assert not any(receive(conn, *(build(each, source="ACME", destination="") for each in decimal_ids())))
    assert find(conn) == [(COUNT, {"message_ids": "hex-to-dec"})]
    (hint,) = kept_receipts.find_hints(conn)
    assert hint.describe() == (
        "40 ids match when those of submit_sm_resp are read as hexadecimal, and those of receipts as decimal"
    )


def test_an_id_that_is_in_the_text_is_told(conn, keys, cast):
    add_upstream(conn, keys, receipt_id_from="tlv")
    message_ids = send(conn, cast.smpp_acme_1.id, hex_ids())
    receive(conn, *(build("0", text=f"id:{each} stat:DELIVRD err:000") for each in hex_ids()))
    assert find(conn) == [(COUNT, {"receipt_id_from": "both"})]
    set_hint(conn, keys)
    assert set(states(conn, message_ids)) == {DELIVERED}


@pytest.mark.parametrize("id_from", ["both", "tlv"])
def test_an_id_behind_words_of_the_carriers_own_is_told_as_a_pattern(conn, keys, cast, id_from):
    add_upstream(conn, keys, receipt_id_from=id_from)
    message_ids = send(conn, cast.smpp_acme_1.id, hex_ids())
    texts = [f"batch=7 ref=0{each.upper()} stat:DELIVRD" for each in hex_ids()]
    receive(conn, *(build("77", text=text) for text in texts))
    extra = {"receipt_id_from": "both"} if id_from == "tlv" else {}
    assert find(conn) == [(COUNT, {**extra, "receipt_id_pattern": "ref=([0-9A-Za-z-]+)"})]
    (hint,) = kept_receipts.find_hints(conn)
    assert hint.describe() == "40 ids match when the id is what follows “ref=” in the receipt's text"
    set_hint(conn, keys)
    assert set(states(conn, message_ids)) == {DELIVERED}


def test_a_pattern_that_finds_nothing_is_told_to_be_taken_away(conn, keys, cast):
    add_upstream(conn, keys, receipt_id_pattern=r"no=(\d+)", message_ids="as-is")
    message_ids = send(conn, cast.smpp_acme_1.id, hex_ids())
    receive(conn, *(build(text=f"id:{each} stat:DELIVRD") for each in decimal_ids()))
    assert find(conn) == [(COUNT, {"receipt_id_pattern": "", "message_ids": "hex-to-dec"})]
    set_hint(conn, keys)
    assert set(states(conn, message_ids)) == {DELIVERED}


@pytest.mark.parametrize(
    "case", ["two", "few of many", "another number", "another upstream's", "ended", "older", "none"]
)
def test_what_may_be_chance_is_not_told(conn, keys, cast, case):
    add_upstream(conn, keys, message_ids="as-is")
    add_upstream(conn, keys, "other")
    count = 2 if case in ("two", "few of many") else COUNT
    receipts = [build(each) for each in decimal_ids(count)]
    if case == "older":
        # They came before their messages were sent.
        receive(conn, *receipts)
        conn.execute("UPDATE unmatched_receipts SET received_at = received_at - 1000000")
    if case != "none":
        send(conn, cast.smpp_acme_1.id, hex_ids(count), OTHER_NUMBER if case == "another number" else NUMBER)
    if case == "few of many":
        receive(conn, *(build(f"{each}0") for each in decimal_ids(COUNT)))
    if case == "another upstream's":
        conn.execute("UPDATE messages SET upstream = 2")
    if case == "ended":
        conn.execute("UPDATE messages SET state = ?", (DELIVERED,))
    if case != "older":
        receive(conn, *receipts)
    assert kept_receipts.find_hints(conn) == []


def test_nothing_is_told_where_they_match_as_it_is_set(conn, keys, cast):
    """Their messages were accepted too long after them: no setting mends that."""
    add_upstream(conn, keys, message_ids="as-is")
    receive(conn, *(build(each) for each in hex_ids()))
    conn.execute("UPDATE unmatched_receipts SET received_at = received_at - ?", (2 * sending.EARLY_RECEIPT_MS,))
    send(conn, cast.smpp_acme_1.id, hex_ids())
    conn.execute("UPDATE unmatched_receipts SET received_at = ?", (now_ms(),))
    assert len(tried(conn)) == COUNT
    assert kept_receipts.find_hints(conn) == []


def test_a_form_that_fits_by_chance_as_often_is_not_told(conn, keys, cast):
    """Ids that count up in both: each number is there in hexadecimal, too."""
    add_upstream(conn, keys, message_ids="as-is")
    send(conn, cast.smpp_acme_1.id, [str(each) for each in range(1_000, 1_020)])
    both: Sequence[str] = [str(int(str(each), 16)) for each in range(1_000, 1_020)]
    others = [f"{each:x}" for each in range(1_000, 1_020)]
    receive(conn, *(build(each, source="") for each in (*both, *others)))
    assert kept_receipts.find_hints(conn) == []


def test_many_are_looked_for_in_steps_that_a_kill_can_interrupt(conn, keys, cast, monkeypatch):
    monkeypatch.setattr(kept_receipts, "_RETRIED", 15)
    upstream = add_upstream(conn, keys, message_ids="as-is")
    message_ids = send(conn, cast.smpp_acme_1.id, hex_ids())
    receive(conn, *(build(each) for each in decimal_ids()), build("beef"))
    assert kept_receipts.list_upstreams_to_retry(conn) == []
    upstreams.change_upstream(conn, keys, SHELL, upstream, window=11)
    assert kept_receipts.list_upstreams_to_retry(conn) == []
    upstreams.change_upstream(conn, keys, SHELL, upstream, message_ids="auto")
    assert kept_receipts.list_upstreams_to_retry(conn) == [upstream.id]
    kept_receipts.retry_receipts(conn, upstream.id)
    assert kept_receipts.list_upstreams_to_retry(conn) == [upstream.id]
    # The newest ones first.
    assert states(conn, message_ids[-10:]) == [DELIVERED] * 10
    assert states(conn, message_ids[:10]) == [ENROUTE] * 10
    retry(conn)
    assert states(conn, message_ids) == [DELIVERED] * COUNT
    assert len(tried(conn)) == 1
    assert kept_receipts.list_upstreams_to_retry(conn) == []


def test_a_message_ends_when_its_receipt_came(conn, keys, cast):
    upstream = add_upstream(conn, keys, message_ids="as-is")
    (message_id,) = send(conn, cast.smpp_acme_1.id, hex_ids(1))
    receive(conn, build(decimal_ids(1)[0]))
    hour = 3_600_000
    conn.execute("UPDATE unmatched_receipts SET received_at = received_at - ?", (hour,))
    conn.execute("UPDATE messages SET id = id - (? << 12)", (2 * hour,))
    upstreams.change_upstream(conn, keys, SHELL, upstream, message_ids="auto")
    retry(conn)
    (ended_at,) = conn.execute("SELECT done_at FROM messages WHERE id < ?", (message_id,)).fetchone()
    assert now_ms() - hour - 60_000 < ended_at < now_ms() - hour + 60_000


def test_messages_are_read_once_for_all_forms(conn, keys, cast):
    add_upstream(conn, keys, message_ids="as-is")
    send(conn, cast.smpp_acme_1.id, hex_ids())
    receive(conn, *(build(each) for each in decimal_ids()))
    statements: list[str] = []
    conn.set_trace_callback(statements.append)
    assert find(conn) == [(COUNT, {"message_ids": "hex-to-dec"})]
    conn.set_trace_callback(None)
    assert sum("messages_upstream" in each for each in statements) == 1
