"""Receipts of parts are looked for as those of messages are, by a key of the id (`m0029_learned_ids`)."""

from sqlite_utils import Database

from portal.migrations.sql import execute_statements

_STATEMENTS = """
DROP INDEX message_parts_upstream;
CREATE INDEX message_parts_upstream ON message_parts (lower(ltrim(upstream_id, '0')), upstream)
    WHERE state = 1 AND upstream_id IS NOT '';
"""


def m0032_part_keys(database: Database) -> None:
    execute_statements(database, _STATEMENTS)
