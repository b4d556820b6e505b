"""Removing messages from the history, in short transactions, so that charges and totals can still be checked.

The balance, the ledger, the days' totals and the statistics stay as they are. Sums of what was removed are stored, and
the self-check adds them to the messages that it finds (`deleted_days`, `deleted_charges`, `deleted_refunds`).
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

from portal.core.clock import DAY_MS
from portal.core.db import BulkInsert, write_transaction
from portal.services.accounts import account_messages
from portal.services.common import ids
from portal.services.common.message_states import DELIVERED, ENROUTE, PTT_BLACKLISTED, PTT_NO_CREDIT
from portal.services.credits import ledger
from portal.services.messages import client_ids, message_parts, message_tlvs

BATCH_SIZE = 250
"""How many messages are removed in one transaction: it takes a few milliseconds, and the SMPP server has to wait."""

_SUMMED_COLUMNS = ("sent", "delivered", "failed", "stopped", "refused", "parts", "price")
_UPSERT_DAYS = BulkInsert(
    "deleted_days",
    f"account_id, day, country, source, {', '.join(_SUMMED_COLUMNS)}",
    "ON CONFLICT (account_id, day, country, source) DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in _SUMMED_COLUMNS),
)
_UPSERT_CHARGES = BulkInsert(
    "deleted_charges",
    "account_id, charged_from, first_id, last_id, messages, price",
    "ON CONFLICT (account_id, charged_from) DO UPDATE SET first_id = min(first_id, excluded.first_id),"
    " last_id = max(last_id, excluded.last_id), messages = messages + excluded.messages,"
    " price = price + excluded.price",
)
_NO_CHARGE = 0
_MAX_ID = (1 << 63) - 1


@dataclass(slots=True)
class RemovalPlan:
    """Which of some texts may be removed.

    `texts`: those that may, each as the ids of its messages, the first one first. The others stay, by their first ids:
    `underway`, because a message has not ended; `waiting`, because a receipt waits for a client.
    """

    texts: list[list[int]] = field(default_factory=list)
    underway: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)


def plan_removal(
    conn: sqlite3.Connection, account_id: int, first_ids: Sequence[int], as_of: float = inf
) -> RemovalPlan:
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


def split_texts_into_batches(
    texts: Sequence[Sequence[int]], batch_size: int = BATCH_SIZE
) -> Iterator[list[Sequence[int]]]:
    """Split texts, in their order, into batches for `delete_sent_messages`: of `batch_size` messages, or a few more.

    Where a table has a trigger, the time of a DELETE grows with the square of its rows: 250 texts of 255 segments each
    took five minutes, in which the SMPP server could write nothing.
    """
    batch: list[Sequence[int]] = []
    message_count = 0
    for text in texts:
        batch.append(text)
        message_count += len(text)
        if message_count >= batch_size:
            yield batch
            batch, message_count = [], 0
    if batch:
        yield batch


def delete_sent_messages(
    conn: sqlite3.Connection, account_id: int, texts: Sequence[Sequence[int]], *, keep_sums: bool = True
) -> int:
    """Remove texts that `plan_removal` has found. The statistics must have counted them since (`rollup.roll_up_all`).

    Args:
        keep_sums: store the sums that the self-check needs. Not needed for days that it leaves out.

    Returns:
        How many texts were removed.
    """
    message_ids = [each for text in texts for each in text]
    if not message_ids:
        return 0
    charges = find_usage_movement_starts(conn, account_id, message_ids) if keep_sums else {}
    with write_transaction(conn):
        extended = _find_texts_with_new_segments(conn, texts, message_ids)
        if extended:
            message_ids = [each for text in texts if text[0] not in extended for each in text]
        _keep_highest_message_id(conn, message_ids)
        rows = conn.execute(
            "DELETE FROM messages WHERE id IN (SELECT value FROM json_each(?)) AND +account_id = ?"
            " RETURNING id, country, source, state, ptt, parts, price",
            (json.dumps(message_ids), account_id),
        ).fetchall()
        if keep_sums:
            _add_deleted_days(conn, account_id, rows)
            _add_deleted_charges(conn, account_id, rows, charges)
            _add_deleted_refunds(conn, account_id, rows)
        removed_ids = {row[0] for row in rows}
        client_ids.remove_hex_ids(conn, removed_ids)
        message_parts.forget_parts(conn, removed_ids)
        message_tlvs.remove_tlvs(conn, removed_ids)
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


# --- the sums that the self-check needs

# A message: id, country, source, state, ptt, parts, price.
_RemovedRow = Sequence[int | str]


def find_usage_movement_starts(conn: sqlite3.Connection, account_id: int, message_ids: Sequence[int]) -> dict[int, int]:
    """The first message of the usage movement that charges each of these messages, by message id."""
    charge_starts: dict[int, int] = {}
    upcoming: list[_UsageMovement] = []
    from_id = 0
    for message_id in sorted(message_ids):
        upcoming = [each for each in upcoming if each[2] >= message_id]
        if not upcoming:
            # The line that charges it is a later one where the ids of movements are ahead.
            from_id = max(from_id, ledger.min_usage_id(message_id))
            rows = _list_usage_movements(conn, account_id, from_id, _LOOKAHEAD)
            upcoming = [each for each in rows if each[2] >= message_id]
            if not upcoming and len(rows) == _LOOKAHEAD:
                from_id = _find_first_movement_id(conn, account_id, rows[-1][0] + 1, message_id)
                upcoming = _list_usage_movements(conn, account_id, from_id, _LOOKAHEAD)
        if upcoming and upcoming[0][1] <= message_id:
            charge_starts[message_id] = upcoming[0][1]
    return charge_starts


# The id of a usage movement, and the first and the last message that it charges.
_UsageMovement = tuple[int, int, int]
_LOOKAHEAD = 16


def _list_usage_movements(conn: sqlite3.Connection, account_id: int, from_id: int, limit: int) -> list[_UsageMovement]:
    """The usage movements of an account from this id on."""
    rows = conn.execute(
        "SELECT id, first_message_id, last_message_id FROM movements INDEXED BY movements_account"
        " WHERE account_id = ? AND id >= ? AND kind = 'usage' AND last_message_id IS NOT NULL ORDER BY id LIMIT ?",
        (account_id, from_id, limit),
    )
    return [(row[0], row[1] or 0, row[2]) for row in rows]


def _find_first_movement_id(conn: sqlite3.Connection, account_id: int, low_id: int, message_id: int) -> int:
    """Find the first movement that charges this message or a later one, by binary search: both grow together."""
    high_id = _MAX_ID
    while low_id < high_id:
        middle_id = (low_id + high_id) // 2
        rows = _list_usage_movements(conn, account_id, middle_id, 1)
        if rows and rows[0][2] < message_id:
            low_id = rows[0][0] + 1
        else:
            high_id = middle_id
    return low_id


def _add_deleted_days(conn: sqlite3.Connection, account_id: int, rows: Sequence[_RemovedRow]) -> None:
    days: dict[tuple[int, str, str], list[int]] = defaultdict(lambda: [0] * len(_SUMMED_COLUMNS))
    for message_id, country, source, state, ptt, parts, price in rows:
        sums = days[ids.time_from_id(int(message_id)) // DAY_MS, str(country), str(source)]
        if price:
            delivered = int(state == DELIVERED)
            counts = [1, delivered, 1 - delivered, 0, 0, int(parts), int(price)]
        else:
            counts = [0, 0, 0, int(ptt == PTT_BLACKLISTED), int(ptt == PTT_NO_CREDIT), 0, 0]
        for index, count in enumerate(counts):
            sums[index] += count
    _UPSERT_DAYS.run(conn, [(account_id, *day, *sums) for day, sums in sorted(days.items())])


def _add_deleted_charges(
    conn: sqlite3.Connection, account_id: int, rows: Sequence[_RemovedRow], charge_starts: dict[int, int]
) -> None:
    sums: dict[int, list[int]] = {}
    for message_id, *_, price in rows:
        if price:
            removed_id, price = int(message_id), int(price)
            charge_start = charge_starts.get(removed_id, _NO_CHARGE)
            if charge_start in sums:
                charge_sums = sums[charge_start]
                charge_sums[:] = (
                    min(charge_sums[0], removed_id),
                    max(charge_sums[1], removed_id),
                    charge_sums[2] + 1,
                    charge_sums[3] + price,
                )
            else:
                sums[charge_start] = [removed_id, removed_id, 1, price]
    _UPSERT_CHARGES.run(
        conn, [(account_id, charge_start, *charge_sums) for charge_start, charge_sums in sorted(sums.items())]
    )


def _add_deleted_refunds(conn: sqlite3.Connection, account_id: int, rows: Sequence[_RemovedRow]) -> None:
    paid = {row[0]: row for row in rows if row[-1]}
    refunded = conn.execute(
        "SELECT first_message_id, amount FROM movements WHERE kind = 'refund'"
        " AND first_message_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(paid)),),
    ).fetchall()
    # Of a text that was sent in parts less may have been given back than it cost.
    cut = message_parts.find_cut_messages(conn, [each for each, _ in refunded])
    conn.executemany(
        "INSERT INTO deleted_refunds (message_id, account_id, price, state, ptt) VALUES (?, ?, ?, ?, ?)",
        [
            (row[0], account_id, amount if row[0] in cut else row[6], row[3], row[4])
            for row, amount in ((paid[message_id], amount) for message_id, amount in refunded)
        ],
    )
