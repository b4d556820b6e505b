"""Connections that end, or are ended, in the moment in which they are let in."""

import asyncio
import socket
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest

from portal.core import db
from portal.core.config import Config
from portal.smsc.admission.connection_limits import ConnectionLimits, ConnectionSlot
from portal.smsc.admission.listener import SmppListener
from portal.smsc.limits import DEFAULT_SERVER_LIMITS
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import Bind, SubmitSm
from portal.smsc.server import SmppServer
from tests.smsc.esme import wait_until
from tests.support import Cast


def fail() -> None:
    raise AssertionError("the server has failed")


async def start_server(config: Config) -> SmppServer:
    server = SmppServer(config, asyncio.get_running_loop(), fail)
    server.start()
    return server


@pytest.mark.parametrize("unbound", [1, 3])
async def test_those_that_are_sent_away_at_once_keep_no_place(config: Config, cast: Cast, unbound: int) -> None:
    server = await start_server(replace(config, limits=replace(config.limits, unbound=unbound)))
    try:
        with ExitStack() as clients:
            for _ in range(20):  # all accepted in one turn of the event loop
                clients.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            await wait_until(lambda: server.connection_limits.unbound_slots)
        await wait_until(lambda: not server.connection_limits.connection_count)
    finally:
        await server.close()


async def test_a_program_error_closes_the_connection_and_is_logged_with_its_traceback(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    def make_session(slot: ConnectionSlot) -> asyncio.Protocol:
        raise LookupError("a program error")

    limits = ConnectionLimits(config.limits, DEFAULT_SERVER_LIMITS)
    with socket.create_server(("127.0.0.1", 0)) as listening_socket:
        listening_socket.setblocking(False)
        listener = SmppListener(listening_socket, None, 1, (), limits, make_session)
        listener.start()
        reader, writer = await asyncio.open_connection(*listening_socket.getsockname())
        assert await reader.read() == b""
        writer.close()
        listener.close()
    assert not limits.connection_count
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "the connection of 127.0.0.1 could not be let in")
    assert record.exc_info
    assert record.exc_info[0] is LookupError


@pytest.mark.slow
@pytest.mark.parametrize("turns", range(1, 9))
async def test_one_that_comes_while_the_server_stops_is_answered_or_stores_nothing(
    config: Config, cast: Cast, conn: db.Connection, caplog: pytest.LogCaptureFixture, turns: int
) -> None:
    server = await start_server(config)
    login = cast.smpp_acme_1
    submit = SubmitSm(2, source="ACME", source_ton=5, dest_ton=1, dest_npi=1, destination="393401234567")
    bind = Bind(CommandId.BIND_TRANSMITTER, 1, login.name, login.password)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(bind.encode() + submit.encode())
        for _ in range(turns):
            await asyncio.sleep(0)  # one turn of the event loop
        await server.close()
        client.setblocking(False)
        received = b""
        with suppress(ConnectionResetError):
            while piece := await asyncio.get_running_loop().sock_recv(client, 65536):
                received += piece
    accepted = CommandId.SUBMIT_SM_RESP.to_bytes(4) + CommandStatus.ESME_ROK.to_bytes(4)
    assert conn.execute("SELECT count(*) FROM messages").fetchone()[0] == received.count(accepted)
    assert not [each for each in caplog.records if each.exc_info]
