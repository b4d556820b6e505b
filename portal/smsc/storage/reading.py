"""Reading from SQLite: what goes wrong on the event loop, and looking beside it for what takes seconds to find."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from portal.core import db
from portal.smsc.storage.interface import StorageError, StorageUnavailable

log = logging.getLogger(__name__)

# Steps of SQLite's virtual machine: some milliseconds.
_STEPS_BETWEEN_CHECKS = 100_000

_Found = TypeVar("_Found")


@contextmanager
def handle_read_errors(tell: Callable[[StorageUnavailable], object] | None = None) -> Iterator[None]:
    """Log errors of SQLite inside, and leave the block; where somebody waits for what is read, `tell` them of it."""
    try:
        yield
    except sqlite3.Error as error:
        log.error("the database can't be read: %s", error)
        if tell:
            tell(StorageUnavailable(str(error)))


class DatabaseSearcher:
    """A thread and a connection of their own: one search after the other. To be made, used and closed on the event
    loop.
    """

    def __init__(self, database: Path) -> None:
        self._connection = db.connect(database)
        self._executor = ThreadPoolExecutor(1, "searcher")
        self._is_closed = False
        # Not `interrupt`, which a search that is just beginning would not notice.
        self._connection.set_progress_handler(lambda: self._is_closed, _STEPS_BETWEEN_CHECKS)

    def search(
        self,
        resolve: Callable[[Sequence[_Found] | StorageError], None],
        find: Callable[[sqlite3.Connection], Sequence[_Found]],
    ) -> None:
        """Give `resolve` what `find` finds with a connection, or a StorageError."""

        def report_result(search: asyncio.Future[Sequence[_Found]]) -> None:
            # Also where nobody is told: asyncio logs an error that nobody has asked for.
            error = None if search.cancelled() else search.exception()
            if self._is_closed:
                return
            if error is None:
                resolve(search.result())
            else:
                log.error("the database can't be read: %s", error)
                resolve(StorageUnavailable(str(error)))

        search = asyncio.get_running_loop().run_in_executor(self._executor, find, self._connection)
        search.add_done_callback(report_result)

    def close(self) -> None:
        """End what is being looked for; nothing more is told."""
        self._is_closed = True
        self._executor.shutdown(cancel_futures=True)
        self._connection.close()
