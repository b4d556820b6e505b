"""All migrations, in the order in which they are applied: that of their numbers.

A new one is a file of this package, `m<number>_<name>.sql`, which begins with a comment that describes it. What can't
be said in SQL is a function `m<number>_<name>` in a file of that name with the ending `.py`; where there are both, the
statements are executed first.

What a released migration executes must never change, because databases have applied it already; nor must its name,
because they store it. `tests/migrations/test_steps.py` has a hash of what each executes. So a migration uses nothing
from the program that may change, except `sql.py`, which is as fixed as the migrations.

There is no m0010: m0012_search had that number on its branch, and got a new one when it was merged.
"""

from importlib import import_module

from sqlite_utils import Database, Migrations

from portal.migrations import FOLDER, KNOWN_NAMES
from portal.migrations.sql import execute_statements

migrations = Migrations("portal")


def _add_migration(name: str) -> None:
    sql, python = FOLDER / f"{name}.sql", FOLDER / f"{name}.py"
    statements = sql.read_text("utf-8") if sql.exists() else ""
    function = getattr(import_module(f"portal.migrations.{name}"), name) if python.exists() else None

    @migrations(name=name)
    def execute(database: Database) -> None:
        execute_statements(database, statements)
        if function is not None:
            function(database)


for name in sorted(KNOWN_NAMES):
    _add_migration(name)
