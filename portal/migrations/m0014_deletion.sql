-- Deletion and retention (`deletion.py` and `retention.py` in `portal/services/history/`).
--
-- Sums of deleted messages, so that charges and totals can still be checked: by day, country and sender
-- (`deleted_days`); by the usage movement that has charged them, identified by its first message, 0: none
-- (`deleted_charges`); and each refunded message (`deleted_refunds`).
--
-- An account's `kept_since` is the first day (days since 1970) whose messages are kept; `removed_messages` counts the
-- removed ones.
--
-- In `deletions`, `wanted` is the scope (JSON). Messages with ids from `before` on have been processed: of `total`
-- (NULL: not counted yet) `removed` were removed, while `underway` and `waiting` ones (for a client to accept their
-- receipts) stay. `blacklist.said` is the text of a STOP message that was removed.

ALTER TABLE accounts ADD COLUMN kept_since INTEGER NOT NULL DEFAULT 0;
ALTER TABLE accounts ADD COLUMN removed_messages INTEGER NOT NULL DEFAULT 0;
ALTER TABLE customers ADD COLUMN messages_months INTEGER CHECK (messages_months > 0);
ALTER TABLE blacklist ADD COLUMN said TEXT;
CREATE TABLE deleted_days (
    account_id INTEGER NOT NULL REFERENCES accounts,
    day INTEGER NOT NULL,
    country TEXT NOT NULL,
    source TEXT NOT NULL,
    sent INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    stopped INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    parts INTEGER NOT NULL,
    price INTEGER NOT NULL,
    PRIMARY KEY (account_id, day, country, source)
) STRICT, WITHOUT ROWID;
CREATE TABLE deleted_charges (
    account_id INTEGER NOT NULL REFERENCES accounts,
    charged_from INTEGER NOT NULL,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    price INTEGER NOT NULL,
    PRIMARY KEY (account_id, charged_from)
) STRICT, WITHOUT ROWID;
CREATE TABLE deleted_refunds (
    message_id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    price INTEGER NOT NULL,
    state INTEGER NOT NULL,
    ptt INTEGER NOT NULL
) STRICT;
CREATE TABLE deletions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL REFERENCES accounts ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('sent', 'received')),
    wanted TEXT NOT NULL,
    asked_at INTEGER NOT NULL,
    asked_by TEXT NOT NULL,
    address TEXT NOT NULL,
    before INTEGER NOT NULL,
    total INTEGER,
    removed INTEGER NOT NULL DEFAULT 0,
    underway INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0,
    ended_at INTEGER
) STRICT;
CREATE INDEX deletions_account ON deletions (account_id);
CREATE INDEX deletions_open ON deletions (id) WHERE ended_at IS NULL;
