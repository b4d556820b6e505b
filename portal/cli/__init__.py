"""The shell's door: `app.py COMMAND`. Commands ask the services and print what they say; no rule is here.

Exit status: 0 done; 1 refused or failed, with one line on stderr that says why; 2 wrong usage.
"""

import json
import os
import sqlite3
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from portal.cli import accounts, billing, credits, messages, operations, people, prices, running, senders
from portal.cli.shell import COMMON, Answer, Failure, options
from portal.core.config import ConfigError
from portal.core.crypto import KeyFileError
from portal.migrations import NewerDatabase
from portal.services.common.errors import Refused

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: what stands after the program's name; None: the process's own arguments.

    Returns:
        The exit status.
    """
    args = parser().parse_args(argv)
    try:
        answer: Answer = args.run(args)
        _print(answer, as_json=getattr(args, "json", False))
    except (Refused, Failure, ConfigError, KeyFileError, NewerDatabase) as error:
        return _failed(str(error))
    except BrokenPipeError:
        # Whoever read the output (`| head`) has seen enough. Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except sqlite3.Error as error:
        return _failed(f"{type(error).__name__}: {error}")
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    return answer.status


def parser() -> ArgumentParser:
    """Every command with its options."""
    made = ArgumentParser(
        prog=Path(sys.argv[0]).name,
        description="SMPP Portal: an SMPP server, and the pages on which its customers look after their accounts.",
        parents=[options(*COMMON)],
        allow_abbrev=False,
    )
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (running, people, accounts, senders, credits, billing, prices, messages, operations):
        module.register(commands)
    return made


def _print(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.value, ensure_ascii=False), flush=True)
    elif answer.text:
        print(answer.text, flush=True)
    if answer.problem:
        _failed(answer.problem)


def _failed(line: str) -> int:
    print(" ".join(line.split()), file=sys.stderr)
    return 1
