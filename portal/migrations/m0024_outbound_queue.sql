-- What waits to go out, what an upstream has of it, and receipts whose message isn't known (yet).
--
-- A message that an upstream has room for never waits: its row is stored with `upstream`. What has to wait has a row in
-- `queued_messages`, and `upstream` is NULL. What an upstream has refused for the moment is in `held_messages`, with
-- all that the same account sends to the same destination behind it.

ALTER TABLE messages ADD COLUMN upstream INTEGER;
ALTER TABLE messages ADD COLUMN bind INTEGER;
ALTER TABLE messages ADD COLUMN sent_at INTEGER;
ALTER TABLE messages ADD COLUMN priority INTEGER;

-- What an upstream has: under way, or unsure after a crash (upstream_id IS NULL), and sent.
CREATE INDEX messages_upstream ON messages (upstream_id, upstream) WHERE state = 1 AND upstream IS NOT NULL;

-- `priority_rank`: less for a higher priority_flag (SMPP 3.4, 5.2.14).
CREATE TABLE queued_messages (
    account_id INTEGER NOT NULL,
    priority_rank INTEGER NOT NULL,
    message_id INTEGER NOT NULL,
    PRIMARY KEY (account_id, priority_rank, message_id)
) STRICT, WITHOUT ROWID;

-- The first one of an account and a destination has been tried, and is tried again at `not_before` (NULL while it is
-- under way); the others only wait for it. `unanswered`: how many of its `attempts` had no answer.
CREATE TABLE held_messages (
    account_id INTEGER NOT NULL,
    destination TEXT NOT NULL,
    message_id INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    unanswered INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER,
    error TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (account_id, destination, message_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX held_messages_due ON held_messages (not_before) WHERE not_before IS NOT NULL;
CREATE INDEX held_messages_tried ON held_messages (account_id, destination) WHERE attempts > 0;

-- `tried`: what was looked for, as a sentence for operators.
CREATE TABLE unmatched_receipts (
    id INTEGER PRIMARY KEY,
    upstream INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    message_id TEXT NOT NULL,
    other_id TEXT,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    state INTEGER,
    ptt INTEGER NOT NULL,
    status TEXT NOT NULL,
    done_at INTEGER,
    text TEXT NOT NULL,
    tried TEXT NOT NULL
) STRICT;
CREATE INDEX unmatched_receipts_message ON unmatched_receipts (message_id);
CREATE INDEX unmatched_receipts_other ON unmatched_receipts (other_id) WHERE other_id IS NOT NULL;
CREATE INDEX unmatched_receipts_received ON unmatched_receipts (received_at);

-- Messages up to this one, as far as no upstream has them and they don't wait, are the built-in simulator's.
INSERT INTO counters (name, value) VALUES ('last_simulated_message', 0);
