"""Questions to the SMPP server about what only its memory has, over a Unix socket in the data folder.

A question and its answer are one line of JSON each. Nobody but the user that the program runs as can connect.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from portal.core.wakeup import get_socket_path

if TYPE_CHECKING:
    # It takes a shell command a tenth of a second to import, see `wakeup`.
    import asyncio

log = logging.getLogger(__name__)

SOCKET_NAME = "smsc-query.sock"
# A page waits for it.
_TIMEOUT_SECONDS = 1.0
_MAX_QUESTION_OCTETS, _MAX_ANSWER_OCTETS = 10_000, 4 << 20
# Of questions that are answered at the same time; clients need the other file descriptors of the process.
_MAX_CONNECTIONS = 20
_RETRY_SECONDS = 0.25


class SmppServerSilent(Exception):
    """The SMPP server doesn't run, or has not answered."""


def ask_smpp_server(data: Path, question: Mapping[str, object]) -> Any:
    """Ask the SMPP server of a data folder; returns its answer, in values of JSON.

    Raises:
        SmppServerSilent
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_TIMEOUT_SECONDS)
            connection.connect(str(get_socket_path(data, SOCKET_NAME)))
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline(_MAX_ANSWER_OCTETS)
            return json.loads(line)
    except (OSError, ValueError) as error:
        raise SmppServerSilent(str(error)) from None


class QueryListener:
    """Answers questions on `loop`.

    Args:
        answer: returns a value of JSON; what it raises is logged, and the asker gets no answer.

    Raises OSError when the socket can't be created. A data folder has one: a new one replaces the one before.
    """

    def __init__(
        self, data: Path, loop: asyncio.AbstractEventLoop, answer: Callable[[Mapping[str, Any]], object]
    ) -> None:
        self._loop = loop
        self._answer = answer
        self._socket_file = get_socket_path(data, SOCKET_NAME)
        self._socket_file.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        self._socket.bind(str(self._socket_file))
        # Nobody can connect before it listens.
        self._socket_file.chmod(0o600)
        self._socket.listen()
        self._connections: set[asyncio.Task[None]] = set()
        self._is_failing = False
        self._accepting = loop.create_task(self._accept())

    def close(self) -> None:
        for task in (self._accepting, *self._connections):
            task.cancel()
        self._socket.close()
        self._socket_file.unlink(missing_ok=True)

    async def _accept(self) -> None:
        import asyncio  # only the server has a loop, see `wakeup`

        while True:
            if len(self._connections) >= _MAX_CONNECTIONS:
                # The others wait in the kernel: none takes longer than a second.
                await asyncio.wait(self._connections, return_when=asyncio.FIRST_COMPLETED)
            try:
                connection, _ = await self._loop.sock_accept(self._socket)
            except OSError as error:
                # Mostly for want of file descriptors: there will be some again.
                if not self._is_failing:
                    log.error("no questions can be accepted: %s", error)
                self._is_failing = True
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            self._is_failing = False
            task = self._loop.create_task(self._serve(connection))
            self._connections.add(task)
            task.add_done_callback(partial(self._end_connection, connection))

    def _end_connection(self, connection: socket.socket, task: asyncio.Task[None]) -> None:
        """Here, as a task that is cancelled before it begins closes nothing."""
        self._connections.discard(task)
        connection.close()

    async def _serve(self, connection: socket.socket) -> None:
        import asyncio  # only the server has a loop, see `wakeup`

        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                question = b""
                while not question.endswith(b"\n") and len(question) < _MAX_QUESTION_OCTETS:
                    octets = await self._loop.sock_recv(connection, _MAX_QUESTION_OCTETS)
                    if not octets:
                        return
                    question += octets
                answer = json.dumps(self._answer(json.loads(question))).encode() + b"\n"
                await self._loop.sock_sendall(connection, answer)
        except Exception as error:
            log.warning("a question could not be answered: %s", error)
