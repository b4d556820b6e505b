"""Long commands on a terminal and in a pipe, and stopped in the middle: real processes, a real terminal."""

import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from portal.core import db
from portal.migrations.steps import migrations
from portal.services.operations import daily_self_check, self_check
from tests.serving import clean_environment
from tests.support import ROOT, Cast

pytestmark = pytest.mark.slow

# So many rows that each command is at work for long after its first report.
_ROWS = 500_000


@pytest.fixture(scope="module")
def big_database(template: tuple[Path, Cast], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of some 200 MB."""
    database = tmp_path_factory.mktemp("big") / db.FILE_NAME
    shutil.copyfile(template[0] / db.FILE_NAME, database)
    conn = db.connect(database)
    conn.execute(
        "INSERT INTO audit_log (at, actor, address, action, details) WITH RECURSIVE numbers (number) AS"
        " (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < ?)"
        " SELECT number, 'shell', '', 'filling', json_object('text', printf('%.300c', 'x')) FROM numbers",
        (_ROWS,),
    )
    conn.close()
    return database


@pytest.fixture
def big(data: Path, big_database: Path) -> Path:
    """A data folder with that database."""
    shutil.copyfile(big_database, data / db.FILE_NAME)
    return data


class OnTerminal:
    """A command whose stderr is a terminal; its stdout is a pipe."""

    def __init__(self, *words: object) -> None:
        self.terminal, stderr = pty.openpty()
        self.process = subprocess.Popen(
            # Last in line for a processor: on a busy machine, too, this test sees a bar before the work is over.
            ["nice", "-n", "19", sys.executable, ROOT / "app.py", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=clean_environment() | {"TERM": "xterm", "COLUMNS": "80"},
        )
        os.close(stderr)
        self.said = ""

    def wait_for_progress(self, pattern: str) -> None:
        while not re.search(pattern, self.said):
            self._read_terminal()

    def _read_terminal(self) -> None:
        content = os.read(self.terminal, 4096)
        self.said += content.decode()

    def finish(self) -> tuple[int, str]:
        """Returns the exit status and stdout; `said` has all of stderr."""
        # Linux reports an error where nobody has the other end of a terminal any more.
        with suppress(OSError):
            while True:
                self._read_terminal()
        stdout, _ = self.process.communicate(timeout=60)
        os.close(self.terminal)
        return self.process.returncode, stdout.decode()


def list_files(folder: Path) -> dict[str, int]:
    """Every file but the locks, with its size."""
    return {
        str(each.relative_to(folder)): each.stat().st_size
        for each in folder.rglob("*")
        if each.is_file() and each.suffix != ".lock" and not each.name.endswith(("-wal", "-shm"))
    }


def stop_in_the_middle(number: signal.Signals, title: str, *words: object) -> str:
    """Run a command until its first sign of progress, and send it a signal; returns its last line."""
    command = OnTerminal(*words)
    command.wait_for_progress(title)
    assert command.process.poll() is None, "it had ended before it could be stopped"
    command.process.send_signal(number)
    assert command.finish() == (128 + number, ""), command.said
    return command.said.splitlines()[-1]


def is_whole(data: Path) -> bool:
    conn = db.connect(data / db.FILE_NAME)
    count: int = conn.execute("SELECT count(*) FROM audit_log WHERE action = 'filling'").fetchone()[0]
    problems = self_check.list_problem_texts(conn)
    conn.close()
    return problems == [] and count == _ROWS


def test_a_bar_on_a_terminal_and_json_in_the_pipe(big, tmp_path):
    command = OnTerminal("backup", tmp_path / "copy.db", "--json", "--data", big)
    status, stdout = command.finish()
    assert status == 0
    assert json.loads(stdout)["bytes"] > 10 << 20
    assert "Backup  [####" in command.said
    assert "100%" in command.said


@pytest.mark.parametrize(
    "words",
    [("backup", "copy.db"), ("check",), ("compact",), ("restore", "copy.db")],
    ids=lambda words: words[0],
)
def test_nothing_but_the_result_in_a_pipe(data, tmp_path, words):
    subprocess.run([sys.executable, ROOT / "app.py", "backup", tmp_path / "copy.db", "--data", data], check=True)
    words = [words[0], *[tmp_path / ("new.db" if words[0] == "backup" else each) for each in words[1:]]]
    done = subprocess.run(
        [sys.executable, ROOT / "app.py", *words, "--json", "--data", data], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_backup_that_is_stopped_leaves_no_file(big, tmp_path, number):
    before = list_files(tmp_path)
    last_line = stop_in_the_middle(number, "Backup", "backup", tmp_path / "copy.db", "--data", big)
    assert last_line == "Backup: stopped; no file was written."
    assert list_files(tmp_path) == before
    assert is_whole(big)


def test_after_a_second_signal_nothing_is_said_of_what_is_as_it_was(big, tmp_path):
    command = OnTerminal("backup", tmp_path / "copy.db", "--data", big)
    command.wait_for_progress("Backup")
    # Both are there before the command goes on: it looks for neither of them in between.
    os.kill(command.process.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, command.process.pid, os.WSTOPPED | os.WNOWAIT)
    command.process.send_signal(signal.SIGINT)
    command.process.send_signal(signal.SIGTERM)
    os.kill(command.process.pid, signal.SIGCONT)
    assert command.finish() == (130, ""), command.said
    assert command.said.splitlines()[-1] == "Backup: interrupted; run check to see that the database is whole."
    assert is_whole(big)


def test_a_restore_that_is_stopped_changes_nothing(big, tmp_path, run_app):
    assert run_app("backup", tmp_path / "copy.db").returncode == 0
    conn = db.connect(big / db.FILE_NAME)
    conn.execute("CREATE TABLE since_the_backup (id)")
    conn.close()
    for title in (r"Restore  \d+ s", r"Restore  \["):
        before = list_files(tmp_path)
        last_line = stop_in_the_middle(signal.SIGINT, title, "restore", tmp_path / "copy.db", "--data", big)
        assert last_line == "Restore: stopped; the database is as it was."
        assert list_files(tmp_path) == before
    conn = db.connect(big / db.FILE_NAME)
    assert conn.execute("SELECT count(*) FROM since_the_backup").fetchone()[0] == 0
    conn.close()
    assert is_whole(big)


@pytest.mark.parametrize("options", [(), ("--record",)])
def test_a_check_that_is_stopped_leaves_no_copy_and_no_result(big, options):
    before = list_files(big)
    for _ in range(5):  # on a busy machine it may be over before this test sees its bar
        command = OnTerminal("check", *options, "--data", big)
        command.wait_for_progress(r"Check  \[")
        command.process.send_signal(signal.SIGINT)
        status, stdout = command.finish()
        last_line = command.said.splitlines()[-1]
        if last_line.startswith("Check: stopped"):
            break
        conn = db.connect(big / db.FILE_NAME)
        conn.execute("DELETE FROM checks")
        conn.close()
    assert (status, stdout) == (130, "")
    assert last_line == "Check: stopped; it found out nothing, and the database is as it was."
    assert list_files(big) == before
    conn = db.connect(big / db.FILE_NAME)
    assert daily_self_check.find_last_result(conn) is None
    conn.close()


def test_compacting_that_is_stopped_changes_nothing(big):
    before = list_files(big)
    last_line = stop_in_the_middle(signal.SIGINT, "Compact", "compact", "--data", big)
    assert last_line == "Compact: stopped; the database is as it was."
    assert list_files(big) == before
    assert is_whole(big)


def test_an_import_that_is_stopped_imports_nothing(data, conn, tmp_path):
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("".join(f"39340{number:07}\n" for number in range(100_000)))
    command = ("blacklist", "import", "smpp-acme-1", numbers, "--data", data)
    assert stop_in_the_middle(signal.SIGINT, "Import", *command) == "Import: stopped; the blacklist is as it was."
    assert conn.execute("SELECT count(*) FROM blacklist").fetchone()[0] == 0


def test_a_demo_that_is_stopped_is_not_there(tmp_path):
    assert stop_in_the_middle(signal.SIGINT, r"Demo  \[#", "demo", "--data", tmp_path / "demo") == (
        "Demo: stopped; the next start makes it up."
    )
    assert list_files(tmp_path) == {}


def test_a_migration_that_is_stopped_changes_nothing(tmp_path, data):
    (data / db.FILE_NAME).unlink()
    with sqlite3.connect(data / db.FILE_NAME) as old:
        old.executescript((ROOT / "tests" / "saved" / "m0002.sql").read_text())
        # The backup before it is what takes long.
        old.execute(
            "CREATE TABLE filling AS WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL SELECT number + 1"
            " FROM numbers WHERE number < 500000) SELECT printf('%.100c', 'x') FROM numbers"
        )
    old.close()
    before = list_files(data)
    last_line = stop_in_the_middle(signal.SIGINT, "Update of the database", "migrate", "--data", data)
    assert last_line == "Update of the database: stopped; it is as it was."
    assert list_files(data) == before
    command = OnTerminal("migrate", "--data", data)
    assert command.finish()[0] == 0
    assert "100%" in command.said
    # The bar makes room for each line of the log.
    assert re.search(r"Update of the database  \[[^\n]*\r\x1b\[K[0-9: ,-]+ migrate copy of the database", command.said)
    with sqlite3.connect(data / db.FILE_NAME) as migrated:
        names = [name for (name,) in migrated.execute("SELECT name FROM _sqlite_migrations")]
    migrated.close()
    assert len(names) == len(migrations._migrations)
