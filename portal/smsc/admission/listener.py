"""The listening sockets."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from portal.services.accounts.allowed_ips import Address
from portal.smsc.admission.connection_limits import ConnectionLimits, ConnectionSlot

log = logging.getLogger(__name__)

_BACKLOG = 4096
_AT_ONCE = 200
_PAUSE_SECONDS = 0.1


class Listener:
    """Accepts on one socket. By hand, so that a stranger is counted before TLS costs anything.

    Args:
        tls: None on the unsecured port.
        handshake_seconds: how long the handshake of TLS may take.
        make_session: makes the protocol of a connection that was let in.
    """

    def __init__(
        self,
        listening: socket.socket,
        tls: ssl.SSLContext | None,
        handshake_seconds: float,
        connection_limits: ConnectionLimits,
        make_session: Callable[[ConnectionSlot], asyncio.Protocol],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._socket = listening
        self._tls = tls
        self._handshake_seconds = handshake_seconds
        self._connection_limits = connection_limits
        self._make_session = make_session
        self._loop = loop
        self._beginning: set[asyncio.Task[None]] = set()
        self._paused: asyncio.TimerHandle | None = None
        self.port: int = listening.getsockname()[1]

    def start(self) -> None:
        """Accept from now on."""
        self._paused = None
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Accept nothing any more; sessions go on."""
        if self._paused:
            self._paused.cancel()
        else:
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        for beginning in self._beginning:
            beginning.cancel()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, peer = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of file descriptors: the connection stays in the backlog, and would wake us without end.
                log.error("connections can't be accepted: %s", error)
                self._loop.remove_reader(self._socket.fileno())
                self._paused = self._loop.call_later(_PAUSE_SECONDS, self.start)
                return
            self._welcome(client, unmapped(peer[0]))

    def _welcome(self, client: socket.socket, address: Address) -> None:
        client.setblocking(False)
        with suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection_limits.enter(_Accepted(client, address, self._begin))

    def _begin(self, client: socket.socket, slot: ConnectionSlot) -> None:
        beginning = self._loop.create_task(self._connect(client, slot))
        slot.cancel = beginning.cancel
        self._beginning.add(beginning)
        beginning.add_done_callback(self._beginning.discard)

    async def _connect(self, client: socket.socket, slot: ConnectionSlot) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make_session(slot),
                client,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_seconds if self._tls else None,
            )
        except OSError as error:
            log.info("no TLS with %s: %s", slot.address, error)
            _end(client, slot)
        except asyncio.CancelledError:
            _end(client, slot)
            raise


def _end(client: socket.socket, slot: ConnectionSlot) -> None:
    slot.left()
    client.close()


class _Accepted:
    """A socket that was accepted. Implements `PendingConnection`."""

    __slots__ = ("_begin", "_client", "address")

    def __init__(
        self, client: socket.socket, address: Address, begin: Callable[[socket.socket, ConnectionSlot], None]
    ) -> None:
        self.address = address
        self._client = client
        self._begin = begin

    def begin(self, slot: ConnectionSlot) -> None:
        self._begin(self._client, slot)

    def send_away(self) -> None:
        self._client.close()

    def has_gone(self) -> bool:
        try:
            return not self._client.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Return non-blocking sockets that listen on each address of `host`, on the same port (0: one that is free).

    `::` listens on IPv4 too. Raises OSError, with the address in its text, where that is not possible.
    """
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((info[0], info[4][0]) for info in infos):
            free_port = opened[0].getsockname()[1] if opened else port
            dual = address == "::" and socket.has_dualstack_ipv6()
            opened.append(
                socket.create_server((address, free_port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
            )
            opened[-1].setblocking(False)
    except OSError as error:
        for each in opened:
            each.close()
        raise OSError(error.errno, f"can't listen on {host} port {port}: {error.strerror}") from error
    return opened


def unmapped(host: str) -> Address:
    """Return the address of a peer; an IPv4 one where the socket shows it mapped into IPv6 (RFC 4291, 2.5.5.2)."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
