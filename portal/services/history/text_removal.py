"""Removing, step by step, what is stored of the texts of customers who don't have theirs kept any more: their words in
the index of searches, and the texts themselves where that was asked for (`privacy.change`)."""

import sqlite3
from collections.abc import Iterator, Set

from portal.core.db import immediate
from portal.services.common.message_states import ENROUTE
from portal.services.history import search_index
from portal.services.messages import text_policy

# A step is a transaction of some milliseconds.
_AT_ONCE = 500


def run(conn: sqlite3.Connection) -> Iterator[int]:
    """Do all that is to be done; says after each step how many texts it has removed.

    Between two steps nothing is held: the caller may rest. What a process that was killed has left is done by the next.
    """
    for (account_id,) in conn.execute("SELECT account_id FROM text_removals").fetchall():
        needed = _needed(conn, account_id)
        while (removed := _step(conn, account_id, needed)) is not None:
            yield removed


def _needed(conn: sqlite3.Connection, account_id: int) -> Set[int]:
    """The messages of an account whose texts somebody still needs: these go when nobody does, without our doing."""
    # In this order: a message that ends meanwhile is among the first.
    underway = conn.execute(
        f"SELECT id FROM messages INDEXED BY messages_unfinished WHERE state = {ENROUTE} AND account_id = ?",
        (account_id,),
    ).fetchall()
    told = conn.execute("SELECT message_id FROM deliveries WHERE account_id = ?", (account_id,)).fetchall()
    return {row[0] for row in (*underway, *told)}


def _step(conn: sqlite3.Connection, account_id: int, needed: Set[int]) -> int | None:
    """One transaction; None: all of the account is done, or the operator has thought better of it."""
    with immediate(conn):
        found = conn.execute(
            "SELECT texts, after_id, last_id, received_after_id FROM text_removals WHERE account_id = ?", (account_id,)
        ).fetchone()
        if found is None:
            return None
        texts, after, last, received_after = found
        if after < last:
            end = _forget_words(conn, account_id, after, last)
            removed = _remove_sent(conn, account_id, after, end, needed) if texts else 0
            conn.execute("UPDATE text_removals SET after_id = ? WHERE account_id = ?", (end, account_id))
            return removed
        rows = _received(conn, account_id, received_after) if texts else []
        text_policy.blank(conn, "received", rows)
        if len(rows) == _AT_ONCE:
            conn.execute("UPDATE text_removals SET received_after_id = ? WHERE account_id = ?", (rows[-1], account_id))
        else:
            conn.execute("DELETE FROM text_removals WHERE account_id = ?", (account_id,))
        return len(rows)


def _forget_words(conn: sqlite3.Connection, account_id: int, after: int, last: int) -> int:
    """Let the chunk that holds what follows upon an id know no words any more; returns where this step ends."""
    chunk = conn.execute(
        "SELECT id, first_id, last_id FROM history_chunks WHERE account_id = ? AND last_id > ?"
        " ORDER BY last_id LIMIT 1",
        (account_id, after),
    ).fetchone()
    if chunk is not None:
        bits = search_index.bits_without_words(conn, account_id, chunk["first_id"], chunk["last_id"])
        conn.execute("UPDATE history_chunks SET bits = ?, worded = 0 WHERE id = ?", (bits, chunk["id"]))
        return int(chunk["last_id"])
    row = conn.execute(
        "SELECT id FROM messages WHERE account_id = ? AND id > ? AND id <= ?"
        f" ORDER BY id LIMIT 1 OFFSET {_AT_ONCE - 1}",
        (account_id, after, last),
    ).fetchone()
    return int(row[0]) if row else last


def _remove_sent(conn: sqlite3.Connection, account_id: int, after: int, end: int, needed: Set[int]) -> int:
    rows = conn.execute(
        f"SELECT id FROM messages WHERE account_id = ? AND id > ? AND id <= ? AND kept AND state <> {ENROUTE}",
        (account_id, after, end),
    )
    found = [row[0] for row in rows if row[0] not in needed]
    text_policy.blank(conn, "messages", found)
    return len(found)


def _received(conn: sqlite3.Connection, account_id: int, after: int) -> list[int]:
    rows = conn.execute(
        "SELECT id FROM received WHERE account_id = ? AND id > ? AND kept AND ended_at IS NOT NULL"
        f" ORDER BY id LIMIT {_AT_ONCE}",
        (account_id, after),
    )
    return [row[0] for row in rows]
