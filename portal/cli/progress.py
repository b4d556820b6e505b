"""How far a long command is, on stderr; and Ctrl-C or SIGTERM, which stop it where it leaves everything as it was."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

from portal.cli.groups import EXIT_BY_SIGNAL
from portal.core.progress import Progress


@contextmanager
def show_progress(title: str, as_it_was: str, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """Show how far the block's work is: as a bar on a terminal, otherwise as lines once it takes longer.

    To be called in the main thread, which is the one that gets signals.

    Args:
        title: what is being done ("Backup").
        as_it_was: what is true if it is stopped ("no file was written").
        clock: seconds; another is for tests.

    Raises:
        click.exceptions.Exit: with 128 and the signal's number, after a line that says so, where SIGINT or SIGTERM has
            stopped the work.
    """
    drawing = (_Bar if sys.stderr.isatty() else _Lines)(title, clock)
    stop = _StopRequest()
    reported = False

    def progress(done: int, total: int) -> None:
        nonlocal reported
        reported = True
        if stop.number:
            raise KeyboardInterrupt
        drawing.show(done, total)

    try:
        with stop.catch_signals(), _clear_before_log_lines(drawing):
            yield progress
    except BaseException as error:
        drawing.finish(complete=False)
        if stop.is_urgent:
            # Whatever the error is: an exception that comes in the middle of SQLite's work becomes one of its own.
            _exit_by_signal(stop.number, f"{title}: interrupted; run check to see that the database is whole.")
        if isinstance(error, KeyboardInterrupt):
            _exit_by_signal(stop.number, f"{title}: stopped; {as_it_was}.")
        raise
    drawing.finish(complete=True)
    if stop.number and reported:
        _exit_by_signal(stop.number, f"{title}: it was done before it could be stopped.")
    if stop.number:
        # There was nothing to do: the signal is meant for what comes next.
        signal.raise_signal(stop.number)


def _exit_by_signal(number: int, line: str) -> NoReturn:
    print(line, file=sys.stderr)
    raise click.exceptions.Exit(EXIT_BY_SIGNAL + number) from None


@contextmanager
def _clear_before_log_lines(drawing: "_Lines") -> Iterator[None]:
    # Imported here, as it takes ten milliseconds: most commands have no long work.
    import logging

    def clear(record: logging.LogRecord) -> bool:
        drawing.clear()
        return True

    handlers = list(logging.getLogger().handlers)
    for each in handlers:
        each.addFilter(clear)
    try:
        yield
    finally:
        for each in handlers:
            each.removeFilter(clear)


class _StopRequest:
    """SIGINT or SIGTERM, once it has come.

    The work looks for it where it reports, and nowhere else: an exception at any other moment might come just after a
    commit, and then nobody could say what is as it was. A second signal ends the wait for a moment that doesn't come;
    it is such an exception, so after it nothing is said of what is as it was.
    """

    number = 0
    is_urgent = False

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._set) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _set(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            self.is_urgent = True
            raise KeyboardInterrupt
        self.number = number


class _Lines:
    """Into a file or a pipe: nothing for quick work, then a line now and then."""

    first_after_s = 2.0
    pause_s = 10.0

    def __init__(self, title: str, clock: Callable[[], float]) -> None:
        self._title = title
        self._clock = clock
        self._begun_at = clock()
        self._next_at = self._begun_at + self.first_after_s
        self._is_drawn = False

    def show(self, done: int, total: int) -> None:
        now = self._clock()
        if now >= self._next_at:
            self._draw(done, total, now - self._begun_at)
            self._next_at = now + self.pause_s
            self._is_drawn = True

    def _draw(self, done: int, total: int, seconds: float) -> None:
        share = f"{min(done, total) * 100 // total} %, " if total else ""
        self._print(f"{share}{seconds:.0f} s so far")

    def clear(self) -> None:
        """Make room for a line of text; the next change is drawn below it."""

    def finish(self, *, complete: bool) -> None:
        if complete and self._is_drawn:
            self._print(f"done in {self._clock() - self._begun_at:.0f} s")

    def _print(self, text: str) -> None:
        print(f"{self._title}: {text}", file=sys.stderr, flush=True)


class _Bar(_Lines):
    """On a terminal: click's progress bar; seconds where the total is unknown."""

    first_after_s = 0.0
    pause_s = 0.1
    _bar: Any = None

    def _draw(self, done: int, total: int, seconds: float) -> None:
        if not total:
            print(f"\r{self._title}  {seconds:.0f} s", end="", file=sys.stderr, flush=True)
            return
        if self._bar is None:
            self.clear()
            self._bar = click.progressbar(length=total, label=self._title, file=sys.stderr)
            self._bar.render_progress()
        self._bar.length = total
        # It never moves back: an estimate may.
        self._bar.update(max(0, min(done, total) - self._bar.pos))

    def clear(self) -> None:
        if self._is_drawn:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def finish(self, *, complete: bool) -> None:
        if self._bar is not None:
            if complete:
                self._bar.update(self._bar.length - self._bar.pos)
            self._bar.render_finish()
        elif self._is_drawn:
            print(file=sys.stderr)
