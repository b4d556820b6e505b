"""A trigger on what `m0003_sessions.sql` adds."""

from sqlite_utils import Database

from portal.migrations.sql import create_version_trigger


def m0003_sessions(database: Database) -> None:
    # An UPDATE of another column (a session's progress, every two seconds) must not move the version.
    create_version_trigger(database, "connections", "ending", "UPDATE OF ending_at", "id = NEW.account_id")
