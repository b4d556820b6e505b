"""What waits for each upstream, and since when the oldest of it does."""

import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from portal.services.common import ids
from portal.services.upstreams import paths, upstreams, waiting_counts
from portal.services.upstreams.waiting_counts import WaitingGroup

LONG_WAIT_MS = 60_000
"""Whatever waits for longer, waits for longer than any upstream that does well lets it wait."""


@dataclass(frozen=True, slots=True)
class WaitingMessages:
    """How many messages wait, and since when the oldest waits (milliseconds): since it was accepted, or since its date.
    None: there is none.
    """

    count: int
    oldest_at: int | None


def list_waiting(conn: sqlite3.Connection) -> dict[int, WaitingMessages]:
    """What waits for each upstream that anything waits for, by its id: on the paths that it takes now, and not what
    operators hold. As quick as `waiting_counts.list_waiting_groups`.
    """
    groups = [each for each in waiting_counts.list_waiting_groups(conn) if not paths.is_held_path(each.path)]
    takers = upstreams.find_takers(conn, {each.path for each in groups})
    by_upstream: dict[int, list[WaitingGroup]] = defaultdict(list)
    for group in groups:
        taker = takers[group.path]
        if taker is not None:
            by_upstream[taker].append(group)
    return {
        upstream_id: WaitingMessages(sum(each.count for each in waiting), find_oldest_time(conn, waiting))
        for upstream_id, waiting in by_upstream.items()
    }


def find_oldest_time(conn: sqlite3.Connection, groups: Sequence[WaitingGroup]) -> int:
    """Since when the oldest of these messages waits (milliseconds), as `WaitingMessages` has it."""
    return read_waiting_time(conn, min(each.oldest_id for each in groups))


def read_waiting_time(conn: sqlite3.Connection, message_id: int) -> int:
    """Since when a message that waits does (milliseconds): since it was accepted, or since its date."""
    row = conn.execute("SELECT scheduled_at FROM messages WHERE id = ?", (message_id,)).fetchone()
    return max(ids.time_from_id(message_id), (row and row[0]) or 0)
