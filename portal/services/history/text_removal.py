"""Removing stored texts, step by step, of customers whose texts are no longer kept.

Their words are removed from the search index, and so are the texts themselves where that was requested
(`text_policy.change_text_policy`).
"""

import sqlite3
from collections.abc import Iterator, Set

from portal.core.db import write_transaction
from portal.services.accounts import account_messages
from portal.services.common.message_states import ENROUTE
from portal.services.history import search_index
from portal.services.messages import text_policy

# Messages whose texts one transaction removes, in some milliseconds, where no chunk of the index says how many.
_BATCH_SIZE = 500


def run_text_removals(conn: sqlite3.Connection) -> Iterator[int]:
    """Run all text removals that are stored; yields after each step how many texts it has removed.

    Between two steps no transaction is open: the caller may pause. After a crash the next call continues.
    """
    for (account_id,) in conn.execute("SELECT account_id FROM text_removals").fetchall():
        needed_ids = _list_needed_message_ids(conn, account_id)
        while (removed := _run_removal_step(conn, account_id, needed_ids)) is not None:
            yield removed


def _list_needed_message_ids(conn: sqlite3.Connection, account_id: int) -> Set[int]:
    """The messages of an account whose texts are still needed; those are removed later, when they no longer are."""
    # In this order: a message that ends between the two queries is in the first result.
    underway = conn.execute(
        f"SELECT id FROM messages INDEXED BY messages_unfinished WHERE state = {ENROUTE} AND account_id = ?",
        (account_id,),
    ).fetchall()
    receipts = conn.execute("SELECT message_id FROM deliveries WHERE account_id = ?", (account_id,)).fetchall()
    return {row[0] for row in (*underway, *receipts)}


def _run_removal_step(conn: sqlite3.Connection, account_id: int, needed_ids: Set[int]) -> int | None:
    """Run one transaction; None: the account is done, or an operator has changed the policy again."""
    with write_transaction(conn):
        removal_row = conn.execute(
            "SELECT texts, after_id, last_id, received_after_id FROM text_removals WHERE account_id = ?", (account_id,)
        ).fetchone()
        if removal_row is None:
            return None
        texts, after_id, last_id, received_after_id = removal_row
        if after_id < last_id:
            end_id = _remove_search_chunk_words(conn, account_id, after_id, last_id)
            removed = _blank_sent_texts(conn, account_id, after_id, end_id, needed_ids) if texts else 0
            conn.execute("UPDATE text_removals SET after_id = ? WHERE account_id = ?", (end_id, account_id))
            return removed
        received_ids = _list_stored_inbound_ids(conn, account_id, received_after_id) if texts else []
        text_policy.blank_texts(conn, "received", received_ids)
        if len(received_ids) == _BATCH_SIZE:
            conn.execute(
                "UPDATE text_removals SET received_after_id = ? WHERE account_id = ?", (received_ids[-1], account_id)
            )
        else:
            conn.execute("DELETE FROM text_removals WHERE account_id = ?", (account_id,))
        return len(received_ids)


def _remove_search_chunk_words(conn: sqlite3.Connection, account_id: int, after_id: int, last_id: int) -> int:
    """Remove the words from the index chunk that follows an id; returns the last id that this step covers."""
    chunk = conn.execute(
        "SELECT id, first_id, last_id FROM history_chunks WHERE account_id = ? AND last_id > ?"
        " ORDER BY last_id LIMIT 1",
        (account_id, after_id),
    ).fetchone()
    if chunk is not None:
        bits = search_index.build_chunk_filter(conn, account_id, chunk["first_id"], chunk["last_id"], worded=False)
        conn.execute("UPDATE history_chunks SET bits = ?, worded = 0 WHERE id = ?", (bits, chunk["id"]))
        return int(chunk["last_id"])
    rows = account_messages.list_account_messages(conn, account_id, after_id + 1, last_id + 1, limit=_BATCH_SIZE)
    return int(rows[-1][0]) if len(rows) == _BATCH_SIZE else last_id


def _blank_sent_texts(
    conn: sqlite3.Connection, account_id: int, after_id: int, end_id: int, needed_ids: Set[int]
) -> int:
    rows = account_messages.list_account_messages(
        conn, account_id, after_id + 1, end_id + 1, conditions=f"AND line.kept AND line.state <> {ENROUTE}"
    )
    removable_ids = [row[0] for row in rows if row[0] not in needed_ids]
    text_policy.blank_texts(conn, "messages", removable_ids)
    return len(removable_ids)


def _list_stored_inbound_ids(conn: sqlite3.Connection, account_id: int, after_id: int) -> list[int]:
    rows = conn.execute(
        "SELECT id FROM received WHERE account_id = ? AND id > ? AND kept AND ended_at IS NOT NULL"
        f" ORDER BY id LIMIT {_BATCH_SIZE}",
        (account_id, after_id),
    )
    return [row[0] for row in rows]
