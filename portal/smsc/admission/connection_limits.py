"""How many connections may be open: in all, and those that have not bound yet, in all and from one address.

An address is an IPv4 one, or the /64 of an IPv6 one. Behind one there may be a thousand clients, which all come back at
once after a restart: as many as may be without a bind are let in, the others wait for their turn, without a session or
a handshake of TLS, and nobody is sent away who would only come again. Where too many have ended without a bind, all
wait, and are let in one by one: the right client may be among those that come again and again with a wrong password.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from portal.core.config import LimitSettings
from portal.services.accounts.allowed_ips import IPAddress
from portal.smsc.admission.rate_limits import FailureCounter, get_rate_limit_network
from portal.smsc.limits import ServerLimits


@dataclass(slots=True, eq=False)
class PendingConnection:
    """A connection that has been accepted and nothing more; it is let in, or rejected.

    `address`: where the client is. `start_session`: is called with the socket of a connection that is let in, and its
    place.
    """

    client: socket.socket
    address: IPAddress
    start_session: Callable[[socket.socket, ConnectionSlot], None]

    def reject(self) -> None:
        """It is not."""
        self.client.close()

    def is_disconnected(self) -> bool:
        """Whether the client has closed the connection meanwhile."""
        try:
            return not self.client.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


class AdmittedSession(Protocol):
    """The session of a connection that was let in."""

    @property
    def keeps_place(self) -> bool:
        """Whether it makes no room for others, see `ConnectionLimits.admit_or_queue`."""

    def abort(self, reason: str) -> None:
        """End at once; `reason` is for the log."""

    def unbind(self, reason: str) -> None:
        """End as SMPP 3.4 wants it; `reason` is for the log."""


class ConnectionLimits:
    """Counts connections, and knows their sessions. The process has one of these.

    `connection_count`: those that are open or wait for their turn. `sessions`: those of connections that were let in.
    `unbound_slots`: the places of those that have not bound yet.
    """

    def __init__(self, limits: LimitSettings, server_limits: ServerLimits) -> None:
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._failed_unbound = FailureCounter(server_limits.failed_unbound_per_minute)
        self._pace_seconds = 60.0 / server_limits.failed_unbound_per_minute
        self._pace_timers: dict[Hashable, asyncio.TimerHandle] = {}
        self.connection_count = 0
        self.unbound_slots: dict[ConnectionSlot, None] = {}  # in the order in which they came
        self._unbound_per_network: Counter[Hashable] = Counter()
        self._queues_by_network: dict[Hashable, dict[PendingConnection, asyncio.TimerHandle]] = {}
        self._queued_count = 0
        self._empty_event = asyncio.Event()
        self.sessions: set[AdmittedSession] = set()

    def admit_or_queue(self, pending: PendingConnection) -> None:
        """Let a new connection in, have it wait for its turn, or send it away.

        Where all places without a bind are taken, the one that has waited longest has to go: a client binds as soon as
        it is connected, so strangers who keep the places don't keep clients out. Those stay whose bind waits for its
        turn at an address that their account authorises, in at most half of the places.
        """
        network = get_rate_limit_network(pending.address)
        if self.connection_count >= self._limits.connections:
            pending.reject()
            return
        if network not in self._pace_timers and self._failed_unbound.is_limit_reached(network, self._loop.time()):
            self._start_pace_timer(network)
        if network not in self._pace_timers and self._has_room(network):
            self.connection_count += 1
            self._admit_connection(pending, network)
        else:
            self._enqueue(pending, network)

    def reserve_place(self) -> bool:
        """Count a connection whose client is not known yet; returns whether one more may be open.

        It is given back with `release_place` before the client is admitted, or not.
        """
        if self.connection_count >= self._limits.connections:
            return False
        self.connection_count += 1
        return True

    def release_place(self) -> None:
        """Count a connection no more that `reserve_place` has counted."""
        self.connection_count -= 1

    def close(self) -> None:
        """Send those away who wait for their turn."""
        for network, queue in list(self._queues_by_network.items()):
            for pending in list(queue):
                self._reject_queued(pending, network)

    async def wait_until_empty(self, seconds: float) -> bool:
        """Wait until no session is left; returns whether that was so in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.sessions:
                    self._empty_event.clear()
                    await self._empty_event.wait()
        return not self.sessions

    # --- those who wait for their turn

    def _enqueue(self, pending: PendingConnection, network: Hashable) -> None:
        if self._queued_count >= self._limits.connections // 2:
            # Whoever brings the most of them has the last of his sent away.
            busiest_network, queue = max(self._queues_by_network.items(), key=lambda each: len(each[1]))
            if busiest_network == network:
                pending.reject()
                return
            self._reject_queued(next(reversed(queue)), busiest_network)
        self.connection_count += 1
        self._queued_count += 1
        timer = self._loop.call_later(self._limits.bind_seconds, self._reject_queued, pending, network)
        self._queues_by_network.setdefault(network, {})[pending] = timer

    def _reject_queued(self, pending: PendingConnection, network: Hashable) -> None:
        self._dequeue(pending, network)
        self.connection_count -= 1
        pending.reject()

    def _dequeue(self, pending: PendingConnection, network: Hashable) -> None:
        queue = self._queues_by_network[network]
        queue.pop(pending).cancel()
        self._queued_count -= 1
        if not queue:
            del self._queues_by_network[network]

    def _has_room(self, network: Hashable) -> bool:
        return self._unbound_per_network[network] < self._limits.unbound_per_address

    def _admit_queued_connections(self, network: Hashable) -> None:
        while network in self._queues_by_network and network not in self._pace_timers and self._has_room(network):
            self._admit_next(network)

    def _admit_next(self, network: Hashable) -> None:
        """Let in the first that waits of a network and is still there."""
        while network in self._queues_by_network:
            pending = next(iter(self._queues_by_network[network]))
            if not pending.is_disconnected():
                self._dequeue(pending, network)
                self._admit_connection(pending, network)
                return
            self._reject_queued(pending, network)

    def _start_pace_timer(self, network: Hashable) -> None:
        self._pace_timers[network] = self._loop.call_later(self._pace_seconds, self._admit_paced, network)

    def _admit_paced(self, network: Hashable) -> None:
        """Let in one of a network of which too many have ended without a bind, as often as these are forgotten."""
        del self._pace_timers[network]
        if self._has_room(network):
            self._admit_next(network)
        if network in self._queues_by_network:
            self._start_pace_timer(network)

    # --- those who are in

    def _admit_connection(self, pending: PendingConnection, network: Hashable) -> None:
        if len(self.unbound_slots) >= self._limits.unbound:
            half = self._limits.unbound // 2
            slots = enumerate(self.unbound_slots)
            next(slot for number, slot in slots if number >= half or not slot.keeps_place).evict()
        slot = ConnectionSlot(self, pending.address)
        self.unbound_slots[slot] = None
        self._unbound_per_network[network] += 1
        pending.start_session(pending.client, slot)

    def free_unbound_place(self, slot: ConnectionSlot, *, has_failed: bool, is_taken: bool = False) -> None:
        """Free a connection's place among those without a bind, where it has one still.

        Args:
            has_failed: it ends without a bind.
            is_taken: it has to make room, so its place is taken already.
        """
        if slot not in self.unbound_slots:
            return
        network = get_rate_limit_network(slot.address)
        del self.unbound_slots[slot]
        self._unbound_per_network[network] -= 1
        if not self._unbound_per_network[network]:
            del self._unbound_per_network[network]
        if has_failed:
            self._failed_unbound.record_failure(network, self._loop.time())
        if not is_taken:
            self._admit_queued_connections(network)

    def handle_connection_closed(self) -> None:
        """A connection has ended."""
        self.connection_count -= 1
        if not self.sessions:
            self._empty_event.set()


@dataclass(slots=True, eq=False)
class ConnectionSlot:
    """The place of one connection that was let in, from `PendingConnection.start_session` to `release`.

    `cancel_handshake` ends what comes before the session, the handshake of TLS.
    """

    _connection_limits: ConnectionLimits
    address: IPAddress
    cancel_handshake: Callable[[], object] = lambda: None
    _session: AdmittedSession | None = None
    _is_connected: bool = True
    _is_cancelled: bool = False

    def attach_session(self, session: AdmittedSession) -> bool:
        """The connection stands (with TLS: after its handshake), and this is its session.

        Returns:
            Whether it may go on; not where it was cancelled in the moment in which it succeeded.
        """
        if self._is_cancelled:
            return False
        self._session = session
        self._connection_limits.sessions.add(session)
        return True

    def cancel(self) -> None:
        """End what comes before the session, if it is still at that."""
        if not self._session:
            self._is_cancelled = True
            self.cancel_handshake()

    @property
    def keeps_place(self) -> bool:
        """Whether it makes no room for others."""
        return self._session is not None and self._session.keeps_place

    def mark_authenticated(self) -> None:
        """The session has bound, or waits for a place to bind."""
        self._connection_limits.free_unbound_place(self, has_failed=False)

    def evict(self) -> None:
        """Make room: this one has waited longest."""
        self._connection_limits.free_unbound_place(self, has_failed=True, is_taken=True)
        if self._session:
            self._session.abort("has not bound, and its place is needed")
        else:
            self.cancel()

    def release(self) -> None:
        """The connection has ended, or never came to stand.

        Called twice where a handshake is cancelled in the moment in which it succeeds: by the connection, and by the
        listener.
        """
        if not self._is_connected:
            return
        self._is_connected = False
        if self._session:
            self._connection_limits.sessions.discard(self._session)
        self._connection_limits.handle_connection_closed()
        self._connection_limits.free_unbound_place(self, has_failed=True)
