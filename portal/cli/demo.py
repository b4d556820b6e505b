"""`demo`: the program running on a made-up installation, and what helps to try it."""

import os
import sys

import click

from portal import demo
from portal.cli.groups import CommonOptions
from portal.cli.progress import show_progress
from portal.cli.running import serve
from portal.cli.shell import Command, CommandOutput, PastedType, load_config, root_command, wrong_usage
from portal.core import i18n
from portal.demo import fixtures
from portal.services.operations import folder_locks


@root_command("demo", cls=Command, example="demo --send 393401234567 'Hello from the demo'")
@click.option(
    "--code",
    "email",
    is_flag=False,
    flag_value=fixtures.OWNER,
    metavar="[EMAIL]",
    help="Print the current TOTP code of one of its logins.",
)
@click.option(
    "--send",
    type=(PastedType(click.STRING), click.UNPROCESSED),
    metavar="TO TEXT",
    help="Send a message over SMPP, while it runs.",
)
@click.option("--password", type=click.UNPROCESSED, help="To send with, after a new one was generated in the page.")
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
    language = demo.read_shell_language()
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with folder_locks.hold_component_lock(config.data, folder_locks.DEMO):
        if not config.database_file.exists():
            # Said at once: the progress of this comes a second later, and in a log only if it takes long.
            print("Making up the demo, once: users, accounts, four weeks of messages", file=sys.stderr)
            with show_progress("Demo", "the next start makes it up") as progress, i18n.override_language(language):
                demo.create_demo(config, progress)
        # Read again: the demo comes with settings of its own.
        config = load_config(options)

        def on_ready() -> None:
            print(demo.format_welcome(config), flush=True)
            demo.start_client(config, language)

        return serve(config, options, on_ready)
