"""Copying a database page by page, as it is: damage is copied, too."""

import sqlite3
from contextlib import closing
from pathlib import Path

from portal.core.progress import Progress

_PAGES_A_STEP = 256


def copy_database(source: sqlite3.Connection, target: Path, progress: Progress) -> None:
    """Copy a database to a file, which is not fsynced.

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
