"""Questions to the SMPP server's process: answered, refused, or nobody is there; and by nobody else."""

import asyncio
import resource
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from portal.core import query_socket, wakeup
from portal.core.query_socket import QueryListener, SmppServerSilent, ask_smpp_server
from tests.support import wait_until


@pytest.fixture(params=["short", "long/" + "x" * 120])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / str(request.param)
    folder.mkdir(parents=True)
    return folder


def run_beside(data: Path, answer: Callable[[Mapping[str, Any]], object], ask: Callable[[], Any]) -> Any:
    """What `ask` returns in a thread of its own while the listener answers."""

    async def scenario() -> Any:
        listener = QueryListener(data, asyncio.get_running_loop(), answer)
        try:
            return await asyncio.to_thread(ask)
        finally:
            listener.close()

    return asyncio.run(scenario())


def test_a_question_is_answered(data: Path) -> None:
    answer = run_beside(data, lambda question: {"asked": question}, lambda: ask_smpp_server(data, {"ask": "é"}))
    assert answer == {"asked": {"ask": "é"}}


def test_an_answer_of_a_megabyte_comes_whole(data: Path) -> None:
    assert run_beside(data, lambda _: ["x" * 1000] * 1000, lambda: ask_smpp_server(data, {})) == ["x" * 1000] * 1000


def test_where_nobody_answers_the_asker_is_told(data: Path) -> None:
    with pytest.raises(SmppServerSilent):
        ask_smpp_server(data, {})

    def fail(question: Mapping[str, Any]) -> object:
        raise ValueError("unknown")

    def ask() -> object:
        with pytest.raises(SmppServerSilent):
            ask_smpp_server(data, {})
        return True

    assert run_beside(data, fail, ask)


@pytest.mark.parametrize("octets", [b"no json\n", b"{\n", b"x" * 20_000, b""])
def test_nonsense_and_silence_harm_no_other_question(data: Path, octets: bytes) -> None:
    def ask() -> object:
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(wakeup.get_socket_path(data, query_socket.SOCKET_NAME)))
            stranger.sendall(octets)
            return ask_smpp_server(data, {})

    assert run_beside(data, lambda _: 7, ask) == 7


def count_file_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def connect(data: Path) -> socket.socket:
    stranger = socket.socket(socket.AF_UNIX)
    stranger.settimeout(5)
    stranger.connect(str(wakeup.get_socket_path(data, query_socket.SOCKET_NAME)))
    return stranger


def test_it_answers_again_once_there_are_file_descriptors(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def ask() -> object:
        with connect(data) as first:
            # It was accepted, as it is closed for its nonsense.
            first.sendall(b"no json\n")
            assert first.recv(1) == b""
            # What is asked meanwhile takes the last one.
            resource.setrlimit(resource.RLIMIT_NOFILE, (count_file_descriptors(), limits[1]))
            try:
                with connect(data):
                    wait_until(lambda: "no questions can be accepted" in caplog.text)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        return ask_smpp_server(data, {})

    assert run_beside(data, lambda _: 7, ask) == 7


def test_many_connections_take_few_file_descriptors(data: Path) -> None:
    def ask() -> object:
        before = count_file_descriptors()
        # The kernel's backlog has room for them.
        silent = [connect(data) for _ in range(100)]
        try:
            # The first is closed for its silence: all that are to be accepted beside it have been.
            assert silent[0].recv(1) == b""
            return count_file_descriptors() - before - len(silent)
        finally:
            for each in silent:
                each.close()

    assert run_beside(data, lambda _: 7, ask) <= 20


def test_only_the_user_of_the_program_may_connect(data: Path) -> None:
    mode = run_beside(data, lambda _: 7, lambda: wakeup.get_socket_path(data, query_socket.SOCKET_NAME).stat().st_mode)
    assert stat.S_IMODE(mode) == 0o600
    assert not wakeup.get_socket_path(data, query_socket.SOCKET_NAME).exists()
