"""A carrier's SMSC over a real socket, which does what a test tells it to, even what none should, and nothing by
itself; and what takes down what the client under test reports.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from portal.services.upstreams.binds import BindState
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId
from portal.smsc.protocol.pdu import (
    Bind,
    BindResp,
    DataSm,
    DeliverSm,
    HeaderOnlyPdu,
    MessageResp,
    SubmitSm,
)
from portal.smsc.upstream.smpp_client.client import SmppClient
from portal.smsc.upstream.smpp_client.client_session import ClientSettings, Respond, Submit
from portal.smsc.upstream.smpp_client.connector import BindStatus
from tests.smsc.esme import DEADLINE_S, RawEsme, close_connections

BIND_COMMANDS = (CommandId.BIND_TRANSCEIVER, CommandId.BIND_TRANSMITTER, CommandId.BIND_RECEIVER)


class CarrierConnection(RawEsme):
    """One connection of the client's."""

    async def read_bind(self) -> Bind:
        message = await self.read_pdu()
        assert isinstance(message, Bind)
        return message

    async def accept_bind(self, status: int = 0) -> Bind:
        """Read the bind, and answer it."""
        bind = await self.read_bind()
        self.send(BindResp(bind.command | RESPONSE_BIT, bind.sequence, status, system_id="CARRIER"))
        return bind

    async def read_submit(self) -> SubmitSm:
        message = await self.read_pdu()
        assert isinstance(message, SubmitSm), message
        return message

    async def read_submits(self, count: int) -> list[SubmitSm]:
        return [await self.read_submit() for _ in range(count)]

    def answer(self, submit: SubmitSm, status: int = 0, message_id: str | None = None) -> None:
        """Answer it, with an id that is made of its text."""
        text = f"id of {submit.short_message.decode()}" if message_id is None else message_id
        self.send(MessageResp(CommandId.SUBMIT_SM_RESP, submit.sequence, status, text))

    async def expect_nothing(self) -> None:
        """Nothing has come but what was read; and all that was sent has been read when this returns."""
        sequence = next(self.sequences)
        self.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, sequence))
        assert await self.read_pdu() == HeaderOnlyPdu(CommandId.ENQUIRE_LINK_RESP, sequence)

    async def answer_unbind(self) -> None:
        unbind = await self.wait_for_pdu(CommandId.UNBIND)
        self.send(HeaderOnlyPdu(CommandId.UNBIND_RESP, unbind.sequence))
        await self.wait_for_close()


class Carrier:
    """The SMSC. `port`: where it listens."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._accepted: asyncio.Queue[CarrierConnection] = asyncio.Queue()
        self.port = 0

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Listen, on the same port as before."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=tls, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Listen no more; connections stay."""
        assert self._server
        self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted.put_nowait(CarrierConnection(reader, writer))

    async def wait_for_connection(self) -> CarrierConnection:
        async with asyncio.timeout(DEADLINE_S):
            return await self._accepted.get()

    async def accept(self, status: int = 0) -> CarrierConnection:
        """Wait for the client's next connection, and answer its bind."""
        connection = await self.wait_for_connection()
        await connection.accept_bind(status)
        return connection

    async def accept_all(self, count: int) -> dict[int, list[CarrierConnection]]:
        """Accept so many binds; returns their connections by the bind's command."""
        connections: dict[int, list[CarrierConnection]] = {each: [] for each in BIND_COMMANDS}
        for _ in range(count):
            connection = await self.wait_for_connection()
            connections[(await connection.accept_bind()).command].append(connection)
        return connections


class Reports(SmppClient):
    """A client that takes down what it is told, in its order.

    answers: message id, status, the upstream's id. losses: what was unsure and unsent each time. respond_with: what is
    answered to what the carrier sends; None: the test does so.
    """

    def __init__(self, settings: ClientSettings) -> None:
        super().__init__(settings)
        self._changed = asyncio.Event()
        self.answers: list[tuple[int, int, str]] = []
        self.bind_numbers: list[int] = []
        self.unsure: list[int] = []
        self.unsent: list[int] = []
        self.losses: list[tuple[list[int], list[int]]] = []
        self.deliveries: list[DeliverSm | DataSm] = []
        self.responds: list[Respond] = []
        self.respond_with: int | None = 0
        self.states: list[BindState] = []
        self.on_room: Callable[[], None] = lambda: None

    def submit_answered(self, submit: Submit, status: int, upstream_message_id: str, bind_number: int) -> None:
        self.answers.append((submit.message_id, status, upstream_message_id))
        self.bind_numbers.append(bind_number)
        self._changed.set()

    def submits_lost(self, unsure: Sequence[Submit], unsent: Sequence[Submit]) -> None:
        unsure_ids, unsent_ids = list_ids(unsure), list_ids(unsent)
        self.unsure += unsure_ids
        self.unsent += unsent_ids
        self.losses.append((unsure_ids, unsent_ids))
        self._changed.set()

    def handle_delivery(self, message: DeliverSm | DataSm, respond: Respond) -> None:
        self.deliveries.append(message)
        if self.respond_with is None:
            self.responds.append(respond)
        else:
            respond(self.respond_with)
        self._changed.set()

    def room_changed(self) -> None:
        self.on_room()
        self._changed.set()

    def state_changed(self, bind: BindState) -> None:
        self.states.append(bind)
        self._changed.set()

    async def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds, looking after each report."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def wait_for_state(self, state: BindStatus, number: int = 1) -> BindState:
        """Wait until a bind is, or was, in a state since the last call; returns how it was."""
        await self.wait_for(lambda: any((each.state, each.number) == (state, number) for each in self.states))
        found = next(each for each in self.states if (each.state, each.number) == (state, number))
        self.states = self.states[self.states.index(found) + 1 :]
        return found


def list_ids(submits: Iterable[Submit]) -> list[int]:
    return [each.message_id for each in submits]


def build_submit(text: str, destination: str = "393331234567") -> SubmitSm:
    return SubmitSm(0, source="ACME", source_ton=5, destination=destination, short_message=text.encode())


def submit(client: SmppClient, message_id: int, message: SubmitSm, **fields: Any) -> None:
    client.submit(Submit(message_id, message.destination, message.encode(), **fields))


def submit_all(client: SmppClient, ids: Iterable[int], destination: str = "") -> None:
    """Submit messages whose text is their id, each to a destination of its own where none is given."""
    for each in ids:
        submit(client, each, build_submit(str(each), destination or f"39333{each:07d}"))


@asynccontextmanager
async def run_carrier(tls: ssl.SSLContext | None = None) -> AsyncIterator[Carrier]:
    carrier = Carrier()
    await carrier.start(tls)
    try:
        yield carrier
    finally:
        carrier.stop()
        await close_connections()


@asynccontextmanager
async def run_client(port: int, **settings: Any) -> AsyncIterator[tuple[SmppClient, Reports]]:
    """The client; nothing that it does may raise into the event loop."""
    loop = asyncio.get_running_loop()
    raised: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: raised.append(context))
    values = {"host": "127.0.0.1", "system_id": "portal", "password": "secret", "reconnect_seconds": 0.05, **settings}
    client = Reports(ClientSettings(port=port, name="carrier", **values))
    client.start()
    try:
        yield client, client
    finally:
        await close_connections()
        await client.close()
        assert not raised, raised


@asynccontextmanager
async def run_bound_client(
    **settings: Any,
) -> AsyncIterator[tuple[SmppClient, Reports, CarrierConnection, Carrier]]:
    """A carrier, and a client that has one bind there."""
    async with run_carrier() as carrier, run_client(carrier.port, **settings) as (client, reports):
        connection = await carrier.accept()
        await reports.wait_for_state(BindStatus.BOUND)
        yield client, reports, connection, carrier
