"""What the event loop reads from SQLite, and can't."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from portal.smsc.storage.interface import StorageUnavailable

log = logging.getLogger(__name__)


@contextmanager
def translate_read_errors() -> Iterator[None]:
    """Log errors of SQLite inside, and raise StorageUnavailable instead."""
    try:
        yield
    except sqlite3.Error as error:
        log.error("the database can't be read: %s", error)
        raise StorageUnavailable(str(error)) from error
