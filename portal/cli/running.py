"""`serve`, `web`, `smsc` and `demo`: the program running."""

import os
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from portal import demo, supervisor
from portal.cli.shell import Answer, Commands, command, in_use, load_settings, opened
from portal.core.config import Config
from portal.demo import fixtures
from portal.services.people import two_factor

_WITHOUT_JSON = ("--data", "--config")


def register(commands: "Commands[ArgumentParser]") -> None:
    command(commands, "serve", _serve, "the portal and the SMPP server", names=_WITHOUT_JSON)
    for name, run, help in (("web", _web, "the portal alone"), ("smsc", _smsc, "the SMPP server alone")):
        alone = command(commands, name, run, help, names=_WITHOUT_JSON)
        alone.add_argument("--supervised", action="store_true", help=SUPPRESS)
    shown = command(commands, "demo", _demo, "serve on data/demo/, made up on its first run")
    act = shown.add_mutually_exclusive_group()
    act.add_argument(
        "--code",
        nargs="?",
        const=fixtures.OWNER,
        metavar="EMAIL",
        help="print the current TOTP code of one of its logins",
    )
    act.add_argument("--send", nargs=2, metavar=("TO", "TEXT"), help="send a message over SMPP, while it runs")
    shown.add_argument("--password", help="to send with, after a new one was generated in the page")


def _serve(args: Namespace) -> Answer:
    config = load_settings(args)
    with _with_its_key(config):
        return Answer(status=supervisor.serve(config, _child_options(args)))


@contextmanager
def _with_its_key(config: Config) -> Iterator[None]:
    """`in_use`, and the key is there and belongs to the database: here one line says so, later every login would fail.

    Raises: as `opened`, and KeyFileError.
    """
    with opened(config) as shell:
        two_factor.require_own_key(shell.conn, shell.keys)
    with in_use(config):
        yield


def _child_options(args: Namespace) -> list[str]:
    """What the children are told, so that they read the same settings as this process."""
    given = [(name, getattr(args, name.removeprefix("--"), None)) for name in _WITHOUT_JSON]
    return [part for name, value in given if value is not None for part in (name, str(value))]


def _web(args: Namespace) -> Answer:
    # Imported here to save start-up time: no other command needs Flask.
    from portal.web import server

    config = load_settings(args)
    with _with_its_key(config), supervisor.component(config, "web", supervised=args.supervised):
        return Answer(status=server.run(config, _child_options(args)))


def _smsc(args: Namespace) -> Answer:
    # Imported here to save start-up time: no other command needs the SMPP server.
    from portal.smsc import server

    config = load_settings(args)
    with _with_its_key(config), supervisor.component(config, "smsc", supervised=args.supervised):
        return Answer(status=server.run(config))


def _demo(args: Namespace) -> Answer:
    args.data = getattr(args, "data", None) or (None if os.environ.get("PORTAL_DATA") else demo.FOLDER)
    config = load_settings(args)
    if args.code:
        code = demo.load(config).code(args.code)
        return Answer({"code": code}, code)
    if args.send:
        destination, text = args.send
        for line in demo.send(config, destination, text, args.password):
            print(line, flush=True)
        return Answer()
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with supervisor.exclusive(config.data, "demo"):
        demo.make(config)
        # Read again: the demo comes with settings of its own.
        config = load_settings(args)
        with _with_its_key(config):
            return Answer(status=supervisor.serve(config, _child_options(args), lambda: _welcome(config)))


def _welcome(config: Config) -> None:
    print(demo.welcome(config), flush=True)
