-- What waits is kept by the path that it takes: upstreams in the order in which one takes over from another.
--
-- What has waited before goes to the default upstream, whichever that is: path 0.

-- `upstream_ids`: the ids of upstreams in their order, with commas between them; empty: the default one's.
-- `first_upstream`: the first of them, NULL for the default one.
CREATE TABLE queue_paths (
    id INTEGER PRIMARY KEY,
    upstream_ids TEXT NOT NULL UNIQUE,
    first_upstream INTEGER
) STRICT;
INSERT INTO queue_paths (id, upstream_ids) VALUES (0, '');

CREATE TABLE queued_messages_by_path (
    path INTEGER NOT NULL,
    account_id INTEGER NOT NULL,
    priority_rank INTEGER NOT NULL,
    message_id INTEGER NOT NULL,
    PRIMARY KEY (path, account_id, priority_rank, message_id)
) STRICT, WITHOUT ROWID;
INSERT INTO queued_messages_by_path (path, account_id, priority_rank, message_id)
    SELECT 0, account_id, priority_rank, message_id FROM queued_messages
    ORDER BY account_id, priority_rank, message_id;
DROP TABLE queued_messages;
ALTER TABLE queued_messages_by_path RENAME TO queued_messages;

ALTER TABLE held_messages ADD COLUMN path INTEGER NOT NULL DEFAULT 0;
DROP INDEX held_messages_due;
CREATE INDEX held_messages_due ON held_messages (path, not_before) WHERE not_before IS NOT NULL;

-- Whether an upstream is given messages, as the SMPP server sees it: good, failing or trying.
CREATE TABLE upstream_health (
    upstream INTEGER PRIMARY KEY REFERENCES upstreams ON DELETE CASCADE,
    state TEXT NOT NULL,
    since INTEGER NOT NULL,
    reason TEXT NOT NULL DEFAULT ''
) STRICT;

-- `next_attempt_at`: when it is tried again (milliseconds; 0: not, or now).
ALTER TABLE upstream_binds ADD COLUMN next_attempt_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE upstream_binds ADD COLUMN host TEXT NOT NULL DEFAULT '';

-- Messages that were refused because no route takes their number, and there is no default upstream.
INSERT INTO counters (name, value) VALUES ('unroutable_submits', 0);
