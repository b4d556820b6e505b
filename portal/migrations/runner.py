"""Bringing a database up to date: the steps that it has not taken yet, after a copy of it as it was."""

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
    """A newer version of this program has changed the database in ways that this one doesn't know."""


def migrate(file: Path, *, keep_backups: int) -> list[str]:
    """Bring a database up to date, after a copy of it as it was (`backups/` beside it).

    Processes that start at the same time wait for each other.

    Args:
        file: the database; an empty one gets the whole schema.
        keep_backups: how many of the copies stay.

    Returns:
        The names of the steps taken, none when it was up to date.

    Raises:
        NewerDatabase: nothing has changed.
    """
    with _locked(file.with_suffix(".migrate.lock")):
        conn = db.connect(file)
        try:
            database = Database(conn)
            if unknown := unknown_steps(database):
                raise NewerDatabase(f"{file} was written by a newer version of this program ({', '.join(unknown)})")
            steps = [each.name for each in migrations.pending(database)]
            if steps and migrations.applied(database):
                _copy_before(conn, file, keep_backups)
            if steps:
                migrations.apply(database)
            return steps
        finally:
            conn.close()


def unknown_steps(database: Database) -> list[str]:
    """The steps that a database has taken and this program doesn't have."""
    known = {each.name for each in migrations.pending(Database(memory=True))}
    return [each.name for each in migrations.applied(database) if each.name not in known]


def _copy_before(conn: sqlite3.Connection, file: Path, keep: int) -> None:
    folder = file.parent / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    conn.execute("VACUUM INTO ?", (str(folder / f"before-migration-{stamp}.db"),))
    copies = sorted(folder.glob("before-migration-*.db"))
    for old in copies[: max(0, len(copies) - keep)]:
        old.unlink()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
