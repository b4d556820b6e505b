"""Guessing a bind's password: ten tries a minute, by address and by system_id, and nobody else is locked out; one a
second at an address that is authorised.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from portal.smsc.admission.bind_turns import MAX_WAITING
from portal.smsc.protocol.constants import CommandId, CommandStatus
from portal.smsc.protocol.pdu import HeaderOnlyPdu
from tests.faults.conftest import ReportCounts
from tests.smsc.esme import DEADLINE_S, RawEsme
from tests.support import AccountLogin, Cast, RunningServer

STRANGER = "127.0.0.2"
_A_CONNECTION = 10  # of the 20 PDUs that may come before a bind
_FAILURES = 10
_A_MINUTE_S = 60.0


@pytest.fixture
def server(serve_alone: Callable[..., RunningServer]) -> RunningServer:
    return serve_alone("smsc")


async def guess(server: RunningServer, system_ids: Sequence[str], address: str) -> list[int]:
    """Try to bind by these names; the answers' statuses."""
    statuses = []
    for start in range(0, len(system_ids), _A_CONNECTION):
        esme = await RawEsme.connect(server.port, from_address=address)
        statuses += [await esme.bind(each, "guess") for each in system_ids[start : start + _A_CONNECTION]]
        await esme.close()
    return statuses


async def bind(server: RunningServer, login: AccountLogin, address: str = "127.0.0.1") -> int:
    """Bind with the right password, and unbind; the status of the bind."""
    esme = await RawEsme.connect(server.port, from_address=address)
    status = await esme.bind(login.name, login.password)
    if status == 0:
        await esme.request(HeaderOnlyPdu(CommandId.UNBIND, 99))
    await esme.close()
    return status


@pytest.mark.parametrize("what", ["one account", "many accounts"])
async def test_an_address_may_fail_ten_times_a_minute(
    server: RunningServer, cast: Cast, tell: ReportCounts, what: str
) -> None:
    names = [cast.smpp_acme_1.name] * 200 if what == "one account" else [f"smpp-nobody-{each}" for each in range(200)]
    looked_at = CommandStatus.ESME_RINVPASWD
    began = time.monotonic()
    statuses = await guess(server, names, STRANGER)
    forgotten = 1 + (time.monotonic() - began) * _FAILURES / _A_MINUTE_S
    assert statuses[:_FAILURES] == [looked_at] * _FAILURES
    seen = Counter(statuses)
    assert seen.keys() == {looked_at, CommandStatus.ESME_RBINDTHROTTLED}
    assert seen[looked_at] <= _FAILURES + forgotten
    # Nor does it learn anything about others, while those are not disturbed.
    assert await guess(server, [cast.smpp_globex_1.name], STRANGER) == [CommandStatus.ESME_RBINDTHROTTLED]
    assert await bind(server, cast.smpp_acme_1) == 0
    assert await bind(server, cast.smpp_globex_1) == 0
    tell(guesses=len(names), looked_at=seen[looked_at], throttled=seen[CommandStatus.ESME_RBINDTHROTTLED])


async def test_an_account_may_be_guessed_at_ten_times_a_minute(
    server: RunningServer, cast: Cast, tell: ReportCounts
) -> None:
    name = cast.smpp_acme_1.name
    addresses = [f"127.0.1.{number}" for number in range(1, 101)]
    statuses = [(await guess(server, [name], address))[0] for address in addresses]
    assert statuses[:_FAILURES] == [CommandStatus.ESME_RINVPASWD] * _FAILURES
    seen = Counter(statuses)
    assert seen[CommandStatus.ESME_RBINDTHROTTLED] >= len(addresses) - 2 * _FAILURES
    assert await bind(server, cast.smpp_acme_1) == 0, "the right client from its own address is locked out"
    tell(addresses=len(addresses), throttled=seen[CommandStatus.ESME_RBINDTHROTTLED])


async def test_a_throttled_bind_is_refused_with_the_right_password_too_and_released_with_time(
    serve_alone: Callable[..., RunningServer], cast: Cast, tell: ReportCounts
) -> None:
    a_minute = 60
    server = serve_alone("smsc", PORTAL_LIMITS_BIND_FAILURES=str(a_minute))
    # One of each: those of one would wait for each other.
    statuses = await guess(server, [f"smpp-nobody-{each}" for each in range(2 * a_minute)], STRANGER)
    assert statuses[:a_minute] == [CommandStatus.ESME_RINVPASWD] * a_minute
    assert statuses[-1] == CommandStatus.ESME_RBINDTHROTTLED
    assert await bind(server, cast.smpp_acme_1, STRANGER) == CommandStatus.ESME_RBINDTHROTTLED
    assert await bind(server, cast.smpp_acme_1) == 0, "the right client from its own address is locked out"
    began = time.monotonic()
    while (status := await bind(server, cast.smpp_acme_1, STRANGER)) == CommandStatus.ESME_RBINDTHROTTLED:
        assert time.monotonic() < began + DEADLINE_S
        # Connections that don't bind are counted as well, 600 a minute.
        await asyncio.sleep(0.05)
    assert status == CommandStatus.ESME_RINVPASWD
    tell(released_after_ms=int((time.monotonic() - began) * 1000))


async def test_at_an_authorised_address_the_right_password_gets_in_among_wrong_ones(
    server: RunningServer, cast: Cast, tell: ReportCounts
) -> None:
    login = cast.smpp_acme_1
    began = time.monotonic()
    guesses = [asyncio.create_task(guess(server, [login.name], "127.0.0.1")) for _ in range(3 * MAX_WAITING)]
    # All but those that wait have had their answers.
    while sum(not each.done() for each in guesses) > MAX_WAITING:
        await asyncio.wait([each for each in guesses if not each.done()], return_when=asyncio.FIRST_COMPLETED)
    asked_at = time.monotonic()
    assert await bind(server, login) == 0
    waited = time.monotonic() - asked_at
    assert waited < 3.0
    seen = Counter(status for statuses in await asyncio.gather(*guesses) for status in statuses)
    assert seen.keys() == {CommandStatus.ESME_RINVPASWD, CommandStatus.ESME_RBINDTHROTTLED}
    assert seen[CommandStatus.ESME_RINVPASWD] <= 1 + time.monotonic() - began
    tell(
        looked_at=seen[CommandStatus.ESME_RINVPASWD],
        throttled=seen[CommandStatus.ESME_RBINDTHROTTLED],
        right_one_waited_ms=int(waited * 1000),
    )
