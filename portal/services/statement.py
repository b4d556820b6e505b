"""An account's statement: its movements, as pages and files of them."""

import sqlite3
from dataclasses import dataclass

from portal.services import ids


@dataclass(frozen=True, slots=True)
class Movement:
    """One line of the ledger; amounts in thousandths, negative where credits left the account."""

    id: int
    kind: str
    amount: int
    balance_after: int
    actor: str
    note: str
    counterpart: str | None
    messages: int | None

    @property
    def at(self) -> int:
        """When, in milliseconds: the id holds it."""
        return ids.time_of(self.id)


def movements(
    conn: sqlite3.Connection, account_id: int, *, before: int | None = None, after: int | None = None, limit: int = 50
) -> list[Movement]:
    """A page of the ledger, newest first.

    Args:
        before: only movements with a smaller id than this (the last one of the page before).
        after: the ones that follow upon this id, for the way back to newer ones.
    """
    if after is not None:
        return _select(conn, "movements.id > ? ORDER BY movements.id", account_id, after, limit)[::-1]
    furthest = before if before is not None else (1 << 63) - 1
    return _select(conn, "movements.id < ? ORDER BY movements.id DESC", account_id, furthest, limit)


def _select(conn: sqlite3.Connection, which: str, account_id: int, bound: int, limit: int) -> list[Movement]:
    rows = conn.execute(
        "SELECT movements.id, movements.kind, amount, balance_after, actor, note, other.name, messages FROM movements"
        f" LEFT JOIN accounts AS other ON other.id = counterpart_id WHERE account_id = ? AND {which} LIMIT ?",
        (account_id, bound, limit),
    )
    return [Movement(*row) for row in rows]
