"""What upstreams send that belongs to nobody here, kept for operators: receipts of no message, and messages from
handsets that no account takes.
"""

import logging
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from portal.core.db import BulkInsert

MAX_KEPT = 100_000
"""So many of each are kept, the newest: a carrier can send any number of receipts, and anybody messages to a number."""
_MAX_TEXT_LENGTH = 1_600
_LOG_SECONDS = 30.0
UNMATCHED_RECEIPTS, UNOWNED_MESSAGES = "unmatched_receipts", "unowned_messages"
COLUMNS = {
    UNMATCHED_RECEIPTS: ("received_at", "upstream", "tried", "status", "source", "destination", "text"),
    UNOWNED_MESSAGES: ("received_at", "upstream", "source", "destination", "text"),
}
"""What operators see of each: when it came (milliseconds); the id of the upstream that sent it, NULL where it was
simulated; of a receipt the ids that were looked for, and its state and error as they came; the addresses of the
deliver_sm, the handset's first; and the text: of a receipt without what it quotes, of a message as a handset displays
it, or its octets as hexadecimal digits where it is no text, as much as ten parts hold."""
_INSERT_UNOWNED = BulkInsert(UNOWNED_MESSAGES, ", ".join(COLUMNS[UNOWNED_MESSAGES]))

log = logging.getLogger(__name__)


class _UnownedLog:
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
        """Tell of those that it has not told of, if it is time."""
        if not self._count or time.monotonic() - self._logged_at < _LOG_SECONDS:
            return
        self._logged_at = time.monotonic()
        if self._count == 1:
            log.warning("no account takes a message to %s: it was kept (upstream unowned)", self._number)
        else:
            words = "no account takes %d messages, the last one to %s: they were kept (upstream unowned)"
            log.warning(words, self._count, self._number)
        self._count = 0


unowned_log = _UnownedLog()
"""Is asked by the thread that keeps them."""


def keep_unowned_messages(conn: sqlite3.Connection, messages: Sequence[tuple[int, int | None, str, str, str]]) -> None:
    """Keep messages, given by their COLUMNS, and let the oldest go where there are too many. The caller is inside
    `write_transaction()`.
    """
    if not messages:
        return
    for _, _, _, number, _ in messages:
        unowned_log.count(number)
    _INSERT_UNOWNED.run(conn, [(*others, text[:_MAX_TEXT_LENGTH]) for *others, text in messages])
    remove_too_many(conn, UNOWNED_MESSAGES)


def remove_too_many(conn: sqlite3.Connection, table: str) -> None:
    """Let the oldest go where there are more than MAX_KEPT."""
    conn.execute(f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - ?", (MAX_KEPT,))


@dataclass(frozen=True, slots=True)
class Kept:
    """A receipt or a message that is kept, by its COLUMNS; a message has no `tried` and no `status`."""

    id: int
    received_at: int
    upstream: int | None
    source: str
    destination: str
    text: str
    tried: str = ""
    status: str = ""


def list_kept(
    conn: sqlite3.Connection,
    table: str,
    upstream_id: int | None,
    limit: int,
    *,
    before: int | None = None,
    after: int | None = None,
) -> list[Kept]:
    """Those of an upstream, or of all (None), newest first: with smaller ids than `before`, or that follow `after`."""
    conditions = ["true"]
    if upstream_id is not None:
        conditions.append("upstream = ?1")
    if before is not None or after is not None:
        conditions.append("id > ?2" if before is None else "id < ?2")
    order = "DESC" if after is None else "ASC"
    columns = ["id", *COLUMNS[table]]
    rows = conn.execute(
        f"SELECT {', '.join(columns)} FROM {table} WHERE {' AND '.join(conditions)} ORDER BY id {order} LIMIT ?3",
        (upstream_id, after if before is None else before, limit),
    )
    kept = [Kept(**dict(zip(columns, row, strict=True))) for row in rows]
    return kept if after is None else kept[::-1]


def request_receipt_retry(conn: sqlite3.Connection, upstream_id: int) -> None:
    """Have the SMPP server look again for the messages of an upstream's kept receipts, as their ids may be found
    elsewhere now. The caller is inside `write_transaction()`, and changes what the server reads.
    """
    conn.execute(
        f"INSERT INTO receipt_retries (upstream, before_id) SELECT ?1, id + 1 FROM {UNMATCHED_RECEIPTS}"
        " WHERE upstream = ?1 ORDER BY id DESC LIMIT 1 ON CONFLICT DO UPDATE SET before_id = excluded.before_id",
        (upstream_id,),
    )
