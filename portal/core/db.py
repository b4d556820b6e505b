"""Connections to the one SQLite file, and the transactions that write to it."""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

FILE_NAME = "portal.db"
BUSY_TIMEOUT_MS = 5_000
_LOOK_AGAIN_S = 0.0005


class Connection(sqlite3.Connection):
    """A connection that can tell its owner about each commit (the web process uses it to wake the SMPP server)."""

    on_commit: Callable[[], None] | None = None
    busy_timeout_ms: int = BUSY_TIMEOUT_MS
    only_immediate: bool = False

    def teach(self, name: str, arguments: int, function: Callable[..., str | int | None]) -> None:
        """Let SQL call a deterministic function, unless it can already: learning one anew, SQLite would throw away all
        the statements that it has prepared."""
        taught: set[str] = self.__dict__.setdefault("taught", set())
        if name not in taught:
            self.create_function(name, arguments, function, deterministic=True)
            taught.add(name)


def connect(
    file: Path,
    *,
    on_commit: Callable[[], None] | None = None,
    busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    only_immediate: bool = False,
) -> Connection:
    """Open the database.

    Args:
        file: the database file; it is created when missing.
        on_commit: called after each `immediate()` block that has committed, never inside the transaction.
        busy_timeout_ms: how long a write waits for another process's, in milliseconds.
        only_immediate: all is written in `immediate()` blocks, none of which then has to tell SQLite how to wait.

    Raises:
        sqlite3.OperationalError: the file can't be opened.
    """
    conn = sqlite3.connect(
        file,
        factory=Connection,
        # Transactions are begun by hand: the sqlite3 module would begin deferred ones, whose first write fails with
        # SQLITE_BUSY, without waiting, when another process wrote after their first read.
        isolation_level=None,
        check_same_thread=False,
        timeout=busy_timeout_ms / 1000,
        cached_statements=256,
    )
    conn.row_factory = sqlite3.Row
    conn.on_commit = on_commit
    conn.busy_timeout_ms = busy_timeout_ms
    conn.execute("PRAGMA journal_mode = WAL")
    # FULL, because "acknowledged" means "on disk": with NORMAL a power cut may take back the latest commits.
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("PRAGMA foreign_keys = ON")
    conn.execute("PRAGMA temp_store = MEMORY")
    # What is deleted is overwritten with zeros, in pages that are written anyway and in those that become free. SQLite
    # leaves that to whoever builds it: Debian's does so by itself. When it splits a full page, copies of the rows that
    # move stay in what the page has free then: only a VACUUM removes these.
    conn.execute("PRAGMA secure_delete = ON")
    # A checkpoint stops the SMPP server's writer for some 10 ms. With SQLite's own 1,000 pages that was every fortieth
    # commit under load, and so the 99th percentile of the answers; the log of changes stays at 16 MB.
    conn.execute("PRAGMA wal_autocheckpoint = 4000")
    if only_immediate:
        conn.only_immediate = True
        conn.execute("PRAGMA busy_timeout = 0")
    return conn


def empty_log(conn: Connection) -> bool:
    """Bring the write-ahead log into the database and cut it off, so that nothing of what was overwritten is left.

    Returns:
        Whether that was done: not while somebody writes, or reads what was before. Nobody is waited for.
    """
    conn.execute("PRAGMA busy_timeout = 0")
    try:
        (busy, *_) = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        conn.execute(f"PRAGMA busy_timeout = {0 if conn.only_immediate else conn.busy_timeout_ms}")
    return not busy


@contextmanager
def immediate(conn: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A write transaction that holds the write lock from its start (BEGIN IMMEDIATE), so that what it reads stays true.

    Inside another `immediate()` block it joins that one: the outermost block commits, and an exception that leaves it
    rolls everything back.

    Raises:
        sqlite3.OperationalError: another process kept the lock longer than the busy timeout, or the disk is full.
    """
    if conn.in_transaction:
        yield conn
        return
    try:
        _begin(conn)
        yield conn
        conn.execute("COMMIT")
    except BaseException:
        # A failed COMMIT (disk full) leaves the transaction open, and so may what happens just after BEGIN: the next
        # block would join one that nobody commits. An error may already have closed it.
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise
    if isinstance(conn, Connection) and conn.on_commit is not None:
        conn.on_commit()


def _begin(conn: sqlite3.Connection) -> None:
    # SQLite's own waiting looks again after ever longer pauses, up to 100 ms. Beside the SMPP server's writer, which
    # under load leaves the database free for a millisecond at a time, it would look in vain for seconds.
    timeout_ms = conn.busy_timeout_ms if isinstance(conn, Connection) else BUSY_TIMEOUT_MS
    if isinstance(conn, Connection) and conn.only_immediate:
        _begin_within(conn, timeout_ms)
        return
    conn.execute("PRAGMA busy_timeout = 0")
    try:
        _begin_within(conn, timeout_ms)
    finally:
        conn.execute(f"PRAGMA busy_timeout = {timeout_ms}")


def _begin_within(conn: sqlite3.Connection, timeout_ms: int) -> None:
    ends = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            conn.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= ends:
                raise
        time.sleep(_LOOK_AGAIN_S)


def insert(conn: sqlite3.Connection, table: str, **values: object) -> int:
    """Insert one row and return its rowid. `table` and the column names come from the code, never from input."""
    columns = ", ".join(values)
    marks = ", ".join("?" * len(values))
    cursor = conn.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(values.values()))
    return cursor.lastrowid or 0


class Inserts:
    """Many rows into one table, 32 in each statement.

    `executemany` would run a statement a row, and Python lets go of its lock (GIL) and takes it back around each: in a
    thread beside a busy event loop that costs more than SQLite's work itself.
    """

    _MOST_ROWS = 32

    def __init__(self, table: str, columns: str, then: str = "") -> None:
        """Args:
        columns: their names, separated by commas.
        then: what follows the rows, such as ON CONFLICT.
        """
        row = f"({', '.join('?' * len(columns.split(',')))})"
        # Made once: the connection finds a prepared statement by its text.
        self._statements = [
            f"INSERT INTO {table} ({columns}) VALUES {', '.join([row] * rows)} {then}"
            for rows in range(1, self._MOST_ROWS + 1)
        ]

    def run(self, conn: sqlite3.Connection, rows: Sequence[Sequence[object]]) -> None:
        """Insert rows, in their order."""
        for start in range(0, len(rows), self._MOST_ROWS):
            some = rows[start : start + self._MOST_ROWS]
            conn.execute(self._statements[len(some) - 1], tuple(chain.from_iterable(some)))
