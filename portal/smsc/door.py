"""How many connections may be open: in all, and those that have not bound yet, in all and from one address.

An address is an IPv4 one, or the /64 of an IPv6 one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from portal.config import Limits
from portal.services.allowed_ips import Address
from portal.smsc.limits import Failures, neighbourhood

if TYPE_CHECKING:
    from portal.smsc.session import Session

# Connections from one address that ended without a bind, a minute: each costs as much as some hundred messages.
_MOST_FRUITLESS = 600


class Door:
    """Counts connections, and knows their sessions. One for the process."""

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self._limits = limits
        self._loop = loop
        self._fruitless = Failures(_MOST_FRUITLESS)
        self._connections = 0
        self._unbound: dict[Visit, None] = {}  # in the order of their coming
        self._unbound_from: Counter[Hashable] = Counter()
        self._emptied = asyncio.Event()
        self.sessions: set[Session] = set()

    def enter(self, address: Address) -> Visit | None:
        """Let a new connection in; None where there are too many.

        Where all places without a bind are taken, the one that has waited longest has to go: a client binds as soon as
        it is connected, so strangers who keep the places don't keep clients out.
        """
        limits, near = self._limits, neighbourhood(address)
        if (
            self._connections >= limits.connections
            or self._unbound_from[near] >= limits.unbound_per_address
            or self._fruitless.too_many(near, self._loop.time())
        ):
            return None
        if len(self._unbound) >= limits.unbound:
            next(iter(self._unbound)).end()
        visit = Visit(self, address)
        self._connections += 1
        self._unbound[visit] = None
        self._unbound_from[near] += 1
        return visit

    async def emptied(self) -> None:
        """Wait until no session is left."""
        while self.sessions:
            self._emptied.clear()
            await self._emptied.wait()

    def bound(self, visit: Visit) -> None:
        """A connection waits no more: it has bound, or has to go."""
        near = neighbourhood(visit.address)
        del self._unbound[visit]
        self._unbound_from[near] -= 1
        if not self._unbound_from[near]:
            del self._unbound_from[near]

    def fruitless(self, visit: Visit) -> None:
        """A connection has no bind to show for itself."""
        self.bound(visit)
        self._fruitless.record(neighbourhood(visit.address), self._loop.time())

    def left(self) -> None:
        """A connection has ended."""
        self._connections -= 1
        if not self.sessions:
            self._emptied.set()


class Visit:
    """One connection's place behind the door, from `Door.enter` to `left`.

    `cancel` ends what comes before the session, the handshake of TLS.
    """

    __slots__ = ("_door", "_session", "_waits", "address", "cancel")

    def __init__(self, door: Door, address: Address) -> None:
        self.address = address
        self.cancel: Callable[[], object] = lambda: None
        self._door = door
        self._session: Session | None = None
        self._waits = True

    def begun(self, session: Session) -> None:
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
        self._door.fruitless(self)
        if self._session:
            self._session.make_room()
        else:
            self.cancel()

    def left(self) -> None:
        """The connection has ended, or never came to stand. Called once."""
        if self._waits:
            self._door.fruitless(self)
        if self._session:
            self._door.sessions.discard(self._session)
        self._door.left()
