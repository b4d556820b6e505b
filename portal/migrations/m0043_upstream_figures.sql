-- What operators see of each upstream: what it does at the moment, what came of its messages by the hour, and messages
-- that they send to try it out.

-- As the SMPP server has measured last. `slowed_to`: parts a second, where refusals have slowed it down.
-- `latency_p50`, `latency_p99`: of the last answers to submit_sm, in milliseconds.
CREATE TABLE upstream_loads (
    upstream INTEGER PRIMARY KEY REFERENCES upstreams ON DELETE CASCADE,
    parts_per_second REAL NOT NULL DEFAULT 0,
    window_in_use INTEGER NOT NULL DEFAULT 0,
    window INTEGER NOT NULL DEFAULT 0,
    slowed_to REAL,
    latency_p50 REAL,
    latency_p99 REAL,
    last_error TEXT NOT NULL DEFAULT '',
    last_error_at INTEGER
) STRICT;

-- `hour`: hours since 1970, UTC. Some of `upstream_counters`, of the last days.
CREATE TABLE upstream_hours (
    upstream INTEGER NOT NULL REFERENCES upstreams ON DELETE CASCADE,
    hour INTEGER NOT NULL,
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (upstream, hour, name)
) STRICT, WITHOUT ROWID;

-- No customer's, and free. `upstream_id`: the carrier's id of it.
CREATE TABLE test_messages (
    id INTEGER PRIMARY KEY,
    upstream INTEGER NOT NULL REFERENCES upstreams ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    text TEXT NOT NULL,
    state TEXT NOT NULL,
    upstream_id TEXT,
    status TEXT NOT NULL DEFAULT '',
    answered_at INTEGER,
    ended_at INTEGER
) STRICT;
CREATE INDEX test_messages_accepted ON test_messages (upstream) WHERE state = 'accepted';
CREATE TRIGGER test_messages_insert AFTER INSERT ON test_messages BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'config_version'; END;
