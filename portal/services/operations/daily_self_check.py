"""The self-check that a running server does once a day, on a copy: the result is stored, and operators get a mail."""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from portal import migrations
from portal.core import i18n, paths
from portal.core.clock import DAY_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import FILE_NAME, write_transaction
from portal.core.i18n import N_
from portal.core.progress import Progress, no_progress
from portal.services.common import mail
from portal.services.common.errors import Refused
from portal.services.operations import folder_locks, self_check
from portal.services.operations.backup import copy_database
from portal.services.operations.self_check.problem import Problem, problem_from_error
from portal.services.people import users

_MAX_MAILED_PROBLEMS = 20
_RETENTION_MS = 90 * DAY_MS
_COPY_NAME = f".{FILE_NAME}.checking"
_LOCK_NAME = "check.lock"
# For what the server writes while the copy is written.
_RESERVED_OCTETS = 64 << 20
_CACHE_KB = 16_384
_LOOK_AT_LOCK_S = 0.1


class NoDiskSpaceForCopy(Refused):
    sentence = N_("The check needs %(needed)s MB for a copy of the database; in %(data)s %(free)s MB are free.")


class DatabaseCopyFailed(Refused):
    sentence = N_("The check could not write its copy of the database to %(data)s: %(reason)s.")


@dataclass(frozen=True, slots=True)
class SelfCheckResult:
    """The problems that a self-check has found, and when it ran (milliseconds)."""

    at: int
    problems: list[Problem]


def find_last_result(conn: sqlite3.Connection) -> SelfCheckResult | None:
    """Return the latest result; None: there is none yet."""
    row = conn.execute("SELECT at, problems FROM checks ORDER BY at DESC LIMIT 1").fetchone()
    return None if row is None else SelfCheckResult(row["at"], [Problem(*each) for each in json.loads(row["problems"])])


def is_check_due(conn: sqlite3.Connection, now: int) -> bool:
    """Whether the latest result is a day old (`now` in milliseconds)."""
    result = find_last_result(conn)
    # abs: if the clock was ahead during the last check, the next one must not be put off until that time.
    return result is None or abs(now - result.at) >= DAY_MS


def run_daily_check(
    conn: sqlite3.Connection, keys: Keys, data: Path, progress: Progress = no_progress
) -> list[Problem]:
    """Check a copy of the database, store the result and mail new problems.

    A check that could not run is also a problem.

    Args:
        data: the data folder, in which the copy is written.
        progress: as for `open_database_copy` and `find_problems`.

    Returns:
        The problems.

    Raises:
        sqlite3.Error: the result couldn't be stored.
        KeyboardInterrupt: from `progress`; nothing was stored.
    """
    at = now_ms()
    try:
        with open_database_copy(conn, data, progress) as copy:
            problems = self_check.find_problems(copy, progress, keys=keys)
    except Refused as refusal:
        problems = [Problem(refusal.sentence, {name: str(value) for name, value in refusal.params.items()})]
    except sqlite3.DatabaseError as error:
        problems = [problem_from_error(error)]
    save_result(conn, keys, SelfCheckResult(at, problems))
    return problems


def save_result(conn: sqlite3.Connection, keys: Keys, result: SelfCheckResult) -> None:
    """Store a result, and queue a mail to each operator if the previous result did not have all of its problems.

    So nobody gets the same mail every day. The same damage gives the same sentence every day, see `Problem`.
    """
    problems = [[each.sentence, dict(each.params)] for each in result.problems]
    with write_transaction(conn):
        last_result = find_last_result(conn)
        known_problems = last_result.problems if last_result else []
        conn.execute("INSERT OR REPLACE INTO checks (at, problems) VALUES (?, ?)", (result.at, json.dumps(problems)))
        conn.execute("DELETE FROM checks WHERE at < ?", (result.at - _RETENTION_MS,))
        if any(each not in known_problems for each in result.problems):
            _queue_problem_mails(conn, keys, result.problems)


def _queue_problem_mails(conn: sqlite3.Connection, keys: Keys, problems: Sequence[Problem]) -> None:
    for operator in users.list_users(conn, None):
        language = operator.language or i18n.DEFAULT_LANGUAGE
        with i18n.override_language(language):
            sentences = [str(each) for each in problems[:_MAX_MAILED_PROBLEMS]]
        omitted_count = max(0, len(problems) - _MAX_MAILED_PROBLEMS)
        mail.queue_mail(conn, keys, operator.email, "check", language, problems=sentences, more=omitted_count)


# --- the copy


@contextmanager
def open_database_copy(
    conn: sqlite3.Connection, data: Path, progress: Progress = no_progress
) -> Iterator[sqlite3.Connection]:
    """Open a copy of the database as it is now, which is removed afterwards. One of an older version is migrated.

    A long read of the database itself would keep the server from truncating its write-ahead log, which would grow. The
    copy left by a process that was killed is removed by the next one.

    Args:
        data: the data folder, in which the copy is written.
        progress: is told pages, while the copy is written, and migrations.

    Raises:
        NoDiskSpaceForCopy, DatabaseCopyFailed, NewerDatabase
        MigrationFailed: the copy can't be migrated, and so the database can't.
        sqlite3.DatabaseError: the database can't be read.
        KeyboardInterrupt: from `progress`; nothing is left of the copy.
    """
    copy_file = data / _COPY_NAME
    with paths.open_lock_file(data / _LOCK_NAME) as lock:
        # Another check's copy is there until that check has opened it.
        while not folder_locks.try_lock(lock):
            progress(0, 0)
            time.sleep(_LOOK_AT_LOCK_S)
        _remove_copy(data)
        is_older = bool(migrations.list_pending_names(conn))
        _require_disk_space(conn, data, is_older=is_older)
        try:
            _copy_database(conn, copy_file, progress)
            if is_older:
                migrations.migrate_copy(copy_file, progress=progress)
            # Immutable: SQLite needs no lock and no further files, so the name can be removed.
            copy = sqlite3.connect(f"{copy_file.absolute().as_uri()}?immutable=1", uri=True, isolation_level=None)
        finally:
            _remove_copy(data)
    with closing(copy):
        copy.execute(f"PRAGMA cache_size = -{_CACHE_KB}")
        yield copy


def remove_stale_copy(data: Path) -> None:
    """Remove the copy of a check that was killed, unless one is being written at this moment."""
    with paths.open_lock_file(data / _LOCK_NAME) as lock:
        if folder_locks.try_lock(lock):
            _remove_copy(data)


def _remove_copy(data: Path) -> None:
    # While it is migrated it has files beside it.
    for each in data.glob(f"{_COPY_NAME}*"):
        each.unlink()


def _require_disk_space(conn: sqlite3.Connection, data: Path, *, is_older: bool) -> None:
    (pages,), (size,) = (conn.execute(f"PRAGMA {each}").fetchone() for each in ("page_count", "page_size"))
    # Migrations write the largest tables anew, while the old ones are still in the file.
    needed, free = pages * size * (1 + is_older) + _RESERVED_OCTETS, shutil.disk_usage(data).free
    if free < needed:
        raise NoDiskSpaceForCopy(needed=-(-needed >> 20), data=str(data), free=free >> 20)


def _copy_database(conn: sqlite3.Connection, target: Path, progress: Progress) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        conn.execute("BEGIN")
        # The transaction's snapshot is that of its first read.
        conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        # Not VACUUM INTO, which rebuilds the indexes and so hides their damage.
        copy_database(conn, target, progress)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
            raise
        raise DatabaseCopyFailed(data=str(target.parent), reason=str(error)) from None
    finally:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
