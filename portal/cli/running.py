"""`serve`, `web`, `smsc` and `demo`: the program running."""

import os
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from portal import demo, supervisor
from portal.cli.shell import CommandOutput, Commands, add_command, load_config, lock_and_migrate_database, open_database
from portal.core.config import Config
from portal.demo import fixtures
from portal.services.people import two_factor

_OPTIONS_WITHOUT_JSON = ("--data", "--config")


def register_commands(commands: "Commands[ArgumentParser]") -> None:
    add_command(commands, "serve", _run_all, "the portal and the SMPP server", option_names=_OPTIONS_WITHOUT_JSON)
    for name, run, help in (("web", _run_web, "the portal alone"), ("smsc", _run_smsc, "the SMPP server alone")):
        component_parser = add_command(commands, name, run, help, option_names=_OPTIONS_WITHOUT_JSON)
        component_parser.add_argument("--supervised", action="store_true", help=SUPPRESS)
    demo_parser = add_command(commands, "demo", _run_demo, "serve on data/demo/, made up on its first run")
    actions = demo_parser.add_mutually_exclusive_group()
    actions.add_argument(
        "--code",
        nargs="?",
        const=fixtures.OWNER,
        metavar="EMAIL",
        help="print the current TOTP code of one of its logins",
    )
    actions.add_argument("--send", nargs=2, metavar=("TO", "TEXT"), help="send a message over SMPP, while it runs")
    demo_parser.add_argument("--password", help="to send with, after a new one was generated in the page")


def _run_all(args: Namespace) -> CommandOutput:
    config = load_config(args)
    with _lock_database_and_check_key(config):
        return CommandOutput(status=supervisor.serve(config, _build_child_options(args)))


@contextmanager
def _lock_database_and_check_key(config: Config) -> Iterator[None]:
    """`use_database`, and the key belongs to the database: here one line says so, later every login would fail.

    Raises: as `open_database`, and KeyFileError.
    """
    with open_database(config) as context:
        two_factor.require_key_of_database(context.conn, context.keys)
    with lock_and_migrate_database(config):
        yield


def _build_child_options(args: Namespace) -> list[str]:
    """Options for the child processes, so that they read the same settings as this process."""
    options = [(name, getattr(args, name.removeprefix("--"), None)) for name in _OPTIONS_WITHOUT_JSON]
    return [part for name, value in options if value is not None for part in (name, str(value))]


def _run_web(args: Namespace) -> CommandOutput:
    # Imported here to save start-up time: no other command needs Flask.
    from portal.web import server

    config = load_config(args)
    with _lock_database_and_check_key(config), supervisor.run_as_component(config, "web", supervised=args.supervised):
        return CommandOutput(status=server.run_web_server(config, _build_child_options(args)))


def _run_smsc(args: Namespace) -> CommandOutput:
    # Imported here to save start-up time: no other command needs the SMPP server.
    from portal.smsc import server

    config = load_config(args)
    with _lock_database_and_check_key(config), supervisor.run_as_component(config, "smsc", supervised=args.supervised):
        return CommandOutput(status=server.run_smpp_server(config))


def _run_demo(args: Namespace) -> CommandOutput:
    args.data = getattr(args, "data", None) or (None if os.environ.get("PORTAL_DATA") else demo.DEFAULT_FOLDER)
    config = load_config(args)
    if args.code:
        code = demo.load_logins(config).totp_code(args.code)
        return CommandOutput({"code": code}, code)
    if args.send:
        destination, text = args.send
        for line in demo.send_message(config, destination, text, args.password):
            print(line, flush=True)
        return CommandOutput()
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with supervisor.hold_component_lock(config.data, "demo"):
        demo.create_demo(config)
        # Read again: the demo comes with settings of its own.
        config = load_config(args)
        with _lock_database_and_check_key(config):
            return CommandOutput(
                status=supervisor.serve(config, _build_child_options(args), lambda: _print_welcome(config))
            )


def _print_welcome(config: Config) -> None:
    print(demo.format_welcome(config), flush=True)
