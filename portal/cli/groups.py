"""The root of the commands and their groups. A module of commands is imported when one of its commands is asked for."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from portal import __version__

EXIT_INTERRUPTED = 130

# In which module of this package a command or a group is, and what it does. The root's help needs no more than this.
ROOT_COMMANDS = {
    "serve": ("running", "The portal and the SMPP server."),
    "web": ("running", "The portal alone."),
    "smsc": ("running", "The SMPP server alone."),
    "demo": ("demo", "Serve on data/demo/, made up on its first run."),
    "init": ("people", "Make a fresh installation; prints the first operator's one-time link."),
    "customer": ("people", "Companies and teams that own accounts."),
    "user": ("people", "People who log in."),
    "account": ("accounts", "Accounts that send SMS: smpp-… and classic (sms-…)."),
    "password": ("passwords", "SMPP passwords."),
    "ip": ("allowed_ips", "Addresses from which an account's clients may bind."),
    "sender": ("senders", "Source addresses that an account's messages may carry."),
    "credits": ("credits", "Balances."),
    "order": ("billing", "Orders of credits."),
    "pack": ("billing", "What credits cost."),
    "price": ("prices", "Price lists: credits a part, by country or by the first digits of numbers."),
    "simulate": ("messages", "What the built-in upstream makes up."),
    "route": ("messages", "Numbers and short codes that reach an account."),
    "blacklist": ("messages", "Numbers that get no messages of an account, most because they said STOP."),
    "config": ("operations", "Print every setting with its value, its default and where it came from."),
    "backup": ("operations", "Write a consistent copy of the database, also while it runs."),
    "restore": ("operations", "Put a copy back; the server must not run."),
    "compact": ("operations", "Give back the space of what was deleted; the server must not run."),
    "check": ("operations", "Prove that file, ledger, messages and totals agree; 1 if they don't."),
}


class CommandError(click.ClickException):
    """A command can't be done; the text says why, in one line."""

    def show(self, file: Any = None) -> None:
        click.echo(" ".join(self.message.split()), file=file or sys.stderr)


@dataclass
class CommonOptions:
    """The options that stand before a command, after it, or after its group; the last one counts."""

    data: Path | None = None
    config: Path | None = None
    json: bool = False


def build_common_options(*, json: bool = True) -> list[click.Parameter]:
    """`--data`, `--config` and `--json` for a command or a group. They go into the context's CommonOptions."""
    options: list[click.Parameter] = [
        _build_common_option(
            "--data",
            type=click.Path(file_okay=False, readable=False, path_type=Path),
            metavar="DIR",
            help="Data folder (PORTAL_DATA; ./data).",
        ),
        _build_common_option(
            "--config",
            type=click.Path(readable=False, path_type=Path),
            metavar="FILE",
            help="Settings (PORTAL_CONFIG; config.toml in DIR).",
        ),
    ]
    return [
        *options,
        *(
            [_build_common_option("--json", is_flag=True, help="Print one JSON value and nothing else.")]
            if json
            else []
        ),
    ]


def _build_common_option(name: str, **attributes: Any) -> click.Option:
    return click.Option([name], expose_value=False, callback=_store_common_option, **attributes)


def _store_common_option(ctx: click.Context, param: click.Parameter, value: object) -> None:
    options = ctx.ensure_object(CommonOptions)
    if value and param.name:
        setattr(options, param.name, value)


class CommandGroup(click.Group):
    """A group whose commands take the common options, and of which some are in modules that are imported on demand.

    Args:
        modules: by command, the module of `portal.cli` that adds it to this group.
        helps: by command, what its help says, for a group that is listed without importing them.
    """

    def __init__(
        self,
        *args: Any,
        modules: Mapping[str, str] | None = None,
        helps: Mapping[str, str] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.params += build_common_options()
        self.modules = modules or {}
        self.helps = helps or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(dict.fromkeys((*self.modules, *self.commands)))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.modules and cmd_name not in self.commands:
            import_module(f"portal.cli.{self.modules[cmd_name]}")
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            # Click knows those that were imported.
            raise click.NoSuchCommand(error.command_name, possibilities=self.list_commands(ctx), ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._get_help(ctx, name)) for name in self.list_commands(ctx)])

    def _get_help(self, ctx: click.Context, name: str) -> str:
        if name in self.helps:
            return self.helps[name]
        command = self.get_command(ctx, name)
        return (command and command.help) or ""


CommandGroup.group_class = CommandGroup

root = click.version_option(__version__, message="SMPP Portal %(version)s")(
    CommandGroup(
        help="SMPP Portal: an SMPP server, and the pages on which its customers look after their accounts.",
        modules={name: module for name, (module, _) in ROOT_COMMANDS.items()},
        helps={name: help for name, (_, help) in ROOT_COMMANDS.items()},
        no_args_is_help=True,
    )
)


def add_group(name: str, modules: Mapping[str, str] | None = None) -> CommandGroup:
    """Add a group to the root, and return it.

    Args:
        modules: as for CommandGroup.
    """
    group = CommandGroup(name, help=root.helps[name], modules=modules, no_args_is_help=True)
    root.add_command(group)
    return group
