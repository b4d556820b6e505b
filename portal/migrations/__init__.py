"""The schema of the database, as numbered migrations: one file for each, with the name that databases store."""

from pathlib import Path

from portal.core.progress import Progress, no_progress
from portal.migrations.applied import (
    KNOWN_NAMES,
    MigrationFailed,
    NewerDatabase,
    describe_schema_difference,
    list_applied_names,
    list_pending_migrations,
    list_pending_names,
)
from portal.migrations.copies import remove_old_copies

__all__ = [
    "KNOWN_NAMES",
    "MigrationFailed",
    "NewerDatabase",
    "describe_schema_difference",
    "list_applied_names",
    "list_pending_migrations",
    "list_pending_names",
    "migrate",
    "migrate_copy",
    "remove_old_copies",
]


def migrate(file: Path, *, progress: Progress = no_progress) -> list[str]:
    """Apply all pending migrations to a database, or none, after a copy of it (in `backups/` beside it).

    Args:
        file: the database; it is created if it is missing.
        progress: is told migrations, the copy being the first of them.

    Returns:
        The names of the migrations applied; empty if the database was up to date.

    Raises:
        NewerDatabase, MigrationFailed, sqlite3.Error: nothing has changed.
        KeyboardInterrupt: from `progress`; nothing has changed.
    """
    if not list_pending_migrations(file):
        return []
    # Imported here: most starts have nothing to migrate, and sqlite-utils takes an eighth of a second and 15 MB.
    from portal.migrations import runner

    return runner.migrate(file, progress=progress)


def migrate_copy(file: Path, *, progress: Progress) -> None:
    """Apply all pending migrations to a copy that nobody else uses, and that is removed where this fails.

    Raises: as `migrate`; the copy is of no use then.
    """
    # Imported here as in `migrate`.
    from portal.migrations import runner

    runner.migrate_copy(file, progress=progress)
