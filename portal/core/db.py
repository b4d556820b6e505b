"""Connections to the SQLite database, and write transactions."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

FILE_NAME = "portal.db"
BUSY_TIMEOUT_MS = 5_000
_RETRY_S = 0.0005


class Connection(sqlite3.Connection):
    """A connection that can call a function after each commit (the web process wakes the SMPP server with it)."""

    on_commit: Callable[[], None] | None = None
    busy_timeout_ms: int = BUSY_TIMEOUT_MS
    only_immediate: bool = False

    def register_function(self, name: str, arguments: int, function: Callable[..., str | int | None]) -> None:
        """Register a deterministic SQL function, once for each connection.

        If it were registered again, SQLite would discard all its prepared statements.
        """
        if self._is_new_function(name):
            self.create_function(name, arguments, function, deterministic=True)

    def register_aggregate(self, name: str, arguments: int, aggregate: type) -> None:
        """Register an SQL aggregate function, once for each connection: see `sqlite3.Connection.create_aggregate`."""
        if self._is_new_function(name):
            self.create_aggregate(name, arguments, aggregate)

    def _is_new_function(self, name: str) -> bool:
        registered: set[str] = self.__dict__.setdefault("registered_functions", set())
        is_new = name not in registered
        registered.add(name)
        return is_new


def connect(
    file: Path,
    *,
    on_commit: Callable[[], None] | None = None,
    busy_timeout_ms: int = BUSY_TIMEOUT_MS,
    only_immediate: bool = False,
) -> Connection:
    """Open the database.

    Args:
        file: the database file; it is created if it is missing.
        on_commit: called after each `write_transaction()` block that has committed, never inside the transaction.
        busy_timeout_ms: how long a write waits for that of another process, in milliseconds.
        only_immediate: this connection writes only in `write_transaction()` blocks, which then are faster: they need
            not change SQLite's own busy timeout each time.

    Raises:
        sqlite3.OperationalError: the file can't be opened.
        sqlite3.DatabaseError: it is damaged.
    """
    conn = sqlite3.connect(
        file,
        factory=Connection,
        # Transactions are begun explicitly: the sqlite3 module would begin deferred ones, whose first write fails with
        # SQLITE_BUSY, without waiting, if another process has written since their first read.
        isolation_level=None,
        check_same_thread=False,
        timeout=busy_timeout_ms / 1000,
        cached_statements=256,
    )
    conn.row_factory = sqlite3.Row
    conn.on_commit = on_commit
    conn.busy_timeout_ms = busy_timeout_ms
    with decode_damage():
        conn.execute("PRAGMA journal_mode = WAL")
    # FULL, because "acknowledged" means "on disk": with NORMAL a power cut may take back the latest commits.
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("PRAGMA foreign_keys = ON")
    conn.execute("PRAGMA temp_store = MEMORY")
    # Deleted content is overwritten with zeros. The default depends on how SQLite was built; Debian's has it on. When
    # SQLite splits a full page, copies of the moved rows stay in its free space: only VACUUM removes these.
    conn.execute("PRAGMA secure_delete = ON")
    # A checkpoint stops the SMPP server's writer for about 10 ms. With the default of 1,000 pages that was every
    # fortieth commit under load, and so the 99th percentile of the response times; now the log takes up to 16 MB.
    conn.execute("PRAGMA wal_autocheckpoint = 4000")
    if only_immediate:
        conn.only_immediate = True
        conn.execute("PRAGMA busy_timeout = 0")
    return conn


@contextmanager
def decode_damage() -> Iterator[None]:
    """For the first statement of a connection, which reads the schema: SQLite's message repeats what is damaged there.

    Raises:
        sqlite3.DatabaseError: in place of a UnicodeDecodeError, where that is no text.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise sqlite3.DatabaseError(error.object.decode(errors="replace")) from None


def truncate_wal(conn: Connection) -> bool:
    """Checkpoint and truncate the write-ahead log, so that no overwritten content is left in it.

    Returns:
        Whether it was done. It is not while another connection writes or reads an older state; this doesn't wait.
    """
    conn.execute("PRAGMA busy_timeout = 0")
    try:
        (busy, *_) = conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        conn.execute(f"PRAGMA busy_timeout = {0 if conn.only_immediate else conn.busy_timeout_ms}")
    return not busy


@contextmanager
def sort_in_files(conn: sqlite3.Connection, folder: Path) -> Iterator[None]:
    """Let SQLite put what it sorts, new indexes and a VACUUM's copy into files in this folder.

    It would keep them in memory otherwise, or in the system's temporary folder, which may be memory, too.
    """
    conn.execute("PRAGMA temp_store = FILE")
    # The environment's SQLITE_TMPDIR is looked at before the first connection, and never again.
    conn.execute(_SET_TEMP_FOLDER.format(str(folder.absolute()).replace("'", "''")))
    try:
        yield
    finally:
        conn.execute(_SET_TEMP_FOLDER.format(""))


_SET_TEMP_FOLDER = "PRAGMA temp_store_directory = '{}'"


def measure_used_size(conn: sqlite3.Connection) -> int:
    """The octets of the pages that hold something, which are all that VACUUM writes."""
    pages, free_pages, size = (
        conn.execute(f"PRAGMA {each}").fetchone()[0] for each in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free_pages) * size)


def fsync(path: Path) -> None:
    """Wait until a file, or what a folder says of its files, is on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def write_transaction(conn: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run a block in a transaction that has the write lock from its start (BEGIN IMMEDIATE).

    So no other process changes what the block reads. Inside another `write_transaction()` block it joins that one: the
    outermost block commits, and an exception that leaves it rolls everything back.

    Raises:
        sqlite3.OperationalError: another process held the lock longer than the busy timeout, or the disk is full.
    """
    if conn.in_transaction:
        yield conn
        return
    try:
        _begin_immediate(conn)
        yield conn
        conn.execute("COMMIT")
    except BaseException:
        # A failed COMMIT (disk full), or an exception just after BEGIN, leaves the transaction open: the next block
        # would join it, and nobody would commit it. Other errors have closed it already.
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise
    if isinstance(conn, Connection) and conn.on_commit is not None:
        conn.on_commit()


def _begin_immediate(conn: sqlite3.Connection) -> None:
    # SQLite's own busy handler tries again after ever longer pauses, up to 100 ms. Under load the SMPP server's writer
    # leaves the database free for only a millisecond at a time, so SQLite would fail for seconds.
    timeout_ms = conn.busy_timeout_ms if isinstance(conn, Connection) else BUSY_TIMEOUT_MS
    if isinstance(conn, Connection) and conn.only_immediate:
        _begin_with_retries(conn, timeout_ms)
        return
    conn.execute("PRAGMA busy_timeout = 0")
    try:
        _begin_with_retries(conn, timeout_ms)
    finally:
        conn.execute(f"PRAGMA busy_timeout = {timeout_ms}")


def _begin_with_retries(conn: sqlite3.Connection, timeout_ms: int) -> None:
    deadline = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            conn.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_S)


def insert_row(conn: sqlite3.Connection, table: str, **values: object) -> int:
    """Insert one row and return its rowid. `table` and the column names come from the code, never from input."""
    columns = ", ".join(values)
    placeholders = ", ".join("?" * len(values))
    cursor = conn.execute(f"INSERT INTO {table} ({columns}) VALUES ({placeholders})", tuple(values.values()))
    return cursor.lastrowid or 0


def update_row(conn: sqlite3.Connection, table: str, row_id: int, **values: object) -> None:
    """Update columns of the row with this id. `table` and the column names come from the code, never from input."""
    assignments = ", ".join(f"{name} = ?" for name in values)
    conn.execute(f"UPDATE {table} SET {assignments} WHERE id = ?", (*values.values(), row_id))


# How many rows a statement of BulkInsert or BulkUpdate writes at most.
_MAX_ROWS = 64


class _BulkStatement:
    """Writes many rows of one table, several with each statement.

    `executemany` runs one statement for each row, and Python releases the GIL around each: in a thread next to a busy
    event loop that costs more than SQLite's work itself.
    """

    def __init__(self, build_statement: Callable[[int], str]) -> None:
        """Args:
        build_statement: the statement for so many rows.
        """
        # Built once: the connection finds a prepared statement by its text.
        self._statements = [build_statement(rows) for rows in range(1, _MAX_ROWS + 1)]

    def run(self, conn: sqlite3.Connection, rows: Sequence[Sequence[object]], others: Sequence[object] = ()) -> None:
        """Write rows, each given as what its parameters are, in their order.

        Args:
            others: parameters that are the same for all rows, and stand in front of them.
        """
        for start in range(0, len(rows), _MAX_ROWS):
            chunk = rows[start : start + _MAX_ROWS]
            conn.execute(self._statements[len(chunk) - 1], (*others, *chain.from_iterable(chunk)))


class BulkInsert(_BulkStatement):
    """Inserts many rows into one table: see `_BulkStatement`."""

    def __init__(self, table: str, columns: str, suffix: str = "") -> None:
        """Args:
        columns: their names, separated by commas.
        suffix: SQL after the rows, such as ON CONFLICT.
        """
        row = f"({', '.join('?' * len(columns.split(',')))})"
        super().__init__(
            lambda rows: f"INSERT INTO {table} ({columns}) VALUES {', '.join([row] * rows)} {suffix}",
        )


class BulkUpdate(_BulkStatement):
    """Updates one column of many rows of one table, each row given as its id and the value: see `_BulkStatement`."""

    def __init__(self, table: str, column: str, others: str = "") -> None:
        """Args:
        others: assignments that are the same for all rows, as SQL.
        """
        assignments = f"{others}, " if others else ""
        first = others.count("?") + 1

        def build_statement(rows: int) -> str:
            ids = [f"?{first + 2 * row}" for row in range(rows)]
            cases = " ".join(f"WHEN {each} THEN ?" for each in ids)
            return f"UPDATE {table} SET {assignments}{column} = CASE id {cases} END WHERE id IN ({', '.join(ids)})"

        super().__init__(build_statement)


class BulkUpdateColumns(_BulkStatement):
    """Updates several columns of many rows of one table, each row given as its id and their values."""

    def __init__(self, table: str, columns: Sequence[str], suffix: str = "") -> None:
        """Args:
        columns: those that get values for each row.
        suffix: SQL behind the condition that finds a row by its id, such as AND and another one.
        """
        row = f"({', '.join('?' * (len(columns) + 1))})"
        assignments = ", ".join(f"{name} = given.column{index}" for index, name in enumerate(columns, start=2))
        super().__init__(
            lambda rows: (
                f"UPDATE {table} SET {assignments} FROM (VALUES {', '.join([row] * rows)}) AS given"
                f" WHERE id = given.column1 {suffix}"
            )
        )
