"""Texts that were cut on their way to a carrier, as the database has them (pain 2)."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest

from portal.core.clock import now_ms
from portal.core.db import Connection
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.common.message_states import (
    DELIVERED,
    ENROUTE,
    EXPIRED,
    NO_ANSWER,
    REJECTED,
    UNDELIVERABLE,
    UNKNOWN,
)
from portal.services.history import history, removal
from portal.services.messages import blacklist, message_parts, outcomes, query_cancel, sending, validation
from portal.services.messages.message_parts import TextPart
from portal.services.messages.receipt_matching import UpstreamReceipt
from portal.services.messages.sending import AcceptedMessage, SendingResult, UnsentMessage, UnsentReason
from portal.services.operations import self_check
from portal.services.statistics import rollup
from portal.services.upstreams import counters, queue, upstreams
from portal.services.upstreams.claims import Claim
from portal.services.upstreams.upstreams import MessagesWaitForUpstream, Upstream
from tests.services.upstreams.waiting import add_upstream, queue_messages

NUMBER = "393401234567"
CUT_BY = '{"long_texts": "udh8"}'


@pytest.fixture
def account_id(cast: Any) -> int:
    return int(cast.smpp_acme_1.id)


def claim_text(conn: Connection, account_id: int, **values: Any) -> int:
    """A text of three parts that the upstream has begun to send."""
    (message_id,) = queue_messages(conn, account_id, body=b"x" * 400, **values)
    assert [each.id for each in claim(conn)] == [message_id]
    return message_id


def claim(conn: Connection, upstream_id: int = 1, now: int | None = None) -> Sequence[Any]:
    return sending.claim_messages(conn, Claim(upstream_id, [(), (upstream_id,)], 10), now or now_ms()).messages


def accept(conn: Connection, message_id: int, *numbers: int, total: int = 3, **values: Any) -> SendingResult:
    """Store that the upstream has accepted parts, each under an id that is made of its number."""
    fields = {"upstream": 1, "message_id": message_id, "bind": 1, "sent_at": now_ms(), **values}
    return sending.store_accepted_messages(
        conn,
        [
            AcceptedMessage(upstream_message_id=f"id{each}", part=TextPart(each, total, CUT_BY), **fields)
            for each in numbers
        ],
    )


def leave_unsent(
    conn: Connection, message_id: int, account_id: int, reason: UnsentReason, **values: Any
) -> SendingResult:
    unsent = UnsentMessage(1, message_id, reason, (account_id, NUMBER), **values)
    return sending.store_unsent_messages(conn, [unsent], now_ms())


def receive(
    conn: Connection, number: int, state: int = DELIVERED, status: str = "stat:DELIVRD err:000"
) -> SendingResult:
    ptt = 0 if state == DELIVERED else 800
    receipt = UpstreamReceipt(1, (f"id{number}",), state, ptt, True, status, None, NUMBER, "ACME", "id:...")
    return sending.store_upstream_receipts(conn, [receipt], now_ms())


def read_message(conn: Connection, message_id: int) -> Any:
    return conn.execute("SELECT * FROM messages WHERE id = ?", (message_id,)).fetchone()


def list_states(conn: Connection, message_id: int) -> list[int | None]:
    return [each.state for each in message_parts.read_message_parts(conn, [message_id])[message_id]]


def get_balance(conn: Connection, account_id: int) -> int:
    return int(conn.execute("SELECT balance FROM accounts WHERE id = ?", (account_id,)).fetchone()[0])


def assert_sound(conn: Connection) -> None:
    assert self_check.list_problem_texts(conn) == []


@pytest.mark.parametrize("order", permutations((1, 2, 3)))
@pytest.mark.parametrize("failing", [(), (2,), (1, 3), (1, 2, 3)])
def test_pain_2_receipts_of_all_parts_in_any_order_make_one_of_the_text(conn, keys, account_id, order, failing):
    add_upstream(conn, keys, refund="undelivered")
    before = get_balance(conn, account_id)
    message_id = claim_text(conn, account_id)
    price = before - get_balance(conn, account_id)
    assert accept(conn, message_id, 1, 2).receipts == []
    assert read_message(conn, message_id)["upstream_id"] is None
    accept(conn, message_id, 3)
    assert read_message(conn, message_id)["upstream_id"] == ""
    assert counters.get_counters(conn, 1)["accepted"] == 1
    results = []
    for number in order:
        assert read_message(conn, message_id)["state"] == ENROUTE
        assert_sound(conn)
        failed = number in failing
        results.append(receive(conn, number, *((UNDELIVERABLE, f"failed {number}") if failed else ())))
    assert [each.matched for each in results] == [[True]] * 3
    assert [len(each.receipts) for each in results] == [0, 0, 1]
    message = read_message(conn, message_id)
    assert (message["state"], message["ptt"]) == ((UNDELIVERABLE, 800) if failing else (DELIVERED, 0))
    first_failure = next((f"failed {each}" for each in order if each in failing), "stat:DELIVRD err:000")
    assert message["upstream_status"] == first_failure
    assert get_balance(conn, account_id) == before - price + price // 3 * len(failing)
    # The same receipt again is of nothing that is on its way.
    assert receive(conn, 1).matched == [False]
    assert_sound(conn)


@pytest.mark.parametrize("policy", ["never", "refused"])
def test_pain_2_parts_that_fail_cost_what_they_cost_where_that_is_set(conn, keys, account_id, policy):
    add_upstream(conn, keys, refund=policy)
    message_id = claim_text(conn, account_id)
    charged = get_balance(conn, account_id)
    accept(conn, message_id, 1, 2, 3)
    for number in (1, 2, 3):
        receive(conn, number, UNDELIVERABLE)
    assert read_message(conn, message_id)["state"] == UNDELIVERABLE
    assert get_balance(conn, account_id) == charged
    assert_sound(conn)


def test_receipts_that_come_before_the_answers_find_their_parts(conn, keys, account_id):
    add_upstream(conn, keys)
    message_id = claim_text(conn, account_id)
    for number in (3, 1, 2):
        assert receive(conn, number).matched == [False]
    assert accept(conn, message_id, 1, 2).receipts == []
    (receipt,) = accept(conn, message_id, 3).receipts
    assert (receipt.message_id, receipt.state) == (message_id, DELIVERED)
    assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 0
    assert_sound(conn)


@pytest.mark.parametrize(("policy", "refunded_parts"), [("never", 0), ("refused", 2), ("undelivered", 2)])
def test_a_part_that_is_refused_for_good_fails_the_text_once_the_others_are_known(
    conn, keys, account_id, policy, refunded_parts
):
    add_upstream(conn, keys, refund=policy)
    before = get_balance(conn, account_id)
    message_id = claim_text(conn, account_id)
    price = before - get_balance(conn, account_id)
    accept(conn, message_id, 1)
    said = {2: "ESME_RINVDSTADR 0x0B"}
    refusal = {"status": said[2], "ptt": 100, "part_statuses": said}
    assert leave_unsent(conn, message_id, account_id, UnsentReason.REFUSED, **refusal).receipts == []
    assert list_states(conn, message_id) == [ENROUTE, REJECTED, REJECTED]
    parts = message_parts.read_message_parts(conn, [message_id])[message_id]
    assert [each.upstream_status for each in parts] == [None, said[2], message_parts.NOT_SENT]
    # Nothing of it is sent any more, also not after a restart.
    sending.recover_messages(conn, now_ms())
    assert claim(conn) == []
    assert_sound(conn)
    (receipt,) = receive(conn, 1).receipts
    assert (receipt.state, receipt.ptt) == (REJECTED, 100)
    assert get_balance(conn, account_id) == before - price + price // 3 * refunded_parts
    assert_sound(conn)


def test_what_can_have_no_receipt_is_not_waited_for_once_another_part_has_failed(conn, keys, account_id):
    add_upstream(conn, keys, registered_delivery=0, refund="undelivered")
    before = get_balance(conn, account_id)
    message_id = claim_text(conn, account_id)
    price = before - get_balance(conn, account_id)
    accept(conn, message_id, 1)
    (receipt,) = leave_unsent(
        conn, message_id, account_id, UnsentReason.REFUSED, status="no", ptt=100, part_statuses={2: "no"}
    ).receipts
    assert receipt.state == REJECTED
    assert list_states(conn, message_id) == [UNKNOWN, REJECTED, REJECTED]
    # The first part may have arrived.
    assert get_balance(conn, account_id) == before - price + price // 3 * 2
    assert_sound(conn)


def test_a_part_that_may_have_arrived_is_not_given_back_though_none_was_accepted(conn, keys, account_id):
    add_upstream(conn, keys, refund="refused")
    before = get_balance(conn, account_id)
    message_id = claim_text(conn, account_id)
    price = before - get_balance(conn, account_id)
    said = {1: NO_ANSWER, 2: "no", 3: message_parts.NOT_SENT}
    (receipt,) = leave_unsent(
        conn, message_id, account_id, UnsentReason.REFUSED, status="no", ptt=100, part_statuses=said
    ).receipts
    assert receipt.state == UNKNOWN
    assert list_states(conn, message_id) == [UNKNOWN, REJECTED, REJECTED]
    assert get_balance(conn, account_id) == before - price + price // 3 * 2
    assert_sound(conn)


def test_a_text_has_ended_when_the_last_of_its_parts_has(conn, keys, account_id):
    add_upstream(conn, keys)
    message_id = claim_text(conn, account_id)
    accept(conn, message_id, 1, 2, 3)
    at = now_ms()
    for number, minute in ((1, 3), (2, 7), (3, 5)):
        status, done_at = "stat:DELIVRD err:000", at + minute * 60_000
        receipt = UpstreamReceipt(1, (f"id{number}",), DELIVERED, 0, True, status, done_at, NUMBER, "ACME", "id:...")
        sending.store_upstream_receipts(conn, [receipt], at + 3_600_000)
    message = read_message(conn, message_id)
    assert (message["state"], message["done_at"]) == (DELIVERED, at + 7 * 60_000)


def test_pain_2_after_a_crash_only_parts_without_an_answer_are_sent_again(conn, keys, account_id):
    add_upstream(conn, keys)
    message_id = claim_text(conn, account_id)
    accept(conn, message_id, 2)
    sending.recover_messages(conn, now_ms())
    counted = counters.get_counters(conn, 1)
    assert (counted["unsure"], counted["resent"]) == (1, 1)
    (again,) = claim(conn)
    assert again.id == message_id
    assert again.cut == (1, 3, CUT_BY, {2})
    accept(conn, message_id, 1, 3)
    assert not queue.has_queue(conn)
    for number in (1, 2, 3):
        receive(conn, number)
    assert read_message(conn, message_id)["state"] == DELIVERED
    assert_sound(conn)


def test_without_resending_the_parts_that_were_not_answered_have_failed(conn, keys, account_id):
    add_upstream(conn, keys, unanswered="fail", refund="undelivered")
    before = get_balance(conn, account_id)
    message_id = claim_text(conn, account_id)
    price = before - get_balance(conn, account_id)
    accept(conn, message_id, 2)
    assert sending.recover_messages(conn, now_ms()).receipts == []
    assert claim(conn) == []
    (receipt,) = receive(conn, 2).receipts
    assert receipt.state == UNKNOWN
    assert read_message(conn, message_id)["upstream_status"] == NO_ANSWER
    assert get_balance(conn, account_id) == before - price + price // 3 * 2
    assert_sound(conn)


def test_a_text_expires_with_its_parts_and_those_that_arrived_are_paid(conn, keys, account_id):
    add_upstream(conn, keys, refund="undelivered")
    before = get_balance(conn, account_id)
    expires_at = now_ms() + 60_000
    message_id = claim_text(conn, account_id, expires_at=expires_at)
    price = before - get_balance(conn, account_id)
    accept(conn, message_id, 1, 2, 3)
    receive(conn, 1)
    assert outcomes.process_due_messages(conn, expires_at + 1).receipts == []
    (receipt,) = outcomes.process_due_messages(conn, expires_at + outcomes.RECEIPT_GRACE_MS + 1).receipts
    assert receipt.state == EXPIRED
    assert list_states(conn, message_id) == [DELIVERED, EXPIRED, EXPIRED]
    assert get_balance(conn, account_id) == before - price + price // 3 * 2
    assert_sound(conn)


def test_a_text_of_whose_parts_nobody_can_know_ends_as_unknown_and_is_paid(conn, keys, account_id):
    add_upstream(conn, keys, registered_delivery=2, refund="undelivered")
    expires_at = now_ms() + 60_000
    message_id = claim_text(conn, account_id, expires_at=expires_at)
    charged = get_balance(conn, account_id)
    accept(conn, message_id, 1, 2, 3)
    (receipt,) = outcomes.process_due_messages(conn, expires_at + outcomes.RECEIPT_GRACE_MS + 1).receipts
    assert receipt.state == UNKNOWN
    assert get_balance(conn, account_id) == charged
    assert_sound(conn)


def test_what_was_begun_expires_where_it_waits(conn, keys, account_id):
    add_upstream(conn, keys)
    message_id = claim_text(conn, account_id)
    accept(conn, message_id, 1)
    leave_unsent(conn, message_id, account_id, UnsentReason.HELD, status="ESME_RSYSERR 0x08")
    conn.execute("UPDATE messages SET expires_at = 1")
    claimed = sending.claim_messages(conn, Claim(1, [(1,)], 10), now_ms() + 10_000)
    assert (claimed.messages, claimed.receipts) == ([], [])
    assert list_states(conn, message_id) == [ENROUTE, EXPIRED, EXPIRED]
    assert not queue.has_queue(conn)
    assert [each.state for each in receive(conn, 1).receipts] == [EXPIRED]
    assert_sound(conn)


@pytest.mark.parametrize("has_validity", [False, True])
def test_a_part_that_was_accepted_has_a_minute_more_for_its_receipt(conn, keys, account_id, has_validity):
    expires_at = now_ms() + 60_000 if has_validity else None
    add_upstream(conn, keys, refund="undelivered")
    before = get_balance(conn, account_id)
    message_id = claim_text(conn, account_id, expires_at=expires_at)
    price = before - get_balance(conn, account_id)
    accept(conn, message_id, 1, 2)
    leave_unsent(conn, message_id, account_id, UnsentReason.HELD, status="ESME_RSYSERR 0x08")
    end = expires_at or ids.time_from_id(message_id) + validation.DEFAULT_VALIDITY_MS
    for _look in range(2):
        outcomes.process_due_messages(conn, end + outcomes.RECEIPT_GRACE_MS - 1)
        assert list_states(conn, message_id) == [ENROUTE, ENROUTE, EXPIRED]
        assert_sound(conn)
    assert not queue.has_queue(conn)
    assert receive(conn, 1).matched == [True]
    outcomes.process_due_messages(conn, end + outcomes.RECEIPT_GRACE_MS + 1)
    assert list_states(conn, message_id) == [DELIVERED, EXPIRED, EXPIRED]
    assert read_message(conn, message_id)["state"] == EXPIRED
    assert get_balance(conn, account_id) == before - price // 3
    assert_sound(conn)


def test_a_part_that_is_accepted_when_its_text_has_ended_changes_nothing(conn, keys, account_id):
    add_upstream(conn, keys, refund="undelivered")
    before = get_balance(conn, account_id)
    message_id = claim_text(conn, account_id)
    outcomes.process_due_messages(conn, now_ms() + 2 * validation.DEFAULT_VALIDITY_MS)
    accept(conn, message_id, 1, 2, 3)
    assert_sound(conn)
    assert receive(conn, 1).matched == [False]
    assert read_message(conn, message_id)["state"] == EXPIRED
    assert get_balance(conn, account_id) == before
    assert_sound(conn)


def test_a_text_is_called_back_only_while_no_part_has_gone_out(conn, keys, account_id):
    add_upstream(conn, keys)
    before = get_balance(conn, account_id)
    first = claim_text(conn, account_id)
    leave_unsent(conn, first, account_id, UnsentReason.HELD, status="ESME_RSYSERR 0x08")
    status = query_cancel.find_message_status(conn, account_id, first)
    assert status is not None
    assert query_cancel.cancel_messages(conn, [status]).was_cancelled == [True]
    assert get_balance(conn, account_id) == before
    second = claim_text(conn, account_id)
    accept(conn, second, 1)
    leave_unsent(conn, second, account_id, UnsentReason.HELD, status="ESME_RSYSERR 0x08")
    status = query_cancel.find_message_status(conn, account_id, second)
    assert status is not None
    assert query_cancel.cancel_messages(conn, [status]).was_cancelled == [False]
    assert_sound(conn)


@pytest.mark.parametrize("unanswered", ["resend", "fail"])
def test_a_text_that_is_interrupted_while_parts_are_under_way_stays_its_upstream_s(conn, keys, account_id, unanswered):
    add_upstream(conn, keys, unanswered=unanswered, refund="refused")
    message_id = claim_text(conn, account_id)
    charged = get_balance(conn, account_id)
    leave_unsent(conn, message_id, account_id, UnsentReason.INTERRUPTED)
    (follower,) = queue_messages(conn, account_id)
    # Nothing passes it, and it can't be called back.
    assert claim(conn) == []
    status = query_cancel.find_message_status(conn, account_id, message_id)
    assert status is not None
    assert (status.is_queued, status.upstream) == (False, 1)
    assert_sound(conn)
    # A crash leaves it unsure.
    later = now_ms() + 10_000
    sending.recover_messages(conn, later)
    assert counters.get_counters(conn, 1)["unsure"] == 1
    assert get_balance(conn, account_id) == charged - read_message(conn, follower)["price"]
    if unanswered == "fail":
        assert read_message(conn, message_id)["state"] == UNKNOWN
        assert [each.id for each in claim(conn, now=later)] == [follower]
    else:
        assert query_cancel.cancel_messages(conn, [status]).was_cancelled == [False]
        assert [each.id for each in claim(conn, now=later)] == [message_id]
    assert_sound(conn)


def test_a_refusal_of_the_moment_counts_once_however_many_parts_are_under_way(conn, keys, account_id):
    add_upstream(conn, keys)
    message_id = claim_text(conn, account_id)
    leave_unsent(conn, message_id, account_id, UnsentReason.INTERRUPTED)
    leave_unsent(conn, message_id, account_id, UnsentReason.HELD, status="ESME_RSYSERR 0x08")
    held = conn.execute("SELECT attempts, unanswered, error FROM held_messages").fetchone()
    assert tuple(held) == (1, 0, "ESME_RSYSERR 0x08")
    assert [each.id for each in claim(conn, now=now_ms() + 10_000)] == [message_id]
    assert counters.get_counters(conn, 1)["unsure"] == 0
    assert_sound(conn)


def test_what_was_begun_goes_on_when_its_number_says_stop(conn, keys, account_id):
    add_upstream(conn, keys)
    message_id = claim_text(conn, account_id)
    accept(conn, message_id, 1)
    leave_unsent(conn, message_id, account_id, UnsentReason.HELD, status="ESME_RSYSERR 0x08")
    blacklist.blacklist_stop_senders(conn, [(account_id, NUMBER, now_ms(), 1)])
    assert [each.id for each in claim(conn, now=now_ms() + 10_000)] == [message_id]
    assert_sound(conn)


def test_a_text_goes_on_through_the_upstream_that_has_its_first_parts(conn, keys, account_id):
    carrier = add_upstream(conn, keys)
    other = add_upstream(conn, keys, "other")
    message_id = claim_text(conn, account_id)
    accept(conn, message_id, 1)
    leave_unsent(conn, message_id, account_id, UnsentReason.HELD, status="ESME_RSYSERR 0x08")
    later = now_ms() + 10_000
    claimed = sending.claim_messages(conn, Claim(other.id, [(), (other.id,)], 10), later)
    # It is not asked for without an end, and the first one gets it at once.
    assert (claimed.messages, claimed.next_retry_at) == ([], None)
    (again,) = claim(conn, carrier.id, later)
    assert again.cut.answered == {1}


@pytest.fixture
def remove_with_begun_text(conn, keys, account_id):
    """Adds an upstream with these settings that has a part of a text, and removes it; returns the text and what takes
    over from it.
    """

    def remove(**settings: Any) -> tuple[int, Upstream]:
        carrier = add_upstream(conn, keys, **settings)
        message_id = claim_text(conn, account_id)
        accept(conn, message_id, 1)
        leave_unsent(conn, message_id, account_id, UnsentReason.HELD, status="ESME_RSYSERR 0x08")
        other = add_upstream(conn, keys, "other")
        upstreams.set_default_upstream(conn, SHELL, other)
        upstreams.remove_upstream(conn, SHELL, carrier)
        return message_id, other

    return remove


def test_a_text_whose_upstream_was_removed_goes_out_whole_and_is_unsure(conn, account_id, remove_with_begun_text):
    message_id, other = remove_with_begun_text()
    (whole,) = claim(conn, other.id, now_ms() + 10_000)
    assert (whole.id, whole.cut) == (message_id, None)
    counted = counters.get_counters(conn, other.id)
    assert (counted["unsure"], counted["resent"], counted["failed"]) == (1, 1, 0)
    assert message_parts.find_cut_messages(conn, [message_id]) == {}
    # It costs what it costs, also where its number says STOP.
    assert queue.list_unanswered_ids(conn, [message_id]) == {message_id}
    accept(conn, message_id, 1, 2, 3, upstream=other.id)
    assert list_states(conn, message_id) == [ENROUTE] * 3
    assert read_message(conn, message_id)["upstream"] == other.id
    assert_sound(conn)


def test_an_answer_of_a_removed_upstream_says_nothing_of_a_text_that_another_one_has(conn, remove_with_begun_text):
    message_id, other = remove_with_begun_text()
    claim(conn, other.id, now_ms() + 10_000)
    accept(conn, message_id, 2)
    assert message_parts.find_cut_messages(conn, [message_id]) == {}
    accept(conn, message_id, 1, upstream=other.id)
    accept(conn, message_id, 2)
    assert list_states(conn, message_id) == [ENROUTE, None, None]
    assert_sound(conn)


@pytest.mark.parametrize("has_said_stop", [True, False])
def test_a_text_whose_upstream_was_removed_fails_where_that_is_set_or_its_number_says_stop(
    conn, account_id, remove_with_begun_text, has_said_stop
):
    message_id, other = remove_with_begun_text(unanswered="resend" if has_said_stop else "fail", refund="undelivered")
    if has_said_stop:
        blacklist.blacklist_stop_senders(conn, [(account_id, NUMBER, now_ms(), 1)])
    (behind,) = queue_messages(conn, account_id)
    charged = get_balance(conn, account_id)
    later = now_ms() + 10_000
    # What waits behind it may go now, or is refused, and paid back, for the STOP.
    assert [each.id for _ in range(2) for each in claim(conn, other.id, later)] == [behind][has_said_stop:]
    paid_back = read_message(conn, behind)["price"] if has_said_stop else 0
    counted = counters.get_counters(conn, other.id)
    assert (counted["unsure"], counted["resent"], counted["failed"]) == (1, 0, 1)
    assert list_states(conn, message_id) == [ENROUTE, UNKNOWN, UNKNOWN]
    (receipt,) = receive(conn, 1).receipts
    assert receipt.state == UNKNOWN
    assert get_balance(conn, account_id) == charged + read_message(conn, message_id)["price"] // 3 * 2 + paid_back
    assert_sound(conn)


def test_an_upstream_with_a_begun_text_is_not_removed_where_no_other_could_take_it(conn, keys, account_id):
    carrier = add_upstream(conn, keys)
    message_id = claim_text(conn, account_id)
    accept(conn, message_id, 1)
    leave_unsent(conn, message_id, account_id, UnsentReason.HELD, status="ESME_RSYSERR 0x08")
    upstreams.set_default_upstream(conn, SHELL, None)
    with pytest.raises(MessagesWaitForUpstream):
        upstreams.remove_upstream(conn, SHELL, carrier)
    assert [each.id for each in claim(conn, now=now_ms() + 10_000)] == [message_id]


def test_more_parts_than_were_charged_are_refunded_in_proportion(conn, keys, account_id):
    add_upstream(conn, keys, refund="undelivered")
    before = get_balance(conn, account_id)
    message_id = claim_text(conn, account_id)
    price = before - get_balance(conn, account_id)
    accept(conn, message_id, *range(1, 8), total=7)
    for number in range(1, 8):
        receive(conn, number, UNDELIVERABLE if number % 2 else DELIVERED)
    assert get_balance(conn, account_id) == before - price + price * 4 // 7
    assert_sound(conn)


def test_a_part_that_is_answered_again_changes_nothing(conn, keys, account_id):
    add_upstream(conn, keys)
    message_id = claim_text(conn, account_id)
    accept(conn, message_id, 1, 2, 3)
    receive(conn, 1)
    accept(conn, message_id, 1, sent_at=1)
    parts = message_parts.read_message_parts(conn, [message_id])[message_id]
    assert (parts[0].state, parts[0].upstream_id) == (DELIVERED, "id1")
    assert parts[0].sent_at != 1


def test_what_is_deleted_leaves_no_parts_and_the_sums_agree(conn, keys, account_id):
    add_upstream(conn, keys, refund="undelivered")
    message_id = claim_text(conn, account_id, registered_delivery=0)
    accept(conn, message_id, 1, 2, 3)
    for number in (1, 2, 3):
        receive(conn, number, UNDELIVERABLE if number == 2 else DELIVERED)
    text = history.get_sent_text_by_message_id(conn, account_id, message_id)
    parts = history.read_message_details(conn, text)[message_id].parts
    assert sum(each.state == DELIVERED for each in parts) == 2
    rollup.roll_up_all(conn)
    assert removal.delete_sent_messages(conn, account_id, [[message_id]]) == 1
    for table in ("message_parts", "cut_messages"):
        assert conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0
    assert_sound(conn)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("UPDATE cut_messages SET message_id = 1", "cut_messages: rows that are of no message: 1"),
        ("UPDATE message_parts SET number = 9 WHERE number = 3", "parts that are of no text that was cut: 1"),
        ("UPDATE message_parts SET state = 5 WHERE number = 3", "delivered and have a part that isn't"),
        ("UPDATE message_parts SET state = 1 WHERE number = 3", "ended, and not all of whose parts have: 1"),
        ("UPDATE messages SET state = 1", "all of whose parts have ended, and that have not: 1"),
    ],
)
def test_check_finds_what_does_not_agree(conn, keys, account_id, damage, found):
    add_upstream(conn, keys)
    message_id = claim_text(conn, account_id)
    accept(conn, message_id, 1, 2, 3)
    for number in (1, 2, 3):
        receive(conn, number)
    assert_sound(conn)
    conn.execute(damage)
    assert any(found in each for each in self_check.list_problem_texts(conn))


def test_check_finds_a_refund_that_is_not_that_of_the_parts(conn, keys, account_id):
    add_upstream(conn, keys, refund="undelivered")
    message_id = claim_text(conn, account_id)
    accept(conn, message_id, 1, 2, 3)
    for number in (1, 2, 3):
        receive(conn, number, UNDELIVERABLE if number == 1 else DELIVERED)
    assert_sound(conn)
    conn.execute("UPDATE message_parts SET state = ? WHERE number = 2", (UNDELIVERABLE,))
    assert any("gives back" in each for each in self_check.list_problem_texts(conn))
