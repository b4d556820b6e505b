"""The self-check that a running server does once a day: the result is stored, and operators get a mail."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from portal.core import i18n
from portal.core.clock import DAY_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import write_transaction
from portal.core.progress import Progress, no_progress
from portal.services.common import mail
from portal.services.common.errors import Refused
from portal.services.operations import self_check
from portal.services.operations.self_check.copy import open_database_copy
from portal.services.operations.self_check.problem import Problem, problem_from_error
from portal.services.people import users

_MAX_MAILED_PROBLEMS = 20
_RETENTION_MS = 90 * DAY_MS


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
