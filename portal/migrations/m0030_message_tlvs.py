"""Optional parameters of messages that an upstream is to get as their client has sent them.

`tlvs`: their values in hexadecimal digits by tag, as JSON.
"""

from sqlite_utils import Database

from portal.migrations.sql import execute_statements

_STATEMENTS = """
CREATE TABLE message_tlvs (
    message_id INTEGER PRIMARY KEY,
    tlvs TEXT NOT NULL
) STRICT;
"""


def m0030_message_tlvs(database: Database) -> None:
    execute_statements(database, _STATEMENTS)
