"""Room in the row of a message for what comes of it: its time, the upstream's id and status.

A new row takes the column's default with it, and loses it when the outcome is stored. Rows are stored one after the
other in full pages: without that room nearly each outcome would have to move some of them to another page.
"""

from sqlite_utils import Database


def m0019_outcome_room(database: Database) -> None:
    database.execute(f"ALTER TABLE messages ADD COLUMN outcome_room BLOB DEFAULT x'{'00' * 40}'")
