"""Deletion and retention (`deletion.py` and `retention.py` in `portal/services/history/`).

What is left of messages that were deleted, so that what was charged and counted for them can still be proven: by day,
country and sender; by the usage movement that has charged them, as the first message that it names (0: none); and, of
those whose price was given back, each.

An account's `kept_since` is the day (days since 1970) before which nothing has to be there; `removed_messages` moves
with each that goes.

In `deletions` `wanted` says which messages are to go (JSON), those from `before` on are done with, and `removed` had
gone by then of `total` (NULL: nobody has counted them), while `underway` and `waiting` (for a client to take their
receipts) stay. `blacklist.said` is for when the message that has said it was removed.
"""

from sqlite_utils import Database

from portal.migrations.sql import execute_statements

_STATEMENTS = """
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
"""


def m0014_deletion(database: Database) -> None:
    execute_statements(database, _STATEMENTS)
