import multiprocessing
import sqlite3
import subprocess
import threading
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace

import pytest

from portal.core import clock, db
from portal.core.crypto import Keys
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED
from portal.services.credits import credits
from portal.services.history import deletion
from portal.services.messages import outcomes
from portal.services.messages.outcomes import MessageOutcome
from portal.services.operations import backup, folder_locks, self_check
from portal.services.people import customers
from tests.services.submitting import store_messages
from tests.support import prepare_submit, wait_until


def test_a_backup_put_back_is_what_was_there(conn, data, tmp_path, cast, connect):
    copy = tmp_path / "copy.db"
    backup.create_backup(conn, copy)
    customers.create_customer(conn, SHELL, "Later", "x@later.example")
    conn.close()
    old_database = backup.restore_backup(data, copy)
    restored = connect()
    assert [each.name for each in customers.list_all_customers(restored)] == ["Acme", "Globex"]
    assert self_check.list_problem_texts(restored) == []
    # What was there before is not lost: a restore may be the mistake.
    assert old_database is not None
    before = db.connect(old_database)
    assert "Later" in [each.name for each in customers.list_all_customers(before)]
    before.close()


def test_a_backup_is_for_its_owner_only_and_overwrites_nothing(conn, tmp_path):
    copy = tmp_path / "copy.db"
    backup.create_backup(conn, copy)
    assert copy.stat().st_mode & 0o777 == 0o600
    with pytest.raises(backup.BackupFileExists):
        backup.create_backup(conn, copy)


def test_a_backup_that_fails_leaves_nothing(conn, tmp_path):
    with pytest.raises(OSError, match="No such file"):
        backup.create_backup(conn, tmp_path / "missing" / "copy.db")
    assert list(tmp_path.glob("*copy*")) == []


def test_any_name_is_a_file_name(conn, data, tmp_path):
    copy = tmp_path / "copy?mode=rw#1 %41.db"
    backup.create_backup(conn, copy)
    conn.close()
    assert backup.restore_backup(data, copy)


def test_a_restore_that_fails_leaves_nothing(conn, data, tmp_path):
    backup.create_backup(conn, tmp_path / "copy.db")
    conn.close()
    (data / "backups").write_text("a file where the folder of copies should be")
    before = sorted(each.name for each in data.iterdir())
    with pytest.raises(FileExistsError):
        backup.restore_backup(data, tmp_path / "copy.db")
    assert {each.name for each in data.iterdir()} <= {*before, "running.lock"}
    assert (data / "portal.db").exists()


def test_a_restore_that_can_t_replace_the_database_leaves_no_copy_of_it(conn, data, tmp_path):
    backup.create_backup(conn, tmp_path / "copy.db")
    conn.close()
    # A mount point can't be replaced, nor can there be hard links to it.
    mount = subprocess.run(["mount", "--bind", data / "portal.db", data / "portal.db"], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(mount.stderr.strip())
    try:
        with pytest.raises(OSError, match="busy"):
            backup.restore_backup(data, tmp_path / "copy.db")
    finally:
        subprocess.run(["umount", data / "portal.db"], check=True)
    assert list((data / "backups").iterdir()) == []
    assert not (data / ".portal.db.restoring").exists()


def test_a_backup_has_no_key(conn, data, tmp_path):
    backup.create_backup(conn, tmp_path / "copy.db")
    assert (data / "secret.key").read_text().strip().encode() not in (tmp_path / "copy.db").read_bytes()


def test_a_backup_is_whole_while_credits_move(conn, connect, tmp_path, acme_1, acme_2):
    stop, moving = threading.Event(), threading.Event()

    def move() -> None:
        writer = connect()
        while not stop.is_set():
            credits.transfer_credits(writer, SHELL, acme_1, acme_2, 1)
            credits.transfer_credits(writer, SHELL, acme_2, acme_1, 1)
            moving.set()

    thread = threading.Thread(target=move)
    thread.start()
    moving.wait()
    copies = [tmp_path / f"{number}.db" for number in range(5)]
    for copy in copies:
        backup.create_backup(conn, copy)
    stop.set()
    thread.join()
    for copy in copies:
        opened = db.connect(copy)
        assert self_check.list_problem_texts(opened) == []
        opened.close()


def test_restoring_is_refused_while_the_folder_is_in_use(conn, data, tmp_path):
    backup.create_backup(conn, tmp_path / "copy.db")
    with folder_locks.acquire_data_folder_lock(data), pytest.raises(folder_locks.DataFolderInUse):
        backup.restore_backup(data, tmp_path / "copy.db")
    backup.restore_backup(data, tmp_path / "copy.db")


def hold(data: Path, held: Event, release: Event) -> None:
    with folder_locks.acquire_data_folder_lock(data):
        held.set()
        release.wait()


@pytest.mark.slow
def test_a_process_that_was_killed_is_in_the_way_no_more(conn, data, tmp_path):
    backup.create_backup(conn, tmp_path / "copy.db")
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(data, held, release))
    process.start()
    assert held.wait(20)
    with pytest.raises(folder_locks.DataFolderInUse):
        backup.restore_backup(data, tmp_path / "copy.db")
    process.kill()
    process.join()
    process.close()

    def restored() -> Path | None:
        try:
            return backup.restore_backup(data, tmp_path / "copy.db")
        except folder_locks.DataFolderInUse:
            return None

    wait_until(restored)


@pytest.mark.parametrize("content", [b"", b"not a database at all", b"SQLite format 3\0" + b"\0" * 5000])
def test_what_is_no_backup_is_refused(data, tmp_path, connect, content):
    (tmp_path / "copy.db").write_bytes(content)
    with pytest.raises(backup.InvalidBackup):
        backup.restore_backup(data, tmp_path / "copy.db")
    assert customers.list_all_customers(connect())


def test_a_file_that_is_missing_is_refused(data, tmp_path):
    with pytest.raises(backup.InvalidBackup, match="no such file"):
        backup.restore_backup(data, tmp_path / "copy.db")


def test_another_programs_database_is_refused(data, tmp_path):
    other = sqlite3.connect(tmp_path / "copy.db")
    other.execute("CREATE TABLE notes (text)")
    other.close()
    with pytest.raises(backup.InvalidBackup, match="isn't a database of this program"):
        backup.restore_backup(data, tmp_path / "copy.db")


def test_a_newer_versions_backup_is_refused(conn, data, tmp_path):
    conn.execute("UPDATE _sqlite_migrations SET name = 'm9999_of_the_future' WHERE name = 'm0001_initial'")
    backup.create_backup(conn, tmp_path / "copy.db")
    with pytest.raises(backup.InvalidBackup, match="newer version"):
        backup.restore_backup(data, tmp_path / "copy.db")


def is_whole(copy: Path) -> bool:
    with closing(sqlite3.connect(copy)) as copied:
        return bool(copied.execute("PRAGMA integrity_check").fetchone()[0] == "ok")


def test_two_at_once_never_share_a_file(conn, connect, tmp_path):
    conn.execute(
        "CREATE TABLE ballast AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)"
        " SELECT i FROM n"
    )
    target = tmp_path / "copy.db"
    refused: list[Exception] = []

    def make_another(done: int, total: int) -> None:
        if not refused:
            with pytest.raises(backup.BackupFileExists) as refusal:
                backup.create_backup(connect(), target)
            refused.append(refusal.value)

    backup.create_backup(conn, target, make_another)
    assert len(refused) == 1
    assert is_whole(target)
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_what_a_killed_one_left_is_taken_over(conn, tmp_path):
    (tmp_path / ".copy.db.part").write_bytes(b"half of a database")
    (tmp_path / ".copy.db.part-journal").write_bytes(b"x")
    backup.create_backup(conn, tmp_path / "copy.db")
    assert is_whole(tmp_path / "copy.db")
    assert [each.name for each in tmp_path.iterdir() if "part" in each.name] == []


def test_a_folder_that_is_not_there_is_named(conn, tmp_path):
    with pytest.raises(FileNotFoundError) as refusal:
        backup.create_backup(conn, tmp_path / "none" / "copy.db")
    assert refusal.value.filename == str(tmp_path / "none")


def test_a_backup_can_be_put_into_an_empty_folder(conn, data, tmp_path, cast):
    backup.create_backup(conn, tmp_path / "copy.db")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert backup.restore_backup(elsewhere, tmp_path / "copy.db") is None
    (elsewhere / "secret.key").write_bytes((data / "secret.key").read_bytes())
    digest = Keys.load(elsewhere).digest_smpp_password(cast.smpp_acme_1.password)
    opened = db.connect(elsewhere / db.FILE_NAME)
    assert opened.execute("SELECT count(*) FROM smpp_passwords WHERE digest = ?", (digest,)).fetchone()[0] == 1
    opened.close()


def test_compacting_gives_back_the_space_of_what_was_deleted(conn, data, acme_1):
    stored = store_messages(conn, [prepare_submit(conn, acme_1.id, b"x" * 150)] * 900)
    outcomes.finish_messages(conn, [MessageOutcome(each, DELIVERED, 0, clock.now_ms()) for each in stored if each])
    conn.execute("DELETE FROM deliveries")
    deletion_id = deletion.create_deletion(conn, SHELL, acme_1, deletion.build_selection_scope(deletion.SENT, stored))
    for _ in deletion.run_deletion(conn, deletion_id):
        pass
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    before, after = backup.compact_database(data)

    assert after < before - 900 * 150
    assert (data / db.FILE_NAME).stat().st_size == after
    assert conn.execute("PRAGMA freelist_count").fetchone()[0] == 0
    assert self_check.list_problem_texts(conn) == []


def test_nothing_is_compacted_under_a_running_server_or_without_room(data, monkeypatch):
    with folder_locks.acquire_data_folder_lock(data), pytest.raises(folder_locks.DataFolderInUse):
        backup.compact_database(data)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(backup.NoDiskSpaceToCompact):
        backup.compact_database(data)
