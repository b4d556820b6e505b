"""An update on a disk that is too small, or that others fill meanwhile."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults import storage
from tests.older_database import (
    PIPE_OCTETS,
    ROOM_FOR_THREE_LINES,
    assert_nothing_happened,
    count_unread_octets,
    list_applied,
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
def older(data: Path, small_disk: Path) -> Path:
    shutil.copytree(data, small_disk / "data")
    return make_older(small_disk / "data")


def test_a_disk_without_room_is_found_out_before_anything_begins(older):
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


def test_a_disk_that_is_full_in_the_middle_leaves_the_old_database(older):
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
