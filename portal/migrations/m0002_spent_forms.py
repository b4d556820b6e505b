"""The idempotency keys of forms that have been submitted, so that each takes effect once."""

from sqlite_utils import Database


def m0002_spent_forms(database: Database) -> None:
    database.execute("CREATE TABLE spent_forms (number TEXT PRIMARY KEY, at INTEGER NOT NULL) STRICT, WITHOUT ROWID")
