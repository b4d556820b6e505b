"""Telling people about an account's credits: what has happened is noted in the transaction in which it does, and mailed
afterwards.
"""

import sqlite3

from portal.db import insert

LOW, RECREDITED, REQUESTED = "low", "recredited", "requested"


def is_crossed(threshold: int | None, before: int, after: int) -> bool:
    """Whether a balance has fallen below a threshold, and was not below it before. All in thousandths of a credit."""
    return threshold is not None and after < threshold <= before


def note(
    conn: sqlite3.Connection, account_id: int, kind: str, at: int, balance: int, order_id: int | None = None
) -> None:
    """Remember something that a mail will tell of. The caller is inside `immediate()`.

    Args:
        kind: LOW, RECREDITED or REQUESTED.
        at: when it happened (milliseconds).
        balance: what it left (thousandths of a credit).
        order_id: the order that was made.
    """
    insert(conn, "credit_notices", account_id=account_id, kind=kind, at=at, balance=balance, order_id=order_id)
