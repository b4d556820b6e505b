"""A session under any sequence of PDUs, whole or damaged, cut into pieces anywhere: it answers, nacks and closes as
`smpp.md` promises, and nobody else notices.

One server on one data folder takes the examples of a test in turn, each on a connection of its own.
"""

import asyncio
import logging
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from portal.core import db
from portal.core.config import Config
from portal.services.accounts import accounts
from portal.services.common import credit_amounts
from portal.services.common.audit import SHELL
from portal.services.credits import credits
from portal.services.operations import self_check
from portal.smsc.limits import ServerLimits
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId, CommandStatus
from portal.smsc.protocol.pdu import Bind, DeliverSm, HeaderOnlyPdu, MessageResp, SubmitSm
from portal.smsc.server import SmppServer, get_event_loop_factory
from tests.smsc.esme import RawEsme, Response
from tests.smsc.fuzzing import (
    COMMAND_IDS,
    UNKNOWN_COMMAND_IDS,
    ExpectedResponses,
    PduFuzzer,
    make_pdu,
    make_valid_pdus,
)
from tests.support import Cast

pytestmark = pytest.mark.slow

ANSWERED_IN_S = 5.0
BINDS = (CommandId.BIND_TRANSMITTER, CommandId.BIND_RECEIVER, CommandId.BIND_TRANSCEIVER)
WHOLE = make_valid_pdus(Random(0), 8)
LAST, AFTER_ALL = 0x7A000000, 0x7A000001
many = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Arena:
    """The server, a session on it that does what it should, and the clients that don't."""

    def __init__(self, config: Config, cast: Cast, runner: asyncio.Runner) -> None:
        self.login = cast.smpp_acme_1
        self._bystander_login = cast.smpp_globex_1
        self._config = config
        self._runner = runner
        self.troubles: list[object] = []
        runner.run(self._begin())

    async def _begin(self):
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.troubles.append(context))
        self._server = SmppServer(
            self._config,
            loop,
            lambda: self.troubles.append("the server died"),
            ServerLimits(failed_unbound_per_minute=10**6, wrong_bind_seconds=0),
        )
        self._server.start()
        self._bystander = await RawEsme.connect_and_bind(
            self._server.port, self._bystander_login, CommandId.BIND_TRANSMITTER
        )

    def close(self):
        self._runner.run(self._close())

    async def _close(self):
        self._bystander.abort()
        await self._bystander.close()
        await self._server.close()

    def check_responses(self, octets, cuts=()):
        """Send the octets on a new connection, cut there, and check the responses. Returns the status of each."""
        return self._runner.run(self._check_responses(octets, cuts))

    async def _check_responses(self, octets, cuts):
        client = FuzzClient(
            await RawEsme.connect(self._server.port), ExpectedResponses(self.login.name, self.login.password)
        )
        try:
            await client.send(octets, cuts)
            await client.settle()
        finally:
            await client.close()
        assert client.expected.find_violation(client.received, closed=client.closed, lossy=client.reset) == ""
        assert (await self._bystander.submit(source="GLOBEX", registered_delivery=0)).status == 0
        assert self.troubles == []
        return client.statuses


class FuzzClient:
    """One connection that sends whatever it is given, and knows the responses that it must get."""

    def __init__(self, esme: RawEsme, expected: ExpectedResponses) -> None:
        self.expected = expected
        self.received: Counter[tuple[int, int]] = Counter()
        self.statuses: dict[int, CommandStatus] = {}
        self.closed = False
        self.reset = False
        self._esme = esme
        self._reading = asyncio.ensure_future(self._read())
        self._progress = asyncio.Event()

    async def send(self, octets, cuts):
        edges = [0, *sorted(cut % (len(octets) + 1) for cut in cuts), len(octets)]
        for start, end in pairwise(edges):
            # Anything sent to a connection that is closed resets it, and answers may be lost.
            self.reset = self.reset or self.expected.must_close
            if self.closed or self._esme.writer.is_closing():
                break
            self.expected.record_sent(octets[start:end])
            self._esme.send_octets(octets[start:end])
            with suppress(ConnectionError):
                await self._esme.writer.drain()
            await asyncio.sleep(0)

    async def settle(self):
        """Wait until all has come that must. What comes too much, comes before the answer to one more question."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWERED_IN_S):
                while not self._is_settled():
                    self._progress.clear()
                    await self._progress.wait()
                if not self.expected.must_close:
                    await self.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, AFTER_ALL).encode(), ())
                    while not self._is_settled():
                        self._progress.clear()
                        await self._progress.wait()

    def _is_settled(self):
        return self.closed if self.expected.must_close else self.closed or not self.expected.required - self.received

    async def _read(self):
        try:
            while True:
                message = await self._esme.read_pdu()
                if isinstance(message, DeliverSm):
                    self._esme.send(MessageResp(CommandId.DELIVER_SM_RESP, message.sequence))
                elif isinstance(message, Response) and message.command & RESPONSE_BIT:
                    self.received[message.command, message.sequence] += 1
                    self.statuses[message.sequence] = CommandStatus(message.status)
                self._progress.set()
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            self.reset = self.reset or isinstance(error, ConnectionError)
            self.closed = True
            self._progress.set()

    async def close(self):
        self._reading.cancel()
        with suppress(asyncio.CancelledError):
            await self._reading
        self._esme.abort()
        await self._esme.close()
        RawEsme.open_connections.remove(self._esme)


@pytest.fixture
def arena(
    cast: Cast, conn: db.Connection, limited: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> Iterator[Arena]:
    caplog.set_level(logging.ERROR)
    for login in (cast.smpp_acme_1, cast.smpp_globex_1):
        account = accounts.get_account(conn, login.name)
        accounts.change_account(conn, SHELL, account, windowing=0, throughput=0, binds=0, any_sender=True)
        credits.grant_credits(conn, SHELL, account, 10**6 * credit_amounts.THOUSANDTHS)
    with asyncio.Runner(loop_factory=get_event_loop_factory()) as runner:
        # A wrong password is answered as such, however often; connections without a bind are let in again.
        made = Arena(limited(bind_failures=10**6), cast, runner)
        try:
            yield made
        finally:
            made.close()
    assert made.troubles == []
    assert [each.getMessage() for each in caplog.records if each.exc_info or each.levelno >= logging.ERROR] == []
    assert self_check.list_problem_texts(conn) == []


def bind(sequence, login, command=CommandId.BIND_TRANSCEIVER):
    return Bind(command, sequence, login.name, login.password).encode()


def submit(sequence):
    return SubmitSm(
        sequence, source="ACME", source_ton=5, dest_ton=1, dest_npi=1, destination="393331234567", short_message=b"hi"
    ).encode()


def plain(command, sequence):
    return HeaderOnlyPdu(command, sequence).encode()


def stranger(sequence):
    """A bind of somebody else."""
    return Bind(CommandId.BIND_TRANSCEIVER, sequence, "nobody", "secret").encode()


def arbitrary(sequence, seed):
    """A damaged PDU under that number, its length right."""
    octets = PduFuzzer(Random(seed), WHOLE).next_pdu(bad_framing=0)
    return octets[:12] + struct.pack(">I", sequence) + octets[16:]


# What a client may do, as functions of its number in the sequence and of the login.
whole = st.one_of(
    st.sampled_from(BINDS).map(lambda command: lambda number, login: bind(number, login, command)),
    st.just(lambda number, _: stranger(number)),
    st.just(lambda number, _: submit(number)),
    st.just(lambda number, _: plain(CommandId.ENQUIRE_LINK, number)),
    st.just(lambda number, _: plain(CommandId.UNBIND, number)),
    st.sampled_from(COMMAND_IDS).map(lambda command: lambda number, _: make_pdu(command, sequence=number).encode()),
    # Answers to what the server may have asked, and to what it hasn't.
    st.tuples(st.sampled_from([each for each in COMMAND_IDS if each & RESPONSE_BIT]), st.integers(1, 5)).map(
        lambda which: lambda _number, _login: make_pdu(which[0], sequence=which[1]).encode()
    ),
)
damaged = st.one_of(
    st.integers(0, 2**64).map(lambda seed: lambda number, _: arbitrary(number, seed)),
    st.tuples(st.sampled_from(COMMAND_IDS + UNKNOWN_COMMAND_IDS), st.binary(max_size=60)).map(
        lambda which: lambda number, _: struct.pack(">4I", 16 + len(which[1]), which[0], 0, number) + which[1]
    ),
)
bad_length = st.tuples(
    st.integers(0, pdu.HEADER_LENGTH - 1) | st.integers(pdu.MAX_PDU_LENGTH + 1, 0xFFFFFFFF),
    st.sampled_from(COMMAND_IDS),
).map(lambda which: lambda number, _: struct.pack(">4I", which[0], which[1], 0, number))
first_numbers = st.sampled_from([1, 1000, 0x7FFFFFF0, 0xFFFFFFC0])
cuts: st.SearchStrategy[Sequence[int]] = (
    st.just([]) | st.lists(st.integers(0, 2**16), max_size=20) | st.just(range(2**11))
)


def joined(steps, first, login):
    return b"".join(step(first + number, login) for number, step in enumerate(steps))


@many
@given(st.lists(whole, max_size=15), first_numbers, cuts)
@example([lambda number, login: bind(number, login), lambda number, _: submit(number)] * 2, 1, [])
def test_valid_pdus_in_any_state_are_each_answered_once(arena, steps, first, cuts):
    arena.check_responses(joined(steps, first, arena.login), cuts)


@many
@given(st.lists(damaged | whole, max_size=15), first_numbers, cuts, st.booleans())
def test_malformed_pdus_among_others_are_each_answered_once(arena, steps, first, cuts, bound):
    before = bind(LAST, arena.login) if bound else b""
    arena.check_responses(before + joined(steps, first, arena.login), cuts)


@many
@given(st.lists(damaged | whole, max_size=8), bad_length, st.binary(max_size=40), cuts, st.booleans())
def test_a_bad_length_ends_the_session_and_what_came_before_is_answered(arena, steps, bad, after, cuts, bound):
    before = bind(LAST, arena.login) if bound else b""
    arena.check_responses(before + joined([*steps, bad], 1, arena.login) + after, cuts)


@many
@given(st.binary(max_size=600), cuts, st.booleans())
def test_noise_harms_nobody(arena, noise, cuts, bound):
    arena.check_responses((bind(LAST, arena.login) if bound else b"") + noise, cuts)


@many
@given(st.lists(damaged | whole, min_size=15, max_size=40), cuts)
def test_who_does_not_bind_is_heard_for_a_while(arena, steps, cuts):
    arena.check_responses(joined(steps, 1, arena.login), cuts)


@many
@given(st.sampled_from(BINDS), st.lists(st.sampled_from(COMMAND_IDS), max_size=10), cuts)
def test_each_state_allows_what_it_should(arena, kind, commands, cuts):
    requests = [each for each in commands if not each & RESPONSE_BIT and each not in (*BINDS, CommandId.UNBIND)]
    steps = [make_pdu(command, sequence=number).encode() for number, command in enumerate(requests, 100)]
    unbound = arena.check_responses(b"".join(steps) + stranger(1) + plain(CommandId.UNBIND, 2), cuts)
    for number, command in enumerate(requests, 100):
        allowed = command == CommandId.ENQUIRE_LINK
        assert unbound[number] == (CommandStatus.ESME_ROK if allowed else CommandStatus.ESME_RINVBNDSTS), hex(command)
    assert unbound[1] == CommandStatus.ESME_RINVPASWD
    assert unbound[2] == CommandStatus.ESME_RINVBNDSTS
    bound = arena.check_responses(
        bind(1, arena.login, kind) + b"".join(steps) + bind(2, arena.login) + submit(3) + plain(CommandId.UNBIND, 4),
        cuts,
    )
    assert (bound[1], bound[2], bound[4]) == (
        CommandStatus.ESME_ROK,
        CommandStatus.ESME_RALYBND,
        CommandStatus.ESME_ROK,
    )
    assert bound[3] == (CommandStatus.ESME_RINVBNDSTS if kind == CommandId.BIND_RECEIVER else CommandStatus.ESME_ROK)
    for number, command in enumerate(requests, 100):
        if command == CommandId.ENQUIRE_LINK:
            assert bound[number] == CommandStatus.ESME_ROK
        elif command == CommandId.DELIVER_SM or kind == CommandId.BIND_RECEIVER:
            assert bound[number] == CommandStatus.ESME_RINVBNDSTS, hex(command)
