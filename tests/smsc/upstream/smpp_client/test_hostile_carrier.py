"""What a carrier may do wrong, or for harm: the connection ends with a reason, and nothing else does."""

import asyncio
import tracemalloc
from random import Random

import pytest

from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import DeliverSm, HeaderOnlyPdu, MessageResp, encode_pdu
from portal.smsc.upstream.smpp_client.connector import BindStatus
from tests.smsc.esme import wait_until
from tests.smsc.fuzzing import COMMAND_IDS, UNKNOWN_COMMAND_IDS, make_pdu
from tests.smsc.upstream.smpp_client.carrier import build_submit, run_bound_client, submit, submit_all

ENQUIRE_LINK = HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 4242)
NOT_SMPP = "the carrier has sent what is not SMPP: command_length "


@pytest.mark.parametrize(
    ("octets", "length"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", int.from_bytes(b"HTTP")),
        (b"\0\0\0\x0f" + b"\0" * 12, 15),
        (b"\0" * 16, 0),
        ((64 * 1024 + 1).to_bytes(4) + b"\x80\0\0\x04" + b"\0" * 8, 64 * 1024 + 1),
        (b"\xff" * 2_000_000, 0xFFFFFFFF),
    ],
)
async def test_a_length_that_none_may_have_ends_the_connection(octets, length):
    async with run_bound_client() as (client, reports, connection, carrier):
        submit_all(client, [1])
        await connection.read_submit()
        connection.send_octets(octets)
        nack = await connection.read_pdu()
        assert isinstance(nack, HeaderOnlyPdu)
        assert (nack.command, nack.status) == (CommandId.GENERIC_NACK, CommandStatus.ESME_RINVCMDLEN)
        assert (await reports.wait_for_state(BindStatus.UNBOUND)).error == f"{NOT_SMPP}{length}"
        assert reports.unsure == [1]
        await carrier.accept()


async def test_the_longest_pdus_are_read():
    async with run_bound_client() as (_, reports, connection, __):
        payload = b"x" * 60_000
        for each in range(50):
            connection.send(DeliverSm(each + 1, source="1", tlvs={TlvTag.MESSAGE_PAYLOAD: payload}))
            assert (await connection.read_response()).status == 0
        longest = encode_pdu(CommandId.SUBMIT_SM_RESP, 0, 9, b"x" * (pdu.MAX_PDU_LENGTH - 16))
        connection.send_octets(longest * 10)
        connection.send(ENQUIRE_LINK)
        assert (await connection.read_response()).sequence == 4242
        assert len(reports.deliveries) == 50


async def test_octet_by_octet():
    async with run_bound_client() as (client, reports, connection, _):
        submit_all(client, [1])
        submit = await connection.read_submit()
        answer = MessageResp(CommandId.SUBMIT_SM_RESP, submit.sequence, 0, "abc").encode()
        for octet in DeliverSm(7, source="1").encode() + answer:
            connection.send_octets(bytes((octet,)))
            await connection.writer.drain()
        assert (await connection.read_response()).sequence == 7
        await reports.wait_for(lambda: reports.answers)
        assert reports.answers == [(1, 0, "abc")]


async def test_a_deliver_sm_that_cannot_be_read_is_refused():
    async with run_bound_client() as (client, reports, connection, _):
        connection.send_octets(encode_pdu(CommandId.DELIVER_SM, 0, 7, b"cut"))
        answer = await connection.read_response()
        assert (answer.command, answer.sequence) == (CommandId.DELIVER_SM_RESP, 7)
        assert answer.status == CommandStatus.ESME_RINVCMDLEN
        assert reports.deliveries == []
        assert client.counters["malformed"] == 1


@pytest.mark.parametrize("command", [CommandId.SUBMIT_SM, CommandId.BIND_TRANSCEIVER, CommandId.QUERY_SM, 0x0B])
async def test_what_a_carrier_does_not_ask_is_answered_with_generic_nack(command):
    async with run_bound_client() as (_, reports, connection, __):
        connection.send_octets(encode_pdu(command, 0, 7, b"x" * 30))
        answer = await connection.read_response()
        assert (answer.command, answer.status) == (CommandId.GENERIC_NACK, CommandStatus.ESME_RINVCMDID)
        assert reports.states == []


async def test_who_sends_nothing_else_is_left():
    async with run_bound_client() as (_, reports, connection, carrier):
        connection.send_octets(encode_pdu(0xDEADBEEF, 0, 7, b"") * 1_000)
        state = await reports.wait_for_state(BindStatus.UNBOUND)
        assert state.error == (
            "the carrier has sent 100 PDUs that are not SMPP 3.4, the last for its command_id 0xDEADBEEF"
        )
        await carrier.accept()


async def test_what_is_under_way_is_answered_before_such_a_one_is_left():
    async with run_bound_client() as (client, reports, connection, _):
        submit_all(client, [1])
        submit = await connection.read_submit()
        connection.send_octets(encode_pdu(CommandId.DELIVER_SM, 0, 7, b"cut") * 100)
        for _answer in range(100):
            await connection.read_response()
        connection.answer(submit, message_id="abc")
        await reports.wait_for_state(BindStatus.UNBOUND)
        assert (reports.answers, reports.unsure) == ([(1, 0, "abc")], [])


async def test_who_sends_an_odd_one_now_and_then_is_not(monkeypatch):
    monkeypatch.setattr("portal.smsc.upstream.smpp_client.client_session._MALFORMED_SECONDS", 0.1)
    loop = asyncio.get_running_loop()
    async with run_bound_client() as (client, reports, connection, _):
        for count in (60, 120):
            connection.send_octets(encode_pdu(0xDEADBEEF, 0, 7, b"") * 60)
            await wait_until(lambda: client.counters["malformed"] == count)  # noqa: B023
            since = loop.time()
            await wait_until(lambda: loop.time() > since + 0.2)  # noqa: B023
        connection.send(ENQUIRE_LINK)
        assert (await connection.read_response()).sequence == 4242
        assert reports.states == []


async def test_an_alert_notification_is_ignored():
    async with run_bound_client() as (client, reports, connection, _):
        connection.send_octets(encode_pdu(0x102, 0, 7, b"\1\x01393331234567\0\0\0\0") * 1_000)
        connection.send(ENQUIRE_LINK)
        # It has no response (4.12).
        assert (await connection.read_response()).sequence == 4242
        assert (client.counters["malformed"], reports.states) == (0, [])


@pytest.mark.slow
async def test_a_carrier_that_never_reads_costs_little_memory_and_is_left():
    async with run_bound_client(window=1_000, response_seconds=0.5) as (client, reports, connection, carrier):
        connection.pause_reading()
        text = "x" * 250
        tracemalloc.start()
        message_id = 0
        # Until it takes nothing more: what is on its way fills the sockets' buffers, and then the client's.
        while client.room:
            submit(client, message_id, build_submit(text, f"39333{message_id:07d}"))
            message_id += 1
            if message_id % 100 == 0:
                await asyncio.sleep(0)
        most, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 4 * 2**20
        # What it sends is not read either, for that would be answered.
        for each in range(10_000):
            connection.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, each + 1))
        state = await reports.wait_for_state(BindStatus.UNBOUND)
        assert state.error in (
            "the carrier does not read what it is sent",
            "the carrier has answered no submit_sm for 0.5 s",
        )
        assert reports.unsure == list(range(message_id))
        await carrier.accept()


@pytest.mark.slow
async def test_a_carrier_that_only_asks_and_never_reads_is_left():
    async with run_bound_client(response_seconds=0.3) as (client, reports, connection, carrier):
        connection.pause_reading()
        octets = b"".join(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, each + 1).encode() for each in range(5_000))

        async def flood():
            while True:
                connection.send_octets(octets)
                await connection.writer.drain()

        flooding = asyncio.create_task(flood())
        (session,) = client.sessions
        # There is no room for submits while it reads nothing.
        await wait_until(lambda: not client.room)
        transport = session._transport  # noqa: SLF001
        assert transport
        await wait_until(lambda: transport.get_write_buffer_size() > 100_000 or reports.states)
        assert transport.get_write_buffer_size() <= 100_000
        state = await reports.wait_for_state(BindStatus.UNBOUND)
        flooding.cancel()
        assert state.error == "the carrier does not read what it is sent"
        await carrier.accept()


def make_damaged_pdu(random):
    """A PDU of any kind, about something that is under way, or not: a quarter of them as they should be."""
    command = random.choice(COMMAND_IDS + UNKNOWN_COMMAND_IDS)
    intact = make_pdu(command).encode() if command in COMMAND_IDS else encode_pdu(command, 0, 0, b"")
    octets = bytearray(intact + random.randbytes(random.choice((0, 0, 1, 30))))
    octets[:4] = len(octets).to_bytes(4)
    octets[12:16] = random.randrange(1, 80).to_bytes(4)
    for _ in range(random.randrange(4)):
        octets[random.randrange(8, len(octets))] = random.randrange(256)
    if random.random() < 0.002:
        octets[random.randrange(4)] = random.randrange(256)
    return bytes(octets)


@pytest.mark.parametrize("seed", range(20))
async def test_damaged_pdus_end_in_nothing_worse_than_another_connection(seed):
    random = Random(seed)
    async with run_bound_client(window=100) as (client, reports, connection, carrier):
        submit_all(client, range(50))
        for _ in range(200):
            connection.send_octets(make_damaged_pdu(random))
        connection.send(ENQUIRE_LINK, HeaderOnlyPdu(CommandId.UNBIND, 4243))
        await connection.wait_for_close()
        await reports.wait_for_state(BindStatus.UNBOUND)
        await carrier.accept()
        await reports.wait_for(lambda: client.room == 100)
        decided = [each[0] for each in reports.answers] + reports.unsure + reports.unsent
        assert sorted(decided) == list(range(50))
