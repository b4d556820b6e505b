"""Ids with a time in them for the receipts of the first release.

The id of what waits holds the time since when it does, and is given up by that. Those of the first release were plain
numbers, which would be given up at once; the id of its message is as old, and as much in order.
"""

from sqlite_utils import Database


def m0006_ages_of_receipts(database: Database) -> None:
    database.execute("UPDATE deliveries SET id = message_id WHERE id < 1 << 40")
