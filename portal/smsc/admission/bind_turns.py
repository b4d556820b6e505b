"""Binds with one system_id from one network take turns once one of them was wrong: one wrong try a second is looked at.

A client with an old password, which comes back again and again, so keeps out nobody who has the right one, and guessing
takes ages all the same.
"""

import asyncio
import secrets
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from portal.smsc.protocol.pdu import Bind

MAX_WAITING = 10
"""Binds that wait for their turn, by system_id and network."""


class TurnTaker(Protocol):
    """Whoever has sent a bind that may have to wait.

    `has_failed`: another bind of this connection was wrong before, or found no place to wait.
    """

    has_failed: bool

    def take_turn(self, bind: Bind) -> None:
        """Try a bind that has waited."""


Client = TypeVar("Client", bound=TurnTaker)


@dataclass(slots=True, eq=False)
class _Queue(Generic[Client]):
    """`by_password`: the clients that wait, those whose turn is next first. `timer`: until the next turn."""

    by_password: dict[str, dict[Client, None]] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None


class BindTurns(Generic[Client]):
    """The binds that wait for their turn. There is a queue by each key, from a wrong bind on until a second has passed
    without one.

    `seconds`: between two wrong tries that are looked at; 0: nobody waits.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._queues: dict[Hashable, _Queue[Client]] = {}
        self._waiting: dict[Client, tuple[Hashable, Bind]] = {}

    @property
    def longest_seconds(self) -> float:
        """How long a bind waits at most."""
        return MAX_WAITING * self._seconds

    def must_wait(self, key: Hashable) -> bool:
        """Whether there was a wrong bind with this key a moment ago."""
        return key in self._queues

    def is_waiting(self, client: Client) -> bool:
        """Whether a client's bind waits."""
        return client in self._waiting

    def record_failure(self, key: Hashable, client: Client) -> None:
        """A client's bind was looked at, and wrong."""
        client.has_failed = True
        if self._seconds:
            self._start_timer(key, self._queues.setdefault(key, _Queue()))

    def enqueue(self, key: Hashable, client: Client, bind: Bind) -> tuple[Client, Bind] | None:
        """Have a bind wait until `client.take_turn` is called, where it `must_wait`.

        Returns:
            The bind for which there is no place, where too many wait: one of those that bring the password which most
            of them bring. So many clients with one old password leave a place to the one that has the right one. Among
            these, one whose connection `has_failed`, else any of them: were it always the newest, whoever guesses
            could keep all places, and the right password out.
        """
        by_password = self._queues[key].by_password
        by_password.setdefault(bind.password, {})[client] = None
        self._waiting[client] = key, bind
        if sum(map(len, by_password.values())) <= MAX_WAITING:
            return None
        most = max(map(len, by_password.values()))
        clients = [each for waiting in by_password.values() if len(waiting) == most for each in waiting]
        excess = secrets.choice([each for each in clients if each.has_failed] or clients)
        excess.has_failed = True
        return excess, self.remove(excess)

    def remove(self, client: Client) -> Bind:
        """Forget a client whose bind waits; returns the bind."""
        key, bind = self._waiting.pop(client)
        by_password = self._queues[key].by_password
        del by_password[bind.password][client]
        if not by_password[bind.password]:
            del by_password[bind.password]
        return bind

    def _start_timer(self, key: Hashable, queue: _Queue[Client]) -> None:
        queue.timer = queue.timer or self._loop.call_later(self._seconds, self._give_turns, key)

    def _give_turns(self, key: Hashable) -> None:
        """Have one bind after the other tried, up to the first that is wrong."""
        queue = self._queues[key]
        queue.timer = None
        try:
            while queue.by_password and not queue.timer:
                client = next(iter(next(iter(queue.by_password.values()))))
                bind = self.remove(client)
                # Those with the same password come after those with another one.
                if clients := queue.by_password.pop(bind.password, None):
                    queue.by_password[bind.password] = clients
                client.take_turn(bind)
        finally:
            # Where an error has ended it, too: nobody may wait for ever.
            if queue.by_password:
                self._start_timer(key, queue)
            elif not queue.timer:
                del self._queues[key]
