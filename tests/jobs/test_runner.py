"""How jobs are run: one that goes wrong says so, once, and is tried again."""

from collections.abc import Callable, Iterator

import pytest

from portal.core import db
from portal.jobs import Job


def test_what_goes_wrong_is_told_once_as_long_as_it_is_the_same(
    conn: db.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    statements = ["SELECT neither", "SELECT neither", "SELECT nobody", "SELECT 1", "SELECT nobody"]

    def run_statement(conn: db.Connection) -> Iterator[None]:
        conn.execute(statements.pop(0))
        yield

    job = Job("counting", 1.0, run_statement)
    went_well = [job.run_once(conn) for _ in range(len(statements))]
    assert went_well == [False, False, False, True, False]
    assert [each.getMessage() for each in caplog.records] == [
        "counting will be tried again: no such column: neither",
        "counting will be tried again: no such column: nobody",
        "counting will be tried again: no such column: nobody",
    ]
    assert caplog.records[0].exc_info


def test_of_a_locked_database_no_line_of_code_is_told(
    connect: Callable[[], db.Connection], conn: db.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    conn.busy_timeout_ms = 0
    other = connect()

    def run_statement(conn: db.Connection) -> Iterator[None]:
        with db.write_transaction(conn):
            yield

    with db.write_transaction(other):
        Job("counting", 1.0, run_statement).run_once(conn)
    assert [each.getMessage() for each in caplog.records] == ["counting will be tried again: database is locked"]
    assert not caplog.records[0].exc_info


def test_it_rests_in_proportion_to_its_steps(conn: db.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 20.0, 20.1, 30.0])
    rested: list[float] = []
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("time.sleep", rested.append)
    Job("counting", 1.0, lambda conn: iter("ab"), pause_factor=3).run_once(conn)
    monkeypatch.undo()
    assert rested == [pytest.approx(1.5), pytest.approx(0.3)]
