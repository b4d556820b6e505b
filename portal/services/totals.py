"""What an account sent on a day (UTC), counted as it happens."""

import sqlite3


def add(conn: sqlite3.Connection, account_id: int, day: int, **amounts: int) -> None:
    """Add to a day's totals.

    Args:
        day: days since 1970.
        amounts: columns of `daily_totals`; `price` in thousandths of a credit.
    """
    columns = ", ".join(amounts)
    added = ", ".join(f"{name} = {name} + excluded.{name}" for name in amounts)
    conn.execute(
        f"INSERT INTO daily_totals (account_id, day, {columns}) VALUES (?, ?{', ?' * len(amounts)})"
        f" ON CONFLICT (account_id, day) DO UPDATE SET {added}",
        (account_id, day, *amounts.values()),
    )
