"""The self-check: whether the file, the balances, the ledger, the messages and the totals agree.

Tables that must agree are read side by side in the order of ids, or counted and compared by SQLite, which sorts in
files: time grows with the number of rows, but memory only with the number of accounts, senders and actions of
operators, not with messages.
"""

import sqlite3
from collections.abc import Callable, Iterator
from functools import partial

from portal.core.crypto import Keys
from portal.core.i18n import N_
from portal.core.progress import Progress, no_progress, report_during_statements
from portal.services.operations.self_check import in_ledger, in_messages, in_upstreams
from portal.services.operations.self_check.problem import Problem, find_by_queries, iterate_rows, problem_from_error

# So many problems of each check are listed: more usually have the same cause.
_MAX_PROBLEMS = 100


def list_problem_texts(conn: sqlite3.Connection) -> list[str]:
    """The problems that `find_problems` finds, as text in the current language."""
    return [str(each) for each in find_problems(conn)]


def find_problems(
    conn: sqlite3.Connection, progress: Progress = no_progress, *, keys: Keys | None = None
) -> list[Problem]:
    """Run all checks; returns the problems. One snapshot is read, so this may run at any time.

    Args:
        progress: is told how many of the checks have ended; the first and those of the messages take longest.
        keys: what is sealed in the database is to be read with them; None: that isn't checked.

    Raises:
        KeyboardInterrupt: from `progress`.
    """
    results: list[Problem] = []
    finished_count = 0
    checks: list[Callable[[sqlite3.Connection], Iterator[Problem]]] = [*_CHECKS]
    if keys is not None:
        checks.append(partial(in_upstreams.check_passwords, keys=keys))
    try:
        conn.execute("BEGIN")
        with report_during_statements(conn, progress, lambda: (finished_count, len(checks))):
            for check in checks:
                results += _collect_check_problems(check(conn))
                finished_count += 1
    except sqlite3.DatabaseError as error:
        results.append(problem_from_error(error))
    finally:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
    # Several checks may find the same damaged page.
    return [each for index, each in enumerate(results) if each not in results[:index]]


def _collect_check_problems(check: Iterator[Problem]) -> list[Problem]:
    """The problems that a check finds until it ends. One that can't read on does not stop the others.

    Raises:
        sqlite3.OperationalError: it was interrupted, for `progress` is to stop everything.
    """
    results: list[Problem] = []
    omitted_count = 0
    try:
        for each in check:
            if len(results) < _MAX_PROBLEMS:
                results.append(each)
            else:
                omitted_count += 1
    except sqlite3.DatabaseError as error:
        # Errors that SQLite itself hasn't raised have no code.
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            raise
        results.append(problem_from_error(error))
    if omitted_count:
        results.append(Problem(N_("%(count)s more were found like those before this line"), {"count": omitted_count}))
    return results


def _check_database_file(conn: sqlite3.Connection) -> Iterator[Problem]:
    for (line,) in iterate_rows(conn, "PRAGMA integrity_check"):
        if line != "ok":
            yield Problem(N_("file: %(line)s"), {"line": line})
    for table, row, parent, _ in iterate_rows(conn, "PRAGMA foreign_key_check"):
        sentence = N_("file: %(table)s row %(row)s refers to a row of %(parent)s that isn't there")
        # Tables WITHOUT ROWID have no row number.
        if row is None:
            sentence = N_("file: a row of %(table)s refers to a row of %(parent)s that isn't there")
        yield Problem(sentence, {"table": table, "row": row, "parent": parent})


_CHECKS = (
    _check_database_file,
    in_ledger.check_movements,
    in_ledger.check_refunds,
    partial(find_by_queries, checks=in_ledger.ORDER_CHECKS),
    partial(find_by_queries, checks=in_ledger.EXPIRY_CHECKS),
    in_messages.check_charges,
    in_messages.check_totals,
    partial(find_by_queries, checks=in_messages.INDEX_CHECKS),
    partial(find_by_queries, checks=in_messages.PART_CHECKS),
    partial(find_by_queries, checks=[in_messages.DELIVERY_CHECK]),
    in_upstreams.check_upstreams,
    in_upstreams.check_routes,
    partial(find_by_queries, checks=in_upstreams.WAITING_CHECKS),
)
