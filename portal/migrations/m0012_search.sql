-- The search index: for each 256 messages of an account, a Bloom filter of their words, numbers and senders.
--
-- `portal/services/history/search_index.py` builds it. Failed messages are few; they have a database index, in the
-- order of the history and with the ptt codes.

CREATE TABLE history_chunks (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    bits BLOB NOT NULL,
    UNIQUE (account_id, last_id)
) STRICT;
CREATE INDEX messages_failed ON messages (account_id, coalesce(joined_to, id), ptt) WHERE ptt NOT IN (0, 254);
