"""The search index: for each 256 messages of an account, a Bloom filter of their words, numbers and senders.

`portal/services/history/search_index.py` builds it. Failed messages are few; they have a database index, in the order
of the history and with the ptt codes.
"""

from sqlite_utils import Database

from portal.migrations.sql import execute_statements

_STATEMENTS = """
CREATE TABLE history_chunks (
    id INTEGER PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES accounts,
    first_id INTEGER NOT NULL,
    last_id INTEGER NOT NULL,
    bits BLOB NOT NULL,
    UNIQUE (account_id, last_id)
) STRICT;
CREATE INDEX messages_failed ON messages (account_id, coalesce(joined_to, id), ptt) WHERE ptt NOT IN (0, 254);
"""


def m0012_search(database: Database) -> None:
    execute_statements(database, _STATEMENTS)
