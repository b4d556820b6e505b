"""The listening sockets."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from portal.services.accounts.allowed_ips import IPAddress
from portal.smsc.admission.connection_limits import ConnectionLimits, ConnectionSlot

log = logging.getLogger(__name__)

_BACKLOG = 4096
_ACCEPT_BATCH_SIZE = 200
_ACCEPT_PAUSE_SECONDS = 0.1


class SmppListener:
    """Accepts on one socket. By hand, so that a stranger is counted before TLS costs anything.

    Args:
        tls_context: None on the unsecured port.
        handshake_seconds: how long the handshake of TLS may take.
        make_session: makes the protocol of a connection that was let in.
    """

    def __init__(
        self,
        listening_socket: socket.socket,
        tls_context: ssl.SSLContext | None,
        handshake_seconds: float,
        connection_limits: ConnectionLimits,
        make_session: Callable[[ConnectionSlot], asyncio.Protocol],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._socket = listening_socket
        self._tls_context = tls_context
        self._handshake_seconds = handshake_seconds
        self._connection_limits = connection_limits
        self._make_session = make_session
        self._loop = loop
        self._handshakes: dict[asyncio.Task[None], ConnectionSlot] = {}
        self._resume_timer: asyncio.TimerHandle | None = None
        self.port: int = listening_socket.getsockname()[1]

    def start(self) -> None:
        """Accept from now on."""
        self._resume_timer = None
        self._loop.add_reader(self._socket.fileno(), self._accept_connections)

    def close(self) -> None:
        """Accept nothing any more; sessions go on."""
        if self._resume_timer:
            self._resume_timer.cancel()
        else:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for slot in list(self._handshakes.values()):
            slot.cancel()

    def _accept_connections(self) -> None:
        for _ in range(_ACCEPT_BATCH_SIZE):
            try:
                client, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of file descriptors: the connection stays in the backlog, and would wake us without end.
                log.error("connections can't be accepted: %s", error)
                self._loop.remove_reader(self._socket.fileno())
                self._resume_timer = self._loop.call_later(_ACCEPT_PAUSE_SECONDS, self.start)
                return
            self._admit_client(client, parse_peer_address(peer[0]))

    def _admit_client(self, client: socket.socket, address: IPAddress) -> None:
        client.setblocking(False)
        with suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection_limits.admit_or_queue(_AcceptedSocket(client, address, self._start_session))

    def _start_session(self, client: socket.socket, slot: ConnectionSlot) -> None:
        task = self._loop.create_task(self._run_handshake(client, slot))
        slot.cancel_handshake = task.cancel
        self._handshakes[task] = slot
        task.add_done_callback(partial(self._handle_handshake_end, client, slot))

    def _handle_handshake_end(self, client: socket.socket, slot: ConnectionSlot, task: asyncio.Task[None]) -> None:
        del self._handshakes[task]
        # Here, for a task that is cancelled before its first step never gets that far itself.
        if task.cancelled():
            _close_client(client, slot)

    async def _run_handshake(self, client: socket.socket, slot: ConnectionSlot) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make_session(slot),
                client,
                ssl=self._tls_context,
                ssl_handshake_timeout=self._handshake_seconds if self._tls_context else None,
            )
        except OSError as error:
            log.info("no TLS with %s: %s", slot.address, error)
            _close_client(client, slot)


def _close_client(client: socket.socket, slot: ConnectionSlot) -> None:
    slot.release()
    client.close()


class _AcceptedSocket:
    """A socket that was accepted. Implements `PendingConnection`."""

    __slots__ = ("_client", "_start_session", "address")

    def __init__(
        self, client: socket.socket, address: IPAddress, start_session: Callable[[socket.socket, ConnectionSlot], None]
    ) -> None:
        self.address = address
        self._client = client
        self._start_session = start_session

    def start_session(self, slot: ConnectionSlot) -> None:
        self._start_session(self._client, slot)

    def reject(self) -> None:
        self._client.close()

    def is_disconnected(self) -> bool:
        try:
            return not self._client.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


def open_listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Return non-blocking sockets that listen on each address of `host`, on the same port (0: one that is free).

    `::` listens on IPv4 too. Raises OSError, with the address in its text, where that is not possible.
    """
    address_infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((info[0], info[4][0]) for info in address_infos):
            actual_port = sockets[0].getsockname()[1] if sockets else port
            is_dual_stack = address == "::" and socket.has_dualstack_ipv6()
            sockets.append(
                socket.create_server(
                    (address, actual_port), family=family, backlog=_BACKLOG, dualstack_ipv6=is_dual_stack
                )
            )
            sockets[-1].setblocking(False)
    except OSError as error:
        for each in sockets:
            each.close()
        raise OSError(error.errno, f"can't listen on {host} port {port}: {error.strerror}") from error
    return sockets


def parse_peer_address(host: str) -> IPAddress:
    """Return the address of a peer; an IPv4 one where the socket shows it mapped into IPv6 (RFC 4291, 2.5.5.2)."""
    address = ipaddress.ip_address(host.partition("%")[0])
    ipv4_address = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return ipv4_address or address
