"""The ids by which clients know messages.

That is a message's id, but for messages from before ids were short (migration `m0017_short_ids`): their clients were
given former ids, of 19 digits, and go on using them. A former id is the same time and counter in another layout, except
for a few, which are stored as runs (`former_ids`).

Clients of SMPP 3.3 and older have room for eight hexadecimal digits. Their messages have such ids beside their own
(`hex_ids`): numbers below 2^32 that count up and begin again, past those whose messages may still have a receipt.
"""

import json
import sqlite3
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from portal.core.clock import DAY_MS
from portal.services.common import ids
from portal.services.common.message_states import ENROUTE
from portal.services.messages.validation import DELIVERY_VALIDITY_MS

_HEX_ID_LIMIT = 1 << 32
# A receipt waits for a receiver for DELIVERY_VALIDITY_MS at most, from when the upstream said how the message ended.
# That may be later than it ended, so here is a day more.
_HEX_ID_REUSE_MS = DELIVERY_VALIDITY_MS + DAY_MS
_FORMER_COUNTER_BITS = 20
_LAST_FORMER_ID_COUNTERS = {"messages": "former_message_id", "received": "former_received_id"}


@dataclass(frozen=True, slots=True)
class ClientIds:
    """The ids by which clients know sent messages, or messages from handsets.

    `last_renamed_id`: the last message that is known by a former id. `runs`, in their order: the first id, the last
    one, and the former id of the first; within a run both count up together.
    """

    last_renamed_id: int
    runs: Sequence[tuple[int, int, int]]

    def get_client_id(self, row_id: int) -> int:
        """The id by which the client knows a message."""
        if row_id > self.last_renamed_id:
            return row_id
        index = bisect_right(self.runs, row_id, key=itemgetter(0)) - 1
        if index >= 0 and row_id <= self.runs[index][1]:
            first_id, _, first_former_id = self.runs[index]
            return first_former_id + row_id - first_id
        at = ids.time_from_id(row_id)
        return (at << _FORMER_COUNTER_BITS) + row_id - ids.min_id_at_time(at)

    def get_row_id(self, client_id: int) -> int:
        """The id of the message that a client knows by an id; for a message's own id, that one.

        Whether there is such a message is another question.
        """
        index = bisect_right(self.runs, client_id, key=itemgetter(2)) - 1
        if index >= 0:
            first_id, last_id, first_former_id = self.runs[index]
            if client_id - first_former_id <= last_id - first_id:
                return first_id + client_id - first_former_id
        at = client_id >> _FORMER_COUNTER_BITS
        row_id = ids.min_id_at_time(at) + client_id - (at << _FORMER_COUNTER_BITS)
        is_former = row_id <= self.last_renamed_id and self.get_client_id(row_id) == client_id
        return row_id if is_former else client_id


def load_client_ids(conn: sqlite3.Connection, table: str) -> ClientIds:
    """Load how the clients of this database know messages; only the migration has ever changed it.

    Args:
        table: `messages` or `received`.
    """
    (last_renamed_id,) = conn.execute(
        "SELECT value FROM counters WHERE name = ?", (_LAST_FORMER_ID_COUNTERS[table],)
    ).fetchone()
    rows = conn.execute("SELECT first_id, last_id, first_former_id FROM former_ids ORDER BY first_id")
    return ClientIds(last_renamed_id, [tuple(row) for row in rows])


def find_row_id(conn: sqlite3.Connection, table: str, client_id: int) -> int:
    """`ClientIds.get_row_id` for one id, such as somebody types."""
    return load_client_ids(conn, table).get_row_id(client_id)


def format_hex_id(hex_id: int) -> str:
    return f"{hex_id:08X}"


def add_hex_ids(conn: sqlite3.Connection, message_ids: Sequence[int], now: int) -> dict[int, int]:
    """Give messages hex ids, in their order; returns them by message id.

    An id is given again, after all others, once its message has ended so long ago that it can have no receipt any more;
    that message then has none. The caller is inside `write_transaction()`.

    Args:
        now: this moment (milliseconds).
    """
    (last_id,) = conn.execute("SELECT value FROM counters WHERE name = 'hex_id'").fetchone()
    hex_ids: list[int] = []
    while (missing := len(message_ids) - len(hex_ids)) > 0:
        first_id = last_id + 1 if last_id + 1 < _HEX_ID_LIMIT else 1
        last_id = min(first_id + missing, _HEX_ID_LIMIT) - 1
        taken = conn.execute(
            "SELECT hex_id FROM hex_ids CROSS JOIN messages ON messages.id = message_id"
            f" WHERE hex_id >= ? AND hex_id <= ? AND (state = {ENROUTE} OR done_at > ?)",
            (first_id, last_id, now - _HEX_ID_REUSE_MS),
        )
        taken_ids = {row[0] for row in taken}
        hex_ids += [each for each in range(first_id, last_id + 1) if each not in taken_ids]
    conn.execute("UPDATE counters SET value = ? WHERE name = 'hex_id'", (last_id,))
    conn.executemany("INSERT OR REPLACE INTO hex_ids VALUES (?, ?)", zip(message_ids, hex_ids, strict=True))
    return dict(zip(message_ids, hex_ids, strict=True))


def read_hex_ids(conn: sqlite3.Connection, message_ids: Sequence[int]) -> dict[int, int]:
    """The hex ids of those of these messages that have one, by message id."""
    # One row for all: Python releases the GIL for each row.
    (pairs,) = conn.execute(
        "SELECT json_group_array(json_array(message_id, hex_id))"
        " FROM json_each(?) CROSS JOIN hex_ids ON message_id = value",
        (json.dumps(message_ids),),
    ).fetchone()
    return dict(json.loads(pairs))


def find_row_id_by_hex_id(conn: sqlite3.Connection, hex_id: int) -> int | None:
    """The message that has a hex id; None: none has it."""
    row = conn.execute("SELECT message_id FROM hex_ids WHERE hex_id = ?", (hex_id,)).fetchone()
    return row[0] if row else None
