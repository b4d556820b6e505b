"""The wakeup: an empty datagram from whoever changed the configuration to the SMPP server, so that it looks at once.

It carries nothing and proves nothing: what is true stands in the database. A lost wakeup costs a quarter of a second,
because the server looks by itself that often; a forged one costs a look.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_SOCKET_NAME = "smsc.sock"
_PATH_LIMIT = 100  # octets; sun_path holds 104 on macOS, 108 on Linux


class WakeupSender:
    """Sends wakeups to the SMPP server of a data folder. Cheap to make, and safe to share between threads."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._socket: socket.socket | None = None

    def send(self) -> None:
        """Send one. Never raises and never blocks: a server that is not there, or is busy looking, needs none."""
        with suppress(OSError):
            if self._socket is None:
                self._socket = _datagram_socket()
            self._socket.sendto(b"", str(_socket_path(self._data)))

    def close(self) -> None:
        """Free the socket; the next `send` makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Listener:
    """Calls `callback` on `loop` for the wakeups that reach a data folder, once for those that come together.

    Raises OSError when the socket can't be made. One a data folder: a later one takes the place of the earlier. `close`
    ends it.
    """

    def __init__(self, data: Path, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._socket = _datagram_socket()
        self._file = _socket_path(data)
        self._file.unlink(missing_ok=True)
        self._socket.bind(str(self._file))
        self._file.chmod(0o600)
        loop.add_reader(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        # All that wait are read first: many changes at once need one look.
        with suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
        self._callback()

    def close(self) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._file.unlink(missing_ok=True)


def _datagram_socket() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


def _socket_path(data: Path) -> Path:
    path = data.absolute() / _SOCKET_NAME
    if len(os.fsencode(path)) <= _PATH_LIMIT:
        return path
    name = hashlib.sha256(os.fsencode(data.absolute())).hexdigest()[:32]
    return Path(tempfile.gettempdir()) / f"smpp-portal-{name}.sock"
