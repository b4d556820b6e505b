"""An index of the deliveries that have been tried."""

from sqlite_utils import Database


def m0005_retries(database: Database) -> None:
    # Few of what waits has been tried in vain, and most of it is never in here.
    database.execute("CREATE INDEX deliveries_retried ON deliveries (account_id, next_attempt_at) WHERE attempts > 0")
