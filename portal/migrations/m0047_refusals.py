"""The SMPP server is told when an account's refused PDUs are to be kept."""

from sqlite_utils import Database

from portal.migrations.sql import create_version_trigger


def m0047_refusals(database: Database) -> None:
    create_version_trigger(database, "accounts", "refused_pdus", "UPDATE OF refused_pdus_until", "id = NEW.id")
