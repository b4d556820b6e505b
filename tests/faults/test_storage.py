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
from portal.smsc.protocol.constants import Status
from tests.faults import storage
from tests.faults.conftest import Tell
from tests.faults.crowd import WINDOW, Crowd, crowd
from tests.serving import children, is_ready
from tests.support import Login, Server, eventually

REFUSALS = {Status.ESME_RSYSERR, Status.ESME_RMSGQFUL}
# Room for the check, which works on a copy.
_SMALL = "96m"
_MANY = 1_000_000

Start = Callable[..., Server]
Prove = Callable[[Crowd], dict[str, int]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with ExitStack() as mounted:
        try:
            yield mounted.enter_context(storage.small_disk(tmp_path / "small", _SMALL))
        except storage.NotPossible as why:
            pytest.skip(f"needs the right to mount: {why}")


class TestFullDisk:
    @pytest.fixture
    def place(self, small_disk: Path) -> Path:
        return small_disk / "data"

    def test_it_refuses_and_recovers(
        self, serve: Start, place: Path, logins: list[Login], rounds: int, nothing_lost: Prove, tell: Tell
    ) -> None:
        with crowd(serve().port, *logins, backlog=_MANY) as clients:
            for _ in range(_times(rounds)):
                _fail_and_recover(clients, storage.full(place))
            tell(faults=_times(rounds), **_after(clients, nothing_lost))

    def test_a_server_that_is_killed_meanwhile_comes_back(
        self, serve: Start, place: Path, logins: list[Login], nothing_lost: Prove, tell: Tell
    ) -> None:
        server = serve()
        with crowd(server.port, *logins, backlog=_MANY) as clients:
            clients.all_have_sent(WINDOW)
            with storage.full(place):
                eventually(lambda: clients.refused.total() >= WINDOW)
                before = children(server.process.pid)["smsc"]
                os.kill(before, signal.SIGKILL)
                eventually(lambda: children(server.process.pid).get("smsc", before) != before)
            clients.all_have_sent(2 * WINDOW)
            eventually(lambda: is_ready(server))
            tell(**nothing_lost(clients))


def test_files_that_may_not_grow_refuse_and_recover(
    serve: Start, data: Path, logins: list[Login], rounds: int, nothing_lost: Prove, tell: Tell
) -> None:
    server = serve()
    smsc, log = children(server.process.pid)["smsc"], data / f"{db.FILE_NAME}-wal"
    with crowd(server.port, *logins, backlog=_MANY) as clients:
        for _ in range(_times(rounds)):
            _fail_and_recover(clients, storage.no_file_may_grow(smsc, log.stat().st_size))
        tell(faults=_times(rounds), **_after(clients, nothing_lost))


def test_a_read_only_file_refuses_and_recovers(
    serve: Start, data: Path, logins: list[Login], rounds: int, nothing_lost: Prove, tell: Tell
) -> None:
    with crowd(serve().port, *logins, backlog=_MANY) as clients:
        for _ in range(_times(rounds)):
            try:
                _fail_and_recover(clients, storage.immutable(data / db.FILE_NAME, data / f"{db.FILE_NAME}-wal"))
            except storage.NotPossible as why:
                pytest.skip(str(why))
        tell(faults=_times(rounds), **_after(clients, nothing_lost))


def test_a_database_locked_for_ten_seconds_refuses_and_recovers(
    serve: Start, data: Path, logins: list[Login], nothing_lost: Prove, tell: Tell
) -> None:
    server = serve()
    with crowd(server.port, *logins, backlog=_MANY) as clients:
        _fail_and_recover(clients, storage.locked(data / db.FILE_NAME), seconds=10)
        eventually(lambda: is_ready(server))
        tell(faults=1, **_after(clients, nothing_lost))


def _times(rounds: int) -> int:
    return max(1, rounds // 10)


def _fail_and_recover(clients: Crowd, fault: AbstractContextManager[None], seconds: float = 0) -> None:
    clients.all_have_sent(WINDOW)
    refused = clients.refused.total()
    with fault:
        began = time.monotonic()
        # What SQLite had room for may still be acknowledged; from some moment on nothing is.
        eventually(lambda: clients.refused.total() >= refused + WINDOW, 30)
        acknowledged = clients.acknowledged
        eventually(lambda: clients.refused.total() >= refused + 4 * WINDOW, 30)
        eventually(lambda: time.monotonic() >= began + seconds, 30)
        assert clients.acknowledged == acknowledged, "acknowledged what can't have been stored"
    clients.all_have_sent(2 * WINDOW)


def _after(clients: Crowd, nothing_lost: Prove) -> dict[str, int]:
    counts = nothing_lost(clients)
    assert clients.binds == len(clients.clients), "a session was cut off"
    assert set(clients.refused) <= REFUSALS
    return {"refused": clients.refused.total(), **counts}
