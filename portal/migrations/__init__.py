"""The schema of the database, as numbered migrations: which there are, which a database has, and applying the others,
all or none, after a copy.

Each is a file, or two, of the name that databases store; `steps.py` tells how one is added.
"""

import fcntl
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from portal.core import db, paths
from portal.core.progress import Progress, no_progress, report_during_statements

_log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
# They are listed once: a newer version's may take their place while this one runs.
KNOWN_NAMES = frozenset(each.stem for each in FOLDER.glob("m[0-9]*") if each.suffix in (".sql", ".py"))

_COPIES_FOLDER = "backups"
# `.part` until the migration is about to be committed.
_COPY_PREFIX = "before-migration-"
# What the steps need at most, in sizes of the database. The write-ahead log gets all of it anew, and zeros over what is
# dropped (`secure_delete`); afterwards the file grows by what is new.
_GROWTH_FACTOR = 3
# For files that grow in blocks, and for what others write on the same disk meanwhile.
_RESERVED_OCTETS = 16 << 20


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


def migrate(file: Path, *, progress: Progress = no_progress) -> list[str]:
    """Apply all pending migrations to a database, or none, after a copy of it (in `backups/` beside it).

    Processes that start at the same time wait for each other.

    Args:
        file: the database; it is created if it is missing. An empty one gets the whole schema, without a word in the
            log.
        progress: is told migrations, the copy being the first of them.

    Returns:
        The names of the migrations applied; empty if the database was up to date.

    Raises:
        NewerDatabase, MigrationFailed, sqlite3.Error: nothing has changed.
        KeyboardInterrupt: from `progress`; nothing has changed.
    """
    if not list_pending_migrations(file):
        return []
    with paths.open_lock_file(file.with_suffix(".migrate.lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with closing(db.connect(file)) as conn:
            run = _Run(conn, file, progress)
            if run.names and len(run.names) < len(KNOWN_NAMES):
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
        run = _Run(conn, file, progress)
        with run.name_failures(), db.sort_in_files(conn, file.parent):
            run.apply_steps()


def _remove_partial_copies(data: Path) -> None:
    """Remove what migrations have left that were killed, and the empty files of older versions that had no room.

    To be called while nobody migrates.

    Raises:
        OSError
    """
    folder = data / _COPIES_FOLDER
    empty = [each for each in folder.glob(f"{_COPY_PREFIX}*.db") if not each.stat().st_size]
    for each in [*folder.glob(f"{_COPY_PREFIX}*.part*"), *empty]:
        each.unlink()


def remove_old_copies(data: Path, *, keep: int) -> None:
    """Remove all copies but the newest, once a server is ready with the database as it is.

    Args:
        keep: how many stay.

    Raises:
        OSError
    """
    _remove_partial_copies(data)
    copies = sorted((data / _COPIES_FOLDER).glob(f"{_COPY_PREFIX}*.db"))
    for old in copies[: max(0, len(copies) - keep)]:
        old.unlink()


class _Run:
    """One run of migrations.

    Raises: NewerDatabase
    """

    def __init__(self, conn: sqlite3.Connection, file: Path, progress: Progress) -> None:
        # Imported here: most starts have nothing to migrate, and sqlite-utils takes an eighth of a second and 15 MB.
        from sqlite_utils import Database

        from portal.migrations import steps

        self._conn = conn
        self._database = Database(conn)
        self._migrations = steps.migrations
        self._file = file
        self._progress = progress
        self.names = list_pending_names(conn)
        self._at = ""
        self._done, self._total = 0, len(self.names)

    def migrate_after_copy(self) -> None:
        """Copy the database, then apply all steps in one transaction.

        One transaction for all of them: whatever happens to a later step, the version before can go on.

        Raises: as `migrate`.
        """
        begun = time.monotonic()
        self._total += 1
        copy = self._file.parent / _COPIES_FOLDER / f"{_COPY_PREFIX}{datetime.now(UTC):%Y%m%dT%H%M%S%f}.db"
        self._require_room(copy.parent)
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
                    db.fsync(copy.parent)
                    self._at = "the commit"
        except BaseException:
            with suppress(sqlite3.Error, OSError):
                # Not after a commit, as where a signal came with it.
                if list_pending_names(self._conn):
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
                # With a copy: whoever makes a new database, or a copy to look at, reads no word.
                if self._total > len(self.names):
                    _log.info("migration %s: %.1f s", name, time.monotonic() - begun)

    def _write_copy(self, target: Path) -> None:
        self._at = f"the copy {target}"
        begun = time.monotonic()
        target.parent.mkdir(mode=0o700, exist_ok=True)
        _remove_partial_copies(self._file.parent)
        with report_during_statements(self._conn, self._progress, lambda: (self._done, self._total)):
            self._progress(self._done, self._total)
            target.touch(mode=0o600)
            self._conn.execute("VACUUM INTO ?", (str(target),))
        db.fsync(target)
        self._done += 1
        _log.info("copy of the database: %s MB, %.1f s", _round_up_mb(target.stat().st_size), time.monotonic() - begun)

    def _require_room(self, backups: Path) -> None:
        """Raises: MigrationFailed"""
        size, data = db.measure_used_size(self._conn), self._file.parent
        needed = {data: _GROWTH_FACTOR * size + _RESERVED_OCTETS}
        if backups.exists() and backups.stat().st_dev != data.stat().st_dev:
            needed[backups] = size + _RESERVED_OCTETS
        else:
            needed[data] += size
        names = f"{len(self.names)} steps, {self.names[0]} to {self.names[-1]}" if self.names[1:] else self.names[0]
        _log.info("migrating %s: %s", self._file, names)
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
            reason = str(error) if isinstance(error, sqlite3.Error | OSError) else f"{type(error).__name__}: {error}"
            raise MigrationFailed(
                f"Migrating {self._file} failed at {self._at}: {reason}. In {self._file.parent}"
                f" {free >> 20} MB are free. The database is as it was: mend the cause and start"
                " again, or go on with the version before."
            ) from error


def _round_up_mb(octets: int) -> int:
    return -(-octets >> 20)
