"""The triggers of `m0041_brakes.sql`: a change reaches the SMPP server, and new accounts get the defaults."""

from sqlite_utils import Database

from portal.migrations.sql import create_version_trigger

_COLUMNS = "countries, day_messages, day_credits, hour_messages, unusual"


def m0041_brakes(database: Database) -> None:
    create_version_trigger(database, "brakes", "insert", "INSERT", "id = NEW.account_id")
    create_version_trigger(database, "brakes", "update", "UPDATE", "id = NEW.account_id")
    database.execute(
        "CREATE TRIGGER accounts_brakes AFTER INSERT ON accounts BEGIN "
        f"INSERT INTO brakes (account_id, {_COLUMNS}) SELECT NEW.id, {_COLUMNS} FROM brake_defaults; END"
    )
