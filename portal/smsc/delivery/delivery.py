"""Receipts and messages from handsets (MO) on their way to an account's receivers."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from portal.core.clock import now_ms
from portal.services.messages.deliveries import MAX_BLOCKING_ATTEMPTS, MAX_RETRY_DELAY_MS, Deliverable
from portal.smsc.protocol.constants import CommandStatus
from portal.smsc.storage.sqlite import Storage

log = logging.getLogger(__name__)

_BATCH_SIZE = 100
_MIN_RETRY_DELAY_MS = 1_000
# With these an ESME says that the message, and not the moment, is at fault (5.1.3).
_PERMANENT_ERRORS = (CommandStatus.ESME_RX_P_APPN, CommandStatus.ESME_RX_R_APPN)
# What comes for the third time is sent alone: where the client dies of it, nothing else shares its fate.
_EXCLUSIVE_FROM_ATTEMPTS = 2


class Receiver(Protocol):
    """A session bound as receiver or transceiver."""

    def has_window_space(self) -> bool:
        """Whether its window takes another deliver_sm."""

    def send_deliver_sm(self, deliverable: Deliverable) -> None:
        """Send one, and tell the account's `DeliveryScheduler` what came of it."""


class DeliveryScheduler:
    """Hands what waits for one account to those of its receivers that have room, in order and in turn.

    Works only while a receiver is there. What it hands over stays stored until the ESME has accepted it. What the ESME
    refuses comes again, after a second, two, four and so on; those behind it wait meanwhile, so that the order stays.
    After MAX_BLOCKING_ATTEMPTS refusals, or one that is for good, they pass it, and it comes again by itself: one
    message that a client can't process must not keep everything else from it.
    """

    def __init__(self, account_id: int, storage: Storage) -> None:
        self._account_id = account_id
        self._storage = storage
        self._receivers: deque[Receiver] = deque()
        self._dequeue: Callable[[], Deliverable | None] = lambda: None
        self._scheduled_run: asyncio.Handle | None = None
        self._exclusive_delivery: Deliverable | None = None

    def add_receiver(self, receiver: Receiver) -> None:
        """Have `receiver` take its share from now on."""
        self._receivers.append(receiver)
        if len(self._receivers) == 1:
            self._dequeue = self._storage.subscribe_deliveries(self._account_id, self.schedule_run)
        self.schedule_run()

    def remove_receiver(self, receiver: Receiver) -> None:
        """Give `receiver` nothing any more. It reports what it has got no answer for with `handle_session_end`."""
        self._receivers.remove(receiver)
        if not self._receivers:
            self._storage.unsubscribe_deliveries(self._account_id)

    def schedule_run(self) -> None:
        """A receiver has room again, or something waits."""
        if self._scheduled_run is None:
            self._scheduled_run = asyncio.get_running_loop().call_soon(self._deliver_batch)

    def handle_response(self, deliverable: Deliverable, status: int) -> None:
        """The ESME has answered the deliver_sm of `deliverable`."""
        if status == CommandStatus.ESME_ROK:
            self._storage.complete_delivery(deliverable)
        else:
            deliverable.attempts += 1
            if status in _PERMANENT_ERRORS:
                deliverable.attempts = max(deliverable.attempts, MAX_BLOCKING_ATTEMPTS)
            delay = _compute_retry_delay_ms(deliverable.attempts)
            log.info("delivery %d was refused with 0x%08X, next try in %d ms", deliverable.id, status, delay)
            self._storage.retry_delivery(deliverable, now_ms() + delay)
        self._finish_attempt(deliverable)

    def handle_session_end(self, deliverable: Deliverable) -> None:
        """The session has ended before the ESME answered the deliver_sm of `deliverable`: it comes again at once.

        Not for ever: a client may end each time because of it. The waits begin small, though: where many sessions end
        together, with the network, it has been given to one after the other within a moment.
        """
        deliverable.attempts += 1
        excess_attempts = deliverable.attempts - MAX_BLOCKING_ATTEMPTS + 1
        delay = _compute_retry_delay_ms(excess_attempts) if excess_attempts > 0 else 0
        self._storage.retry_delivery(deliverable, now_ms() + delay)
        self._finish_attempt(deliverable)

    def _finish_attempt(self, deliverable: Deliverable) -> None:
        if deliverable is self._exclusive_delivery:
            self._exclusive_delivery = None
        self.schedule_run()

    def _deliver_batch(self) -> None:
        self._scheduled_run = None
        for _ in range(_BATCH_SIZE):
            if self._exclusive_delivery:
                return
            receiver = self._find_ready_receiver()
            deliverable = self._dequeue() if receiver else None
            if receiver is None or deliverable is None:
                return
            # The next one is for the next receiver.
            self._receivers.rotate(-1)
            if _EXCLUSIVE_FROM_ATTEMPTS <= deliverable.attempts < MAX_BLOCKING_ATTEMPTS:
                self._exclusive_delivery = deliverable
            receiver.send_deliver_sm(deliverable)
        # There may be more, but others have their turn.
        self.schedule_run()

    def _find_ready_receiver(self) -> Receiver | None:
        receivers = self._receivers
        for _ in range(len(receivers)):
            if receivers[0].has_window_space():
                return receivers[0]
            receivers.rotate(-1)
        return None


def _compute_retry_delay_ms(attempts: int) -> int:
    """How long (milliseconds) to wait after so many attempts in vain."""
    return min(_MIN_RETRY_DELAY_MS << min(attempts - 1, 20), MAX_RETRY_DELAY_MS)
