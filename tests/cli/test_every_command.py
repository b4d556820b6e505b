"""What scripts rely on: every command with its arguments and options, and the fields of its JSON value.

`commands.txt` has a line a command; `command_values.txt` a call and what comes back, in an order in which all succeed.
A change of either file is a change of what scripts rely on.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from portal.cli.groups import ROOT_COMMANDS, root
from portal.services.accounts import accounts
from portal.services.billing import orders, packs
from portal.services.common.audit import SHELL
from portal.services.messages import account_requests
from tests.documents import PDF
from tests.support import ROOT

_COMMANDS = (Path(__file__).parent / "commands.txt").read_text().splitlines()
_VALUES = (Path(__file__).parent / "command_values.txt").read_text().splitlines()
# They run until they are stopped, or are the pages'; what `demo --code` prints, tests/test_demo.py has.
_WITHOUT_VALUE = {"serve", "web", "smsc", "demo", "upstream probe"}
# Each takes a tenth of a second or so.
_SLOW_TO_IMPORT = {"asyncio", "flask", "phonenumbers", "portal.smsc", "portal.web", "sqlite_utils"}


def _iterate_commands(group: click.Group = root, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command
        if isinstance(command, click.Group):
            yield from _iterate_commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def _describe_parameter(param: click.Parameter) -> str:
    metavar = param.make_metavar(click.Context(root))
    if isinstance(param, click.Argument):
        return metavar
    names = "|".join([*param.opts, *param.secondary_opts])
    text = names if isinstance(param, click.Option) and param.is_flag else f"{names} {metavar}"
    return text if param.required else f"[{text}]"


def test_the_readme_names_every_command():
    cells = re.findall(r"^\| (`.*?`) \| ", (ROOT / "README.md").read_text(), re.MULTILINE)
    named = {each.split()[0] for cell in cells for each in re.findall(r"`([^`]+)`", cell)}
    assert ROOT_COMMANDS.keys() <= named


def test_every_command_has_the_arguments_and_options_that_are_written_down():
    described = []
    for name, command in _iterate_commands():
        parameters = {param.name: _describe_parameter(param) for param in command.params}
        assert (parameters.pop("data"), parameters.pop("config")) == ("[--data DIR]", "[--config FILE]")
        described.append(" ".join((name, *parameters.values())))
    assert described == _COMMANDS


def _describe_fields(value: object) -> str:
    """The names of an object's fields; what a list has in it stands in brackets."""
    if isinstance(value, list):
        return f"[{' '.join(sorted({_describe_fields(each) for each in value if isinstance(each, dict)}))}]"
    assert isinstance(value, dict)
    return " ".join(f"{name}{_describe_nested(nested)}" for name, nested in value.items())


def _describe_nested(value: object) -> str:
    if isinstance(value, dict):
        return f"{{{_describe_fields(value)}}}"
    return _describe_fields(value) if isinstance(value, list) else ""


@pytest.mark.slow
def test_every_command_s_json_value_has_the_fields_that_are_written_down(ok, data, conn, tmp_path):
    account = accounts.get_account(conn, "smpp-acme-1")
    paid, cancelled = (orders.place_order(conn, SHELL, account, packs.get_pack(conn, 100_000)).number for _ in "12")
    for subject in ("windowing", "throughput"):
        account_requests.ask_operator(conn, SHELL, account, subject, "")
    (tmp_path / "document.pdf").write_bytes(PDF)
    (tmp_path / "numbers.csv").write_text("393407654321\n")
    (tmp_path / "prices.csv").write_text("destination,price\nFR,0.9\n")
    conn.close()
    lines = []
    for line in _VALUES:
        call = line.partition("  →  ")[0]
        if call.startswith("init"):
            for file in data.iterdir():
                if file.is_file():
                    file.unlink()
        # One of SMPP has eight characters at most, one of a user twelve at least.
        password = "secret" if call.startswith("upstream") else "the long password of samir"
        words = shlex.split(call.format(folder=tmp_path, paid=paid, cancelled=cancelled))
        lines.append(f"{call}  →  {_describe_fields(ok(*words, stdin=password))}")
    assert lines == _VALUES
    names = {name for name, _ in _iterate_commands()} - _WITHOUT_VALUE
    assert not {name for name in names if not any(line.startswith(f"{name} ") for line in lines)}


@pytest.mark.parametrize(("name", "command"), list(_iterate_commands()))
def test_every_command_s_help_has_an_example_that_is_right(name, command):
    words = shlex.split(command.example)
    assert " ".join(words[: len(name.split())]) == name
    with command.make_context(name, words[len(name.split()) :]) as ctx:
        assert "Example:\n  " in command.get_help(ctx)
        assert command.help


def test_passwords_and_texts_are_what_was_typed():
    command = root.get_command(click.Context(root), "demo")
    assert command
    text, password = "\u202bשלום\u202c\u00a0\u200b", "pa\u00adss\u00a0word\u200e"
    words = ["--send", "\u202a393401234567\u200b", text, "--password", password, "--code", "\u200bolga@portal.example"]
    with command.make_context("demo", words) as ctx:
        assert (ctx.params["send"], ctx.params["password"]) == (("393401234567", text), password)
        assert ctx.params["email"] == "olga@portal.example"


def _list_imported_modules(stderr: str) -> set[str]:
    return set(re.findall(r"^import time:.*\| +(\S+)$", stderr, re.M))


def test_the_root_s_help_needs_no_command(start_app):
    done = start_app("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    imported = {each for each in _list_imported_modules(done.stderr) if each.partition(".")[0] == "portal"}
    assert imported == {"portal", "portal.cli", "portal.cli.groups"}
    for name, (_, help) in ROOT_COMMANDS.items():
        command = root.get_command(click.Context(root), name)
        assert command
        assert command.help == help
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [("account list", _SLOW_TO_IMPORT | {"jinja2"}), ("backup copy.db", _SLOW_TO_IMPORT), ("config", _SLOW_TO_IMPORT)],
)
def test_a_command_loads_only_what_it_needs(start_app, data, command, unneeded):
    done = start_app(*command.split(), "--data", data, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    imported = _list_imported_modules(done.stderr)
    assert "portal.cli.shell" in imported
    assert not imported & unneeded
