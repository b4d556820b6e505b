"""How long work says how far it is, and how it is stopped: services know neither terminals nor signals."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# So many of SQLite's virtual machine instructions take about a millisecond.
_INSTRUCTIONS_BETWEEN_REPORTS = 20_000


Progress = Callable[[int, int], None]
"""Called again and again during the work, where it can still be stopped and leave everything as it was.

Args: how much is done, and of how much, in units of the work's own; the total is 0 where nobody knows it.

Raises:
    KeyboardInterrupt: the work is to stop. It takes back what it has begun, and lets the exception through.
"""


def no_progress(done: int, total: int) -> None:
    """Tell nobody, and never stop."""


@contextmanager
def report_during_statements(
    conn: sqlite3.Connection, progress: Progress, measure: Callable[[], tuple[int, int]]
) -> Iterator[None]:
    """Report while SQLite executes statements of this block, also in the middle of a long one.

    Args:
        measure: what is done by now, and the total.

    Raises:
        KeyboardInterrupt: from `progress`; the statement has been interrupted and has changed nothing.
    """
    # An exception can't pass through SQLite: it ends the statement with an error of its own.
    raised: list[BaseException] = []

    def report() -> int:
        try:
            progress(*measure())
        except BaseException as error:
            raised.append(error)
            return 1
        return 0

    conn.set_progress_handler(report, _INSTRUCTIONS_BETWEEN_REPORTS)
    try:
        yield
    except sqlite3.OperationalError:
        if not raised:
            raise
    finally:
        conn.set_progress_handler(None, 0)
    if raised:
        raise raised[0]
