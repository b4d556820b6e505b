"""An update on a disk that is too small, or that others fill meanwhile; and one that is killed at any moment."""

import os
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from portal.core import db
from portal.migrations import KNOWN_NAMES
from tests.faults import storage
from tests.faults.conftest import ReportCounts
from tests.older_database import (
    FIRST_RELEASE,
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
from tests.support import wait_until


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with ExitStack() as mounted:
        try:
            yield mounted.enter_context(storage.mount_small_disk(tmp_path / "small", "32m"))
        except storage.FaultNotPossible as why:
            pytest.skip(f"needs the right to mount: {why}")


@pytest.fixture
def older_on_small_disk(data: Path, small_disk: Path) -> Path:
    shutil.copytree(data, small_disk / "data")
    return make_older(small_disk / "data")


def test_a_disk_without_room_is_found_out_before_anything_begins(older_on_small_disk):
    older = older_on_small_disk
    (older / "filler").write_bytes(bytes(18 << 20))
    with start_command(older, "migrate") as process:
        assert process.wait(20) == 1
    last_line = (older / "log").read_text().splitlines()[-1]
    assert f"Migrating {older}/portal.db needs up to 17 MB in {older}, where 1" in last_line
    assert last_line.endswith(" MB are free. Nothing has changed. Make room, and start again.")
    assert_nothing_happened(older)
    (older / "filler").unlink()
    with start_command(older, "migrate") as process:
        assert process.wait(20) == 0
    assert "m0003_sessions" in list_applied(older)


@pytest.mark.parametrize(("size", "status"), [("4m", 1), ("32m", 0)])
def test_copies_on_a_disk_of_their_own_need_room_there(data, size, status):
    make_older(data)
    with ExitStack() as mounted:
        try:
            backups = mounted.enter_context(storage.mount_small_disk(data / "backups", size))
        except storage.FaultNotPossible as why:
            pytest.skip(f"needs the right to mount: {why}")
        with start_command(data, "migrate") as process:
            assert process.wait(20) == status
        assert len(list_copies(data)) == 1 - status
    assert (f"up to 17 MB in {backups}, where " in (data / "log").read_text().splitlines()[-1]) == bool(status)
    assert list_applied(data) == (FIRST_RELEASE if status else KNOWN_NAMES)


def test_a_disk_that_is_full_in_the_middle_leaves_the_old_database(older_on_small_disk):
    older = older_on_small_disk
    with start_held_up(older, ROOM_FOR_THREE_LINES) as (process, reader):
        wait_until(lambda: count_unread_octets(reader) > PIPE_OCTETS - ROOM_FOR_THREE_LINES // 2)
        with storage.fill_disk(older):
            log = b""
            while part := os.read(reader, PIPE_OCTETS):
                log += part
            assert process.wait(20) == 1
    last_line = log.decode().splitlines()[-1]
    assert f"Migrating {older}/portal.db failed at " in last_line
    assert "database or disk is full" in last_line
    assert f"In {older} 0 MB are free" in last_line
    assert_nothing_happened(older)


@pytest.fixture
def big(data: Path) -> Path:
    """An older database with so many messages that copying and migrating it take a second or so."""
    make_older(data)
    with closing(sqlite3.connect(data / db.FILE_NAME, isolation_level=None)) as conn:
        columns = ", ".join(row[1] for row in conn.execute("PRAGMA table_info(messages)") if row[1] != "id")
        conn.execute(
            f"INSERT INTO messages (id, {columns}) WITH RECURSIVE numbers (number) AS (SELECT 1 UNION ALL"
            f" SELECT number + 1 FROM numbers WHERE number < 30000) SELECT id + 3 * number, {columns}"
            " FROM numbers, (SELECT * FROM messages ORDER BY id LIMIT 1)"
        )
    return data


def test_one_that_is_killed_at_any_moment_has_done_all_or_nothing(
    big: Path, rounds: int, tell: ReportCounts, tmp_path: Path
) -> None:
    shutil.copytree(big, tmp_path / "whole")
    begun = time.monotonic()
    with start_command(tmp_path / "whole", "migrate") as process:
        assert process.wait(60) == 0
    elapsed = time.monotonic() - begun
    chance = random.Random(1)
    killed_while_copying = killed = 0
    for number in range(rounds):
        folder = tmp_path / f"round-{number}"
        shutil.copytree(big, folder)
        with start_command(folder, "migrate") as process:
            try:
                process.wait(elapsed * (number + chance.random()) / rounds)
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
        killed_while_copying += any(each.suffix == ".part" for each in list_copies(folder))
        applied, complete = list_applied(folder), [each for each in list_copies(folder) if each.suffix == ".db"]
        assert applied in (FIRST_RELEASE, KNOWN_NAMES)
        assert complete or applied == FIRST_RELEASE
        for file in [folder / db.FILE_NAME, *complete]:
            with closing(sqlite3.connect(file)) as conn:
                assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                assert conn.execute("SELECT count(*) FROM messages").fetchone() == (30_003,)
        with start_command(folder, "migrate") as process:
            assert process.wait(60) == 0
        assert list_applied(folder) == KNOWN_NAMES
        shutil.rmtree(folder)
    tell(killed=killed, with_a_part_of_a_copy=killed_while_copying)
