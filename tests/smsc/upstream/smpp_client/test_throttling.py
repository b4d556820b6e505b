"""A carrier that says that it is too much: everything slows down, nothing is lost, and nothing overtakes."""

import asyncio
from collections import defaultdict
from itertools import islice

import pytest

from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import HeaderOnlyPdu, SubmitSm
from portal.smsc.upstream.smpp_client.client import MAX_TRIES
from portal.smsc.upstream.smpp_client.pacing import UNLIMITED, Pacer
from portal.smsc.upstream.smpp_client.status_map import THROTTLING_STATUSES
from tests.smsc.esme import wait_until
from tests.smsc.upstream.smpp_client.carrier import (
    build_submit,
    list_ids,
    run_bound_client,
    run_carrier,
    run_client,
    submit,
    submit_all,
)

NUMBER, OTHER = "393331234567", "393337654321"
THROTTLED, QUEUE_FULL = CommandStatus.ESME_RTHROTTLED, CommandStatus.ESME_RMSGQFUL


@pytest.mark.parametrize("status", THROTTLING_STATUSES)
async def test_it_is_sent_again(status):
    async with run_bound_client(throttle_seconds=0.05) as (client, reports, connection, _):
        submit_all(client, [1], NUMBER)
        first = await connection.read_submit()
        connection.answer(first, status)
        again = await connection.read_submit()
        assert (again.short_message, again.sequence > first.sequence) == (b"1", True)
        # Nothing else goes out before it is known whether it is accepted.
        assert client.room == 0
        connection.answer(again)
        await reports.wait_for(lambda: client.room)
        assert reports.answers == [(1, 0, "id of 1")]
        assert (client.counters["throttled"], client.counters["retried"]) == (1, 1)


async def test_pain_3_nothing_goes_out_before_what_is_throttled():
    async with run_bound_client(throttle_seconds=0.05, throughput=1_000) as (client, reports, connection, _):
        submit_all(client, [1], NUMBER)
        for _ in range(3):
            connection.answer(await connection.read_submit(), THROTTLED)
        # Others may go before it is tried for the fourth time.
        await reports.wait_for(lambda: client.room)
        submit_all(client, [10], OTHER)
        submit_all(client, [2, 3], NUMBER)
        connection.answer(await connection.read_submit())
        await wait_until(lambda: client.room >= 7)
        assert client.room == 7
        assert reports.answers == [(10, 0, "id of 10")]
        for each in (b"1", b"2", b"3"):
            submit = await connection.read_submit()
            assert submit.short_message == each
            connection.answer(submit)
        await reports.wait_for(lambda: len(reports.answers) == 4)
        assert {each[1] for each in reports.answers} == {0}


async def test_what_waits_for_its_bind_does_not_overtake_either():
    settings = {"throttle_seconds": 0.05, "binds": 2, "window": 4}
    async with run_carrier() as carrier, run_client(carrier.port, **settings) as (client, reports):
        connections = (await carrier.accept_all(2))[CommandId.BIND_TRANSCEIVER]
        await reports.wait_for(lambda: client.room == 8)
        submit_all(client, [1, 2, 3, 4, 5, 6], NUMBER)
        for each in connections:
            each.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 5))
        firsts = [await each.read_pdu() for each in connections]
        (connection,) = (each for each, first in zip(connections, firsts, strict=True) if isinstance(first, SubmitSm))
        (one,) = (each for each in firsts if isinstance(each, SubmitSm))
        others = await connection.read_submits(3)
        await connection.wait_for_response(5)
        connection.answer(one, THROTTLED)
        connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 6))
        assert (await connection.read_response()).sequence == 6
        for submit in others:
            connection.answer(submit)
        for _ in range(3):
            readers = [asyncio.create_task(each.read_submit()) for each in connections]
            (done,), (idle,) = await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            connections[readers.index(done)].answer(await done)
        await reports.wait_for(lambda: len(reports.answers) == 6)
        assert [each[0] for each in reports.answers] == [2, 3, 4, 1, 5, 6]


async def test_two_that_were_refused_go_out_again_in_their_order():
    async with run_bound_client(throttle_seconds=0.05) as (client, reports, connection, _):
        submit_all(client, range(4), NUMBER)
        submits = await connection.read_submits(4)
        for each in reversed(submits):
            connection.answer(each, THROTTLED)
        # One goes out to see, and the others once it is accepted.
        for number in range(4):
            submit = await connection.read_submit()
            assert submit.short_message == b"%d" % number
            connection.answer(submit)
        await reports.wait_for(lambda: len(reports.answers) == 4)
        assert [each[0] for each in reports.answers] == [0, 1, 2, 3]


async def test_others_pass_one_that_waits():
    async with run_bound_client(throttle_seconds=0.05, window=4, throughput=400) as (client, reports, connection, _):
        submit_all(client, [1], NUMBER)
        connection.answer(await connection.read_submit(), THROTTLED)
        # It is refused as often as it is tried.
        answered = 0
        to_send = iter(range(10, 40))
        reports.on_room = lambda: submit_all(client, islice(to_send, client.room))
        while answered < 30:
            submit = await connection.read_submit()
            poisoned = submit.destination == NUMBER
            connection.answer(submit, THROTTLED if poisoned else 0)
            answered += not poisoned
        await reports.wait_for(lambda: len(reports.answers) == 30)
        assert 1 not in [each[0] for each in reports.answers]
        # That it is refused again and again slows down nobody else.
        assert client.rate >= 200


async def test_one_that_is_refused_for_ever_is_given_back_with_what_is_behind_it():
    async with run_bound_client(throttle_seconds=0.01) as (client, reports, connection, _):
        submit_all(client, [1], NUMBER)
        for number in range(MAX_TRIES):
            if number == 1:
                await wait_until(lambda: client.counters["throttled"])
                submit_all(client, [2], NUMBER)
            connection.answer(await connection.read_submit(), THROTTLED)
        await reports.wait_for(lambda: reports.unsent)
        # What only waited behind it was refused by nobody.
        assert (reports.answers, reports.unsent) == ([(1, THROTTLED, "")], [2])
        await reports.wait_for(lambda: client.room)
        submit_all(client, [3], NUMBER)
        connection.answer(await connection.read_submit())
        await reports.wait_for(lambda: len(reports.answers) == 2)


async def test_a_destination_whose_queue_is_full_is_given_back_the_second_time():
    async with run_bound_client(throttle_seconds=0.01) as (client, reports, connection, _):
        submit_all(client, [1], NUMBER)
        for _ in range(2):
            connection.answer(await connection.read_submit(), QUEUE_FULL)
        await reports.wait_for(lambda: reports.answers)
        assert reports.answers == [(1, QUEUE_FULL, "")]
        await wait_until(lambda: client.room)


async def test_while_a_handset_is_full_the_one_to_see_is_for_another():
    async with run_bound_client(throttle_seconds=0.5) as (client, reports, connection, _):
        submit_all(client, [1], NUMBER)
        others = iter([2])
        reports.on_room = lambda: submit_all(client, islice(others, 1), OTHER)
        connection.answer(await connection.read_submit(), QUEUE_FULL)
        submit = await connection.read_submit()
        assert submit.short_message == b"2"
        connection.answer(submit)
        assert (await connection.read_submit()).short_message == b"1"


async def test_a_full_handset_that_was_given_back_before_slows_down_nobody():
    async with run_bound_client(throttle_seconds=0.5, throughput=1_000) as (client, _, connection, _):
        submit(client, 1, build_submit("1", NUMBER), is_retry=True)
        connection.answer(await connection.read_submit(), QUEUE_FULL)
        await wait_until(lambda: client.counters["throttled"])
        assert client.rate == 1_000
        await wait_until(lambda: client.room)
        submit_all(client, [2], OTHER)
        assert (await connection.read_submit()).short_message == b"2"


async def test_what_comes_after_one_was_given_back_is_tried_again():
    async with run_bound_client(throttle_seconds=0.05) as (client, reports, connection, _):
        submit_all(client, [1, 2], NUMBER)
        submits = await connection.read_submits(2)
        connection.answer(submits[0], CommandStatus.ESME_RSYSERR)
        await reports.wait_for(lambda: reports.answers)
        submit_all(client, [3], NUMBER)
        connection.answer(submits[1])
        connection.answer(await connection.read_submit(), THROTTLED)
        submit = await connection.read_submit()
        assert submit.short_message == b"3"
        connection.answer(submit)
        await reports.wait_for(lambda: len(reports.answers) == 3)
        assert reports.answers[1:] == [(2, 0, "id of 2"), (3, 0, "id of 3")]


async def test_what_is_not_answered_is_told_together_with_what_is_behind_it():
    async with run_bound_client(throttle_seconds=0.05, response_seconds=0.5) as (client, reports, connection, _):
        submit_all(client, [1, 2], NUMBER)
        _, second = await connection.read_submits(2)
        connection.answer(second, THROTTLED)
        await wait_until(lambda: client.counters["throttled"] and client.room)
        submit_all(client, [4], NUMBER)
        # The connection ends where nothing is answered.
        while not reports.losses:
            submit_all(client, [5], OTHER)
            connection.answer(await connection.read_submit())
            await reports.wait_for(lambda: reports.losses or client.room >= 7)
        assert reports.losses == [([1], [4])]
        assert [each for each in reports.answers if each[0] != 5] == [(2, THROTTLED, "")]


@pytest.mark.parametrize("status", THROTTLING_STATUSES)
async def test_one_destination_does_not_take_all_the_room(status):
    async with run_bound_client(throttle_seconds=0.01) as (client, reports, connection, _):
        submit_all(client, range(10), NUMBER)
        for each in await connection.read_submits(10):
            connection.answer(each, status)
        await wait_until(lambda: client.counters["throttled"] == 10)
        # More than half of the window would wait, so all of it is given back, what is refused later included.
        assert reports.answers == [(each, status, "") for each in range(10)]
        await wait_until(lambda: client.room)
        submit_all(client, [10], OTHER)
        assert (await connection.read_submit()).short_message == b"10"


async def test_a_destination_behind_which_much_waits_is_tried_at_once_and_given_back():
    async with run_bound_client(throttle_seconds=0.01, window=4) as (client, reports, connection, _):
        submit_all(client, [1], NUMBER)
        for _ in range(3):
            connection.answer(await connection.read_submit(), THROTTLED)
        # It would be its turn in a moment, but others may go before.
        await wait_until(lambda: client.room)
        submit_all(client, [10], OTHER)
        connection.answer(await connection.read_submit())
        await reports.wait_for(lambda: client.room > 1)
        submit_all(client, range(2, 2 + client.room), NUMBER)
        again = await connection.read_submit()
        assert again.short_message == b"1"
        connection.answer(again, THROTTLED)
        await reports.wait_for(lambda: reports.unsent)
        assert (reports.answers[-1], reports.unsent[0]) == ((1, THROTTLED, ""), 2)


async def test_throttling_everything_for_a_while_loses_nothing():
    destinations = [f"39333000000{each}" for each in range(5)]
    messages = {each: destinations[each % 5] for each in range(300)}
    loop = asyncio.get_running_loop()
    async with run_bound_client(throttle_seconds=0.02, throughput=2_000) as (client, reports, connection, _):
        to_send = iter(messages.items())

        def send_more():
            for message_id, destination in islice(to_send, client.room):
                submit_all(client, [message_id], destination)

        reports.on_room = send_more
        accepted: dict[str, list[int]] = defaultdict(list)
        received = 0
        send_more()
        throttled_until = 0.0
        while sum(len(each) for each in accepted.values()) < len(messages):
            submit = await connection.read_submit()
            received += 1
            if received == 50:
                throttled_until = loop.time() + 0.3
            if loop.time() < throttled_until:
                connection.answer(submit, THROTTLED)
            else:
                accepted[submit.destination].append(int(submit.short_message))
                connection.answer(submit)
        await reports.wait_for(lambda: len(reports.answers) == len(messages))
    assert {status for _, status, _ in reports.answers} == {0}
    # Those that were in flight at the first refusal are all that were sent in vain, and one after each pause.
    assert 1 <= received - len(messages) <= 10 + 0.3 / 0.02
    for destination, ids in accepted.items():
        assert ids == sorted(each for each, its in messages.items() if its == destination)


async def test_a_connection_that_is_lost_meanwhile_gives_back_what_waits():
    async with run_bound_client(throttle_seconds=60) as (client, reports, connection, _):
        submit_all(client, [1, 2, 3], NUMBER)
        submit_all(client, [4], OTHER)
        one, *_ = await connection.read_submits(4)
        connection.answer(one, THROTTLED)
        await wait_until(lambda: client.counters["throttled"])
        submit_all(client, [5], NUMBER)
        connection.abort()
        await reports.wait_for(lambda: reports.unsure)
        assert (reports.unsure, reports.unsent) == ([2, 3, 4], [1, 5])


# --- the pacer


def send(pacer, now):
    assert pacer.count_available(now) >= 1
    pacer.count_sent(now)


def test_without_a_limit_anything_goes():
    assert Pacer(0, 1, 0.0).count_available(0.0) == UNLIMITED


def test_the_rate_is_halved_once_for_a_burst():
    pacer = Pacer(100, 1, 0.0)
    for _ in range(5):
        send(pacer, 10.0)
        assert pacer.count_available(10.0) <= 5
    for at in (10.1, 10.2, 10.2):
        pacer.record_refusal(10.0, at)
    assert pacer.rate == 50
    assert pacer.get_wait(10.6) == pytest.approx(0.5)
    assert pacer.count_available(11.0) == 0
    assert pacer.count_available(11.1) == 1


def test_after_a_pause_one_is_sent_to_see():
    pacer = Pacer(100, 1, 0.0)
    send(pacer, 1.0)
    pacer.record_refusal(1.0, 1.0)
    send(pacer, 2.0)
    assert pacer.count_available(2.5) == 0
    # What was sent before the refusal says nothing.
    pacer.record_answer(1.0, 2.5)
    assert pacer.count_available(2.5) == 0
    pacer.record_refusal(2.0, 3.0)
    assert pacer.count_available(4.9) == 0
    send(pacer, 5.0)
    pacer.record_refusal(5.0, 5.1)
    # It is never waited longer than twice as long.
    send(pacer, 7.1)
    pacer.forget_probe()
    send(pacer, 7.2)
    pacer.record_answer(7.2, 7.3)
    assert pacer.rate == 50
    assert pacer.count_available(8.0) > 1


def test_it_speeds_up_by_steps():
    pacer = Pacer(100, 1, 0.0)
    send(pacer, 1.0)
    pacer.record_refusal(1.0, 1.0)
    send(pacer, 2.0)
    pacer.record_answer(2.0, 2.0)
    rates = []
    for second in range(2, 10):
        pacer.count_available(second + 0.5)
        rates.append(pacer.rate)
    assert rates == [50, 60, 70, 80, 90, 100, 100, 100]
    assert not pacer.is_closed


def test_without_a_throughput_the_limit_is_lifted_again():
    pacer = Pacer(0, 1, 0.0)
    for number in range(200):
        send(pacer, number / 100)
    pacer.record_refusal(1.99, 2.0)
    assert pacer.rate == pytest.approx(50, rel=0.03)
    send(pacer, 3.0)
    pacer.record_answer(3.0, 3.0)
    assert pacer.count_available(15.0) < UNLIMITED
    assert pacer.count_available(20.0) == UNLIMITED


def test_another_throughput_holds_at_once():
    pacer = Pacer(100, 1, 0.0)
    pacer.record_refusal(0.5, 1.0)
    assert pacer.count_available(1.0) == 0
    pacer.change_settings(1000, 3, 1.0)
    assert pacer.rate == 1000
    assert pacer.count_available(2.0) == 50
    pacer.record_refusal(2.0, 2.0)
    assert pacer.get_wait(2.0) == 3


def test_an_idle_pacer_wants_no_timer():
    pacer = Pacer(100, 1, 0.0)
    send(pacer, 1.0)
    assert pacer.get_wait(1.0) is not None
    assert pacer.count_available(2.0) == 5
    assert pacer.get_wait(2.0) is None


async def test_what_is_behind_a_refusal_of_another_kind_is_given_back_and_not_sent():
    async with run_bound_client(throttle_seconds=0.05) as (client, reports, connection, _):
        submit_all(client, [1, 2, 3], NUMBER)
        one, two, three = await connection.read_submits(3)
        # The first is refused for being too much, and so the others wait behind it; then it is refused for the moment.
        for each in (one, two, three):
            connection.answer(each, THROTTLED)
        again = await connection.read_submit()
        assert again.short_message == b"1"
        connection.answer(again, CommandStatus.ESME_RSYSERR)
        await reports.wait_for(lambda: len(reports.answers) == 3)
        assert reports.answers == [(1, CommandStatus.ESME_RSYSERR, ""), (2, THROTTLED, ""), (3, THROTTLED, "")]
        assert (reports.unsent, reports.unsure) == ([], [])
        submit_all(client, [4], OTHER)
        assert (await connection.read_submit()).short_message == b"4"


async def test_what_waits_for_room_behind_a_refused_message_is_given_back_and_not_sent():
    async with run_bound_client(window=1) as (client, reports, connection, _):
        submit_all(client, [1], NUMBER)
        first = await connection.read_submit()
        submit_all(client, [2], NUMBER)
        connection.answer(first, CommandStatus.ESME_RSYSERR)
        await reports.wait_for(lambda: reports.unsent)
        assert (reports.answers, reports.unsent) == ([(1, CommandStatus.ESME_RSYSERR, "")], [2])
        submit_all(client, [3], OTHER)
        assert (await connection.read_submit()).short_message == b"3"


async def test_what_waits_is_cancelled_and_what_is_sent_is_not():
    async with run_bound_client(throttle_seconds=0.01, window=1) as (client, reports, connection, _):
        submit_all(client, [1], NUMBER)
        submit_all(client, [2], NUMBER)
        first = await connection.read_submit()
        assert list_ids(client.cancel_waiting([1, 2, 4])) == [2]
        # It is refused, and waits to be tried again.
        connection.answer(first, THROTTLED)
        await wait_until(lambda: client.counters["throttled"])
        assert [list_ids(client.cancel_waiting([1])) for _ in range(2)] == [[1], []]
        await wait_until(lambda: client.room)
        submit_all(client, [5], NUMBER)
        assert (await connection.read_submit()).short_message == b"5"
        assert (reports.answers, reports.unsent, reports.unsure) == ([], [], [])


def submit_renewed(client, ids, expired_id):
    """Submit messages to one number; where they have had to wait, one has expired, and the others say so."""
    for each in ids:
        renewed = None if each == expired_id else build_submit(f"{each} later", NUMBER)
        submit(client, each, build_submit(str(each), NUMBER), renew=lambda renewed=renewed: renewed)


async def test_what_waits_for_room_is_written_anew_or_has_expired():
    async with run_bound_client(window=1) as (client, reports, connection, _):
        submit_renewed(client, [1, 2, 3], expired_id=2)
        connection.answer(await connection.read_submit())
        assert (await connection.read_submit()).short_message == b"3 later"
        assert reports.unsent == [2]


async def test_what_can_be_written_no_more_goes_out_as_it_was():
    async with run_bound_client(window=1) as (client, _, connection, __):
        submit_all(client, [1], NUMBER)
        # As where a setting has put more in front of its number.
        submit(client, 2, build_submit("2", NUMBER), renew=lambda: build_submit("2", "3" * 21))
        connection.answer(await connection.read_submit())
        assert (await connection.read_submit()).short_message == b"2"


@pytest.mark.parametrize("expired_id", [1, 2])
async def test_what_is_tried_again_is_written_anew_or_has_expired(expired_id):
    async with run_bound_client(throttle_seconds=0.01) as (client, reports, connection, _):
        submit_renewed(client, [1, 2, 3], expired_id)
        for refused in await connection.read_submits(3):
            connection.answer(refused, THROTTLED)
        for each in {1, 2, 3} - {expired_id}:
            submit = await connection.read_submit()
            assert submit.short_message == f"{each} later".encode()
            connection.answer(submit)
        await reports.wait_for(lambda: len(reports.answers) == 2)
        assert reports.unsent == [expired_id]
        await wait_until(lambda: client.room)


async def test_of_several_messages_those_are_cancelled_that_have_waited():
    async with run_bound_client(window=1) as (client, reports, connection, _):
        submit_all(client, [1], NUMBER)
        sent = await connection.read_submit()
        submit_all(client, [2, 3], NUMBER)
        assert list_ids(client.cancel_waiting([1, 2, 3, 4])) == [2, 3]
        connection.answer(sent)
        await reports.wait_for(lambda: reports.answers)
        submit_all(client, [5], NUMBER)
        assert (await connection.read_submit()).short_message == b"5"
        assert (len(reports.answers), reports.unsent, reports.unsure) == (1, [], [])
