"""What waits for an account's receivers: some of it ready in memory, all of it in the database."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence

from portal.services.messages.deliveries import Deliverable, Deliveries

MOST_READY = 500
"""How much of what waits for one account is kept in memory; the rest is read when its turn comes."""


class DeliveryQueue:
    """Gives what waits for one account in its order, each once until it is given back.

    What has just been stored is kept in memory, where nothing else stands before it in the database: reading it back
    would cost more than storing it. `read` returns so much of what is due in the database and is not among the ids
    that it is told; None where it can't be read.
    """

    __slots__ = ("_behind", "_offered", "_putting_off", "_read", "_ready", "wake")

    def __init__(self, read: Callable[[int, Collection[int]], Deliveries | None]) -> None:
        self.wake: Callable[[], None] | None = None
        """Called when there may be something to take. None: nobody is there to take it."""
        self._read = read
        self._ready: deque[Deliverable] = deque()
        # What is in `_ready`, or was taken and is still in the database.
        self._offered: set[int] = set()
        # Whether the database may hold something else that is due.
        self._behind = True
        # How much is being put off: until the database knows, those behind it would pass it.
        self._putting_off = 0

    def take(self) -> Deliverable | None:
        """Return the next one; None where nothing waits at this moment."""
        if not self._ready and self._behind and not self._putting_off:
            due = self._read(MOST_READY, self._offered)
            if due is not None:
                self._behind = due.held or len(due.now) == MOST_READY
                self._keep(due.now)
        return self._ready.popleft() if self._ready else None

    def stored(self, deliverables: Sequence[Deliverable]) -> None:
        """Take note of what is on disk now, in its order."""
        if self._behind or self.wake is None or len(self._ready) + len(deliverables) > MOST_READY:
            self.look_again()
            return
        # Some of it may have been read from the database before this was told.
        self._keep([each for each in deliverables if each.id not in self._offered])
        self.wake()

    def look_again(self) -> None:
        """Something is due that only the database knows."""
        self._behind = True
        if self.wake:
            self.wake()

    def give_back(self, deliverable: Deliverable) -> None:
        """Offer one again, before all that comes after it."""
        self._offered.discard(deliverable.id)
        self.put_down()

    def put_down(self) -> None:
        """Leave what is ready to the database, which knows the order."""
        self._offered.difference_update([each.id for each in self._ready])
        self._ready.clear()
        self.look_again()

    def put_off(self) -> None:
        """One that was taken has to come again, and what is ready not before it has."""
        self._putting_off += 1
        self.put_down()

    def is_put_off(self, deliverable: Deliverable) -> None:
        """The database knows when it has to come again."""
        self._putting_off -= 1
        self.forget(deliverable)
        self.look_again()

    def forget(self, deliverable: Deliverable) -> None:
        """It is not in the database any more, or not due there."""
        self._offered.discard(deliverable.id)

    def _keep(self, deliverables: Sequence[Deliverable]) -> None:
        self._offered.update([each.id for each in deliverables])
        self._ready.extend(deliverables)
