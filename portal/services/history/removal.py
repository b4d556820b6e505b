"""Removing messages from the history, or only their texts, in short transactions.

Charges and totals of removed messages can still be checked.

The balance, the ledger, the days' totals and the statistics stay as they are. Of what customers delete a row without
destination and text is stored, in which the self-check finds what it compares (`deleted_messages`).
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

from portal.core.db import write_transaction
from portal.services.accounts import account_messages
from portal.services.common.message_states import ENROUTE
from portal.services.history import search_index
from portal.services.messages import text_policy

BATCH_SIZE = 250
"""How many messages are removed in one transaction: it takes a few milliseconds, and the SMPP server has to wait."""

_DELETED_COLUMNS = "account_id, id, country, source, state, ptt, parts, price"
# What is stored of some messages only, by their ids.
_SIDE_TABLES = ("hex_ids", "message_tlvs", "message_parts", "cut_messages", "replaced_senders")


@dataclass(slots=True)
class RemovalPlan:
    """Which of some texts may be removed.

    `texts`: those that may, each as the ids of its messages, the first one first. The others stay, by their first ids:
    `underway`, because a message has not ended; `waiting`, because a receipt waits for a client.
    """

    texts: list[list[int]] = field(default_factory=list)
    underway: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)


def plan_removal(conn: sqlite3.Connection, account_id: int, first_ids: Sequence[int], as_of: int) -> RemovalPlan:
    """Find out which of the texts that begin with these messages of an account may be removed.

    Args:
        first_ids: messages that aren't there, or are another account's, are ignored.
        as_of: a moment (milliseconds) by which a text must have ended.
    """
    rows = conn.execute(
        "SELECT id, id, state, done_at FROM messages WHERE id IN (SELECT value FROM json_each(:first_ids))"
        " AND +account_id = :account AND joined_to IS NULL"
        " UNION ALL SELECT joined_to, id, state, done_at FROM messages"
        " WHERE joined_to IN (SELECT value FROM json_each(:first_ids)) AND +account_id = :account",
        {"first_ids": json.dumps(first_ids), "account": account_id},
    ).fetchall()
    texts: dict[int, list[int]] = {}
    underway = set()
    for first_id, message_id, state, done_at in rows:
        texts.setdefault(first_id, []).append(message_id)
        if state == ENROUTE or (done_at or 0) > as_of:
            underway.add(first_id)
    plan = RemovalPlan()
    waiting_ids = _find_waiting_receipts(conn, account_id, [each for text in texts.values() for each in text])
    for first_id, text in texts.items():
        if first_id in underway:
            plan.underway.append(first_id)
        elif waiting_ids and not waiting_ids.isdisjoint(text):
            plan.waiting.append(first_id)
        else:
            plan.texts.append(text)
    return plan


def _find_waiting_receipts(conn: sqlite3.Connection, account_id: int, message_ids: Sequence[int]) -> set[int]:
    """The messages between the smallest and the greatest of these ids whose receipt waits for a client.

    This reads the account's whole queue, which is short unless its clients have not connected for days.
    """
    if not message_ids:
        return set()
    rows = conn.execute(
        "SELECT message_id FROM deliveries WHERE account_id = ? AND message_id >= ? AND message_id <= ?",
        (account_id, min(message_ids), max(message_ids)),
    )
    return {row[0] for row in rows}


def split_texts_into_batches(texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Split texts, in their order, into batches for `delete_sent_messages`: of BATCH_SIZE messages, or a few more.

    Where a table has a trigger, the time of a DELETE grows with the square of its rows: 250 texts of 255 segments each
    took five minutes, in which the SMPP server could write nothing.
    """
    batch: list[Sequence[int]] = []
    message_count = 0
    for text in texts:
        batch.append(text)
        message_count += len(text)
        if message_count >= BATCH_SIZE:
            yield batch
            batch, message_count = [], 0
    if batch:
        yield batch


def delete_sent_messages(
    conn: sqlite3.Connection, account_id: int, texts: Sequence[Sequence[int]], *, keep_rows: bool = True
) -> int:
    """Remove texts that `plan_removal` has found. The statistics must have counted them since (`rollup.roll_up_all`).

    Args:
        keep_rows: store the rows that the self-check needs. Not needed for days that it leaves out.

    Returns:
        How many texts were removed.
    """
    message_ids = [each for text in texts for each in text]
    if not message_ids:
        return 0
    with write_transaction(conn):
        extended = _find_texts_with_new_segments(conn, texts, message_ids)
        if extended:
            message_ids = [each for text in texts if text[0] not in extended for each in text]
        _keep_highest_message_id(conn, message_ids)
        condition = "id IN (SELECT value FROM json_each(?)) AND +account_id = ?"
        values = (json.dumps(message_ids), account_id)
        if keep_rows:
            # What a refund has given back of parts can't be told any more when these have gone.
            conn.execute(
                f"INSERT INTO deleted_messages ({_DELETED_COLUMNS}, refunded) SELECT {_DELETED_COLUMNS},"
                " (SELECT amount FROM movements JOIN cut_messages ON message_id = first_message_id"
                "  WHERE kind = 'refund' AND first_message_id = messages.id)"
                f" FROM messages WHERE {condition}",
                values,
            )
        rows = conn.execute(f"DELETE FROM messages WHERE {condition} RETURNING id", values).fetchall()
        removed_ids = {row[0] for row in rows}
        removed_json = json.dumps([*removed_ids])
        for table in _SIDE_TABLES:
            # Most are empty, which is seen sooner than that none of these messages has anything there.
            if conn.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone():
                of_these = "message_id IN (SELECT value FROM json_each(?))"
                conn.execute(f"DELETE FROM {table} WHERE {of_these}", (removed_json,))
        account_messages.remove_from_index(conn, account_id, sorted(removed_ids))
        _delete_empty_search_chunks(conn, account_id, removed_ids)
        _increment_removed_count(conn, account_id, len(removed_ids))
    return sum(text[0] in removed_ids for text in texts)


def delete_inbound_messages(conn: sqlite3.Connection, account_id: int, received_ids: Sequence[int]) -> int:
    """Remove messages from handsets, except those that still wait for a client; returns how many were removed.

    The text of a STOP message is copied to the blacklist entry that it has caused.
    """
    values = {"ids": json.dumps(received_ids), "account": account_id}
    condition = "received.id IN (SELECT value FROM json_each(:ids)) AND +received.account_id = :account"
    with write_transaction(conn):
        conn.execute(
            "UPDATE blacklist SET said = received.text FROM received"
            f" WHERE {condition} AND ended_at IS NOT NULL AND blacklist.account_id = :account"
            " AND number = received.source AND received_id = received.id",
            values,
        )
        _keep_highest_message_id(conn, received_ids)
        rows = conn.execute(
            f"DELETE FROM received WHERE {condition} AND ended_at IS NOT NULL RETURNING id", values
        ).fetchall()
        _increment_removed_count(conn, account_id, len(rows))
    return len(rows)


def _find_texts_with_new_segments(
    conn: sqlite3.Connection, texts: Sequence[Sequence[int]], message_ids: Sequence[int]
) -> set[int]:
    """Texts that have got another segment since `plan_removal`: it would be lost without the first one."""
    rows = conn.execute(
        "SELECT joined_to FROM messages WHERE joined_to IN (SELECT value FROM json_each(?))"
        " AND id NOT IN (SELECT value FROM json_each(?))",
        (json.dumps([text[0] for text in texts]), json.dumps(message_ids)),
    )
    return {row[0] for row in rows}


def _keep_highest_message_id(conn: sqlite3.Connection, row_ids: Sequence[int]) -> None:
    # As the trigger would do for each row, if they are deleted in the order of their ids.
    conn.execute("UPDATE counters SET value = ?1 WHERE name = 'message_id' AND value < ?1", (max(row_ids, default=0),))


def _increment_removed_count(conn: sqlite3.Connection, account_id: int, removed: int) -> None:
    if removed:
        conn.execute("UPDATE accounts SET removed_messages = removed_messages + ? WHERE id = ?", (removed, account_id))


def _delete_empty_search_chunks(conn: sqlite3.Connection, account_id: int, removed_ids: set[int]) -> None:
    """Remove the chunks of the search index none of whose messages is left. All of these are in `account_messages`."""
    conn.execute(
        "DELETE FROM history_chunks WHERE id IN (SELECT (SELECT id FROM history_chunks"
        " WHERE account_id = :account AND last_id >= value ORDER BY last_id LIMIT 1) FROM json_each(:removed_ids))"
        " AND NOT EXISTS (SELECT 1 FROM account_messages AS own WHERE own.account_id = :account"
        " AND own.message_id >= first_id AND own.message_id <= last_id)",
        {"account": account_id, "removed_ids": json.dumps(sorted(removed_ids))},
    )


# --- stored texts of customers whose texts are no longer kept (`text_policy.change_text_policy`)

# Messages whose texts one transaction removes, in some milliseconds, where no chunk of the index says how many.
_TEXT_BATCH_SIZE = 500


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
    rows = conn.execute(
        f"SELECT id FROM messages INDEXED BY messages_unfinished WHERE state = {ENROUTE} AND account_id = ?1"
        " UNION ALL SELECT message_id FROM deliveries WHERE account_id = ?1",
        (account_id,),
    )
    return {row[0] for row in rows}


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
        received = conn.execute(
            "SELECT id FROM received WHERE account_id = ? AND id > ? AND kept AND ended_at IS NOT NULL"
            " ORDER BY id LIMIT ?",
            (account_id, received_after_id, _TEXT_BATCH_SIZE if texts else 0),
        )
        received_ids = [row[0] for row in received]
        text_policy.blank_texts(conn, "received", received_ids)
        if len(received_ids) == _TEXT_BATCH_SIZE:
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
    rows = account_messages.list_account_messages(conn, account_id, after_id + 1, last_id + 1, limit=_TEXT_BATCH_SIZE)
    return int(rows[-1][0]) if len(rows) == _TEXT_BATCH_SIZE else last_id


def _blank_sent_texts(
    conn: sqlite3.Connection, account_id: int, after_id: int, end_id: int, needed_ids: Set[int]
) -> int:
    rows = account_messages.list_account_messages(
        conn, account_id, after_id + 1, end_id + 1, conditions=f"AND line.kept AND line.state <> {ENROUTE}"
    )
    removable_ids = [row[0] for row in rows if row[0] not in needed_ids]
    text_policy.blank_texts(conn, "messages", removable_ids)
    return len(removable_ids)
