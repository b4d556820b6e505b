"""Applying pending migrations to a database: all or none, after a copy of it."""

import fcntl
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from sqlite_utils import Database, Migrations

from portal.core import db, paths
from portal.core.progress import Progress, no_progress, report_during_statements
from portal.migrations import (
    COPIES_FOLDER_NAME,
    COPY_PREFIX,
    MigrationFailed,
    list_pending_names,
    remove_partial_copies,
)
from portal.migrations.steps import migrations as all_migrations

_log = logging.getLogger(__name__)

# What the steps need at most, in sizes of the database. The write-ahead log gets all of it anew, and zeros over what is
# dropped (`secure_delete`); afterwards the file grows by what is new.
_GROWTH_FACTOR = 3
# For files that grow in blocks, and for what others write on the same disk meanwhile.
_RESERVED_OCTETS = 16 << 20


def migrate(
    file: Path,
    *,
    progress: Progress = no_progress,
    migrations: Migrations = all_migrations,
) -> list[str]:
    """Apply all pending migrations to a database, or none, after a copy of it (in `backups/` beside it).

    Processes that start at the same time wait for each other.

    Args:
        file: the database; an empty one gets the whole schema, without a word in the log.
        progress: is told migrations, the copy being the first of them.
        migrations: those that there are; others are for tests.

    Returns:
        The names of the migrations applied; empty if the database was up to date.

    Raises:
        NewerDatabase, MigrationFailed, sqlite3.Error: nothing has changed.
        KeyboardInterrupt: from `progress`; nothing has changed.
    """
    with _hold_migration_lock(file.with_suffix(".migrate.lock")), closing(db.connect(file)) as conn:
        known = frozenset(each.name for each in migrations.pending(Database(memory=True)))
        run = _Run(conn, file, migrations, list_pending_names(conn, known), progress)
        if run.names and len(run.names) < len(known):
            run.migrate_after_copy()
        elif run.names:
            with db.write_transaction(conn):
                run.apply_steps()
        return run.names


def migrate_copy(file: Path, *, progress: Progress) -> None:
    """Apply all pending migrations to a copy that nobody else uses, and that is removed where this fails.

    Raises:
        MigrationFailed, KeyboardInterrupt: the copy is of no use then.
    """
    with closing(db.connect(file)) as conn:
        conn.execute("PRAGMA journal_mode = OFF")
        conn.execute("PRAGMA synchronous = OFF")
        run = _Run(conn, file, all_migrations, list_pending_names(conn), progress)
        with run.name_failures(), db.sort_in_files(conn, file.parent):
            run.apply_steps()


class _Run:
    """One run of migrations."""

    def __init__(
        self, conn: sqlite3.Connection, file: Path, migrations: Migrations, names: list[str], progress: Progress
    ) -> None:
        self._database = Database(conn)
        self._conn = conn
        self._file = file
        self._migrations = migrations
        self._progress = progress
        self.names = names
        self._at = ""
        self._done, self._total = 0, len(self.names)
        self._is_logged = False

    def migrate_after_copy(self) -> None:
        """Copy the database, then apply all steps in one transaction.

        One transaction for all of them: whatever happens to a later step, the version before can go on.

        Raises: as `migrate`.
        """
        begun = time.monotonic()
        self._total += 1
        self._is_logged = True
        self._require_room()
        folder = self._file.parent / COPIES_FOLDER_NAME
        copy = folder / f"{COPY_PREFIX}{datetime.now(UTC):%Y%m%dT%H%M%S%f}.db"
        partial_copy = copy.with_suffix(".part")
        try:
            with self.name_failures():
                self._write_copy(partial_copy)
                with db.sort_in_files(self._conn, self._file.parent), db.write_transaction(self._conn):
                    self.apply_steps()
                    # Before the commit: after it, a process that is killed would have left no copy by this name.
                    # Before that, runs that are killed again and again would leave one each.
                    self._at = "the name of the copy"
                    partial_copy.rename(copy)
                    db.fsync(folder)
                    self._at = "the commit"
        except BaseException:
            with suppress(sqlite3.Error, OSError):
                # Not after a commit, as where a signal came with it.
                if self._migrations.pending(self._database):
                    for each in (partial_copy, copy):
                        each.unlink(missing_ok=True)
            raise
        try:
            self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            # It is committed, and in the write-ahead log: whoever comes next moves it into the file.
            _log.warning("the write-ahead log can't be moved into the file yet: %s", error)
        _log.info("migrated %s in %.1f s; as it was before: %s", self._file, time.monotonic() - begun, copy)

    def apply_steps(self) -> None:
        """Apply all steps, each within the transaction that there is.

        Raises:
            KeyboardInterrupt: from the progress.
            Exception: whatever a step raises.
        """
        with report_during_statements(self._conn, self._progress, lambda: (self._done, self._total)):
            for name, following in zip(self.names, [*self.names[1:], None], strict=True):
                self._progress(self._done, self._total)
                self._at = f"migration {name}"
                begun = time.monotonic()
                self._migrations.apply(self._database, stop_before=following)
                self._done += 1
                if self._is_logged:
                    _log.info("migration %s: %.1f s", name, time.monotonic() - begun)

    def _write_copy(self, target: Path) -> None:
        self._at = f"the copy {target}"
        begun = time.monotonic()
        target.parent.mkdir(mode=0o700, exist_ok=True)
        remove_partial_copies(self._file.parent)
        with report_during_statements(self._conn, self._progress, lambda: (self._done, self._total)):
            self._progress(self._done, self._total)
            target.touch(mode=0o600)
            self._conn.execute("VACUUM INTO ?", (str(target),))
        db.fsync(target)
        self._done += 1
        _log.info("copy of the database: %s MB, %.1f s", _round_up_mb(target.stat().st_size), time.monotonic() - begun)

    def _require_room(self) -> None:
        """Raises: MigrationFailed"""
        size = db.measure_used_size(self._conn)
        data, backups = self._file.parent, self._file.parent / COPIES_FOLDER_NAME
        needed = {data: _GROWTH_FACTOR * size + _RESERVED_OCTETS}
        if backups.exists() and backups.stat().st_dev != data.stat().st_dev:
            needed[backups] = size + _RESERVED_OCTETS
        else:
            needed[data] += size
        _log.info("migrating %s: %s", self._file, _format_names(self.names))
        for folder, octets in needed.items():
            free = shutil.disk_usage(folder).free
            text = f"up to {_round_up_mb(octets)} MB in {folder}, where {free >> 20} MB are free"
            if free < octets:
                raise MigrationFailed(
                    f"Migrating {self._file} needs {text}. Nothing has changed. Make room, and start again."
                )
            _log.info("room for a copy and the steps: %s", text)

    @contextmanager
    def name_failures(self) -> Iterator[None]:
        """Raises: MigrationFailed, in place of an exception but KeyboardInterrupt and the like; it says where."""
        try:
            yield
        except Exception as error:
            free = shutil.disk_usage(self._file.parent).free
            raise MigrationFailed(
                f"Migrating {self._file} failed at {self._at}: {_describe_error(error)}. In {self._file.parent}"
                f" {free >> 20} MB are free. The database is as it was: mend the cause and start"
                " again, or go on with the version before."
            ) from error


def _describe_error(error: Exception) -> str:
    return str(error) if isinstance(error, sqlite3.Error | OSError) else f"{type(error).__name__}: {error}"


def _format_names(names: Sequence[str]) -> str:
    return f"{len(names)} steps, {names[0]} to {names[-1]}" if len(names) > 1 else names[0]


def _round_up_mb(octets: int) -> int:
    return -(-octets >> 20)


@contextmanager
def _hold_migration_lock(file: Path) -> Iterator[None]:
    with paths.open_lock_file(file) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
