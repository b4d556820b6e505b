"""What the web process does in the background: each job in a thread and with a connection of its own."""

import logging
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from portal.core import clock, db, paths
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.db import Connection
from portal.services.accounts import account_messages, refusals, refused_binds
from portal.services.billing import credit_mails
from portal.services.brakes import unusual_traffic
from portal.services.brakes.unusual_traffic import TrafficWatch
from portal.services.common import audit, mail, rate_limit
from portal.services.credits import expiry
from portal.services.history import deletion, removal, retention, search_index
from portal.services.messages import account_requests, queue_works, refusal_mails, text_policy
from portal.services.operations import alert_webhook, alerts, daily_self_check
from portal.services.people import login_limits, refused_logins, two_factor, unlock_links
from portal.services.senders import documents, senders
from portal.services.statistics import rollup, statistics
from portal.services.upstreams import waiting_counts

_log = logging.getLogger(__name__)

RETENTION_PAUSE_FACTOR = 4
"""How long retention pauses after a step: so many times as long as the step took."""
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
                code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
                is_news = not isinstance(error, sqlite3.OperationalError) or code == sqlite3.SQLITE_ERROR
                _log.warning("%s will be tried again: %s", self.name, error, exc_info=is_news)
            self._last_error = str(error)
            return False
        self._last_error = ""
        return True


def start_jobs(jobs: Iterable[Job], database: Path) -> None:
    """Begin with these jobs, each in a thread that ends with the process.

    Raises:
        sqlite3.OperationalError: the database can't be opened. A job's thread would end with that, and nobody notice.
    """
    for job in jobs:
        conn = db.connect(database, busy_timeout_ms=job.busy_timeout_ms)
        threading.Thread(target=job.run_forever, args=[conn], name=job.name, daemon=True).start()


sending_mail = threading.Lock()
"""Held while a mail is being sent: a process that ends takes it first, since what is cut off is sent again."""
is_ending = threading.Event()
"""Set by a process that ends: no other mail is begun."""


def list_jobs(config: Config, keys: Keys, options: Sequence[str]) -> list[Job]:
    """Return all jobs.

    Args:
        options: `--data` and `--config` as this process got them, for the process of the daily check.
    """
    queue_credit_mails = partial(credit_mails.queue_credit_mails, keys=keys, billing=config.billing.enabled)
    clamd, webhook_url = config.documents.clamd, config.alerts.webhook_url
    return [
        *([Job("clamd", 60.0, partial(_run_once, lambda conn: documents.check_clamd(clamd)))] if clamd else ()),
        # Nobody waits for it, so it may wait long for the write lock.
        Job("housekeeping", clock.DAY_MS / 1000, partial(_purge_expired_data, config, keys), busy_timeout_ms=60_000),
        Job("expiry", 60.0, partial(_run_once, expiry.expire_credits)),
        # How much has come since is what each look at an account costs more.
        Job("account messages", 0.25, _index_account_messages, pause_factor=1),
        # What searches need is built in a tenth of a core's time: messages that nobody has indexed yet are only slower
        # to find.
        Job("index", 5.0, _build_search_index, pause_factor=9),
        # Years of messages, after an update, leave the SMPP server as much time as they take.
        Job("statistics", 1.0, _roll_up_statistics, pause_factor=1),
        # Somebody watches: a quarter of a core's time.
        Job("deletion", 1.0, continue_message_deletions, pause_factor=3),
        Job("retention", 3600.0, partial(_remove_old_messages, config), pause_factor=RETENTION_PAUSE_FACTOR),
        Job("privacy", 5.0, _remove_message_texts, pause_factor=9),
        Job("log", 60.0, _empty_write_ahead_log),
        Job("queue", 1.0, partial(_run_once, waiting_counts.keep_waiting_groups)),
        Job("news", 1.0, partial(_run_once, queue_credit_mails)),
        Job("brakes", 10.0, partial(_run_once, TrafficWatch(config.brakes, keys).look)),
        Job("alerts", 10.0, partial(_run_once, partial(alerts.watch, config=config, keys=keys))),
        *([Job("webhook", 1.0, partial(alert_webhook.send_due_posts, config=config))] if webhook_url else ()),
        Job("refusals", 60.0, partial(_run_once, partial(refusal_mails.queue_due_refusal_mails, keys=keys))),
        Job("refused logins", 1.0, partial(_run_once, refused_logins.write_refused_logins)),
        Job("mails", 0.5, partial(_send_mails, config, keys)),
        Job("outbox", 60.0, partial(_run_once, partial(mail.tend_outbox, config=config))),
        # Not at the start: a restart shall be quick, and no two checks shall run at once.
        Job("check", 600.0, partial(_run_once, partial(run_daily_check_if_due, options=options)), runs_at_start=False),
    ]


def _purge_expired_data(config: Config, keys: Keys, conn: Connection) -> Iterator[None]:
    """Forget what has run out, and recovery codes as older versions have stored them."""
    daily_self_check.remove_stale_copy(config.data)
    yield
    two_factor.key_old_recovery_codes(conn, keys)
    yield
    refused_logins.forget_wrong_second_factors(conn)
    yield
    now = clock.now_ms()
    audited_from = now - config.retention.audit_days * clock.DAY_MS
    for purge_rows, before_ms in (
        (rate_limit.purge_token_buckets, now - clock.DAY_MS),
        (login_limits.purge_login_networks, now),
        (unlock_links.purge_unlock_links, now),
        (refusals.purge_refusals, now),
        (refused_binds.purge_unknown_binds, now),
        (refusal_mails.purge_mailed_refusals, now),
        (mail.purge_mails, now),
        (senders.purge_removed_senders, now),
        (statistics.purge_hourly_statistics, now),
        (deletion.purge_deletions, now),
        (alerts.purge_alerts, now),
        (alert_webhook.purge_posts, now),
        (audit.purge_audit_log, audited_from),
        (queue_works.purge_queue_works, audited_from),
        (unusual_traffic.purge_events, audited_from),
        (account_requests.purge_requests, audited_from),
    ):
        purge_rows(conn, before_ms)
        yield


def _run_once(do: Callable[[Connection], object], conn: Connection) -> Iterator[None]:
    """A job of one step."""
    do(conn)
    yield


def _index_account_messages(conn: Connection) -> Iterator[None]:
    """Take what has come into the index of the accounts' messages."""
    # No commit waits for the disk, and nobody for it: what a power cut takes back is taken in again, for with it goes
    # the mark. Whoever commits next writes it to the disk as well.
    conn.execute("PRAGMA synchronous = NORMAL")
    while account_messages.index_message_batch(conn):
        yield


def _build_search_index(conn: Connection) -> Iterator[int]:
    """Build what lets searches leave out most of a history, behind the messages that come."""
    chunk_count = 1
    while chunk_count:
        chunk_count = 0
        for chunks in search_index.build_search_chunks(conn):
            chunk_count += chunks
            yield chunks


def _roll_up_statistics(conn: Connection) -> Iterator[None]:
    """Count for the statistics what has come and ended."""
    while rollup.roll_up_batch(conn):
        yield


def continue_message_deletions(conn: Connection) -> Iterator[None]:
    """Go on with what customers have asked to delete, a step of each in turn: nobody waits for another's millions, nor
    for one that fails."""
    running: dict[int, Iterator[None]] = {}
    failed: dict[int, Exception] = {}
    while open_ids := [each for each in deletion.list_open_deletion_ids(conn) if each not in failed]:
        for each in open_ids:
            if each not in running:
                running[each] = deletion.run_deletion(conn, each)
            try:
                next(running[each])
            except StopIteration:
                # It has ended, or a request of the page has gone on with it.
                del running[each]
            except Exception as error:
                failed[each] = error
            yield
    if failed:
        raise failed[min(failed)]


def _remove_old_messages(config: Config, conn: Connection) -> Iterator[int]:
    """Remove messages that are older than the customer keeps them."""
    return retention.purge_messages(conn, config.retention.messages_months, clock.now_ms())


def _remove_message_texts(conn: Connection) -> Iterator[None]:
    """Remove what is stored of texts that aren't kept any more, and what the write-ahead log has of them."""
    removed = False
    for _ in removal.run_text_removals(conn):
        removed = True
        yield
    if removed:
        yield from _empty_write_ahead_log(conn)


def _empty_write_ahead_log(conn: Connection) -> Iterator[None]:
    """Empty the write-ahead log, in which pages of the database stand as they were before a text was removed."""
    while text_policy.has_text_discarding_customers(conn) and not db.truncate_wal(conn):
        # Somebody writes at this moment.
        time.sleep(1)
        yield


def _send_mails(config: Config, keys: Keys, conn: Connection) -> Iterator[None]:
    """Send the mails that have fallen due."""
    attempts = mail.send_due_mails(conn, config, keys)
    while True:
        with sending_mail:
            if is_ending.is_set() or next(attempts, None) is None:
                return
        yield


def run_daily_check_if_due(conn: sqlite3.Connection, options: Sequence[str]) -> None:
    """Run `check --record` to its end if the last one is a day old: in a process of its own, so that pages don't wait.

    Args:
        options: see `list_jobs`.
    """
    if not daily_self_check.is_check_due(conn, clock.now_ms()):
        return
    started_at = time.monotonic()
    command = [*paths.get_program_command_line(), "check", "--record", "--supervised", *options]
    # Its stdin ends with this process, and so does it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        child.wait()
    if child.returncode:
        _log.error("the daily check has failed, or found something (exit status %d)", child.returncode)
    else:
        _log.info("the daily check has found nothing in %.1f s", time.monotonic() - started_at)
