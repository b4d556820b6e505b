"""Jasmin 0.11.1 as the upstream. It takes redis, rabbitmq and half a minute, so `make test` leaves it out:

    bench/jasmin.sh setup
    .venv/bin/python -m pytest tests/interop/jasmin_by_hand.py

Messages go from the program to Jasmin's SMPP server, and through Jasmin to an SMSC on the npm package `smpp`; an answer
of a handset comes back the same way, and receipts do so where Jasmin was corrected as docs/clients.md says.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.core import db
from portal.core.config import Config
from tests.interop.foreign_server import NODE, run_foreign_server
from tests.interop.test_foreign_servers import Kind, exchange_messages
from tests.support import ROOT, Cast

FOLDER = Path(os.environ.get("JASMIN", "~/.cache/smpp-portal/jasmin")).expanduser()
SMPP_PORT, CONSOLE_PORT, USER, PASSWORD = 24775, 24990, "bench0", "pass0"
TIMEOUT_S = 30


@pytest.fixture
def jasmin() -> Iterator[None]:
    """A running Jasmin, with a user whose messages go to a sink."""
    script = ROOT / "bench" / "jasmin.sh"
    # These bring receipts, and messages from handsets, to clients by SMPP.
    options = {"JASMIN_OPTIONS": "--enable-dlr-thrower --enable-deliver-thrower"}
    subprocess.run([script, "start", FOLDER], check=True, env=os.environ | options)
    yield
    subprocess.run([script, "stop", FOLDER], check=True)


def configure(*lines: str) -> None:
    """Type lines at Jasmin's console."""
    with socket.create_connection(("127.0.0.1", CONSOLE_PORT), TIMEOUT_S) as console:
        read_until(console, rb"Session ref: .*\n")
        for line in lines:
            console.sendall(line.encode() + b"\r\n")
            said = read_until(console, rb"(jcli : |> )\Z")
            assert not re.search(rb"(?i)error|unknown|incorrect|invalid|fail", said), (line, said)


def read_until(console: socket.socket, end: bytes) -> bytes:
    said = b""
    while not re.search(end, said):
        more = console.recv(4096)
        assert more, said
        said += more
    return said


@pytest.mark.usefixtures("jasmin")
async def test_messages_receipts_and_an_answer_through_jasmin(config: Config, conn: db.Connection, cast: Cast) -> None:
    (listeners,) = FOLDER.glob("venv/lib/python3*/site-packages/jasmin/managers/listeners.py")
    is_corrected = "pdu_type=_pdu.response.id" not in listeners.read_text()
    # It accepts a message_payload, and sends nothing of it.
    kind = Kind(NODE, reads_payload=False, sends_receipts=is_corrected)
    async with run_foreign_server(NODE) as behind:
        configure(
            *("smppccm -a", "cid behind", "host 127.0.0.1", f"port {behind.port}"),
            *("username behind", "password behind", "submit_throughput 0", "ok", "smppccm -1 behind"),
            *("mtrouter -a", "type DefaultRoute", "connector smppc(behind)", "rate 0.0", "ok"),
            *("morouter -a", "type DefaultRoute", f"connector smpps({USER})", "ok"),
        )
        settings = {"port": SMPP_PORT, "system_id": USER, "password": PASSWORD}
        await exchange_messages(config, conn, cast, kind, behind, **settings)
