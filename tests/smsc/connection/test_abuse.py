"""Clients that err or mean harm:

answered as the standard says, cut off where it can't go on, and nobody else notices.
"""

import struct

import pytest

from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import HeaderOnlyPdu
from tests.smsc.esme import RawEsme, list_sessions, run_smsc, wait_until


def raw(command, body=b"", sequence=5, length=None):
    return struct.pack(">IIII", 16 + len(body) if length is None else length, command, 0, sequence) + body


@pytest.mark.parametrize("length", [0, 15, pdu.MAX_PDU_LENGTH + 1, 0xFFFFFFFF])
async def test_a_bad_length_is_nacked_and_the_connection_closed(config, cast, length):
    async with run_smsc(config) as server:
        bystander = await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1)
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        esme.send_octets(raw(CommandId.SUBMIT_SM, length=length))
        nack = await esme.wait_for_pdu(CommandId.GENERIC_NACK)
        assert (nack.status, nack.sequence) == (CommandStatus.ESME_RINVCMDLEN, 5)
        await esme.wait_for_close()
        assert (await bystander.submit(source="GLOBEX")).status == 0


@pytest.mark.parametrize("command", [0x07, 0x0B, 0x21, 0x102, 0xFFFF])
async def test_a_command_that_is_not_spoken_is_nacked(config, cast, command):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        esme.send_octets(raw(command, b"anything"))
        nack = await esme.wait_for_pdu(CommandId.GENERIC_NACK)
        assert (nack.status, nack.sequence) == (CommandStatus.ESME_RINVCMDID, 5)
        assert (await esme.submit()).status == 0


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (raw(CommandId.SUBMIT_SM, b"\0"), CommandStatus.ESME_RINVCMDLEN),
        (raw(CommandId.SUBMIT_SM, b"x" * 60_000), CommandStatus.ESME_RINVSERTYP),
        (raw(CommandId.ENQUIRE_LINK, b"x"), CommandStatus.ESME_RINVCMDLEN),
        (raw(CommandId.BIND_TRANSCEIVER, b"x"), CommandStatus.ESME_RINVCMDLEN),
    ],
)
async def test_a_malformed_request_is_answered_and_the_session_goes_on(config, cast, octets, status):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        esme.send_octets(octets)
        answer = await esme.wait_for_response(5)
        assert answer.status == status
        assert (await esme.submit()).status == 0


async def test_responses_to_nothing_are_ignored(config, cast):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for command in (0x80000000, 0x80000001, 0x80000004, 0x80000005, 0x80000006, 0x80000009, 0x80000015):
            esme.send_octets(raw(command))
        esme.send_octets(raw(0x80000005, b"x" * 70))
        assert (await esme.submit()).status == 0


async def test_octets_may_come_one_at_a_time_or_all_at_once(config, cast):
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        message = esme.build_submit_sm()
        for octet in message.encode():
            esme.send_octets(bytes((octet,)))
            await esme.writer.drain()
        assert (await esme.wait_for_response(message.sequence)).status == 0
        first, second = esme.build_submit_sm(), HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 77)
        esme.send(first, second)
        assert (await esme.wait_for_response(77)).status == 0
        assert (await esme.wait_for_response(first.sequence)).status == 0


@pytest.mark.slow
async def test_a_silent_client_is_asked_and_an_answer_keeps_it(limited, cast):
    async with run_smsc(limited(enquire_link_seconds=0.2, response_seconds=0.3)) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        for _ in range(3):
            enquire_link = await esme.wait_for_pdu(CommandId.ENQUIRE_LINK)
            esme.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK_RESP, enquire_link.sequence))
        await esme.wait_for_pdu(CommandId.ENQUIRE_LINK)
        await esme.wait_for_close()


async def test_a_session_ends_with_its_time(limited, cast):
    async with run_smsc(limited(session_hours=0.3 / 3600)) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await esme.wait_for_unbind()


@pytest.mark.slow
async def test_a_client_that_does_not_read_is_cut_off(limited, cast, change_account):
    change_account(throughput=0)
    async with run_smsc(limited(response_seconds=0.3)) as server:
        bystander = await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1)
        deaf = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1, limit=1024)
        deaf.pause_reading()
        with pytest.raises(ConnectionError):
            await flood(deaf)
        assert (await bystander.submit(source="GLOBEX")).status == 0
        await wait_until(lambda: len(server.connection_limits.sessions) == 1)


async def flood(esme):
    requests = HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1).encode() * 10_000
    while True:
        esme.send_octets(requests)
        await esme.writer.drain()


async def test_strangers_leave_no_trace(config, cast):
    async with run_smsc(config) as server:
        for octets in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(200), b"\0" * 100, b""):
            esme = await RawEsme.connect(server.port)
            esme.send_octets(octets)
            esme.writer.write_eof()
            await esme.wait_for_close()
        await wait_until(lambda: not server.connection_limits.sessions)
        await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)


async def test_who_says_much_without_a_bind_is_cut_off(config, cast):
    async with run_smsc(config) as server:
        stranger = await RawEsme.connect(server.port)
        stranger.send(*[HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1)] * 21)
        await stranger.wait_for_close()
        patient = await RawEsme.connect(server.port)
        patient.send(*[HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 100)] * 19)
        assert await patient.bind(cast.smpp_acme_1.name, cast.smpp_acme_1.password) == 0


@pytest.mark.slow
async def test_who_floods_the_server_waits_and_nobody_else_does(config, cast):
    async with run_smsc(config) as server:
        bystander = await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1)
        flooding = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        flood = [HeaderOnlyPdu(CommandId.ENQUIRE_LINK, number) for number in range(100, 1700)]
        flooding.send(*flood)
        await wait_until(lambda: [each for each in list_sessions(server) if each.is_reading_paused])
        assert (await bystander.submit(source="GLOBEX")).status == 0
        assert [answer.sequence for answer in await flooding.wait_for_responses(flood)] == [
            each.sequence for each in flood
        ]
        assert (await flooding.submit()).status == 0


async def test_a_throughput_without_limit_has_no_pace(config, cast, change_account):
    change_account(throughput=0)
    async with run_smsc(config) as server:
        esme = await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        flood = [HeaderOnlyPdu(CommandId.ENQUIRE_LINK, number) for number in range(100, 3100)]
        esme.send(*flood)
        held = [each.is_reading_paused for each in list_sessions(server) if await esme.wait_for_responses(flood)]
        assert held == [False]
