"""How many connections may be open: in all, and those that have not bound yet, in all and from one address.

An address is an IPv4 one, or the /64 of an IPv6 one. Behind one there may be a thousand clients, which all come back at
once after a restart: as many as may be without a bind are let in, the others wait for their turn, without a session or
a handshake of TLS, and nobody is sent away who would only come again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Protocol

from portal.core.config import Limits
from portal.services.accounts.allowed_ips import Address
from portal.smsc.admission.rate_limits import Failures, neighbourhood

# Connections from one address that ended without a bind, a minute: each costs as much as some hundred messages.
_MOST_FAILED_UNBOUND = 600


class PendingConnection(Protocol):
    """A connection that has been accepted and nothing more; one of the two is called, `begin` or `send_away`."""

    @property
    def address(self) -> Address:
        """Where the client is."""

    def begin(self, slot: ConnectionSlot) -> None:
        """It is let in."""

    def send_away(self) -> None:
        """It is not."""

    def has_gone(self) -> bool:
        """Whether the client has closed the connection meanwhile."""


class OpenSession(Protocol):
    """The session of a connection that was let in."""

    def make_room(self) -> None:
        """End at once: others wait to bind."""

    def unbind(self, why: str) -> None:
        """End as SMPP 3.4 wants it; `why` is for the log."""


class ConnectionLimits:
    """Counts connections, and knows their sessions. One for the process."""

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self._limits = limits
        self._loop = loop
        self._failed_unbound = Failures(_MOST_FAILED_UNBOUND)
        self._connections = 0
        self._unbound: dict[ConnectionSlot, None] = {}  # in the order of their coming
        self._unbound_from: Counter[Hashable] = Counter()
        self._queues: dict[Hashable, dict[PendingConnection, asyncio.TimerHandle]] = {}
        self._queued = 0
        self._emptied = asyncio.Event()
        self.sessions: set[OpenSession] = set()

    def enter(self, pending: PendingConnection) -> None:
        """Let a new connection in, have it wait for its turn, or send it away.

        Where all places without a bind are taken, the one that has waited longest has to go: a client binds as soon as
        it is connected, so strangers who keep the places don't keep clients out.
        """
        near = neighbourhood(pending.address)
        if self._connections >= self._limits.connections or self._failed_unbound.too_many(near, self._loop.time()):
            pending.send_away()
        elif self._unbound_from[near] < self._limits.unbound_per_address:
            self._connections += 1
            self._let_in(pending, near)
        else:
            self._queue_up(pending, near)

    def close(self) -> None:
        """Send those away who wait for their turn."""
        for near, queue in list(self._queues.items()):
            for pending in list(queue):
                self._give_up(pending, near)

    async def emptied(self) -> None:
        """Wait until no session is left."""
        while self.sessions:
            self._emptied.clear()
            await self._emptied.wait()

    # --- those who wait for their turn

    def _queue_up(self, pending: PendingConnection, near: Hashable) -> None:
        if self._queued >= self._limits.connections // 2:
            # Whoever brings the most of them has the last of his sent away.
            longest, queue = max(self._queues.items(), key=lambda each: len(each[1]))
            if longest == near:
                pending.send_away()
                return
            self._give_up(next(reversed(queue)), longest)
        self._connections += 1
        self._queued += 1
        timer = self._loop.call_later(self._limits.bind_seconds, self._give_up, pending, near)
        self._queues.setdefault(near, {})[pending] = timer

    def _give_up(self, pending: PendingConnection, near: Hashable) -> None:
        self._leave_queue(pending, near)
        self._connections -= 1
        pending.send_away()

    def _leave_queue(self, pending: PendingConnection, near: Hashable) -> None:
        queue = self._queues[near]
        queue.pop(pending).cancel()
        self._queued -= 1
        if not queue:
            del self._queues[near]

    def _next(self, near: Hashable) -> None:
        while near in self._queues and self._unbound_from[near] < self._limits.unbound_per_address:
            pending = next(iter(self._queues[near]))
            if pending.has_gone():
                self._give_up(pending, near)
            else:
                self._leave_queue(pending, near)
                self._let_in(pending, near)

    # --- those who are in

    def _let_in(self, pending: PendingConnection, near: Hashable) -> None:
        if len(self._unbound) >= self._limits.unbound:
            next(iter(self._unbound)).end()
        slot = ConnectionSlot(self, pending.address)
        self._unbound[slot] = None
        self._unbound_from[near] += 1
        pending.begin(slot)

    def _give_back(self, slot: ConnectionSlot) -> Hashable:
        near = neighbourhood(slot.address)
        del self._unbound[slot]
        self._unbound_from[near] -= 1
        if not self._unbound_from[near]:
            del self._unbound_from[near]
        return near

    def bound(self, slot: ConnectionSlot) -> None:
        """A connection needs its place among those without a bind no more."""
        self._next(self._give_back(slot))

    def evicted(self, slot: ConnectionSlot) -> None:
        """A connection has to go without a bind; its place is for whom it makes room."""
        self._failed_unbound.record(self._give_back(slot), self._loop.time())

    def failed_unbound(self, slot: ConnectionSlot) -> None:
        """A connection has ended without a bind."""
        near = self._give_back(slot)
        self._failed_unbound.record(near, self._loop.time())
        self._next(near)

    def left(self) -> None:
        """A connection has ended."""
        self._connections -= 1
        if not self.sessions:
            self._emptied.set()


class ConnectionSlot:
    """The place of one connection that was let in, from `PendingConnection.begin` to `left`.

    `cancel` ends what comes before the session, the handshake of TLS.
    """

    __slots__ = ("_connection_limits", "_here", "_session", "_waits", "address", "cancel")

    def __init__(self, connection_limits: ConnectionLimits, address: Address) -> None:
        self.address = address
        self.cancel: Callable[[], object] = lambda: None
        self._connection_limits = connection_limits
        self._session: OpenSession | None = None
        self._waits = True
        self._here = True

    def begun(self, session: OpenSession) -> None:
        """The connection stands (with TLS: after its handshake), and this is its session."""
        self._session = session
        self._connection_limits.sessions.add(session)

    def bound(self) -> None:
        """The session has bound."""
        if self._waits:
            self._waits = False
            self._connection_limits.bound(self)

    def end(self) -> None:
        """Make room: this one has waited longest."""
        self._waits = False
        self._connection_limits.evicted(self)
        if self._session:
            self._session.make_room()
        else:
            self.cancel()

    def left(self) -> None:
        """The connection has ended, or never came to stand.

        A handshake that is cancelled in the moment of its success ends both its session and its beginning, and each
        says so.
        """
        if not self._here:
            return
        self._here = False
        if self._session:
            self._connection_limits.sessions.discard(self._session)
        self._connection_limits.left()
        if self._waits:
            self._waits = False
            self._connection_limits.failed_unbound(self)
