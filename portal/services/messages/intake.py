"""Storing submitted messages: each in the transaction that charges it."""

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from portal.core.clock import DAY_MS, MINUTE_MS
from portal.core.db import BulkInsert, write_transaction
from portal.services.billing import auto_recredit
from portal.services.brakes import brake_counters, brakes
from portal.services.brakes.brake_counters import BrakeCounters, CapMeter, DatabaseState
from portal.services.common import ids
from portal.services.common.message_states import ENROUTE, PTT_BLACKLISTED, PTT_NO_CREDIT, PTT_PENDING, REJECTED
from portal.services.credits import alerts, ledger
from portal.services.credits.ledger import Usage
from portal.services.messages import blacklist, client_ids, deliveries, text_policy
from portal.services.messages.deliveries import DeliveryReceipt
from portal.services.messages.validation import Segment, SubmittedMessage
from portal.services.statistics import daily_totals
from portal.services.upstreams import queue
from portal.services.upstreams.paths import SIMULATED_BIND, UpstreamPath

_COMMON_COLUMNS = (
    "id, account_id, source, source_ton, source_npi, destination, country, text, data_coding, registered_delivery,"
    " parts, price, state, ptt, session_id"
)
_INSERT_MESSAGES = BulkInsert(
    "messages",
    f"{_COMMON_COLUMNS}, udh, reference, done_at, body, subunit, segment_reference, segment_total, segment_number,"
    " scheduled_at, expires_at, due_at, priority, upstream, bind, outcome_room",
)
# As much as the column's default.
_OUTCOME_ROOM = bytes(40)
# An upstream's id and time come before its outcome.
_UPSTREAM_OUTCOME_ROOM = bytes(64)
# Most messages have values in these columns only, and Python takes a third of a microsecond to bind a None.
_INSERT_COMMON = BulkInsert("messages", _COMMON_COLUMNS)
_INSERT_COMMON_OF_UPSTREAM = BulkInsert("messages", f"{_COMMON_COLUMNS}, upstream, outcome_room")
_INSERT_COMMON_OF_SIMULATOR = BulkInsert("messages", f"{_COMMON_COLUMNS}, upstream, bind")
# The reference number of a concatenated message has one or two octets, so clients use each again after a while.
MAX_SEGMENT_GAP_MS = 10 * 60_000
"""The longest time between two segments of one text; their ids contain the times."""
# A client that gives all its texts the same reference number must not slow down the others.
_MAX_SEGMENTS_COMPARED = 16


@dataclass(slots=True)
class StoredMessages:
    """The result of `store_messages`.

    `message_ids`: one for each submit, None where the credits didn't cover it, or a brake refused it. `outbound`: the
    messages to pass on now, to the upstream that has room for them or to the built-in simulator. `receipts`: those that
    were queued for messages rejected at once. `braked`: why a brake refused a message, a constant of `brakes`, by the
    `id` of the submit; nothing else is stored of it.
    """

    message_ids: list[int | None] = field(default_factory=list)
    outbound: list[SubmittedMessage] = field(default_factory=list)
    receipts: list[DeliveryReceipt] = field(default_factory=list)
    braked: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class _AccountCharge:
    """An account before its messages of a batch, and what is charged to it for them.

    `balance_before` is the balance before the charge, after the automatic re-credits that the messages cause.
    `last_usage`: as in `ledger.Usage`.
    """

    balance_before: int
    balance_after: int
    alert_below: int | None
    recredit_below: int | None
    has_blacklist: bool
    last_usage: int | None
    first_id: int = 0
    last_id: int = 0
    sent: int = 0
    parts: int = 0
    refused: int = 0
    stopped: int = 0

    @property
    def amount(self) -> int:
        return self.balance_before - self.balance_after


def store_messages(
    conn: sqlite3.Connection,
    submits: Sequence[SubmittedMessage],
    now: int | None = None,
    *,
    buys_packs: bool = True,
    counters: BrakeCounters | None = None,
) -> StoredMessages:
    """Store messages with their debits: all in one transaction, which is on disk when this returns.

    Submits are processed in their order, and get their `id`, and `hex_id` where they need one. One that its account's
    credits don't cover is stored as refused (ptt 10) and costs nothing; the others are not affected. One to a number on
    the account's blacklist is accepted, is rejected at once (ptt 53) and costs nothing. One that a limit of its account
    refuses (`brakes`) isn't stored.

    Clients wait for this. The number of statements does not grow with the number of accounts, and what each batch has
    to read is read by one: Python releases the GIL for each statement and row, which costs more than SQLite's work
    itself where the event loop is busy.

    Args:
        now: when they were submitted (milliseconds), for a history that is written afterwards; None: this moment.
        buys_packs: whether accounts with automatic re-credit buy the packs that these messages need.
        counters: those of a process that stores many; None: they are read.

    Raises:
        sqlite3.Error: nothing was stored.
    """
    with write_transaction(conn):
        state, first_id, lines_end_at, has_brakes, charges = _read_ids_and_accounts(conn, submits, now)
        submitted_at = ids.time_from_id(first_id)
        stored = StoredMessages([*range(first_id, first_id + len(submits))])
        blacklisted: Collection[tuple[int, str]] = ()
        if any(charge.has_blacklist for charge in charges.values()):
            blacklisted = blacklist.find_blacklisted_destinations(conn, submits)
        meter = None
        if has_brakes:
            counters = counters or brake_counters.load_counters(conn, submitted_at)
            meter = brake_counters.read_meter(conn, charges, counters, submits, submitted_at, state)
        if buys_packs and any(charge.recredit_below is not None for charge in charges.values()):
            _buy_recredit_packs(conn, charges, submits, blacklisted, meter, submitted_at)
        rows: list[tuple[object, ...]] = []
        common_rows: list[tuple[object, ...]] = []
        upstream_rows: list[tuple[object, ...]] = []
        simulator_rows: list[tuple[object, ...]] = []
        queued: list[tuple[UpstreamPath, int, int, int]] = []
        rejected = []
        segments = []
        tlvs = []
        for message_id, each in enumerate(submits, first_id):
            each.id = message_id
            charge = charges[each.account_id]
            if blacklisted and (each.account_id, each.destination) in blacklisted:
                charge.stopped += 1
                rejected.append(each)
                rows.append(_row_from_submit(each, 0, REJECTED, PTT_BLACKLISTED))
                if deliveries.wants_receipt(each.registered_delivery, REJECTED):
                    stored.receipts.append(_receipt_from_submit(each, PTT_BLACKLISTED))
            elif meter is not None and (reason := meter.find_refusal(each)):
                stored.braked[message_id] = reason
                stored.message_ids[message_id - first_id] = None
                continue
            elif each.price <= charge.balance_after:
                if meter is not None:
                    meter.add(each)
                if not charge.sent:
                    charge.first_id = message_id
                charge.last_id = message_id
                charge.balance_after -= each.price
                charge.sent += 1
                charge.parts += each.parts
                if not _has_only_common_columns(each):
                    rows.append(_row_from_submit(each, each.price, ENROUTE, PTT_PENDING))
                else:
                    row = _common_row_from_submit(each, each.price, ENROUTE, PTT_PENDING)
                    if each.upstream is None:
                        common_rows.append(row)
                    elif each.is_simulated:
                        simulator_rows.append((*row, each.upstream, SIMULATED_BIND))
                    else:
                        upstream_rows.append((*row, each.upstream, _UPSTREAM_OUTCOME_ROOM))
                # A simulator passes nothing on.
                if each.tlvs is not None and (
                    each.is_queued or each.scheduled_at is not None or not (each.upstream is None or each.is_simulated)
                ):
                    tlvs.append((message_id, json.dumps({tag: value.hex() for tag, value in each.tlvs.items()})))
                if each.is_queued:
                    queued.append((each.path, each.account_id, each.priority, message_id))
                elif each.scheduled_at is None:
                    stored.outbound.append(each)
            else:
                charge.refused += 1
                rejected.append(each)
                stored.message_ids[message_id - first_id] = None
                rows.append(_row_from_submit(each, 0, REJECTED, PTT_NO_CREDIT))
            if each.segment is not None:
                segments.append((each, each.segment))
        _INSERT_COMMON.run(conn, common_rows)
        _INSERT_COMMON_OF_UPSTREAM.run(conn, upstream_rows)
        _INSERT_COMMON_OF_SIMULATOR.run(conn, simulator_rows)
        _INSERT_MESSAGES.run(conn, rows)
        queue.enqueue_messages(conn, queued)
        if tlvs:
            conn.executemany("INSERT INTO message_tlvs (message_id, tlvs) VALUES (?, ?)", tlvs)
        if rejected:
            _blank_rejected_texts(conn, rejected, stored.receipts)
        for segment in segments:
            _link_to_first_segment(conn, *segment)
        of_old_clients = [each for each in submits if each.needs_hex_id and stored.message_ids[each.id - first_id]]
        if of_old_clients:
            _give_hex_ids(conn, of_old_clients, stored.receipts, submitted_at)
        _debit_accounts(conn, charges, submitted_at, lines_end_at)
        if counters is not None and counters.is_counting:
            kept = [each for each in submits if each.id not in stored.braked] if stored.braked else submits
            unsent = {each.id for each in rejected}
            sent = [each for each in kept if each.id not in unsent] if unsent else kept
            counters.add_stored(kept[-1].id if kept else 0, sent)
        if stored.receipts:
            deliveries.enqueue_receipts(conn, stored.receipts, submitted_at)
    return stored


_SELECT_IDS_AND_ACCOUNTS = f"""
SELECT {brake_counters.STATE_SQL}, {ledger.USAGE_LINES_END_SQL}, {brakes.HAS_BRAKES_SQL},
    json_group_array(json_array(accounts.id, balance, alert_below, recredit_below,
    EXISTS (SELECT 1 FROM blacklist WHERE account_id = accounts.id), {ledger.LAST_USAGE_SQL}))
FROM json_each(?) CROSS JOIN accounts ON accounts.id = value
"""


def _read_ids_and_accounts(
    conn: sqlite3.Connection, submits: Sequence[SubmittedMessage], now: int | None
) -> tuple[DatabaseState, int, int | None, bool, dict[int, _AccountCharge]]:
    """The database's state, the id of the first message, as `ids.allocate_id` returns it, `ledger.USAGE_LINES_END_SQL`,
    whether any account has brakes, and the accounts.
    """
    # Python writes a list of numbers as JSON does.
    account_ids = str([*{each.account_id for each in submits}])
    *found, lines_end_at, has_brakes, accounts = conn.execute(_SELECT_IDS_AND_ACCOUNTS, (account_ids,)).fetchone()
    state = DatabaseState(*found)
    charges = {
        account_id: _AccountCharge(balance, balance, *fields) for account_id, balance, *fields in json.loads(accounts)
    }
    first_id = ids.next_id(state.last_id, now)
    # Ids may run ahead of the clock. What is counted by the minute, the day or the month has those of one: the batch's.
    last_minute = ids.time_from_id(first_id + len(submits) - 1) // MINUTE_MS
    first_id = max(first_id, ids.min_id_at_time(last_minute * MINUTE_MS))
    return state, first_id, lines_end_at, bool(has_brakes), charges


def _buy_recredit_packs(
    conn: sqlite3.Connection,
    charges: Mapping[int, _AccountCharge],
    submits: Sequence[SubmittedMessage],
    blacklisted: Collection[tuple[int, str]],
    meter: CapMeter | None,
    at: int,
) -> None:
    """Buy a pack for an account with each message that would take its balance below its threshold.

    This comes before the messages are charged, so that none is refused for lack of credits that are bought right after.
    """
    recrediting: set[int] | None = None
    spent: dict[int, int] = {}
    meter = None if meter is None else meter.copy()
    # Message by message: what is bought must not depend on how many arrive together.
    for each in submits:
        account_id = each.account_id
        charge = charges[account_id]
        if charge.recredit_below is None or (blacklisted and (account_id, each.destination) in blacklisted):
            continue
        if meter is not None and meter.find_refusal(each):
            continue
        balance_left = charge.balance_before - spent.get(account_id, 0)
        if balance_left - each.price < charge.recredit_below:
            if recrediting is None:
                with_rules = [each_id for each_id, other in charges.items() if other.recredit_below is not None]
                recrediting = auto_recredit.find_accounts_to_recredit(conn, with_rules, at)
            if account_id in recrediting:
                balance = auto_recredit.buy_or_request_pack(conn, account_id, at)
                if balance == charge.balance_before:
                    # Nothing was bought, and nothing will be bought for the account's other messages.
                    recrediting.remove(account_id)
                else:
                    balance_left += balance - charge.balance_before
                    charge.balance_before = charge.balance_after = balance
                    charge.last_usage = None  # the pack's movement came after it
        if each.price <= balance_left:
            spent[account_id] = spent.get(account_id, 0) + each.price
            if meter is not None:
                meter.add(each)


def _has_only_common_columns(submit: SubmittedMessage) -> bool:
    """Whether a message without a final state has values only in `_COMMON_COLUMNS`, and maybe an upstream."""
    return (
        submit.udh is None
        and not submit.priority
        and submit.reference is None
        and submit.body is None
        and submit.subunit is None
        and submit.segment is None
        and submit.scheduled_at is None
        and submit.expires_at is None
    )


def _common_row_from_submit(submit: SubmittedMessage, price: int, state: int, ptt: int) -> tuple[object, ...]:
    return (
        submit.id,
        submit.account_id,
        submit.source,
        submit.source_ton,
        submit.source_npi,
        submit.destination,
        submit.country,
        submit.text,
        submit.data_coding,
        submit.registered_delivery,
        submit.parts,
        price,
        state,
        ptt,
        submit.session_id,
    )


def _row_from_submit(submit: SubmittedMessage, price: int, state: int, ptt: int) -> tuple[object, ...]:
    is_pending = state == ENROUTE
    outcome_room = _OUTCOME_ROOM if submit.upstream is None or submit.is_simulated else _UPSTREAM_OUTCOME_ROOM
    return (
        *_common_row_from_submit(submit, price, state, ptt),
        submit.udh,
        submit.reference,
        None if is_pending else ids.time_from_id(submit.id),
        submit.body,
        submit.subunit,
        *(submit.segment or (None, None, None)),
        submit.scheduled_at,
        submit.expires_at,
        (submit.scheduled_at or submit.expires_at) if is_pending else None,
        submit.priority or None,
        submit.upstream if is_pending else None,
        SIMULATED_BIND if submit.is_simulated and is_pending else None,
        outcome_room if is_pending else None,
    )


def _blank_rejected_texts(
    conn: sqlite3.Connection, rejected: Sequence[SubmittedMessage], receipts: Sequence[DeliveryReceipt]
) -> None:
    """Remove the texts of messages that were rejected at once, where texts aren't kept and no receipt quotes them."""
    discarding_ids = text_policy.find_accounts_discarding_texts(conn, {each.account_id for each in rejected})
    if discarding_ids:
        quoted = {each.message_id for each in receipts}
        unquoted = [each.id for each in rejected if each.account_id in discarding_ids and each.id not in quoted]
        text_policy.blank_texts(conn, "messages", unquoted)


_get_receipt_fields = attrgetter("source", "source_ton", "source_npi", "destination", "text", "reference", "parts")


def _receipt_from_submit(submit: SubmittedMessage, ptt: int) -> DeliveryReceipt:
    """The receipt of a message that is rejected at once."""
    fields = (*_get_receipt_fields(submit), REJECTED, ptt, ids.time_from_id(submit.id))
    return DeliveryReceipt(0, submit.account_id, submit.id, 0, *fields)


def _give_hex_ids(
    conn: sqlite3.Connection, accepted: Sequence[SubmittedMessage], receipts: Sequence[DeliveryReceipt], at: int
) -> None:
    hex_ids = client_ids.add_hex_ids(conn, [each.id for each in accepted], at)
    for each in accepted:
        each.hex_id = hex_ids[each.id]
    for receipt in receipts:
        receipt.hex_id = hex_ids.get(receipt.message_id)


def _link_to_first_segment(conn: sqlite3.Connection, submit: SubmittedMessage, segment: Segment) -> None:
    """Link a segment to the first segment of its text that came (`joined_to`), so that the text is shown as one."""
    since = submit.id - ids.id_span(MAX_SEGMENT_GAP_MS)
    key = (submit.account_id, submit.destination, segment.reference, submit.id, since, segment.total, submit.source)
    row = conn.execute(
        "SELECT coalesce(joined_to, id) FROM (SELECT id, joined_to, source, segment_total FROM messages"
        "  WHERE account_id = ? AND destination = ? AND segment_reference = ?"
        f"  AND id < ? AND id > ? ORDER BY id DESC LIMIT {_MAX_SEGMENTS_COMPARED})"
        " WHERE segment_total = ? AND source = ? ORDER BY id DESC LIMIT 1",
        key,
    ).fetchone()
    if row is None:
        return
    # Where that text has this segment already, it is another text's, or was sent again: it is not linked.
    conn.execute(
        "UPDATE messages SET joined_to = :first WHERE id = :id"
        " AND NOT EXISTS (SELECT 1 FROM messages AS first WHERE first.id = :first AND first.segment_number = :number)"
        " AND NOT EXISTS (SELECT 1 FROM messages AS same WHERE same.joined_to = :first"
        "  AND same.segment_number = :number)",
        {"first": row[0], "id": submit.id, "number": segment.number},
    )


def _debit_accounts(
    conn: sqlite3.Connection, charges: Mapping[int, _AccountCharge], at: int, lines_end_at: int | None
) -> None:
    """Write the debits of one batch: for each account its balance, its usage in the ledger, and the day's totals."""
    charged = {account_id: charge for account_id, charge in charges.items() if charge.sent}
    if charged:
        usages = []
        for account_id, charge in charged.items():
            messages = charge.sent, charge.first_id, charge.last_id
            usages.append(Usage(account_id, charge.last_usage, charge.amount, charge.balance_after, *messages))
        ledger.add_usage(conn, usages, at, lines_end_at)
        for account_id, charge in charged.items():
            if alerts.is_threshold_crossed(charge.alert_below, charge.balance_before, charge.balance_after):
                alerts.add_credit_notice(conn, account_id, alerts.LOW, at, charge.balance_after)
    day = at // DAY_MS
    daily_totals.add_daily_totals(
        conn,
        [
            (account_id, day, charge.sent, 0, 0, charge.stopped, charge.refused, charge.parts, charge.amount)
            for account_id, charge in charges.items()
        ],
    )
