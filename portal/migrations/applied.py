"""Which migrations a database has, without sqlite-utils."""

import pkgutil
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from portal.core import db


class NewerDatabase(Exception):
    """The database has migrations of a newer version of this program."""


class MigrationFailed(Exception):
    """Migrations could not be applied, and have changed nothing."""


# Each migration has a file of its name. They are read once: a newer version's may take their place while this one runs.
KNOWN_NAMES = frozenset(
    each.name for each in pkgutil.iter_modules([str(Path(__file__).parent)]) if re.match(r"m[0-9]{4}_", each.name)
)


def list_applied_names(conn: sqlite3.Connection) -> set[str]:
    """The names of the migrations that a database has; empty where it is none of this program.

    Raises:
        sqlite3.Error: it can't be read.
    """
    with db.decode_damage():
        row = conn.execute("SELECT 1 FROM sqlite_schema WHERE name = '_sqlite_migrations'").fetchone()
    if row is None:
        return set()
    rows = conn.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = 'portal'")
    return {name for (name,) in rows}


def list_pending_names(conn: sqlite3.Connection) -> list[str]:
    """The names of the migrations that a database lacks, in their order.

    Raises:
        NewerDatabase, sqlite3.Error
    """
    applied = list_applied_names(conn)
    if unknown := sorted(applied - KNOWN_NAMES):
        (_, _, file), *_ = conn.execute("PRAGMA database_list")
        raise NewerDatabase(f"{file} was written by a newer version of this program ({', '.join(unknown)})")
    return sorted(KNOWN_NAMES - applied)


def list_pending_migrations(file: Path) -> list[str]:
    """The same of a file, which isn't created.

    Raises:
        NewerDatabase, sqlite3.Error
    """
    if not file.exists():
        return sorted(KNOWN_NAMES)
    with closing(db.connect(file)) as conn:
        return list_pending_names(conn)


def describe_schema_difference(conn: sqlite3.Connection) -> str:
    """What keeps this process from working on a database, in a few words; empty where its schema is this version's.

    This costs a look at an index of some twenty rows.

    Raises:
        sqlite3.Error: it can't be read.
    """
    applied = list_applied_names(conn)
    unknown, missing = sorted(applied - KNOWN_NAMES), sorted(KNOWN_NAMES - applied)
    if unknown:
        return f"the database has the schema of a newer version ({', '.join(unknown)})"
    return f"the database has the schema of an older version (without {', '.join(missing)})" if missing else ""
