"""The triggers of `m0001_initial.sql`."""

from sqlite_utils import Database

from portal.migrations.sql import create_counting_triggers, create_version_trigger

# The tables that the SMPP server holds in memory. Triggers increase the version, so that no writer can forget it: even
# a row that is changed in the sqlite3 shell takes effect on open sessions.
_VERSIONED_TABLES = {
    "allowed_ips": ("account_id", ""),
    "smpp_passwords": ("account_id", ""),
    "senders": ("account_id", ""),
    "accounts": ("id", " OF name, disabled_at, deleted_at, windowing, throughput, binds, any_sender"),
}


def m0001_initial(database: Database) -> None:
    for table, (account, columns) in _VERSIONED_TABLES.items():
        for event, row in (("INSERT", "NEW"), (f"UPDATE{columns}", "NEW"), ("DELETE", "OLD")):
            name = event.split()[0].lower()
            create_version_trigger(database, table, name, event, f"id = {row}.{account}")
    create_counting_triggers(database, "prices")
