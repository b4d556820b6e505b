"""What the carrier sends: handed over, answered when it is kept, and no more read than can be kept."""

import asyncio

import pytest

from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import DataSm, DeliverSm, HeaderOnlyPdu, MessageResp, SubmitSm
from portal.smsc.upstream.smpp_client.connector import BindStatus
from tests.smsc.esme import wait_until
from tests.smsc.upstream.smpp_client.carrier import run_bound_client, submit_all

RECEIPT = DeliverSm(7, source="39333", destination="ACME", esm_class=4, short_message=b"id:1")
LONG = DataSm(7, source="39333", destination="1234", tlvs={TlvTag.MESSAGE_PAYLOAD: b"x" * 300})


@pytest.mark.parametrize(("message", "command"), [(RECEIPT, CommandId.DELIVER_SM_RESP), (LONG, CommandId.DATA_SM_RESP)])
@pytest.mark.parametrize("status", [0, CommandStatus.ESME_RX_T_APPN])
async def test_it_is_handed_over_and_answered_once(message, command, status):
    async with run_bound_client() as (_, reports, connection, __):
        reports.respond_with = None
        connection.send(message, HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 8))
        # No answer before there is one.
        assert (await connection.read_response()).sequence == 8
        assert reports.deliveries == [message]
        for _ in range(2):
            reports.responds[0](status)
        connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 9))
        answer = await connection.read_response()
        assert isinstance(answer, MessageResp)
        assert (answer.command, answer.sequence, answer.status) == (command, 7, status)
        assert (await connection.read_response()).sequence == 9


async def test_two_of_one_sequence_number_are_both_answered():
    async with run_bound_client() as (_, reports, connection, __):
        reports.respond_with = None
        connection.send(*[DeliverSm(7, source="1", destination="2")] * 2)
        await reports.wait_for(lambda: len(reports.responds) == 2)
        for each in reports.responds:
            each(0)
        assert [(await connection.read_response()).sequence for _ in range(2)] == [7, 7]


async def test_answering_after_the_end_does_nothing():
    async with run_bound_client() as (_, reports, connection, carrier):
        reports.respond_with = None
        connection.send(DeliverSm(7, source="1", destination="2"))
        await reports.wait_for(lambda: reports.responds)
        connection.abort()
        await reports.wait_for_state(BindStatus.UNBOUND)
        reports.responds[0](0)
        connection = await carrier.accept()
        connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 9))
        assert (await connection.read_response()).sequence == 9


@pytest.mark.parametrize(("payload", "most"), [(10, 500), (60_000, 1024 * 1024 // 60_000 + 1)])
async def test_no_more_is_read_than_can_be_answered(payload, most):
    loop = asyncio.get_running_loop()
    count = most * 2
    async with run_bound_client() as (client, reports, connection, _):
        reports.respond_with = None
        submit_all(client, [1])
        submit = await connection.read_submit()
        for each in range(count):
            connection.send(DeliverSm(each + 1, source="1", tlvs={TlvTag.MESSAGE_PAYLOAD: b"x" * payload}))
        connection.answer(submit)
        await reports.wait_for(lambda: len(reports.deliveries) == most)
        # It looks ten times a second whether it may go on.
        since = loop.time()
        await wait_until(lambda: loop.time() > since + 0.2)
        assert len(reports.deliveries) == most
        for each in range(count):
            await reports.wait_for(lambda: len(reports.responds) > each)  # noqa: B023
            assert len(reports.deliveries) - each <= most
            reports.responds[each](0)
        for each in range(count):
            assert (await connection.read_response()).sequence == each + 1
        await reports.wait_for(lambda: reports.answers)


@pytest.mark.slow
async def test_the_carrier_is_not_taken_for_dead_while_nothing_is_read():
    loop = asyncio.get_running_loop()
    async with run_bound_client(response_seconds=0.5, enquire_link_seconds=0.2) as (client, reports, connection, _):
        reports.respond_with = None
        for each in range(500 + 1):
            connection.send(DeliverSm(each + 1, source="1"))
        await reports.wait_for(lambda: len(reports.deliveries) == 500)
        submit_all(client, [1])
        # Where the machine is slow an enquire_link may be in front of it.
        submit = await connection.wait_for_pdu(CommandId.SUBMIT_SM)
        assert isinstance(submit, SubmitSm)
        connection.answer(submit)
        paused_since = loop.time()
        # For longer than response_seconds, and than enquire_link may take.
        await wait_until(lambda: loop.time() > paused_since + 0.8)
        assert (reports.unsure, reports.states, reports.answers) == ([], [], [])
        for respond in reports.responds:
            respond(0)
        await reports.wait_for(lambda: reports.answers)
        assert reports.answers == [(1, 0, "id of 1")]
