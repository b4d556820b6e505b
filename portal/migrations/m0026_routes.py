"""The triggers of `m0026_routes.sql`: any change makes the SMPP server read its routes anew."""

from sqlite_utils import Database

from portal.migrations.sql import create_counting_triggers


def m0026_routes(database: Database) -> None:
    create_counting_triggers(database, "routes")
