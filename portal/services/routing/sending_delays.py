"""What keeps an account's messages waiting, and since when, for its own people: no upstream is named."""

import sqlite3
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.services.routing.quiet_hours import QuietHours, read_stored_quiet_hours
from portal.services.upstreams import obstacles, paths, queue, waiting
from portal.services.upstreams.paths import UpstreamPath

# The account is on hold; operators hold some of its messages; messages wait for long, as upstreams don't take them.
ON_HOLD, MESSAGES_HELD, SLOW = "on hold", "messages held", "slow"


@dataclass(frozen=True, slots=True)
class SendingDelay:
    """`kind`: one of the three above. `since` (milliseconds): since when the account is on hold, or the oldest message
    waits.
    """

    kind: str
    since: int


def list_sending_delays(conn: sqlite3.Connection, account_id: int, now: int | None = None) -> list[SendingDelay]:
    """What keeps an account's messages waiting. Some look-ups in indexes for each path, however much waits.

    Args:
        now: milliseconds; None: this moment.
    """
    row = conn.execute("SELECT since FROM account_holds WHERE account_id = ?", (account_id,)).fetchone()
    if row is not None:
        return [SendingDelay(ON_HOLD, row[0])]
    if not queue.has_queue(conn):
        return []
    at = now_ms() if now is None else now
    oldest = queue.list_oldest_ids(conn, account_id)
    # A message that its phone's network refuses for the moment waits for hours, and sending isn't slow for that.
    blocked = obstacles.find_blocked_paths(conn, [path for path, _, tried_id in oldest if tried_id is not None])
    held, slow = [], []
    for path, queued_id, tried_id in oldest:
        if tried_id is not None and paths.is_held_path(path):
            held.append(waiting.read_waiting_time(conn, tried_id))
            continue
        quiet_hours = _find_quiet_hours(conn, path)
        if quiet_hours is not None and quiet_hours.includes(at):
            # Somebody wants it to wait.
            continue
        sendable_since = quiet_hours.get_last_end(at) if quiet_hours else 0
        for message_id in (queued_id, tried_id if path in blocked else None):
            if message_id is not None:
                slow.append(max(waiting.read_waiting_time(conn, message_id), sendable_since))
    delays = [SendingDelay(SLOW, min(slow))] if slow and at - min(slow) > waiting.LONG_WAIT_MS else []
    return [*delays, SendingDelay(MESSAGES_HELD, min(held))] if held else delays


def find_quiet_end(conn: sqlite3.Connection, message_id: int) -> int | None:
    """When the quiet hours end (milliseconds) for which a message waits at this moment; None: it waits for none."""
    path, now = queue.find_waiting_path(conn, message_id), now_ms()
    if path is None or paths.is_held_path(path):
        return None
    quiet_hours = _find_quiet_hours(conn, path)
    return quiet_hours.get_end(now) if quiet_hours is not None and quiet_hours.includes(now) else None


def _find_quiet_hours(conn: sqlite3.Connection, path: UpstreamPath) -> QuietHours | None:
    row = conn.execute("SELECT quiet_hours FROM routes WHERE id = ?", (paths.get_quiet_route(path),)).fetchone()
    return read_stored_quiet_hours(row[0]) if row and row[0] else None
