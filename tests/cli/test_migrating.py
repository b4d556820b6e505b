"""An update: who may migrate, when, and what is left if it fails. Real processes on a database of the first release."""

import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from portal import __version__
from portal.core import db
from portal.migrations import KNOWN_NAMES, list_applied_names
from portal.services.operations import folder_locks
from tests.older_database import (
    FIRST_RELEASE,
    LINE_OF_A_STEP,
    PIPE_OCTETS,
    ROOM_FOR_THREE_LINES,
    assert_nothing_happened,
    count_unread_octets,
    list_applied,
    list_copies,
    make_older,
    start_command,
    start_held_up,
)
from tests.serving import is_server_ready
from tests.support import RunningServer, wait_until


@pytest.fixture
def older(data: Path) -> Path:
    return make_older(data)


def is_ready(data: Path, url: str) -> bool:
    return is_server_ready(RunningServer(url, 0, 0, data, None))  # type: ignore[arg-type]


# --- commands on an older schema


@pytest.mark.parametrize(
    "words",
    [
        ("account", "list"),
        ("credits", "grant", "smpp-acme-1", "5"),
        ("compact",),
        ("check", "--record"),
        ("web",),
        ("smsc",),
        ("init", "--email", "eve@portal.example"),
    ],
    ids=" ".join,
)
def test_a_command_says_what_to_do_and_does_nothing(refused, older, words):
    line = refused(*words)
    assert "older version" in line
    assert "`app.py migrate --data " in line
    assert_nothing_happened(older)


def test_a_backup_is_made_of_an_older_schema_and_put_back(ok, run_app, older, tmp_path):
    ok("backup", tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as conn:
        assert list_applied_names(conn) == FIRST_RELEASE
    assert_nothing_happened(older)
    ok("migrate")
    done = run_app("restore", tmp_path / "copy.db")
    assert done.returncode == 0
    assert "An older version wrote it" in done.stdout
    assert list_applied(older) == FIRST_RELEASE


def test_a_check_reads_a_migrated_copy(run_app, older):
    done = run_app("check")
    assert done.returncode == 0
    assert "agree" in done.stdout
    assert "An older version" in done.stdout
    assert json.loads(run_app("check", "--json").stdout) == {"ok": True, "problems": []}
    assert_nothing_happened(older)
    assert list(older.glob(".portal.db*")) == []


def test_a_check_finds_what_is_off_in_an_older_schema(run_app, older):
    with closing(sqlite3.connect(older / db.FILE_NAME, isolation_level=None)) as conn:
        conn.execute("UPDATE accounts SET balance = balance + 1000 WHERE name = 'smpp-acme-1'")
    done = run_app("check")
    assert done.returncode == 1
    assert "smpp-acme-1: the balance" in done.stdout


def break_m0008(data: Path) -> None:
    """It creates a table that is there already."""
    with closing(sqlite3.connect(data / db.FILE_NAME, isolation_level=None)) as conn:
        conn.execute("CREATE TABLE price_lists (id)")


def test_a_check_foretells_that_a_migration_would_fail(run_app, older):
    break_m0008(older)
    done = run_app("check", "--json")
    assert done.returncode == 1
    (problem,) = json.loads(done.stdout)["problems"]
    assert "can't be migrated" in problem
    assert "m0008_credits" in problem
    assert_nothing_happened(older)
    assert list(older.glob(".portal.db*")) == []


# --- migrate


def test_migrate_brings_it_up_to_date_once(ok, run_app, older):
    names = ok("migrate")["applied"]
    assert set(names) == KNOWN_NAMES - FIRST_RELEASE
    assert ok("account", "list")
    (copy,) = list_copies(older)
    with closing(sqlite3.connect(copy)) as conn:
        assert list_applied_names(conn) == FIRST_RELEASE
    assert ok("migrate") == {"applied": []}
    assert run_app("migrate").stdout == "The database was up to date.\n"
    assert list_copies(older) == [copy]


def test_each_step_and_the_copy_are_lines_of_the_log(start_app, older):
    done = start_app("migrate", "--data", older)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    pending = sorted(KNOWN_NAMES - FIRST_RELEASE)
    assert f"{len(pending)} steps, m0003_sessions to {pending[-1]}" in lines[0]
    assert "MB are free" in lines[1]
    assert "copy of the database: 1 MB, " in lines[2]
    for name, line in zip(pending, lines[3:-1], strict=True):
        assert f" migrate migration {name}: " in line
        assert line.endswith(" s")
    assert str(list_copies(older)[0]) in lines[-1]


def test_a_step_that_fails_is_named_and_nothing_is_left_of_those_before_it(refused, older):
    break_m0008(older)
    line = refused("migrate")
    assert str(older / db.FILE_NAME) in line
    assert "m0008_credits: table price_lists already exists" in line
    assert "as it was" in line
    assert_nothing_happened(older)


def test_migrate_needs_an_installation(start_app, tmp_path):
    done = start_app("migrate", "--data", tmp_path / "nowhere")
    assert done.returncode == 1
    assert "There is no installation" in done.stderr


def test_an_init_that_was_stopped_is_finished_by_the_next(start_app, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / db.FILE_NAME).touch()
    done = start_app("account", "list")
    assert done.returncode == 1
    assert "There is no installation" in done.stderr
    assert start_app("init", "--email", "olga@portal.example").returncode == 0


@pytest.mark.slow
def test_a_file_that_may_not_grow_fails_the_migration_alone(older):
    def limit() -> None:
        # The copy fits, the write-ahead log of the steps doesn't.
        resource.setrlimit(resource.RLIMIT_FSIZE, ((older / db.FILE_NAME).stat().st_size + 8192,) * 2)

    with start_command(older, "migrate", preexec_fn=limit) as process:
        assert process.wait(30) == 1
    last_line = (older / "log").read_text().splitlines()[-1]
    assert f"Migrating {older}/portal.db failed at " in last_line
    assert "MB are free" in last_line
    assert_nothing_happened(older)


@pytest.mark.slow
def test_a_process_that_is_killed_between_two_steps_leaves_the_old_database(older, ok):
    with start_held_up(older, ROOM_FOR_THREE_LINES + 3 * LINE_OF_A_STEP) as (process, reader):
        wait_until(lambda: count_unread_octets(reader) > PIPE_OCTETS - 2 * LINE_OF_A_STEP)
        assert [each.suffix for each in list_copies(older)] == [".part"]
        process.kill()
        process.wait()
        log = os.read(reader, PIPE_OCTETS).decode()
    assert "migration m0003_sessions" in log
    assert f"migration {max(KNOWN_NAMES)}" not in log
    assert list_applied(older) == FIRST_RELEASE
    assert list((older / "backups").glob("*.db")) == []
    ok("migrate")
    assert [each.suffix for each in list_copies(older)] == [".db"]


# --- beside others


@pytest.mark.slow
def test_nothing_migrates_under_a_running_server(server, run_app, refused):
    # The schema of the server in one of an older version's.
    with closing(server.connect()) as conn:
        conn.execute("DELETE FROM _sqlite_migrations WHERE name = ?", (max(KNOWN_NAMES),))
    who = f"SMPP Portal {__version__} (process {server.process.pid})"
    assert refused("migrate") == (
        f"The database in {server.data} has to be migrated, but not while it is in use. Stop it first: {who}.\n"
    )
    assert "older version" in refused("account", "list")
    assert run_app("serve").stderr == f"{who} is running on {server.data} already.\n"
    assert run_app("serve").stderr == f"{who} is running on {server.data} already.\n", "the refused one erased nothing"
    assert max(KNOWN_NAMES) not in list_applied(server.data)
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(f"{server.url}/readyz")
    assert answer.value.code == 503
    assert max(KNOWN_NAMES) in answer.value.read().decode()
    answer.value.close()


@pytest.mark.slow
def test_web_alone_is_named_too(data, config, refused):
    with start_command(data, "web") as process:
        wait_until(lambda: "listening" in (data / "log").read_text())
        with closing(sqlite3.connect(data / db.FILE_NAME, isolation_level=None)) as conn:
            conn.execute("DELETE FROM _sqlite_migrations WHERE name = ?", (max(KNOWN_NAMES),))
        assert f"SMPP Portal {__version__} (web, process {process.pid})" in refused("migrate")


@pytest.mark.slow
def test_serve_waits_for_a_command_and_then_migrates(older, config):
    command = folder_locks.acquire_data_folder_lock(older)
    with start_command(older, "serve"):
        wait_until(lambda: "waiting: A command is running" in (older / "log").read_text())
        assert_nothing_happened(older)
        command.close()
        wait_until(lambda: is_ready(older, config.public_url), deadline_s=20)
    assert list_applied(older) == KNOWN_NAMES


@pytest.mark.slow
def test_a_command_beside_a_migration_is_told_to_come_back(older, refused):
    with start_held_up(older, 1) as (process, _):
        wait_until(
            lambda: (older / "running.lock").exists() and str(process.pid) in (older / "running.lock").read_text()
        )
        line = refused("account", "list")
        assert f"(process {process.pid})" in line
        assert "Try again" in line


@pytest.mark.slow
def test_of_two_that_start_together_one_migrates_and_serves(older, config):
    with (
        start_command(older, "serve") as first,
        start_command(older, "serve") as second,
        start_command(older, "migrate") as third,
    ):
        wait_until(lambda: is_ready(older, config.public_url), deadline_s=30)
        # `migrate` was before, or beside it, and then refused.
        assert third.wait(20) in (0, 1)
        wait_until(lambda: first.poll() is not None or second.poll() is not None)
        assert {first.poll(), second.poll()} == {None, 1}
    log = (older / "log").read_text()
    assert log.count(f"migration {max(KNOWN_NAMES)}") == 1
    assert log.count("already.") == 1
    assert len(list_copies(older)) == 1


@pytest.mark.slow
def test_old_copies_stay_until_the_new_schema_has_served(older, config, run_app):
    (older / "backups").mkdir()
    names = [f"before-migration-2026010{number}T000000000000.db" for number in range(1, 4)]
    for name in names:
        shutil.copy(older / db.FILE_NAME, older / "backups" / name)
    # What an older version left of copies that had no room; later by their names than the others.
    for number in range(6, 9):
        (older / "backups" / f"before-migration-2026010{number}T000000000000.db").touch()
    other = older / "backups" / "before-migration-20251224T000000000000.db.gz"
    other.write_bytes(b"somebody's own")
    assert run_app("migrate").returncode == 0
    assert [each.name for each in list_copies(older) if each.suffix == ".db"][:3] == names
    assert len(list_copies(older)) == 5
    newest = list_copies(older)[-1]
    with start_command(older, "serve"):
        wait_until(lambda: is_ready(older, config.public_url), deadline_s=20)
    assert len(list_copies(older)) == 5, "five are kept"
    with (older / "config.toml").open("a") as settings:
        settings.write("\n[retention]\nbackups = 1\n")
    with start_command(older, "serve"):
        wait_until(lambda: list_copies(older) == [other, newest], deadline_s=20)


@pytest.mark.slow
def test_a_port_in_use_is_found_out_before_anything_is_migrated(older, config, run_app):
    with socket.create_server(("127.0.0.1", config.web.port)):
        assert "web.port" in run_app("serve").stderr
    assert_nothing_happened(older)


@pytest.mark.slow
def test_a_stop_while_it_waits_ends_serve(older):
    with folder_locks.acquire_data_folder_lock(older), start_command(older, "serve") as process:
        wait_until(lambda: "waiting" in (older / "log").read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM
    assert_nothing_happened(older)


@pytest.mark.parametrize("words", [("compact",), ("account", "list"), ("check",)], ids=" ".join)
def test_what_a_link_in_place_of_a_lock_leads_to_is_not_written(data, run_app, words):
    target = data / "another"
    target.write_text("as it was")
    for name in ("running", "check"):
        (data / f"{name}.lock").unlink(missing_ok=True)
        (data / f"{name}.lock").symlink_to(target)
    assert run_app(*words).returncode == 1
    assert target.read_text() == "as it was"


def test_a_pipe_in_place_of_a_lock_holds_nobody_up(older, run_app):
    (older / "portal.migrate.lock").unlink(missing_ok=True)
    os.mkfifo(older / "portal.migrate.lock")
    done = run_app("migrate")
    assert done.returncode == 1
    assert "portal.migrate.lock is no file" in done.stderr
