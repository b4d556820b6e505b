"""The command line: `app.py COMMAND`. Commands call the services and print what they return; no rule is here.

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
from portal.cli.shell import COMMON_OPTIONS, CommandError, CommandOutput, build_option_parser
from portal.core.config import ConfigError
from portal.core.crypto import KeyFileError
from portal.migrations import NewerDatabase
from portal.services.common.errors import Refused

_EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: what stands after the program's name; None: the process's own arguments.

    Returns:
        The exit status.
    """
    args = build_parser().parse_args(argv)
    try:
        output: CommandOutput = args.run(args)
        _print_output(output, as_json=getattr(args, "json", False))
    except (Refused, CommandError, ConfigError, KeyFileError, NewerDatabase) as error:
        return _print_error(str(error))
    except BrokenPipeError:
        # Whoever reads the output (`| head`) wants no more of it. Python would complain once more while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except sqlite3.Error as error:
        return _print_error(f"{type(error).__name__}: {error}")
    except OSError as error:
        return _print_error(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    return output.status


def build_parser() -> ArgumentParser:
    """Every command with its options."""
    root_parser = ArgumentParser(
        prog=Path(sys.argv[0]).name,
        description="SMPP Portal: an SMPP server, and the pages on which its customers look after their accounts.",
        parents=[build_option_parser(*COMMON_OPTIONS)],
        allow_abbrev=False,
    )
    commands = root_parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (running, people, accounts, senders, credits, billing, prices, messages, operations):
        module.register_commands(commands)
    return root_parser


def _print_output(output: CommandOutput, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(output.value, ensure_ascii=False), flush=True)
    elif output.text:
        print(output.text, flush=True)
    if output.problem:
        _print_error(output.problem)


def _print_error(message: str) -> int:
    print(" ".join(message.split()), file=sys.stderr)
    return 1
