"""How commands are called, and what all of them do: options, wrong usage, refusals, lists."""

import os
import re
import signal
import subprocess
import sys
from io import BytesIO, TextIOWrapper

import pytest

from portal import __version__, cli
from tests.support import ROOT


@pytest.mark.parametrize("command", [("serve",), ("web",), ("smsc",), ("account", "list"), ("check",), ("backup", "x")])
def test_without_an_installation_init_is_named(start_app, command):
    done = start_app(*command)
    assert done.returncode == 1
    assert "init --email" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "args", [(), ("nonsense",), ("account",), ("ip", "add", "smpp-acme-1"), ("customer", "add", "X")]
)
def test_wrong_usage_is_2(capsys, args):
    assert cli.main(args) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Usage:" in printed.err


def test_options_may_stand_before_the_command_or_after_it(start_app, data, config):
    before = start_app("--json", "--data", data, "ip", "list", "smpp-acme-1")
    after = start_app("ip", "list", "smpp-acme-1", "--data", data, "--json")
    between = start_app("ip", "--data", data, "list", "--json", "smpp-acme-1")
    assert before.stdout == after.stdout == between.stdout != ""
    assert start_app("ip", "list", "smpp-acme-1", PORTAL_DATA=str(data)).returncode == 0


def test_settings_that_are_wrong_are_named_by_every_command(start_app, data):
    done = start_app("account", "list", "--data", data, PORTAL_SMPP_PORT="high")
    assert (done.returncode, done.stderr) == (1, "PORTAL_SMPP_PORT: 'high' must be a whole number\n")


def test_a_data_folder_that_is_none_is_refused_however_it_is_named(start_app, tmp_path):
    (tmp_path / "file").touch()
    by_option = start_app("account", "list", "--data", "file")
    by_variable = start_app("account", "list", PORTAL_DATA="file")
    assert by_option.stderr == by_variable.stderr
    assert by_option.stderr.count("\n") == 1
    assert by_option.returncode == by_variable.returncode == 1


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(data):
    command = f"{sys.executable} {ROOT / 'app.py'} config --data {data} | head -1"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=30)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "command",
    [
        "customer list",
        "user list",
        "account list",
        "ip list smpp-acme-1",
        "ip list smpp-acme-2",
        "sender list smpp-acme-1",
        "sender list smpp-acme-2",
    ],
)
def test_lists_for_people_are_aligned(run_app, command):
    head, *lines = run_app(*command.split()).stdout.splitlines()
    starts = [found.start() for found in re.finditer(r"(?<!\S)\S+", head)]
    for line in lines:
        assert all(start == 0 or line[start - 2 : start].strip() == "" for start in starts)
        assert line == line.rstrip()


def test_ctrl_c_ends_a_command_without_a_word(capsys, monkeypatch, data):
    class Keyboard(BytesIO):
        """Its user presses Ctrl-C where text is read."""

        def read(self, size: int | None = -1) -> bytes:
            signal.raise_signal(signal.SIGINT)
            return b""

    monkeypatch.setattr(sys, "stdin", TextIOWrapper(Keyboard()))
    assert cli.main(["blacklist", "import", "smpp-acme-1", "-", "--data", str(data)]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_newer_database_is_left_alone(refused, conn):
    conn.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('portal', 'm9999_x', '')")
    assert "newer version" in refused("account", "list")


def test_a_missing_key_is_named(refused, data):
    (data / "secret.key").unlink()
    assert "secret.key is missing" in refused("password", "regenerate", "smpp-acme-1")


def test_what_nobody_sees_in_what_was_pasted_is_left_out(ok, refused, run_app, tmp_path):
    def pasted(text: str) -> str:
        return f"\u202a{text[:2]}\u200b{text[2:]}\u202c\ufeff\u00a0"

    added = ok("ip", "add", pasted("smpp-acme-2"), pasted("203.0.113.0/24"), "--label", pasted("Office"))
    assert (added["network"], added["label"]) == ("203.0.113.0/24", "Office")
    made = ok("user", "add", "--email", pasted("dora@acme.example"), "--customer", pasted("Acme"), "--role", "viewer")
    assert made["email"] == "dora@acme.example"
    assert ok("sender", "add", "smpp-acme-1", pasted("SHOP"))["sender"] == "SHOP"
    before = ok("credits", "show", "smpp-acme-1")["balance"]
    ok("credits", "grant", "smpp-acme-1", pasted("12.5"))
    assert ok("credits", "show", "smpp-acme-1")["balance"] == before + 12.5
    prices = tmp_path / "prices\u200b.csv"
    prices.write_text(f"destination;price\n{pasted('IT')};{pasted('0.777')}\n")
    # The name of a file is what it is.
    assert ok("price", "import", prices, "--dry-run")["changed"] == 1
    assert "No such file" in refused("price", "import", tmp_path / "prices.csv")


def test_secrets_are_no_arguments(run_app):
    # What is typed as an argument stands in the process list and in the shell's history.
    for command in (("user", "add"), ("account", "add"), ("password", "regenerate"), ("init",)):
        options = set(re.findall(r"--[a-z-]+", run_app(*command, "--help").stdout))
        assert not {each for each in options if "password" in each or "secret" in each} - {"--password-stdin"}


def test_the_version_needs_no_installation(start_app):
    done = start_app("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"SMPP Portal {__version__}\n", "")


@pytest.mark.parametrize(
    ("typed", "suggestion"),
    [
        ("acount list", "account"),
        ("account lits", "list"),
        ("account ad", "add"),
        ("queue relase", "release"),
        ("account list --jsn", "--json"),
        ("credits correct smpp-acme-1 -20 --reasn mistake", "--reason"),
    ],
)
def test_a_typo_gets_a_suggestion(run_app, typed, suggestion):
    done = run_app(*typed.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert f"'{suggestion}'" in done.stderr.partition("Did you mean")[2]


@pytest.mark.parametrize(("args", "names"), [((), ("serve", "account")), (("user",), ("add", "link", "list"))])
def test_a_group_alone_lists_what_there_is(capsys, args, names):
    assert cli.main(args) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert all(re.search(rf"^  {name} ", printed.err, re.M) for name in names)


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("app.py acc", {"account"}),
        ("app.py account li", {"list"}),
        ("app.py queue rel", {"release", "release-account"}),
        ("app.py account list --js", {"--json"}),
        ("app.py account add --kind sm", {"smpp", "sms"}),
    ],
)
@pytest.mark.slow
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


@pytest.mark.parametrize("stream", [1, 2])
def test_a_stream_that_is_closed_changes_no_status(data, stream):
    command = f"{sys.executable} {ROOT / 'app.py'} check --data {data} {stream}>&-"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_argument_that_is_no_utf8_is_refused_in_one_line(refused):
    assert "can't be written in utf-8" in refused("account", "show", "\udcff")


def test_a_terminal_obeys_nothing_that_somebody_typed(run_app):
    label = "\x1b]0;title\x07\x1b[31mred\x9b1m"
    assert run_app("ip", "add", "smpp-acme-1", "203.0.113.7", "--label", label).returncode == 0
    assert r"\x1b]0;title\x07\x1b[31mred\x9b1m" in run_app("ip", "list", "smpp-acme-1").stdout
