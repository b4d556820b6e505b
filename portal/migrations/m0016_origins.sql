-- The session that a message came from, and the upstream's id and status of it.
--
-- Ended sessions are kept for a while. There is no foreign key: checking it would cost a lookup for each message.
--
-- `connections` has the open sessions. Those that are in it before this migration have ids of another kind, and belong
-- to a server that no longer runs. The search index is rebuilt, because its words have one more prefix length
-- (`portal/services/history/search_index.py`).

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
