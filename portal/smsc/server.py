"""The SMPP process: everything made, joined and, at its end, taken down in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sqlite3
import ssl
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from portal.core import wakeup
from portal.core.config import Config
from portal.core.crypto import KeyFileError, Keys
from portal.smsc.admission import tls
from portal.smsc.admission.bind_auth import BindAuth
from portal.smsc.admission.connection_limits import ConnectionLimits
from portal.smsc.admission.listener import Listener, listening_sockets
from portal.smsc.connection.session import ServerContext, SmppSession
from portal.smsc.connection.session_registry import SessionRegistry
from portal.smsc.storage.interface import Unavailable
from portal.smsc.storage.sqlite import SqliteStorage
from portal.smsc.upstream.dispatcher import Dispatcher
from portal.smsc.upstream.simulator import Simulator

log = logging.getLogger(__name__)

_FAREWELL_SECONDS = 2.0
# Objects that are made before the garbage collector looks for cycles among them; Python's own 700 are 70 messages.
_COLLECT_AFTER = 10_000
_LAST_WRITES_SECONDS = 1.5


class Server:
    """The server in one event loop.

    `start`, then `close`; `port` and `tls_port` are those really listened on (0: not). `on_death` is called where only
    a new process can go on.
    """

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop, on_death: Callable[[], None]) -> None:
        self._config = config
        self._loop = loop
        self._on_death = on_death
        self._connection_limits = ConnectionLimits(config.limits, loop)
        self._listeners: list[Listener] = []
        self.port = 0
        self.tls_port = 0

    def start(self) -> None:
        """Listen. Where that is not possible: OSError, ssl.SSLError, KeyFileError, sqlite3.Error, Unavailable."""
        config, loop = self._config, self._loop
        with ExitStack() as on_failure:
            # Listening comes first: a second server of the same folder fails here, before it has touched anything.
            unsecured, secured = self._open_sockets(on_failure)
            tls_context = self._tls_context() if secured else None
            self._storage = SqliteStorage(config.database, Keys.load(config.data), loop, self._on_death)
            on_failure.callback(self._storage.abandon)
            self._storage.load()
            self._wakeup_listener = wakeup.Listener(config.data, loop, self._storage.look)
            on_failure.pop_all()
        self._session_registry = SessionRegistry(self._storage, loop)
        bind_auth = BindAuth(self._storage, config.limits.bind_failures, loop)
        simulator = Simulator(self._storage.put_outcomes, self._storage.put_received, loop)
        self._storage.on_simulated(simulator.receive)
        self._dispatcher = Dispatcher(self._storage, simulator)
        context = ServerContext(self._storage, bind_auth, self._session_registry, self._dispatcher, config.limits, loop)
        self._storage.start()
        self._dispatcher.start()
        make_listener = partial(
            Listener,
            handshake_seconds=config.limits.bind_seconds,
            connection_limits=self._connection_limits,
            make_session=partial(SmppSession, context=context),
            loop=loop,
        )
        self._listeners += [make_listener(each, None) for each in unsecured]
        self._listeners += [make_listener(each, tls_context) for each in secured]
        for listener in self._listeners:
            listener.start()
        self._storage.start_heartbeats()
        log.info("listening on %s, unsecured port %d, TLS port %d", config.smpp.host, self.port, self.tls_port)

    async def close(self) -> None:
        """Take no new connections, unbind the others, write what is left: four seconds at most."""
        for listener in self._listeners:
            listener.close()
        self._connection_limits.close()
        self._dispatcher.close()
        for session in list(self._connection_limits.sessions):
            session.unbind("the server stops")
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self._connection_limits.emptied()
        self._wakeup_listener.close()
        self._session_registry.close()
        self._storage.close(_LAST_WRITES_SECONDS)
        log.info("stopped")

    def _open_sockets(self, on_failure: ExitStack) -> tuple[list[socket.socket], list[socket.socket]]:
        smpp = self._config.smpp
        opened: list[list[socket.socket]] = []
        for port in (smpp.port, smpp.tls_port):
            sockets = listening_sockets(smpp.host, port) if port else []
            for each in sockets:
                on_failure.callback(each.close)
            opened.append(sockets)
        unsecured, secured = opened
        self.port, self.tls_port = (sockets[0].getsockname()[1] if sockets else 0 for sockets in opened)
        return unsecured, secured

    def _tls_context(self) -> ssl.SSLContext:
        smpp = self._config.smpp
        if smpp.tls_certificate:
            return tls.context(Path(smpp.tls_certificate), Path(smpp.tls_key))
        return tls.context(*tls.ensure_certificate(self._config.data, smpp.public_host or smpp.host))


def run(config: Config) -> int:
    """Be the SMPP process until SIGTERM or SIGINT. Returns the exit status: 1 where it could not start or go on."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s smsc %(levelname)s %(message)s")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(config))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the server's event loop: uvloop's where it installs; None: asyncio's own."""
    # Imported here because it is not installed everywhere.
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(config: Config) -> int:
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[int] = loop.create_future()

    def end(status: int) -> None:
        if not stop.done():
            stop.set_result(status)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 0)
    server = Server(config, loop, on_death=partial(end, 1))
    try:
        server.start()
    except (OSError, KeyFileError, sqlite3.Error, Unavailable) as error:
        log.error("%s", error)
        return 1
    _collect_seldom()
    status = await stop
    await server.close()
    return status


def _collect_seldom() -> None:
    # What is here at the start stays, and messages make no cycles: looking for some among the thousands on their way
    # took a twentieth of the time, and the longest looks some milliseconds in which nobody was answered.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
