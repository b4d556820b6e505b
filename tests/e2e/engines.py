"""Browsers with other engines than Chromium's, driven by a few commands of the WebDriver standard.

They are sent without a library: Playwright drives no WebKit and no Firefox but its own, and Selenium drives Firefox by
geckodriver, which Debian doesn't have.
"""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.serving import stop_process
from tests.support import accepts_connections, find_free_port, wait_until

# Sends a command, by its path in the standard, with its parameters; returns its result.
Send = Callable[[str, dict[str, Any]], Any]

_WIDTH, _HEIGHT = 1400, 1000
_TIMEOUT_S = 60
# Firefox has the same commands under other names.
_MARIONETTE_NAMES = {
    "/url": "WebDriver:Navigate",
    "/back": "WebDriver:Back",
    "/execute/sync": "WebDriver:ExecuteScript",
    "/actions": "WebDriver:PerformActions",
}


class CommandError(Exception):
    """The browser has refused a command; a script, for instance, because its page was just being replaced."""


@contextmanager
def run_webkit(folder: Path, proxy: str) -> Iterator[Send]:
    """Run WebKitGTK.

    Args:
        folder: an empty one, for what it writes.
        proxy: host and port of a server that is asked for all pages, whatever their host.
    """
    port = find_free_port()
    session = f"http://127.0.0.1:{port}/session"

    def send(path: str, parameters: dict[str, Any]) -> Any:
        answer = requests.post(session + path, json=parameters, timeout=_TIMEOUT_S)
        if not answer.ok:
            raise CommandError(answer.text)
        return answer.json()["value"]

    with _run_display(folder) as display, _run_process(["WebKitWebDriver", f"--port={port}"], folder, DISPLAY=display):
        wait_until(lambda: accepts_connections(port), _TIMEOUT_S)
        capabilities = {"proxy": {"proxyType": "manual", "httpProxy": proxy}}
        session += "/" + send("", {"capabilities": {"alwaysMatch": capabilities}})["sessionId"]
        try:
            send("/window/rect", {"width": _WIDTH, "height": _HEIGHT})
            yield send
        finally:
            requests.delete(session, timeout=_TIMEOUT_S)


@contextmanager
def run_firefox(folder: Path, proxy: str) -> Iterator[Send]:
    """Run Firefox, without a window. The arguments are those of `run_webkit`."""
    port = find_free_port()
    settings = f'user_pref("marionette.port", {port}); user_pref("intl.locale.requested", "en-US");'
    (folder / "user.js").write_text(settings)
    size = [f"--width={_WIDTH}", f"--height={_HEIGHT}"]
    with _run_process(["firefox-esr", "--headless", "--marionette", "--profile", str(folder), *size], folder):
        wait_until(lambda: accepts_connections(port), _TIMEOUT_S)
        with closing(_MarionetteConnection(port)) as connection:
            proxies = {"proxyType": "manual", "httpProxy": proxy, "sslProxy": proxy}
            connection.send("WebDriver:NewSession", {"proxy": proxies})
            yield connection.send


class _MarionetteConnection:
    """Firefox's own protocol: JSON arrays, each with its length and a colon before it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _TIMEOUT_S)
        self._received = self._socket.makefile("rb")
        self._receive()  # the name of the protocol

    def send(self, path: str, parameters: dict[str, Any]) -> Any:
        message = json.dumps([0, 1, _MARIONETTE_NAMES.get(path, path), parameters]).encode()
        self._socket.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self._receive()
        if error:
            raise CommandError(error)
        return result.get("value")

    def _receive(self) -> Any:
        length = b""
        while (octet := self._received.read(1)) != b":":
            assert octet, "Firefox has closed the connection"
            length += octet
        return json.loads(self._received.read(int(length)))

    def close(self) -> None:
        self._received.close()
        self._socket.close()


@contextmanager
def _run_display(folder: Path) -> Iterator[str]:
    """Run an X server, which chooses a free number itself; yields its name."""
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", f"{_WIDTH}x{_HEIGHT}x24", "-nolisten", "tcp"]
    with os.fdopen(reading) as numbers, _run_process(command, folder, [writing]):
        os.close(writing)
        yield f":{int(numbers.readline())}"


@contextmanager
def _run_process(command: list[str], folder: Path, fds: Sequence[int] = (), **environment: str) -> Iterator[None]:
    """Run a program with `folder` as its user's home. Its dates are American."""
    env = os.environ | {"HOME": str(folder), "LC_ALL": "C.UTF-8", "GDK_BACKEND": "x11"} | environment
    process = subprocess.Popen(command, env=env, pass_fds=fds)
    try:
        yield
    finally:
        stop_process(process)
