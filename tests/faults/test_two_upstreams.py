"""Two upstreams that take over from one another, of which one after the other dies, hangs, throttles or refuses, under
load: nothing that was acknowledged is lost, what they get twice was unsure, and each number gets its messages in order.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator

import pytest

from portal.smsc.protocol.constants import CommandStatus
from tests.faults.carriers import Carrier, Copy, run_carrier
from tests.faults.conftest import ReportCounts, StartForwarding, take_share
from tests.faults.forwarding import NAME, SECOND_NAME, Forwarding
from tests.support import wait_until

# Ten minutes at the full count: ten rounds, in each of which five faults last for ten seconds.
_ROUNDS = max(take_share(20) // 2, 1)
_FAILED_S = take_share(10, 3)
# Few, so that each has several messages under way.
_DESTINATIONS = 40
_RECOVERY_S = 60
_SETTINGS = {"failover-seconds": 1, "window": 20}


@pytest.fixture
def second() -> Iterator[Carrier]:
    with run_carrier() as running:
        yield running


def die(carrier: Carrier) -> Callable[[], None]:
    carrier.leave()
    return carrier.come_back


def hang(carrier: Carrier) -> Callable[[], None]:
    carrier.freeze()
    return carrier.thaw


def answer_nothing(carrier: Carrier) -> Callable[[], None]:
    carrier.behave(silent="submits")
    return lambda: carrier.behave(silent="")


def throttle(carrier: Carrier) -> Callable[[], None]:
    carrier.behave(statuses=[CommandStatus.ESME_RTHROTTLED])
    return lambda: carrier.behave(statuses=[])


def refuse(carrier: Carrier) -> Callable[[], None]:
    carrier.behave(statuses=[CommandStatus.ESME_RSYSERR, CommandStatus.ESME_RX_T_APPN])
    return lambda: carrier.behave(statuses=[])


FAULTS = (die, hang, answer_nothing, throttle, refuse)


def test_two_upstreams_that_fail_in_turn(
    start_forwarding: StartForwarding, carrier: Carrier, second: Carrier, tell: ReportCounts
) -> None:
    began = time.monotonic()
    carriers = ((NAME, carrier), (SECOND_NAME, second))
    with start_forwarding(carrier, second=second, destinations=_DESTINATIONS, backlog=1000, **_SETTINGS) as forwarding:
        for number in range(_ROUNDS * len(FAULTS)):
            fault = FAULTS[number % len(FAULTS)]
            # Each fault comes to each of them, round by round.
            name, failing = carriers[(number + number // len(FAULTS)) % 2]
            end_fault = fault(failing)
            let_others_take_over(forwarding, name)
            end_fault()
            wait_for_health(forwarding, name, {"good"})
            forwarding.clients.wait_for_receipts(5, _RECOVERY_S)
        counts = forwarding.prove()
        overtaken = find_overtaken(forwarding.list_copies())
        assert not overtaken, f"{len(overtaken)} came before earlier ones to their numbers: {overtaken[:5]}"
        tell(seconds=int(time.monotonic() - began), faults=_ROUNDS * len(FAULTS), overtaken=0, **counts)


def let_others_take_over(forwarding: Forwarding, name: str) -> None:
    """Wait until one has failed for some seconds, and all accounts' messages go out all the same."""
    failed_until = time.monotonic() + _FAILED_S
    wait_for_health(forwarding, name, {"failing", "trying"})
    forwarding.clients.wait_for_receipts(10)
    wait_until(lambda: time.monotonic() >= failed_until, 2 * _FAILED_S)


def wait_for_health(forwarding: Forwarding, name: str, states: Container[str]) -> None:
    forwarding.wait_for(lambda shown: shown["health"] in states, _RECOVERY_S, name)


def find_overtaken(copies: Iterable[Copy]) -> list[str]:
    """The texts that came to an upstream, the first time, before an earlier one of their client to their number had
    come to any.
    """
    first_times: dict[str, int] = {}
    for each in copies:
        first_times[each.text] = min(each.came_at, first_times.get(each.text, each.came_at))
    flows: dict[tuple[str, int], list[tuple[int, str]]] = defaultdict(list)
    for text in first_times:
        client, _, number = text.rpartition(" ")
        flows[client, int(number) % _DESTINATIONS].append((int(number), text))
    overtaken = []
    for flow in flows.values():
        latest = 0
        for _, text in sorted(flow):
            if first_times[text] < latest:
                overtaken.append(text)
            latest = max(latest, first_times[text])
    return overtaken
