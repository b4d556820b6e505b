"""The triggers of `m0040_steered_queue.sql`: any change of the holds makes the SMPP server read them anew."""

from sqlite_utils import Database

from portal.migrations.sql import create_counting_triggers


def m0040_steered_queue(database: Database) -> None:
    create_counting_triggers(database, "account_holds")
