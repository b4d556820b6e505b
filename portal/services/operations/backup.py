"""Copies of the database, and putting one back."""

import fcntl
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from sqlite_utils import Database

from portal.core.db import FILE_NAME, connect
from portal.migrations import migrations, unknown_steps
from portal.services.common.errors import Refused

_LOCK_NAME = "running.lock"


class ServerRunning(Refused):
    sentence = "The server is running on %(data)s. Stop it first."


class NotABackup(Refused):
    sentence = "%(file)s can't be restored: %(reason)s."


class NoRoom(Refused):
    sentence = "Compacting needs %(needed)s MB beside the database; in %(data)s %(free)s MB are free."


class FileExists(Refused):
    sentence = "%(file)s is already there. Choose another name."


def in_use(data: Path) -> IO[str]:
    """Mark a data folder as in use by this process, until the returned file is closed or the process ends.

    Raises:
        ServerRunning: it is being restored at this moment.
    """
    return _lock(data, fcntl.LOCK_SH)


def _lock(data: Path, kind: int) -> IO[str]:
    handle = (data / _LOCK_NAME).open("w")
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise ServerRunning(data=data) from None
    return handle


def backup(conn: sqlite3.Connection, target: Path) -> None:
    """Write a consistent copy, while everything goes on. The secret key is not in it: keep `secret.key` apart.

    Raises:
        FileExists: nothing is overwritten.
        OSError, sqlite3.Error: it couldn't be written whole; nothing is left at `target`.
    """
    if target.exists():
        raise FileExists(file=target)
    beside = target.with_name(f".{target.name}.part")
    beside.unlink(missing_ok=True)
    try:
        # Not the backup API: it begins again whenever somebody writes in between, so under load it may never end.
        # VACUUM INTO reads one snapshot, and its copy is as small as can be.
        beside.touch(mode=0o600)
        conn.execute("VACUUM INTO ?", (str(beside),))
        _fsync(beside)
        beside.rename(target)
    finally:
        beside.unlink(missing_ok=True)


def restore(data: Path, source: Path) -> Path | None:
    """Put a copy back in the place of the database.

    Returns:
        Where the database that it replaces was moved to; None where there was none.

    Raises:
        ServerRunning, NotABackup, OSError: nothing has changed.
    """
    _examine(source)
    database, beside = data / FILE_NAME, data / f".{FILE_NAME}.restoring"
    with _lock(data, fcntl.LOCK_EX):
        try:
            beside.touch(mode=0o600)
            shutil.copyfile(source, beside)
            _fsync(beside)
            kept = _put_aside(database) if database.exists() else None
            beside.rename(database)
        finally:
            beside.unlink(missing_ok=True)
    return kept


def _put_aside(database: Path) -> Path:
    # Brings what is in the write-ahead log into the file, so that the file alone is the old database.
    connect(database).close()
    folder = database.parent / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    kept = folder / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.db"
    database.rename(kept)
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    return kept


def _examine(source: Path) -> None:
    if not source.is_file():
        raise NotABackup(file=source, reason="there is no such file")
    conn = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)
    try:
        result = conn.execute("PRAGMA integrity_check").fetchone()[0]
        taken, unknown = migrations.applied(Database(conn)), unknown_steps(Database(conn))
    except sqlite3.DatabaseError as error:
        raise NotABackup(file=source, reason=str(error)) from None
    finally:
        conn.close()
    if result != "ok":
        raise NotABackup(file=source, reason=result)
    if not taken:
        raise NotABackup(file=source, reason="it isn't a database of this program")
    if unknown:
        raise NotABackup(file=source, reason="a newer version of this program wrote it")


def compact(data: Path) -> tuple[int, int]:
    """Give back the space of what was deleted: the database is written anew, as small as can be.

    Returns:
        The size of its file before and after (octets).

    Raises:
        ServerRunning, NoRoom: nothing has changed.
        sqlite3.Error: nothing has changed; the database was in use for a long time, or the disk is full after all.
    """
    database = data / FILE_NAME
    with _lock(data, fcntl.LOCK_EX), closing(connect(database)) as conn:
        # Brings what is in the write-ahead log into the file.
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        before = database.stat().st_size
        # A copy beside it, and the same again in the write-ahead log.
        needed, free = 2 * before, shutil.disk_usage(data).free
        if free < needed:
            raise NoRoom(needed=-(-needed >> 20), data=data, free=free >> 20)
        # Otherwise the copy would be in memory, and then in the system's folder.
        conn.execute("PRAGMA temp_store = FILE")
        os.environ["SQLITE_TMPDIR"] = str(data.absolute())
        conn.execute("VACUUM")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return before, database.stat().st_size


def _fsync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
