"""A trigger on what `m0004_whole_promise.sql` adds."""

from sqlite_utils import Database

from portal.migrations.sql import create_version_trigger


def m0004_whole_promise(database: Database) -> None:
    columns = "name, disabled_at, deleted_at, windowing, throughput, binds, any_sender, data_codings, packed_gsm"
    create_version_trigger(database, "accounts", "update", f"UPDATE OF {columns}", "id = NEW.id")
