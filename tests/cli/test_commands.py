"""How commands are called, and what all of them do: options, wrong usage, refusals, lists."""

import os
import re
import subprocess
import sys

import pytest

from portal import __version__
from tests.support import ROOT


@pytest.mark.parametrize("command", [("serve",), ("web",), ("smsc",), ("account", "list"), ("check",), ("backup", "x")])
def test_without_an_installation_init_is_named(app, command):
    done = app(*command)
    assert done.returncode == 1
    assert "init --email" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args", [(), ("nonsense",), ("account",), ("ip", "add", "smpp-acme-1"), ("customer", "add", "X")]
)
def test_wrong_usage_is_2(app, args):
    done = app(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage:" in done.stderr


def test_options_may_stand_before_the_command_or_after_it(app, data, config):
    before = app("--json", "--data", data, "ip", "list", "smpp-acme-1")
    after = app("ip", "list", "smpp-acme-1", "--data", data, "--json")
    between = app("ip", "--data", data, "list", "--json", "smpp-acme-1")
    assert before.stdout == after.stdout == between.stdout != ""
    assert app("ip", "list", "smpp-acme-1", PORTAL_DATA=str(data)).returncode == 0


def test_settings_that_are_wrong_are_named_by_every_command(app, data):
    done = app("account", "list", "--data", data, PORTAL_SMPP_PORT="high")
    assert (done.returncode, done.stderr) == (1, "PORTAL_SMPP_PORT: 'high' must be a whole number\n")


def test_a_reader_that_has_seen_enough_is_no_error(data):
    command = f"{sys.executable} {ROOT / 'app.py'} config --data {data} | head -1"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command",
    [("customer", "list"), ("user", "list"), ("account", "list"), ("ip", "list", "smpp-acme-1"),
     ("ip", "list", "smpp-acme-2"), ("sender", "list", "smpp-acme-1"), ("sender", "list", "smpp-acme-2")],
)  # fmt: skip
def test_lists_for_people_are_aligned(run_app, command):
    head, *lines = run_app(*command).stdout.splitlines()
    starts = [found.start() for found in re.finditer(r"(?<!\S)\S+", head)]
    for line in lines:
        assert all(start == 0 or line[start - 2 : start].strip() == "" for start in starts)
        assert line == line.rstrip()


def test_a_newer_database_is_left_alone(refused, conn):
    conn.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('portal', 'm9999_x', '')")
    assert "newer version" in refused("account", "list")


def test_a_missing_key_is_named(refused, data):
    (data / "secret.key").unlink()
    assert "secret.key is missing" in refused("password", "regenerate", "smpp-acme-1")


def test_secrets_are_no_arguments(app):
    # What is typed as an argument stands in the process list and in the shell's history.
    for command in (("user", "add"), ("account", "add"), ("password", "regenerate"), ("init",)):
        options = set(re.findall(r"--[a-z-]+", app(*command, "--help").stdout))
        assert not {each for each in options if "password" in each or "secret" in each} - {"--password-stdin"}


def test_the_version_needs_no_installation(app):
    done = app("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"SMPP Portal {__version__}\n", "")


@pytest.mark.parametrize(
    ("args", "suggestion"),
    [(("acount", "list"), "account"), (("account", "lits"), "list"), (("account", "list", "--jsn"), "--json"),
     (("account", "ad"), "add")],
)  # fmt: skip
def test_a_typo_gets_a_suggestion(app, args, suggestion):
    done = app(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Did you mean '{suggestion}'?" in done.stderr


@pytest.mark.parametrize(("args", "names"), [((), ("serve", "account")), (("user",), ("add", "link", "list"))])
def test_a_group_alone_lists_what_there_is(app, args, names):
    done = app(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert all(re.search(rf"^  {name} ", done.stderr, re.M) for name in names)


@pytest.mark.parametrize(
    ("words", "completed"),
    [("app.py acc", {"account"}), ("app.py account li", {"list"}), ("app.py account list --js", {"--json"}),
     ("app.py account add --kind sm", {"smpp", "sms"})],
)  # fmt: skip
def test_bash_completes_commands_options_and_choices(words, completed, tmp_path):
    # As docs/operating.md says: app.py is a command of its own, and Bash asks it.
    wrapper = tmp_path / "app.py"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT / "app.py"} "$@"\n')
    wrapper.chmod(0o755)
    script = f"""
        eval "$(_APP_PY_COMPLETE=bash_source app.py)"
        COMP_WORDS=({words}) COMP_CWORD={len(words.split()) - 1} COMPREPLY=()
        _apppy_completion app.py
        printf '%s\\n' "${{COMPREPLY[@]}}"
        complete -p app.py
    """
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert done.stderr == ""
    *words, registered = done.stdout.splitlines()
    assert set(words) == completed
    assert registered.endswith("-F _apppy_completion app.py")
