"""Running the real program, for tests that need it from outside."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from portal.config import Config
from tests.support import ROOT, Server, eventually

STOPS_IN_S = 10


@contextmanager
def serving(config: Config, *args: str, **environment: str) -> Iterator[Server]:
    """Run `app.py serve` on a data folder; the block starts when it is ready.

    Its log goes to the test's own output, which pytest shows when the test fails.
    """
    process = subprocess.Popen(
        [sys.executable, ROOT / "app.py", "serve", "--data", config.data, *args],
        env=clean_environment() | environment,
    )
    server = Server(config.public_url, config.smpp.port, config.smpp.tls_port, config.data, process)
    try:
        eventually(lambda: is_ready(server) or process.poll() is not None, deadline_s=20)
        assert process.poll() is None, f"the server ended with {process.returncode}"
        yield server
    finally:
        stop(process)


def is_ready(server: Server) -> bool:
    try:
        with urllib.request.urlopen(f"{server.url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


def stop(process: subprocess.Popen[bytes]) -> int:
    """Stop the program as an init system does; return its exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOPS_IN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def clean_environment() -> dict[str, str]:
    """This process's environment without settings of the program."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PORTAL_")}
