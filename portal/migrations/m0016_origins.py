"""Where a message came from, and what its upstream said of it.

The session, as long as that is kept; the upstream's own id of the message, and its status in its own words. No foreign
key: each message would have to look its session up.

`connections` has the sessions that are open. Those that were when this step was taken have ids of another kind, and
their server is gone. Chunks are built anew, because they tell one more length of words
(`portal/services/history/search_index.py`).
"""

from sqlite_utils import Database

from portal.migrations.sql import execute_statements

_STATEMENTS = """
ALTER TABLE messages ADD COLUMN session_id INTEGER;
ALTER TABLE messages ADD COLUMN upstream_id TEXT;
ALTER TABLE messages ADD COLUMN upstream_status TEXT;
CREATE TABLE ended_sessions (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    address TEXT NOT NULL,
    bind_type TEXT NOT NULL,
    tls TEXT NOT NULL,
    bound_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL
) STRICT;
CREATE INDEX ended_sessions_account ON ended_sessions (account_id, ended_at);
DELETE FROM connections;
INSERT INTO counters VALUES ('session_id', 0);
DELETE FROM history_chunks;
"""


def m0016_origins(database: Database) -> None:
    execute_statements(database, _STATEMENTS)
