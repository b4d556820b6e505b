"""How long a page's write waits beside an SMPP server that is kept as busy as it can be, and what it costs submits.

    .venv/bin/python bench/turns.py [SECONDS]

On a fresh data folder it starts the real SMPP process and keeps a window of submits in flight on one bind, first alone
and then beside a process that writes as pages do, forty times a second. Prints one table.
"""

from __future__ import annotations

import math
import multiprocessing
import socket
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import BinaryIO

from propagation import Bench

from portal import db
from portal.db import immediate
from portal.services import accounts, credits, prices
from portal.services.audit import SHELL
from portal.smsc import pdu
from portal.smsc.pdu import Bind, SubmitSm
from portal.smsc.status import Command

SECONDS = 5.0
WINDOW = 1_000
PAUSE_S = 0.025


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        try:
            client = Client(bench)
            alone = client.rate(seconds)
            stop, waits = multiprocessing.Event(), multiprocessing.Queue()
            page = multiprocessing.Process(target=write, args=(Path(folder), stop, waits))
            page.start()
            beside = client.rate(seconds)
            stop.set()
            waited = sorted(waits.get())
            page.join()
        finally:
            bench.close()
    print(f"submits a second    alone {alone:8,.0f}    beside pages that write {beside:8,.0f}")
    print(
        f"a page's write      {len(waited)} of them, p50 {share(waited, 0.5):.1f} ms, p99 {share(waited, 0.99):.1f} ms"
    )
    return 0


def share(values: list[float], part: float) -> float:
    """The value that this part of all, which are sorted, don't exceed."""
    return values[math.ceil(len(values) * part) - 1]


def write(folder: Path, stop: Event, waits: multiprocessing.Queue[list[float]]) -> None:
    """Write as a page does, and tell how long each took from its begin to its commit, in milliseconds."""
    conn, taken = db.connect(folder / db.FILE_NAME), []
    while not stop.wait(PAUSE_S):
        began = time.perf_counter()
        with immediate(conn):
            conn.execute("UPDATE customers SET language = language")
        taken.append((time.perf_counter() - began) * 1000)
    waits.put(taken)


class Client:
    """A bind that always has WINDOW submits in flight."""

    def __init__(self, bench: Bench) -> None:
        conn, account = bench.conn, bench.account
        prices.replace(conn, prices.STARTING_PRICES)
        accounts.change(conn, SHELL, account, windowing=0, throughput=0, binds=0, any_sender=True)
        credits.grant(conn, SHELL, account, 10**9 * credits.THOUSANDTHS)
        bench.restore()
        self._socket = socket.create_connection(("127.0.0.1", bench.port))
        self._answers: BinaryIO = self._socket.makefile("rb")
        self._socket.sendall(Bind(Command.BIND_TRANSMITTER, 1, account.name, bench.password).encode())
        self._read()
        # No outcome (006): only submits are measured. The sequence is the same for all, and nobody minds.
        self._submit = SubmitSm(
            1, source_ton=5, source="BENCH", dest_ton=1, dest_npi=1, destination="393401234006", short_message=b"hello"
        ).encode()
        self._socket.sendall(self._submit * WINDOW)

    def rate(self, seconds: float) -> float:
        """Submits acknowledged a second."""
        began, acknowledged = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            for _ in range(WINDOW // 2):
                self._read()
            self._socket.sendall(self._submit * (WINDOW // 2))
            acknowledged += WINDOW // 2
        return acknowledged / (time.perf_counter() - began)

    def _read(self) -> None:
        header = pdu.read_header(self._answers.read(pdu.HEADER_LENGTH), 0)
        if header is None or header.status:
            raise ConnectionError(f"refused: {header}")
        self._answers.read(header.length - pdu.HEADER_LENGTH)


if __name__ == "__main__":
    sys.exit(main())
