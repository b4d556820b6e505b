"""The one thread that writes to the database for the SMPP server.

What arrives while a commit runs shares the next one: under load the commits grow instead of queueing, and a lone
message waits for nobody. Jobs come over from the event loop once a turn of it, and answers go back once a batch: each
time the two threads meet costs as much as a message.
"""

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from portal.core.db import write_transaction
from portal.smsc.storage.interface import CommitInDoubt, StorageError, StorageUnavailable

log = logging.getLogger(__name__)

# As many jobs in a batch as it takes so long to write, by how long the last one took: those in the next batch wait.
_TARGET_BATCH_SECONDS = 0.025
_MIN_BATCH_JOBS, _MAX_BATCH_JOBS = 500, 4_000
# After a batch with more submits than that, more are certainly on their way: so long it waits for them. A commit costs
# as much CPU as a dozen messages, and those that wait for it are answered together.
_GATHER_FROM_SUBMITS = 20
_GATHER_SECONDS = 0.0015
_DEFER_SECONDS = 0.01
# Of what may wait behind all else, so much goes along with each batch: carriers can bring any number at once.
_MAX_PATIENT_JOBS = 200
_RETRY_SECONDS = 0.25
_FAILURE_LOG_SECONDS = 10.0
# Who waits for the write lock tries to get it every half a millisecond (`db.write_transaction`), so one is enough to
# find it free.
_YIELD_SECONDS = 0.001
_YIELD_INTERVAL_SECONDS = 0.02

# With these nothing has been written. Any other failure of SQLite may have come after the commit reached the disk.
_NOT_WRITTEN_CODES = {
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


class WriteJobKind(IntEnum):
    """Kinds of jobs, in the order in which a batch does them."""

    CLEAR_SESSIONS = 0
    RECOVER = 1
    SESSION_OPENED = 2
    SUBMIT = 3
    UPSTREAMS_BEGIN = 4
    CANCEL = 5
    ACCEPTED = 6
    UNSENT = 7
    RECEIPT = 8
    OUTCOME = 9
    ABANDONED = 10
    DUE_MESSAGES = 11
    CLAIM = 12
    HOLD_FOLLOWERS = 13
    REROUTE = 14
    INBOUND = 15
    UPSTREAM_MESSAGE = 16
    DELIVERED = 17
    DELIVERY_FAILED = 18
    SESSION_PROGRESS = 19
    SESSION_CLOSED = 20
    BIND_REFUSED = 21
    CONFIG_APPLIED = 22
    EXPIRE_DELIVERIES = 23
    HEARTBEAT = 24
    BIND_STATES = 25
    UPSTREAM_HEALTH = 26
    UPSTREAM_COUNTERS = 27
    UNROUTABLE = 28
    OLD_PARTS = 29
    QUEUE_WORK = 30
    REFUSED_MESSAGES = 31
    UPSTREAM_LOAD = 32
    TEST_ANSWERS = 33
    TRACED_PDUS = 34
    RETRY_RECEIPTS = 35


@dataclass(slots=True, frozen=True)
class WriteJobHandler:
    """How jobs of one kind are done.

    `write` writes their items in the open transaction; `on_committed` is called on the event loop with the items and
    its result once they are on disk, `on_refused` with the items and a StorageError when they are not. Without
    `on_refused` they are tried again. Without one that `is_vital` nothing would ever be sent: where it can't be done,
    and trying again is of no use, the process is to end.
    """

    write: Callable[[sqlite3.Connection, list[Any]], Any]
    on_committed: Callable[[list[Any], Any], None] | None = None
    on_refused: Callable[[list[Any], StorageError], None] | None = None
    is_vital: bool = False


_Job = tuple[WriteJobKind, Any]
_Callback = Callable[[], None]


@dataclass(eq=False, repr=False)
class DatabaseWriter:
    """Give it jobs with `put` from the event loop; it writes them in the order of `WriteJobKind`, and of arrival
    within one.

    From `start` on `conn` belongs to its thread. `on_fatal_error` is called on the event loop if the thread ends by an
    error, or something vital can't be written.
    """

    conn: sqlite3.Connection
    handlers: Mapping[WriteJobKind, WriteJobHandler]
    on_fatal_error: Callable[[], None]
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    # Of the event loop.
    _new_jobs: list[_Job] = field(default_factory=list)
    _deferred_jobs: list[_Job] = field(default_factory=list)
    _new_patient_jobs: list[_Job] = field(default_factory=list)
    # On the way from the loop to the thread.
    _job_queue: SimpleQueue[list[_Job]] = field(default_factory=SimpleQueue)
    _patient_jobs: deque[_Job] = field(default_factory=deque)
    # Of the thread: what it has not begun with, and what it has to try again.
    _unstarted_jobs: list[_Job] = field(default_factory=list)
    _jobs_to_retry: list[_Job] = field(default_factory=list)
    _max_batch_jobs: int = _MAX_BATCH_JOBS
    _last_submit_count: int = 0
    _stopping: bool = False
    _is_failing: bool = False
    _failure_logged_at: float = 0.0
    _last_yield_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def queue_write(self, kind: WriteJobKind, *items: Any) -> None:
        """Have `items` written. Returns at once."""
        if not self._new_jobs:
            self._loop.call_soon(self._send_jobs, self._new_jobs)
        for item in items:
            self._new_jobs.append((kind, item))

    def queue_deferred_write(self, kind: WriteJobKind, *items: Any) -> None:
        """Have `items` written within ten milliseconds or so: what nobody waits for.

        Many of them together cost half of what they would by and by: the pages of the database that they change are
        mostly the same.
        """
        if not self._deferred_jobs:
            self._loop.call_later(_DEFER_SECONDS, self._send_jobs, self._deferred_jobs)
        for item in items:
            self._deferred_jobs.append((kind, item))

    def queue_patient_write(self, kind: WriteJobKind, *items: Any) -> None:
        """Have `items` written, a few with each batch, so that nobody waits behind a great number of them."""
        if not self._new_patient_jobs:
            self._loop.call_soon(self._send_new_patient_jobs)
        for item in items:
            self._new_patient_jobs.append((kind, item))

    def _send_jobs(self, jobs: list[_Job]) -> None:
        self._job_queue.put(jobs.copy())
        jobs.clear()

    def _send_new_patient_jobs(self) -> None:
        self._patient_jobs.extend(self._new_patient_jobs)
        self._new_patient_jobs = []
        # It may wait for something.
        self._job_queue.put([])

    def close(self, timeout: float) -> bool:
        """Write what is left and end, within `timeout` seconds; returns whether that went well."""
        self._send_jobs(self._new_jobs)
        self._send_jobs(self._deferred_jobs)
        self._send_new_patient_jobs()
        self._stopping = True
        # It may wait for something.
        self._job_queue.put([])
        self._thread.join(timeout)
        return not self._thread.is_alive() and not self._jobs_to_retry

    def _run(self) -> None:
        try:
            self._process_jobs()
        except Exception:
            # Nobody would be answered any more. The process had better end, and be started again.
            log.exception("the writer has died")
            self._loop.call_soon_threadsafe(self.on_fatal_error)
        finally:
            self.conn.close()

    def _process_jobs(self) -> None:
        while not (self._stopping and self._job_queue.empty() and not self._unstarted_jobs and not self._patient_jobs):
            jobs = self._wait_for_job_batch()
            if jobs:
                started_at = time.monotonic()
                callbacks = self._write_jobs(jobs)
                jobs_per_second = len(jobs) / (time.monotonic() - started_at)
                self._max_batch_jobs = min(
                    max(int(jobs_per_second * _TARGET_BATCH_SECONDS), _MIN_BATCH_JOBS), _MAX_BATCH_JOBS
                )
                if callbacks:
                    self._loop.call_soon_threadsafe(_run_callbacks, callbacks)

    def _wait_for_job_batch(self) -> list[_Job]:
        """Return what waits; wait for something where nothing does."""
        retried, self._jobs_to_retry = self._jobs_to_retry, []
        if retried:
            time.sleep(_RETRY_SECONDS)
        else:
            self._pause()
            if not self._unstarted_jobs and not self._patient_jobs:
                self._unstarted_jobs = self._wait_for_jobs()
        with suppress(Empty):
            while len(self._unstarted_jobs) < self._max_batch_jobs:
                self._unstarted_jobs += self._job_queue.get_nowait()
        # What is tried again takes nobody's place: new submits have to be refused as long as nothing can be written.
        jobs = retried + self._unstarted_jobs[: self._max_batch_jobs]
        self._unstarted_jobs = self._unstarted_jobs[self._max_batch_jobs :]
        if self._patient_jobs:
            jobs += [self._patient_jobs.popleft() for _ in range(min(len(self._patient_jobs), _MAX_PATIENT_JOBS))]
        return jobs

    def _pause(self) -> None:
        """Let more jobs come where many do, and leave the database to other processes now and then."""
        if self._last_submit_count > _GATHER_FROM_SUBMITS:
            time.sleep(_GATHER_SECONDS)
        elif time.monotonic() - self._last_yield_at > _YIELD_INTERVAL_SECONDS:
            time.sleep(_YIELD_SECONDS)
        else:
            return
        self._last_yield_at = time.monotonic()

    def _wait_for_jobs(self) -> list[_Job]:
        started_at = time.monotonic()
        jobs = self._job_queue.get()
        now = time.monotonic()
        if now - started_at > _YIELD_SECONDS:
            self._last_yield_at = now
        return jobs

    def _write_jobs(self, jobs: list[_Job]) -> list[_Callback]:
        try:
            callbacks = self._write_in_transaction(jobs)
        except sqlite3.OperationalError as error:
            return self._handle_write_failure(jobs, error)
        except Exception as error:
            if len(jobs) == 1:
                kind = jobs[0][0]
                log.exception("a job of kind %s could not be written", kind.name)
                if self.handlers[kind].is_vital:
                    self._loop.call_soon_threadsafe(self.on_fatal_error)
                return self._build_failure_callbacks(jobs, error)
            # One bad item must not take the others with it.
            half = len(jobs) // 2
            return self._write_jobs(jobs[:half]) + self._write_jobs(jobs[half:])
        if self._is_failing:
            self._is_failing = False
            # On a full disk small writes succeed between others that fail.
            if time.monotonic() - self._failure_logged_at > _FAILURE_LOG_SECONDS:
                log.warning("the database can be written again")
        return callbacks

    def _write_in_transaction(self, jobs: list[_Job]) -> list[_Callback]:
        callbacks: list[_Callback] = []
        with write_transaction(self.conn):
            by_kind = _group_by_kind(jobs)
            self._last_submit_count = len(by_kind.get(WriteJobKind.SUBMIT, ()))
            for kind, items in by_kind.items():
                handler = self.handlers[kind]
                result = handler.write(self.conn, items)
                if handler.on_committed:
                    callbacks.append(partial(handler.on_committed, items, result))
        return callbacks

    def _handle_write_failure(self, jobs: list[_Job], error: sqlite3.OperationalError) -> list[_Callback]:
        if not self._is_failing:
            self._is_failing = True
            if time.monotonic() - self._failure_logged_at > _FAILURE_LOG_SECONDS:
                self._failure_logged_at = time.monotonic()
                log.error("the database can't be written: %s", error)
        self._jobs_to_retry += [job for job in jobs if self.handlers[job[0]].on_refused is None]
        return self._build_failure_callbacks(jobs, error)

    def _build_failure_callbacks(self, jobs: list[_Job], error: Exception) -> list[_Callback]:
        # What the sqlite3 module raises by itself carries no code of SQLite: it never got as far as the database.
        code = getattr(error, "sqlite_errorcode", None)
        is_not_written = code is None or code in _NOT_WRITTEN_CODES or code & 0xFF in _NOT_WRITTEN_CODES
        refusal = StorageUnavailable(str(error)) if is_not_written else CommitInDoubt(str(error))
        callbacks: list[_Callback] = []
        for kind, items in _group_by_kind(jobs).items():
            on_refused = self.handlers[kind].on_refused
            if on_refused:
                callbacks.append(partial(on_refused, items, refusal))
        return callbacks


def _group_by_kind(jobs: list[_Job]) -> dict[WriteJobKind, list[Any]]:
    by_kind: dict[WriteJobKind, list[Any]] = {}
    for kind, item in jobs:
        by_kind.setdefault(kind, []).append(item)
    return {kind: by_kind[kind] for kind in sorted(by_kind)}


def _run_callbacks(callbacks: list[_Callback]) -> None:
    for callback in callbacks:
        try:
            callback()
        except Exception:
            # The others tell of what is on disk, too.
            log.exception("what was written could not be told")
