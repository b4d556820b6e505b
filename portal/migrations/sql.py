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


def create_version_trigger(database: Database, table: str, name: str, event: str, account_id: str) -> None:
    """Create the trigger `<table>_<name>`, which makes the SMPP server reload the account.

    Args:
        event: the event of CREATE TRIGGER (`UPDATE OF name`).
        account_id: the SQL expression of the account's id (`NEW.account_id`).
    """
    database.execute(
        f"CREATE TRIGGER {table}_{name} AFTER {event} ON {table} BEGIN "
        f"UPDATE counters SET value = value + 1 WHERE name = 'config_version'; "
        f"UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') "
        f"WHERE id = {account_id}; END"
    )
