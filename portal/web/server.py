"""The web process: waitress, the mailer, and housekeeping."""

import logging
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import waitress
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer

from portal import db, paths
from portal.config import Config, bracketed
from portal.crypto import Keys
from portal.services import (
    audit,
    check,
    connections,
    credit_mails,
    daily_check,
    deletion,
    expiry,
    mail,
    privacy,
    refusal_mails,
    retention,
    search_index,
    senders,
    statistics,
    tally,
    text_removal,
    throttle,
)
from portal.services.mail import Mailer
from portal.web import create_app, uploads

_log = logging.getLogger(__name__)

_MOST_CONNECTIONS = 1_000
_CROWDED, _CALM = 800, 400
_LOOK_S = 0.5
_NOTICES_S = 1.0
_TEXTS_S = 5.0
_EMPTY_LOG_S = 60.0
_GATHER_S = 1.0
_REFUSALS_S = 60.0
_EXPIRY_S = 60.0
# What searches need is built in a tenth of a core's time: pages and the SMPP server have theirs, and messages that
# nobody has indexed yet are only slower to find.
_INDEX_S = 5.0
_RESTS = 9
# Deletions that somebody watches take a quarter of a core's time, and of the time in which the SMPP server could write;
# what is too old goes in a fifth.
_DELETION_S, _DELETION_RESTS = 1.0, 3
_RETENTION_S, RETENTION_RESTS = 3600.0, 4
# Whoever restarts the server has other things to look at than a check; and no two of them shall run at once.
_CHECK_S = 600.0
# What the browser of a slow line has not fetched yet waits in a file, not in one of the few threads that make pages.
_MOST_UNSENT = 1 << 30
# Up to so much of an answer stays in memory, also of what the browser has already.
_MOST_SENT = 4 << 20


def run(config: Config, options: Sequence[str]) -> int:
    """Serve the pages until SIGTERM or SIGINT.

    Args:
        options: `--data` and `--config` as this process got them, for the daily check's.

    Returns:
        The exit status: 0 after a clean stop, 1 where the address can't be listened on.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s web %(message)s", stream=sys.stderr)
    # waitress warns for each request that waits for a thread; under load that is its job, not news.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    keys = Keys.load(config.data)
    mailer = Mailer(config, keys, lambda: db.connect(config.database))
    app = create_app(config, keys, mailer)
    dispatchers: dict[int, Any] = {}
    BaseWSGIServer.channel_class = _Channel
    try:
        server = waitress.create_server(
            app,
            dispatchers,
            host=config.web.host,
            port=config.web.port,
            threads=config.web.threads,
            ident="",
            # app.py has its own reading of X-Forwarded-*, by networks; waitress trusts one address or all.
            clear_untrusted_proxy_headers=False,
            channel_timeout=60,
            connection_limit=_MOST_CONNECTIONS,
            asyncore_use_poll=True,
            # Beyond what the application takes, so that its own words are read first; waitress keeps bodies in files.
            max_request_body_size=uploads.MOST_BYTES + app.config["MAX_CONTENT_LENGTH"],
            outbuf_high_watermark=_MOST_UNSENT,
        )
    except OSError as error:
        where = f"{bracketed(config.web.host)}:{config.web.port}"
        _log.error("can't listen on %s ([web] host, port): %s", where, error.strerror or error)
        return 1

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    mailer.start()
    threading.Thread(target=_housekeep, args=[config], name="housekeeping", daemon=True).start()
    threading.Thread(target=_keep_room, args=[dispatchers], name="doorkeeper", daemon=True).start()
    threading.Thread(target=_let_run_out, args=[config], name="expiry", daemon=True).start()
    threading.Thread(target=_index, args=[config], name="index", daemon=True).start()
    threading.Thread(target=_gather, args=[config], name="statistics", daemon=True).start()
    threading.Thread(target=_delete, args=[config], name="deletion", daemon=True).start()
    threading.Thread(target=_remove_old, args=[config], name="retention", daemon=True).start()
    threading.Thread(target=_remove_texts, args=[config], name="privacy", daemon=True).start()
    threading.Thread(target=_tell, args=[config, keys, mailer], name="news", daemon=True).start()
    threading.Thread(target=_check_daily, args=[config, options], name="check", daemon=True).start()
    _log.info("pages at http://%s:%d", bracketed(config.web.host), config.web.port)
    server.run()
    mailer.stop()
    return 0


class _Channel(HTTPChannel):
    """A connection that forgets what it has sent.

    waitress appends an answer to one buffer, in memory as long as little of it is left to be sent, and begins a new one
    only at the mark at which the application has to wait. A fast reader's download would be kept whole up to there.
    """

    def write_soon(self, data: Any) -> int:
        if self.current_outbuf_count >= _MOST_SENT:  # type: ignore[has-type]
            self.current_outbuf_count = self.adj.outbuf_high_watermark
        return int(super().write_soon(data))


def _keep_room(dispatchers: dict[int, Any]) -> None:
    """End the oldest connections before strangers who hold theirs open have taken them all.

    A browser that meets this opens another one. What is being answered is left alone.
    """
    while True:
        time.sleep(_LOOK_S)
        channels = [each for each in list(dispatchers.values()) if isinstance(each, HTTPChannel)]
        if len(channels) > _CROWDED:
            channels.sort(key=lambda channel: channel.creation_time)
            for channel in channels[:-_CALM]:
                if not channel.requests:
                    channel.will_close = True
                    channel.server.pull_trigger()


def _housekeep(config: Config) -> None:
    """Forget what has run out, at start and each day."""
    # Nobody waits for it, so it may wait long for the write lock.
    conn = db.connect(config.database, busy_timeout_ms=60_000)
    while True:
        now = db.now_ms()
        with suppress(sqlite3.OperationalError):
            throttle.purge(conn, now - db.DAY_MS)
            connections.purge(conn, now)
            mail.purge(conn, now)
            senders.purge(conn, now)
            statistics.purge(conn, now)
            deletion.purge(conn, now)
            audit.purge(conn, now - config.retention.audit_days * db.DAY_MS)
        time.sleep(db.DAY_MS / 1000)


def _let_run_out(config: Config) -> None:
    """Take away credits whose date has come, within a minute of it."""
    conn = db.connect(config.database)
    while True:
        # A database that is locked or full is tried again: what has run out by then is the same.
        with suppress(sqlite3.OperationalError):
            expiry.run_out(conn)
        time.sleep(_EXPIRY_S)


def _index(config: Config) -> None:
    """Build what lets searches leave out most of a history, behind the messages that come."""
    conn = db.connect(config.database)
    while True:
        built = 0
        # A database that is locked or full is tried again: it begins where the last chunk ends.
        with suppress(sqlite3.OperationalError):
            began = time.perf_counter()
            for chunks in search_index.build(conn):
                built += chunks
                time.sleep(_RESTS * (time.perf_counter() - began))
                began = time.perf_counter()
        if not built:
            time.sleep(_INDEX_S)


def _gather(config: Config) -> None:
    """Count for the statistics what has come and ended, a second behind it at most."""
    conn = db.connect(config.database)
    while True:
        # A database that is locked or full is tried again: what has not been counted is still marked so.
        with suppress(sqlite3.OperationalError):
            began = time.perf_counter()
            while tally.gather(conn):
                # Years of messages, after an update, leave the SMPP server as much time as they take.
                time.sleep(time.perf_counter() - began)
                began = time.perf_counter()
        time.sleep(_GATHER_S)


def _remove_texts(config: Config) -> None:
    """Remove what is stored of texts that aren't kept any more, in a tenth of a core's time; and once a minute empty
    the write-ahead log, in which pages of the database stand as they were before a text was removed."""
    conn = db.connect(config.database)
    emptied_at = 0.0
    while True:
        # A database that is locked or full is tried again: how far it is stands there.
        with suppress(sqlite3.OperationalError):
            began = time.perf_counter()
            for _ in text_removal.run(conn):
                time.sleep(_RESTS * (time.perf_counter() - began))
                began = time.perf_counter()
            if time.monotonic() >= emptied_at + _EMPTY_LOG_S and privacy.any_not_kept(conn) and db.empty_log(conn):
                emptied_at = time.monotonic()
        time.sleep(_TEXTS_S)


def _delete(config: Config) -> None:
    """Go on with what customers have asked to delete, in short steps with rests between them."""
    conn = db.connect(config.database)
    while True:
        # A database that is locked or full is tried again: it goes on where it was.
        with suppress(sqlite3.OperationalError):
            for each in deletion.open_ones(conn):
                _with_rests(deletion.work(conn, each), _DELETION_RESTS)
        time.sleep(_DELETION_S)


def _remove_old(config: Config) -> None:
    """Remove messages that are older than they are kept, at start and each hour, in short steps with longer rests."""
    conn = db.connect(config.database)
    while True:
        with suppress(sqlite3.OperationalError):
            _with_rests(retention.remove(conn, config.retention.messages_months, db.now_ms()), RETENTION_RESTS)
        time.sleep(_RETENTION_S)


def _with_rests(steps: Iterator[object], rests: float) -> None:
    """Take steps to their end; after each rest so many times as long as it took."""
    began = time.perf_counter()
    for _ in steps:
        time.sleep(rests * (time.perf_counter() - began))
        began = time.perf_counter()


def _tell(config: Config, keys: Keys, mailer: Mailer) -> None:
    """Queue the mails about credits as it happens, and those about refused binds as they fall due."""
    conn = db.connect(config.database)
    refusals_at = 0.0
    while True:
        # A database that is locked or full is tried again: nothing has been marked as told.
        with suppress(sqlite3.OperationalError):
            if credit_mails.queue_due(conn, keys):
                mailer.wake()
            if time.monotonic() >= refusals_at:
                if refusal_mails.queue_due(conn, keys):
                    mailer.wake()
                refusals_at = time.monotonic() + _REFUSALS_S
        time.sleep(_NOTICES_S)


def _check_daily(config: Config, options: Sequence[str]) -> None:
    """Let the check be made a day after the one before it; at the start only a while later."""
    check.sweep(config.data)
    conn = db.connect(config.database)
    while True:
        time.sleep(_CHECK_S)
        with suppress(sqlite3.OperationalError):
            check_if_due(conn, options)


def check_if_due(conn: sqlite3.Connection, options: Sequence[str]) -> None:
    """Run `check --record` to its end if it is due: in a process of its own, so that pages don't wait for it.

    Args:
        options: as in `run`.
    """
    if not daily_check.is_due(conn, db.now_ms()):
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
