"""The wall clock is set, forth and back by an hour: ids stay unique and growing, sessions stay, receipts flow, and
nobody is locked out.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from portal.smsc.protocol.constants import CommandId, CommandStatus, TlvTag
from tests.faults.clock import Clock
from tests.faults.conftest import ReportCounts
from tests.faults.crowd import ClientCrowd, run_crowd
from tests.faults.visitor import WebVisitor
from tests.serving import is_server_ready
from tests.smsc.esme import RawEsme, close_connections
from tests.support import TOTP_STEP_S, AccountLogin, Cast, RunningServer, wait_until

HOUR = 3600


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture
def server(serve: Callable[..., RunningServer], clock: Clock) -> RunningServer:
    """The real program, whose clock can be set."""
    return serve(**clock.environment)


def test_messages_flow_through_a_clock_that_jumps(
    server: RunningServer,
    clock: Clock,
    logins: list[AccountLogin],
    rounds: int,
    nothing_lost: Callable[[ClientCrowd], dict[str, int]],
    tell: ReportCounts,
) -> None:
    jumps = [HOUR, 0, -HOUR, HOUR, -HOUR, 0] * max(1, rounds // 10)
    with run_crowd(server.port, *logins) as clients:
        for seconds in jumps:
            clock.set(seconds)
            clients.wait_for_all_clients(100)
        wait_until(lambda: is_server_ready(server))
        counts = nothing_lost(clients)
        for each in clients.clients:
            ids = list(each.acknowledged.values())
            assert ids == sorted(ids)
        assert clients.binds == len(logins), "a session was cut off"
        assert not clients.refused
    tell(jumps=len(jumps), **counts)


async def test_receipts_from_before_a_clock_was_set_back_do_not_wait_for_it(
    server: RunningServer, clock: Clock, logins: list[AccountLogin], tell: ReportCounts
) -> None:
    clock.set(HOUR)
    try:
        transmitter = await RawEsme.connect_and_bind(server.port, logins[0], CommandId.BIND_TRANSMITTER)
        batch = [transmitter.build_submit_sm(source="LOAD") for _ in range(20)]
        transmitter.send(*batch)
        message_ids = {each.message_id for each in await transmitter.wait_for_responses(batch)}
        receiver = await RawEsme.connect_and_bind(server.port, logins[0], CommandId.BIND_RECEIVER)
        refused = [await receiver.receive_deliver_sm(CommandStatus.ESME_RMSGQFUL) for _ in range(5)]
        await receiver.close()
        clock.set(0)
        receiver = await RawEsme.connect_and_bind(server.port, logins[0], CommandId.BIND_RECEIVER)
        receipts: set[str] = set()
        while receipts != message_ids:
            receipts.add((await receiver.receive_deliver_sm()).tlvs[TlvTag.RECEIPTED_MESSAGE_ID].decode().rstrip("\0"))
    finally:
        await close_connections()
    tell(receipts=len(receipts), refused_before=len(refused))


def test_failed_logins_from_before_a_clock_was_set_back_lock_nobody_out(
    server: RunningServer, clock: Clock, cast: Cast, tell: ReportCounts
) -> None:
    clock.set(HOUR)
    guesser = WebVisitor(server.url)
    refused = 0
    while "Too many attempts" not in guesser.submit_password(cast.alice, "a guess").text:
        refused += 1
        assert refused < 100
    clock.set(0)
    assert WebVisitor(server.url).log_in(cast.alice)
    tell(refused_before=refused)


def test_who_logged_in_by_a_wrong_clock_can_log_in_by_the_right_one(
    server: RunningServer, clock: Clock, cast: Cast
) -> None:
    before = WebVisitor(server.url)
    assert before.log_in(cast.alice)
    clock.set(HOUR)
    ahead = WebVisitor(server.url)
    assert ahead.log_in(cast.alice, step=HOUR // TOTP_STEP_S)
    clock.set(0)
    assert before.is_logged_in()
    assert WebVisitor(server.url).log_in(cast.alice, step=1)
