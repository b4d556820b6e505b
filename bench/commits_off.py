"""The SMPP server without its disk, for `bench/smpp` to compare with: `app.py` whose messages are stored nowhere.

    .venv/bin/python bench/commits_off.py smsc --data FOLDER

Everything up to the storage is the real server: sessions, codec, rules, prices. `store_submit` then gives each message
a number from memory and answers in the next turn of the event loop; there is no message for the upstream, no receipt.
"""

import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from portal import cli
from portal.core.clock import now_ms
from portal.services.common import ids
from portal.services.messages.validation import SubmittedMessage
from portal.smsc.storage.interface import SubmitCallback
from portal.smsc.storage.sqlite_outbound import OutboundStorage


def answer_from_memory() -> Callable[[OutboundStorage, SubmittedMessage, SubmitCallback], None]:
    message_ids = count(ids.min_id_at_time(now_ms()))
    waiting: list[SubmitCallback] = []

    def resolve_waiting() -> None:
        callbacks, waiting[:] = waiting[:], ()
        for resolve in callbacks:
            resolve(next(message_ids))

    def store_submit(self: OutboundStorage, submit: SubmittedMessage, resolve: SubmitCallback) -> None:
        if not waiting:
            self._loop.call_soon(resolve_waiting)
        waiting.append(resolve)

    return store_submit


if __name__ == "__main__":
    OutboundStorage.store_submit = answer_from_memory()  # type: ignore[method-assign]
    sys.exit(cli.main())
