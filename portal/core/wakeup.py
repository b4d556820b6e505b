"""Wakeups: an empty datagram tells the SMPP server that something was changed, so that it reads the database at once.

It carries no data. A lost wakeup costs a quarter of a second, because the server also polls the database; a forged one
costs a query.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # It takes a shell command a tenth of a second to import, and only the server has a loop.
    import asyncio

_SOCKET_NAME = "smsc.sock"
_MAX_PATH_OCTETS = 100  # octets; sun_path holds 104 on macOS, 108 on Linux


class WakeupSender:
    """Sends wakeups to the SMPP server of a data folder. Safe to share between threads."""

    def __init__(self, data: Path) -> None:
        self._socket_file = str(get_socket_path(data, _SOCKET_NAME))

    def send(self) -> None:
        """Send one. This never raises and never blocks: a server that doesn't run, or has one to read, needs none."""
        # A socket for each takes three microseconds, where a commit takes some hundred.
        with suppress(OSError), _create_datagram_socket() as new_socket:
            new_socket.sendto(b"", self._socket_file)


class WakeupListener:
    """Calls `callback` on `loop` when wakeups for a data folder arrive, once for several that arrive together.

    Raises OSError when the socket can't be created. A data folder has one: a new one replaces the one before.
    """

    def __init__(self, data: Path, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._socket = _create_datagram_socket()
        self._socket_file = get_socket_path(data, _SOCKET_NAME)
        self._socket_file.unlink(missing_ok=True)
        self._socket.bind(str(self._socket_file))
        self._socket_file.chmod(0o600)
        loop.add_reader(self._socket.fileno(), self._drain_and_notify)

    def _drain_and_notify(self) -> None:
        # All waiting datagrams are read first: many changes at the same time need one query.
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
        self._callback()

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket_file.unlink(missing_ok=True)


def _create_datagram_socket() -> socket.socket:
    new_socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    new_socket.setblocking(False)
    return new_socket


def get_socket_path(data: Path, name: str) -> Path:
    """Where the Unix socket of that name of a data folder is: elsewhere, where its path would be too long for one."""
    path = data.absolute() / name
    if len(os.fsencode(path)) <= _MAX_PATH_OCTETS:
        return path
    digest = hashlib.sha256(os.fsencode(data.absolute())).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"smpp-portal-{digest}-{name}"
