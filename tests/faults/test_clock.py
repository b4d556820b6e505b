"""The wall clock is set, forth and back by an hour: ids stay unique and growing, sessions stay, receipts flow, and
nobody is locked out.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from portal.smsc.protocol.constants import Command, Status, Tag
from tests.faults.clock import Clock
from tests.faults.conftest import Tell
from tests.faults.crowd import Crowd, crowd
from tests.faults.visitor import Visitor
from tests.serving import is_ready
from tests.smsc.esme import Esme, hang_up
from tests.support import STEP_S, Cast, Login, Server, eventually

HOUR = 3600


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture
def server(serve: Callable[..., Server], clock: Clock) -> Server:
    """The real program, whose clock can be set."""
    return serve(**clock.environment)


def test_messages_flow_through_a_clock_that_jumps(
    server: Server,
    clock: Clock,
    logins: list[Login],
    rounds: int,
    nothing_lost: Callable[[Crowd], dict[str, int]],
    tell: Tell,
) -> None:
    jumps = [HOUR, 0, -HOUR, HOUR, -HOUR, 0] * max(1, rounds // 10)
    with crowd(server.port, *logins) as clients:
        for seconds in jumps:
            clock.set(seconds)
            clients.all_have_sent(100)
        eventually(lambda: is_ready(server))
        counts = nothing_lost(clients)
        for each in clients.clients:
            ids = list(each.acknowledged.values())
            assert ids == sorted(ids)
        assert clients.binds == len(logins), "a session was cut off"
        assert not clients.refused
    tell(jumps=len(jumps), **counts)


async def test_receipts_from_before_a_clock_was_set_back_do_not_wait_for_it(
    server: Server, clock: Clock, logins: list[Login], tell: Tell
) -> None:
    clock.set(HOUR)
    try:
        transmitter = await Esme.bound(server.port, logins[0], Command.BIND_TRANSMITTER)
        batch = [transmitter.message(source="LOAD") for _ in range(20)]
        transmitter.send(*batch)
        message_ids = {each.message_id for each in await transmitter.answers_to(batch)}
        receiver = await Esme.bound(server.port, logins[0], Command.BIND_RECEIVER)
        refused = [await receiver.receipt(Status.ESME_RMSGQFUL) for _ in range(5)]
        await receiver.close()
        clock.set(0)
        receiver = await Esme.bound(server.port, logins[0], Command.BIND_RECEIVER)
        receipts = set()
        while receipts != message_ids:
            receipts.add((await receiver.receipt()).tlvs[Tag.RECEIPTED_MESSAGE_ID].decode().rstrip("\0"))
    finally:
        await hang_up()
    tell(receipts=len(receipts), refused_before=len(refused))


def test_failed_logins_from_before_a_clock_was_set_back_lock_nobody_out(
    server: Server, clock: Clock, cast: Cast, tell: Tell
) -> None:
    clock.set(HOUR)
    guesser = Visitor(server.url)
    refused = 0
    while "Too many attempts" not in guesser.first_step(cast.alice, "a guess").text:
        refused += 1
        assert refused < 100
    clock.set(0)
    assert Visitor(server.url).log_in(cast.alice)
    tell(refused_before=refused)


def test_who_logged_in_by_a_wrong_clock_can_log_in_by_the_right_one(server: Server, clock: Clock, cast: Cast) -> None:
    before = Visitor(server.url)
    assert before.log_in(cast.alice)
    clock.set(HOUR)
    ahead = Visitor(server.url)
    assert ahead.log_in(cast.alice, step=HOUR // STEP_S)
    clock.set(0)
    assert before.is_logged_in()
    assert Visitor(server.url).log_in(cast.alice, step=1)
