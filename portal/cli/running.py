"""`serve`, `web` and `smsc`: the program running."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from portal import supervisor
from portal.cli.groups import CommonOptions
from portal.cli.shell import (
    Command,
    CommandOutput,
    load_config,
    lock_and_migrate_database,
    lock_database,
    require_installation,
    root_command,
)
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.services.operations import folder_locks

_supervised_option = click.option("--supervised", is_flag=True, hidden=True)


@root_command("serve", cls=Command, prints_data=False, example="serve --data /var/lib/smpp-portal")
def _run_all(options: CommonOptions) -> CommandOutput:
    return serve(load_config(options), options)


def serve(config: Config, options: CommonOptions, on_ready: Callable[[], None] | None = None) -> CommandOutput:
    """Run the portal and the SMPP server until they are stopped.

    Args:
        on_ready: called when both are ready.

    Raises: as `lock_and_migrate_database`, AlreadyRunning, PortUnavailable and KeyFileError.
    """
    require_installation(config)
    Keys.load(config.data)
    # The lock and the ports come first: nothing is migrated where it can't start.
    with supervisor.hold_server_lock(config), lock_and_migrate_database(config, but_for=folder_locks.SERVER):
        supervisor.Supervisor(config, _build_child_options(options), on_ready).run()
        return CommandOutput()


@contextmanager
def _run_as_component(options: CommonOptions, name: str, *, supervised: bool) -> Iterator[Config]:
    """Be one of the two servers while the block runs, on a database of this version whose key is there and its own.

    Raises: as `open_database` and `supervisor.run_as_component`; KeyFileError where the key is missing, too.
    """
    config = load_config(options)
    with lock_database(config):
        Keys.load(config.data)
        with supervisor.run_as_component(config, name, supervised=supervised):
            yield config


def _build_child_options(options: CommonOptions) -> list[str]:
    """Options for the child processes, so that they read the same settings as this process."""
    values = {"--data": options.data, "--config": options.config}
    return [part for name, value in values.items() if value is not None for part in (name, str(value))]


@root_command("web", cls=Command, prints_data=False, example="web --data /var/lib/smpp-portal")
@_supervised_option
def _run_web(options: CommonOptions, *, supervised: bool) -> CommandOutput:
    # All that is made before the server listens stays; looking for garbage in it took a tenth of the time.
    gc.disable()
    # Imported here to save start-up time: no other command needs Flask.
    from portal.web import server

    with _run_as_component(options, "web", supervised=supervised) as config:
        return CommandOutput(status=server.run_web_server(config, _build_child_options(options)))


@root_command("smsc", cls=Command, prints_data=False, example="smsc --data /var/lib/smpp-portal")
@_supervised_option
def _run_smsc(options: CommonOptions, *, supervised: bool) -> CommandOutput:
    # Imported here to save start-up time: no other command needs the SMPP server.
    from portal.smsc import server

    with _run_as_component(options, "smsc", supervised=supervised) as config:
        return CommandOutput(status=server.run_smpp_server(config))
