import sqlite3
import threading
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from portal.core import db
from portal.core.db import Connection, write_transaction


def name_of(conn: Connection) -> str:
    return str(conn.execute("SELECT name FROM customers ORDER BY id").fetchone()[0])


def rename(conn: Connection, name: str) -> None:
    conn.execute("UPDATE customers SET name = ? WHERE id = 1", (name,))


def test_what_is_acknowledged_is_on_disk(conn):
    assert conn.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert conn.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert conn.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_a_block_that_fails_changes_nothing(conn):
    def fail() -> None:
        with write_transaction(conn):
            rename(conn, "Changed")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        fail()
    assert name_of(conn) == "Acme"
    assert not conn.in_transaction


def test_a_block_that_is_interrupted_leaves_no_transaction_behind(conn):
    """Also where that happens between BEGIN and what is in the block: the next block would never be committed."""
    for steps in range(1, 60):
        step = count(1)
        conn.set_progress_handler(lambda step=step, last=steps: next(step) == last, 1)
        try:
            with write_transaction(conn):
                rename(conn, f"After {steps}")
        except sqlite3.OperationalError as error:
            assert error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT
        conn.set_progress_handler(None, 0)
        assert not conn.in_transaction, steps


def test_an_inner_block_belongs_to_the_outer_one(conn, connect):
    def fail() -> None:
        with write_transaction(conn):
            with write_transaction(conn):
                rename(conn, "Changed")
            assert name_of(connect()) == "Acme"
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        fail()
    assert name_of(conn) == "Acme"


def test_commits_are_told_after_they_have_happened_and_once(data, connect):
    seen = []
    other = connect()
    conn = db.connect(data / db.FILE_NAME, on_commit=lambda: seen.append(name_of(other)))
    with write_transaction(conn), write_transaction(conn):
        rename(conn, "Changed")
    assert seen == ["Changed"]
    conn.close()


def test_a_block_that_fails_tells_nothing(data):
    seen = []
    conn = db.connect(data / db.FILE_NAME, on_commit=lambda: seen.append(1))

    def fail() -> None:
        with write_transaction(conn):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        fail()
    assert seen == []
    conn.close()


@pytest.mark.slow
def test_writers_wait_for_each_other(connect):
    def add() -> None:
        conn = connect()
        for _ in range(50):
            with write_transaction(conn):
                value = conn.execute("SELECT value FROM counters WHERE name = 'message_id'").fetchone()[0]
                conn.execute("UPDATE counters SET value = ? WHERE name = 'message_id'", (value + 1,))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert connect().execute("SELECT value FROM counters WHERE name = 'message_id'").fetchone()[0] == 200


@pytest.mark.parametrize("only_immediate", [False, True])
def test_a_writer_waits_for_another(data, connect, only_immediate):
    holder, renamed = connect(), threading.Event()
    waiting = db.connect(data / db.FILE_NAME, only_immediate=only_immediate)

    def write() -> None:
        with write_transaction(waiting):
            rename(waiting, "Second")
        renamed.set()

    with write_transaction(holder):
        thread = threading.Thread(target=write)
        thread.start()
        assert not renamed.wait(0.05)
        rename(holder, "First")
    thread.join()
    assert name_of(holder) == "Second"
    waiting.close()


@pytest.mark.parametrize("only_immediate", [False, True])
def test_a_writer_that_waits_too_long_says_so(data, connect, only_immediate):
    holder = connect()
    impatient = db.connect(data / db.FILE_NAME, busy_timeout_ms=20, only_immediate=only_immediate)
    with (
        write_transaction(holder),
        pytest.raises(sqlite3.OperationalError, match="locked"),
        write_transaction(impatient),
    ):
        pass
    impatient.close()


def test_the_log_is_emptied_but_nobody_is_waited_for(conn, connect, data):
    other, log = connect(), data / f"{db.FILE_NAME}-wal"
    with db.write_transaction(conn):
        conn.execute("INSERT INTO spent_forms VALUES ('1', 1)")
        assert not db.truncate_wal(other)
    assert log.stat().st_size > 0
    assert db.truncate_wal(other)
    assert log.stat().st_size == 0
    for each in (conn, other):
        assert each.execute("PRAGMA busy_timeout").fetchone()[0] == db.BUSY_TIMEOUT_MS


def test_what_is_deleted_is_overwritten(conn):
    assert conn.execute("PRAGMA secure_delete").fetchone()[0] == 1


@pytest.mark.parametrize("count", [0, 1, 64, 65, 200])
def test_many_rows_are_updated_each_to_its_value(tmp_path, count):
    update = db.BulkUpdate("things", "name", "kind = ?, size = ?")
    with closing(db.connect(tmp_path / "things.db")) as conn:
        conn.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, name TEXT, kind TEXT, size INTEGER)")
        db.BulkInsert("things", "id, name, kind, size").run(conn, [(each, "old", "a", 1) for each in range(1, 202)])
        values = {each: None if each % 3 == 0 else f"name {each}" for each in range(count, 0, -1)}
        update.run(conn, list(values.items()), ("b", 2))
        rows = conn.execute("SELECT id, name, kind, size FROM things ORDER BY id").fetchall()
    for row_id, *rest in rows:
        assert rest == ([values[row_id], "b", 2] if row_id in values else ["old", "a", 1])


def test_what_is_sorted_goes_into_files_of_the_folder(conn, tmp_path):
    folder = tmp_path / "it's here"
    folder.mkdir()
    with db.sort_in_files(conn, folder):
        conn.execute("PRAGMA cache_size = 10")
        conn.execute("PRAGMA temp.cache_size = 10")
        conn.execute("CREATE TEMP TABLE many AS SELECT randomblob(300000) FROM (VALUES (1), (2), (3), (4), (5))")
        # SQLite has removed its name already.
        open_files = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        assert [each for each in open_files if each.startswith(f"{folder}/etilqs")]
