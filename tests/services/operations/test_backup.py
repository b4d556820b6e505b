import gzip
import multiprocessing
import os
import sqlite3
import subprocess
import threading
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace

import pytest

from portal.core import clock, db
from portal.core.crypto import KeyFileError, Keys
from portal.services.common.audit import SHELL
from portal.services.common.message_states import DELIVERED
from portal.services.credits import credits
from portal.services.history import deletion
from portal.services.messages import outcomes
from portal.services.messages.outcomes import MessageOutcome
from portal.services.operations import backup, folder_locks, self_check
from portal.services.people import customers
from tests.older_database import FIRST_RELEASE, list_applied, make_older_with_operator
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


def test_a_database_that_is_a_link_stays_one(conn, data, tmp_path, connect):
    copy, elsewhere = tmp_path / "copy.db", tmp_path / "elsewhere"
    backup.create_backup(conn, copy)
    customers.create_customer(conn, SHELL, "Later", "x@later.example")
    conn.close()
    elsewhere.mkdir()
    (data / "portal.db").rename(elsewhere / "real.db")
    (data / "portal.db").symlink_to(elsewhere / "real.db")
    replaced = backup.restore_backup(data, copy)
    assert (data / "portal.db").is_symlink()
    assert [each.name for each in elsewhere.iterdir()] == ["real.db"]
    assert "Later" not in [each.name for each in customers.list_all_customers(connect())]
    assert replaced is not None
    assert replaced.parent == data / "backups"
    assert not replaced.is_symlink()
    with closing(db.connect(replaced)) as before:
        assert "Later" in [each.name for each in customers.list_all_customers(before)]


def test_damage_that_is_no_text_is_damage(conn, data, tmp_path):
    copy = tmp_path / "copy.db"
    backup.create_backup(conn, copy)
    conn.close()
    octets = copy.read_bytes()
    copy.write_bytes(octets.replace(b"CREATE TABLE users", b"CREATE \xff\xfe\xffLE users"))
    with pytest.raises(backup.InvalidBackup, match="it is damaged"):
        backup.restore_backup(data, copy)
    # The same of the one that is there, which is what a backup is for.
    copy.write_bytes(octets)
    (data / "portal.db").write_bytes(octets.replace(b"CREATE TABLE users", b"CREATE \xff\xfe\xffLE users"))
    assert backup.restore_backup(data, copy)


def test_what_a_restore_has_replaced_can_be_put_back(conn, data, tmp_path, connect):
    copy = tmp_path / "copy.db"
    backup.create_backup(conn, copy)
    customers.create_customer(conn, SHELL, "Later", "x@later.example")
    conn.close()
    replaced = backup.restore_backup(data, copy)
    assert replaced is not None
    assert backup.restore_backup(data, replaced)
    assert "Later" in [each.name for each in customers.list_all_customers(connect())]
    # Nothing is left beside it: its folder may be one that can't be written.
    assert all(each.suffix == ".db" for each in replaced.parent.iterdir())


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


def write_nothing(copy: Path) -> None:
    copy.write_bytes(b"")


def write_text(copy: Path) -> None:
    copy.write_bytes(b"not a database at all")


def write_gzip(copy: Path) -> None:
    copy.write_bytes(gzip.compress(copy.read_bytes()))


def cut_header(copy: Path) -> None:
    os.truncate(copy, 50)


def cut_half(copy: Path) -> None:
    os.truncate(copy, copy.stat().st_size // 2)


def damage_page(copy: Path) -> None:
    with copy.open("r+b") as file:
        file.seek(copy.stat().st_size // 2)
        file.write(b"\xff" * 20_000)


def damage_schema(copy: Path) -> None:
    with copy.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3_000)


def write_another_programs(copy: Path) -> None:
    copy.unlink()
    with closing(sqlite3.connect(copy)) as other:
        other.execute("CREATE TABLE notes (text)")


def make_folder(copy: Path) -> None:
    copy.unlink()
    copy.mkdir()


def make_pipe(copy: Path) -> None:
    copy.unlink()
    os.mkfifo(copy)


def read_files(data: Path) -> dict[str, bytes]:
    """What is in a data folder, but for locks."""
    return {str(each): each.read_bytes() for each in data.rglob("*") if each.is_file() and each.suffix != ".lock"}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (write_nothing, "it is empty"),
        (write_text, "it is no SQLite database"),
        (write_gzip, "it is no SQLite database"),
        (cut_header, "it is cut off after 50 octets"),
        (cut_half, r"it is cut off after (\d+) of \d+ octets"),
        (damage_page, r"it is damaged \("),
        (damage_schema, r"it is damaged \(database disk image is malformed\)"),
        (write_another_programs, "it isn't a database of this program"),
        (Path.unlink, "there is no such file"),
        (make_folder, "it is a folder"),
        (make_pipe, "it is no file"),
    ],
)
def test_what_is_no_whole_backup_is_refused_by_name(conn, data, tmp_path, damage, reason):
    copy = tmp_path / "copy.db"
    backup.create_backup(conn, copy)
    damage(copy)
    before = read_files(data)
    with pytest.raises(backup.InvalidBackup, match=f"copy.db can't be restored: {reason}"):
        backup.restore_backup(data, copy)
    assert read_files(data) == before


def test_a_backup_that_may_not_be_read_is_refused(conn, data, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    backup.create_backup(conn, folder / "copy.db")
    folder.chmod(0o000)
    before = read_files(data)
    # Root reads everything.
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        with pytest.raises(backup.InvalidBackup, match=r"it can't be read \(Permission denied\)"):
            backup.restore_backup(data, folder / "copy.db")
    finally:
        os.seteuid(user)
        folder.chmod(0o700)
    assert read_files(data) == before


def test_a_backup_made_under_another_key_is_refused(conn, data, tmp_path):
    backup.create_backup(conn, tmp_path / "copy.db")
    (data / "secret.key").write_text("ab" * 32)
    before = read_files(data)
    with pytest.raises(backup.InvalidBackup, match=r"another key than .*secret\.key\. Put the secret\.key"):
        backup.restore_backup(data, tmp_path / "copy.db")
    assert read_files(data) == before


def test_an_older_versions_backup_needs_its_key_too(data, tmp_path, keys):
    (tmp_path / "old").mkdir()
    copy = make_older_with_operator(tmp_path / "old", keys) / db.FILE_NAME
    before = read_files(data)
    (data / "secret.key").rename(data / "kept.key")
    Keys.create(data)
    with pytest.raises(backup.InvalidBackup, match="another key"):
        backup.restore_backup(data, copy)
    (data / "kept.key").replace(data / "secret.key")
    assert read_files(data) == before
    assert backup.restore_backup(data, copy)
    assert list_applied(data) == FIRST_RELEASE


def test_with_a_damaged_key_nothing_is_restored(conn, data, tmp_path):
    backup.create_backup(conn, tmp_path / "copy.db")
    (data / "secret.key").write_text("not hexadecimal")
    before = read_files(data)
    with pytest.raises(KeyFileError, match="damaged"):
        backup.restore_backup(data, tmp_path / "copy.db")
    assert read_files(data) == before


def test_a_damaged_database_can_be_replaced(conn, data, tmp_path, connect):
    backup.create_backup(conn, tmp_path / "copy.db")
    conn.close()
    (data / db.FILE_NAME).write_bytes(b"not a database at all")
    (data / f"{db.FILE_NAME}-wal").write_bytes(b"nor its log")
    old_database = backup.restore_backup(data, tmp_path / "copy.db")
    assert old_database is not None
    assert old_database.read_bytes() == b"not a database at all"
    assert old_database.with_name(f"{old_database.name}-wal").read_bytes() == b"nor its log"
    assert customers.list_all_customers(connect())


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
