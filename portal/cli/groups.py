"""The root of the commands and their groups. A module of commands is imported when one of its commands is asked for."""

import signal
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from portal import __version__

# The signal's number is added, as shells do: 130 for Ctrl-C, 143 for SIGTERM.
EXIT_BY_SIGNAL = 128

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
    "password": ("accounts", "SMPP passwords."),
    "ip": ("accounts", "Addresses from which an account's clients may bind."),
    "sender": ("senders", "Source addresses that an account's messages may carry."),
    "credits": ("credits", "Balances."),
    "order": ("billing", "Orders of credits."),
    "pack": ("billing", "What credits cost."),
    "price": ("prices", "Price lists: credits a part, by country or by the first digits of numbers."),
    "upstream": ("upstreams", "Connections to carriers, which messages take."),
    "route": ("routes", "Which upstreams a message takes: the first route that fits it."),
    "queue": ("queue", "What waits for upstreams: listed, held, released, moved, cancelled."),
    "brake": ("brakes", "What an account may send to whom, and unusual traffic."),
    "request": ("requests", "What customers ask operators for: limits, prices, routes."),
    "refused": ("refused", "Binds and messages that were refused, and why, the latest first."),
    "simulate": ("messages", "What the built-in upstream makes up."),
    "number": ("messages", "Numbers and short codes that reach an account."),
    "blacklist": ("messages", "Numbers that get no messages of an account, most because they said STOP."),
    "config": ("operations", "Print every setting with its value, its default and where it came from."),
    "audit": ("operations", "Who did what, and who was refused at the login, newest first."),
    "alerts": ("alerts", "What operators are told of by mail and to the webhook."),
    "backup": ("operations", "Write a consistent copy of the database, also while it runs."),
    "restore": ("operations", "Put a copy back; the server must not run."),
    "migrate": ("operations", "Bring the database up to this version; no server may run. `serve` does so, too."),
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


def _store_common_option(ctx: click.Context, param: click.Parameter, value: object) -> None:
    options = ctx.ensure_object(CommonOptions)
    if value and param.name:
        setattr(options, param.name, value)


def _build_common_option(name: str, **attributes: Any) -> click.Option:
    return click.Option([name], expose_value=False, callback=_store_common_option, **attributes)


# What can't be read is refused (1) and no wrong usage: PORTAL_DATA names a folder as well.
PATH = click.Path(readable=False, path_type=Path)
COMMON_OPTIONS = (
    _build_common_option("--data", type=PATH, metavar="DIR", help="Data folder (PORTAL_DATA; ./data)."),
    _build_common_option("--config", type=PATH, metavar="FILE", help="Settings (PORTAL_CONFIG; config.toml in DIR)."),
    _build_common_option("--json", is_flag=True, help="Print one JSON value and nothing else."),
)
"""Of commands and groups; the last one not of commands that print no data. They go into the context's CommonOptions."""


class CommandGroup(click.Group):
    """A group whose commands take the common options."""

    def __init__(self, name: str | None, help: str) -> None:
        super().__init__(name, help=help, no_args_is_help=True)
        self.params += COMMON_OPTIONS

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added; click's own is the alphabet's."""
        return list(self.commands)


class RootGroup(CommandGroup):
    """The commands of ROOT_COMMANDS. The module of one is imported when it is asked for, and adds it."""

    def __init__(self, help: str) -> None:
        super().__init__(None, help)
        # Click lists the names, and looks among them for what somebody may have meant.
        self.commands = dict.fromkeys(ROOT_COMMANDS, click.Command(None))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in ROOT_COMMANDS:
            import_module(f"portal.cli.{ROOT_COMMANDS[cmd_name][0]}")
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in ROOT_COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Click itself would print an empty line first.
            raise click.exceptions.Exit(EXIT_BY_SIGNAL + signal.SIGINT) from None


root = click.version_option(__version__, message="SMPP Portal %(version)s")(
    RootGroup("SMPP Portal: an SMPP server, and the pages on which its customers look after their accounts.")
)
