"""The listening sockets, and how many connections they let in."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from portal.config import Limits
from portal.services.allowed_ips import Address
from portal.smsc.session import Session

log = logging.getLogger(__name__)

_BACKLOG = 1024
_AT_ONCE = 200
_PAUSE_SECONDS = 0.1

MakeSession = Callable[[Address, Callable[[], None], Callable[[], None]], Session]


class Door:
    """Counts connections: in all, and those without a bind, in all and by address."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connections = 0
        self._unbound = 0
        self._unbound_from: Counter[Address] = Counter()

    def enter(self, address: Address) -> bool:
        """Count a new connection, unless there are too many."""
        limits = self._limits
        if (
            self._connections >= limits.connections
            or self._unbound >= limits.unbound
            or self._unbound_from[address] >= limits.unbound_per_address
        ):
            return False
        self._connections += 1
        self._unbound += 1
        self._unbound_from[address] += 1
        return True

    def bound(self, address: Address) -> None:
        """A connection has bound."""
        self._unbound -= 1
        self._unbound_from[address] -= 1
        if not self._unbound_from[address]:
            del self._unbound_from[address]

    def left(self, address: Address, *, was_bound: bool) -> None:
        """A connection has ended."""
        self._connections -= 1
        if not was_bound:
            self.bound(address)


class Visit:
    """One connection's place behind the `Door`."""

    def __init__(self, door: Door, address: Address) -> None:
        self._door = door
        self._address = address
        self._bound = False
        self._left = False

    def bound(self) -> None:
        self._bound = True
        self._door.bound(self._address)

    def left(self) -> None:
        if not self._left:
            self._left = True
            self._door.left(self._address, was_bound=self._bound)


class Listener:
    """Accepts on one socket. By hand, so that a stranger is counted before TLS costs anything."""

    def __init__(
        self,
        listening: socket.socket,
        tls: ssl.SSLContext | None,
        door: Door,
        make_session: MakeSession,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._socket = listening
        self._tls = tls
        self._door = door
        self._make_session = make_session
        self._limits = limits
        self._loop = loop
        self._handshakes: set[asyncio.Task[None]] = set()
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
        for handshake in self._handshakes:
            handshake.cancel()

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
        if not self._door.enter(address):
            client.close()
            return
        client.setblocking(False)
        with suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        handshake = self._loop.create_task(self._connect(client, address))
        self._handshakes.add(handshake)
        handshake.add_done_callback(self._handshakes.discard)

    async def _connect(self, client: socket.socket, address: Address) -> None:
        visit = Visit(self._door, address)
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._make_session(address, visit.bound, visit.left),
                client,
                ssl=self._tls,
                ssl_handshake_timeout=self._limits.bind_seconds if self._tls else None,
            )
        except (OSError, asyncio.CancelledError) as error:
            log.info("no TLS with %s: %s", address, error)
            visit.left()
            client.close()
        except Exception:
            log.exception("a connection from %s could not be begun", address)
            visit.left()
            client.close()


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
            made = socket.create_server((address, free_port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
            made.setblocking(False)
            opened.append(made)
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
