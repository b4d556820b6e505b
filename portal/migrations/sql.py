"""What several steps have in common.

It is part of each step that calls it: what it executes for those that are released never changes.
"""

from sqlite_utils import Database


def execute_statements(database: Database, statements: str) -> None:
    """Execute statements that end with a semicolon at the end of a line, within the transaction that is open.

    `executescript()` would commit it, and with it half a step.
    """
    for statement in statements.split(";\n"):
        if statement.strip():
            database.execute(statement)


def create_version_trigger(database: Database, table: str, name: str, event: str, account_id: str) -> None:
    """Create the trigger `<table>_<name>`, after which the SMPP server reads the account anew.

    Args:
        event: the part of CREATE TRIGGER that says when (`UPDATE OF name`).
        account_id: where the row has the account's id (`NEW.account_id`).
    """
    database.execute(
        f"CREATE TRIGGER {table}_{name} AFTER {event} ON {table} BEGIN "
        f"UPDATE counters SET value = value + 1 WHERE name = 'config_version'; "
        f"UPDATE accounts SET config_version = (SELECT value FROM counters WHERE name = 'config_version') "
        f"WHERE id = {account_id}; END"
    )
