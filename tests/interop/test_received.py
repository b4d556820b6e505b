"""Messages from handsets (MO), as clients that nobody here wrote get them."""

import sqlite3
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from smpplib import client as smpplib

from portal.core.wakeup import WakeupSender
from portal.services.accounts import accounts
from portal.services.common.audit import SHELL
from portal.services.messages import inbound, inbound_numbers
from tests.interop.kannel import TRANSCEIVER, DeliveryReportServer, Kannel
from tests.support import Cast, RunningServer, wait_until

HANDSET, SHORT_CODE = "393337654321", "48484"
TEXTS = (
    "Where is my parcel? {€}",
    "È qui? 📦 Γειά",
    "A text that is longer than a message can be, from a handset that writes on and on. " * 4,
    "Ένα μεγάλο μήνυμα 📦📦 " * 8,
)


@pytest.fixture
def sent(conn: sqlite3.Connection, cast: Cast, server: RunningServer) -> list[str]:
    """A handset has sent these texts to `smpp_acme_1`."""
    inbound_numbers.add_inbound_number(conn, SHELL, accounts.get_account(conn, cast.smpp_acme_1.name), SHORT_CODE)
    for text in TEXTS:
        inbound.simulate_inbound_message(conn, HANDSET, SHORT_CODE, text)
    WakeupSender(server.data).send()
    return list(TEXTS)


def accepted(conn: sqlite3.Connection) -> bool:
    return bool(conn.execute("SELECT (SELECT count(*) FROM received) = ? AND NOT EXISTS (SELECT 1 FROM deliveries)",
        (len(TEXTS),)).fetchone()[0])  # fmt: skip


def test_smpplib_reads_them_whole(conn: sqlite3.Connection, cast: Cast, server: RunningServer, sent: list[str]) -> None:
    seen: list[Any] = []
    client = smpplib.Client("127.0.0.1", server.port, timeout=10, allow_unknown_opt_params=True)
    client.set_message_received_handler(lambda pdu: seen.append(pdu))
    client.connect()
    client.bind_receiver(system_id=cast.smpp_acme_1.name, password=cast.smpp_acme_1.password)
    while len(seen) < len(sent):
        client.read_once()
    codings = {0: "ascii", 8: "utf-16-be"}
    texts = [(each.message_payload or each.short_message).decode(codings[each.data_coding]) for each in seen[1:]]
    assert seen[0].short_message == b"Where is my parcel? \x1b\x28\x1b\x65\x1b\x29"
    assert texts == sent[1:]
    assert {(each.source_addr, each.destination_addr) for each in seen} == {(HANDSET.encode(), SHORT_CODE.encode())}
    wait_until(lambda: accepted(conn))
    client._socket.close()
    client._socket = None


_SERVICE = """
group = sms-service
keyword = default
catch-all = true
max-messages = 0
get-url = "http://127.0.0.1:{port}/?from=%p&to=%P&charset=%C&text=%b"
"""


@pytest.fixture
def pages() -> Iterator[tuple[int, list[dict[str, bytes]]]]:
    """A web server to which Kannel's `get-url` leads: its port, and the queries that it got."""
    requests: list[dict[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = (each.partition("=") for each in self.path.partition("?")[2].split("&"))
            requests.append({name: urllib.parse.unquote_to_bytes(value.replace("+", " ")) for name, _, value in query})
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write no log."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, args=(0.05,))
    thread.start()
    yield listening.server_port, requests
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_kannel_hands_them_on(
    tmp_path: Path,
    conn: sqlite3.Connection,
    cast: Cast,
    server: RunningServer,
    reports: DeliveryReportServer,
    pages: tuple[int, list[dict[str, bytes]]],
    sent: list[str],
) -> None:
    port, requests = pages
    kannel = Kannel(tmp_path, cast.smpp_acme_1, server.port, reports, TRANSCEIVER, None)
    with (tmp_path / "kannel.conf").open("a") as configuration:
        configuration.write(_SERVICE.format(port=port))
    with kannel.running():
        wait_until(lambda: len(requests) == len(sent))
    assert sorted(each["text"].decode(each["charset"].decode()) for each in requests) == sorted(sent)
    # Kannel writes an international number (ton 1) with a plus.
    assert {(each["from"], each["to"]) for each in requests} == {(b"+" + HANDSET.encode(), SHORT_CODE.encode())}
    wait_until(lambda: accepted(conn))
