"""What the pages' process does behind them: a job that stumbles says so, once, and goes on."""

import sqlite3
from collections.abc import Callable, Iterator

import pytest

from portal.core import db
from portal.core.config import Config
from portal.core.crypto import Keys
from portal.jobs import background
from portal.jobs.background import Job
from portal.services.common.audit import SHELL
from portal.services.common.mail import Mailer
from portal.services.history import deletion
from portal.services.history.search import Wanted
from tests.support import Cast
from tests.web import acting


def test_what_goes_wrong_is_told_once_as_long_as_it_is_the_same(
    conn: db.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    asked = ["SELECT neither", "SELECT neither", "SELECT nobody", "SELECT 1", "SELECT nobody"]

    def work(conn: db.Connection) -> Iterator[None]:
        conn.execute(asked.pop(0))
        yield

    job = Job("counting", 1.0, work)
    went_well = [job.turn(conn) for _ in range(len(asked))]
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

    def work(conn: db.Connection) -> Iterator[None]:
        with db.immediate(conn):
            yield

    with db.immediate(other):
        Job("counting", 1.0, work).turn(conn)
    assert [each.getMessage() for each in caplog.records] == ["counting will be tried again: database is locked"]
    assert not caplog.records[0].exc_info


def test_no_job_is_missing_without_a_word(config: Config, keys: Keys) -> None:
    config.database.unlink(missing_ok=True)
    config.database.mkdir()
    with pytest.raises(sqlite3.OperationalError, match="unable to open database file"):
        background.start(config, keys, Mailer(config, keys, lambda: db.connect(config.database)), [])


def test_it_rests_in_proportion_to_its_steps(conn: db.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.5, 20.0, 20.1, 30.0])
    rested: list[float] = []
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("time.sleep", rested.append)
    Job("counting", 1.0, lambda conn: iter("ab"), rests=3).turn(conn)
    monkeypatch.undo()
    assert rested == [pytest.approx(1.5), pytest.approx(0.3)]


def test_nobodys_deletion_waits_for_the_end_of_anothers(
    conn: db.Connection, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "_AT_ONCE", 1)
    names = ("smpp-acme-1", "smpp-globex-1")
    for name, how_many in zip(names, (50, 1), strict=True):
        conn.execute("UPDATE accounts SET any_sender = 1")
        account = acting.account(conn, name)
        acting.fail(conn, *acting.send(conn, name, *["text"] * how_many))
        conn.execute("DELETE FROM deliveries")
        deletion.begin(conn, SHELL, account, deletion.all_of(conn, account.id, Wanted()), total=how_many)

    acme, globex = deletion.open_ones(conn)
    conn.execute(
        "INSERT INTO deletions SELECT 0, account_id, kind, 'nonsense', asked_at, asked_by, address, before, 0,"
        " 0, 0, 0, NULL FROM deletions WHERE id = ?",
        (acme,),
    )
    for _ in background._delete(conn):
        if globex not in deletion.open_ones(conn):
            break

    assert deletion.by_id(conn, globex).removed == 1
    assert deletion.by_id(conn, acme).removed < 10
    with pytest.raises(ValueError):
        for _ in background._delete(conn):
            pass
    assert deletion.by_id(conn, acme).removed == 50
