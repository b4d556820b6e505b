"""Applying pending migrations to a database, after a backup of it."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from sqlite_utils import Database, Migrations

from portal.core import db
from portal.core.progress import Progress, no_progress, report_during_statements
from portal.migrations.applied import NewerDatabase
from portal.migrations.steps import migrations as all_migrations


def migrate(
    file: Path,
    *,
    keep_backups: int,
    progress: Progress = no_progress,
    migrations: Migrations = all_migrations,
) -> list[str]:
    """Apply all pending migrations to a database, after a backup of it (in `backups/` beside it).

    Processes that start at the same time wait for each other.

    Args:
        file: the database; an empty one gets the whole schema.
        keep_backups: how many of these backups are kept.
        progress: is told migrations, the backup being the first of them.
        migrations: those that there are; others are for tests.

    Returns:
        The names of the migrations applied; empty if the database was up to date.

    Raises:
        NewerDatabase: nothing has changed.
        KeyboardInterrupt: from `progress`; the migration that it was at is rolled back, those before it stay.
    """
    with _hold_migration_lock(file.with_suffix(".migrate.lock")):
        conn = db.connect(file)
        try:
            database = Database(conn)
            if unknown := list_unknown_migrations(database, migrations):
                raise NewerDatabase(f"{file} was written by a newer version of this program ({', '.join(unknown)})")
            steps = [each.name for each in migrations.pending(database)]
            if steps:
                _apply_migrations(database, file, migrations, steps, keep_backups, progress)
            return steps
        finally:
            conn.close()


def _apply_migrations(
    database: Database,
    file: Path,
    migrations: Migrations,
    steps: list[str],
    keep_backups: int,
    progress: Progress,
) -> None:
    is_backup_needed = bool(migrations.applied(database))
    done, total = 0, len(steps) + is_backup_needed
    with report_during_statements(database.conn, progress, lambda: (done, total)):
        if is_backup_needed:
            progress(done, total)
            _backup_database(database.conn, file, keep_backups)
            done += 1
        for following in [*steps[1:], None]:
            progress(done, total)
            migrations.apply(database, stop_before=following)
            done += 1


def list_unknown_migrations(database: Database, migrations: Migrations = all_migrations) -> list[str]:
    """Return the names of applied migrations that this program doesn't know."""
    known = {each.name for each in migrations.pending(Database(memory=True))}
    return [each.name for each in migrations.applied(database) if each.name not in known]


def _backup_database(conn: sqlite3.Connection, file: Path, keep_backups: int) -> None:
    folder = file.parent / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    # What a killed process left; whoever migrates holds the lock.
    for stale in folder.glob("before-migration-*.part*"):
        stale.unlink()
    target = folder / f"before-migration-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.db"
    partial_file = target.with_suffix(".part")
    try:
        conn.execute("VACUUM INTO ?", (str(partial_file),))
    except sqlite3.Error:
        partial_file.unlink(missing_ok=True)
        raise
    with partial_file.open("rb") as handle:
        os.fsync(handle.fileno())
    partial_file.rename(target)
    copies = sorted(folder.glob("before-migration-*.db"))
    for old in copies[: max(0, len(copies) - keep_backups)]:
        old.unlink()


@contextmanager
def _hold_migration_lock(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
