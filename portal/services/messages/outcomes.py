"""Messages after they were stored: final states, scheduled dates and validity."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from portal.core.clock import DAY_MS, MINUTE_MS, now_ms
from portal.core.db import BulkUpdate, write_transaction
from portal.services.common import ids
from portal.services.common.message_states import (
    DELIVERED,
    ENROUTE,
    EXPIRED,
    NO_ANSWER,
    PTT_BLACKLISTED,
    PTT_EXPIRED,
    PTT_UNKNOWN,
    REJECTED,
    UNKNOWN,
)
from portal.services.credits import credits
from portal.services.messages import blacklist, client_ids, deliveries, message_parts, text_policy
from portal.services.messages.deliveries import DeliveryReceipt
from portal.services.messages.message_parts import MessageOutcome as MessageOutcome  # told from here
from portal.services.messages.validation import DEFAULT_VALIDITY_MS, Segment, SubmittedMessage
from portal.services.routing import route_usage
from portal.services.statistics import daily_totals, rollup
from portal.services.upstreams import paths, queue, upstreams
from portal.services.upstreams.paths import ChoosePath, UpstreamPath, choose_default_path
from portal.services.upstreams.settings import REFUND_REFUSED, REFUND_UNDELIVERED

RECEIPT_GRACE_MS = MINUTE_MS
"""How long after its validity a message that an upstream has accepted expires: its receipt may be on its way."""
_BATCH_SIZE = 1_000


@dataclass(slots=True)
class DueMessages:
    """What has become due: messages for the built-in simulator; the paths, with the accounts, of those that wait for an
    upstream now; the ids of those that have expired, and the receipts that were queued.
    """

    outbound: list[SubmittedMessage] = field(default_factory=list)
    waiting: set[tuple[UpstreamPath, int]] = field(default_factory=set)
    expired_ids: list[int] = field(default_factory=list)
    receipts: list[DeliveryReceipt] = field(default_factory=list)


# Whether there is anything seldom, and the columns of all ending messages. In one row: Python releases the GIL for
# each, and next to a busy event loop that costs more than reading all of them.
_SELECT_ENDING = f"""
SELECT {text_policy.HAS_DISCARDING_CUSTOMERS_SQL}, EXISTS (SELECT 1 FROM hex_ids), EXISTS (SELECT 1 FROM message_tlvs),
    json_group_array(iif(registered_delivery = 0,
    json_array(messages.id, account_id, 0),
    json_array(messages.id, account_id, registered_delivery,
        source, source_ton, source_npi, destination, text, reference, parts)))
FROM json_each(?) AS ending CROSS JOIN messages ON messages.id = ending.value WHERE state = {ENROUTE}
"""

_OUTCOME_COLUMNS = "state = ?, ptt = ?, done_at = ?, upstream_status = ?, due_at = NULL, outcome_room = NULL"
_KEEP_TEXT = BulkUpdate("messages", "upstream_id", _OUTCOME_COLUMNS)
_BLANK_TEXT = BulkUpdate("messages", "upstream_id", f"{_OUTCOME_COLUMNS}, {text_policy.BLANK_TEXT_SQL}")


def finish_messages(conn: sqlite3.Connection, outcomes: Sequence[MessageOutcome]) -> list[DeliveryReceipt]:
    """Store final states and the days' totals, and queue the receipts that were requested, in the order of outcomes.

    The first outcome of a message counts, also for its place in that order; later ones are ignored.

    Returns:
        The receipts that were queued for their accounts' receivers.
    """
    receipts = []
    first_outcomes: dict[int, MessageOutcome] = {}
    for each in outcomes:
        first_outcomes.setdefault(each.message_id, each)
    ids_by_result: dict[tuple[int, int, int, str | None, bool], dict[int, str | None]] = defaultdict(dict)
    # By account and day: how many were delivered, and how many were not.
    counts: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    with write_transaction(conn):
        ids_json = json.dumps([*first_outcomes])
        row = conn.execute(_SELECT_ENDING, (ids_json,)).fetchone()
        has_discarding_customers, has_hex_ids, has_tlvs, ending_json = row
        ending_rows = json.loads(ending_json)
        discarding_ids: set[int] = set()
        if has_discarding_customers:
            discarding_ids = text_policy.find_accounts_discarding_texts(conn, {row[1] for row in ending_rows})
        for message_id, account_id, registered_delivery, *fields in ending_rows:
            each = first_outcomes[message_id]
            receipt_wanted = bool(registered_delivery) and deliveries.wants_receipt(registered_delivery, each.state)
            # A receipt quotes the text.
            keeps_text = receipt_wanted or account_id not in discarding_ids
            result_key = (each.state, each.ptt, each.ended_at, each.upstream_status, keeps_text)
            ids_by_result[result_key][message_id] = each.upstream_id
            day = ids.time_from_id(message_id) // DAY_MS
            counts[account_id, day][each.state != DELIVERED] += 1
            if receipt_wanted:
                receipts.append(
                    DeliveryReceipt(0, account_id, message_id, 0, *(*fields, each.state, each.ptt, each.ended_at))
                )
        if has_tlvs:
            # They may say as much as the text.
            conn.execute("DELETE FROM message_tlvs WHERE message_id IN (SELECT value FROM json_each(?))", (ids_json,))
        for (*result, keeps_text), upstream_ids in ids_by_result.items():
            (_KEEP_TEXT if keeps_text else _BLANK_TEXT).run(conn, list(upstream_ids.items()), result)
        daily_totals.add_daily_totals(
            conn, [(*account_and_day, 0, *ended, 0, 0, 0, 0) for account_and_day, ended in counts.items()]
        )
        if counts:
            rollup.record_ended_messages(conn, chain.from_iterable(ids_by_result.values()))
        if receipts:
            if has_hex_ids:
                hex_ids = client_ids.read_hex_ids(conn, [each.message_id for each in receipts])
                for receipt in receipts:
                    receipt.hex_id = hex_ids.get(receipt.message_id)
            deliveries.enqueue_receipts(conn, receipts, now_ms())
    return receipts


# The first ones in the order of `SubmittedMessage`, whose segment is several columns.
_OUTBOUND_COLUMNS = (
    "account_id, source, source_ton, source_npi, destination, country, text, udh, data_coding, registered_delivery,"
    " reference, parts, price, body, subunit, NULL, scheduled_at, expires_at, session_id, id, priority,"
    " segment_reference, segment_total, segment_number,"
    " iif(EXISTS (SELECT 1 FROM message_tlvs), (SELECT tlvs FROM message_tlvs WHERE message_id = messages.id), NULL)"
)


def _outbound_from_row(row: Sequence[Any]) -> SubmittedMessage:
    *fields, priority, reference, total, number, tlvs = row
    message = SubmittedMessage(*fields)
    if number is not None:
        message.segment = Segment(reference, total, number)
    if tlvs is not None:
        message.tlvs = {int(tag): bytes.fromhex(value) for tag, value in json.loads(tlvs).items()}
    message.priority = min(priority or 0, queue.HIGHEST_PRIORITY)
    return message


# In these statements the state is part of the SQL, not a parameter: only then does SQLite use the partial index.


def list_simulated_message_ids(conn: sqlite3.Connection, upstream_id: int | None = None) -> list[int]:
    """The ids of messages without a final state that a simulator has, oldest first: at start it gets them again.

    Of the built-in one, those whose date is still to come are not among them, and nothing that was stored since there
    are upstreams.

    Args:
        upstream_id: that of a simulator that was added by name: all that has not ended is looked through, which takes
            seconds for millions. None: the built-in one.
    """
    condition = f"state = {ENROUTE} AND upstream IS ?"
    if upstream_id is None and upstreams.has_ever_had_upstream(conn):
        condition += f" AND id <= {_LAST_SIMULATED_SQL} AND NOT {queue.IS_WAITING_SQL}"
    return _list_unfinished_ids(conn, condition, upstream_id)


def list_abandoned_message_ids(conn: sqlite3.Connection) -> list[int]:
    """The ids of messages without a final state that simulators had which were removed, oldest first: they were stored
    as theirs at the same time. Takes as long as `list_simulated_message_ids`.
    """
    removed = conn.execute("SELECT id FROM upstreams WHERE kind = ? AND removed_at IS NOT NULL", (upstreams.SIMULATOR,))
    removed_ids = [row[0] for row in removed]
    if not removed_ids:
        return []
    condition = f"state = {ENROUTE} AND upstream IN (SELECT value FROM json_each(?)) AND bind IS {paths.SIMULATED_BIND}"
    return _list_unfinished_ids(conn, condition, json.dumps(removed_ids))


def _list_unfinished_ids(conn: sqlite3.Connection, condition: str, value: int | str | None) -> list[int]:
    """The ids of messages whose date is not still to come. `condition` has a place for `value`."""
    # Without the hint SQLite would read the whole table, because that is in the order of ids. The two halves can be
    # found by id in the index.
    select = f"SELECT id FROM messages INDEXED BY messages_unfinished WHERE {condition}"
    rows = conn.execute(
        f"{select} AND due_at IS NULL UNION ALL {select} AND due_at IS NOT NULL AND due_at IS NOT scheduled_at"
        " ORDER BY id",
        (value, value),
    )
    return [row[0] for row in rows]


_LAST_SIMULATED_SQL = "(SELECT value FROM counters WHERE name = 'last_simulated_message')"


def mark_last_simulated_message(conn: sqlite3.Connection) -> None:
    """Store which message is the last that the built-in simulator may have got, once there are upstreams."""
    with write_transaction(conn):
        if upstreams.has_ever_had_upstream(conn):
            conn.execute(
                "UPDATE counters SET value = coalesce((SELECT max(id) FROM messages), 1)"
                " WHERE name = 'last_simulated_message' AND value = 0"
            )


def list_outbound_messages(conn: sqlite3.Connection, message_ids: Sequence[int]) -> list[SubmittedMessage]:
    """Those of these messages that have no final state, sorted by id."""
    rows = conn.execute(
        f"SELECT {_OUTBOUND_COLUMNS} FROM messages WHERE id IN (SELECT value FROM json_each(?)) AND +state = {ENROUTE}"
        " ORDER BY id",
        (json.dumps(message_ids),),
    )
    messages = [_outbound_from_row(row) for row in rows]
    cut = message_parts.find_cut_messages(conn, message_ids)
    if cut:
        for each in messages:
            each.cut = cut.get(each.id)
    return messages


def has_due_messages(conn: sqlite3.Connection, now: int) -> bool:
    """Whether `process_due_messages` has something to do at this moment (milliseconds). Cheap."""
    row = conn.execute(
        f"SELECT EXISTS (SELECT 1 FROM messages WHERE state = {ENROUTE} AND due_at <= ?)"
        f" OR EXISTS (SELECT 1 FROM messages WHERE state = {ENROUTE} AND due_at IS NULL AND id < ?)",
        (now, ids.min_id_at_time(now - DEFAULT_VALIDITY_MS)),
    ).fetchone()
    return bool(row[0])


def process_due_messages(
    conn: sqlite3.Connection, now: int, choose_path: ChoosePath = choose_default_path
) -> DueMessages:
    """Release scheduled messages whose date has come, and let those expire whose validity has ended (ptt 801).

    One to a number that has been blacklisted since is rejected (ptt 53), and what it cost is given back. Without a
    validity_period from its client a message is valid for DEFAULT_VALIDITY_MS; one that an upstream has accepted for
    RECEIPT_GRACE_MS more. At most a thousand of each at once.
    """
    due = DueMessages()
    with write_transaction(conn):
        rows = conn.execute(
            f"SELECT {_OUTBOUND_COLUMNS}, due_at = scheduled_at, upstream_id IS NOT NULL FROM messages"
            f" WHERE state = {ENROUTE} AND due_at <= ? ORDER BY due_at LIMIT ?",
            (now, _BATCH_SIZE),
        ).fetchall()
        late: list[tuple[int, int]] = []
        for *fields, starts_now, is_accepted in rows:
            message = _outbound_from_row(fields)
            if message.expires_at is not None and message.expires_at <= now:
                if is_accepted and message.expires_at + RECEIPT_GRACE_MS > now:
                    late.append((message.expires_at + RECEIPT_GRACE_MS, message.id))
                else:
                    due.expired_ids.append(message.id)
            elif starts_now:
                due.outbound.append(message)
        blacklisted = blacklist.find_blacklisted_destinations(conn, due.outbound)
        if blacklisted:
            blocked = [each for each in due.outbound if (each.account_id, each.destination) in blacklisted]
            due.outbound = [each for each in due.outbound if (each.account_id, each.destination) not in blacklisted]
            due.receipts += reject_blacklisted_messages(conn, blocked, now)
        conn.executemany("UPDATE messages SET due_at = expires_at WHERE id = ?", [(each.id,) for each in due.outbound])
        if upstreams.has_ever_had_upstream(conn):
            rows = [
                (each.account_id, each.destination, each.country, each.source, each.priority, each.id)
                for each in due.outbound
            ]
            due.waiting = queue.route_messages(conn, rows, choose_path)
            due.outbound = []
        conn.executemany("UPDATE messages SET due_at = ? WHERE id = ?", late)
        valid_since = now - DEFAULT_VALIDITY_MS
        overdue = conn.execute(
            f"SELECT id FROM messages WHERE state = {ENROUTE} AND due_at IS NULL AND id < ?"
            " AND (upstream_id IS NULL OR id < ?) LIMIT ?",
            (ids.min_id_at_time(valid_since), ids.min_id_at_time(valid_since - RECEIPT_GRACE_MS), _BATCH_SIZE),
        )
        due.expired_ids += [row[0] for row in overdue]
        due.receipts += expire_messages(conn, due.expired_ids, now)
    return due


def is_expired(message: SubmittedMessage, now: int) -> bool:
    """Whether the validity of a message has ended at a moment (milliseconds)."""
    expires_at = message.expires_at or ids.time_from_id(message.id) + DEFAULT_VALIDITY_MS
    return expires_at <= now


def expire_messages(conn: sqlite3.Connection, message_ids: Sequence[int], now: int) -> list[DeliveryReceipt]:
    """End messages whose validity has ended (ptt 801). The caller is inside `write_transaction()`.

    One that an upstream has accepted, and that can have no receipt from it, ends as unknown (804). So does a part of a
    text; the text ends as its parts do. Where some were accepted, and others not, those end here, and the text itself
    RECEIPT_GRACE_MS later.

    Returns:
        The receipts that were queued.
    """
    if not message_ids:
        return []
    rows = conn.execute(
        f"SELECT id, upstream_id, upstream_id IS NOT NULL AND {message_parts.IS_SILENT_SQL} FROM messages AS p"
        " WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(message_ids),),
    ).fetchall()
    said = dict.fromkeys(queue.list_unanswered_ids(conn, message_ids), NO_ANSWER)
    message_parts.expire_open_parts(conn, [row[0] for row in rows if row[1] is not None], now)
    # What an upstream has said of one that it was given stays.
    expired, unknown = [], []
    cut = message_parts.find_cut_messages(conn, message_ids)
    for message_id, known_id, is_blind in rows:
        if is_blind and message_id not in cut:
            unknown.append(MessageOutcome(message_id, UNKNOWN, PTT_UNKNOWN, now, known_id))
        else:
            expired.append(MessageOutcome(message_id, EXPIRED, PTT_EXPIRED, now, known_id, said.get(message_id)))
    receipts = finish_and_refund_messages(conn, expired) + finish_messages(conn, unknown)
    queue.remove_waiting_messages(conn, message_ids)
    return receipts


def reject_blacklisted_messages(
    conn: sqlite3.Connection, messages: Sequence[SubmittedMessage], now: int
) -> list[DeliveryReceipt]:
    """Reject messages to numbers that have been blacklisted since they were stored, and give back what they cost, but
    for those that an upstream may have.

    The caller is inside `write_transaction()`. Returns the receipts that were queued.
    """
    said = dict.fromkeys(queue.list_unanswered_ids(conn, [each.id for each in messages]), NO_ANSWER)
    ended = [MessageOutcome(each.id, REJECTED, PTT_BLACKLISTED, now, None, said.get(each.id)) for each in messages]
    receipts = finish_messages(conn, ended)
    refund_messages(conn, [(each.account_id, each.id, each.price) for each in messages if each.id not in said])
    return receipts


# --- refunds by the setting of an upstream

_SELECT_REFUNDABLE = f"""
SELECT account_id, messages.id, price FROM messages
JOIN upstreams ON upstreams.id =
    coalesce(upstream, {queue.FIRST_UPSTREAM_SQL}, (SELECT id FROM upstreams WHERE is_default))
WHERE messages.id IN (SELECT value FROM json_each(?)) AND +state = {ENROUTE} AND price > 0
  AND json_extract(settings, '$.refund') IN ('{REFUND_UNDELIVERED}', ?)
"""


def finish_and_refund_messages(
    conn: sqlite3.Connection,
    outcomes: Sequence[MessageOutcome],
    *,
    refused_parts: Mapping[int, Mapping[int, str]] | None = None,
) -> list[DeliveryReceipt]:
    """`finish_messages`, and the price of those that were not delivered is given back where the setting `refund` of
    their upstream says so; of one that no upstream has, that of the first one of its path.

    Of a text of which an upstream has taken parts already, the others end so (`finish_cut_messages`).

    Args:
        refused_parts: where the upstream has refused them, instead of taking them and not delivering: what it has said
            of parts of texts, by their numbers, by message id.
    """
    if all(each.state == DELIVERED for each in outcomes):
        return finish_messages(conn, outcomes)
    part_statuses = refused_parts or {}
    with write_transaction(conn):
        if part_statuses:
            message_parts.store_unsure_messages(conn, part_statuses)
        cut = message_parts.find_cut_messages(conn, [each.message_id for each in outcomes])
        for each in outcomes:
            if each.message_id in cut:
                statuses = part_statuses.get(each.message_id)
                message_parts.end_unanswered_parts(conn, cut[each.message_id], each, statuses)
        receipts = finish_cut_messages(conn, [*cut], now_ms()) if cut else []
        whole = [each for each in outcomes if each.message_id not in cut]
        first_states = {each.message_id: each.state for each in reversed(whole)}
        failed_ids = [message_id for message_id, state in first_states.items() if state != DELIVERED]
        values = (json.dumps(failed_ids), None if refused_parts is None else REFUND_REFUSED)
        refundable = conn.execute(_SELECT_REFUNDABLE, values).fetchall()
        receipts += finish_messages(conn, whole)
        refund_messages(conn, refundable)
    return receipts


def finish_cut_messages(conn: sqlite3.Connection, message_ids: Collection[int], now: int) -> list[DeliveryReceipt]:
    """End those of these messages, of which upstreams have taken parts, all of whose parts have ended; of the others
    store that upstreams have what they are to have, where nothing more is to be sent.

    What the parts that have not arrived have cost is given back as for whole messages. The caller is inside
    `write_transaction()`.

    Returns:
        The receipts that were queued: one for each message that has ended.
    """
    message_parts.end_silent_parts(conn, message_ids, now)
    ended = message_parts.list_outcomes(conn, message_ids)
    message_parts.store_answered_messages(conn, message_ids)
    receipts = finish_messages(conn, [outcome for outcome, _, _ in ended])
    refund_messages(conn, [(account_id, outcome.message_id, refund) for outcome, account_id, refund in ended if refund])
    return receipts


def refund_messages(conn: sqlite3.Connection, charged: Iterable[tuple[int, int, int]]) -> None:
    """Give back what messages cost, each given as the id of its account, its id and its price."""
    by_account: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for account_id, message_id, price in charged:
        by_account[account_id].append((message_id, price))
    if by_account:
        route_usage.count_refunds(conn, chain.from_iterable(by_account.values()))
    for account_id, messages in by_account.items():
        credits.refund_unsent_messages(conn, account_id, messages)
