"""Silence, and the end of a connection from either side."""

import asyncio

import pytest

from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import DeliverSm, HeaderOnlyPdu
from portal.smsc.upstream.smpp_client.connector import BindStatus
from tests.smsc.esme import wait_until
from tests.smsc.upstream.smpp_client.carrier import run_bound_client, submit_all

SILENCE = {"enquire_link_seconds": 0.05}


async def test_it_answers_enquire_link():
    async with run_bound_client() as (_, __, connection, ___):
        connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 5))
        answer = await connection.read_response()
        assert answer == HeaderOnlyPdu(CommandId.ENQUIRE_LINK_RESP, 5)


async def test_it_asks_a_silent_carrier_and_stays_while_it_answers():
    async with run_bound_client(**SILENCE) as (_, reports, connection, __):
        for _ in range(4):
            enquire_link = await connection.wait_for_pdu(CommandId.ENQUIRE_LINK)
            connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK_RESP, enquire_link.sequence))
        assert reports.states == []


async def test_any_answer_to_enquire_link_is_a_sign_of_life():
    async with run_bound_client(**SILENCE) as (_, reports, connection, __):
        for _ in range(4):
            enquire_link = await connection.wait_for_pdu(CommandId.ENQUIRE_LINK)
            connection.send(HeaderOnlyPdu(CommandId.GENERIC_NACK, enquire_link.sequence, 3))
        assert reports.states == []


async def test_a_dead_carrier_is_left():
    async with run_bound_client(**SILENCE) as (client, reports, connection, carrier):
        submit_all(client, [1])
        state = await reports.wait_for_state(BindStatus.UNBOUND)
        assert state.error == "the carrier has not answered enquire_link"
        assert reports.unsure == [1]
        await connection.wait_for_close()
        await carrier.accept()


async def test_an_unbind_is_answered_after_what_was_under_way():
    async with run_bound_client() as (client, reports, connection, carrier):
        reports.respond_with = None
        submit_all(client, [1])
        submit = await connection.read_submit()
        connection.send(DeliverSm(7, source="1", destination="2"), HeaderOnlyPdu(CommandId.UNBIND, 8))
        await reports.wait_for(lambda: client.room == 0 and reports.responds)
        connection.answer(submit)
        await reports.wait_for(lambda: reports.answers)
        reports.responds[0](0)
        assert [(await connection.read_response()).sequence for _ in range(2)] == [7, 8]
        await connection.wait_for_close()
        assert (await reports.wait_for_state(BindStatus.UNBOUND)).error == "the carrier has unbound"
        assert reports.unsure == []
        await carrier.accept()


async def test_closing_waits_for_the_answers():
    async with run_bound_client() as (client, reports, connection, _):
        submit_all(client, [1])
        submit = await connection.read_submit()
        closing = asyncio.create_task(client.close())
        await wait_until(lambda: client.room == 0)
        connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 5))
        assert (await connection.read_response()).sequence == 5
        connection.answer(submit)
        await connection.answer_unbind()
        await closing
        assert reports.answers == [(1, 0, "id of 1")]
        assert reports.unsure == []


async def test_a_carrier_that_unbinds_at_the_same_time_is_answered():
    async with run_bound_client() as (client, _, connection, __):
        closing = asyncio.create_task(client.close())
        await connection.wait_for_pdu(CommandId.UNBIND)
        connection.send(HeaderOnlyPdu(CommandId.UNBIND, 8))
        assert (await connection.wait_for_response(8)).status == CommandStatus.ESME_ROK
        await closing


@pytest.mark.slow
async def test_closing_does_not_wait_for_ever():
    async with run_bound_client() as (client, _, connection, __):
        closing = asyncio.create_task(client.close())
        await connection.wait_for_pdu(CommandId.UNBIND)
        # A second: it is not answered.
        await asyncio.wait_for(closing, 5)
        await connection.wait_for_close()
