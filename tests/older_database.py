"""A database of the first release, and the program's processes that bring it up to date."""

import array
import fcntl
import os
import sqlite3
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from portal.core import db
from portal.core.crypto import Keys
from portal.migrations import list_applied_names
from portal.services.people import two_factor
from tests.serving import clean_environment, stop_process
from tests.support import ROOT

FIRST_RELEASE = {"m0001_initial", "m0002_spent_forms"}


def make_older(data: Path) -> Path:
    """Put the first release's database in the place of a data folder's."""
    for each in data.glob(f"{db.FILE_NAME}*"):
        each.unlink()
    conn = sqlite3.connect(data / db.FILE_NAME)  # without foreign keys: a dump's tables are in no order
    conn.executescript((ROOT / "tests" / "saved" / "m0002.sql").read_text())
    conn.close()
    return data


def make_older_with_operator(data: Path, keys: Keys) -> Path:
    """The same, with an operator whose authenticator is sealed with this key."""
    make_older(data)
    with closing(sqlite3.connect(data / db.FILE_NAME)) as conn, conn:
        conn.execute(
            "INSERT INTO users (email, role, totp_secret, created_at) VALUES ('o@portal.example', 'operator', ?, 0)",
            (two_factor.new_totp_secret(keys),),
        )
    return data


def list_applied(data: Path) -> set[str]:
    with closing(sqlite3.connect(data / db.FILE_NAME)) as conn:
        return list_applied_names(conn)


def list_copies(data: Path) -> list[Path]:
    return sorted((data / "backups").iterdir()) if (data / "backups").exists() else []


def assert_nothing_happened(data: Path) -> None:
    assert list_applied(data) == FIRST_RELEASE
    assert list_copies(data) == []
    with closing(sqlite3.connect(data / db.FILE_NAME)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@contextmanager
def start_command(
    data: Path, *words: str, stderr: int | None = None, **options: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    """A command as a process; its stderr goes to the file `log` in the data folder, if nowhere else."""
    with (data / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, ROOT / "app.py", *words, "--data", data],
            stdout=subprocess.DEVNULL,
            stderr=log if stderr is None else stderr,
            env=clean_environment(),
            **options,
        )
    try:
        yield process
    finally:
        stop_process(process)


PIPE_OCTETS = 4096
LINE_OF_A_STEP = len("2026-11-29 13:01:02,123 migrate migration m0003_sessions: 0.0 s\n")
# What it is about to do, the room, and the copy.
ROOM_FOR_THREE_LINES = 700


@contextmanager
def start_held_up(data: Path, room: int) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """`migrate`, which stops in the middle since nobody reads its log: `room` octets are left in the pipe.

    Yields:
        The process, and the end of the pipe that is to be read.
    """
    reader, writer = os.pipe()
    assert fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_OCTETS) == PIPE_OCTETS
    os.write(writer, b"\n" * (PIPE_OCTETS - room))
    with start_command(data, "migrate", stderr=writer) as process:
        os.close(writer)
        yield process, reader
        process.kill()
    os.close(reader)


def count_unread_octets(reader: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(reader, termios.FIONREAD, count)
    return count[0]
