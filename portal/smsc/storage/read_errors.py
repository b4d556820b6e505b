"""What the event loop reads from SQLite, and can't."""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from portal.smsc.storage.interface import StorageUnavailable

log = logging.getLogger(__name__)


@contextmanager
def handle_read_errors(tell: Callable[[StorageUnavailable], object] | None = None) -> Iterator[None]:
    """Log errors of SQLite inside, and leave the block; where somebody waits for what is read, `tell` them of it."""
    try:
        yield
    except sqlite3.Error as error:
        log.error("the database can't be read: %s", error)
        if tell:
            tell(StorageUnavailable(str(error)))
