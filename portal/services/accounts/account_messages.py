"""Which messages are an account's: the index in which they are found, kept behind the messages.

It is a table, `account_messages`, and no index of `messages`: in that one each account has its own page, and of the
pages that a transaction with messages of ten accounts writes, half were of it. The table has the messages up to a mark
(the counter `indexed_message_id`); newer ones are found by reading all that have come since. So whoever asks sees each
message from its transaction on, and what asking costs grows with how far the mark is behind.

Ids only grow: no message with an id up to the mark can come any more. So the mark may also be older than the rows that
are read with it, and a query of each part is enough: SQLite would read both as one view, but begin to read newer
messages either at the mark or at the first id that is asked for, as it likes.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from portal.core.db import write_transaction

# A transaction of some milliseconds.
_MESSAGES_PER_BATCH = 2_000
MARK_SQL = "(SELECT value FROM counters WHERE name = 'indexed_message_id')"
"""SQL for the mark: all messages with ids up to this one are in the index."""

LATEST_MESSAGE_ID_SQL = f"""
coalesce(
    (SELECT id FROM messages NOT INDEXED WHERE id > {MARK_SQL} AND account_id = :account ORDER BY id DESC LIMIT 1),
    (SELECT max(message_id) FROM account_messages WHERE account_id = :account))
"""
"""The id of the newest message of the account `:account`, or NULL."""

# Each with the column that has its order. CROSS JOIN keeps SQLite from reading `messages` first.
_INDEXED_MESSAGES = (
    "own.message_id",
    "account_messages AS own CROSS JOIN messages AS line ON line.id = own.message_id WHERE own.account_id = :account",
)
_NEWER_MESSAGES = ("line.id", "messages AS line NOT INDEXED WHERE line.account_id = :account")


def list_account_messages(
    conn: sqlite3.Connection,
    account_id: int,
    first: int,
    bound: int,
    columns: str = "line.id",
    *,
    conditions: str = "",
    parameters: Mapping[str, object] | None = None,
    newest_first: bool = False,
    limit: int | None = None,
) -> list[Any]:
    """List messages of an account with ids in a range, in the order of their ids.

    Args:
        first: the first id of the range.
        bound: the id after its last one.
        columns: what to read of `messages AS line`, in SQL.
        conditions: further ones, in SQL, each after AND.
        parameters: those of `columns` and `conditions`, by name.
        limit: how many at most; None: all.
    """
    end_of_index = get_last_indexed_id(conn) + 1
    parts = [
        (*_INDEXED_MESSAGES, first, min(bound, end_of_index)),
        (*_NEWER_MESSAGES, max(first, end_of_index), bound),
    ]
    direction = "DESC" if newest_first else "ASC"
    rows: list[Any] = []
    for order, source, part_first, part_bound in reversed(parts) if newest_first else parts:
        if part_first < part_bound and (limit is None or len(rows) < limit):
            rows += conn.execute(
                f"SELECT {columns} FROM {source} AND {order} >= :first AND {order} < :bound {conditions}"
                f" ORDER BY {order} {direction} LIMIT :limit",
                {
                    **(parameters or {}),
                    "account": account_id,
                    "first": part_first,
                    "bound": part_bound,
                    "limit": -1 if limit is None else limit - len(rows),
                },
            )
    return rows


def get_latest_message_id(conn: sqlite3.Connection, account_id: int) -> int:
    """The id of an account's newest message; 0: it has none."""
    (message_id,) = conn.execute(f"SELECT {LATEST_MESSAGE_ID_SQL}", {"account": account_id}).fetchone()
    return int(message_id or 0)


def get_last_indexed_id(conn: sqlite3.Connection) -> int:
    """The mark: all messages with ids up to this one are in the index."""
    return int(conn.execute(f"SELECT {MARK_SQL}").fetchone()[0])


def index_message_batch(conn: sqlite3.Connection, *, max_messages: int = _MESSAGES_PER_BATCH) -> bool:
    """Take the next messages into the index, so many at most, in one short transaction.

    Returns:
        Whether there may be more.

    Raises:
        sqlite3.OperationalError: none was taken; the next time takes them.
    """
    mark = get_last_indexed_id(conn)
    full, last_id = conn.execute(
        "SELECT last.id IS NOT NULL, coalesce(last.id, (SELECT max(id) FROM messages)) FROM (SELECT"
        " (SELECT id FROM messages WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?) AS id) AS last",
        (mark, max_messages - 1),
    ).fetchone()
    if last_id is None or last_id <= mark:
        return False
    with write_transaction(conn):
        if get_last_indexed_id(conn) != mark:
            # Another process has taken these meanwhile.
            return True
        # In the order of the table: so they change each page of it once. Where an operator has set the mark back, to
        # have the index built anew, some are there.
        conn.execute(
            "INSERT OR IGNORE INTO account_messages SELECT account_id, id FROM messages NOT INDEXED"
            " WHERE id > ? AND id <= ? ORDER BY account_id, id",
            (mark, last_id),
        )
        conn.execute("UPDATE counters SET value = ? WHERE name = 'indexed_message_id'", (last_id,))
    return bool(full)


def remove_from_index(conn: sqlite3.Connection, account_id: int, message_ids: Sequence[int]) -> None:
    """Take deleted messages of an account out of the index, in the transaction that deletes them."""
    conn.execute(
        "DELETE FROM account_messages WHERE account_id = ? AND message_id IN (SELECT value FROM json_each(?))",
        (account_id, json.dumps(message_ids)),
    )
