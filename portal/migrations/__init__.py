"""The schema of the database, as numbered migrations: which there are, which a database has, and applying the others.

Each is a file, or two, of the name that databases store; `steps.py` tells how one is added.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from portal.core import db
from portal.core.progress import Progress, no_progress

FOLDER = Path(__file__).parent
# They are listed once: a newer version's may take their place while this one runs.
KNOWN_NAMES = frozenset(each.stem for each in FOLDER.glob("m[0-9]*") if each.suffix in (".sql", ".py"))

COPIES_FOLDER_NAME = "backups"
COPY_PREFIX = "before-migration-"
"""The names of copies of the database from before migrations; `.part` until the migration is about to be committed."""


class NewerDatabase(Exception):
    """The database has migrations of a newer version of this program."""


class MigrationFailed(Exception):
    """Migrations could not be applied, and have changed nothing."""


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


def list_pending_names(conn: sqlite3.Connection, known: frozenset[str] = KNOWN_NAMES) -> list[str]:
    """The names of the migrations that a database lacks, in their order.

    Raises:
        NewerDatabase, sqlite3.Error
    """
    applied = list_applied_names(conn)
    if unknown := sorted(applied - known):
        (_, _, file), *_ = conn.execute("PRAGMA database_list")
        raise NewerDatabase(f"{file} was written by a newer version of this program ({', '.join(unknown)})")
    return sorted(known - applied)


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


def remove_partial_copies(data: Path) -> None:
    """Remove what migrations have left that were killed, and the empty files of older versions that had no room.

    To be called while nobody migrates.

    Raises:
        OSError
    """
    folder = data / COPIES_FOLDER_NAME
    empty = [each for each in folder.glob(f"{COPY_PREFIX}*.db") if not each.stat().st_size]
    for each in [*folder.glob(f"{COPY_PREFIX}*.part*"), *empty]:
        each.unlink()


def remove_old_copies(data: Path, *, keep: int) -> None:
    """Remove all copies but the newest, once a server is ready with the database as it is.

    Args:
        keep: how many stay.

    Raises:
        OSError
    """
    remove_partial_copies(data)
    copies = sorted((data / COPIES_FOLDER_NAME).glob(f"{COPY_PREFIX}*.db"))
    for old in copies[: max(0, len(copies) - keep)]:
        old.unlink()
