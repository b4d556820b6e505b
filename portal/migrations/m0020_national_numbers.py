"""What TON 2 (national) of a destination means to an account: nothing, a refusal, or of which country the number is."""

from sqlite_utils import Database

from portal.migrations.sql import create_version_trigger


def m0020_national_numbers(database: Database) -> None:
    database.execute("ALTER TABLE accounts ADD COLUMN national_numbers TEXT NOT NULL DEFAULT 'ignored'")
    create_version_trigger(database, "accounts", "national_numbers", "UPDATE OF national_numbers", "id = NEW.id")
