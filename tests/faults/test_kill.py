"""kill -9 at random points under load: acknowledged messages are stored, and were charged once."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from portal.core.config import Config
from tests.faults.conftest import ReportCounts
from tests.faults.crowd import ClientCrowd, run_crowd
from tests.serving import find_child_pids, is_server_ready, start_server
from tests.support import AccountLogin, RunningServer, wait_until

# The SMPP server alone, which its supervisor starts again; the supervisor alone, whose children end by themselves;
# all of them at once; and all of them while they start.
VICTIMS = ("smsc", "serve", "all", "starting")
_MOST_BETWEEN = 300
_LONGEST_DELAY_S = 0.02
_STARTING_S = 1.5


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_all(server: RunningServer) -> None:
    # Stopped first: none of them may see the other's end before its own.
    pids = [server.process.pid, *find_child_pids(server.process.pid).values()]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    kill(*pids)
    server.process.wait()


def kill_child(server: RunningServer, name: str) -> None:
    """Kill `web` or `smsc`, and wait until the supervisor has started another one."""
    before = wait_until(lambda: find_child_pids(server.process.pid).get(name, 0))
    kill(before)
    wait_until(lambda: find_child_pids(server.process.pid).get(name, before) != before)


def the_smsc(server: RunningServer) -> int:
    return wait_until(lambda: find_child_pids(server.process.pid).get("smsc", 0))


def test_what_was_acknowledged_survives_kill_9(
    serve: Callable[..., RunningServer],
    config: Config,
    logins: list[AccountLogin],
    rounds: int,
    checked: Callable[[], None],
    nothing_lost: Callable[[ClientCrowd], dict[str, int]],
    tell: ReportCounts,
) -> None:
    seed = int(os.environ.get("FAULT_SEED", time.time_ns() % 1_000_000))
    print(f"FAULT_SEED={seed}")
    chance, killed = random.Random(seed), Counter[str]()
    server = serve()
    with run_crowd(server.port, *logins, logins[0]) as clients:
        for number in range(rounds):
            clients.wait_for_messages(chance.randrange(1, _MOST_BETWEEN))
            time.sleep(chance.uniform(0, _LONGEST_DELAY_S))  # a random point, also within a commit
            victim = VICTIMS[number % len(VICTIMS)]
            killed[victim] += 1
            if victim == "smsc":
                kill(the_smsc(server))
            elif victim == "serve":
                server.process.kill()
                server.process.wait()
            else:
                kill_all(server)
            if victim == "starting":
                with start_server(config) as server:
                    time.sleep(chance.uniform(0, _STARTING_S))
                    kill_all(server)
            checked()
            if victim != "smsc":
                server = serve()
        wait_until(lambda: is_server_ready(server), 30)
        clients.wait_for_messages(1)
        tell(rounds=rounds, **{f"killed_{victim}": count for victim, count in killed.items()}, **nothing_lost(clients))
