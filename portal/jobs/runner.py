"""Runs the jobs of the web process: each in a thread and with a connection of its own, again and again."""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from portal.core import db
from portal.core.db import Connection

_log = logging.getLogger(__name__)

_MAX_RETRY_DELAY_S = 60.0


@dataclass
class Job:
    """Something that is done every `interval_s` seconds, in steps; within a minute again where it went wrong.

    After an error a job begins anew: each finds in the database how far it has come.

    After a step it pauses, `pause_factor` times as long as the step took: pages, and the SMPP server's writer, have
    that time.
    """

    name: str
    interval_s: float
    steps: Callable[[Connection], Iterator[object]]
    pause_factor: float = 0.0
    runs_at_start: bool = True
    """Whether it begins at the start, and not `interval_s` after it."""
    busy_timeout_ms: int = db.BUSY_TIMEOUT_MS
    _last_error: str = field(default="", init=False)

    def run_forever(self, conn: Connection) -> None:
        """Do it until the process ends."""
        if not self.runs_at_start:
            time.sleep(self.interval_s)
        while True:
            time.sleep(self.interval_s if self.run_once(conn) else min(self.interval_s, _MAX_RETRY_DELAY_S))

    def run_once(self, conn: Connection) -> bool:
        """Do it once, and say whether that went well. What goes wrong is in the log, once as long as it is the same."""
        try:
            step_started_at = time.perf_counter()
            for _ in self.steps(conn):
                time.sleep(self.pause_factor * (time.perf_counter() - step_started_at))
                step_started_at = time.perf_counter()
        except Exception as error:
            if str(error) != self._last_error:
                # That the database is locked, or its disk full, is no news of this job: no line of its code helps.
                _log.warning("%s will be tried again: %s", self.name, error, exc_info=not _is_disk_error(error))
            self._last_error = str(error)
            return False
        self._last_error = ""
        return True


def _is_disk_error(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR


def start_jobs(jobs: Iterable[Job], database: Path) -> None:
    """Begin with these jobs, each in a thread that ends with the process.

    Raises:
        sqlite3.OperationalError: the database can't be opened. A job's thread would end with that, and nobody notice.
    """
    for job in jobs:
        conn = db.connect(database, busy_timeout_ms=job.busy_timeout_ms)
        threading.Thread(target=job.run_forever, args=[conn], name=job.name, daemon=True).start()
