"""The one thread that writes to the database for the SMPP server.

What arrives while a commit runs shares the next one: under load the commits grow instead of queueing, and a lone
message waits for nobody. Jobs come over from the event loop once a turn of it, and answers go back once a batch: each
time the two threads meet costs as much as a message.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from portal.core.db import immediate
from portal.smsc.storage.interface import InDoubt, Refusal, Unavailable

log = logging.getLogger(__name__)

# As many jobs in a batch as it takes so long to write, by how long the last one took: those in the next batch wait.
_BATCH_SECONDS = 0.025
_FEWEST_JOBS, _MOST_JOBS = 500, 4_000
_DEFERRED_SECONDS = 0.01
_RETRY_SECONDS = 0.25
# Who waits for the write lock looks for it every half a millisecond (`db.immediate`), so one is enough to find it free.
_GAP_SECONDS = 0.001
_TURN_SECONDS = 0.02

# With these nothing has been written. Any other failure of SQLite may have come after the commit reached the disk.
_NOTHING_WRITTEN = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_CONSTRAINT,
    # A write that the kernel refused: a disk remounted read-only (EROFS), a quota (EFBIG). The frame that commits is
    # the last one to be written, so it isn't there; after a failed fsync it may be.
    sqlite3.SQLITE_IOERR_WRITE,
}


class Kind(IntEnum):
    """Kinds of jobs, in the order in which a batch does them."""

    CLEAR = 0
    OPENED = 1
    SUBMIT = 2
    CANCEL = 3
    OUTCOME = 4
    DUE = 5
    RECEIVED = 6
    DELIVERED = 7
    DELIVERY_FAILED = 8
    PROGRESS = 9
    CLOSED = 10
    REFUSED = 11
    CONFIRM = 12
    EXPIRE = 13
    HEARTBEAT = 14


@dataclass(slots=True, frozen=True)
class Work:
    """How jobs of one kind are done.

    `write` writes their items in the open transaction; `committed` is called on the event loop with the items and its
    result once they are on disk, `refused` with the items and a Refusal when they are not. Without `refused` they are
    kept and tried again.
    """

    write: Callable[[sqlite3.Connection, list[Any]], Any]
    committed: Callable[[list[Any], Any], None] | None = None
    refused: Callable[[list[Any], Refusal], None] | None = None


_Job = tuple[Kind, Any]
_Answer = Callable[[], None]


class Writer:
    """Give it jobs with `put` from the event loop; it writes them in the order of `Kind`, and of arrival within one.

    From `start` on `conn` belongs to its thread. `on_death` is called on the event loop if the thread ends by an error.
    """

    def __init__(
        self,
        conn: sqlite3.Connection,
        works: Mapping[Kind, Work],
        loop: asyncio.AbstractEventLoop,
        on_death: Callable[[], None],
    ) -> None:
        self._conn = conn
        self._works = works
        self._loop = loop
        self._on_death = on_death
        # Of the event loop.
        self._gathered: list[_Job] = []
        self._deferred: list[_Job] = []
        # On the way from the loop to the thread.
        self._queue: SimpleQueue[list[_Job]] = SimpleQueue()
        # Of the thread: what it has not begun with, and what it has to try again.
        self._left: list[_Job] = []
        self._kept: list[_Job] = []
        self._most = _MOST_JOBS
        self._stopping = False
        self._failing = False
        self._free_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, kind: Kind, *items: Any) -> None:
        """Have `items` written. Returns at once."""
        if not self._gathered:
            self._loop.call_soon(self._pass_on)
        for item in items:
            self._gathered.append((kind, item))

    def defer(self, kind: Kind, *items: Any) -> None:
        """Have `items` written within ten milliseconds or so: what nobody waits for.

        Many of them together cost half of what they would by and by: the pages of the database that they change are
        mostly the same.
        """
        if not self._deferred:
            self._loop.call_later(_DEFERRED_SECONDS, self._pass_on_deferred)
        for item in items:
            self._deferred.append((kind, item))

    def _pass_on(self) -> None:
        self._queue.put(self._gathered)
        self._gathered = []

    def _pass_on_deferred(self) -> None:
        self._queue.put(self._deferred)
        self._deferred = []

    def close(self, timeout: float) -> bool:
        """Write what is left and end, within `timeout` seconds; returns whether that went well."""
        self._pass_on()
        self._pass_on_deferred()
        self._stopping = True
        # It may wait for something.
        self._queue.put([])
        self._thread.join(timeout)
        return not self._thread.is_alive() and not self._kept

    def _run(self) -> None:
        try:
            self._work()
        except Exception:
            # Nobody would be answered any more. The process had better end, and be started again.
            log.exception("the writer has died")
            self._loop.call_soon_threadsafe(self._on_death)
        finally:
            self._conn.close()

    def _work(self) -> None:
        while not (self._stopping and self._queue.empty() and not self._left):
            jobs = self._take()
            if jobs:
                began = time.monotonic()
                answers = self._write(jobs)
                pace = len(jobs) / (time.monotonic() - began)
                self._most = min(max(int(pace * _BATCH_SECONDS), _FEWEST_JOBS), _MOST_JOBS)
                self._answer(answers)

    def _take(self) -> list[_Job]:
        """Return what waits; wait for something where nothing does."""
        kept, self._kept = self._kept, []
        if kept:
            time.sleep(_RETRY_SECONDS)
        else:
            self._give_way()
            if not self._left:
                self._left = self._next()
        with suppress(Empty):
            while len(self._left) < self._most:
                self._left += self._queue.get_nowait()
        # What is kept takes nobody's place: new submits have to be refused as long as nothing can be written.
        jobs = kept + self._left[: self._most]
        self._left = self._left[self._most :]
        return jobs

    def _give_way(self) -> None:
        """Leave the database to other processes for a moment, where no pause has done so of late."""
        if time.monotonic() - self._free_at > _TURN_SECONDS:
            time.sleep(_GAP_SECONDS)
            self._free_at = time.monotonic()

    def _next(self) -> list[_Job]:
        began = time.monotonic()
        jobs = self._queue.get()
        now = time.monotonic()
        if now - began > _GAP_SECONDS:
            self._free_at = now
        return jobs

    def _write(self, jobs: list[_Job]) -> list[_Answer]:
        try:
            answers = self._transaction(jobs)
        except sqlite3.OperationalError as error:
            return self._failed(jobs, error)
        except Exception as error:
            if len(jobs) == 1:
                log.exception("a job of kind %s could not be written", jobs[0][0].name)
                return self._refusals(jobs, error)
            # One bad item must not take the others with it.
            half = len(jobs) // 2
            return self._write(jobs[:half]) + self._write(jobs[half:])
        if self._failing:
            self._failing = False
            log.warning("the database can be written again")
        return answers

    def _transaction(self, jobs: list[_Job]) -> list[_Answer]:
        answers: list[_Answer] = []
        with immediate(self._conn):
            for kind, items in _grouped(jobs):
                work = self._works[kind]
                result = work.write(self._conn, items)
                if work.committed:
                    answers.append(partial(work.committed, items, result))
        return answers

    def _failed(self, jobs: list[_Job], error: sqlite3.OperationalError) -> list[_Answer]:
        if not self._failing:
            self._failing = True
            log.error("the database can't be written: %s", error)
        self._kept += [job for job in jobs if self._works[job[0]].refused is None]
        return self._refusals(jobs, error)

    def _refusals(self, jobs: list[_Job], error: Exception) -> list[_Answer]:
        # What the sqlite3 module raises by itself carries no code of SQLite: it never got as far as the database.
        code = getattr(error, "sqlite_errorcode", None)
        certain = code is None or code in _NOTHING_WRITTEN or code & 0xFF in _NOTHING_WRITTEN
        refusal = Unavailable(str(error)) if certain else InDoubt(str(error))
        answers: list[_Answer] = []
        for kind, items in _grouped(jobs):
            refused = self._works[kind].refused
            if refused:
                answers.append(partial(refused, items, refusal))
        return answers

    def _answer(self, answers: list[_Answer]) -> None:
        if answers:
            self._loop.call_soon_threadsafe(_call_all, answers)


def _grouped(jobs: list[_Job]) -> list[tuple[Kind, list[Any]]]:
    by_kind: dict[Kind, list[Any]] = {}
    for kind, item in jobs:
        by_kind.setdefault(kind, []).append(item)
    return sorted(by_kind.items(), key=lambda each: each[0])


def _call_all(answers: list[_Answer]) -> None:
    for answer in answers:
        answer()
