"""What a check finds, and how it reads."""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from portal.core import i18n
from portal.core.i18n import N_

# The parameters of sentences that are thousandths of a credit.
_AMOUNTS = frozenset(("amount", "expected", "cost", "brought", "difference"))

Params = dict[str, str | int]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is off: an English sentence, which is a key of the translations, and what is filled in.

    It names account and row. Nothing in it moves while messages go on being sent, so that a damage is known again by
    the sentence that it had the day before.
    """

    sentence: str
    params: Mapping[str, str | int]

    def __str__(self) -> str:
        """In the language in use."""
        shown = {name: i18n.credits(int(value)) if name in _AMOUNTS else value for name, value in self.params.items()}
        return i18n.gettext(self.sentence, **shown)


def unreadable(error: sqlite3.DatabaseError) -> Problem:
    """What SQLite says of a file that it can't read."""
    return Problem(N_("file: %(line)s"), {"line": str(error)})


class Names(dict[int, str]):
    """The accounts' names by their ids; one that isn't there has a name all the same."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        super().__init__(rows_of(conn, "SELECT id, name FROM accounts"))

    def __missing__(self, account_id: int) -> str:
        return f"account {account_id}"


def rows_of(conn: sqlite3.Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    """Rows as plain tuples, which cost less."""
    cursor = conn.cursor()
    cursor.row_factory = None
    return cursor.execute(sql)
