"""Indexes of what the SMPP server looks for twice a second among messages without a final state.

Dates that have come, and those without a date (NULL) that are too old. Within one date an index is in the order of ids.
By the other index a message that waits for a date is found among all of them, when it is called back by its
destination.
"""

from sqlite_utils import Database

from portal.migrations.sql import execute_statements

_STATEMENTS = """
DROP INDEX messages_enroute;
DROP INDEX messages_due;
CREATE INDEX messages_unfinished ON messages (due_at) WHERE state = 1;
CREATE INDEX messages_dated ON messages (account_id, destination) WHERE state = 1 AND due_at IS NOT NULL;
"""


def m0007_unfinished_messages(database: Database) -> None:
    execute_statements(database, _STATEMENTS)
