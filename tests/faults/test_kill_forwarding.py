"""kill -9 of each process, and a stop, while messages go to an upstream: none is lost, and what it gets twice was
unsure.
"""

import os
import random
import time
from collections.abc import Callable

import pytest

from tests.faults.carriers import Carrier
from tests.faults.conftest import ReportCounts, StartForwarding, take_share
from tests.faults.test_kill import kill_all, kill_child
from tests.serving import is_server_ready, stop_process
from tests.support import RunningServer, wait_until

VICTIMS = ("smsc", "web", "serve", "all")
_KILLS = 30
_BINDS, _WINDOW = 2, 10
_MOST_BETWEEN = 300
_BACK_S = 60


@pytest.mark.parametrize("victim", VICTIMS)
def test_kill_9_under_load(
    serve: Callable[..., RunningServer],
    start_forwarding: StartForwarding,
    carrier: Carrier,
    victim: str,
    tell: ReportCounts,
) -> None:
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))
    print(f"FAULT_SEED={seed}")
    chance, kills = random.Random(seed), take_share(_KILLS)
    with start_forwarding(carrier, is_supervised=True, binds=_BINDS, window=_WINDOW) as forwarding:
        for _ in range(kills):
            # A random point, which is as many messages after the last as it happens.
            forwarding.clients.wait_for_messages(chance.randrange(1, _MOST_BETWEEN))
            server = forwarding.server
            if victim in ("smsc", "web"):
                kill_child(server, victim)
            else:
                if victim == "serve":
                    server.process.kill()
                    server.process.wait()
                else:
                    kill_all(server)
                forwarding.server = serve()
            forwarding.clients.wait_for_receipts(1, _BACK_S)
        wait_until(lambda: is_server_ready(forwarding.server), 30)
        counts = forwarding.prove(was_killed=victim != "web")
        # A window under way, and one of answers that were not on disk yet.
        assert counts["unsure"] <= kills * 2 * _BINDS * _WINDOW
        tell(kills=kills, **counts)


def test_a_stop_leaves_nothing_unsure(
    serve: Callable[..., RunningServer], start_forwarding: StartForwarding, carrier: Carrier, tell: ReportCounts
) -> None:
    stops = take_share(20)
    with start_forwarding(carrier, is_supervised=True, binds=_BINDS, window=_WINDOW) as forwarding:
        for _ in range(stops):
            forwarding.clients.wait_for_messages(_MOST_BETWEEN)
            assert stop_process(forwarding.server.process) == 0
            forwarding.server = serve()
            forwarding.clients.wait_for_receipts(1, _BACK_S)
        counts = forwarding.prove(was_killed=True)
        assert counts["unsure"] == counts["doubles"] == 0
        tell(stops=stops, **counts)
