"""The triggers on what `m0008_credits.sql` adds."""

from sqlite_utils import Database

from portal.migrations.sql import create_counting_triggers, create_version_trigger


def m0008_credits(database: Database) -> None:
    create_counting_triggers(database, "prices", "name IN ('config_version', 'prices_version')")
    create_version_trigger(database, "customers", "price_list", "UPDATE OF price_list_id", "customer_id = NEW.id")
