"""The database can't be written: submits are refused, nothing is acknowledged that isn't stored, and it ends by
itself.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from portal.core import db
from portal.smsc.protocol.constants import CommandStatus
from tests.faults import storage
from tests.faults.conftest import ReportCounts
from tests.faults.crowd import WINDOW, ClientCrowd, run_crowd
from tests.serving import find_child_pids, is_server_ready
from tests.support import AccountLogin, RunningServer, wait_until

REFUSALS = {CommandStatus.ESME_RSYSERR, CommandStatus.ESME_RMSGQFUL}
# Room for the check, which works on a copy.
_SMALL = "96m"
_MANY = 1_000_000

Start = Callable[..., RunningServer]
Prove = Callable[[ClientCrowd], dict[str, int]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with ExitStack() as mounted:
        try:
            yield mounted.enter_context(storage.mount_small_disk(tmp_path / "small", _SMALL))
        except storage.FaultNotPossible as why:
            pytest.skip(f"needs the right to mount: {why}")


class TestFullDisk:
    @pytest.fixture
    def place(self, small_disk: Path) -> Path:
        return small_disk / "data"

    def test_it_refuses_and_recovers(
        self,
        serve: Start,
        place: Path,
        logins: list[AccountLogin],
        rounds: int,
        nothing_lost: Prove,
        tell: ReportCounts,
    ) -> None:
        with run_crowd(serve().port, *logins, backlog=_MANY) as clients:
            for _ in range(_times(rounds)):
                _fail_and_recover(clients, storage.fill_disk(place))
            tell(faults=_times(rounds), **_after(clients, nothing_lost))

    def test_a_server_that_is_killed_meanwhile_comes_back(
        self, serve: Start, place: Path, logins: list[AccountLogin], nothing_lost: Prove, tell: ReportCounts
    ) -> None:
        server = serve()
        with run_crowd(server.port, *logins, backlog=_MANY) as clients:
            clients.wait_for_all_clients(WINDOW)
            with storage.fill_disk(place):
                wait_until(lambda: clients.refused.total() >= WINDOW)
                before = find_child_pids(server.process.pid)["smsc"]
                os.kill(before, signal.SIGKILL)
                wait_until(lambda: find_child_pids(server.process.pid).get("smsc", before) != before)
            clients.wait_for_all_clients(2 * WINDOW)
            wait_until(lambda: is_server_ready(server))
            tell(**nothing_lost(clients))


def test_files_that_may_not_grow_refuse_and_recover(
    serve: Start, data: Path, logins: list[AccountLogin], rounds: int, nothing_lost: Prove, tell: ReportCounts
) -> None:
    server = serve()
    smsc, log = find_child_pids(server.process.pid)["smsc"], data / f"{db.FILE_NAME}-wal"
    with run_crowd(server.port, *logins, backlog=_MANY) as clients:
        for _ in range(_times(rounds)):
            _fail_and_recover(clients, storage.limit_file_size(smsc, log.stat().st_size))
        tell(faults=_times(rounds), **_after(clients, nothing_lost))


def test_a_read_only_file_refuses_and_recovers(
    serve: Start, data: Path, logins: list[AccountLogin], rounds: int, nothing_lost: Prove, tell: ReportCounts
) -> None:
    with run_crowd(serve().port, *logins, backlog=_MANY) as clients:
        for _ in range(_times(rounds)):
            try:
                _fail_and_recover(clients, storage.make_immutable(data / db.FILE_NAME, data / f"{db.FILE_NAME}-wal"))
            except storage.FaultNotPossible as why:
                pytest.skip(str(why))
        tell(faults=_times(rounds), **_after(clients, nothing_lost))


def test_a_database_locked_for_ten_seconds_refuses_and_recovers(
    serve: Start, data: Path, logins: list[AccountLogin], nothing_lost: Prove, tell: ReportCounts
) -> None:
    server = serve()
    with run_crowd(server.port, *logins, backlog=_MANY) as clients:
        _fail_and_recover(clients, storage.hold_write_lock(data / db.FILE_NAME), seconds=10)
        wait_until(lambda: is_server_ready(server))
        tell(faults=1, **_after(clients, nothing_lost))


def _times(rounds: int) -> int:
    return max(1, rounds // 10)


def _fail_and_recover(clients: ClientCrowd, fault: AbstractContextManager[None], seconds: float = 0) -> None:
    clients.wait_for_all_clients(WINDOW)
    refused = clients.refused.total()
    with fault:
        began = time.monotonic()
        # What SQLite had room for may still be acknowledged; from some moment on nothing is.
        wait_until(lambda: clients.refused.total() >= refused + WINDOW, 30)
        acknowledged = clients.acknowledged
        wait_until(lambda: clients.refused.total() >= refused + 4 * WINDOW, 30)
        wait_until(lambda: time.monotonic() >= began + seconds, 30)
        assert clients.acknowledged == acknowledged, "acknowledged what can't have been stored"
    clients.wait_for_all_clients(2 * WINDOW)


def _after(clients: ClientCrowd, nothing_lost: Prove) -> dict[str, int]:
    counts = nothing_lost(clients)
    assert clients.binds == len(clients.clients), "a session was cut off"
    assert set(clients.refused) <= REFUSALS
    return {"refused": clients.refused.total(), **counts}
