"""Binds that come soon after a wrong one: one wrong try a second is looked at, ten wait, and the right one gets in."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address

import pytest

from portal.core import db
from portal.core.config import Config
from portal.services.accounts import refused_binds
from portal.smsc.admission.bind_turns import MAX_WAITING
from portal.smsc.connection import session
from portal.smsc.limits import DEFAULT_SERVER_LIMITS
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import Bind, HeaderOnlyPdu
from portal.smsc.server import SmppServer
from tests.smsc.esme import RawEsme, close_connections, list_sessions, run_smsc, wait_until
from tests.support import Cast, list_refused_binds

pytestmark = pytest.mark.slow

TURN_SECONDS = 0.3
QUICK = replace(DEFAULT_SERVER_LIMITS, wrong_bind_seconds=TURN_SECONDS)
# Longer than a test waits for anything.
NEVER = replace(DEFAULT_SERVER_LIMITS, wrong_bind_seconds=60.0)
STRANGER = "127.0.0.2"


async def fail_bind(server: SmppServer, system_id: str, address: str | None = None) -> None:
    """Bind with a wrong password, which is looked at at once."""
    esme = await RawEsme.connect(server.port, from_address=address)
    assert await esme.bind(system_id, "wrong") == CommandStatus.ESME_RINVPASWD


async def send_bind(server: SmppServer, system_id: str, password: str, address: str | None = None) -> RawEsme:
    """Send a bind with the sequence number 1, and wait until the server has read it."""
    esme = await RawEsme.connect(server.port, from_address=address)
    esme.send(Bind(CommandId.BIND_TRANSCEIVER, next(esme.sequences), system_id, password))
    # What comes behind it on the connection is answered once it is read.
    assert (await esme.request(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1000))).status == 0
    return esme


async def wait_for_bind_answers(esmes: Sequence[RawEsme]) -> dict[RawEsme, int]:
    """Wait until some of those that have sent a bind have their answer; returns the answers' statuses."""
    waiting = {asyncio.create_task(each.wait_for_response(1)): each for each in esmes}
    done, others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return {waiting[each]: each.result().status for each in done}


def count_waiting(server: SmppServer) -> int:
    return sum(server.bind_auth.turns.is_waiting(each) for each in list_sessions(server))


@pytest.mark.parametrize("system_id", ["smpp-acme-1", "smpp-nobody"])
@pytest.mark.parametrize("address", ["127.0.0.1", STRANGER])
async def test_one_wrong_try_a_second_is_looked_at(config: Config, cast: Cast, system_id: str, address: str) -> None:
    """Whether there is such an account or not, and wherever the client is: so nobody learns which there are."""
    async with run_smsc(config, QUICK) as server:
        began = time.monotonic()
        await fail_bind(server, system_id, address)
        waiting = [await send_bind(server, system_id, f"wrong {number}", address) for number in range(3)]
        for number, each in enumerate(waiting, 1):
            assert (await each.wait_for_response(1)).status == CommandStatus.ESME_RINVPASWD
            assert time.monotonic() - began >= number * TURN_SECONDS
        key = (ip_address(address), system_id)
        await wait_until(lambda: not server.bind_auth.turns.must_wait(key))


async def test_ten_wait_and_one_more_has_one_refused_at_once(config: Config, cast: Cast, conn: db.Connection) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, NEVER) as server:
        await fail_bind(server, login.name)
        waiting = [await send_bind(server, login.name, f"wrong {number}") for number in range(MAX_WAITING)]
        assert count_waiting(server) == MAX_WAITING == 10
        waiting.append(await send_bind(server, login.name, "another"))
        assert [*(await wait_for_bind_answers(waiting)).values()] == [CommandStatus.ESME_RBINDTHROTTLED]
        assert count_waiting(server) == MAX_WAITING
        rows = await wait_until(lambda: len(rows := list_refused_binds(conn, login.id)) == 2 and rows)
        assert {each.reason for each in rows} == {refused_binds.WRONG_PASSWORD, refused_binds.THROTTLED}


async def test_many_with_one_old_password_leave_a_place_to_the_right_one(
    config: Config, cast: Cast, conn: db.Connection
) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, QUICK) as server:
        await fail_bind(server, login.name)
        old = [await send_bind(server, login.name, "old") for _ in range(MAX_WAITING)]
        right = await send_bind(server, login.name, login.password)
        answers = await wait_for_bind_answers(old)
        assert [*answers.values()] == [CommandStatus.ESME_RBINDTHROTTLED]
        assert (await right.wait_for_response(1)).status == 0
        assert count_waiting(server) > MAX_WAITING // 2, "it comes after all the others"
        others = await wait_for_bind_answers([each for each in old if each not in answers])
        assert {*others.values()} == {CommandStatus.ESME_RINVPASWD}
        rows = await wait_until(lambda: len(rows := list_refused_binds(conn, login.id)) == 2 and rows)
        assert {each.reason: each.count for each in rows}[refused_binds.THROTTLED] == 1


async def test_clients_that_hammer_with_an_old_password_do_not_keep_the_right_one_out(
    config: Config, cast: Cast
) -> None:
    login = cast.smpp_acme_1
    statuses: set[int] = set()

    async def hammer(server: SmppServer) -> None:
        while True:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                esme = await RawEsme.connect(server.port)
                for _ in range(10):
                    statuses.add(await esme.bind(login.name, "old"))
                await esme.close()

    async with run_smsc(config, replace(QUICK, failed_unbound_per_minute=10**6)) as server:
        hammers = [asyncio.create_task(hammer(server)) for _ in range(2 * MAX_WAITING)]
        try:
            await wait_until(lambda: CommandStatus.ESME_RBINDTHROTTLED in statuses)
            for _ in range(3):
                began = time.monotonic()
                esme = await RawEsme.connect_and_bind(server.port, login)
                assert time.monotonic() - began < MAX_WAITING * TURN_SECONDS
                await esme.request(HeaderOnlyPdu(CommandId.UNBIND, 99))
                await esme.wait_for_close()
        finally:
            for each in hammers:
                each.cancel()
            await asyncio.gather(*hammers, return_exceptions=True)
    assert statuses == {CommandStatus.ESME_RINVPASWD, CommandStatus.ESME_RBINDTHROTTLED}


async def test_clients_that_all_bring_another_wrong_password_do_not_keep_the_right_one_out(
    config: Config, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were refused on their connection before make room."""
    login = cast.smpp_acme_1
    monkeypatch.setattr(session, "MAX_PDUS_BEFORE_BIND", 10**9)
    refused: set[int] = set()

    async def keep_trying(server: SmppServer, number: int) -> None:
        esme = await RawEsme.connect(server.port)
        while True:
            await esme.bind(login.name, f"wrong {number}")
            refused.add(number)

    async with run_smsc(config, replace(QUICK, wrong_bind_seconds=0.1)) as server:
        clients = [asyncio.create_task(keep_trying(server, number)) for number in range(2 * MAX_WAITING)]
        try:
            await wait_until(lambda: len(refused) == len(clients), 20)
            for _ in range(3):
                esme = await RawEsme.connect_and_bind(server.port, login)
                await esme.request(HeaderOnlyPdu(CommandId.UNBIND, 99))
                await esme.wait_for_close()
        finally:
            for each in clients:
                each.cancel()
            await asyncio.gather(*clients, return_exceptions=True)


async def test_where_all_bring_another_password_anyone_makes_room(config: Config, cast: Cast) -> None:
    name = cast.smpp_acme_1.name
    async with run_smsc(config, NEVER) as server:
        await fail_bind(server, name)
        waiting = [await send_bind(server, name, f"wrong {number}") for number in range(MAX_WAITING)]
        arrived, refused_numbers = waiting.copy(), []
        for number in range(30):
            arrived.append(await send_bind(server, name, f"fresh {number}"))
            waiting.append(arrived[-1])
            ((refused, status),) = (await wait_for_bind_answers(waiting)).items()
            assert status == CommandStatus.ESME_RBINDTHROTTLED
            waiting.remove(refused)
            refused_numbers.append(arrived.index(refused))
        assert refused_numbers != sorted(refused_numbers), "neither always the newest nor always the oldest"
        # Whoever tries again on the same connection makes room before the others.
        for number in range(5):
            assert await refused.bind(name, f"again {number}") == CommandStatus.ESME_RBINDTHROTTLED


async def test_right_ones_that_wait_get_in_together(
    config: Config, cast: Cast, change_account: Callable[..., None]
) -> None:
    login = cast.smpp_acme_1
    change_account(binds=0)
    async with run_smsc(config, QUICK) as server:
        await fail_bind(server, login.name)
        began = time.monotonic()
        waiting = [await send_bind(server, login.name, login.password) for _ in range(MAX_WAITING)]
        assert [(await each.wait_for_response(1)).status for each in waiting] == [0] * MAX_WAITING
        assert time.monotonic() - began < MAX_WAITING * TURN_SECONDS


@pytest.mark.parametrize("number_behind", [0, 1])
async def test_an_error_in_a_turn_leaves_the_turns_of_others(
    config: Config, cast: Cast, monkeypatch: pytest.MonkeyPatch, number_behind: int
) -> None:
    login = cast.smpp_acme_1
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context.get("exception")))
    async with run_smsc(config, QUICK) as server:
        await fail_bind(server, login.name)
        await send_bind(server, login.name, "another")
        (waiting,) = [each for each in list_sessions(server) if server.bind_auth.turns.is_waiting(each)]
        behind = [await send_bind(server, login.name, login.password) for _ in range(number_behind)]
        fault = RuntimeError("a fault in a turn")
        take_turn = session.SmppSession.take_turn

        def take_turn_or_fail(client: session.SmppSession, bind: Bind) -> None:
            if client is waiting:
                raise fault
            take_turn(client, bind)

        monkeypatch.setattr(session.SmppSession, "take_turn", take_turn_or_fail)
        await wait_until(lambda: errors)
        for each in behind:
            assert (await each.wait_for_response(1)).status == 0
        await wait_until(lambda: not server.bind_auth.turns.must_wait((ip_address("127.0.0.1"), login.name)))
        assert errors == [fault]


async def test_nobody_else_waits(config: Config, cast: Cast) -> None:
    async with run_smsc(config, NEVER) as server:
        await fail_bind(server, cast.smpp_acme_1.name, STRANGER)
        await RawEsme.connect_and_bind(server.port, cast.smpp_acme_1)
        await fail_bind(server, cast.smpp_acme_1.name)
        await RawEsme.connect_and_bind(server.port, cast.smpp_globex_1)


async def test_what_comes_while_a_bind_waits_is_answered_as_before_it(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, QUICK) as server:
        await fail_bind(server, login.name)
        esme = await send_bind(server, login.name, login.password)
        assert (await esme.submit()).status == CommandStatus.ESME_RINVBNDSTS
        assert await esme.bind(login.name, login.password) == CommandStatus.ESME_RALYBND
        assert (await esme.wait_for_response(1)).status == 0
        assert (await esme.submit()).status == 0


async def test_the_time_to_bind_does_not_end_a_wait(limited: Callable[..., Config], cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(limited(bind_seconds=0.1), QUICK) as server:
        await fail_bind(server, login.name)
        esme = await send_bind(server, login.name, login.password)
        assert (await esme.wait_for_response(1)).status == 0


async def test_those_that_wait_where_they_are_authorised_make_no_room_in_half_of_the_places(
    limited: Callable[..., Config], cast: Cast
) -> None:
    acme, globex = cast.smpp_acme_1, cast.smpp_globex_1
    async with run_smsc(limited(unbound=4), NEVER) as server:
        for system_id, address in (
            (acme.name, None),
            (globex.name, None),
            ("smpp-nobody", None),
            (acme.name, STRANGER),
        ):
            await fail_bind(server, system_id, address)
        await close_connections()
        await wait_until(lambda: not list_sessions(server))

        async def connect() -> RawEsme:
            """A silent connection that the server knows of."""
            esme = await RawEsme.connect(server.port, from_address="127.0.0.3")
            assert (await esme.request(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1000))).status == 0
            return esme

        first = await send_bind(server, acme.name, "another")
        stranger = await send_bind(server, acme.name, acme.password, STRANGER)
        unknown = await send_bind(server, "smpp-nobody", "wrong")
        second = await send_bind(server, globex.name, globex.password)
        assert count_waiting(server) == 4
        silent = await connect()
        await stranger.wait_for_close()
        await connect()
        await unknown.wait_for_close()
        third = await send_bind(server, acme.name, acme.password)
        await silent.wait_for_close()
        # The one that came after it goes, and then it does, for two wait before it.
        await connect()
        assert count_waiting(server) == 3
        await connect()
        await third.wait_for_close()
        assert count_waiting(server) == 2
        for each in (first, second):
            assert (await each.request(HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1001))).status == 0


async def test_waits_give_a_connection_more_time_to_bind_only_once(limited: Callable[..., Config], cast: Cast) -> None:
    turn_seconds, bind_seconds, probe_seconds = 0.1, 0.2, 0.1
    limits = replace(DEFAULT_SERVER_LIMITS, wrong_bind_seconds=turn_seconds, probe_seconds=probe_seconds)
    async with run_smsc(limited(bind_seconds=bind_seconds), limits) as server:
        esme = await RawEsme.connect(server.port)
        answers = 0
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await esme.bind(cast.smpp_acme_1.name, "wrong") == CommandStatus.ESME_RINVPASWD:
                answers += 1
    seconds = MAX_WAITING * turn_seconds + probe_seconds + bind_seconds
    # The first one doesn't wait.
    assert answers <= 1 + seconds / turn_seconds < session.MAX_PDUS_BEFORE_BIND


async def test_a_client_that_goes_away_while_it_waits_leaves_its_place(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, NEVER) as server:
        await fail_bind(server, login.name)
        waiting = [await send_bind(server, login.name, f"wrong {number}") for number in range(MAX_WAITING)]
        waiting[4].abort()
        await wait_until(lambda: count_waiting(server) == MAX_WAITING - 1)
        await send_bind(server, login.name, login.password)
        assert count_waiting(server) == MAX_WAITING


async def test_one_that_finds_no_place_at_its_turn_is_told_so(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, QUICK) as server:
        bound = await RawEsme.connect_and_bind(server.port, login)
        await fail_bind(server, login.name)
        esme = await send_bind(server, login.name, login.password)
        assert (await esme.wait_for_response(1)).status == CommandStatus.ESME_RALYBND
        assert (await bound.submit()).status == 0


async def test_a_wait_ends_with_the_server(config: Config, cast: Cast) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, NEVER) as server:
        await fail_bind(server, login.name)
        esme = await send_bind(server, login.name, login.password)
        (waiting,) = [each for each in list_sessions(server) if server.bind_auth.turns.is_waiting(each)]
        waiting.unbind("the server stops")
        await esme.wait_for_close()
        assert not server.bind_auth.turns.is_waiting(waiting)


async def test_what_is_changed_while_a_bind_waits_holds_at_its_turn(
    config: Config, cast: Cast, change_account: Callable[..., None]
) -> None:
    login = cast.smpp_acme_1
    async with run_smsc(config, QUICK) as server:
        await fail_bind(server, login.name)
        esme = await send_bind(server, login.name, login.password)
        change_account(disabled_at=1)
        assert (await esme.wait_for_response(1)).status == CommandStatus.ESME_RBINDFAIL
