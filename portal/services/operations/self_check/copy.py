"""A copy of the database, to be looked at for as long as it takes."""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from portal.core.db import FILE_NAME
from portal.core.i18n import N_
from portal.services.common.errors import Refused

_COPY_NAME = f".{FILE_NAME}.checking"
_LOCK_NAME = "check.lock"
# For what the server writes while the copy is made.
_ROOM_LEFT = 64 << 20
_CACHE_KB = 16_384


class NoRoom(Refused):
    sentence = N_("The check needs %(needed)s MB for a copy of the database; in %(data)s %(free)s MB are free.")


class CopyFailed(Refused):
    sentence = N_("The check could not write its copy of the database to %(data)s: %(reason)s.")


@contextmanager
def copied(conn: sqlite3.Connection, data: Path) -> Iterator[sqlite3.Connection]:
    """A copy of the database as it is now, to be read while everything goes on.

    A look that lasts keeps the server from emptying its write-ahead log, which would grow all the while. The copy is
    gone when this ends, however it ends; that of a process which was killed while it wrote goes with the next.

    Args:
        data: the data folder; the copy is made in it.

    Raises:
        NoRoom, CopyFailed
        sqlite3.DatabaseError: the database can't be read.
    """
    beside = data / _COPY_NAME
    with (data / _LOCK_NAME).open("w") as lock:
        # Another check's copy is there until that one has opened it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        beside.unlink(missing_ok=True)
        _require_room(conn, data)
        try:
            _copy(conn, beside)
            # Immutable: it needs no lock and no files beside it, also not the file's name any more.
            copy = sqlite3.connect(f"{beside.absolute().as_uri()}?immutable=1", uri=True, isolation_level=None)
        finally:
            beside.unlink(missing_ok=True)
    with closing(copy):
        copy.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        yield copy


def sweep(data: Path) -> None:
    """Remove the copy of a check that was killed, unless one is being made at this moment."""
    with (data / _LOCK_NAME).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        (data / _COPY_NAME).unlink(missing_ok=True)


def _require_room(conn: sqlite3.Connection, data: Path) -> None:
    (pages,), (size,) = (conn.execute(f"PRAGMA {each}").fetchone() for each in ("page_count", "page_size"))
    needed, free = pages * size + _ROOM_LEFT, shutil.disk_usage(data).free
    if free < needed:
        raise NoRoom(needed=-(-needed >> 20), data=str(data), free=free >> 20)


def _copy(conn: sqlite3.Connection, target: Path) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(target, isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = OFF")
        copy.execute("PRAGMA synchronous = OFF")
        try:
            # All pages in one step: SQLite begins anew where somebody writes between two. Not VACUUM INTO, which makes
            # the indexes anew and so hides what is wrong with them.
            conn.backup(copy, pages=-1)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
                raise
            raise CopyFailed(data=str(target.parent), reason=str(error)) from None
