"""The check that a running server makes of itself once a day: its result is kept, and operators are told by mail."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from portal.core import i18n
from portal.core.clock import DAY_MS, now_ms
from portal.core.crypto import Keys
from portal.core.db import immediate
from portal.services.common import mail
from portal.services.common.errors import Refused
from portal.services.operations import self_check
from portal.services.operations.self_check import Problem
from portal.services.people import users

_MOST_TOLD = 20
_KEPT_MS = 90 * DAY_MS


@dataclass(frozen=True, slots=True)
class Result:
    """What a check has found, and when (milliseconds)."""

    at: int
    problems: list[Problem]


def last(conn: sqlite3.Connection) -> Result | None:
    """The latest one that was kept; None: there was none yet."""
    row = conn.execute("SELECT at, problems FROM checks ORDER BY at DESC LIMIT 1").fetchone()
    return None if row is None else Result(row["at"], [Problem(*each) for each in json.loads(row["problems"])])


def is_due(conn: sqlite3.Connection, now: int) -> bool:
    """Whether the latest one is a day old (`now` in milliseconds)."""
    result = last(conn)
    # Not "more than a day ago": a clock that was wrong once must not put the next one off until it is right.
    return result is None or abs(now - result.at) >= DAY_MS


def run(conn: sqlite3.Connection, keys: Keys, data: Path) -> list[Problem]:
    """Check a copy, and keep and tell what was found.

    That no check could be made is something to tell, too.
    """
    at = now_ms()
    try:
        with self_check.copied(conn, data) as copy:
            found = self_check.prove(copy)
    except Refused as refusal:
        found = [Problem(refusal.sentence, {name: str(value) for name, value in refusal.params.items()})]
    except sqlite3.DatabaseError as error:
        found = [self_check.unreadable(error)]
    keep(conn, keys, Result(at, found))
    return found


def keep(conn: sqlite3.Connection, keys: Keys, result: Result) -> None:
    """Keep a result, and queue a mail to each operator if something in it is new.

    What the check before has found, too, was told then: nobody gets the same mail each day. Each sentence of a damage
    stays as it is, see `Problem`.
    """
    problems = [[each.sentence, dict(each.params)] for each in result.problems]
    with immediate(conn):
        before = last(conn)
        known = before.problems if before else []
        conn.execute("INSERT OR REPLACE INTO checks (at, problems) VALUES (?, ?)", (result.at, json.dumps(problems)))
        conn.execute("DELETE FROM checks WHERE at < ?", (result.at - _KEPT_MS,))
        if any(each not in known for each in result.problems):
            _tell(conn, keys, result.problems)


def _tell(conn: sqlite3.Connection, keys: Keys, problems: Sequence[Problem]) -> None:
    for operator in users.of_customer(conn, None):
        language = operator.language or i18n.DEFAULT_LANGUAGE
        with i18n.speaking(language):
            told = [str(each) for each in problems[:_MOST_TOLD]]
        more = max(0, len(problems) - _MOST_TOLD)
        mail.queue(conn, keys, operator.email, "check", language, problems=told, more=more)
