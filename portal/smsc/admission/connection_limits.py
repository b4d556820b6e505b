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
_MOST_FRUITLESS = 600


class Caller(Protocol):
    """A connection that has been accepted and nothing more; one of the two is called, `begin` or `send_away`."""

    @property
    def address(self) -> Address:
        """Where the client is."""

    def begin(self, visit: Visit) -> None:
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


class Door:
    """Counts connections, and knows their sessions. One for the process."""

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self._limits = limits
        self._loop = loop
        self._fruitless = Failures(_MOST_FRUITLESS)
        self._connections = 0
        self._unbound: dict[Visit, None] = {}  # in the order of their coming
        self._unbound_from: Counter[Hashable] = Counter()
        self._queues: dict[Hashable, dict[Caller, asyncio.TimerHandle]] = {}
        self._queued = 0
        self._emptied = asyncio.Event()
        self.sessions: set[OpenSession] = set()

    def enter(self, caller: Caller) -> None:
        """Let a new connection in, have it wait for its turn, or send it away.

        Where all places without a bind are taken, the one that has waited longest has to go: a client binds as soon as
        it is connected, so strangers who keep the places don't keep clients out.
        """
        near = neighbourhood(caller.address)
        if self._connections >= self._limits.connections or self._fruitless.too_many(near, self._loop.time()):
            caller.send_away()
        elif self._unbound_from[near] < self._limits.unbound_per_address:
            self._connections += 1
            self._let_in(caller, near)
        else:
            self._queue_up(caller, near)

    def close(self) -> None:
        """Send those away who wait for their turn."""
        for near, queue in list(self._queues.items()):
            for caller in list(queue):
                self._give_up(caller, near)

    async def emptied(self) -> None:
        """Wait until no session is left."""
        while self.sessions:
            self._emptied.clear()
            await self._emptied.wait()

    # --- those who wait for their turn

    def _queue_up(self, caller: Caller, near: Hashable) -> None:
        if self._queued >= self._limits.connections // 2:
            # Whoever brings the most of them has the last of his sent away.
            longest, queue = max(self._queues.items(), key=lambda each: len(each[1]))
            if longest == near:
                caller.send_away()
                return
            self._give_up(next(reversed(queue)), longest)
        self._connections += 1
        self._queued += 1
        timer = self._loop.call_later(self._limits.bind_seconds, self._give_up, caller, near)
        self._queues.setdefault(near, {})[caller] = timer

    def _give_up(self, caller: Caller, near: Hashable) -> None:
        self._leave_queue(caller, near)
        self._connections -= 1
        caller.send_away()

    def _leave_queue(self, caller: Caller, near: Hashable) -> None:
        queue = self._queues[near]
        queue.pop(caller).cancel()
        self._queued -= 1
        if not queue:
            del self._queues[near]

    def _next(self, near: Hashable) -> None:
        while near in self._queues and self._unbound_from[near] < self._limits.unbound_per_address:
            caller = next(iter(self._queues[near]))
            if caller.has_gone():
                self._give_up(caller, near)
            else:
                self._leave_queue(caller, near)
                self._let_in(caller, near)

    # --- those who are in

    def _let_in(self, caller: Caller, near: Hashable) -> None:
        if len(self._unbound) >= self._limits.unbound:
            next(iter(self._unbound)).end()
        visit = Visit(self, caller.address)
        self._unbound[visit] = None
        self._unbound_from[near] += 1
        caller.begin(visit)

    def _give_back(self, visit: Visit) -> Hashable:
        near = neighbourhood(visit.address)
        del self._unbound[visit]
        self._unbound_from[near] -= 1
        if not self._unbound_from[near]:
            del self._unbound_from[near]
        return near

    def bound(self, visit: Visit) -> None:
        """A connection needs its place among those without a bind no more."""
        self._next(self._give_back(visit))

    def evicted(self, visit: Visit) -> None:
        """A connection has to go without a bind; its place is for whom it makes room."""
        self._fruitless.record(self._give_back(visit), self._loop.time())

    def fruitless(self, visit: Visit) -> None:
        """A connection has ended without a bind."""
        near = self._give_back(visit)
        self._fruitless.record(near, self._loop.time())
        self._next(near)

    def left(self) -> None:
        """A connection has ended."""
        self._connections -= 1
        if not self.sessions:
            self._emptied.set()


class Visit:
    """One connection's place behind the door, from `Caller.begin` to `left`.

    `cancel` ends what comes before the session, the handshake of TLS.
    """

    __slots__ = ("_door", "_here", "_session", "_waits", "address", "cancel")

    def __init__(self, door: Door, address: Address) -> None:
        self.address = address
        self.cancel: Callable[[], object] = lambda: None
        self._door = door
        self._session: OpenSession | None = None
        self._waits = True
        self._here = True

    def begun(self, session: OpenSession) -> None:
        """The connection stands (with TLS: after its handshake), and this is its session."""
        self._session = session
        self._door.sessions.add(session)

    def bound(self) -> None:
        """The session has bound."""
        if self._waits:
            self._waits = False
            self._door.bound(self)

    def end(self) -> None:
        """Make room: this one has waited longest."""
        self._waits = False
        self._door.evicted(self)
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
            self._door.sessions.discard(self._session)
        self._door.left()
        if self._waits:
            self._waits = False
            self._door.fruitless(self)
