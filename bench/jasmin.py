"""Jasmin as `jasmin.sh` has set it up, the peer that benches compare with."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stand import ROOT, measure

# What has not been forwarded then is given up.
FORWARD_S = 60.0


class Jasmin:
    """A running Jasmin; it stands still but for the seconds in which it is measured.

    It accepts more than it forwards, and would work off what it has queued while something else is measured.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = int((folder / "port").read_text())
        self._processes = [int(each) for each in (folder / "processes").read_text().split()]
        self._sink = int((folder / "running").read_text().split()[0])
        self._answer_count = 0
        self._signal(signal.SIGSTOP)

    def load(self, sessions: int, window: int, **timing: object) -> dict[str, Any]:
        """Measure as `Installation.load` does."""
        with self._awake():
            return self._measure(sessions, window, **timing)

    def load_and_forward(self, sessions: int, window: int, **timing: object) -> dict[str, Any]:
        """The same, and wait until all was forwarded; `forwarded`: how many messages, `forwarded_at`: when the last."""
        before = self._ask_sink()["submits"]
        with self._awake():
            result = self._measure(sessions, window, **timing)
            sunk, ends_at = self._ask_sink(), time.monotonic() + FORWARD_S
            while sunk["submits"] - before < result["total_acknowledged"] and time.monotonic() < ends_at:
                time.sleep(0.1)
                sunk = self._ask_sink()
        return result | {"forwarded": sunk["submits"] - before, "forwarded_at": sunk["last_at"]}

    def _measure(self, sessions: int, window: int, **timing: object) -> dict[str, Any]:
        return measure(
            port=self._port,
            accounts=self._folder / "accounts",
            sessions=sessions,
            window=window,
            watch=self._processes,
            **timing,
        )

    def _ask_sink(self) -> dict[str, Any]:
        """Ask the sink, which writes its answers into a file."""
        self._answer_count += 1
        os.kill(self._sink, signal.SIGUSR1)
        while (text := (self._folder / "run" / "sink").read_text()).count("\n") < self._answer_count:
            time.sleep(0.01)
        answer: dict[str, Any] = json.loads(text.splitlines()[-1])
        return answer

    @contextmanager
    def _awake(self) -> Iterator[None]:
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            os.kill(process, number)


@contextmanager
def running_jasmin(folder: Path | None) -> Iterator[Jasmin | None]:
    """Start the Jasmin of that folder, and stop it afterwards; None where there is none."""
    if folder is None:
        yield None
        return
    script = ROOT / "bench" / "jasmin.sh"
    subprocess.run([script, "start", folder], check=True, stdout=sys.stderr)
    try:
        yield Jasmin(folder)
    finally:
        subprocess.run([script, "stop", folder], check=True, stdout=sys.stderr)
