"""Functions that several migrations share.

They are part of each migration that calls them: what they execute for released ones must never change.
"""

from sqlite_utils import Database


def execute_statements(database: Database, statements: str) -> None:
    """Execute statements, each ending with a semicolon at the end of a line, within the open transaction.

    `executescript()` would commit the transaction, and with it half of a migration.
    """
    for statement in statements.split(";\n"):
        if statement.strip():
            database.execute(statement)


def create_counting_triggers(database: Database, table: str, counters: str = "name = 'config_version'") -> None:
    """Create three triggers, by which any change of a table makes the SMPP server read it again.

    Args:
        counters: the SQL condition of the counters that grow.
    """
    for event in ("INSERT", "UPDATE", "DELETE"):
        database.execute(
            f"CREATE TRIGGER {table}_{event.lower()} AFTER {event} ON {table} BEGIN "
            f"UPDATE counters SET value = value + 1 WHERE {counters}; END"
        )


def create_version_trigger(
    database: Database, table: str, name: str, event: str, rows: str, *, version: str = "accounts SET config_version"
) -> None:
    """Create the trigger `<table>_<name>`, which makes the SMPP server reload accounts, or what else has a version.

    Args:
        event: the event of CREATE TRIGGER (`UPDATE OF name`).
        rows: the SQL condition of those that get a new version (`id = NEW.account_id`).
        version: their table and column, as an UPDATE names them.
    """
    database.execute(
        f"CREATE TRIGGER {table}_{name} AFTER {event} ON {table} BEGIN "
        f"UPDATE counters SET value = value + 1 WHERE name = 'config_version'; "
        f"UPDATE {version} = (SELECT value FROM counters WHERE name = 'config_version') "
        f"WHERE {rows}; END"
    )
