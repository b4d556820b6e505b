"""The SMPP process: everything made, joined and, at its end, taken down in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sqlite3
import ssl
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from portal import nudge
from portal.config import Config
from portal.crypto import KeyFileError, Keys
from portal.services.allowed_ips import Address
from portal.smsc import tls
from portal.smsc.gate import Gate
from portal.smsc.listener import Door, Listener, listening_sockets
from portal.smsc.roster import Roster
from portal.smsc.session import Session, Surroundings
from portal.smsc.simulator import Simulator
from portal.smsc.sqlite_backplane import SqliteBackplane

log = logging.getLogger(__name__)

_FAREWELL_SECONDS = 2.0
_LAST_WRITES_SECONDS = 1.5
_UNFINISHED_AT_ONCE = 1_000


class Server:
    """The server in one event loop. `start`, then `close`; `port` and `tls_port` are those really listened on (0: not)."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self._config = config
        self._loop = loop
        self._sessions: set[Session] = set()
        self._all_gone = asyncio.Event()
        self._listeners: list[Listener] = []
        self.port = 0
        self.tls_port = 0

    def start(self) -> None:
        """Listen. Raises OSError, ssl.SSLError, KeyFileError or sqlite3.Error when that is not possible."""
        config, loop = self._config, self._loop
        # Listening comes first: a second server of the same folder fails here, before it has touched anything.
        unsecured, secured = self._open_sockets()
        self._backplane = SqliteBackplane(config.database, Keys.load(config.data), loop)
        self._roster = Roster(self._backplane, loop)
        gate = Gate(self._backplane, config.limits.bind_failures, loop)
        self._surroundings = Surroundings(self._backplane, gate, self._roster, config.limits, loop)
        self._backplane.start()
        self._simulator = Simulator(self._backplane.put_receipts, loop)
        self._backplane.on_stored(self._simulator.send)
        self._give_unfinished()
        self._nudges = nudge.listen(config.data, loop, self._backplane.look)
        door = Door(config.limits)
        for sockets, context in ((unsecured, None), (secured, self._tls_context() if secured else None)):
            for each in sockets:
                listener = Listener(each, context, door, self._make_session, config.limits, loop)
                self._listeners.append(listener)
                listener.start()
        self._backplane.start_heartbeats()
        log.info("listening on %s, unsecured port %d, TLS port %d", config.smpp.host, self.port, self.tls_port)

    async def close(self) -> None:
        """Take no new connections, unbind the others, write what is left: four seconds at most."""
        for listener in self._listeners:
            listener.close()
        self._simulator.close()
        for session in list(self._sessions):
            session.unbind("the server stops")
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                while self._sessions:
                    self._all_gone.clear()
                    await self._all_gone.wait()
        self._nudges.close()
        self._roster.close()
        self._backplane.close(_LAST_WRITES_SECONDS)
        log.info("stopped")

    def _open_sockets(self) -> tuple[list[socket.socket], list[socket.socket]]:
        smpp = self._config.smpp
        unsecured = listening_sockets(smpp.host, smpp.port) if smpp.port else []
        secured = listening_sockets(smpp.host, smpp.tls_port) if smpp.tls_port else []
        self.port, self.tls_port = (sockets[0].getsockname()[1] if sockets else 0 for sockets in (unsecured, secured))
        return unsecured, secured

    def _tls_context(self) -> ssl.SSLContext:
        smpp = self._config.smpp
        if smpp.tls_certificate:
            return tls.context(Path(smpp.tls_certificate), Path(smpp.tls_key))
        return tls.context(*tls.ensure_certificate(self._config.data, smpp.public_host or smpp.host))

    def _give_unfinished(self) -> None:
        last = 0
        while batch := self._backplane.unfinished(last, _UNFINISHED_AT_ONCE):
            self._simulator.send(batch)
            last = batch[-1].id

    def _make_session(self, address: Address, on_bound: Callable[[], None], on_closed: Callable[[], None]) -> Session:
        def closed() -> None:
            self._sessions.discard(session)
            on_closed()
            if not self._sessions:
                self._all_gone.set()

        session = Session(address, self._surroundings, on_bound, closed)
        self._sessions.add(session)
        return session


def run(config: Config) -> int:
    """Be the SMPP process until SIGTERM or SIGINT. Returns the exit status: 1 where the server could not start."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s smsc %(levelname)s %(message)s")
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(config))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(config: Config) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = Server(config, loop)
    try:
        server.start()
    except (OSError, KeyFileError, sqlite3.Error) as error:
        log.error("%s", error)
        return 1
    await stop.wait()
    await server.close()
    return 0
