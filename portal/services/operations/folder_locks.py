"""Who uses a data folder: one server at a time, and nobody else beside what replaces or migrates the database.

Each lock is a file that its holder has locked by flock(), so that none outlives its process. The holder writes its
version and its process id into the file, for the sentence that refuses others. Older versions wrote nothing.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO

from portal import __version__, migrations
from portal.core import db, paths
from portal.core.progress import Progress
from portal.services.common.errors import Refused
from portal.services.operations import database_key

SERVER, WEB, SMSC, DEMO = "server", "web", "smsc", "demo"
# Held by everything that uses the database: shared, or alone by what replaces, rewrites or migrates it.
_DATABASE = "running"
_POLL_S = 0.05
# `find_running_server` has a lock for less than that.
_GRACE_S = 0.2


class AlreadyRunning(Refused):
    sentence = "%(holder)s is running on %(data)s already."


class DataFolderInUse(Refused):
    sentence = "%(holder)s is running on %(data)s. Try again when it has ended."


class ServerRunning(DataFolderInUse):
    sentence = "%(holder)s is running on %(data)s. Stop it first."


class OlderDatabaseInUse(ServerRunning):
    sentence = "The database in %(data)s has to be migrated, but not while it is in use. Stop it first: %(holder)s."


@contextmanager
def hold_component_lock(data: Path, name: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock that allows only one SERVER, WEB, SMSC or DEMO for a data folder.

    Args:
        wait_s: how long to wait for another process to end, in seconds.

    Raises:
        AlreadyRunning
    """
    deadline = time.monotonic() + max(wait_s, _GRACE_S)
    with _open_lock(data, name) as handle:
        while not try_lock(handle):
            if time.monotonic() >= deadline:
                raise AlreadyRunning(holder=_describe_holder(handle, name), data=data)
            time.sleep(_POLL_S)
        _write_holder(handle)
        yield


def acquire_data_folder_lock(data: Path, *, alone: bool = False, but_for: str = "") -> FileIO:
    """Mark a data folder as in use by this process, until the returned file is closed or the process ends.

    Args:
        alone: and by nobody else.
        but_for: the lock of a server that this process holds itself.

    Raises:
        ServerRunning: a server is running on it, where this process wants to be alone.
        DataFolderInUse: a command is; or the database is being restored, compacted or migrated at this moment.
    """
    handle = _open_lock(data, _DATABASE)
    if try_lock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
        if alone:
            _write_holder(handle)
        return handle
    with handle:
        if alone and (server := find_running_server(data, but_for=but_for)):
            raise ServerRunning(holder=server, data=data)
        # Those that share the lock are not in the file.
        is_shared = alone and try_lock(handle, fcntl.LOCK_SH)
        raise DataFolderInUse(holder="A command" if is_shared else _describe_holder(handle, _DATABASE), data=data)


def lock_migrated_database(data: Path, progress: Progress, *, but_for: str = "") -> tuple[FileIO, list[str]]:
    """Lock a data folder as `acquire_data_folder_lock`, its database being up to date.

    Where it is not, it is migrated while nobody else uses the folder: a server is refused, and commands are waited for.

    Args:
        progress: is told migrations; or nothing but the time while this waits.
        but_for: the lock of a server that this process holds itself.

    Returns:
        The lock, and the names of the migrations that were applied.

    Raises:
        KeyFileError: `secret.key` belongs to another database; nothing has changed.
        OlderDatabaseInUse, NewerDatabase, MigrationFailed: nothing has changed.
        KeyboardInterrupt: from `progress`; nothing has changed.
    """
    applied: list[str] = []
    while True:
        # Given back first: two that wait to be alone while both share it would wait forever.
        with ExitStack() as stack:
            handle = stack.enter_context(_wait_for_database(data, progress, alone=False))
            if not _list_pending_migrations(data):
                stack.pop_all()
                return handle, applied
        with _wait_for_database(data, progress, alone=True, but_for=but_for):
            if _list_pending_migrations(data):
                applied += migrations.migrate(data / db.FILE_NAME, progress=progress)


def _list_pending_migrations(data: Path) -> list[str]:
    """Raises: KeyFileError, NewerDatabase"""
    pending = migrations.list_pending_migrations(data / db.FILE_NAME)
    # One that is yet to be made has no secrets.
    if len(pending) < len(migrations.KNOWN_NAMES):
        with closing(db.connect(data / db.FILE_NAME)) as conn:
            database_key.require_key_of_database(conn, data)
    return pending


def _wait_for_database(data: Path, progress: Progress, *, alone: bool, but_for: str = "") -> FileIO:
    # Imported here, as it takes ten milliseconds: no other command that uses these locks needs it.
    import logging

    told = ""
    while True:
        try:
            return acquire_data_folder_lock(data, alone=alone, but_for=but_for)
        except ServerRunning as error:
            raise OlderDatabaseInUse(**error.params) from None
        except DataFolderInUse as error:
            holder = str(error.params["holder"])
        if holder != told:
            logging.getLogger(__name__).info("waiting: %s is running on %s", holder, data)
            told = holder
        progress(0, 0)
        time.sleep(_POLL_S)


def find_running_server(data: Path, *, but_for: str = "") -> str | None:
    """Describe a server that runs on a data folder, by its version and process id; None: there is none.

    Args:
        but_for: the lock of a server that this process holds itself.
    """
    for name in (SERVER, WEB, SMSC):
        if name != but_for and (data / f"{name}.lock").exists():
            with _open_lock(data, name) as handle:
                if not try_lock(handle, fcntl.LOCK_SH):
                    return _describe_holder(handle, name)
    return None


def _open_lock(data: Path, name: str) -> FileIO:
    return paths.open_lock_file(data / f"{name}.lock")


def try_lock(handle: IO[bytes], operation: int = fcntl.LOCK_EX) -> bool:
    """Lock a file by flock(), unless another process has locked it; returns whether it is locked now."""
    try:
        fcntl.flock(handle, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_holder(handle: FileIO) -> None:
    # The lock holds without it, also on a full disk.
    with suppress(OSError):
        handle.truncate(0)
        handle.seek(0)
        handle.write(f"{__version__} {os.getpid()}\n".encode())


def _describe_holder(handle: FileIO, name: str) -> str:
    handle.seek(0)
    version, _, pid = handle.read().decode(errors="replace").strip().partition(" ")
    if not pid:
        # Older versions wrote nothing, and emptied the file before they were refused.
        return f"Another SMPP Portal ({'a command' if name == _DATABASE else name})"
    component = f"{name}, " if name in (WEB, SMSC, DEMO) else ""
    return f"SMPP Portal {version} ({component}process {pid})"
