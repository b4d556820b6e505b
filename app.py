"""SMPP Portal: `python app.py COMMAND`; `python app.py --help` lists the commands."""

import os
import sys
from pathlib import Path

from portal.cli import main

# Where a standard stream was closed, Python has None in its place, and the next file that is opened gets its number.
for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
    if getattr(sys, name) is None:
        setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - for as long as the process runs

if __name__ == "__main__":
    sys.exit(main())
