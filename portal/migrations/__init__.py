"""The schema of the database, as numbered migrations: one file for each, with the name that databases store."""

from pathlib import Path

from portal.core.progress import Progress, no_progress
from portal.migrations.applied import NewerDatabase, has_all_migrations

__all__ = ["NewerDatabase", "migrate"]


def migrate(file: Path, *, keep_backups: int, progress: Progress = no_progress) -> list[str]:
    """Apply all pending migrations to a database, after a backup of it (in `backups/` beside it).

    Args:
        file: the database; it is created if it is missing.
        keep_backups: how many of these backups are kept.
        progress: is told migrations, the backup being the first of them.

    Returns:
        The names of the migrations applied; empty if the database was up to date.

    Raises:
        NewerDatabase: nothing has changed.
        KeyboardInterrupt: from `progress`; the migration that it was at is rolled back, those before it stay.
    """
    if has_all_migrations(file):
        return []
    # Imported here: most starts have nothing to migrate, and sqlite-utils takes an eighth of a second and 15 MB.
    from portal.migrations import runner

    return runner.migrate(file, keep_backups=keep_backups, progress=progress)
