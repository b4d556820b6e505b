"""What waits for an account's receivers: some of it ready in memory, all of it in the database."""

from collections import deque
from collections.abc import Callable, Collection, Sequence

from portal.services.messages.deliveries import Deliverable, DueDeliveries

MAX_READY = 500
"""How much of what waits for one account is kept in memory; the rest is read when its turn comes."""


class DeliveryQueue:
    """Gives what waits for one account in its order, each once until it is given back.

    What has just been stored is kept in memory, where nothing else stands before it in the database: reading it back
    would cost more than storing it. `read_due` takes how many to read and the ids to leave out, and returns what is due
    in the database; None where it can't be read.
    """

    __slots__ = ("_has_due_in_database", "_offered_ids", "_read_due", "_ready", "_unsaved_retries", "wake")

    def __init__(self, read_due: Callable[[int, Collection[int]], DueDeliveries | None]) -> None:
        self.wake: Callable[[], None] | None = None
        """Called when there may be something to take. None: nobody is there to take it."""
        self._read_due = read_due
        self._ready: deque[Deliverable] = deque()
        # What is in `_ready`, or was taken and is still in the database.
        self._offered_ids: set[int] = set()
        # Whether the database may hold something else that is due.
        self._has_due_in_database = True
        # How much is being put off: until the database knows, those behind it would pass it.
        self._unsaved_retries = 0

    def dequeue_delivery(self) -> Deliverable | None:
        """Return the next one; None where nothing waits at this moment."""
        if not self._ready and self._has_due_in_database and not self._unsaved_retries:
            due = self._read_due(MAX_READY, self._offered_ids)
            if due is not None:
                self._has_due_in_database = due.is_blocked or len(due.ready) == MAX_READY
                self._add_ready(due.ready)
        return self._ready.popleft() if self._ready else None

    def add_stored(self, deliverables: Sequence[Deliverable]) -> None:
        """Take note of what is on disk now, in its order."""
        if self._has_due_in_database or self.wake is None or len(self._ready) + len(deliverables) > MAX_READY:
            self.mark_due_in_database()
            return
        # Some of it may have been read from the database before this call.
        self._add_ready([each for each in deliverables if each.id not in self._offered_ids])
        self.wake()

    def mark_due_in_database(self) -> None:
        """Something is due that only the database knows."""
        self._has_due_in_database = True
        if self.wake:
            self.wake()

    def discard_ready_deliveries(self) -> None:
        """Leave what is ready to the database, which knows the order."""
        self._offered_ids.difference_update([each.id for each in self._ready])
        self._ready.clear()
        self.mark_due_in_database()

    def begin_retry(self) -> None:
        """One that was taken has to come again, and what is ready not before it has."""
        self._unsaved_retries += 1
        self.discard_ready_deliveries()

    def finish_retry(self, deliverable: Deliverable) -> None:
        """The database knows when it has to come again."""
        self._unsaved_retries -= 1
        self.remove_delivery(deliverable)
        self.mark_due_in_database()

    def remove_delivery(self, deliverable: Deliverable) -> None:
        """It is not in the database any more, or not due there."""
        self._offered_ids.discard(deliverable.id)

    def _add_ready(self, deliverables: Sequence[Deliverable]) -> None:
        self._offered_ids.update([each.id for each in deliverables])
        self._ready.extend(deliverables)
