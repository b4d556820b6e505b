"""The command line: `app.py COMMAND`. Commands call the services and print what they return; no rule is here.

Exit status: 0 done; 1 refused or failed, with one line on stderr that says why; 2 wrong usage; 130 interrupted.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from portal.cli.groups import EXIT_INTERRUPTED, root


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: what stands after the program's name; None: the process's own arguments.

    Returns:
        The exit status.
    """
    try:
        status = root.main(argv, prog_name=Path(sys.argv[0]).name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    return int(status)
