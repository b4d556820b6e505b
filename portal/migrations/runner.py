"""Applying pending migrations to a database, after a backup of it."""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlite_utils import Database

from portal.core import db
from portal.migrations.steps import migrations


class NewerDatabase(Exception):
    """The database has migrations of a newer version of this program."""


def migrate(file: Path, *, keep_backups: int) -> list[str]:
    """Apply all pending migrations to a database, after a backup of it (in `backups/` beside it).

    Processes that start at the same time wait for each other.

    Args:
        file: the database; an empty one gets the whole schema.
        keep_backups: how many of these backups are kept.

    Returns:
        The names of the migrations applied; empty if the database was up to date.

    Raises:
        NewerDatabase: nothing has changed.
    """
    with _hold_migration_lock(file.with_suffix(".migrate.lock")):
        conn = db.connect(file)
        try:
            database = Database(conn)
            if unknown := list_unknown_migrations(database):
                raise NewerDatabase(f"{file} was written by a newer version of this program ({', '.join(unknown)})")
            steps = [each.name for each in migrations.pending(database)]
            if steps and migrations.applied(database):
                _backup_database(conn, file, keep_backups)
            if steps:
                migrations.apply(database)
            return steps
        finally:
            conn.close()


def list_unknown_migrations(database: Database) -> list[str]:
    """Return the names of applied migrations that this program doesn't know."""
    known = {each.name for each in migrations.pending(Database(memory=True))}
    return [each.name for each in migrations.applied(database) if each.name not in known]


def _backup_database(conn: sqlite3.Connection, file: Path, keep_backups: int) -> None:
    folder = file.parent / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    conn.execute("VACUUM INTO ?", (str(folder / f"before-migration-{stamp}.db"),))
    copies = sorted(folder.glob("before-migration-*.db"))
    for old in copies[: max(0, len(copies) - keep_backups)]:
        old.unlink()


@contextmanager
def _hold_migration_lock(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
