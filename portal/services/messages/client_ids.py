"""The ids by which clients know messages.

That is a message's id, but for messages from before ids were short (migration `m0017_short_ids`): their clients were
given former ids, of 19 digits, and go on using them. A former id is the same time and counter in another layout, except
for a few, which are stored as runs (`former_ids`).
"""

import sqlite3
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

from portal.services.common import ids

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
