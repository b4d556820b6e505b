"""Ids of eight hexadecimal digits, for the messages of clients that keep no longer ones (SMPP 3.3 and older).

`counters` has the id that was given last.
"""

from sqlite_utils import Database

from portal.migrations.sql import execute_statements

_STATEMENTS = """
CREATE TABLE hex_ids (
    message_id INTEGER PRIMARY KEY,
    hex_id INTEGER NOT NULL UNIQUE
) STRICT;
INSERT INTO counters (name, value) VALUES ('hex_id', 0);
"""


def m0021_hex_ids(database: Database) -> None:
    execute_statements(database, _STATEMENTS)
