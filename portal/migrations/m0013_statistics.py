"""What `m0013_statistics.sql` is to count of messages that there are already."""

from array import array

from sqlite_utils import Database

_IDS_PER_ROW = 500


def m0013_statistics(database: Database) -> None:
    # Counting years of messages takes a while: that is done later, behind the server that runs again.
    rows = database.execute("SELECT id FROM messages WHERE state <> 1 AND price > 0 ORDER BY id")
    while batch := rows.fetchmany(_IDS_PER_ROW):
        message_ids = array("q", [message_id for (message_id,) in batch])
        database.execute("INSERT INTO ended (messages) VALUES (?)", (message_ids.tobytes(),))
