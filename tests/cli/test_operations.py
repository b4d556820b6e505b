"""`config`, `backup`, `restore` and `check`, as users and scripts run them."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from portal.services.operations import daily_self_check
from tests.support import ROOT, wait_until


def test_config_prints_every_key_with_its_origin(ok, data, start_app):
    rows = {each["key"]: each for each in ok("config")}
    assert rows["data"]["value"] == str(data)
    assert rows["smpp.port"]["origin"] == str(data / "config.toml")
    assert rows["smpp.port"]["default"] == 2775
    assert rows["web.host"]["origin"] == "default"
    text = start_app("config", "--data", data, PORTAL_WEB_THREADS="3").stdout
    assert re.search(r"web\.threads +3 +8 +PORTAL_WEB_THREADS", text)


def test_config_tells_no_secrets(start_app, data):
    secrets = {"PORTAL_MAIL_URL": "smtp://portal:hunter2@mail.example:587", "PORTAL_WEB_METRICS_TOKEN": "t0ken"}
    secrets["PORTAL_PAYMENTS_SECRET"] = "a secret of more than thirty characters"
    for output in ((), ("--json",)):
        printed = start_app("config", "--data", data, *output, **secrets).stdout
        assert "mail.example:587" in printed
        assert "hunter2" not in printed
        assert "t0ken" not in printed
        assert "thirty" not in printed


def test_backup_and_restore(ok, refused, run_app, tmp_path):
    made = ok("backup", tmp_path / "copy.db")
    assert made == {"file": str(tmp_path / "copy.db"), "bytes": (tmp_path / "copy.db").stat().st_size}
    ok("credits", "grant", "smpp-acme-1", "5")
    assert "already there" in refused("backup", tmp_path / "copy.db")
    assert ok("restore", tmp_path / "copy.db")["replaced"]
    assert ok("credits", "show", "smpp-acme-1")["balance"] == 1000
    assert "no such file" in refused("restore", tmp_path / "missing.db")


def test_a_restore_without_the_key_says_so(start_app, run_app, tmp_path):
    run_app("backup", tmp_path / "copy.db")
    done = start_app("restore", tmp_path / "copy.db", "--data", tmp_path / "elsewhere")
    assert done.returncode == 0
    assert "secret.key is missing" in done.stderr


def test_a_restore_under_another_key_changes_nothing(ok, refused, data, tmp_path):
    ok("backup", tmp_path / "copy.db")
    ok("credits", "grant", "smpp-acme-1", "5")
    key = (data / "secret.key").read_text()
    (data / "secret.key").write_text("ab" * 32)
    line = refused("restore", tmp_path / "copy.db")
    assert "another key" in line
    assert "Put the secret.key that belongs to it in that one's place" in line
    assert "keep the one that is there, which belongs to the database that is there" in line
    (data / "secret.key").write_text(key)
    assert ok("credits", "show", "smpp-acme-1")["balance"] == 1005


def test_a_backup_of_a_lost_key_goes_to_a_new_machine(run_app, start_app, tmp_path, cast):
    new_folder = tmp_path / "new"
    new_folder.mkdir()
    key = new_folder / "secret.key"
    key.write_text("ab" * 32)
    run_app("backup", tmp_path / "copy.db")
    refusal = start_app("restore", tmp_path / "copy.db", "--data", new_folder).stderr
    assert f"move {key} away, restore the backup, put the new key in its place" in refusal
    assert "keep the one that is there" not in refusal
    # As it says.
    key.unlink()
    assert start_app("restore", tmp_path / "copy.db", "--data", new_folder).returncode == 0
    key.write_text("ab" * 32)
    done = start_app("user", "link", cast.olga.email, "--new-key", "--data", new_folder)
    assert (done.returncode, "/enrol/" in done.stdout) == (0, True)
    assert start_app("account", "list", "--data", new_folder).returncode == 0


@pytest.mark.parametrize(
    "command", ["account list", "user link alice@acme.example", "backup copy.db", "compact", "check --record"]
)
def test_commands_need_the_key_of_their_database(refused, data, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (data / "secret.key").write_text("ab" * 32)
    assert refused(*command.split()) == (
        "secret.key belongs to another database: put back the key that belongs to this one\n"
    )
    assert not (tmp_path / "copy.db").exists()


def test_check_finds_a_key_of_another_database_and_that_there_is_none(run_app, data):
    key = data / "secret.key"
    key.write_text("ab" * 32)
    assert find_key_problem(run_app) == (
        "nobody can log in or bind: secret.key belongs to another database: put back the key that belongs to this one"
    )
    key.unlink()
    assert find_key_problem(run_app) == (
        f"nobody can log in or bind: {key} is missing: put back the key that belongs to this database"
    )


def find_key_problem(run_app):
    done = run_app("check", "--json")
    assert done.returncode == 1
    (problem,) = json.loads(done.stdout)["problems"]
    return problem


def test_check_says_what_is_off(run_app, conn):
    assert json.loads(run_app("check", "--json").stdout) == {"ok": True, "problems": []}
    conn.execute("UPDATE accounts SET balance = balance + 1000 WHERE name = 'smpp-acme-1'")
    done = run_app("check", "--json")
    value = json.loads(done.stdout)
    assert (done.returncode, value["ok"]) == (1, False)
    assert value["problems"] == [
        "smpp-acme-1: the balance (accounts row 1) differs by 1 from what the ledger adds up to"
    ]
    assert done.stderr.endswith("1 problem found\n")
    assert done.stderr.count("\n") == 1
    assert "smpp-acme-1" in run_app("check").stdout


def test_a_check_that_is_recorded_is_kept_and_told(run_app, conn):
    assert json.loads(run_app("check", "--record", "--json").stdout) == {"ok": True, "problems": []}
    result = daily_self_check.find_last_result(conn)
    assert result is not None
    assert result.problems == []
    conn.execute("UPDATE accounts SET balance = balance + 1000 WHERE name = 'smpp-acme-1'")
    done = run_app("check", "--record", "--json")
    assert done.returncode == 1
    result = daily_self_check.find_last_result(conn)
    assert result is not None
    assert [str(each) for each in result.problems] == json.loads(done.stdout)["problems"]
    assert conn.execute("SELECT count(*) FROM mails").fetchone()[0] == 1


def test_a_check_keeps_nothing_and_changes_nothing(run_app, conn, data):
    before = {each.name for each in data.iterdir()}
    assert run_app("check").returncode == 0
    assert conn.execute("SELECT count(*) FROM checks").fetchone()[0] == 0
    assert {each.name for each in data.iterdir()} - before <= {"check.lock", "running.lock", "portal.migrate.lock"}


@pytest.mark.slow
def test_a_supervised_check_ends_with_its_starter(data, conn):
    # Somebody else's check, which is writing its copy: this one waits for it.
    with (data / "check.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = [sys.executable, ROOT / "app.py", "check", "--record", "--supervised", "--data", data]
        with subprocess.Popen(words, stdin=subprocess.PIPE) as process:
            lowest = min(os.getpriority(os.PRIO_PROCESS, 0) + 19, 19)
            wait_until(lambda: os.getpriority(os.PRIO_PROCESS, process.pid) == lowest)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(10) == -signal.SIGTERM


def test_check_of_a_file_that_is_no_database(run_app, data, conn):
    conn.close()
    for left in ("-wal", "-shm"):
        (data / f"portal.db{left}").unlink(missing_ok=True)
    (data / "portal.db").write_bytes(b"not a database at all" * 1000)
    done = run_app("check", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"ok": False, "problems": ["file: file is not a database"]}
