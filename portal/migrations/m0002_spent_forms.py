"""The forms that have been sent, so that each counts once."""

from sqlite_utils import Database


def m0002_spent_forms(database: Database) -> None:
    database.execute("CREATE TABLE spent_forms (number TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID")
