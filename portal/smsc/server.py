"""The SMPP process: everything made, joined and, at its end, taken down in order."""

import asyncio
import gc
import logging
import signal
import socket
import sqlite3
import ssl
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from portal.core import query_socket, wakeup
from portal.core.config import Config
from portal.core.crypto import KeyFileError, Keys
from portal.core.listening import open_listening_sockets
from portal.services.accounts.refused_pdus import REFUSED_PDUS_QUERY
from portal.smsc.admission import tls
from portal.smsc.admission.bind_auth import BindAuth
from portal.smsc.admission.connection_limits import ConnectionLimits
from portal.smsc.admission.listener import SmppListener
from portal.smsc.connection.refused_pdus import RefusedPdus
from portal.smsc.connection.session import ServerContext, SmppSession
from portal.smsc.connection.session_registry import SessionRegistry, WaitingBinds
from portal.smsc.limits import DEFAULT_SERVER_LIMITS, ServerLimits
from portal.smsc.storage.interface import StorageUnavailable
from portal.smsc.storage.sqlite import Storage
from portal.smsc.upstream.dispatcher import Dispatcher
from portal.smsc.upstream.simulator.simulator import Simulator

log = logging.getLogger(__name__)

# For what was accepted to be stored, for clients, for what is left to write: together a second less than the supervisor
# waits, which a busy machine may need for the rest.
_DRAIN_SECONDS = 1.8
_SHUTDOWN_UNBIND_SECONDS = 0.8
_UPSTREAM_ANSWER_SECONDS = 1.5
_FINAL_WRITE_SECONDS = 1.0


@dataclass(eq=False, repr=False)
class SmppServer(ServerContext):
    """The server in one event loop.

    `start`, then `close`; `port` and `tls_port` are those really listened on (0: not). `on_fatal_error` is called where
    only a new process can go on. `connection_limits` and, from `start` on, `storage`, `session_registry`,
    `waiting_binds`, `dispatcher` and `simulator`, the built-in upstream, are the parts of it.
    """

    config: Config
    loop: asyncio.AbstractEventLoop
    on_fatal_error: Callable[[], None]
    server_limits: ServerLimits = DEFAULT_SERVER_LIMITS
    connection_limits: ConnectionLimits = field(init=False)
    session_registry: SessionRegistry = field(init=False)
    waiting_binds: WaitingBinds = field(init=False)
    port: int = 0
    tls_port: int = 0
    _listeners: list[SmppListener] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.connection_limits = ConnectionLimits(self.config.limits, self.server_limits)

    def start(self) -> None:
        """Listen.

        Raises OSError, ssl.SSLError, KeyFileError, sqlite3.Error or StorageUnavailable where that is not possible.
        """
        config, loop = self.config, self.loop
        with ExitStack() as cleanup:
            # Listening comes first: a second server of the same folder fails here, before it has touched anything.
            plain_sockets, tls_sockets = self._open_sockets(cleanup)
            tls_context = self._create_tls_context() if tls_sockets else None
            self.storage = Storage(
                config.database_file, Keys.load(config.data), self.server_limits, self.on_fatal_error
            )
            cleanup.callback(self.storage.close_db_connections)
            self.storage.outbound.buys_packs = config.billing.enabled != "off"
            self.storage.load()
            self._wakeup_listener = wakeup.WakeupListener(config.data, loop, self.storage.poll_changes)
            self._query_listener = query_socket.QueryListener(config.data, loop, self._answer_query)
            cleanup.pop_all()
        self.session_registry = SessionRegistry(self.storage)
        self.waiting_binds = WaitingBinds(self.session_registry, self.server_limits.probe_seconds)
        self.refused_pdus = RefusedPdus()
        self.storage.on_account_change(self.refused_pdus.apply_account_change)
        self.bind_auth = BindAuth(self.storage, config, self.server_limits)
        self.simulator = Simulator(self.storage.outbound.store_outcomes)
        self.dispatcher = Dispatcher(self.storage.outbound, self.simulator)
        self.storage.start()
        self.dispatcher.start()
        make_listener = partial(
            SmppListener,
            handshake_seconds=config.limits.bind_seconds,
            proxy_networks=config.proxy_protocol_networks,
            connection_limits=self.connection_limits,
            make_session=lambda slot: SmppSession(self, slot),
        )
        self._listeners += [make_listener(each, None) for each in plain_sockets]
        self._listeners += [make_listener(each, tls_context) for each in tls_sockets]
        for listener in self._listeners:
            listener.start()
        self.storage.start_heartbeats()
        log.info("listening on %s, unsecured port %d, TLS port %d", config.smpp.host, self.port, self.tls_port)

    async def close(self) -> None:
        """Take no new connections and messages, answer those that were taken, unbind, write what is left.

        It takes as long as clients and upstreams need to answer, four seconds at most. What waits for the writer after
        `_DRAIN_SECONDS` is refused instead of stored.
        """
        for listener in self._listeners:
            listener.close()
        self.connection_limits.close()
        started_at = self.loop.time()
        closing = self.loop.create_task(self.dispatcher.close(_UPSTREAM_ANSWER_SECONDS))
        for session in list(self.connection_limits.sessions):
            session.unbind("the server stops")
        if not await self.connection_limits.wait_until_empty(_DRAIN_SECONDS):
            self.storage.outbound.refuses_submits = True
            await self.connection_limits.wait_until_empty(_SHUTDOWN_UNBIND_SECONDS)
        # What an upstream has not answered by then is unsure, as after a crash.
        remaining = started_at + _DRAIN_SECONDS + _SHUTDOWN_UNBIND_SECONDS - self.loop.time()
        await asyncio.wait({closing}, timeout=max(remaining, 0))
        self._wakeup_listener.close()
        self._query_listener.close()
        self.session_registry.close()
        self.storage.close(_FINAL_WRITE_SECONDS)
        log.info("stopped")

    def _answer_query(self, query: Mapping[str, Any]) -> object:
        """Answer what another process of the installation asks: see `query_socket`."""
        if query.get("ask") == REFUSED_PDUS_QUERY:
            return [asdict(each) for each in self.refused_pdus.list_pdus(int(query["account_id"]))]
        raise ValueError("it is asked for something unknown")

    def _open_sockets(self, cleanup: ExitStack) -> tuple[list[socket.socket], list[socket.socket]]:
        smpp = self.config.smpp
        socket_lists: list[list[socket.socket]] = []
        for port in (smpp.port, smpp.tls_port):
            sockets = open_listening_sockets(smpp.host, port) if port else []
            socket_lists.append([cleanup.enter_context(each) for each in sockets])
        plain_sockets, tls_sockets = socket_lists
        self.port, self.tls_port = (sockets[0].getsockname()[1] if sockets else 0 for sockets in socket_lists)
        return plain_sockets, tls_sockets

    def _create_tls_context(self) -> ssl.SSLContext:
        smpp = self.config.smpp
        if smpp.tls_certificate:
            certificate, key = Path(smpp.tls_certificate), Path(smpp.tls_key)
        else:
            certificate, key = tls.ensure_certificate(self.config.data, smpp.public_host or smpp.host)
        return tls.create_tls_context(certificate, key, smpp.tls_minimum)


def run_smpp_server(config: Config) -> int:
    """Run the SMPP server until SIGTERM or SIGINT. Returns the exit status: 1 where it could not start or go on."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s smsc %(levelname)s %(message)s")
    with asyncio.Runner(loop_factory=get_event_loop_factory()) as runner:
        return runner.run(_serve_until_stopped(config))


def get_event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop: uvloop where it is installed; None: asyncio's own."""
    # Imported here because it is not installed everywhere.
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve_until_stopped(config: Config) -> int:
    loop = asyncio.get_running_loop()
    exit_status: asyncio.Future[int] = loop.create_future()

    def set_exit_status(status: int) -> None:
        if not exit_status.done():
            exit_status.set_result(status)

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, set_exit_status, 0)
    server = SmppServer(config, loop, on_fatal_error=partial(set_exit_status, 1))
    try:
        server.start()
    except (OSError, KeyFileError, sqlite3.Error, StorageUnavailable) as error:
        log.error("%s", error)
        return 1
    _tune_garbage_collector()
    status = await exit_status
    await server.close()
    return status


def _tune_garbage_collector() -> None:
    # What is here at the start stays, and messages make no cycles: looking for some among the thousands on their way
    # took a twentieth of the time, and the longest looks some milliseconds in which nobody was answered.
    gc.collect()
    gc.freeze()
