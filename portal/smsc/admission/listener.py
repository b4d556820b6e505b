"""The listening sockets, and the first octets of a connection.

These are looked at while they stay in the socket for whoever reads it afterwards: asyncio and uvloop read a socket from
its beginning or not at all, and take no octets that were read before.
"""

import asyncio
import ipaddress
import logging
import select
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from portal.services.accounts.allowed_ips import IPAddress, IPNetwork, unmap_ipv4
from portal.smsc.admission import proxy_protocol, tls
from portal.smsc.admission.connection_limits import ConnectionLimits, ConnectionSlot, PendingConnection

log = logging.getLogger(__name__)

_ACCEPT_BATCH_SIZE = 200
_ACCEPT_PAUSE_SECONDS = 0.1
# For a client to read why TLS refuses it.
_ALERT_SECONDS = 1.0
_READ_SIZE = 64 * 1024
# A pause before another look, where only some have come. Looking can't wait for more: what is there already would
# wake it at once. The pauses grow, so that those who send one octet at a time cost little.
_FIRST_PAUSE_SECONDS = 0.005
_MAX_PAUSE_SECONDS = 0.5


class ConnectionEnded(OSError):
    """The client has closed the connection, or reset it, before it has said what it wants."""


@dataclass(eq=False, repr=False)
class SmppListener:
    """Accepts on one socket. By hand, so that a stranger is counted before TLS costs anything.

    Args:
        tls_context: None on the unsecured port.
        handshake_seconds: how long the PROXY protocol's header may take, and then the handshake of TLS.
        proxy_networks: from which each connection must begin with a header of the PROXY protocol.
        make_session: makes the protocol of a connection that was let in.
    """

    listening_socket: socket.socket
    tls_context: ssl.SSLContext | None
    handshake_seconds: float
    proxy_networks: Sequence[IPNetwork]
    connection_limits: ConnectionLimits
    make_session: Callable[[ConnectionSlot], asyncio.Protocol]
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _handshakes: dict[asyncio.Task[object], ConnectionSlot] = field(default_factory=dict)
    _header_tasks: set[asyncio.Task[IPAddress]] = field(default_factory=set)
    _resume_timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._resume_timer = None
        self._loop.add_reader(self.listening_socket.fileno(), self._accept_connections)

    def close(self) -> None:
        """Accept nothing any more; sessions go on."""
        if self._resume_timer:
            self._resume_timer.cancel()
        else:
            self._loop.remove_reader(self.listening_socket.fileno())
        self.listening_socket.close()
        for slot in list(self._handshakes.values()):
            slot.cancel()
        for task in self._header_tasks:
            task.cancel()

    def _accept_connections(self) -> None:
        for _ in range(_ACCEPT_BATCH_SIZE):
            try:
                client, peer = self.listening_socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # Out of file descriptors: the connection stays in the backlog, and would wake us without end.
                log.error("connections can't be accepted: %s", error)
                self._loop.remove_reader(self.listening_socket.fileno())
                self._resume_timer = self._loop.call_later(_ACCEPT_PAUSE_SECONDS, self.start)
                return
            # IPv4 where the socket shows it mapped into IPv6, and without a zone.
            self._admit_client(client, unmap_ipv4(ipaddress.ip_address(peer[0].partition("%")[0])))

    def _admit_client(self, client: socket.socket, peer: IPAddress) -> None:
        client.setblocking(False)
        with suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not any(peer in each for each in self.proxy_networks):
            self.connection_limits.admit_or_queue(PendingConnection(client, peer, self._start_session))
        elif self.connection_limits.reserve_place():
            task = self._loop.create_task(self._read_proxy_header(client, peer))
            self._header_tasks.add(task)
            task.add_done_callback(partial(self._handle_proxy_header, client, peer))
        else:
            client.close()

    # --- the header of the PROXY protocol

    async def _read_proxy_header(self, client: socket.socket, peer: IPAddress) -> IPAddress:
        """Read it, and nothing behind it; returns where the client is. Raises ProxyHeaderError or OSError."""
        deadline = self._loop.time() + self.handshake_seconds
        header = await peek_first_octets(
            client, proxy_protocol.count_header_octets, proxy_protocol.MAX_HEADER_LENGTH, deadline
        )
        client.recv(len(header))
        return proxy_protocol.parse_header(header) or peer

    def _handle_proxy_header(self, client: socket.socket, peer: IPAddress, task: asyncio.Task[IPAddress]) -> None:
        self._header_tasks.discard(task)
        self.connection_limits.release_place()
        is_stopping = self.listening_socket.fileno() < 0
        error = None if task.cancelled() else task.exception()
        if not (task.cancelled() or error or is_stopping):
            self.connection_limits.admit_or_queue(PendingConnection(client, task.result(), self._start_session))
            return
        client.close()
        # A balancer that only looks whether the port is open does so every few seconds.
        if error is not None and not isinstance(error, ConnectionEnded):
            log.warning("no PROXY header from %s: %s", peer, str(error) or "it has not come in time")

    # --- connections that are let in

    def _start_session(self, client: socket.socket, slot: ConnectionSlot) -> None:
        handshake: Coroutine[Any, Any, object]
        if self.tls_context:
            handshake = self._run_tls_handshake(client, slot, self.tls_context)
        else:
            handshake = self._loop.connect_accepted_socket(lambda: self.make_session(slot), client)
        task = self._loop.create_task(handshake)
        slot.cancel_handshake = task.cancel
        self._handshakes[task] = slot
        task.add_done_callback(partial(self._handle_handshake_end, client, slot))

    def _handle_handshake_end(self, client: socket.socket, slot: ConnectionSlot, task: asyncio.Task[object]) -> None:
        del self._handshakes[task]
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error:
            slot.release()
            client.close()
        if isinstance(error, OSError):
            if not isinstance(error, ConnectionEnded):
                log.info("no TLS with %s: %s", slot.address, str(error) or "it has not begun in time")
        elif error:
            log.error("the connection of %s could not be let in", slot.address, exc_info=error)

    async def _run_tls_handshake(
        self, client: socket.socket, slot: ConnectionSlot, tls_context: ssl.SSLContext
    ) -> None:
        """Do the handshake. Where it fails for the ClientHello, the client gets the alert that says why.

        The event loop closes the socket without sending the alert, so another file descriptor keeps it open.
        Raises OSError.
        """
        deadline = self._loop.time() + self.handshake_seconds
        client_hello = await peek_first_octets(
            client, tls.ClientHelloCounter().count_needed, tls.MAX_CLIENT_HELLO_LENGTH, deadline
        )
        with client.dup() as same_client:
            try:
                await self._loop.connect_accepted_socket(
                    lambda: self.make_session(slot),
                    client,
                    ssl=tls_context,
                    ssl_handshake_timeout=max(deadline - self._loop.time(), 0.001),
                )
            except ssl.SSLError as error:
                alert = tls.find_alert(tls_context, client_hello)
                if alert is not None:
                    await self._send_alert(same_client, alert)
                raise OSError(tls.describe_failure(error, client_hello, alert)) from error

    async def _send_alert(self, client: socket.socket, alert: bytes) -> None:
        """Send it, and wait a moment until the client has closed.

        Until then everything is read: what is unread when a socket is closed resets the connection.
        """
        with suppress(OSError):
            async with asyncio.timeout(_ALERT_SECONDS):
                client.send(alert)
                client.shutdown(socket.SHUT_WR)
                while True:
                    await wait_until_readable(client)
                    if not client.recv(_READ_SIZE):
                        return


async def peek_first_octets(
    client: socket.socket, count_needed: Callable[[bytes], int], max_octets: int, deadline: float
) -> bytes:
    """Return the first octets, as many as belong together, and leave them in the socket.

    Args:
        client: non-blocking.
        count_needed: is called with the octets that have come, and returns how many are needed. Where it returns more,
            it is called again with more; else these are all. What it raises is passed on.
        max_octets: where more than that are needed, so many are returned as have come.
        deadline: in seconds of the event loop's clock.

    Raises:
        ConnectionEnded: the client has closed the connection before all of them have come.
        TimeoutError: they are not there at the deadline.
        OSError: the connection is lost.
    """
    # Mostly they are there already: no timer is needed then.
    octets = _peek_if_whole(client, count_needed, max_octets)
    if octets is None:
        async with asyncio.timeout_at(deadline):
            await wait_until_readable(client)
            pause = _FIRST_PAUSE_SECONDS
            while (octets := _peek_if_whole(client, count_needed, max_octets)) is None:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _MAX_PAUSE_SECONDS)
    return octets


def _peek_if_whole(client: socket.socket, count_needed: Callable[[bytes], int], max_octets: int) -> bytes | None:
    try:
        octets = client.recv(max_octets, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        raise ConnectionEnded("it has reset the connection") from None
    needed = count_needed(octets) if octets else 1
    if needed <= len(octets):
        return octets[:needed]
    if needed > max_octets:
        return octets
    # To look at octets that stay where they are never comes to the end behind them.
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    if poll.poll(0):
        raise ConnectionEnded("it has closed the connection too early")
    return None


async def wait_until_readable(client: socket.socket) -> None:
    """Wait until there is something to read, or the end."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(client.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(client.fileno())
