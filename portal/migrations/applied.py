"""Which migrations a database has, without sqlite-utils."""

import pkgutil
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from portal.core import db


class NewerDatabase(Exception):
    """The database has migrations of a newer version of this program."""


def has_all_migrations(file: Path) -> bool:
    """Whether a database has all the migrations that this program knows, and no others.

    Args:
        file: the database; it isn't created.

    Returns:
        False also where it is missing or can't be read: `runner.migrate` says why.
    """
    if not file.exists():
        return False
    try:
        with closing(db.connect(file)) as conn:
            rows = conn.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = 'portal'")
            return {row["name"] for row in rows} == list_known_names()
    except sqlite3.Error:
        return False


def list_known_names() -> set[str]:
    """The names of all migrations: each has a file of its name."""
    names = (each.name for each in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return {name for name in names if re.match(r"m[0-9]{4}_", name)}
