"""Backup, restore and compaction of the database."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from errno import ENOENT
from pathlib import Path

from portal import migrations
from portal.core import db
from portal.core.crypto import FILE_NAME as KEY_FILE_NAME
from portal.core.db import FILE_NAME, connect
from portal.core.progress import Progress, no_progress, report_during_statements
from portal.services.common.errors import Refused
from portal.services.operations import database_key, folder_locks

_HEADER_OCTETS = 100
_SQLITE_MAGIC = b"SQLite format 3\0"
_PAGES_A_STEP = 256


class InvalidBackup(Refused):
    sentence = "%(file)s can't be restored: %(reason)s."


class BackupOfAnotherKey(InvalidBackup):
    sentence = (
        "%(file)s can't be restored: it was made under another key than %(key)s. Put the secret.key that belongs to it"
        " in that one's place, and restore it again%(keep)s. If that key is lost for good, move %(key)s away, restore"
        " the backup, put the new key in its place, and begin with an operator: user link EMAIL --new-key"
    )


class NoDiskSpaceToCompact(Refused):
    sentence = "Compacting needs %(needed)s MB beside the database; in %(data)s %(free)s MB are free."


class BackupFileExists(Refused):
    sentence = "%(file)s is already there, or being written. Choose another name."


def create_backup(conn: sqlite3.Connection, target: Path, progress: Progress = no_progress) -> None:
    """Write a consistent copy of the database while it is in use. It does not contain the key: keep `secret.key` apart.

    Args:
        progress: is told octets.

    Raises:
        BackupFileExists: nothing is overwritten.
        OSError, sqlite3.Error: the copy couldn't be completed; nothing is left at `target`.
        KeyboardInterrupt: from `progress`; nothing is left at `target`.
    """
    if not target.parent.is_dir():
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(target.parent))
    with _open_partial_file(target) as partial_file:
        # Not the backup API: it starts again whenever another process writes, so under load it may never end.
        # VACUUM INTO reads one snapshot, and its copy is as small as possible.
        size = db.measure_used_size(conn)
        with report_during_statements(conn, progress, lambda: (partial_file.stat().st_size, size)):
            conn.execute("VACUUM INTO ?", (str(partial_file),))


@contextmanager
def _open_partial_file(target: Path) -> Iterator[Path]:
    """An empty file for the block to write, which then gets the name `target`; after an exception it is gone.

    Raises:
        BackupFileExists: `target` is there, or another process is writing it. What a killed one left is taken over.
    """
    partial_file = target.with_name(f".{target.name}.part")
    with os.fdopen(os.open(partial_file, os.O_RDWR | os.O_CREAT, 0o600), "rb+") as handle:
        # Whoever had the lock before has given this file the name of the target by now, or has removed it.
        if (
            not folder_locks.try_lock(handle)
            or not partial_file.exists()
            or not os.path.samestat(os.fstat(handle.fileno()), partial_file.stat())
        ):
            raise BackupFileExists(file=target)
        try:
            if target.exists():
                raise BackupFileExists(file=target)
            handle.truncate(0)
            partial_file.with_name(f"{partial_file.name}-journal").unlink(missing_ok=True)
            yield partial_file
            os.fsync(handle)
        except BaseException:
            partial_file.unlink()
            raise
        partial_file.rename(target)


def restore_backup(data: Path, source: Path, progress: Progress = no_progress) -> Path | None:
    """Replace the database by a backup. One of an older version is not migrated by this.

    Args:
        progress: is told pages, once the backup is proven to be whole; how long that takes nobody knows.

    Returns:
        Where the replaced database was moved to; None where there was none.

    Raises:
        DataFolderInUse, InvalidBackup, KeyFileError, OSError: nothing has changed.
        KeyboardInterrupt: from `progress`; nothing has changed.
    """
    _check_backup(source, data, progress)
    # Where it is a link to another disk, it stays one.
    database = (data / FILE_NAME).resolve()
    temporary_file = database.with_name(f".{database.name}.restoring")
    with folder_locks.acquire_data_folder_lock(data, alone=True):
        try:
            temporary_file.touch(mode=0o600)
            with closing(_open_read_only(source)) as source_conn:
                copy_database(source_conn, temporary_file, progress)
            db.fsync(temporary_file)
            old_database = _keep_old_database(database, data / "backups") if database.exists() else None
            try:
                # In one step: at no moment is there no database, whatever happens to this process.
                temporary_file.rename(database)
            except OSError:
                if old_database:
                    old_database.unlink()
                raise
        finally:
            temporary_file.unlink(missing_ok=True)
    return old_database


def copy_database(source: sqlite3.Connection, target: Path, progress: Progress) -> None:
    """Copy a database to a file page by page, as it is, damage included. The file is not fsynced.

    Args:
        source: in a transaction, if others write to it: otherwise SQLite starts again with each write between two
            steps.
        target: an empty file, with the mode that it is to have.
        progress: is told pages.

    Raises:
        sqlite3.Error: `source` can't be read, or the disk is full; the caller removes `target`.
        KeyboardInterrupt: from `progress`; the caller removes `target`.
    """

    def report(status: int, remaining: int, total: int) -> None:
        progress(total - remaining, total)

    with closing(sqlite3.connect(target, isolation_level=None)) as copy:
        # A copy that isn't complete is removed, so nothing has to be taken back in it.
        copy.execute("PRAGMA journal_mode = OFF")
        copy.execute("PRAGMA synchronous = OFF")
        source.backup(copy, pages=_PAGES_A_STEP, progress=report)


def _open_read_only(file: Path) -> sqlite3.Connection:
    # SQLite makes files beside a database that it reads, unless it is told that nobody writes it; a backup may be in a
    # folder that can't be written. With a log beside it, the database is whole only together with that.
    has_log = any(file.with_name(f"{file.name}{each}").exists() for each in ("-wal", "-journal"))
    return sqlite3.connect(f"{file.absolute().as_uri()}?{'mode=ro' if has_log else 'immutable=1'}", uri=True)


def _keep_old_database(database: Path, folder: Path) -> Path:
    """Make a hard link to the old database in a folder, by which it stays; returns its path.

    Raises:
        OSError: the folder can't be made, or there is neither a link nor a copy; nothing is left.
    """
    write_ahead_log = database.with_name(f"{database.name}-wal")
    try:
        # This moves the content of the write-ahead log into the file, so that the file alone is the old database.
        connect(database).close()
        is_damaged = False
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        # It is what the backup is to replace: it is kept as it is, with its log.
        is_damaged = True
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.db"
    try:
        os.link(database, target)
    except OSError:
        # Not every file system has hard links.
        with _open_partial_file(target) as partial_file:
            shutil.copyfile(database, partial_file)
    if is_damaged and write_ahead_log.exists():
        write_ahead_log.rename(f"{target}-wal")
    write_ahead_log.unlink(missing_ok=True)
    database.with_name(f"{database.name}-shm").unlink(missing_ok=True)
    return target


def _check_backup(source: Path, data: Path, progress: Progress) -> None:
    """Raises: InvalidBackup, KeyFileError"""
    if reason := _find_damage(source):
        raise InvalidBackup(file=source, reason=reason)
    try:
        with closing(_open_read_only(source)) as conn:
            if not migrations.list_applied_names(conn):
                raise InvalidBackup(file=source, reason="it isn't a database of this program")
            migrations.list_pending_names(conn)
            # This takes a moment, while the whole file takes minutes.
            if not database_key.is_key_of_database(conn, data):
                keep = "; keep the one that is there, which belongs to the database that is there"
                is_kept = (data / FILE_NAME).exists()
                raise BackupOfAnotherKey(file=source, key=data / KEY_FILE_NAME, keep=keep if is_kept else "")
            with report_during_statements(conn, progress, lambda: (0, 0)):
                result = conn.execute("PRAGMA integrity_check").fetchone()[0]
    except migrations.NewerDatabase:
        raise InvalidBackup(file=source, reason="a newer version of this program wrote it") from None
    except sqlite3.DatabaseError as error:
        raise InvalidBackup(file=source, reason=f"it is damaged ({error})") from None
    if result != "ok":
        raise InvalidBackup(file=source, reason=f"it is damaged ({result})")


def _find_damage(source: Path) -> str:
    """Why a file can't be a whole SQLite database, as far as its size and header tell; empty where it may be one."""
    try:
        if not source.exists():
            return "there is no such file"
        if source.is_dir():
            return "it is a folder"
        if not source.is_file():
            return "it is no file"
        with source.open("rb") as file:
            header, size = file.read(_HEADER_OCTETS), source.stat().st_size
    except OSError as error:
        return f"it can't be read ({error.strerror})"
    if not header:
        return "it is empty"
    if not header.startswith(_SQLITE_MAGIC):
        return "it is no SQLite database"
    if len(header) < _HEADER_OCTETS:
        return f"it is cut off after {size} octets"
    page_size, pages, changes, valid_for = (
        int.from_bytes(header[start:end], "big") for start, end in ((16, 18), (28, 32), (24, 28), (92, 96))
    )
    # A page size of 65,536 is written as 1. The number of pages counts only where these two are the same.
    whole_size = (1 << 16 if page_size == 1 else page_size) * pages
    if changes == valid_for and size < whole_size:
        return f"it is cut off after {size} of {whole_size} octets"
    return ""


def compact_database(data: Path, progress: Progress = no_progress) -> tuple[int, int]:
    """Free the space of deleted rows: the database is rewritten, as small as possible (VACUUM).

    Args:
        progress: is told octets, by what is free on the disk: SQLite's temporary file has no name.

    Returns:
        The size of its file before and after (octets).

    Raises:
        DataFolderInUse, NoDiskSpaceToCompact: nothing has changed.
        sqlite3.Error: nothing has changed; the database was locked for too long, or the disk is full after all.
        KeyboardInterrupt: from `progress`; nothing has changed.
    """
    database = data / FILE_NAME
    with folder_locks.acquire_data_folder_lock(data, alone=True), closing(connect(database)) as conn:
        # This moves the content of the write-ahead log into the file.
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        size_before = database.stat().st_size
        # VACUUM writes a temporary copy, and then the same again into the write-ahead log.
        needed, free = 2 * size_before, shutil.disk_usage(data).free
        if free < needed:
            raise NoDiskSpaceToCompact(needed=-(-needed >> 20), data=data, free=free >> 20)
        used = db.measure_used_size(conn)
        with (
            db.sort_in_files(conn, data),
            report_during_statements(conn, progress, lambda: (max(0, free - shutil.disk_usage(data).free), used)),
        ):
            conn.execute("VACUUM")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return size_before, database.stat().st_size
