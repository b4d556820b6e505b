"""Binds that find no place: silent sessions are asked, and a dead one gives up its place."""

import asyncio
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from portal.core import db
from portal.core.config import Config
from portal.services.accounts import refused_binds, session_records
from portal.smsc.limits import DEFAULT_SERVER_LIMITS
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import Bind, HeaderOnlyPdu
from portal.smsc.server import SmppServer
from tests.smsc.esme import RawEsme, get_account_config, list_sessions, make_tls_client_context, run_smsc, wait_until
from tests.support import AccountLogin, Cast, list_refused_binds

PROBE_SECONDS = 0.3
LIMITS = replace(DEFAULT_SERVER_LIMITS, probe_seconds=PROBE_SECONDS)
# Longer than a test waits for anything.
TOO_LONG_SECONDS = 60.0
TRANSMITTER, RECEIVER, TRANSCEIVER = (
    CommandId.BIND_TRANSMITTER,
    CommandId.BIND_RECEIVER,
    CommandId.BIND_TRANSCEIVER,
)


async def wait_until_silent(server: SmppServer, seconds: float = PROBE_SECONDS) -> None:
    """Wait until no session was heard for so long."""
    loop = asyncio.get_running_loop()
    await wait_until(lambda: all(each.last_received_at <= loop.time() - seconds for each in list_sessions(server)))


async def bind_silently(server: SmppServer, login: AccountLogin, *commands: CommandId) -> list[RawEsme]:
    """Bind clients that answer nothing, and wait until the server takes them for silent."""
    dead = [await RawEsme.connect_and_bind(server.port, login, command) for command in commands]
    await wait_until_silent(server)
    return dead


async def send_bind(server: SmppServer, login: AccountLogin, command: CommandId = TRANSCEIVER) -> RawEsme:
    """Send a bind with the sequence number 1, and wait until it waits."""
    esme = await RawEsme.connect(server.port)
    count = len(server.waiting_binds.by_client)
    esme.send(Bind(command, next(esme.sequences), login.name, login.password))
    await wait_until(lambda: len(server.waiting_binds.by_client) > count)
    return esme


@pytest.fixture
def vanished_client(cast: Cast) -> Iterator[Callable[[int, ssl.SSLContext | None], socket.socket]]:
    """Binds a client as a thread of its own would, which then reads nothing and says nothing."""
    clients: list[socket.socket] = []

    def bind(port: int, tls: ssl.SSLContext | None) -> socket.socket:
        login = cast.smpp_acme_1
        client = socket.create_connection(("127.0.0.1", port))
        client = tls.wrap_socket(client) if tls else client
        clients.append(client)
        client.sendall(Bind(TRANSCEIVER, 1, login.name, login.password).encode())
        assert client.recv(1000)[8:12] == bytes(4)
        return client

    yield bind
    for each in clients:
        each.close()


@pytest.mark.slow
@pytest.mark.parametrize("has_tls", [False, True], ids=["unsecured", "TLS"])
async def test_a_dead_session_gives_up_its_place_within_seconds(
    config: Config,
    cast: Cast,
    conn: db.Connection,
    vanished_client: Callable[[int, ssl.SSLContext | None], socket.socket],
    has_tls: bool,
) -> None:
    login = cast.smpp_acme_1
    tls = make_tls_client_context()
    async with run_smsc(config) as server:
        port, context = (server.tls_port, tls) if has_tls else (server.port, None)
        await asyncio.to_thread(vanished_client, port, context)
        await wait_until_silent(server, DEFAULT_SERVER_LIMITS.probe_seconds)
        began = time.monotonic()
        esme = await RawEsme.connect_and_bind(port, login, tls=context)
        # Without the place of the dead one it would be refused at once.
        assert time.monotonic() - began >= DEFAULT_SERVER_LIMITS.probe_seconds
        assert (await esme.submit()).status == 0
        await esme.receive_deliver_sm()
        (session,) = list_sessions(server)
        assert session.accepted_bind
        assert server.storage._bind_counts[session.accepted_bind.account.id, session.kind] == 1
        await wait_until(lambda: len(session_records.list_open_smpp_sessions(conn, login.id)) == 1)
        assert not list_refused_binds(conn, login.id)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("open_binds", "command"),
    [
        ([TRANSMITTER], TRANSMITTER),
        ([RECEIVER], RECEIVER),
        ([TRANSCEIVER], TRANSMITTER),
        ([RECEIVER], TRANSCEIVER),
        ([TRANSMITTER, RECEIVER], TRANSCEIVER),
    ],
)
async def test_the_place_of_each_kind(
    config: Config, cast: Cast, open_binds: list[CommandId], command: CommandId
) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, LIMITS) as server:
        dead = await bind_silently(server, login, *open_binds)
        esme = await send_bind(server, login, command)
        assert (await esme.wait_for_response(1)).status == 0
        for each in dead:
            await each.wait_for_close()


@pytest.mark.slow
async def test_a_dead_pair_comes_back_together(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, LIMITS) as server:
        dead = await bind_silently(server, login, TRANSMITTER, RECEIVER)
        waiting = [await send_bind(server, login, command) for command in (TRANSMITTER, RECEIVER)]
        assert [(await each.wait_for_response(1)).status for each in waiting] == [0, 0]
        for each in dead:
            await each.wait_for_close()


@pytest.mark.slow
async def test_a_client_that_waits_takes_no_place_from_those_without_a_bind(
    limited: Callable[..., Config], cast: Cast
) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(limited(unbound_per_address=1), replace(LIMITS, probe_seconds=TOO_LONG_SECONDS)) as server:
        await RawEsme.connect_and_bind(server.port, login)
        next(iter(list_sessions(server))).last_received_at -= 2 * TOO_LONG_SECONDS
        await send_bind(server, login)
        esme = await RawEsme.connect(server.port)
        assert (await esme.request(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 7))).status == 0


async def test_one_that_is_not_read_at_this_moment_is_not_dead(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, LIMITS) as server:
        await RawEsme.connect_and_bind(server.port, login)
        (session,) = list_sessions(server)
        session.last_received_at -= 60
        session.pause_writing()  # as where it doesn't read what it is sent
        session.send_enquire_link()
        esme = await RawEsme.connect(server.port)
        assert await esme.bind(login.name, login.password) == CommandStatus.ESME_RALYBND


async def test_to_read_again_after_a_pause_is_no_sign_of_life(config: Config, cast: Cast) -> None:
    async with run_smsc(config, LIMITS) as server:
        await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        (session,) = list_sessions(server)
        last_received_at = session.last_received_at
        session._pause_reading_briefly()
        await wait_until(lambda: not session.is_reading_paused)
        assert session.last_received_at == last_received_at


@pytest.mark.slow
async def test_a_session_of_another_kind_is_left_alone(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, LIMITS) as server:
        receiver, _ = await bind_silently(server, login, RECEIVER, TRANSMITTER)
        esme = await send_bind(server, login, TRANSMITTER)
        assert (await esme.wait_for_response(1)).status == 0
        assert (await receiver.request(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 9))).status == 0


async def test_one_that_answers_keeps_its_place_and_the_other_is_refused_soon(
    config: Config, cast: Cast, conn: db.Connection
) -> None:
    login = cast.smpp_acme_1
    # Not as late as it would be without an answer.
    async with run_smsc(config, replace(LIMITS, probe_seconds=TOO_LONG_SECONDS)) as server:
        alive = await RawEsme.connect_and_bind(server.port, login)
        (session,) = list_sessions(server)
        session.last_received_at -= 2 * TOO_LONG_SECONDS  # it is silent, and answers when it is asked
        esme = await send_bind(server, login)
        enquiry = await alive.wait_for_pdu(CommandId.ENQUIRE_LINK)
        alive.send(HeaderOnlyPdu(CommandId.ENQUIRE_LINK_RESP, enquiry.sequence))
        assert (await esme.wait_for_response(1)).status == CommandStatus.ESME_RALYBND
        assert (await alive.submit()).status == 0
        (row,) = await wait_until(lambda: list_refused_binds(conn, login.id))
        assert (row.reason, row.count) == (refused_binds.TOO_MANY_BINDS, 1)
        # The same connection may try again.
        assert await esme.bind(login.name, login.password) == CommandStatus.ESME_RALYBND


async def test_any_octet_is_an_answer(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, LIMITS) as server:
        (alive,) = await bind_silently(server, login, TRANSCEIVER)
        esme = await send_bind(server, login)
        await alive.wait_for_pdu(CommandId.ENQUIRE_LINK)
        alive.send_octets(b"\0")
        assert (await esme.wait_for_response(1)).status == CommandStatus.ESME_RALYBND


async def test_where_none_is_silent_it_is_refused_at_once(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, replace(LIMITS, probe_seconds=TOO_LONG_SECONDS)) as server:
        await RawEsme.connect_and_bind(server.port, login)
        esme = await RawEsme.connect(server.port)
        assert await esme.bind(login.name, login.password) == CommandStatus.ESME_RALYBND
        assert all(each.unanswered_since is None for each in list_sessions(server) if each.accepted_bind)


@pytest.mark.slow
async def test_as_many_wait_as_sessions_may_be_dead_and_each_gets_a_place(
    config: Config, cast: Cast, change_account: Callable[..., None]
) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, LIMITS) as server:
        change_account(binds=3)
        await wait_until(lambda: get_account_config(server, login.name).binds == 3)
        dead = await bind_silently(server, login, TRANSCEIVER, TRANSCEIVER, TRANSCEIVER)
        waiting = [await send_bind(server, login) for _ in range(3)]
        fourth = await RawEsme.connect(server.port)
        assert await fourth.bind(login.name, login.password) == CommandStatus.ESME_RALYBND
        assert [(await each.wait_for_response(1)).status for each in waiting] == [0, 0, 0]
        for each in dead:
            await each.wait_for_close()


@pytest.mark.slow
async def test_no_more_sessions_end_than_are_needed(
    config: Config, cast: Cast, change_account: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, LIMITS) as server:
        change_account(binds=2)
        await wait_until(lambda: get_account_config(server, login.name).binds == 2)
        longest_silent, other = await bind_silently(server, login, TRANSCEIVER, TRANSCEIVER)
        esme = await send_bind(server, login)
        assert (await esme.wait_for_response(1)).status == 0
        await longest_silent.wait_for_close()
        said = (
            r"disconnecting smpp-acme-1 from 127\.0\.0\.1, session \d+: it does not answer enquire_link, and its place"
        )
        assert re.search(said, caplog.text)
        assert (await other.submit()).status == 0


async def test_a_place_that_becomes_free_meanwhile_is_taken(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, replace(LIMITS, probe_seconds=TOO_LONG_SECONDS)) as server:
        old = await RawEsme.connect_and_bind(server.port, login)
        (session,) = list_sessions(server)
        session.last_received_at -= 2 * TOO_LONG_SECONDS
        esme = await send_bind(server, login)
        await old.request(HeaderOnlyPdu(CommandId.UNBIND, 9))
        assert (await esme.wait_for_response(1)).status == 0


async def test_one_that_waits_while_the_other_unbinds(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config) as server:
        old = await RawEsme.connect_and_bind(server.port, login)
        (session,) = list_sessions(server)
        session.unbind("a test wants it")
        esme = await send_bind(server, login)
        await old.wait_for_unbind()
        assert (await esme.wait_for_response(1)).status == 0


async def test_a_client_that_goes_away_while_it_waits_leaves_nothing_behind(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, LIMITS) as server:
        (dead,) = await bind_silently(server, login, TRANSCEIVER)
        esme = await send_bind(server, login)
        esme.abort()
        await wait_until(lambda: len(list_sessions(server)) == 1)
        assert not server.waiting_binds.by_client
        assert (await dead.submit()).status == 0


async def test_an_account_that_is_disabled_meanwhile_is_refused_as_such(
    config: Config, cast: Cast, change_account: Callable[..., None]
) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, LIMITS) as server:
        await bind_silently(server, login, TRANSCEIVER)
        esme = await send_bind(server, login)
        change_account(disabled_at=1)
        assert (await esme.wait_for_response(1)).status == CommandStatus.ESME_RBINDFAIL


@pytest.mark.slow
async def test_the_time_to_bind_does_not_end_a_wait(limited: Callable[..., Config], cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(limited(bind_seconds=0.2), LIMITS) as server:
        await bind_silently(server, login, TRANSCEIVER)
        esme = await send_bind(server, login)
        assert (await esme.wait_for_response(1)).status == 0


@pytest.mark.slow
async def test_what_comes_while_a_bind_waits_is_answered_as_before_it(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, LIMITS) as server:
        await bind_silently(server, login, TRANSCEIVER)
        esme = await send_bind(server, login)
        assert (await esme.request(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 7))).status == 0
        assert (await esme.submit()).status == CommandStatus.ESME_RINVBNDSTS
        assert await esme.bind(login.name, login.password) == CommandStatus.ESME_RALYBND
        assert (await esme.wait_for_response(1)).status == 0
        assert (await esme.submit()).status == 0


async def test_a_wait_ends_with_the_server(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config) as server:
        await RawEsme.connect_and_bind(server.port, login)
        next(iter(list_sessions(server))).last_received_at -= 60
        esme = await send_bind(server, login)
        (waiting,) = [each for each in list_sessions(server) if not each.accepted_bind]
        waiting.unbind("the server stops")
        await esme.wait_for_close()
        assert not server.waiting_binds.by_client


@pytest.mark.slow
async def test_an_enquire_link_that_was_asked_early_has_its_time(limited: Callable[..., Config], cast: Cast) -> None:
    """Where nobody needs the place any more, the client has as long as after any other."""
    login = cast.smpp_acme_1
    async with run_smsc(limited(enquire_link_seconds=1, response_seconds=1), LIMITS) as server:
        (dead,) = await bind_silently(server, login, TRANSCEIVER)
        esme = await send_bind(server, login)
        asked_at = time.monotonic()
        esme.abort()
        await dead.wait_for_close()
        assert time.monotonic() - asked_at > 0.9
