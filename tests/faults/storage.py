"""Ways to make the database fail for real, beneath SQLite."""

import array
import fcntl
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# linux/fs.h
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_IMMUTABLE_FL = 0x80086601, 0x40086602, 0x10
_CHUNK_OCTETS = 65_536

_HOLD_LOCK = """
import sqlite3, sys
conn = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
conn.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
conn.execute("ROLLBACK")
"""


class FaultNotPossible(Exception):
    """Why this machine, or this user, can't do it."""


@contextmanager
def mount_small_disk(mount_point: Path, size: str) -> Iterator[Path]:
    """A file system of its own that holds no more than `size` (`8m`). Raises NotPossible."""
    mount_point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount_point], capture_output=True, text=True
    )
    if done.returncode:
        raise FaultNotPossible(done.stderr.strip())
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", mount_point], check=True)


@contextmanager
def fill_disk(folder: Path) -> Iterator[None]:
    """Not one octet more fits on the disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        size = _CHUNK_OCTETS
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def make_immutable(*files: Path) -> Iterator[None]:
    """Files that the kernel lets nobody write, not even who has them open, as on a disk that was remounted read-only
    after an error. Raises NotPossible.
    """
    changed: list[Path] = []
    try:
        for file in files:
            _set_immutable(file, True)
            changed.append(file)
        yield
    finally:
        for file in changed:
            _set_immutable(file, False)


def _set_immutable(file: Path, on: bool) -> None:
    with file.open("rb") as handle:
        flags = array.array("L", [0])
        try:
            fcntl.ioctl(handle, _FS_IOC_GETFLAGS, flags)
            flags[0] = flags[0] | _FS_IMMUTABLE_FL if on else flags[0] & ~_FS_IMMUTABLE_FL
            fcntl.ioctl(handle, _FS_IOC_SETFLAGS, flags)
        except OSError as error:
            raise FaultNotPossible(f"{file.name} can't be made immutable: {error.strerror}") from error


@contextmanager
def limit_file_size(pid: int, max_octets: int) -> Iterator[None]:
    """A running process may write no file beyond so many octets (EFBIG), as with a quota."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (max_octets, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def hold_write_lock(database: Path) -> Iterator[None]:
    """Another process holds the write lock."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD_LOCK, os.fspath(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin
    assert holder.stdout
    try:
        assert holder.stdout.readline() == b"locked\n"
        yield
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()
