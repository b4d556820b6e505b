"""Between what is stored and what sends it: messages to the upstream, their outcomes back, and calling them back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from portal.services.messages.outcomes import MessageStatus
from portal.smsc.storage.interface import Storage, StorageError, StorageUnavailable
from portal.smsc.upstream.interface import Upstream

_BATCH_SIZE = 1_000


class Dispatcher:
    """Gives the upstream what is stored, and what was stored before the start. One for the process."""

    def __init__(self, storage: Storage, upstream: Upstream) -> None:
        self._storage = storage
        self._upstream = upstream
        storage.on_messages_stored(upstream.send_messages)
        storage.on_messages_expired(self._cancel_expired)

    def start(self) -> None:
        """Give the upstream again what it had not ended before the restart."""
        ids = self._storage.list_unfinished_ids()
        for start in range(0, len(ids), _BATCH_SIZE):
            self._upstream.send_messages(self._storage.list_outbound_messages(ids[start : start + _BATCH_SIZE]))

    def close(self) -> None:
        """Have the upstream report nothing any more."""
        self._upstream.close()

    def cancel_message(self, message: MessageStatus, resolve: Callable[[bool | StorageError], None]) -> None:
        """Call a message back: one whose date is still to come, or one that the upstream has not sent yet.

        `resolve` gets whether it was called back.
        """
        if message.is_scheduled:
            self._storage.cancel_message(message, resolve)
        elif self._upstream.cancel_message(message.id):
            self._storage.cancel_message(message, partial(self._handle_cancel_result, message.id, resolve))
        else:
            resolve(False)

    def _handle_cancel_result(
        self, message_id: int, resolve: Callable[[bool | StorageError], None], result: bool | StorageError
    ) -> None:
        if isinstance(result, StorageError):
            # It could not be written that it was called back, so it has to go on its way again; where it can't even be
            # read, after the next start.
            with suppress(StorageUnavailable):
                self._upstream.send_messages(self._storage.list_outbound_messages([message_id]))
        resolve(result)

    def _cancel_expired(self, message_ids: Sequence[int]) -> None:
        for message_id in message_ids:
            self._upstream.cancel_message(message_id)
