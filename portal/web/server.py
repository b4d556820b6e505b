"""The web process: waitress, the mailer, and what is done behind the pages."""

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import waitress
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer
from waitress.task import WSGITask

from portal.core import db
from portal.core.config import Config, bracket_ipv6
from portal.core.crypto import Keys
from portal.jobs import jobs, runner
from portal.services.common.mail import Mailer
from portal.web.app import create_app
from portal.web.core import uploads

_log = logging.getLogger(__name__)

_MAX_CONNECTIONS = 1_000
_HIGH_WATERMARK, _LOW_WATERMARK = 800, 400
_CHECK_INTERVAL_S = 0.5
# What the browser of a slow line has not fetched yet waits in a file, not in one of the few threads that make pages.
_MAX_UNSENT_BYTES = 1 << 30
# Up to so much of an answer stays in memory, also of what the browser has already.
_MAX_SENT_BUFFER_BYTES = 4 << 20
# How long a stop waits for the request of a new connection, for those that have not come in whole, for answers that are
# being made or sent, and in all, with a mail that is being sent: what is cut off of that is sent again. The supervisor
# waits not much longer.
_NEW_CONNECTION_S, _INCOMPLETE_REQUEST_S, _DRAIN_S, _STOP_S = 0.3, 1.0, 3.5, 4.2


def run_web_server(config: Config, options: Sequence[str]) -> int:
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
    mailer = Mailer(config, keys, lambda: db.connect(config.database_file))
    app = create_app(config, keys, mailer)
    socket_map: dict[int, Any] = {}
    BaseWSGIServer.channel_class = _BufferTrimmingChannel
    try:
        waitress.create_server(
            app,
            socket_map,
            host=config.web.host,
            port=config.web.port,
            threads=config.web.threads,
            ident="",
            # core/proxies.py has its own reading of X-Forwarded-*, by networks; waitress trusts one address or all.
            clear_untrusted_proxy_headers=False,
            channel_timeout=60,
            connection_limit=_MAX_CONNECTIONS,
            asyncore_use_poll=True,
            # Beyond what the application takes, so that its own words are read first; waitress keeps bodies in files.
            max_request_body_size=uploads.MAX_UPLOAD_BYTES + app.config["MAX_CONTENT_LENGTH"],
            outbuf_high_watermark=_MAX_UNSENT_BYTES,
        )
    except OSError as error:
        listen_address = f"{bracket_ipv6(config.web.host)}:{config.web.port}"
        _log.error("can't listen on %s ([web] host, port): %s", listen_address, error.strerror or error)
        return 1

    servers = [each for each in socket_map.values() if isinstance(each, BaseWSGIServer)]
    stopped = threading.Event()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopped.set()
        servers[0].pull_trigger()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    mailer.start()
    threading.Thread(target=_close_idle_connections, args=[socket_map], name="idle connections", daemon=True).start()
    runner.start_jobs(jobs.list_jobs(config, keys, mailer, options), config.database_file)
    _log.info("listening on http://%s:%d", bracket_ipv6(config.web.host), config.web.port)
    # The command has switched the collector off until here: what is there by now stays. Walking through it, a full
    # collection took some 50 ms, for which pages waited.
    gc.freeze()
    gc.enable()
    while not stopped.is_set():
        _poll(socket_map, 1.0)
    stop_by = time.monotonic() + _STOP_S
    _drain(servers, socket_map)
    mailer.stop(stop_by - time.monotonic())
    return 0


def _poll(socket_map: dict[int, Any], seconds: float) -> None:
    wasyncore.loop(seconds, use_poll=True, map=socket_map, count=1)


def _drain(servers: Sequence[BaseWSGIServer], socket_map: dict[int, Any]) -> None:
    """Accept nothing more, answer the requests that have come, and close each connection after its answer."""
    known: set[HTTPChannel] = set()
    while True:
        # What the kernel has accepted is here already, and so are the requests on it.
        _poll(socket_map, 0)
        channels = _list_channels(socket_map)
        if known.issuperset(channels):
            break
        known.update(channels)
    for server in servers:
        wasyncore.dispatcher.close(server)  # its own `close` would take away what threads wake this one with
    begun_at = time.monotonic()
    while (channels := _list_channels(socket_map)) and (waited := time.monotonic() - begun_at) < _DRAIN_S:
        for channel in channels:
            if not channel.requests and waited >= _get_patience(channel):
                channel.close_when_flushed = True
        moments = (_NEW_CONNECTION_S, _INCOMPLETE_REQUEST_S, _DRAIN_S)
        _poll(socket_map, min(each - waited for each in moments if each > waited))


def _get_patience(channel: HTTPChannel) -> float:
    """How long (seconds) a stop waits for the rest of a connection's next request."""
    if channel.request is not None:
        return _INCOMPLETE_REQUEST_S
    return _NEW_CONNECTION_S if channel.last_activity == channel.creation_time else 0.0


def _list_channels(socket_map: dict[int, Any]) -> list[HTTPChannel]:
    return [each for each in list(socket_map.values()) if isinstance(each, HTTPChannel)]


class _Task(WSGITask):
    """A request and its answer, which says when it is the last one of its connection."""

    def build_response_header(self) -> bytes:
        if not self.channel.server.accepting:
            self.set_close_on_finish()
        return bytes(super().build_response_header())


class _BufferTrimmingChannel(HTTPChannel):
    """A connection that forgets what it has sent.

    waitress appends an answer to one buffer, in memory as long as little of it is left to be sent, and begins a new one
    only at the mark at which the application has to wait. A fast reader's download would be kept whole up to there.
    """

    task_class = _Task

    def write_soon(self, data: Any) -> int:
        if self.current_outbuf_count >= _MAX_SENT_BUFFER_BYTES:  # type: ignore[has-type]
            self.current_outbuf_count = self.adj.outbuf_high_watermark
        return int(super().write_soon(data))


def _close_idle_connections(socket_map: dict[int, Any]) -> None:
    """End the oldest connections before strangers who hold theirs open have taken them all.

    A browser that meets this opens another one. What is being answered is left alone.
    """
    while True:
        time.sleep(_CHECK_INTERVAL_S)
        channels = _list_channels(socket_map)
        if len(channels) > _HIGH_WATERMARK:
            channels.sort(key=lambda channel: channel.creation_time)
            for channel in channels[:-_LOW_WATERMARK]:
                if not channel.requests:
                    channel.will_close = True
                    channel.server.pull_trigger()
