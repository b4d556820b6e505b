"""Numbers that have said STOP to an account: nothing is sent to them, and nothing is charged."""

import sqlite3
from collections import defaultdict
from collections.abc import Sequence

from portal.db import immediate, now_ms
from portal.services.messages import Submit


def among(conn: sqlite3.Connection, submits: Sequence[Submit]) -> set[tuple[int, str]]:
    """Which of the destinations of submits are on their account's blacklist: (account id, number)."""
    destinations: dict[int, list[str]] = defaultdict(list)
    for each in submits:
        destinations[each.account_id].append(each.destination)
    found = set()
    for account_id, numbers in destinations.items():
        # Most accounts have none: one look instead of one a message.
        if conn.execute("SELECT 1 FROM blacklist WHERE account_id = ? LIMIT 1", (account_id,)).fetchone() is None:
            continue
        for number in numbers:
            if conn.execute(
                "SELECT 1 FROM blacklist WHERE account_id = ? AND number = ?", (account_id, number)
            ).fetchone():
                found.add((account_id, number))
    return found


def add(conn: sqlite3.Connection, account_id: int, number: str, received_id: int | None) -> None:
    """Put a number on an account's blacklist; one that is there stays as it is.

    Args:
        received_id: the message that said STOP, where one did.
    """
    with immediate(conn):
        conn.execute(
            "INSERT INTO blacklist VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (account_id, number, now_ms(), received_id),
        )
