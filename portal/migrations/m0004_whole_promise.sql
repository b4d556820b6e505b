-- Further columns of messages, what an account may send, and messages from handsets.
--
-- A message may have a binary body, a place in a concatenated text, and dates. `due_at` is when the SMPP server next
-- has to process a message without a final state: its date, then the end of its validity.

ALTER TABLE messages ADD COLUMN body BLOB;
ALTER TABLE messages ADD COLUMN subunit INTEGER;
ALTER TABLE messages ADD COLUMN segment_reference INTEGER;
ALTER TABLE messages ADD COLUMN segment_total INTEGER;
ALTER TABLE messages ADD COLUMN segment_number INTEGER;
ALTER TABLE messages ADD COLUMN joined_to INTEGER;
ALTER TABLE messages ADD COLUMN scheduled_at INTEGER;
ALTER TABLE messages ADD COLUMN expires_at INTEGER;
ALTER TABLE messages ADD COLUMN due_at INTEGER;
CREATE INDEX messages_due ON messages (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX messages_joined ON messages (joined_to) WHERE joined_to IS NOT NULL;
CREATE INDEX messages_segments ON messages (account_id, destination, segment_reference)
    WHERE segment_reference IS NOT NULL;

ALTER TABLE accounts ADD COLUMN data_codings TEXT NOT NULL DEFAULT '';
ALTER TABLE accounts ADD COLUMN packed_gsm INTEGER NOT NULL DEFAULT 0;
DROP TRIGGER accounts_update;

-- What was received from handsets (MO).
CREATE TABLE received (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    keyword TEXT NOT NULL DEFAULT '',
    text TEXT NOT NULL,
    body BLOB,
    udh BLOB,
    data_coding INTEGER NOT NULL
) STRICT;
CREATE INDEX received_account ON received (account_id);

-- Which account gets what is sent to a number; '' is the keyword of whatever begins with no other one's.
CREATE TABLE routes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    number TEXT NOT NULL,
    keyword TEXT NOT NULL DEFAULT '' COLLATE NOCASE,
    created_at INTEGER NOT NULL,
    UNIQUE (number, keyword)
) STRICT;
CREATE INDEX routes_account ON routes (account_id);

CREATE TABLE blacklist (
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    number TEXT NOT NULL,
    since INTEGER NOT NULL,
    received_id INTEGER,
    PRIMARY KEY (account_id, number)
) STRICT, WITHOUT ROWID;

-- What the SMPP server is to take for a message from a handset: the way from the shell to the built-in upstream.
CREATE TABLE simulated (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL,
    destination TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE TRIGGER simulated_insert AFTER INSERT ON simulated BEGIN
    UPDATE counters SET value = value + 1 WHERE name = 'config_version'; END;

-- What waits for an account's receivers: the receipt of a message, or what was received. One tree, in the order of
-- delivery, because each row is written and deleted once a message; no reference to it, so that nothing has to look for
-- it when a message is deleted.
CREATE TABLE deliveries (
    account_id INTEGER NOT NULL,
    id INTEGER NOT NULL,
    message_id INTEGER,
    received_id INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, id),
    CHECK ((message_id IS NULL) <> (received_id IS NULL))
) STRICT, WITHOUT ROWID;
INSERT INTO deliveries (account_id, id, message_id, attempts, next_attempt_at)
    SELECT account_id, id, message_id, attempts, next_attempt_at FROM receipts;
DROP TABLE receipts;

-- No message's id is ever given again, also not that of the newest one after it was deleted and the clock was set back.
CREATE TRIGGER messages_delete AFTER DELETE ON messages
    WHEN OLD.id > (SELECT value FROM counters WHERE name = 'message_id') BEGIN
    UPDATE counters SET value = OLD.id WHERE name = 'message_id'; END;
CREATE TRIGGER received_delete AFTER DELETE ON received
    WHEN OLD.id > (SELECT value FROM counters WHERE name = 'message_id') BEGIN
    UPDATE counters SET value = OLD.id WHERE name = 'message_id'; END;
