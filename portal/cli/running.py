"""`serve`, `web`, `smsc` and `demo`: the program running."""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from portal import __version__, demo, supervisor
from portal.cli.groups import CommonOptions
from portal.cli.shell import (
    Command,
    CommandOutput,
    load_config,
    lock_and_migrate_database,
    open_database,
    root_command,
    wrong_usage,
)
from portal.core.config import Config
from portal.demo import fixtures
from portal.services.people import two_factor

_log = logging.getLogger(__name__)

_supervised_option = click.option("--supervised", is_flag=True, hidden=True)


@root_command("serve", cls=Command, prints_data=False, example="serve --data /var/lib/smpp-portal")
def _run_all(options: CommonOptions) -> CommandOutput:
    config = load_config(options)
    with _lock_database_and_check_key(config):
        return _serve(config, options)


def _serve(config: Config, options: CommonOptions, on_ready: Callable[[], None] | None = None) -> CommandOutput:
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s serve %(message)s")
    _log.info("SMPP Portal %s", __version__)
    return CommandOutput(status=supervisor.serve(config, _build_child_options(options), on_ready))


@contextmanager
def _lock_database_and_check_key(config: Config) -> Iterator[None]:
    """`use_database`, and the key belongs to the database: here one line says so, later every login would fail.

    Raises: as `open_database`, and KeyFileError.
    """
    with open_database(config) as context:
        two_factor.require_key_of_database(context.conn, context.keys)
    with lock_and_migrate_database(config):
        yield


def _build_child_options(options: CommonOptions) -> list[str]:
    """Options for the child processes, so that they read the same settings as this process."""
    values = {"--data": options.data, "--config": options.config}
    return [part for name, value in values.items() if value is not None for part in (name, str(value))]


@root_command("web", cls=Command, prints_data=False, example="web --data /var/lib/smpp-portal")
@_supervised_option
def _run_web(options: CommonOptions, *, supervised: bool) -> CommandOutput:
    # Imported here to save start-up time: no other command needs Flask.
    from portal.web import server

    config = load_config(options)
    with _lock_database_and_check_key(config), supervisor.run_as_component(config, "web", supervised=supervised):
        return CommandOutput(status=server.run_web_server(config, _build_child_options(options)))


@root_command("smsc", cls=Command, prints_data=False, example="smsc --data /var/lib/smpp-portal")
@_supervised_option
def _run_smsc(options: CommonOptions, *, supervised: bool) -> CommandOutput:
    # Imported here to save start-up time: no other command needs the SMPP server.
    from portal.smsc import server

    config = load_config(options)
    with _lock_database_and_check_key(config), supervisor.run_as_component(config, "smsc", supervised=supervised):
        return CommandOutput(status=server.run_smpp_server(config))


@root_command("demo", cls=Command, example="demo --send 393401234567 'Hello from the demo'")
@click.option(
    "--code",
    "email",
    is_flag=False,
    flag_value=fixtures.OWNER,
    metavar="[EMAIL]",
    help="Print the current TOTP code of one of its logins.",
)
@click.option("--send", nargs=2, metavar="TO TEXT", help="Send a message over SMPP, while it runs.")
@click.option("--password", help="To send with, after a new one was generated in the page.")
def _run_demo(
    options: CommonOptions, *, email: str | None, send: tuple[str, str] | None, password: str | None
) -> CommandOutput:
    if email and send:
        wrong_usage("--code and --send exclude each other")
    if options.data is None and not os.environ.get("PORTAL_DATA"):
        options.data = demo.DEFAULT_FOLDER
    config = load_config(options)
    if email:
        code = demo.load_logins(config).totp_code(email)
        return CommandOutput({"code": code}, code)
    if send:
        destination, text = send
        for line in demo.send_message(config, destination, text, password):
            print(line, flush=True)
        return CommandOutput()
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with supervisor.hold_component_lock(config.data, "demo"):
        demo.create_demo(config)
        # Read again: the demo comes with settings of its own.
        config = load_config(options)
        with _lock_database_and_check_key(config):
            return _serve(config, options, lambda: _print_welcome(config))


def _print_welcome(config: Config) -> None:
    print(demo.format_welcome(config), flush=True)
