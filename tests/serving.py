"""Running the real program in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from portal.core.config import Config
from portal.smsc.protocol.constants import CommandId
from portal.smsc.protocol.pdu import HeaderOnlyPdu
from tests.support import ROOT, RunningServer, accepts_connections, wait_until

STOP_TIMEOUT_S = 10


@contextmanager
def run_server(config: Config, *args: str, **environment: str) -> Iterator[RunningServer]:
    """Run `app.py serve` on a data folder; the block starts when it is ready.

    Its log goes to the test's own output, which pytest shows when the test fails.
    """
    with start_server(config, "serve", *args, **environment) as server:
        wait_until(
            lambda: (_runs_itself(server) and is_server_ready(server)) or server.process.poll() is not None,
            deadline_s=20,
        )
        assert server.process.poll() is None, f"the server ended with {server.process.returncode}"
        yield server


@contextmanager
def run_component(config: Config, name: str, **environment: str) -> Iterator[RunningServer]:
    """Run `app.py web` or `app.py smsc` alone: all of the program takes twice the time to start, and more.

    The block starts when it answers.
    """
    if name == "web":
        port, question = config.web.port, b"GET /healthz HTTP/1.0\r\n\r\n"
    else:
        port, question = config.smpp.port, HeaderOnlyPdu(CommandId.ENQUIRE_LINK, 1).encode()
    with start_server(config, name, **environment) as server:
        wait_until(lambda: accepts_connections(port) or server.process.poll() is not None, deadline_s=20)
        # It listens a moment before it is ready; what comes in that moment waits.
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(question)
            assert client.recv(1024)
        yield server


@contextmanager
def start_server(config: Config, command: str = "serve", *args: str, **environment: str) -> Iterator[RunningServer]:
    """Run `app.py serve` (or `web`, or `smsc`) on a data folder; the block starts at once."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "app.py", command, "--data", config.data, *args],
        env=clean_environment() | environment,
    )
    try:
        yield RunningServer(config.public_url, config.smpp.port, config.smpp.tls_port, config.data, process)
    finally:
        stop_process(process)


def find_child_pids(pid: int) -> dict[str, int]:
    """The process ids of the children of `serve`: `web` and `smsc`."""
    pids: dict[str, int] = {}
    with suppress(FileNotFoundError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with suppress(FileNotFoundError, ProcessLookupError):
                # A dead process has no arguments any more; one that is just being started still has its parent's.
                arguments = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                pids |= {name: int(child) for name in ("web", "smsc") if name.encode() in arguments}
    return pids


def _runs_itself(server: RunningServer) -> bool:
    # The children of a server that was killed a moment ago answer for as long as they live.
    pids = find_child_pids(server.process.pid)
    locks = [server.data / f"{name}.lock" for name in ("web", "smsc")]
    return [str(pids.get(lock.stem)) for lock in locks] == [
        lock.read_text().partition(" ")[2].strip() if lock.exists() else "" for lock in locks
    ]


def is_server_ready(server: RunningServer) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


def stop_process(process: subprocess.Popen[bytes]) -> int:
    """Stop the program as an init system does; return its exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of the program."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
