"""A real HTTP server on loopback, as chat tools' webhooks are."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from threading import Event, Thread
from typing import Any

from tests.support import DEADLINE_S


class WebhookServer:
    """`status`, `headers`: what it answers with. `may_answer`: it waits for this before."""

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.may_answer = Event()
        self.may_answer.set()
        self.port = 0
        self._received: Queue[tuple[str, dict[str, Any]]] = Queue()

    @property
    def url(self) -> str:
        """The value for the setting `[alerts] webhook_url`."""
        return f"http://127.0.0.1:{self.port}/hooks/T0?token=secret"

    @contextmanager
    def listening(self) -> Iterator["WebhookServer"]:
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["Content-Type"] == "application/json"
                assert self.headers["User-Agent"].startswith("SMPP-Portal/")
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook._received.put((self.path, json.loads(body)))
                webhook.may_answer.wait()
                self.send_response(webhook.status)
                for header in webhook.headers.items():
                    self.send_header(*header)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = server.server_address[1]
        with server:
            thread = Thread(target=server.serve_forever, args=[0.01])
            thread.start()
            try:
                yield self
            finally:
                self.may_answer.set()
                server.shutdown()
                thread.join()

    def wait_for_post(self) -> dict[str, Any]:
        """Wait for the next object, and return it."""
        path, value = self._received.get(timeout=DEADLINE_S)
        assert path == "/hooks/T0?token=secret"
        return value

    def list_posts(self) -> list[dict[str, Any]]:
        """What has come since it was asked last, without waiting."""
        return [self._received.get()[1] for _ in range(self._received.qsize())]
