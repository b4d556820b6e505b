"""A raw SMPP client: it sends what a test wants, even what no client should, and answers nothing by itself."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any, ClassVar, Literal, TypeVar, cast, overload

from portal.core.config import Config
from portal.services.messages.smpp_config import AccountConfig
from portal.smsc.connection.session import SmppSession
from portal.smsc.limits import DEFAULT_SERVER_LIMITS, ServerLimits
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId
from portal.smsc.protocol.pdu import (
    Bind,
    BindResp,
    DataSm,
    DeliverSm,
    HeaderOnlyPdu,
    MessageResp,
    Pdu,
    QuerySm,
    QuerySmResp,
    SubmitSm,
)
from portal.smsc.server import SmppServer
from tests.smsc.fuzzing import get_command_id
from tests.support import AccountLogin

DEADLINE_S = 10.0

T = TypeVar("T")

Response = HeaderOnlyPdu | BindResp | QuerySmResp | MessageResp


class RawEsme:
    """One connection to the server."""

    open_connections: ClassVar[list[RawEsme]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.sequences = count(1)
        self._unread: list[Pdu] = []
        self.open_connections.append(self)

    @classmethod
    async def connect(
        cls,
        port: int,
        host: str = "127.0.0.1",
        *,
        tls: ssl.SSLContext | None = None,
        from_address: str | None = None,
        limit: int = 2**20,
    ) -> RawEsme:
        local = (from_address, 0) if from_address else None
        return cls(*await asyncio.open_connection(host, port, ssl=tls, local_addr=local, limit=limit))

    @classmethod
    async def connect_and_bind(
        cls, port: int, login: AccountLogin, command: CommandId = CommandId.BIND_TRANSCEIVER, **options: Any
    ) -> RawEsme:
        """Connect with the options of `connect`, and bind."""
        esme = await cls.connect(port, **options)
        assert await esme.bind(login.name, login.password, command) == 0
        return esme

    async def bind(self, system_id: str, password: str, command: CommandId = CommandId.BIND_TRANSCEIVER) -> int:
        """Bind; return the status of the answer."""
        return (await self.request(Bind(command, next(self.sequences), system_id, password))).status

    async def submit(self, destination: str = "393331234567", text: bytes = b"hello", **fields: Any) -> MessageResp:
        """Submit a message, ask for its receipt unless `fields` say otherwise, and return the answer."""
        return await self.request(self.build_submit_sm(destination, text, **fields))

    def build_submit_sm(self, destination: str = "393331234567", text: bytes = b"hello", **fields: Any) -> SubmitSm:
        values: dict[str, Any] = {"source": "ACME", "source_ton": 5, "registered_delivery": 1, **fields}
        return SubmitSm(
            next(self.sequences), dest_ton=1, dest_npi=1, destination=destination, short_message=text, **values
        )

    async def receive_deliver_sm(self, status: int = 0) -> DeliverSm:
        """Wait for a deliver_sm and answer it."""
        delivered = await self.wait_for_pdu(CommandId.DELIVER_SM)
        self.send(MessageResp(CommandId.DELIVER_SM_RESP, delivered.sequence, status))
        return delivered

    @overload
    async def request(self, message: Bind) -> BindResp: ...
    @overload
    async def request(self, message: SubmitSm | DataSm) -> MessageResp: ...
    @overload
    async def request(self, message: QuerySm) -> QuerySmResp: ...
    @overload
    async def request(self, message: Pdu) -> Response: ...
    async def request(self, message: Pdu) -> Response:
        self.send(message)
        (answer,) = await self._wait_for_answers([message])
        return answer

    def send(self, *messages: Pdu) -> None:
        self.send_octets(b"".join(message.encode() for message in messages))

    def send_octets(self, octets: bytes) -> None:
        self.writer.write(octets)

    async def wait_for_response(self, sequence: int) -> Response:
        answer = await self._wait_for_match(
            lambda each: bool(get_command_id(each) & RESPONSE_BIT) and each.sequence == sequence
        )
        assert isinstance(answer, Response)
        return answer

    @overload
    async def wait_for_responses(self, messages: Sequence[SubmitSm | DataSm]) -> list[MessageResp]: ...
    @overload
    async def wait_for_responses(self, messages: Sequence[Pdu]) -> Sequence[Response]: ...
    async def wait_for_responses(self, messages: Sequence[Pdu]) -> Sequence[Response]:
        return await self._wait_for_answers(messages)

    async def _wait_for_answers(self, messages: Sequence[Pdu]) -> list[Response]:
        answers = [await self.wait_for_response(message.sequence) for message in messages]
        for message, answer in zip(messages, answers, strict=True):
            assert isinstance(answer, _RESPONSE_CLASSES.get(type(message), Response))
        return answers

    @overload
    async def wait_for_pdu(self, command: Literal[CommandId.DELIVER_SM]) -> DeliverSm: ...
    @overload
    async def wait_for_pdu(self, command: Literal[CommandId.GENERIC_NACK, CommandId.UNBIND]) -> HeaderOnlyPdu: ...
    @overload
    async def wait_for_pdu(self, command: Literal[CommandId.SUBMIT_SM_RESP]) -> MessageResp: ...
    @overload
    async def wait_for_pdu(self, command: CommandId) -> Pdu: ...
    async def wait_for_pdu(self, command: CommandId) -> Pdu:
        return await self._wait_for_match(lambda each: get_command_id(each) == command)

    async def _wait_for_match(self, matches: Callable[[Pdu], bool]) -> Pdu:
        for each in self._unread:
            if matches(each):
                self._unread.remove(each)
                return each
        async with asyncio.timeout(DEADLINE_S):
            while True:
                message = await self.read_pdu()
                if matches(message):
                    return message
                self._unread.append(message)

    async def read_pdu(self) -> Pdu:
        """Return the next PDU. asyncio.IncompleteReadError where the server has closed."""
        octets = await self.reader.readexactly(pdu.HEADER_LENGTH)
        header = pdu.decode_header(octets, 0)
        assert header is not None
        return pdu.decode_pdu(header, await self.reader.readexactly(header.length - pdu.HEADER_LENGTH))

    async def read_response(self) -> Response:
        """Return the next PDU, which is a response."""
        message = await self.read_pdu()
        assert isinstance(message, Response)
        return message

    async def wait_for_unbind(self) -> None:
        """Wait for the server's unbind, answer it, and see the connection closed."""
        unbind = await self.wait_for_pdu(CommandId.UNBIND)
        self.send(HeaderOnlyPdu(CommandId.UNBIND_RESP, unbind.sequence))
        await self.wait_for_close()

    async def wait_for_close(self) -> None:
        """Wait until the server has closed the connection."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionResetError:
                pass

    def pause_reading(self) -> None:
        """Leave what the server sends to the buffers on its way."""
        cast(asyncio.Transport, self.writer.transport).pause_reading()

    async def close(self) -> None:
        """Close as a client does that has lost patience: without an unbind."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    def abort(self) -> None:
        """Vanish: no unbind, the connection reset."""
        self.writer.transport.abort()


# Of these requests alone: others are also answered with less than their response.
_RESPONSE_CLASSES = {SubmitSm: MessageResp, DataSm: MessageResp, Bind: BindResp, QuerySm: QuerySmResp}


def make_tls_client_context(**attributes: ssl.TLSVersion) -> ssl.SSLContext:
    """What a client uses that takes any certificate; `attributes` are those of the context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in attributes.items():
        setattr(context, name, value)
    return context


@asynccontextmanager
async def run_smsc(config: Config, server_limits: ServerLimits = DEFAULT_SERVER_LIMITS) -> AsyncIterator[SmppServer]:
    """The server, in this process, on the test's data folder."""
    died = asyncio.Event()
    server = SmppServer(config, asyncio.get_running_loop(), died.set, server_limits)
    server.start()
    try:
        yield server
    finally:
        await close_connections()
        await server.close()
        assert not died.is_set()


def get_account_config(server: SmppServer, system_id: str) -> AccountConfig:
    """What the server has of an account in memory."""
    account = server.storage.find_account(system_id)
    assert account is not None
    return account


def list_sessions(server: SmppServer) -> list[SmppSession]:
    """The sessions of all connections, bound or not."""
    return [each for each in server.connection_limits.sessions if isinstance(each, SmppSession)]


async def close_connections() -> None:
    """End every connection that a test has left open."""
    for esme in RawEsme.open_connections:
        esme.abort()
        await esme.close()
    RawEsme.open_connections.clear()


async def wait_until(condition: Callable[[], T | Literal[False] | None], deadline_s: float = DEADLINE_S) -> T:
    """Wait until `condition` returns something true, and return it."""
    async with asyncio.timeout(deadline_s):
        while not (result := condition()):
            await asyncio.sleep(0.01)
    return result
