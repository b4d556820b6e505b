"""A wall clock that can be set: read by Python at its start where this folder is on its path.

Debian's libfaketime (0.9.10) would be nearer to the kernel, but takes CLOCK_MONOTONIC for the wall clock when a thread
sleeps (clock_nanosleep), so that time.sleep fails.
"""

import os
import time
from pathlib import Path

_FILE = Path(os.environ["FAULTS_CLOCK"])
_time, _time_ns = time.time, time.time_ns


def _ahead() -> int:
    return int(_FILE.read_text())


time.time = lambda: _time() + _ahead()
time.time_ns = lambda: _time_ns() + _ahead() * 10**9
