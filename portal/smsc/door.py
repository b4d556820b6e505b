"""How many connections may be open: in all, and those that have not bound yet, in all and from one address."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from portal.config import Limits
from portal.services.allowed_ips import Address

if TYPE_CHECKING:
    from portal.smsc.session import Session


class Door:
    """Counts connections, and knows their sessions. One for the process."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connections = 0
        self._unbound = 0
        self._unbound_from: Counter[Address] = Counter()
        self._emptied = asyncio.Event()
        self.sessions: set[Session] = set()

    def enter(self, address: Address) -> Visit | None:
        """Let a new connection in; None where there are too many."""
        limits = self._limits
        if (
            self._connections >= limits.connections
            or self._unbound >= limits.unbound
            or self._unbound_from[address] >= limits.unbound_per_address
        ):
            return None
        self._connections += 1
        self._unbound += 1
        self._unbound_from[address] += 1
        return Visit(self, address)

    async def emptied(self) -> None:
        """Wait until no session is left."""
        while self.sessions:
            self._emptied.clear()
            await self._emptied.wait()

    def bound(self, address: Address) -> None:
        """A connection from `address` has bound."""
        self._unbound -= 1
        self._unbound_from[address] -= 1
        if not self._unbound_from[address]:
            del self._unbound_from[address]

    def left(self) -> None:
        """A connection has ended that was bound."""
        self._connections -= 1
        if not self.sessions:
            self._emptied.set()


class Visit:
    """One connection's place behind the door, from `Door.enter` to `left`."""

    __slots__ = ("_bound", "_door", "_session", "address")

    def __init__(self, door: Door, address: Address) -> None:
        self.address = address
        self._door = door
        self._session: Session | None = None
        self._bound = False

    def begun(self, session: Session) -> None:
        """The connection stands (with TLS: after its handshake), and this is its session."""
        self._session = session
        self._door.sessions.add(session)

    def bound(self) -> None:
        """The session has bound."""
        self._bound = True
        self._door.bound(self.address)

    def left(self) -> None:
        """The connection has ended, or never came to stand. Called once."""
        if not self._bound:
            self._door.bound(self.address)
        if self._session:
            self._door.sessions.discard(self._session)
        self._door.left()
