"""The command line: `app.py COMMAND`. Commands call the services and print what they return; no rule is here.

Exit status: 0 done; 1 refused or failed, with one line on stderr that says why; 2 wrong usage; 130 stopped by Ctrl-C
(SIGINT) and 143 by SIGTERM: 128 and the signal's number.
"""

import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from portal.cli.groups import root

# Objects that are made before the garbage collector looks for cycles among them. Python's own 700 are 70 messages of
# the SMPP server; and what modules make when they are imported stays.
_GC_THRESHOLD = 10_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: what stands after the program's name; None: the process's own arguments.

    Returns:
        The exit status.

    Raises:
        SystemExit: from click, where nobody reads the output any more (status 1), and after it has completed a word for
            a shell.
    """
    _replace_closed_streams()
    gc.set_threshold(_GC_THRESHOLD)
    try:
        status = root.main(argv, prog_name=Path(sys.argv[0]).name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return int(status)


def _replace_closed_streams() -> None:
    # Python has None in the place of a closed one, and the next file that is opened gets its number.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - for as long as the process runs
