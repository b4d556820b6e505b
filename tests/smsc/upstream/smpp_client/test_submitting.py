"""Messages to a carrier, its answers in whatever order, and those that never come."""

import asyncio
import itertools
from itertools import islice

import pytest

from portal.services.upstreams.settings import UpstreamSettings
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import HeaderOnlyPdu, MessageResp, SubmitSm, encode_pdu
from portal.smsc.upstream.smpp_client.connector import BindStatus
from tests.smsc.upstream.smpp_client.carrier import (
    build_submit,
    run_bound_client,
    run_carrier,
    run_client,
    submit,
    submit_all,
)

NUMBER = "393331234567"


def texts_of(submits):
    return [each.short_message.decode() for each in submits]


async def test_a_message_is_sent_as_it_was_given():
    async with run_bound_client() as (client, reports, connection, _):
        message = SubmitSm(
            99,
            service_type="WAP",
            source="ACME",
            source_ton=5,
            destination=NUMBER,
            dest_ton=1,
            dest_npi=1,
            esm_class=0x40,
            registered_delivery=1,
            data_coding=8,
            validity_period="000001000000000R",
            short_message=b"\x05\x00\x03\x07\x02\x01\0a",
            tlvs={0x1400: b"tag"},
        )
        submit(client, 7, message)
        received = await connection.read_submit()
        message.sequence = received.sequence
        assert received == message
        connection.answer(received, message_id="0aB")
        await reports.wait_for(lambda: reports.answers)
        assert reports.answers == [(7, 0, "0aB")]
        assert reports.bind_numbers == [1]
        assert client.counters["submitted"] == 1


async def test_sequence_numbers_begin_anew_behind_the_last_one():
    async with run_bound_client() as (client, reports, connection, _):
        client.sessions[0]._last_sequence_number = 0x7FFFFFFE  # noqa: SLF001
        submit_all(client, range(3))
        submits = await connection.read_submits(3)
        assert [each.sequence for each in submits] == [0x7FFFFFFF, 1, 2]
        for each in submits:
            connection.answer(each)
        await reports.wait_for(lambda: len(reports.answers) == 3)
        assert [(each[0], each[1]) for each in reports.answers] == [(0, 0), (1, 0), (2, 0)]


async def test_answers_in_another_order():
    async with run_bound_client(window=50) as (client, reports, connection, _):
        submit_all(client, range(50))
        for each in reversed(await connection.read_submits(50)):
            connection.answer(each)
        await reports.wait_for(lambda: len(reports.answers) == 50)
        assert reports.answers == [(each, 0, f"id of {each}") for each in reversed(range(50))]


async def test_the_window_is_never_exceeded_and_is_used():
    async with run_bound_client(window=3) as (client, reports, connection, _):
        to_send = iter(range(30))
        reports.on_room = lambda: submit_all(
            client, [each for _, each in zip(range(client.room), to_send, strict=False)]
        )
        reports.on_room()
        for each in range(0, 30, 3):
            submits = await connection.read_submits(3)
            assert texts_of(submits) == [str(each), str(each + 1), str(each + 2)]
            assert client.room == 0
            # The next that it sends is no submit.
            connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, each))
            assert (await connection.read_response()).sequence == each
            for submit in submits:
                connection.answer(submit)
        await reports.wait_for(lambda: len(reports.answers) == 30)


async def test_binds_share_the_load_and_one_has_all_to_a_destination():
    async with run_carrier() as carrier, run_client(carrier.port, binds=2, window=4) as (client, reports):
        one, other = (await carrier.accept_all(2))[CommandId.BIND_TRANSCEIVER]
        await reports.wait_for(lambda: client.room == 8)
        submit_all(client, range(4), NUMBER)
        submit_all(client, range(10, 14))
        first = await one.read_submits(4)
        others = await other.read_submits(4)
        assert sorted([texts_of(first), texts_of(others)]) == [["0", "1", "2", "3"], ["10", "11", "12", "13"]]
        # What has to go behind the four waits for their bind, although the other one has room.
        if texts_of(others)[0] == "0":
            one, other, first, others = other, one, others, first
        for each in others:
            other.answer(each)
        await reports.wait_for(lambda: client.room == 4)
        submit_all(client, [4], NUMBER)
        assert client.room == 3
        submit_all(client, [20])
        assert texts_of([await other.read_submit()]) == ["20"]
        for each in first:
            one.answer(each)
        assert texts_of([await one.read_submit()]) == ["4"]


async def test_late_double_and_unknown_answers_are_counted_and_change_nothing():
    async with run_bound_client() as (client, reports, connection, _):
        submit_all(client, [1])
        submit = await connection.read_submit()
        connection.send(MessageResp(CommandId.SUBMIT_SM_RESP, submit.sequence + 1_000, 0, "nobody's"))
        connection.answer(submit)
        connection.answer(submit, CommandStatus.ESME_RSYSERR)
        connection.send(HeaderOnlyPdu(CommandId.GENERIC_NACK, submit.sequence, 3))
        connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK_RESP, 12345))
        submit_all(client, [2])
        connection.answer(await connection.read_submit())
        await reports.wait_for(lambda: len(reports.answers) == 2)
        assert reports.answers == [(1, 0, "id of 1"), (2, 0, "id of 2")]
        assert client.counters["unknown_answers"] == 2
        assert client.room == 10


async def test_refusals_and_generic_nack_are_answers():
    async with run_bound_client() as (client, reports, connection, _):
        submit_all(client, range(3))
        one, two, three = await connection.read_submits(3)
        connection.answer(one, CommandStatus.ESME_RINVDSTADR)
        connection.send(HeaderOnlyPdu(CommandId.GENERIC_NACK, two.sequence, CommandStatus.ESME_RINVCMDID))
        connection.send(HeaderOnlyPdu(CommandId.GENERIC_NACK, three.sequence))
        await reports.wait_for(lambda: len(reports.answers) == 3)
        assert reports.answers == [(0, 0x0B, ""), (1, 0x03, ""), (2, 0xFF, "")]


@pytest.mark.parametrize("body", [b"", b"\0"])
async def test_accepted_without_an_id_is_accepted(body):
    async with run_bound_client() as (client, reports, connection, _):
        submit_all(client, [1])
        submit = await connection.read_submit()
        connection.send_octets(encode_pdu(CommandId.SUBMIT_SM_RESP, 0, submit.sequence, body))
        await reports.wait_for(lambda: reports.answers)
        assert reports.answers == [(1, 0, "")]
        assert client.counters["answers_without_id"] == 1


async def test_an_id_without_its_end_and_an_endless_one():
    async with run_bound_client() as (client, reports, connection, _):
        submit_all(client, range(2))
        one, two = await connection.read_submits(2)
        connection.send_octets(encode_pdu(CommandId.SUBMIT_SM_RESP, 0, one.sequence, b"abc"))
        connection.send_octets(encode_pdu(CommandId.SUBMIT_SM_RESP, 0, two.sequence, b"x" * 60_000))
        await reports.wait_for(lambda: len(reports.answers) == 2)
        assert reports.answers == [(0, 0, "abc"), (1, 0, "x" * 64)]


async def test_one_that_is_not_answered_is_unsure_where_others_are():
    async with run_bound_client(response_seconds=0.2) as (client, reports, connection, _):
        submit_all(client, [1])
        unanswered = await connection.read_submit()
        while not reports.unsure:
            submit_all(client, [2])
            connection.answer(await connection.read_submit())
            await reports.wait_for(lambda: reports.unsure or client.room == 9)
        assert (reports.unsure, reports.unsent) == ([1], [])
        assert client.room >= 9
        connection.answer(unanswered)
        connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 77))
        assert (await connection.wait_for_response(77)).status == 0
        assert client.counters["unknown_answers"] == 1
        assert (1, 0, "id of 1") not in reports.answers
        assert reports.states == []


async def test_where_none_is_answered_the_connection_ends():
    async with run_bound_client(response_seconds=0.1) as (client, reports, _, carrier):
        submit_all(client, range(3))
        state = await reports.wait_for_state(BindStatus.UNBOUND)
        assert state.error == "the carrier has answered no submit_sm for 0.1 s"
        assert (reports.unsure, reports.unsent) == ([0, 1, 2], [])
        await carrier.accept()
        await reports.wait_for(lambda: client.room == 10)


async def test_a_lost_connection_tells_what_was_sent_and_what_was_not():
    async with run_carrier() as carrier, run_client(carrier.port, binds=2, window=4) as (client, reports):
        connections = (await carrier.accept_all(2))[CommandId.BIND_TRANSCEIVER]
        await reports.wait_for(lambda: client.room == 8)
        # Four are sent on one bind, and two have to wait there for the four.
        submit_all(client, range(6), NUMBER)
        readers = [asyncio.create_task(each.read_submits(4)) for each in connections]
        done, (idle,) = await asyncio.wait(readers, return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        (reader,) = done
        connection = connections[readers.index(reader)]
        answered = (await reader)[1]
        connection.answer(answered)
        await reports.wait_for(lambda: reports.answers)
        assert texts_of([await connection.read_submit()]) == ["4"]
        connection.abort()
        await reports.wait_for(lambda: reports.unsure)
        assert (reports.unsure, reports.unsent) == ([0, 2, 3, 4], [5])
        assert client.room == 4


async def test_a_bind_that_the_carrier_does_not_know_is_made_again():
    async with run_bound_client() as (client, reports, connection, carrier):
        submit_all(client, range(2))
        one, two = await connection.read_submits(2)
        connection.answer(one, CommandStatus.ESME_RINVBNDSTS)
        connection.answer(two)
        await connection.answer_unbind()
        assert (await reports.wait_for_state(BindStatus.UNBOUND)).error == "the carrier takes it for not bound"
        assert reports.answers == [(0, CommandStatus.ESME_RINVBNDSTS, ""), (1, 0, "id of 1")]
        assert reports.unsure == []
        await carrier.accept()


async def test_pain_6_without_a_throughput_windows_alone_limit():
    assert UpstreamSettings().throughput == 0
    async with run_bound_client(window=500) as (client, _, connection, __):
        submit_all(client, range(client.room))
        # Nothing waits for its time: all are written in the same turn.
        assert sum(len(each.in_flight) for each in client.sessions) == 500
        assert len(await connection.read_submits(500)) == 500


async def test_pain_6_the_throughput_counts_over_all_binds():
    per_second, seconds = 200, 0.5
    loop = asyncio.get_running_loop()
    async with run_carrier() as carrier, run_client(carrier.port, binds=2, throughput=per_second) as (client, reports):
        connections = (await carrier.accept_all(2))[CommandId.BIND_TRANSCEIVER]
        await reports.wait_for(lambda: all(each.state == BindStatus.BOUND for each in client.bind_states))
        to_send = itertools.count()
        reports.on_room = lambda: submit_all(client, islice(to_send, client.room))
        start = loop.time()

        async def answer_all(connection):
            while True:
                connection.answer(await connection.read_submit())

        answering = [asyncio.create_task(answer_all(each)) for each in connections]
        reports.on_room()
        await reports.wait_for(lambda: loop.time() - start >= seconds)
        count = len(reports.answers)
        for each in answering:
            each.cancel()
    # A twentieth of a second's may come at once, and what came in the turns of the loop since then.
    assert 0.6 * per_second * seconds <= count <= 1.2 * per_second * seconds
    assert {1, 2} == set(reports.bind_numbers)


async def test_what_waits_goes_out_though_time_passes_while_what_is_ahead_of_it_is_written():
    loop = asyncio.get_running_loop()

    def renew_slowly() -> SubmitSm:
        until = loop.time() + 0.15
        while loop.time() < until:
            pass
        return build_submit("2", "393330000002")

    async with run_bound_client(throughput=10) as (client, _, connection, _):
        submit(client, 1, build_submit("1", "393330000001"))
        submit(client, 2, build_submit("2", "393330000002"), renew=renew_slowly)
        submit(client, 3, build_submit("3", "393330000003"))
        assert [each.short_message for each in await connection.read_submits(3)] == [b"1", b"2", b"3"]


async def test_what_cannot_be_encoded_is_refused_at_once():
    async with run_bound_client() as (client, _, __, ___):
        with pytest.raises(ValueError):
            submit(client, 1, build_submit("x", "3" * 21))
        assert client.room == 10
