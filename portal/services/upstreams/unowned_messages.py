"""Messages from handsets that no account takes, for operators: what came, and from whom."""

import logging
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from portal.core.db import BulkInsert

MAX_UNOWNED_MESSAGES = 100_000
"""So many are kept, the newest: anybody can send to a number."""
_MAX_TEXT_LENGTH = 1_600
_LOG_SECONDS = 30.0
_COLUMNS = "received_at, upstream, source, destination, text"
_INSERT = BulkInsert("unowned_messages", _COLUMNS)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnownedMessage:
    """A message, and when it came (milliseconds).

    `upstream`: the id of the one that brought it; None: it was simulated. `text`: as a handset displays it, or its
    octets as hexadecimal digits where it is no text; as much of it as ten parts hold.
    """

    received_at: int
    upstream: int | None
    source: str
    destination: str
    text: str


class _UnownedCounter:
    """Has the log tell of messages that nobody takes: they may come as fast as the carrier can send. The first is told
    at once, what comes within 30 seconds together: with the next one after that, or when `tell` is called.
    """

    def __init__(self) -> None:
        self._count = 0
        self._number = ""
        self._logged_at = float("-inf")

    def count(self, number: str) -> None:
        self._count += 1
        self._number = number
        self.tell()

    def tell(self) -> None:
        if not self._count or time.monotonic() - self._logged_at < _LOG_SECONDS:
            return
        self._logged_at = time.monotonic()
        if self._count == 1:
            log.warning("no account takes a message to %s: it was kept (upstream unowned)", self._number)
        else:
            log.warning(
                "no account takes %d messages, the last one to %s: they were kept (upstream unowned)",
                self._count,
                self._number,
            )
        self._count = 0


_counter = _UnownedCounter()


def log_unowned_messages() -> None:
    """Have the log tell of those that it has not told of, if it is time; by the thread that keeps them."""
    _counter.tell()


def keep_unowned_messages(conn: sqlite3.Connection, messages: Sequence[UnownedMessage]) -> None:
    """Keep messages, and let the oldest go where there are too many. The caller is inside `write_transaction()`."""
    if not messages:
        return
    for each in messages:
        _counter.count(each.destination)
    _INSERT.run(
        conn,
        [
            (each.received_at, each.upstream, each.source, each.destination, each.text[:_MAX_TEXT_LENGTH])
            for each in messages
        ],
    )
    conn.execute(
        "DELETE FROM unowned_messages WHERE id <= (SELECT max(id) FROM unowned_messages) - ?", (MAX_UNOWNED_MESSAGES,)
    )


def list_unowned_messages(conn: sqlite3.Connection, upstream_id: int | None, limit: int) -> list[UnownedMessage]:
    """The last ones of an upstream, or of all (None), newest first."""
    rows = conn.execute(
        f"SELECT {_COLUMNS} FROM unowned_messages WHERE ?1 IS NULL OR upstream = ?1 ORDER BY id DESC LIMIT ?2",
        (upstream_id, limit),
    )
    return [UnownedMessage(*row) for row in rows]
