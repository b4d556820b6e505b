"""Between what is stored and what sends it: messages to the upstream, their outcomes back, and calling them back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from portal.services.messages.outcomes import Whereabouts
from portal.smsc.storage.interface import Refusal, Storage, Unavailable
from portal.smsc.upstream.interface import Upstream

_UNFINISHED_AT_ONCE = 1_000


class Dispatcher:
    """Gives the upstream what is stored, and what was stored before the start. One for the process."""

    def __init__(self, storage: Storage, upstream: Upstream) -> None:
        self._storage = storage
        self._upstream = upstream
        storage.on_stored(upstream.send)
        storage.on_expired(self._expired)

    def start(self) -> None:
        """Give the upstream again what it had not ended before the restart."""
        ids = self._storage.unfinished()
        for start in range(0, len(ids), _UNFINISHED_AT_ONCE):
            self._upstream.send(self._storage.to_send(ids[start : start + _UNFINISHED_AT_ONCE]))

    def close(self) -> None:
        """Have the upstream report nothing any more."""
        self._upstream.close()

    def cancel(self, message: Whereabouts, resolve: Callable[[bool | Refusal], None]) -> None:
        """Call a message back: one whose date is still to come, or one that the upstream has not sent yet.

        `resolve` is told whether it was called back.
        """
        if message.waits_for_date:
            self._storage.cancel(message, resolve)
        elif self._upstream.recall(message.id):
            self._storage.cancel(message, partial(self._recalled, message.id, resolve))
        else:
            resolve(False)

    def _recalled(self, message_id: int, resolve: Callable[[bool | Refusal], None], result: bool | Refusal) -> None:
        if isinstance(result, Refusal):
            # It could not be written that it was called back, so it has to go on its way again; where it can't even be
            # read, after the next start.
            with suppress(Unavailable):
                self._upstream.send(self._storage.to_send([message_id]))
        resolve(result)

    def _expired(self, message_ids: Sequence[int]) -> None:
        for message_id in message_ids:
            self._upstream.recall(message_id)
