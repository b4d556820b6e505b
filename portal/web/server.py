"""The web process: uvicorn, and what is done behind the pages."""

import ctypes
import gc
import logging
import signal
import socket
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import cache, partial
from types import FrameType

import uvicorn

from portal import jobs
from portal.core import db
from portal.core.config import Config, bracket_ipv6
from portal.core.crypto import Keys
from portal.core.listening import open_listening_sockets
from portal.services.people import refused_logins
from portal.web.app import MAX_BODY_BYTES, create_app
from portal.web.asgi import ThreadedApplication
from portal.web.core import headers
from portal.web.people import known_browsers, login

_log = logging.getLogger(__name__)

_KEEP_ALIVE_S = 60
# How long the end of an answer waits for a client that reads nothing.
_UNREAD_MS = 120_000
# How long a stop waits for requests that come in, for answers that are made or sent, and then for a mail that is being
# sent: what is cut off of that is sent again. The supervisor waits not much longer.
_DRAIN_S, _MAIL_S = 3, 1.0
_LAST_WRITE_MS = 500
# Larger blocks of memory go back to the system once they are freed. glibc by itself would keep a password's hash, 19
# MiB, in each thread that has made one (mallopt(3): the bound moves to what was freed last, unless it is set).
_M_MMAP_THRESHOLD, _MAX_KEPT_BLOCK_BYTES = -3, 8 << 20


def run_web_server(config: Config, options: Sequence[str]) -> int:
    """Serve the pages until SIGTERM or SIGINT.

    Args:
        options: `--data` and `--config` as this process got them, for the daily check's.

    Returns:
        The exit status: 0 after a clean stop, 1 where the address can't be listened on.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAX_KEPT_BLOCK_BYTES)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s web %(message)s", stream=sys.stderr)
    keys = Keys.load(config.data)
    app = create_app(config, keys)
    application = ThreadedApplication(
        app,
        config.web.threads,
        # Beyond what the application takes, so that its own words are read first.
        MAX_BODY_BYTES + (1 << 20),
        config.trusted_proxy_networks,
        partial(known_browsers.find_browser, config, keys),
        cache(partial(login.build_busy_page, app)),
        headers.list_headers(config),
    )
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            # Not httptools, which keeps headers of any length in memory.
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            # core/proxies.py has its own reading of X-Forwarded-*.
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_DRAIN_S,
        )
    )

    def stop(signum: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn's own are in force while it serves; these before and afterwards.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        sockets = open_listening_sockets(config.web.host, config.web.port)
    except OSError as error:
        _log.error("%s ([web] host, port)", error)
        return 1
    for each in sockets:
        # Inherited by connections: those of phones that are gone end some day.
        each.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
    jobs.start_jobs(jobs.list_jobs(config, keys, options), config.database_file)
    _log.info("listening on http://%s:%d", bracket_ipv6(config.web.host), config.web.port)
    # The command has switched the collector off until here: what is there by now stays. Walking through it, a full
    # collection took some 50 ms, for which pages waited.
    gc.freeze()
    gc.enable()
    server.run(sockets)
    # What the job would have written within this second; a stop doesn't wait long for somebody else's write.
    with (
        suppress(sqlite3.OperationalError),
        closing(db.connect(config.database_file, busy_timeout_ms=_LAST_WRITE_MS)) as conn,
    ):
        refused_logins.write_refused_logins(conn)
    jobs.is_ending.set()
    jobs.sending_mail.acquire(timeout=_MAIL_S)
    return 0
