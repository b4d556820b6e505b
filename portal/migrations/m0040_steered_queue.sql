-- What operators do to what waits: accounts that are on hold, and the work of holding, moving and cancelling messages.

-- Nothing of these accounts is given to an upstream. `reason`: for operators; `actor`: who has held it.
CREATE TABLE account_holds (
    account_id INTEGER PRIMARY KEY REFERENCES accounts ON DELETE CASCADE,
    reason TEXT NOT NULL,
    since INTEGER NOT NULL,
    actor TEXT NOT NULL
) STRICT;

-- What was asked for of messages that waited then. `action`: hold, release, cancel or move (to `upstream_id`).
-- `selection`: which messages, `position`: how far it has come, both JSON. `asked_count`: how many that were then.
-- `error`: why the last step went wrong, empty where it didn't. `left_count`: those that may have been sent, and were
-- left as they are. `refunded`: thousandths of a credit.
CREATE TABLE queue_works (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    action TEXT NOT NULL,
    selection TEXT NOT NULL CHECK (json_valid(selection)),
    upstream_id INTEGER,
    asked_at INTEGER NOT NULL,
    asked_by TEXT NOT NULL,
    asked_count INTEGER NOT NULL,
    position TEXT,
    error TEXT NOT NULL DEFAULT '',
    done_count INTEGER NOT NULL DEFAULT 0,
    left_count INTEGER NOT NULL DEFAULT 0,
    refunded INTEGER NOT NULL DEFAULT 0,
    ended_at INTEGER
) STRICT;
CREATE INDEX queue_works_open ON queue_works (id) WHERE ended_at IS NULL;
-- The SMPP server does it, and looks for it when anything was changed.
CREATE TRIGGER queue_works_insert AFTER INSERT ON queue_works BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'config_version'; END;

-- What waits on a path, of an account, from its oldest message on.
CREATE INDEX held_messages_path ON held_messages (path, account_id, message_id);
-- Of these an upstream may have some: they don't wait at this moment.
CREATE INDEX held_messages_begun ON held_messages (path, account_id) WHERE attempts > 0 AND not_before IS NULL;
