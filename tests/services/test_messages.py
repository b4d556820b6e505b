import threading
from dataclasses import replace

import pytest

from portal import gsm0338
from portal.db import now_ms
from portal.services import check, credits, deliveries, directory, history, intake, messages, outcomes, prices
from portal.services.audit import SHELL
from portal.services.messages import DELIVERED, ENROUTE, EXPIRED, REJECTED
from portal.services.outcomes import Outcome

ITALY = "393401234567"
FRANCE = "33612345678"
BOTH = 1
FAILURE_ONLY = 2


@pytest.fixture
def config_of(conn):
    return lambda account: next(each for each in directory.load(conn) if each.id == account.id)


@pytest.fixture
def prepare(conn, acme_1, config_of):
    """Prepares a submit as smpp-acme-1, with what the test says differently."""

    def prepared(body=b"hello", account=None, **said):
        usual = {
            "source": "ACME",
            "source_ton": 5,
            "source_npi": 0,
            "destination": ITALY,
            "esm_class": 3,
            "data_coding": 0,
            "registered_delivery": BOTH,
        }
        return messages.prepare(account or config_of(acme_1), prices.load(conn), body=body, **usual | said)

    return prepared


# --- the rules


def test_a_message_is_decoded_and_priced(prepare):
    submit = prepare(b"\x01hello", destination=f"+{FRANCE}")
    assert (submit.text, submit.destination, submit.country) == ("£hello", FRANCE, "FR")
    assert (submit.parts, submit.price) == (1, 500)


@pytest.mark.parametrize("source", ["OTHER", "acme", "", "ACME "])
def test_a_sender_that_is_not_approved_is_refused(prepare, source):
    with pytest.raises(messages.InvalidSource):
        prepare(source=source)


def test_an_account_may_send_as_anyone_where_it_is_allowed_to(prepare, config_of, acme_1):
    assert prepare(account=replace(config_of(acme_1), any_sender=True), source="OTHER").source == "OTHER"


@pytest.mark.parametrize(
    "destination", ["", "12", "0401234567", "abc", "39340123456789012", "3934x1234567", "8801712345678"]
)
def test_destinations_that_are_no_number_or_have_no_price_are_refused(prepare, destination):
    with pytest.raises(messages.InvalidDestination):
        prepare(destination=destination)


@pytest.mark.parametrize("data_coding", [1, 2, 3, 4, 0xF5])
def test_codings_that_are_not_spoken_are_refused(prepare, data_coding):
    with pytest.raises(messages.UnsupportedDataCoding):
        prepare(data_coding=data_coding)


def test_what_is_not_gsm_is_refused(prepare):
    with pytest.raises(messages.NotDecodable):
        prepare("è".encode())


def test_half_a_character_is_refused(prepare):
    with pytest.raises(messages.BodyTooLong):
        prepare(b"\x00h\x00", data_coding=8)


@pytest.mark.parametrize(
    ("text", "parts"),
    [("", 1), ("x" * 160, 1), ("x" * 161, 2), ("x" * 306, 2), ("x" * 307, 3), ("€" * 80, 1), ("€" * 81, 2)],
)
def test_parts_of_gsm_texts(prepare, text, parts):
    submit = prepare(gsm0338.encode(text))
    assert (submit.parts, submit.price) == (parts, parts * 1000)


@pytest.mark.parametrize(
    ("text", "parts"), [("я" * 70, 1), ("я" * 71, 2), ("я" * 134, 2), ("я" * 135, 3), ("📦" * 35, 1)]
)
def test_parts_of_ucs2_texts(prepare, text, parts):
    assert prepare(text.encode("utf-16-be"), data_coding=8).parts == parts


def test_a_message_has_at_most_255_parts(prepare):
    assert prepare(b"x" * 153 * 255).parts == 255
    with pytest.raises(messages.BodyTooLong):
        prepare(b"x" * (153 * 255 + 1))


def test_a_part_with_a_header_of_its_own_counts_as_one(prepare):
    header = b"\x05\x00\x03\x2a\x02\x01"
    submit = prepare(header + b"x" * 153, esm_class=0x43)
    assert (submit.udh, submit.text, submit.parts) == (header, "x" * 153, 1)
    with pytest.raises(messages.BodyTooLong):
        prepare(header + b"x" * 154, esm_class=0x43)


@pytest.mark.parametrize("body", [b"", b"\x05", b"\xff" + b"x" * 100])
def test_a_header_that_is_not_all_there_is_refused(prepare, body):
    with pytest.raises(messages.BodyTooLong):
        prepare(body, esm_class=0x40)


# --- storing


def test_a_stored_message_is_paid_for(conn, prepare, acme_1):
    (message_id,) = intake.store(conn, [prepare(b"x" * 161)]).ids
    assert credits.balance(conn, acme_1.id) == 998_000
    stored = history.page(conn, acme_1.id)[0]
    assert (stored.id, stored.parts, stored.price, stored.state, stored.ptt) == (message_id, 2, 2000, ENROUTE, 254)
    assert abs(stored.at - now_ms()) < 10_000
    movement = credits.movements(conn, acme_1.id)[0]
    assert (movement.kind, movement.amount, movement.messages) == ("usage", -2000, 1)
    assert check.problems(conn) == []


def test_a_batch_is_one_line_an_account_in_the_ledger(conn, prepare, config_of, acme_1, globex_1):
    globex = replace(config_of(globex_1), any_sender=True)
    batch = [prepare(), prepare(account=globex), prepare(), prepare(destination=FRANCE)]
    ids = intake.store(conn, batch).ids
    assert ids == sorted(ids)
    assert [each.amount for each in credits.movements(conn, acme_1.id, limit=2)] == [-2500, 1_000_000]
    assert [each.messages for each in credits.movements(conn, globex_1.id, limit=1)] == [1]
    assert check.problems(conn) == []


def test_what_the_credits_do_not_cover_is_refused_and_the_rest_is_not(conn, prepare, config_of, acme_1, acme_2):
    credits.transfer(conn, SHELL, acme_1, acme_2, 997_000)
    globex = replace(config_of(acme_2), any_sender=True)
    ids = intake.store(
        conn, [prepare(b"x" * 300), prepare(b"x" * 300), prepare(), prepare(), prepare(account=globex)]
    ).ids
    assert [each is not None for each in ids] == [True, False, True, False, True]
    assert credits.balance(conn, acme_1.id) == 0
    refused = [each for each in history.page(conn, acme_1.id) if each.ptt == 10]
    assert [(each.state, each.price, each.done_at is not None) for each in refused] == [(REJECTED, 0, True)] * 2
    assert history.totals(conn, acme_1.id, 1).refused == 2
    assert check.problems(conn) == []


def test_batches_and_transfers_at_the_same_time_never_spend_twice(connect, prepare, acme_1, acme_2):
    submit, start, stored, moved = prepare(), threading.Barrier(4), [], []

    def send():
        conn = connect()
        start.wait()
        for _ in range(30):
            stored.extend(each for each in intake.store(conn, [submit] * 10).ids if each)

    def transfer():
        conn = connect()
        start.wait()
        for _ in range(30):
            try:
                credits.transfer(conn, SHELL, acme_1, acme_2, 10_000)
            except credits.NotEnoughCredits:
                continue
            moved.append(10_000)

    threads = [threading.Thread(target=target) for target in (send, send, transfer, transfer)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    conn = connect()
    assert len(set(stored)) == len(stored)
    assert credits.balance(conn, acme_1.id) == 1_000_000 - 1000 * len(stored) - sum(moved)
    assert check.problems(conn) == []


def test_a_history_can_be_written_afterwards(conn, prepare, acme_1):
    conn.execute("UPDATE counters SET value = 0")
    conn.execute("DELETE FROM movements")
    conn.execute("UPDATE accounts SET balance = 0")
    yesterday = now_ms() - 86_400_000
    credits.grant(conn, SHELL, acme_1, 5_000, now=yesterday - 1)
    intake.store(conn, [prepare()], now=yesterday)
    assert history.page(conn, acme_1.id)[0].at == yesterday
    assert credits.movements(conn, acme_1.id)[0].at == yesterday
    assert history.totals(conn, acme_1.id, 1).sent == 0
    assert history.totals(conn, acme_1.id, 2).sent == 1
    assert check.problems(conn) == []


# --- outcomes and receipts


def finish(conn, message_id, state=DELIVERED, ptt=0):
    return outcomes.finish(conn, [Outcome(message_id, state, ptt, now_ms())])


def test_an_outcome_counts_once(conn, prepare, acme_1):
    (message_id,) = intake.store(conn, [prepare()]).ids
    assert finish(conn, message_id) == {acme_1.id}
    assert finish(conn, message_id, EXPIRED, 801) == set()
    assert history.page(conn, acme_1.id)[0].state == DELIVERED
    totals = history.totals(conn, acme_1.id, 1)
    assert (totals.sent, totals.delivered, totals.failed) == (1, 1, 0)
    assert check.problems(conn) == []


def test_an_outcome_of_nothing_is_ignored(conn):
    assert finish(conn, 4711) == set()


@pytest.mark.parametrize(
    ("wanted", "state", "waits"),
    [
        (0, DELIVERED, 0),
        (1, DELIVERED, 1),
        (1, EXPIRED, 1),
        (FAILURE_ONLY, DELIVERED, 0),
        (FAILURE_ONLY, EXPIRED, 1),
        (0x11, DELIVERED, 1),
    ],
)
def test_receipts_are_for_those_who_asked(conn, prepare, acme_1, wanted, state, waits):
    (message_id,) = intake.store(conn, [prepare(registered_delivery=wanted)]).ids
    finish(conn, message_id, state, 801)
    assert len(deliveries.due(conn, acme_1.id, now_ms(), 10)) == waits


def test_receipts_come_in_order_and_go_when_they_are_accepted(conn, prepare, acme_1):
    ids = intake.store(conn, [prepare(reference=number) for number in range(3)]).ids
    for message_id in ids:
        finish(conn, message_id)
    due = deliveries.due(conn, acme_1.id, now_ms(), 10)
    assert [(each.message_id, each.reference) for each in due] == list(zip(ids, range(3), strict=True))
    deliveries.done(conn, [due[0]])
    assert [each.id for each in deliveries.due(conn, acme_1.id, now_ms(), 10)] == [each.id for each in due[1:]]


def test_a_receipt_that_failed_waits_for_its_time(conn, prepare, acme_1):
    (message_id,) = intake.store(conn, [prepare()]).ids
    finish(conn, message_id)
    (receipt,) = deliveries.due(conn, acme_1.id, now_ms(), 10)
    later = now_ms() + 5_000
    deliveries.failed(conn, [(receipt, later)])
    assert deliveries.due(conn, acme_1.id, now_ms(), 10) == []
    assert deliveries.due(conn, acme_1.id, later - 1, 10) == []
    assert deliveries.due(conn, acme_1.id, later, 10)[0].attempts == 1


def test_receipts_are_given_up_after_seven_days(conn, prepare, acme_1):
    (message_id,) = intake.store(conn, [prepare()]).ids
    finish(conn, message_id)
    week = 7 * 86_400_000
    assert deliveries.expire(conn, now_ms() + week - 60_000) == 0
    assert deliveries.expire(conn, now_ms() + week + 60_000) == 1
    assert deliveries.due(conn, acme_1.id, now_ms() + week, 10) == []


def test_what_has_no_final_state_is_given_to_the_upstream_again(conn, prepare):
    first, second, third = intake.store(conn, [prepare(), prepare(b"two"), prepare()]).ids
    finish(conn, first)
    assert [(each.id, each.text) for each in outcomes.unfinished(conn, 0, 10)] == [(second, "two"), (third, "hello")]
    assert [each.id for each in outcomes.unfinished(conn, second, 10)] == [third]
    assert [each.id for each in outcomes.unfinished(conn, 0, 1)] == [second]
