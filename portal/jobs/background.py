"""What the pages' process does behind them: each job in a thread and with a connection of its own, again and again.

Whatever a job stumbles over, it begins anew: all of them find in the database how far they are.
"""

import logging
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from portal.core import db, paths
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts import refusal_mails, session_records
from portal.services.billing import credit_mails
from portal.services.common import audit, mail, rate_limit
from portal.services.common.mail import Mailer
from portal.services.credits import expiry
from portal.services.history import deletion, retention, search_index, text_removal
from portal.services.messages import text_policy
from portal.services.operations import daily_self_check, self_check
from portal.services.senders import senders
from portal.services.statistics import rollup, statistics

_log = logging.getLogger(__name__)

RETENTION_RESTS = 4
"""Between two steps of retention, how many times as long as the first of them took."""

_AGAIN_S = 60.0
_EMPTY_LOG_S = 60.0
_REFUSALS_S = 60.0


@dataclass
class Job:
    """Something that is done `every` so many seconds, in steps; within a minute again where it went wrong.

    After a step it rests, `rests` times as long as the step took: pages, and the SMPP server's writer, have that time.
    """

    name: str
    every: float
    work: Callable[[Connection], Iterator[object]]
    rests: float = 0.0
    at_once: bool = True
    """Whether it begins at the start, and not so many seconds after it."""
    busy_timeout_ms: int = db.BUSY_TIMEOUT_MS
    _told: str = field(default="", init=False)

    def run(self, conn: Connection) -> None:
        """Do it until the process ends."""
        if not self.at_once:
            time.sleep(self.every)
        while True:
            time.sleep(self.every if self.turn(conn) else min(self.every, _AGAIN_S))

    def turn(self, conn: Connection) -> bool:
        """Do it once, and say whether that went well. What goes wrong is in the log, once as long as it is the same."""
        try:
            began = time.perf_counter()
            for _ in self.work(conn):
                time.sleep(self.rests * (time.perf_counter() - began))
                began = time.perf_counter()
        except Exception as error:
            if str(error) != self._told:
                # That the database is locked, or its disk full, is no news of this job: no line of its code helps.
                _log.warning("%s will be tried again: %s", self.name, error, exc_info=not _is_of_the_disk(error))
            self._told = str(error)
            return False
        self._told = ""
        return True


def _is_of_the_disk(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return isinstance(error, sqlite3.OperationalError) and code != sqlite3.SQLITE_ERROR


def start(config: Config, keys: Keys, mailer: Mailer, options: Sequence[str]) -> None:
    """Begin with all jobs.

    Args:
        options: `--data` and `--config` as this process got them, for the daily check's.

    Raises:
        sqlite3.OperationalError: the database can't be opened. A job's thread would end with that, and nobody notice.
    """
    for job in (
        # Nobody waits for it, so it may wait long for the write lock.
        Job("housekeeping", db.DAY_MS / 1000, partial(_forget, config), busy_timeout_ms=60_000),
        Job("expiry", 60.0, _let_run_out),
        # What searches need is built in a tenth of a core's time: messages that nobody has indexed yet are only slower
        # to find.
        Job("index", 5.0, _index, rests=9),
        # Years of messages, after an update, leave the SMPP server as much time as they take.
        Job("statistics", 1.0, _gather, rests=1),
        # Somebody watches: a quarter of a core's time.
        Job("deletion", 1.0, _delete, rests=3),
        Job("retention", 3600.0, partial(_remove_old, config), rests=RETENTION_RESTS),
        Job("privacy", 5.0, _remove_texts, rests=9),
        Job("log", _EMPTY_LOG_S, _empty_log),
        Job("news", 1.0, partial(_tell, keys, mailer)),
        Job("refusals", _REFUSALS_S, partial(_tell_refusals, keys, mailer)),
        # Whoever restarts the server has other things to look at than a check; and no two of them shall run at once.
        Job("check", 600.0, partial(_check, options), at_once=False),
    ):
        conn = db.connect(config.database, busy_timeout_ms=job.busy_timeout_ms)
        threading.Thread(target=job.run, args=[conn], name=job.name, daemon=True).start()


def _forget(config: Config, conn: Connection) -> Iterator[None]:
    """Forget what has run out."""
    self_check.sweep(config.data)
    yield
    now = db.now_ms()
    for purge, at in (
        (rate_limit.purge, now - db.DAY_MS),
        (session_records.purge, now),
        (mail.purge, now),
        (senders.purge, now),
        (statistics.purge, now),
        (deletion.purge, now),
        (audit.purge, now - config.retention.audit_days * db.DAY_MS),
    ):
        purge(conn, at)
        yield


def _let_run_out(conn: Connection) -> Iterator[None]:
    """Take away credits whose date has come."""
    expiry.run_out(conn)
    yield


def _index(conn: Connection) -> Iterator[int]:
    """Build what lets searches leave out most of a history, behind the messages that come."""
    built = 1
    while built:
        built = 0
        for chunks in search_index.build(conn):
            built += chunks
            yield chunks


def _gather(conn: Connection) -> Iterator[None]:
    """Count for the statistics what has come and ended."""
    while rollup.gather(conn):
        yield


def _delete(conn: Connection) -> Iterator[None]:
    """Go on with what customers have asked to delete, a step of each in turn: nobody waits for another's millions, nor
    for one that stumbles."""
    works: dict[int, Iterator[None]] = {}
    stumbled: dict[int, Exception] = {}
    while open_ones := [each for each in deletion.open_ones(conn) if each not in stumbled]:
        for each in open_ones:
            if each not in works:
                works[each] = deletion.work(conn, each)
            try:
                next(works[each])
            except StopIteration:
                # It has ended, or the page has got further with it.
                del works[each]
            except Exception as error:
                stumbled[each] = error
            yield
    if stumbled:
        raise stumbled[min(stumbled)]


def _remove_old(config: Config, conn: Connection) -> Iterator[int]:
    """Remove messages that are older than they are kept."""
    return retention.remove(conn, config.retention.messages_months, db.now_ms())


def _remove_texts(conn: Connection) -> Iterator[None]:
    """Remove what is stored of texts that aren't kept any more, and what the write-ahead log has of them."""
    removed = False
    for _ in text_removal.run(conn):
        removed = True
        yield
    if removed:
        yield from _empty_log(conn)


def _empty_log(conn: Connection) -> Iterator[None]:
    """Empty the write-ahead log, in which pages of the database stand as they were before a text was removed."""
    while text_policy.any_not_kept(conn) and not db.empty_log(conn):
        # Somebody writes at this moment.
        time.sleep(1)
        yield


def _tell(keys: Keys, mailer: Mailer, conn: Connection) -> Iterator[None]:
    """Queue the mails about credits."""
    if credit_mails.queue_due(conn, keys):
        mailer.wake()
    yield


def _tell_refusals(keys: Keys, mailer: Mailer, conn: Connection) -> Iterator[None]:
    """Queue the mails about refused binds that have fallen due."""
    if refusal_mails.queue_due(conn, keys):
        mailer.wake()
    yield


def _check(options: Sequence[str], conn: Connection) -> Iterator[None]:
    check_if_due(conn, options)
    yield


def check_if_due(conn: sqlite3.Connection, options: Sequence[str]) -> None:
    """Run `check --record` to its end if the last one is a day old: in a process of its own, so that pages don't wait.

    Args:
        options: as in `start`.
    """
    if not daily_self_check.is_due(conn, db.now_ms()):
        return
    began = time.monotonic()
    words = [*paths.program(), "check", "--record", "--supervised", *options]
    # Its stdin ends with this process, and so does it.
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        child.wait()
    if child.returncode:
        _log.error("the daily check has failed, or found something (exit status %d)", child.returncode)
    else:
        _log.info("the daily check has found nothing in %.1f s", time.monotonic() - began)
