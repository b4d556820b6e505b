"""Messages on their way through upstreams, as the database has them."""

from typing import Any

import pytest

from portal.core.clock import DAY_MS, now_ms
from portal.core.db import Connection
from portal.services.common import ids
from portal.services.common.audit import SHELL
from portal.services.common.message_states import (
    DELIVERED,
    ENROUTE,
    EXPIRED,
    PTT_BLACKLISTED,
    PTT_EXPIRED,
    PTT_UNKNOWN,
    REJECTED,
    UNDELIVERABLE,
    UNKNOWN,
)
from portal.services.messages import blacklist, intake, outcomes, query_cancel, sending, validation
from portal.services.messages.receipt_matching import UpstreamReceipt
from portal.services.messages.sending import AcceptedMessage, SendingResult, UnsentMessage, UnsentReason
from portal.services.operations import self_check
from portal.services.upstreams import counters, queue, upstreams
from portal.services.upstreams.claims import Claim
from portal.services.upstreams.upstreams import Upstream
from tests.services.upstreams.waiting import add_upstream, prepare_waiting, queue_messages, queue_of_each
from tests.support import prepare_submit


@pytest.fixture
def upstream(conn: Connection, keys: Any) -> Upstream:
    return add_upstream(conn, keys)


def claim(conn: Connection, limit: int = 10) -> list[int]:
    return [each.id for each in sending.claim_messages(conn, Claim(1, [()], limit), now_ms()).messages]


def accept(conn: Connection, message_id: int, upstream_id: str = "ab12") -> SendingResult:
    accepted = AcceptedMessage(1, message_id, upstream_id, 1, now_ms())
    return sending.store_accepted_messages(conn, [accepted])


def leave_unsent(
    conn: Connection, message_id: int, account_id: int, reason: UnsentReason, *, upstream: int = 1, **values: Any
) -> Any:
    flow = (account_id, "393401234567")
    return sending.store_unsent_messages(conn, [UnsentMessage(upstream, message_id, reason, flow, **values)], now_ms())


def refuse(conn: Connection, message_id: int) -> SendingResult:
    unsent = UnsentMessage(1, message_id, UnsentReason.REFUSED, status="ESME_RINVDSTADR 0x0B", ptt=100)
    return sending.store_unsent_messages(conn, [unsent], now_ms())


def build_receipt(*ids: str, state: int | None = DELIVERED, **values: Any) -> UpstreamReceipt:
    defaults: dict[str, Any] = {
        "upstream": 1,
        "ptt": 0,
        "is_final": True,
        "status": "stat:DELIVRD err:000",
        "done_at": None,
        "source": "393401234567",
        "destination": "ACME",
        "text": "id:...",
    }
    return UpstreamReceipt(message_ids=ids, state=state, **defaults | values)


def receive(conn: Connection, *receipts: UpstreamReceipt) -> SendingResult:
    return sending.store_upstream_receipts(conn, receipts, now_ms())


def read_message(conn: Connection, message_id: int) -> Any:
    return conn.execute("SELECT * FROM messages WHERE id = ?", (message_id,)).fetchone()


def get_balance(conn: Connection, account_id: int) -> int:
    (balance,) = conn.execute("SELECT balance FROM accounts WHERE id = ?", (account_id,)).fetchone()
    return int(balance)


def test_an_accepted_message_stays_on_its_way_until_its_receipt(conn, cast, upstream):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    assert claim(conn) == [message_id]
    assert accept(conn, message_id).receipts == []
    message = read_message(conn, message_id)
    assert (message["state"], message["upstream"], message["upstream_id"], message["bind"]) == (ENROUTE, 1, "ab12", 1)
    (receipt,) = receive(conn, build_receipt("ab12")).receipts
    assert (receipt.message_id, receipt.state) == (message_id, DELIVERED)
    message = read_message(conn, message_id)
    assert (message["state"], message["upstream_id"]) == (DELIVERED, "ab12")
    assert message["upstream_status"] == "stat:DELIVRD err:000"
    assert counters.get_counters(conn, 1)["accepted"] == 1
    assert self_check.list_problem_texts(conn) == []


def test_an_intermediate_receipt_ends_nothing_and_a_final_one_stays(conn, cast, upstream):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn)
    accept(conn, message_id)
    result = receive(conn, build_receipt("ab12", state=ENROUTE, is_final=False))
    assert (result.receipts, result.matched) == ([], [True])
    assert read_message(conn, message_id)["state"] == ENROUTE
    receive(conn, build_receipt("ab12"))
    later = receive(conn, build_receipt("ab12", state=UNDELIVERABLE, ptt=800))
    assert (later.receipts, later.matched) == ([], [False])
    assert read_message(conn, message_id)["state"] == DELIVERED


def test_a_receipt_of_nothing_known_is_kept_with_what_was_tried(conn, cast, upstream):
    assert receive(conn, build_receipt("ab12", "43794", status="stat:EXPIRED err:006")).matched == [False]
    row = conn.execute("SELECT * FROM unmatched_receipts").fetchone()
    assert (row["message_id"], row["other_id"], row["tried"]) == ("ab12", "43794", "ab12, 43794, 276372")
    assert (row["status"], row["source"], row["destination"]) == ("stat:EXPIRED err:006", "393401234567", "ACME")
    assert counters.get_counters(conn, 1)["unmatched"] == 1


def test_a_second_receipt_is_not_kept(conn, cast, upstream):
    assert receive(conn, build_receipt("ab12", is_repeated=True)).matched == [False]
    assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 0


def test_another_upstream_s_id_is_another_id(conn, keys, cast, upstream):
    other = add_upstream(conn, keys, "other")
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn)
    accept(conn, message_id)
    assert receive(conn, build_receipt("ab12", upstream=other.id)).matched == [False]
    assert read_message(conn, message_id)["state"] == ENROUTE


@pytest.mark.parametrize("by", ["ab12", "43794"])
def test_a_receipt_that_comes_first_finds_its_message_by_either_id(conn, cast, upstream, by):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn)
    receive(conn, build_receipt("ab12", "43794", state=UNDELIVERABLE, ptt=800, status="stat:UNDELIV err:001"))
    (receipt,) = accept(conn, message_id, by).receipts
    assert (receipt.message_id, receipt.state, receipt.ptt) == (message_id, UNDELIVERABLE, 800)
    assert read_message(conn, message_id)["upstream_status"] == "stat:UNDELIV err:001"
    assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 0


def test_a_receipt_without_an_id_is_not_that_of_a_message_without_one(conn, cast, upstream):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn)
    receive(conn, build_receipt())
    assert accept(conn, message_id, "").receipts == []
    assert read_message(conn, message_id)["state"] == ENROUTE
    assert conn.execute("SELECT count(*) FROM unmatched_receipts").fetchone()[0] == 1


def test_a_receipt_of_long_ago_is_not_taken_for_an_early_one(conn, cast, upstream):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn)
    receive(conn, build_receipt("ab12"))
    conn.execute("UPDATE unmatched_receipts SET received_at = received_at - ?", (sending.EARLY_RECEIPT_MS,))
    assert accept(conn, message_id).receipts == []
    assert read_message(conn, message_id)["state"] == ENROUTE


def test_a_refused_message_has_failed_with_what_the_upstream_says(conn, cast, upstream):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn)
    (receipt,) = refuse(conn, message_id).receipts
    assert (receipt.state, receipt.ptt) == (REJECTED, 100)
    message = read_message(conn, message_id)
    assert (message["upstream"], message["upstream_status"]) == (1, "ESME_RINVDSTADR 0x0B")
    assert counters.get_counters(conn, 1)["failed"] == 1
    assert self_check.list_problem_texts(conn) == []


@pytest.mark.parametrize(
    ("policy", "how", "is_refunded"),
    [
        ("never", "refused", False),
        ("never", "undelivered", False),
        ("refused", "refused", True),
        ("refused", "undelivered", False),
        ("refused", "expired", False),
        ("undelivered", "refused", True),
        ("undelivered", "undelivered", True),
        ("undelivered", "expired", True),
        ("undelivered", "delivered", False),
    ],
)
def test_what_it_cost_comes_back_as_the_upstream_is_set(conn, keys, cast, policy, how, is_refunded):
    add_upstream(conn, keys, refund=policy)
    before = get_balance(conn, cast.smpp_acme_1.id)
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    charged = get_balance(conn, cast.smpp_acme_1.id)
    assert charged < before
    if how != "expired":
        claim(conn)
    if how == "refused":
        refuse(conn, message_id)
    elif how == "expired":
        conn.execute("UPDATE messages SET due_at = 1, expires_at = 1")
        outcomes.process_due_messages(conn, now_ms())
    else:
        accept(conn, message_id)
        state = DELIVERED if how == "delivered" else UNDELIVERABLE
        receive(conn, build_receipt("ab12", state=state, ptt=800))
        receive(conn, build_receipt("ab12", state=state, ptt=800))
    assert get_balance(conn, cast.smpp_acme_1.id) == (before if is_refunded else charged)
    assert self_check.list_problem_texts(conn) == []


@pytest.mark.parametrize("unanswered", ["resend", "fail"])
def test_what_is_unsure_is_sent_again_or_has_failed(conn, keys, cast, unanswered):
    add_upstream(conn, keys, unanswered=unanswered)
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn)
    result = leave_unsent(conn, message_id, cast.smpp_acme_1.id, UnsentReason.UNSURE)
    counted = counters.get_counters(conn, 1)
    assert counted["unsure"] == 1
    if unanswered == "resend":
        assert (counted["resent"], claim(conn)) == (1, [message_id])
    else:
        assert [(each.state, each.ptt) for each in result.receipts] == [(UNKNOWN, PTT_UNKNOWN)]
        assert (counted["resent"], claim(conn)) == (0, [])


@pytest.mark.parametrize("unanswered", ["resend", "fail"])
def test_what_has_ended_meanwhile_is_neither_sent_again_nor_given_up(conn, keys, cast, unanswered):
    add_upstream(conn, keys, unanswered=unanswered)
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn)
    conn.execute("UPDATE messages SET due_at = 1, expires_at = 1")
    outcomes.process_due_messages(conn, now_ms())
    assert leave_unsent(conn, message_id, cast.smpp_acme_1.id, UnsentReason.UNSURE).receipts == []
    assert counters.get_counters(conn, 1) == {**dict.fromkeys(counters.get_counters(conn, 1), 0), "unsure": 1}
    assert read_message(conn, message_id)["state"] == EXPIRED
    assert self_check.list_problem_texts(conn) == []


def test_what_is_never_answered_is_not_sent_for_ever(conn, cast, upstream):
    message_id, follower = queue_messages(conn, cast.smpp_acme_1.id, 2)
    now = now_ms()
    pauses = []
    for _ in range(queue.MAX_UNANSWERED):
        assert [each.id for each in sending.claim_messages(conn, Claim(1, [()], 1), now).messages] == [message_id]
        unsent = UnsentMessage(1, message_id, UnsentReason.UNSURE, (cast.smpp_acme_1.id, "393401234567"))
        result = sending.store_unsent_messages(conn, [unsent], now)
        pauses.append((result.next_retry_at or now) - now)
        # Nothing passes it meanwhile.
        assert [each.id for each in sending.claim_messages(conn, Claim(1, [()], 10, 1), now - 1).messages] in (
            [],
            [follower],
        )
        now = result.next_retry_at or now
    assert pauses == [0, 10_000, 20_000, 0]
    assert [(each.message_id, each.state, each.ptt) for each in result.receipts] == [(message_id, UNKNOWN, PTT_UNKNOWN)]
    counted = counters.get_counters(conn, 1)
    assert (counted["unsure"], counted["resent"], counted["failed"]) == (4, 3, 1)
    message = read_message(conn, message_id)
    assert (message["upstream"], message["upstream_status"]) == (1, "no answer")


def test_what_is_given_up_without_an_answer_is_refunded_as_its_own_upstream_is_set(conn, keys, cast):
    carrier = add_upstream(conn, keys, refund="undelivered")
    upstreams.set_default_upstream(conn, SHELL, add_upstream(conn, keys, "other"))
    before = get_balance(conn, cast.smpp_acme_1.id)
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    for attempt in range(queue.MAX_UNANSWERED):
        sending.claim_messages(conn, Claim(carrier.id, [()], 1), now_ms() + attempt * 60_000)
        leave_unsent(conn, message_id, cast.smpp_acme_1.id, UnsentReason.UNSURE)
    assert read_message(conn, message_id)["state"] == UNKNOWN
    assert get_balance(conn, cast.smpp_acme_1.id) == before


def test_what_an_upstream_may_have_is_not_called_back(conn, cast, upstream):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    charged = get_balance(conn, cast.smpp_acme_1.id)
    claim(conn)
    leave_unsent(conn, message_id, cast.smpp_acme_1.id, UnsentReason.UNSURE)
    for _ in range(2):
        status = query_cancel.find_message_status(conn, cast.smpp_acme_1.id, message_id)
        assert status is not None
        assert query_cancel.cancel_messages(conn, [status]).was_cancelled == [False]
        # And neither when it is tried again.
        claim(conn)
    assert get_balance(conn, cast.smpp_acme_1.id) == charged
    accept(conn, message_id)
    assert self_check.list_problem_texts(conn) == []


def test_what_holds_up_nothing_releases_nothing(conn, cast, upstream):
    held, other = queue_of_each(conn, cast.smpp_acme_1.id, ["393401234567", "393401111111"])
    claim(conn)
    leave_unsent(conn, held, cast.smpp_acme_1.id, UnsentReason.HELD)
    assert not accept(conn, other).has_released
    (again,) = sending.claim_messages(conn, Claim(1, [()], 10), now_ms() + 10_000).messages
    # So that what is said of it is taken to be of it alone.
    assert again.is_retry
    assert accept(conn, held).has_released


def test_what_an_upstream_may_have_costs_what_it_costs_when_its_number_says_stop(conn, cast, upstream):
    unsure, held = queue_of_each(conn, cast.smpp_acme_1.id, ["393401234567", "393401111111"])
    price = read_message(conn, unsure)["price"]
    charged = get_balance(conn, cast.smpp_acme_1.id)
    claim(conn)
    leave_unsent(conn, unsure, cast.smpp_acme_1.id, UnsentReason.UNSURE)
    leave_unsent(conn, held, cast.smpp_acme_1.id, UnsentReason.HELD)
    for destination in ("393401234567", "393401111111"):
        blacklist.blacklist_stop_senders(conn, [(cast.smpp_acme_1.id, destination, now_ms(), 1)])
    claimed = sending.claim_messages(conn, Claim(1, [()], 10), now_ms() + 10_000)
    assert ({each.ptt for each in claimed.receipts}, claimed.messages) == ({PTT_BLACKLISTED}, [])
    assert get_balance(conn, cast.smpp_acme_1.id) == charged + price
    assert self_check.list_problem_texts(conn) == []


def test_a_start_decides_about_what_was_under_way(conn, cast, upstream):
    destinations = ["393401111111", "393402222222", "393403333333"]
    answered, unsure, waiting = queue_of_each(conn, cast.smpp_acme_1.id, destinations)
    claim(conn, 2)
    accept(conn, answered)
    recovered = sending.recover_messages(conn, now_ms())
    assert recovered.waiting == {((), cast.smpp_acme_1.id)}
    assert counters.get_counters(conn, 1)["unsure"] == 1
    assert sorted(claim(conn)) == [unsure, waiting]


def test_receipts_come_in_the_order_of_the_outcomes(conn, cast, upstream):
    ids = queue_of_each(conn, cast.smpp_acme_1.id, [f"3934{each}1234567" for each in range(5)])
    claim(conn)
    for each in ids:
        accept(conn, each, str(each))
    states = dict(zip(ids, (UNDELIVERABLE, DELIVERED, EXPIRED, DELIVERED, UNDELIVERABLE), strict=True))
    came = [
        *(build_receipt(str(each), state=state) for each, state in states.items()),
        build_receipt(str(ids[-1]), state=DELIVERED),
    ]
    receipts = sending.store_upstream_receipts(conn, came, now_ms()).receipts
    assert {each.message_id: each.state for each in receipts} == states
    assert [each.message_id for each in receipts] == ids


def test_a_start_leaves_to_simulators_what_is_theirs(conn, keys, cast):
    upstreams.create_upstream(conn, keys, SHELL, "sim", kind=upstreams.SIMULATOR)
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn)
    sending.recover_messages(conn, now_ms())
    assert outcomes.list_simulated_message_ids(conn, 1) == [message_id]
    assert counters.get_counters(conn, 1)["unsure"] == 0


@pytest.mark.parametrize("values", [{}, {"reference": 5}, {"priority": 1}])
def test_what_a_simulator_has_is_not_among_what_carriers_have(conn, keys, cast, upstream, values):
    sim = upstreams.create_upstream(conn, keys, SHELL, "sim", kind=upstreams.SIMULATOR)
    submit = prepare_submit(conn, cast.smpp_acme_1.id)
    submit.upstream, submit.is_simulated = sim.id, True
    for name, value in values.items():
        setattr(submit, name, value)
    (stored,) = intake.store_messages(conn, [submit]).message_ids
    (waiting,) = queue_messages(conn, cast.smpp_acme_1.id)
    sending.claim_messages(conn, Claim(sim.id, [()], 10), now_ms())
    assert outcomes.list_simulated_message_ids(conn, sim.id) == [stored, waiting]
    assert upstreams.count_messages_under_way(conn, sim) == 2
    assert sending.list_unanswered_message_ids(conn, sim.id) == []
    assert upstreams.count_messages_under_way(conn, upstream) == 0
    # One that it gives back is a carrier's as any other.
    leave_unsent(conn, waiting, cast.smpp_acme_1.id, UnsentReason.PUT_BACK, upstream=sim.id)
    assert claim(conn) == [waiting] == sending.list_unanswered_message_ids(conn, upstream.id)
    assert (outcomes.list_simulated_message_ids(conn, sim.id), upstreams.count_messages_under_way(conn, sim)) == (
        [stored],
        1,
    )


def test_what_a_removed_simulator_has_waits_again_once(conn, keys, cast, upstream):
    sim = upstreams.create_upstream(conn, keys, SHELL, "sim", kind=upstreams.SIMULATOR)
    ids = queue_messages(conn, cast.smpp_acme_1.id, 3)
    sending.claim_messages(conn, Claim(sim.id, [()], 3), now_ms())
    assert outcomes.list_abandoned_message_ids(conn) == []
    # As where they are stored as its while it is removed.
    conn.execute("UPDATE upstreams SET removed_at = 1 WHERE id = ?", (sim.id,))
    abandoned = outcomes.list_abandoned_message_ids(conn)
    assert abandoned == ids
    # One has ended since it was looked for; another was given back, and a carrier has it.
    outcomes.finish_messages(conn, [outcomes.MessageOutcome(ids[0], DELIVERED, 0, now_ms())])
    leave_unsent(conn, ids[1], cast.smpp_acme_1.id, UnsentReason.PUT_BACK, upstream=sim.id)
    assert claim(conn) == [ids[1]]
    assert sending.put_back_abandoned_messages(conn, abandoned, now_ms()) == {((), cast.smpp_acme_1.id)}
    leave_unsent(conn, ids[1], cast.smpp_acme_1.id, UnsentReason.PUT_BACK, upstream=sim.id)
    assert claim(conn) == [ids[2]]
    assert not queue.has_queue(conn)


def test_a_number_that_says_stop_while_a_message_waits_gets_none(conn, cast, upstream):
    before = get_balance(conn, cast.smpp_acme_1.id)
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id, destination="393401234567")
    blacklist.blacklist_stop_senders(conn, [(cast.smpp_acme_1.id, "393401234567", now_ms(), 1)])
    claimed = sending.claim_messages(conn, Claim(1, [()], 10), now_ms())
    assert claimed.messages == []
    assert [(each.message_id, each.ptt) for each in claimed.receipts] == [(message_id, PTT_BLACKLISTED)]
    assert read_message(conn, message_id)["upstream"] is None
    assert get_balance(conn, cast.smpp_acme_1.id) == before
    assert not queue.has_queue(conn)
    assert self_check.list_problem_texts(conn) == []


def test_what_waits_expires_with_its_validity(conn, cast, upstream):
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id, expires_at=now_ms() + 1)
    due = outcomes.process_due_messages(conn, now_ms() + 2)
    assert due.expired_ids == [message_id]
    assert [(each.state, each.ptt) for each in due.receipts] == [(EXPIRED, PTT_EXPIRED)]
    assert not queue.has_queue(conn)


@pytest.mark.parametrize("has_validity", [True, False])
def test_what_the_upstream_has_expires_a_minute_later_and_keeps_its_id(conn, cast, upstream, has_validity):
    expires_at = now_ms() + 60_000
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id, expires_at=expires_at if has_validity else None)
    if not has_validity:
        expires_at = ids.time_from_id(message_id) + validation.DEFAULT_VALIDITY_MS
    claim(conn)
    accept(conn, message_id)
    # Its receipt may be on its way.
    for late in (1, outcomes.RECEIPT_GRACE_MS - 1):
        assert outcomes.process_due_messages(conn, expires_at + late).expired_ids == []
    assert outcomes.process_due_messages(conn, expires_at + outcomes.RECEIPT_GRACE_MS + 1).expired_ids == [message_id]
    message = read_message(conn, message_id)
    assert (message["state"], message["ptt"], message["upstream_id"]) == (EXPIRED, PTT_EXPIRED, "ab12")


@pytest.mark.parametrize(("asked", "upstream_id"), [(0, "ab12"), (2, "ab12"), (1, "")])
def test_without_a_receipt_that_could_come_nobody_knows(conn, keys, cast, asked, upstream_id):
    add_upstream(conn, keys, registered_delivery=asked, refund="undelivered")
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id, expires_at=now_ms() + 60_000)
    charged = get_balance(conn, cast.smpp_acme_1.id)
    claim(conn)
    accept(conn, message_id, upstream_id)
    outcomes.process_due_messages(conn, now_ms() + 121_000)
    message = read_message(conn, message_id)
    assert (message["state"], message["ptt"], message["upstream_id"]) == (UNKNOWN, PTT_UNKNOWN, upstream_id)
    assert get_balance(conn, cast.smpp_acme_1.id) == charged


def test_what_has_expired_is_not_claimed(conn, cast, upstream):
    late, good = queue_messages(conn, cast.smpp_acme_1.id, 2)
    conn.execute("UPDATE messages SET expires_at = 1 WHERE id = ?", (late,))
    claimed = sending.claim_messages(conn, Claim(1, [()], 10), now_ms())
    assert [each.id for each in claimed.messages] == [good]
    assert [(each.message_id, each.ptt) for each in claimed.receipts] == [(late, PTT_EXPIRED)]
    assert not queue.has_queue(conn)
    assert self_check.list_problem_texts(conn) == []


def test_of_two_final_receipts_in_one_batch_the_first_counts(conn, keys, cast):
    add_upstream(conn, keys, refund="undelivered")
    before = get_balance(conn, cast.smpp_acme_1.id)
    (message_id,) = queue_messages(conn, cast.smpp_acme_1.id)
    claim(conn)
    accept(conn, message_id)
    result = receive(conn, build_receipt("ab12", state=UNDELIVERABLE, ptt=800), build_receipt("ab12"))
    assert [each.state for each in result.receipts] == [UNDELIVERABLE]
    assert get_balance(conn, cast.smpp_acme_1.id) == before


def test_a_held_message_that_a_simulator_takes_holds_up_nothing_more(conn, keys, cast, upstream):
    held, follower = queue_messages(conn, cast.smpp_acme_1.id, 2)
    claim(conn, 1)
    leave_unsent(conn, held, cast.smpp_acme_1.id, UnsentReason.HELD, status="ESME_RSYSERR 0x08")
    sim = upstreams.create_upstream(conn, keys, SHELL, "sim", kind=upstreams.SIMULATOR)
    later = now_ms() + 10_000
    assert [each.id for each in sending.claim_messages(conn, Claim(sim.id, [()], 10), later).messages] == [held]
    sending.store_reported_outcomes(conn, [outcomes.MessageOutcome(held, DELIVERED, 0, later, "1", "stat:DELIVRD")])
    assert [each.id for each in sending.claim_messages(conn, Claim(sim.id, [()], 10), later).messages] == [follower]
    assert not queue.has_queue(conn)


def test_a_scheduled_message_waits_from_its_date_on(conn, cast, upstream):
    at = now_ms() + DAY_MS
    submit = prepare_submit(conn, cast.smpp_acme_1.id, scheduled_at=at)
    submit.priority = 2
    (message_id,) = intake.store_messages(conn, [submit]).message_ids
    assert claim(conn) == []
    due = outcomes.process_due_messages(conn, at)
    assert (due.outbound, due.waiting) == ([], {((), cast.smpp_acme_1.id)})
    (claimed,) = sending.claim_messages(conn, Claim(1, [()], 10), at).messages
    assert (claimed.id, claimed.priority, claimed.upstream) == (message_id, 2, 1)


def test_a_message_that_is_called_back_while_it_waits_is_not_claimed(conn, cast, upstream):
    before = get_balance(conn, cast.smpp_acme_1.id)
    first, second = queue_messages(conn, cast.smpp_acme_1.id, 2)
    assert claim(conn, 1) == [first]
    statuses = [query_cancel.find_message_status(conn, cast.smpp_acme_1.id, each) for each in (first, second)]
    assert [each.is_queued for each in statuses if each] == [False, True]
    # One that was claimed since it was looked up is on its way.
    (waiting,) = [each for each in statuses if each and each.is_queued]
    claim(conn, 1)
    assert query_cancel.cancel_messages(conn, [waiting]).was_cancelled == [False]
    leave_unsent(conn, second, cast.smpp_acme_1.id, UnsentReason.PUT_BACK)
    assert query_cancel.cancel_messages(conn, [waiting]).was_cancelled == [True]
    assert claim(conn) == []
    assert get_balance(conn, cast.smpp_acme_1.id) == before - read_message(conn, first)["price"]


def test_the_built_in_simulator_keeps_what_it_had_and_gets_nothing_new(conn, keys, cast):
    (simulated,) = intake.store_messages(conn, [prepare_submit(conn, cast.smpp_acme_1.id)]).message_ids
    assert outcomes.list_simulated_message_ids(conn) == [simulated]
    add_upstream(conn, keys)
    outcomes.mark_last_simulated_message(conn)
    claimed, waiting = intake.store_messages(
        conn, [prepare_waiting(conn, cast.smpp_acme_1.id) for _ in range(2)]
    ).message_ids
    assert claim(conn, 1) == [claimed]
    outcomes.mark_last_simulated_message(conn)
    assert outcomes.list_simulated_message_ids(conn) == [simulated]
    assert claim(conn) == [waiting]
