"""A raw SMPP client for tests: it sends what it is told, also what no client should, and answers nothing by itself."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import ClassVar

from portal.core.config import Config
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE, Command
from portal.smsc.protocol.pdu import Bind, DeliverSm, MessageResp, Pdu, Plain, SubmitSm
from portal.smsc.server import Server
from tests.support import Login

DEADLINE_S = 10.0


class Esme:
    """One connection to the server."""

    opened: ClassVar[list[Esme]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.sequences = count(1)
        self._unread: list[Pdu] = []
        self.opened.append(self)

    @classmethod
    async def connect(
        cls,
        port: int,
        host: str = "127.0.0.1",
        *,
        tls: ssl.SSLContext | None = None,
        from_address: str | None = None,
        limit: int = 2**20,
    ) -> Esme:
        local = (from_address, 0) if from_address else None
        return cls(*await asyncio.open_connection(host, port, ssl=tls, local_addr=local, limit=limit))

    @classmethod
    async def bound(
        cls, port: int, login: Login, command: Command = Command.BIND_TRANSCEIVER, **options: object
    ) -> Esme:
        esme = await cls.connect(port, **options)  # type: ignore[arg-type]
        assert await esme.bind(login.name, login.password, command) == 0
        return esme

    async def bind(self, system_id: str, password: str, command: Command = Command.BIND_TRANSCEIVER) -> int:
        """Bind; return the status of the answer."""
        return (await self.request(Bind(command, next(self.sequences), system_id, password))).status

    async def submit(self, destination: str = "393331234567", text: bytes = b"hello", **fields: object) -> MessageResp:
        """Submit a message, ask for its receipt unless told otherwise, and return the answer."""
        answer = await self.request(self.message(destination, text, **fields))
        assert isinstance(answer, MessageResp)
        return answer

    def message(self, destination: str = "393331234567", text: bytes = b"hello", **fields: object) -> SubmitSm:
        given = {"source": "ACME", "source_ton": 5, "registered_delivery": 1, **fields}
        return SubmitSm(
            next(self.sequences), dest_ton=1, dest_npi=1, destination=destination, short_message=text, **given
        )

    async def receipt(self, status: int = 0) -> DeliverSm:
        """Wait for a deliver_sm and answer it."""
        delivered = await self.next(Command.DELIVER_SM)
        assert isinstance(delivered, DeliverSm)
        self.send(MessageResp(Command.DELIVER_SM_RESP, delivered.sequence, status))
        return delivered

    async def request(self, message: Pdu) -> Pdu:
        self.send(message)
        return await self.answer_to(message.sequence)

    def send(self, *messages: Pdu) -> None:
        self.send_octets(b"".join(message.encode() for message in messages))

    def send_octets(self, octets: bytes) -> None:
        self.writer.write(octets)

    async def answer_to(self, sequence: int) -> Pdu:
        return await self._wait(lambda each, command: bool(command & RESPONSE) and each.sequence == sequence)

    async def answers_to(self, messages: Sequence[Pdu]) -> list[Pdu]:
        return [await self.answer_to(message.sequence) for message in messages]

    async def next(self, command: Command) -> Pdu:
        return await self._wait(lambda _, seen: seen == command)

    async def _wait(self, wanted) -> Pdu:
        for each in self._unread:
            if wanted(each, _command(each)):
                self._unread.remove(each)
                return each
        async with asyncio.timeout(DEADLINE_S):
            while True:
                message = await self.read()
                if wanted(message, _command(message)):
                    return message
                self._unread.append(message)

    async def read(self) -> Pdu:
        """Return the next PDU. asyncio.IncompleteReadError where the server has closed."""
        octets = await self.reader.readexactly(pdu.HEADER_LENGTH)
        header = pdu.read_header(octets, 0)
        assert header is not None
        return pdu.decode(header, await self.reader.readexactly(header.length - pdu.HEADER_LENGTH))

    async def unbound(self) -> None:
        """Wait for the server's unbind, answer it, and see the connection closed."""
        unbind = await self.next(Command.UNBIND)
        self.send(Plain(Command.UNBIND_RESP, unbind.sequence))
        await self.closed()

    async def closed(self) -> None:
        """Wait until the server has closed the connection."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionResetError:
                pass

    async def close(self) -> None:
        """Close as a client does that has lost patience: without an unbind."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    def abort(self) -> None:
        """Vanish: no unbind, the connection reset."""
        self.writer.transport.abort()


def _command(message: Pdu) -> int:
    return message.command if hasattr(message, "command") else message.COMMAND


@asynccontextmanager
async def smsc(config: Config) -> AsyncIterator[Server]:
    """The server, in this process, on the test's data folder."""
    died = asyncio.Event()
    server = Server(config, asyncio.get_running_loop(), on_death=died.set)
    server.start()
    try:
        yield server
    finally:
        await hang_up()
        await server.close()
        assert not died.is_set()


async def hang_up() -> None:
    """End every connection that a test has left open."""
    for esme in Esme.opened:
        esme.abort()
        await esme.close()
    Esme.opened.clear()


async def eventually(look, deadline_s: float = DEADLINE_S):
    """Look until what is seen is true, and return it."""
    async with asyncio.timeout(deadline_s):
        while not (seen := look()):
            await asyncio.sleep(0.01)
    return seen
