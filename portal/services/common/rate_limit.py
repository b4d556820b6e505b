"""Token buckets in the database: they hold over restarts, and for every process."""

import sqlite3
from collections.abc import Sequence
from math import ceil

from portal.core.clock import now_ms
from portal.core.db import write_transaction
from portal.core.i18n import ngettext
from portal.services.common.errors import Refused


class TooManyAttempts(Refused):
    def __str__(self) -> str:
        return self.localized()

    def localized(self) -> str:
        return ngettext(
            "Too many attempts. Try again in %(num)s minute.",
            "Too many attempts. Try again in %(num)s minutes.",
            self.params["minutes"],
        )


def take_token(conn: sqlite3.Connection, name: str, capacity: int, period_ms: int, *, now: int | None = None) -> None:
    """Take one token from one bucket, which fills from empty to its capacity in `period_ms` milliseconds.

    Args:
        name: of the bucket.
        capacity: in tokens.
        now: milliseconds; None: this moment, as it is once the write lock is held.

    Raises:
        TooManyAttempts: it is empty.
    """
    take_tokens(conn, [(name, capacity)], period_ms, now=now)


def take_tokens(
    conn: sqlite3.Connection, buckets: Sequence[tuple[str, int]], period_ms: int, *, now: int | None = None
) -> None:
    """Take one token from each bucket, or none from any. A bucket fills from empty to its capacity in `period_ms`
    milliseconds.

    Attempts take their tokens before they are checked, so that many at the same time can't slip through together; a
    successful one puts them back with `put_back_tokens`.

    Args:
        buckets: names and capacities.
        now: milliseconds; None: this moment, as it is once the write lock is held.

    Raises:
        TooManyAttempts: a bucket is empty.
    """
    with write_transaction(conn):
        now = now_ms() if now is None else now
        for name, capacity in buckets:
            conn.execute(
                "INSERT INTO throttle_buckets VALUES (?, ?, ?)"
                " ON CONFLICT (name) DO UPDATE SET tokens = excluded.tokens, at = excluded.at",
                (name, _count_tokens(conn, name, capacity, period_ms, now) - 1, now),
            )


def require_tokens(conn: sqlite3.Connection, buckets: Sequence[tuple[str, int]], period_ms: int) -> None:
    """Refuse what `take_tokens` would refuse, without the write lock. Raises: TooManyAttempts"""
    for name, capacity in buckets:
        _count_tokens(conn, name, capacity, period_ms, now_ms())


def _count_tokens(conn: sqlite3.Connection, name: str, capacity: int, period_ms: int, now: int) -> float:
    row = conn.execute("SELECT tokens, at FROM throttle_buckets WHERE name = ?", (name,)).fetchone()
    tokens = float(capacity)
    # A bucket from a whole period ahead was used by a clock that was wrong, and must not stay empty until that time
    # has come; one from a little ahead doesn't fill meanwhile.
    if row is not None and row["at"] < now + period_ms:
        tokens = min(capacity, row["tokens"] + max(0, now - row["at"]) * capacity / period_ms)
    if tokens < 1:
        wait_ms = (1 - tokens) * period_ms / capacity
        raise TooManyAttempts(minutes=ceil(wait_ms / 60_000))
    return tokens


def put_back_tokens(conn: sqlite3.Connection, buckets: Sequence[tuple[str, int]]) -> None:
    """Put back the tokens of an attempt that was right."""
    with write_transaction(conn):
        for name, _ in buckets:
            conn.execute("UPDATE throttle_buckets SET tokens = tokens + 1 WHERE name = ?", (name,))


def purge_token_buckets(conn: sqlite3.Connection, before: int) -> None:
    """Delete buckets that nobody has used since `before` (milliseconds): they are full again."""
    conn.execute("DELETE FROM throttle_buckets WHERE at < ?", (before,))
