"""Of each 256 messages of an account, which words, numbers and senders are not among them.

`portal/services/history/search_index.py` writes and reads that. Failed messages are few; their index is in the order of
the history's lines, and knows the codes.
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
