"""A problem that the self-check has found, and its text."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from portal.core import i18n
from portal.core.crypto import KeyFileError
from portal.core.i18n import N_
from portal.migrations import MigrationFailed

# The parameters of sentences that are thousandths of a credit.
_CREDIT_PARAMS = frozenset(("amount", "expected", "cost", "brought", "difference"))


@dataclass(frozen=True, slots=True)
class Problem:
    """An inconsistency: an English sentence, which is a key of the translations, and its parameters.

    It names the account and the row. No parameter changes while messages are being sent, so that the same damage has
    the same sentence the next day.
    """

    sentence: str
    params: Mapping[str, str | int]

    def __str__(self) -> str:
        """In the current language."""
        formatted = {
            name: i18n.format_credits(int(value)) if name in _CREDIT_PARAMS else value
            for name, value in self.params.items()
        }
        return i18n.gettext(self.sentence, **formatted)


def problem_from_error(error: sqlite3.DatabaseError | MigrationFailed | KeyFileError) -> Problem:
    """The problem that SQLite can't read the file, that a copy of an older version's database can't be migrated, and so
    the database can't, or that the key is missing, damaged or another database's.
    """
    if isinstance(error, MigrationFailed):
        return Problem(N_("the database can't be migrated: %(reason)s"), {"reason": str(error)})
    if isinstance(error, KeyFileError):
        return Problem(N_("nobody can log in or bind: %(reason)s"), {"reason": str(error)})
    return Problem(N_("file: %(line)s"), {"line": str(error)})


def problem_from_unopened_secrets(count: int) -> Problem:
    """The problem that the key doesn't open what is sealed of so many people; it opens that of others."""
    return Problem(
        N_("people who can't log in until they get a new link, for secret.key doesn't open their secret: %(count)s"),
        {"count": count},
    )


class AccountNames(dict[int, str]):
    """The accounts' names by id; an account that doesn't exist gets a substitute."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        super().__init__(iterate_rows(conn, "SELECT id, name FROM accounts"))

    def __missing__(self, account_id: int | None) -> str:
        return "?" if account_id is None else f"account {account_id}"


def iterate_rows(conn: sqlite3.Connection, sql: str) -> sqlite3.Cursor:
    """Yield rows as plain tuples, which is faster than `sqlite3.Row`."""
    cursor = conn.cursor()
    cursor.row_factory = None
    return cursor.execute(sql)


class Check(NamedTuple):
    """Rows that must not be there. `query` finds them; its columns are the parameters of `sentence`, `account` and
    `other` being accounts' ids.
    """

    sentence: str
    query: str


def find_by_queries(conn: sqlite3.Connection, checks: Iterable[Check]) -> Iterator[Problem]:
    """Yield a problem for each row that a query finds."""
    names = AccountNames(conn)
    for sentence, query in checks:
        rows = iterate_rows(conn, query)
        for row in rows:
            params = dict(zip((column[0] for column in rows.description), row, strict=True))
            params |= {name: names[params[name]] for name in ("account", "other") if name in params}
            yield Problem(sentence, params)
