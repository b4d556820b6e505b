"""Looking for what takes seconds to find, beside the event loop."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from portal.core import db
from portal.smsc.storage.interface import StorageError, StorageUnavailable

log = logging.getLogger(__name__)

# Steps of SQLite's virtual machine: some milliseconds.
_STEPS_BETWEEN_CHECKS = 100_000

_Found = TypeVar("_Found")


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
        search = asyncio.get_running_loop().run_in_executor(self._executor, find, self._connection)
        search.add_done_callback(partial(self._report_result, resolve))

    def close(self) -> None:
        """End what is being looked for; nothing more is told."""
        self._is_closed = True
        self._executor.shutdown(cancel_futures=True)
        self._connection.close()

    def _report_result(
        self,
        resolve: Callable[[Sequence[_Found] | StorageError], None],
        search: asyncio.Future[Sequence[_Found]],
    ) -> None:
        if search.cancelled():
            return
        error = search.exception()
        if self._is_closed:
            return
        if error is None:
            resolve(search.result())
        else:
            log.error("the database can't be read: %s", error)
            resolve(StorageUnavailable(str(error)))
