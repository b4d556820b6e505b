"""The web process: waitress, the mailer, and housekeeping."""

import logging
import signal
import sys
import threading
from types import FrameType

import waitress

from portal import db
from portal.config import Config, bracketed
from portal.crypto import Keys
from portal.services import audit, throttle
from portal.services.mail import Mailer
from portal.web import create_app

_log = logging.getLogger(__name__)

_DAY_MS = 86_400_000


def run(config: Config) -> int:
    """Serve the pages until SIGTERM or SIGINT.

    Returns:
        The exit status: 0 after a clean stop, 1 where the address can't be listened on.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s web %(message)s", stream=sys.stderr)
    # waitress warns for each request that waits for a thread; under load that is its job, not news.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    keys = Keys.load(config.data)
    mailer = Mailer(config, keys, lambda: db.connect(config.database))
    app = create_app(config, keys, mailer)
    try:
        server = waitress.create_server(
            app,
            host=config.web.host,
            port=config.web.port,
            threads=config.web.threads,
            ident="",
            # app.py has its own reading of X-Forwarded-*, by networks; waitress trusts one address or all.
            clear_untrusted_proxy_headers=False,
            channel_timeout=60,
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
    _housekeep(config)
    _log.info("pages at http://%s:%d", bracketed(config.web.host), config.web.port)
    server.run()
    mailer.stop()
    return 0


def _housekeep(config: Config) -> None:
    """Forget what has run out, at start; in a thread, for it may wait for the write lock."""

    def forget() -> None:
        conn = db.connect(config.database, busy_timeout_ms=60_000)
        throttle.purge(conn, db.now_ms() - _DAY_MS)
        audit.purge(conn, db.now_ms() - config.retention.audit_days * _DAY_MS)
        conn.close()

    threading.Thread(target=forget, name="housekeeping", daemon=True).start()
