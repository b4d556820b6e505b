"""Every fault at its full count, with the counts: `python -m tests.faults [ROUNDS]`."""

import os
import sys
from pathlib import Path

import pytest

os.environ["FAULT_ROUNDS"] = sys.argv[1] if len(sys.argv) > 1 else "50"
sys.exit(pytest.main(["-s", "-q", str(Path(__file__).parent)]))
