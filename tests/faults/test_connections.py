"""Clients that vanish, don't read, dawdle or come in thousands: the others notice nothing, and memory is bounded."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from portal.smsc.protocol.constants import CommandId, TlvTag
from portal.smsc.protocol.pdu import DeliverSm, HeaderOnlyPdu, MessageResp
from portal.supervisor import increase_open_file_limit
from tests.faults.conftest import ReportCounts
from tests.faults.crowd import ClientCrowd, run_crowd
from tests.smsc.esme import RawEsme, close_connections
from tests.support import AccountLogin, RunningServer

STRANGER = "127.0.0.2"
_GROWTH_MB = 48
_SMALL_BUFFER = 4096
_CUT_OFF_S = 60
_RECEIPTS_S = 30

Bystanders = Callable[..., ClientCrowd]


@pytest.fixture
def server(serve_alone: Callable[..., RunningServer]) -> RunningServer:
    """The SMPP server, with short timeouts."""
    return serve_alone(
        "smsc",
        PORTAL_LIMITS_ENQUIRE_LINK_SECONDS="1",
        PORTAL_LIMITS_RESPONSE_SECONDS="2",
        PORTAL_LIMITS_BIND_SECONDS="2",
    )


@pytest.fixture
def bystanders(server: RunningServer, logins: list[AccountLogin]) -> Iterator[ClientCrowd]:
    """Clients that send all the time. At the end it is checked that none of them was disturbed."""
    with run_crowd(server.port, *logins[:2]) as clients:
        clients.wait_for_all_clients(1)
        yield clients
        clients.wait_for_all_clients(50)
        assert clients.binds == len(clients.clients), "a bystander was cut off"
        assert not clients.refused


@pytest.fixture
def culprit(logins: list[AccountLogin]) -> AccountLogin:
    """The account whose clients misbehave."""
    return logins[2]


@asynccontextmanager
async def bounded(server: RunningServer) -> AsyncIterator[dict[str, int]]:
    """The block must not make the SMPP server grow by more than some megabytes, not even for a moment."""
    status = Path(f"/proc/{server.process.pid}/status")
    before = _memory(status, "VmRSS")
    counts: dict[str, int] = {}
    try:
        yield counts
        counts["grown_mb"] = (_memory(status, "VmHWM") - before) // 1024
        assert counts["grown_mb"] < _GROWTH_MB
    finally:
        await close_connections()


def _memory(status: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))


async def test_clients_that_vanish_without_a_word(
    server: RunningServer, bystanders: ClientCrowd, culprit: AccountLogin, tell: ReportCounts
) -> None:
    async with bounded(server) as counts:
        vanished = [await RawEsme.connect_and_bind(server.port, culprit) for _ in range(200)]
        # One receipt for each is under way to somebody who isn't there any more.
        answers = await asyncio.gather(*(each.submit(source="LOAD") for each in vanished))
        message_ids = {each.message_id for each in answers}
        await asyncio.gather(*(each.wait_for_close() for each in vanished))
        other = await RawEsme.connect_and_bind(server.port, culprit)
        await _take_receipts(other, message_ids)
    bystanders.wait_for_all_clients(50)
    tell(vanished=len(vanished), **counts)


async def test_clients_that_do_not_read_their_responses(
    server: RunningServer, bystanders: ClientCrowd, narrow: AccountLogin, tell: ReportCounts
) -> None:
    async with bounded(server) as counts:
        deaf = [await _deaf(server, narrow) for _ in range(4)]
        sent = await asyncio.gather(*(_submit_until_cut_off(each) for each in deaf))
    bystanders.wait_for_all_clients(50)
    tell(deaf=len(deaf), submits=sum(sent), **counts)


async def _take_receipts(esme: RawEsme, message_ids: set[str]) -> None:
    """Accept deliver_sm until the receipts of all of these messages have come."""
    missing = set(message_ids)
    async with asyncio.timeout(_RECEIPTS_S):
        while missing:
            received = await esme.read_pdu()
            if isinstance(received, DeliverSm):
                missing.discard(received.tlvs[TlvTag.RECEIPTED_MESSAGE_ID].decode().rstrip("\0"))
                esme.send(MessageResp(CommandId.DELIVER_SM_RESP, received.sequence))
            elif isinstance(received, HeaderOnlyPdu) and received.command == CommandId.ENQUIRE_LINK:
                esme.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK_RESP, received.sequence))


async def _deaf(server: RunningServer, login: AccountLogin) -> RawEsme:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", server.port))
    esme = RawEsme(*await asyncio.open_connection(sock=connection, limit=1024))
    assert await esme.bind(login.name, login.password) == 0
    esme.pause_reading()
    return esme


async def _submit_until_cut_off(esme: RawEsme) -> int:
    sent = 0
    async with asyncio.timeout(_CUT_OFF_S):
        with suppress(ConnectionError):
            while True:
                esme.send(*[esme.build_submit_sm(source="LOAD", registered_delivery=0) for _ in range(100)])
                sent += 100
                await esme.writer.drain()
    return sent


async def test_clients_that_do_not_read_their_receipts(
    server: RunningServer, bystanders: ClientCrowd, culprit: AccountLogin, tell: ReportCounts
) -> None:
    waiting = 3000
    async with bounded(server) as counts:
        transmitter = await RawEsme.connect_and_bind(server.port, culprit, CommandId.BIND_TRANSMITTER)
        batch = [transmitter.build_submit_sm(source="LOAD") for _ in range(waiting)]
        transmitter.send(*batch)
        message_ids = {each.message_id for each in await transmitter.wait_for_responses(batch)}
        await transmitter.close()
        deaf = [await _deaf(server, culprit) for _ in range(5)]
        # What they were given comes to another client once they have been cut off.
        other = await RawEsme.connect_and_bind(server.port, culprit)
        await _take_receipts(other, message_ids)
    bystanders.wait_for_all_clients(50)
    tell(deaf=len(deaf), receipts=len(message_ids), **counts)


async def test_clients_that_write_an_octet_at_a_time(
    server: RunningServer, bystanders: ClientCrowd, culprit: AccountLogin, tell: ReportCounts
) -> None:
    async with bounded(server) as counts:
        slow = [await RawEsme.connect_and_bind(server.port, culprit) for _ in range(50)]
        answers = await asyncio.gather(*(_dawdle(each) for each in slow))
        assert [each.status for each in answers] == [0] * len(slow)
    bystanders.wait_for_all_clients(50)
    tell(slow=len(slow), **counts)


async def _dawdle(esme: RawEsme) -> MessageResp:
    message = esme.build_submit_sm(source="LOAD", registered_delivery=0)
    for octet in message.encode():
        esme.send_octets(bytes((octet,)))
        await esme.writer.drain()
        # Each octet is a segment, and so a read, of its own.
        await asyncio.sleep(0)
    (answer,) = await esme.wait_for_responses([message])
    return answer


@pytest.mark.parametrize("secured", [False, True])
async def test_two_thousand_connections_that_do_not_bind(
    server: RunningServer, bystanders: ClientCrowd, culprit: AccountLogin, secured: bool, tell: ReportCounts
) -> None:
    increase_open_file_limit()
    async with bounded(server) as counts:
        strangers = await asyncio.gather(*(_come(server, secured) for _ in range(2000)))
        gone = [asyncio.create_task(each.wait_for_close()) for each in strangers if each]
        # Others come and go meanwhile as if nobody else were there.
        for _ in range(20):
            other = await RawEsme.connect_and_bind(server.port, culprit)
            assert (await other.submit(source="LOAD", registered_delivery=0)).status == 0
            await other.close()
        bystanders.wait_for_all_clients(50)
        held = sum(not each.done() for each in gone)
        await asyncio.gather(*gone)
    tell(connections=len(strangers), held_meanwhile=held, **counts)


async def _come(server: RunningServer, secured: bool) -> RawEsme | None:
    try:
        return await RawEsme.connect(server.tls_port if secured else server.port, from_address=STRANGER)
    except ConnectionError:
        return None
