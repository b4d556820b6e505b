"""What the commands share: how one runs, the open database, types of arguments, and how output is formatted."""

import getpass
import json
import re
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, NoReturn

import click

from portal import migrations
from portal.cli.groups import COMMON_OPTIONS, ROOT_COMMANDS, CommandError, CommandGroup, CommonOptions, root
from portal.cli.progress import show_progress
from portal.core import config as settings
from portal.core import db, i18n
from portal.core.config import Config, ConfigError
from portal.core.crypto import KeyFileError, Keys
from portal.core.pasted_text import remove_invisible_marks
from portal.core.wakeup import WakeupSender
from portal.migrations import MigrationFailed, NewerDatabase
from portal.services.accounts import accounts
from portal.services.common.errors import Refused
from portal.services.operations import database_key, folder_locks

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}


@dataclass(frozen=True)
class CommandOutput:
    """What a command prints: `value` to scripts (`--json`), `text` to people, `problem` on stderr."""

    value: object = None
    text: str = ""
    problem: str = ""
    status: int = 0


CommandFunction = Callable[..., CommandOutput]
CommandDecorator = Callable[[CommandFunction], CommandFunction]


class CommandContext:
    """What a command works with."""

    def __init__(self, config: Config, conn: db.Connection) -> None:
        self.config = config
        self.conn = conn

    @cached_property
    def keys(self) -> Keys:
        """The installation's keys; raises KeyFileError."""
        return Keys.load(self.config.data)


class PastedType(click.ParamType[Any]):
    """Another type, which gets what was pasted without what nobody sees in it."""

    def __init__(self, type: click.ParamType[Any]) -> None:
        self.type = type
        self.name = type.name

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return self.type.get_metavar(param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        return self.type.shell_complete(ctx, param, incomplete)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.type(remove_invisible_marks(value) if isinstance(value, str) else value, param, ctx)


# The name of a file is what it is; so are passwords and texts of messages, which are UNPROCESSED. Of a tuple each type
# says it by itself, and flags have no value.
_TYPES_AS_TYPED = (click.Path, click.types.UnprocessedParamType, click.Tuple, click.types.BoolParamType)


class Command(click.Command):
    """A command that opens what it needs by itself: its function is called with CommonOptions, returns CommandOutput.

    Args:
        example: how it is called, without the program's name.
        prints_data: whether it takes `--json`.
    """

    def __init__(self, *args: Any, example: str, prints_data: bool = True, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.example = example
        # The group's help has all of it, where click would cut it.
        self.short_help = self.help
        for each in self.params:
            if not isinstance(each.type, _TYPES_AS_TYPED):
                each.type = PastedType(each.type)
        self.params += COMMON_OPTIONS if prints_data else COMMON_OPTIONS[:-1]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        unsigned = [re.sub(r"^-(?=[0-9])", "", each) for each in args]
        if unsigned != args:
            # A negative number is an argument, and no option. Click can only ignore all options that it doesn't know,
            # so it looks for these first, without the minus signs.
            self.make_parser(ctx).parse_args(unsigned)
            ctx.ignore_unknown_options = True
        # A value that a rule refuses is refused (1), and no wrong usage: it is as wrong in a page's form.
        with _one_line_errors():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> int:
        options = ctx.ensure_object(CommonOptions)
        with _one_line_errors():
            with self.open_context(options) as context:
                assert self.callback
                output: CommandOutput = self.callback(context, **ctx.params)
            if options.json:
                print(json.dumps(output.value, ensure_ascii=False), flush=True)
            elif output.text:
                print(output.text, flush=True)
        if output.problem:
            CommandError(output.problem).show()
        return output.status

    def open_context(self, options: CommonOptions) -> AbstractContextManager[object]:
        """What the function is called with."""
        return nullcontext(options)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Example"):
            formatter.write_text(f"{ctx.find_root().info_name} {self.example}")


class DatabaseCommand(Command):
    """A command that works on the database: its function is called with a CommandContext."""

    def open_context(self, options: CommonOptions) -> AbstractContextManager[object]:
        return open_database(load_config(options))


def named_argument(metavar: str, get: Callable[..., object], **attributes: Any) -> CommandDecorator:
    """The argument names a thing, and the function is called with the thing itself.

    Args:
        get: what finds it, by the connection, what the arguments in front of this one name, and its name.
    """
    parameter = metavar.lower()

    def decorate(run: CommandFunction) -> CommandFunction:
        @wraps(run)
        def run_with_named(context: CommandContext, *named: object, **params: Any) -> CommandOutput:
            found = get(context.conn, *named, params.pop(parameter))
            return run(context, *named, found, **params)

        return click.argument(parameter, metavar=metavar, **attributes)(run_with_named)

    return decorate


class DatabaseCommandGroup(CommandGroup):
    """A group whose commands work on the database, unless they say otherwise.

    A command whose function has a parameter `account` gets the account's name as an argument, and is called with the
    account itself. `named` says the same of other parameters, each with what adds its argument.
    """

    command_class = DatabaseCommand

    def __init__(self, name: str, help: str, **named: CommandDecorator) -> None:
        super().__init__(name, help)
        self._named = {"account": named_argument("ACCOUNT", accounts.get_account), **named}

    def command(self, *args: Any, **attributes: Any) -> Callable[[CommandFunction], click.Command]:  # type: ignore[override]
        add: Callable[[CommandFunction], click.Command] = super().command(*args, **attributes)

        def add_with_arguments(run: CommandFunction) -> click.Command:
            # The last one first, as decorators are applied from below.
            for each in reversed(signature(run).parameters):
                run = self._named[each](run) if each in self._named else run
            return add(run)

        return add_with_arguments


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Raises: CommandError, in place of what a command is refused or fails with."""
    try:
        yield
    except (Refused, ConfigError, KeyFileError, NewerDatabase, MigrationFailed) as error:
        raise CommandError(str(error)) from error
    except sqlite3.Error as error:
        raise CommandError(f"{type(error).__name__}: {error}") from error
    except UnicodeEncodeError as error:
        # The characters are left out: they may be of a password that was to be printed.
        raise CommandError(f"An argument, or what is to be printed, can't be written in {error.encoding}.") from error
    except UnicodeDecodeError as error:
        # What can't be read may be of a password, too.
        raise CommandError(f"What was read isn't text in {error.encoding}.") from None
    except OverflowError as error:
        # Of the database, which has numbers of 64 bits.
        raise CommandError("An argument is a larger number than any that there is.") from error
    except BrokenPipeError:
        # Whoever reads the output (`| head`) wants no more of it: Click ends the program.
        raise
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        raise CommandError(text) from error


def add_group(name: str, **named: CommandDecorator) -> DatabaseCommandGroup:
    """Add a group of ROOT_COMMANDS to the root, and return it; `named` as for DatabaseCommandGroup."""
    group = DatabaseCommandGroup(name, ROOT_COMMANDS[name][1], **named)
    root.add_command(group)
    return group


def root_command(
    name: str, cls: type[Command] = DatabaseCommand, **attributes: Any
) -> Callable[[CommandFunction], click.Command]:
    """A command of ROOT_COMMANDS that is no group; arguments as for Command."""
    return root.command(name, cls=cls, help=ROOT_COMMANDS[name][1], **attributes)


def wrong_usage(message: str) -> NoReturn:
    """End the command with its usage and this message: exit status 2."""
    click.get_current_context().fail(message)


def load_config(options: CommonOptions) -> Config:
    """Raises: ConfigError"""
    return settings.load_config(options.config, options.data)


@contextmanager
def open_database(config: Config, *, may_be_older: bool = False, any_key: bool = False) -> Iterator[CommandContext]:
    """Open an installation's database, and keep it from being restored or migrated meanwhile.

    Args:
        may_be_older: its schema may be an older version's; the block must not write.
        any_key: `secret.key` may belong to another database.

    Raises:
        CommandError: there is none, or its schema is an older version's.
        KeyFileError: `secret.key` is damaged, or belongs to another database. That it is missing raises nothing here:
            only some commands need it.
        DataFolderInUse, NewerDatabase
    """
    with (
        lock_database(config, may_be_older=may_be_older, any_key=any_key),
        closing(db.connect(config.database_file, on_commit=WakeupSender(config.data).send)) as conn,
    ):
        yield CommandContext(config, conn)


@contextmanager
def lock_database(config: Config, *, may_be_older: bool = False, any_key: bool = False) -> Iterator[None]:
    """Keep an installation's database from being restored or migrated meanwhile.

    Arguments and errors: as `open_database`.
    """
    require_installation(config)
    with folder_locks.acquire_data_folder_lock(config.data):
        with closing(db.connect(config.database_file)) as conn:
            pending = migrations.list_pending_names(conn)
            if len(pending) == len(migrations.KNOWN_NAMES):
                # An `init` that was stopped has left an empty file.
                raise _build_missing_error(config)
            if pending and not may_be_older:
                raise CommandError(
                    f"{config.database_file} was written by an older version of this program. Stop the server and run"
                    f" `{config.format_command('migrate')}`, or start `{config.format_command('serve')}`, which does"
                    " so."
                )
            if not any_key:
                database_key.require_key_of_database(conn, config.data)
        yield


@contextmanager
def lock_and_migrate_database(config: Config, *, but_for: str = "") -> Iterator[list[str]]:
    """Keep a database from being restored or migrated meanwhile; it is made or up to date when this begins.

    For `serve`, `init`, `demo` and `migrate` alone.

    Args:
        but_for: the lock of a server that this process holds itself.

    Yields:
        The names of the migrations that were applied.

    Raises:
        KeyFileError: `secret.key` belongs to another database, and nothing was migrated.
        OlderDatabaseInUse, NewerDatabase, MigrationFailed
    """
    with show_progress("Update of the database", "it is as it was") as progress:
        lock, applied = folder_locks.lock_migrated_database(config.data, progress, but_for=but_for)
    with lock:
        yield applied


def require_installation(config: Config) -> None:
    """Raises: CommandError, where there is no database."""
    if not config.database_file.exists():
        raise _build_missing_error(config)


def _build_missing_error(config: Config) -> CommandError:
    return CommandError(
        f"There is no installation in {config.data}. Make one: {config.format_command('init --email YOUR-ADDRESS')}"
    )


# --- arguments


def read_password() -> str:
    """Stdin's first line; on a terminal it is asked for, and not shown. For an option `--password-stdin`."""
    if sys.stdin.isatty():
        return getpass.getpass("Password: ")
    return sys.stdin.readline().rstrip("\r\n")


def parse_duration(text: str) -> int:
    """`30s`, `15m`, `8h`, `1d`, `2w` (and `0`), as milliseconds. The type of an option."""
    match = re.fullmatch(r"([0-9]{1,4})([smhdw])", text)
    if text != "0" and not match:
        raise click.BadParameter(f"{text!r} is not a duration; examples: 15m, 8h, 1d")
    return int(match[1]) * _UNITS_MS[match[2]] if match else 0


# --- output


def format_timestamp(at: int | None) -> str | None:
    """A moment (milliseconds) as scripts read it: ISO 8601, UTC."""
    return None if at is None else i18n.format_iso8601(at)


def fields_to_dict(thing: object, *names: str) -> dict[str, object]:
    """Those fields of a thing that scripts read as they are."""
    return {name: getattr(thing, name) for name in names}


def format_names_and_values(rows: dict[str, object]) -> str:
    """One name and value a line, the values under each other."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows.items())


def _format_cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    # What customers have typed may hold characters that a terminal obeys.
    return _CONTROL_CHARACTERS.sub(lambda match: f"\\x{ord(match[0]):02x}", "" if value is None else str(value))


def describe(values: dict[str, object], **other_words: object) -> CommandOutput:
    """One thing by its values; people read some of them in other words."""
    return CommandOutput(values, format_names_and_values(values | other_words))


def list_rows(
    value: dict[str, object] | list[dict[str, object]],
    columns: Sequence[str],
    words: Callable[[dict[str, object]], dict[str, object]] = dict,
) -> CommandOutput:
    """Rows as they are, or a single one, and for people a table of these columns.

    Args:
        words: what people read of a row instead.
    """
    rows = [row | words(row) for row in (value if isinstance(value, list) else [value])]
    return CommandOutput(value, format_table(columns, [[row[column] for column in columns] for row in rows]))


def format_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns under their headings."""
    lines = [list(headings), *([_format_cell(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
