"""An index of the deliveries that have failed before."""

from sqlite_utils import Database


def m0005_retries(database: Database) -> None:
    # Most deliveries are accepted at the first attempt, and so are never in this index.
    database.execute("CREATE INDEX deliveries_retried ON deliveries (account_id, next_attempt_at) WHERE attempts > 0")
