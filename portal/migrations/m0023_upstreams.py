"""The triggers of `m0023_upstreams.sql`: any change makes the SMPP server look at its upstreams."""

from sqlite_utils import Database

from portal.migrations.sql import create_version_trigger

_COLUMNS = "name, kind, enabled, draining, is_default, settings, password, removed_at"


def m0023_upstreams(database: Database) -> None:
    for name, event in (("insert", "INSERT"), ("update", f"UPDATE OF {_COLUMNS}")):
        create_version_trigger(database, "upstreams", name, event, "id = NEW.id", version="upstreams SET version")
