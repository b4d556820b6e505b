"""What the commands share: their options, the open database, and how answers look."""

import re
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, _SubParsersAction
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from portal import migrations
from portal.core import config as settings
from portal.core import db, i18n
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.core.wakeup import WakeupSender
from portal.services.operations import backup

COMMON = ("--data", "--config", "--json")

Commands = _SubParsersAction  # what ArgumentParser.add_subparsers() returns

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


class Failure(Exception):
    """A command can't be done; the text says why, in one line."""


@dataclass(frozen=True)
class Answer:
    """What a command says: `value` to scripts (`--json`), `text` to people, `problem` on stderr."""

    value: object = None
    text: str = ""
    problem: str = ""
    status: int = 0


class Shell:
    """What a command works with."""

    def __init__(self, config: Config, conn: db.Connection) -> None:
        self.config = config
        self.conn = conn

    @cached_property
    def keys(self) -> Keys:
        """The installation's keys; raises KeyFileError."""
        return Keys.load(self.config.data)


def options(*names: str) -> ArgumentParser:
    """The options that stand before a command or after it: without a default, so that neither place overrides."""
    made = ArgumentParser(add_help=False, argument_default=SUPPRESS)
    if "--data" in names:
        made.add_argument("--data", type=Path, metavar="DIR", help="data folder (PORTAL_DATA; ./data)")
    if "--config" in names:
        made.add_argument("--config", type=Path, metavar="FILE", help="settings (PORTAL_CONFIG; config.toml in DIR)")
    if "--json" in names:
        made.add_argument("--json", action="store_true", help="print one JSON value and nothing else")
    return made


def group(commands: "Commands[ArgumentParser]", name: str, help: str) -> "Commands[ArgumentParser]":
    """A command that has commands of its own."""
    parser = commands.add_parser(name, help=help, description=help, parents=[options(*COMMON)], allow_abbrev=False)
    return parser.add_subparsers(metavar="COMMAND", required=True)


def command(
    commands: "Commands[ArgumentParser]",
    name: str,
    run: Callable[[Namespace], Answer],
    help: str,
    *,
    names: Sequence[str] = COMMON,
) -> ArgumentParser:
    """A command that opens what it needs by itself."""
    parser = commands.add_parser(name, help=help, description=help, parents=[options(*names)], allow_abbrev=False)
    parser.set_defaults(run=run)
    return parser


def database_command(
    commands: "Commands[ArgumentParser]", name: str, run: Callable[[Shell, Namespace], Answer], help: str
) -> ArgumentParser:
    """A command that works on the database."""

    def with_database(args: Namespace) -> Answer:
        with opened(load_settings(args)) as shell:
            return run(shell, args)

    return command(commands, name, with_database, help)


def account_command(
    commands: "Commands[ArgumentParser]", name: str, run: Callable[[Shell, Namespace], Answer], help: str
) -> ArgumentParser:
    """A command about one account, which comes first."""
    parser = database_command(commands, name, run, help)
    parser.add_argument("account", metavar="ACCOUNT")
    return parser


def load_settings(args: Namespace) -> Config:
    """Raises: ConfigError"""
    return settings.load(getattr(args, "config", None), getattr(args, "data", None))


@contextmanager
def opened(config: Config) -> Iterator[Shell]:
    """Open an installation's database, and keep it from being restored meanwhile.

    Raises:
        Failure: there is none.
        ServerRunning, NewerDatabase
    """
    with in_use(config):
        wakeup_sender = WakeupSender(config.data)
        conn = db.connect(config.database, on_commit=wakeup_sender.send)
        try:
            yield Shell(config, conn)
        finally:
            conn.close()
            wakeup_sender.close()


@contextmanager
def in_use(config: Config) -> Iterator[None]:
    """Keep an installation's database from being restored meanwhile; it is up to date when this begins.

    Raises: as `opened`.
    """
    if not config.database.exists():
        program = Path(sys.argv[0]).name
        raise Failure(f"There is no installation in {config.data}. Make one: {program} init --email YOUR-ADDRESS")
    with backup.in_use(config.data):
        migrations.migrate(config.database, keep_backups=config.retention.backups)
        yield


# --- arguments


def duration(text: str) -> int:
    """Read `30s`, `15m`, `8h`, `1d`, `2w` (and `0`) as milliseconds."""
    if text == "0":
        return 0
    found = re.fullmatch(r"([0-9]{1,4})([smhdw])", text)
    if not found:
        raise ArgumentTypeError(f"{text!r} is not a duration; examples: 15m, 8h, 1d")
    return int(found[1]) * _UNITS_MS[found[2]]


# --- answers


def iso(at: int | None) -> str | None:
    """A moment (milliseconds) as scripts read it: ISO 8601, UTC."""
    return None if at is None else i18n.iso(at)


def pairs(rows: dict[str, object]) -> str:
    """One name and value a line, the values under each other."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows.items())


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns under their headings."""
    lines = [list(head), *([("" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
