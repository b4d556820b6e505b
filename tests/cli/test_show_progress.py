"""`show_progress` in this process: its lines in a log, with a clock that is set, and signals that come at once."""

import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing

import click
import pytest

from portal.cli.progress import show_progress
from portal.core.progress import Progress


class Clock:
    """Shows the seconds that it was set to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_quick_work_says_nothing_in_a_log(capsys):
    clock = Clock()
    with show_progress("Backup", "no file was written", clock=clock) as progress:
        clock.now += 1.9
        progress(1, 2)
    assert capsys.readouterr().err == ""


def test_longer_work_says_a_line_now_and_then_and_the_last_one_in_a_log(capsys):
    clock = Clock()
    with show_progress("Backup", "no file was written", clock=clock) as progress:
        for second in range(25):
            clock.now = 1000.0 + second
            progress(second, 0 if second < 5 else 30)
    assert capsys.readouterr().err.splitlines() == [
        "Backup: 2 s so far",
        "Backup: 40 %, 12 s so far",
        "Backup: 73 %, 22 s so far",
        "Backup: done in 24 s",
    ]


def test_work_that_fails_is_not_said_to_be_done(capsys):
    clock = Clock()

    def fail(progress: Progress) -> None:
        clock.now += 3
        progress(1, 2)
        raise ValueError

    with pytest.raises(ValueError), show_progress("Backup", "no file was written", clock=clock) as progress:
        fail(progress)
    assert capsys.readouterr().err == "Backup: 50 %, 3 s so far\n"


def stop(work: Callable[[Progress], object]) -> int:
    """Let work be done that is stopped; returns the exit status."""
    with pytest.raises(click.exceptions.Exit) as raised, show_progress("Backup", "no file was written") as progress:
        work(progress)
    return raised.value.exit_code


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_work_is_stopped_where_it_reports(capsys, number, status):
    done = []

    def work(progress: Progress) -> None:
        progress(0, 2)
        signal.raise_signal(number)
        done.append("what must not be interrupted")
        progress(1, 2)
        done.append("what comes after a report")

    assert stop(work) == status
    assert capsys.readouterr().err == "Backup: stopped; no file was written.\n"
    assert done == ["what must not be interrupted"]


def test_a_signal_after_the_last_report_comes_too_late(capsys):
    def work(progress: Progress) -> None:
        progress(1, 2)
        signal.raise_signal(signal.SIGINT)

    assert stop(work) == 130
    assert capsys.readouterr().err == "Backup: it was done before it could be stopped.\n"


def test_a_signal_where_there_was_nothing_to_do_is_for_what_comes_next(capsys):
    with pytest.raises(KeyboardInterrupt), show_progress("Update", "the next start goes on"):
        signal.raise_signal(signal.SIGINT)
    assert capsys.readouterr().err == ""


def test_a_second_signal_interrupts_at_once_and_nothing_is_said_of_what_is_as_it_was(capsys):
    def work(progress: Progress) -> None:
        progress(1, 2)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("It went on.")

    assert stop(work) == 143
    assert capsys.readouterr().err == "Backup: interrupted; run check to see that the database is whole.\n"


def test_a_second_signal_counts_where_sqlite_has_made_an_error_of_its_own_of_it(capsys):
    def press_twice() -> int:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        return 0

    with closing(sqlite3.connect(":memory:")) as conn:
        conn.set_progress_handler(press_twice, 1)
        assert stop(lambda progress: conn.execute("SELECT 1")) == 130
    assert capsys.readouterr().err == "Backup: interrupted; run check to see that the database is whole.\n"


def test_signals_are_again_what_they_were():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with show_progress("Backup", "no file was written"):
        pass
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
