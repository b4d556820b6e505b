"""The SMPP server without its disk, for `bench/smpp` to compare with: `app.py` whose messages are stored nowhere.

    .venv/bin/python bench/commits_off.py smsc --data FOLDER

Everything up to the storage is the real server: sessions, codec, rules, prices. `accept` then gives each message a
number from memory and answers as soon as the event loop comes round; there is no message for the upstream, no receipt.
"""

import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from portal import cli
from portal.core.clock import now_ms
from portal.services.messages.validation import Submit
from portal.smsc.storage.interface import Resolve
from portal.smsc.storage.sqlite import SqliteStorage


def answer_from_memory() -> Callable[[SqliteStorage, Submit, Resolve], None]:
    ids = count(now_ms() << 20)
    waiting: list[Resolve] = []

    def answer() -> None:
        answered, waiting[:] = waiting[:], ()
        for resolve in answered:
            resolve(next(ids))

    def accept(self: SqliteStorage, submit: Submit, resolve: Resolve) -> None:
        if not waiting:
            self._loop.call_soon(answer)
        waiting.append(resolve)

    return accept


if __name__ == "__main__":
    SqliteStorage.accept = answer_from_memory()  # type: ignore[method-assign]
    sys.exit(cli.main())
