"""Reports in the middle of SQLite's statements, and statements that are stopped by one."""

import sqlite3
from collections.abc import Iterator

import pytest

from portal.core.progress import no_progress, report_during_statements

_COUNT = (
    "INSERT INTO numbers WITH RECURSIVE counting (number) AS"
    " (SELECT 1 UNION ALL SELECT number + 1 FROM counting WHERE number < 100000) SELECT number FROM counting"
)


@pytest.fixture
def memory() -> Iterator[sqlite3.Connection]:
    """A database with an empty table."""
    conn = sqlite3.connect(":memory:", isolation_level=None)
    conn.execute("CREATE TABLE numbers (number)")
    yield conn
    conn.close()


def count_rows(conn: sqlite3.Connection) -> int:
    (count,) = conn.execute("SELECT count(*) FROM numbers").fetchone()
    assert isinstance(count, int)
    return count


def test_a_long_statement_reports_what_is_measured(memory):
    reports = []
    with report_during_statements(memory, lambda *report: reports.append(report), lambda: (len(reports), 1000)):
        memory.execute(_COUNT)
    assert len(reports) > 10
    assert reports == [(number, 1000) for number in range(len(reports))]
    assert count_rows(memory) == 100_000


def test_a_statement_that_is_stopped_has_changed_nothing(memory):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), report_during_statements(memory, stop, lambda: (0, 0)):
        memory.execute(_COUNT)
    # Nobody asks any more, and the connection goes on.
    assert count_rows(memory) == 0
    memory.execute(_COUNT)


def test_an_error_of_what_is_measured_comes_out(memory):
    def measure() -> tuple[int, int]:
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError), report_during_statements(memory, no_progress, measure):
        memory.execute(_COUNT)


def test_sqlite_s_own_errors_stay_what_they_are(memory):
    with (
        pytest.raises(sqlite3.OperationalError, match="no such table"),
        report_during_statements(memory, no_progress, lambda: (0, 0)),
    ):
        memory.execute("SELECT * FROM letters")
