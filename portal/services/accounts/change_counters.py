"""Change counters: numbers that show whether anything about an account has changed, and are cheap to read often."""

import sqlite3
from dataclasses import dataclass

from portal.core.clock import now_ms
from portal.services.accounts.account_messages import LATEST_MESSAGE_ID_SQL


@dataclass(frozen=True, slots=True)
class ChangeCounters:
    """Each number changes when what it is named after may have changed.

    Open pages remember the numbers that they were drawn with, read them again, and redraw what has changed.
    """

    config_version: int
    allowed_ips: int
    grace_passwords: int
    open_sessions: int
    latest_session: int
    submitted: int
    delivered: int
    in_flight: int
    latest_refused_bind: int
    latest_refused_message: int
    total_sent: int
    total_delivered: int
    total_failed: int
    total_stopped: int
    total_refused: int
    latest_message: int
    latest_movement: int
    removed_messages: int


# Of its own row, of indexes and of the messages that aren't in theirs yet: a few dozen microseconds, however much an
# account has sent; under load a few hundred.
_QUERY = f"""
SELECT config_version,
       (SELECT count(*) FROM allowed_ips WHERE account_id = :account AND (expires_at IS NULL OR expires_at > :now)),
       (SELECT count(*) FROM smpp_passwords WHERE account_id = :account AND expires_at > :now),
       open.*,
       (SELECT at FROM latest_refusals WHERE account_id = :account AND is_bind = 1),
       (SELECT at FROM latest_refusals WHERE account_id = :account AND is_bind = 0),
       total.*,
       {LATEST_MESSAGE_ID_SQL},
       (SELECT max(id) FROM movements WHERE account_id = :account),
       removed_messages
FROM accounts,
     (SELECT count(*), max(id), sum(submitted), sum(delivered), sum(window) FROM connections
      WHERE account_id = :account) AS open,
     (SELECT sum(sent), sum(delivered), sum(failed), sum(stopped), sum(refused) FROM daily_totals
      WHERE account_id = :account) AS total
WHERE accounts.id = :account
"""


def read_change_counters(conn: sqlite3.Connection, account_id: int) -> ChangeCounters:
    """An account's change counters at this moment."""
    row = conn.execute(_QUERY, {"account": account_id, "now": now_ms()}).fetchone()
    return ChangeCounters(*(value or 0 for value in row))
