"""What the commands share: their options, the open database, and how output is formatted."""

import re
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, _SubParsersAction
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from portal import migrations
from portal.cli.progress import show_progress
from portal.core import config as settings
from portal.core import db, i18n
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.wakeup import WakeupSender
from portal.services.operations import backup

COMMON_OPTIONS = ("--data", "--config", "--json")

Commands = _SubParsersAction  # what ArgumentParser.add_subparsers() returns

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


class CommandError(Exception):
    """A command can't be done; the text says why, in one line."""


@dataclass(frozen=True)
class CommandOutput:
    """What a command prints: `value` to scripts (`--json`), `text` to people, `problem` on stderr."""

    value: object = None
    text: str = ""
    problem: str = ""
    status: int = 0


class CommandContext:
    """What a command works with."""

    def __init__(self, config: Config, conn: db.Connection) -> None:
        self.config = config
        self.conn = conn

    @cached_property
    def keys(self) -> Keys:
        """The installation's keys; raises KeyFileError."""
        return Keys.load(self.config.data)


def build_option_parser(*names: str) -> ArgumentParser:
    """The options that stand before a command or after it: without a default, so that neither place overrides."""
    parser = ArgumentParser(add_help=False, argument_default=SUPPRESS)
    if "--data" in names:
        parser.add_argument("--data", type=Path, metavar="DIR", help="data folder (PORTAL_DATA; ./data)")
    if "--config" in names:
        parser.add_argument("--config", type=Path, metavar="FILE", help="settings (PORTAL_CONFIG; config.toml in DIR)")
    if "--json" in names:
        parser.add_argument("--json", action="store_true", help="print one JSON value and nothing else")
    return parser


def add_command_group(commands: "Commands[ArgumentParser]", name: str, help: str) -> "Commands[ArgumentParser]":
    """A command that has commands of its own."""
    parser = commands.add_parser(
        name, help=help, description=help, parents=[build_option_parser(*COMMON_OPTIONS)], allow_abbrev=False
    )
    return parser.add_subparsers(metavar="COMMAND", required=True)


def add_command(
    commands: "Commands[ArgumentParser]",
    name: str,
    run: Callable[[Namespace], CommandOutput],
    help: str,
    *,
    option_names: Sequence[str] = COMMON_OPTIONS,
) -> ArgumentParser:
    """A command that opens what it needs by itself."""
    parser = commands.add_parser(
        name, help=help, description=help, parents=[build_option_parser(*option_names)], allow_abbrev=False
    )
    parser.set_defaults(run=run)
    return parser


def add_database_command(
    commands: "Commands[ArgumentParser]",
    name: str,
    run: Callable[[CommandContext, Namespace], CommandOutput],
    help: str,
) -> ArgumentParser:
    """A command that works on the database."""

    def run_with_database(args: Namespace) -> CommandOutput:
        with open_database(load_config(args)) as context:
            return run(context, args)

    return add_command(commands, name, run_with_database, help)


def add_account_command(
    commands: "Commands[ArgumentParser]",
    name: str,
    run: Callable[[CommandContext, Namespace], CommandOutput],
    help: str,
) -> ArgumentParser:
    """A command about one account, which comes first."""
    parser = add_database_command(commands, name, run, help)
    parser.add_argument("account", metavar="ACCOUNT")
    return parser


def load_config(args: Namespace) -> Config:
    """Raises: ConfigError"""
    return settings.load_config(getattr(args, "config", None), getattr(args, "data", None))


@contextmanager
def open_database(config: Config) -> Iterator[CommandContext]:
    """Open an installation's database, and keep it from being restored meanwhile.

    Raises:
        CommandError: there is none.
        ServerRunning, NewerDatabase
    """
    with lock_and_migrate_database(config):
        wakeup_sender = WakeupSender(config.data)
        conn = db.connect(config.database_file, on_commit=wakeup_sender.send)
        try:
            yield CommandContext(config, conn)
        finally:
            conn.close()
            wakeup_sender.close()


@contextmanager
def lock_and_migrate_database(config: Config) -> Iterator[None]:
    """Keep an installation's database from being restored meanwhile; it is up to date when this begins.

    Raises: as `open_database`.
    """
    if not config.database_file.exists():
        program = Path(sys.argv[0]).name
        raise CommandError(f"There is no installation in {config.data}. Make one: {program} init --email YOUR-ADDRESS")
    with backup.acquire_data_folder_lock(config.data):
        with show_progress(
            "Update of the database", "the step it was at is taken back, and the next start goes on"
        ) as progress:
            migrations.migrate(config.database_file, keep_backups=config.retention.backups, progress=progress)
        yield


# --- arguments


def parse_duration(text: str) -> int:
    """Read `30s`, `15m`, `8h`, `1d`, `2w` (and `0`) as milliseconds."""
    if text == "0":
        return 0
    match = re.fullmatch(r"([0-9]{1,4})([smhdw])", text)
    if not match:
        raise ArgumentTypeError(f"{text!r} is not a duration; examples: 15m, 8h, 1d")
    return int(match[1]) * _UNITS_MS[match[2]]


# --- output


def format_timestamp(at: int | None) -> str | None:
    """A moment (milliseconds) as scripts read it: ISO 8601, UTC."""
    return None if at is None else i18n.format_iso8601(at)


def format_names_and_values(rows: dict[str, object]) -> str:
    """One name and value a line, the values under each other."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows.items())


def format_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns under their headings."""
    lines = [list(headings), *([("" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
