"""Messages on their way through upstreams: claimed, accepted, refused, tried again; and the receipts of upstreams."""

import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from portal.core.clock import MINUTE_MS, now_ms
from portal.core.db import BulkUpdateColumns, write_transaction
from portal.services.common import ids
from portal.services.common.message_states import DELIVERED, ENROUTE, NO_ANSWER, PTT_UNKNOWN, REJECTED, UNKNOWN
from portal.services.messages import blacklist, message_parts, outcomes, receipt_matching, trial_messages
from portal.services.messages.deliveries import DeliveryReceipt
from portal.services.messages.message_parts import AcceptedMessage as AcceptedMessage  # told from here
from portal.services.messages.outcomes import DueMessages, MessageOutcome
from portal.services.messages.receipt_matching import UpstreamReceipt
from portal.services.messages.validation import SubmittedMessage
from portal.services.routing import route_usage
from portal.services.routing.route_usage import RouteUse
from portal.services.upstreams import claims, counters, paths, queue, unclaimed, upstreams
from portal.services.upstreams.claims import Claim, ClaimedIds
from portal.services.upstreams.message_ids import UNANSWERED_SQL
from portal.services.upstreams.paths import SIMULATED_BIND, ChoosePath, UpstreamPath, choose_default_path
from portal.services.upstreams.settings import FAIL
from portal.services.upstreams.upstreams import SIMULATOR

EARLY_RECEIPT_MS = 10 * MINUTE_MS
"""A receipt may come before the answer to its submit_sm by at most so much."""
LATE_RECEIPT_MS = 2 * MINUTE_MS
"""Of a receipt that is later than this, the message has ended at the date that it gives."""
# Behind it a receipt quotes its message (SMPP 3.4, appendix B).
_QUOTED_TEXT = re.compile(r"text\s*:", re.IGNORECASE)
# The room that a row has for its outcome, less what is stored here (see migration m0019_outcome_room).
_REMAINING_ROOM = bytes(28)
_STORE_ACCEPTED = BulkUpdateColumns(
    "messages", ("upstream_id", "bind", "sent_at", "route", "outcome_room"), f"AND state = {ENROUTE}"
)


@dataclass(slots=True)
class ClaimedMessages:
    """What one upstream sends now, in this order. `ids`: what was claimed, of which some may not be sent.

    `next_retry_at`: as in `SendingResult`, of the paths that were claimed from. `receipts`: those of messages that were
    rejected instead.
    """

    messages: list[SubmittedMessage]
    ids: ClaimedIds
    next_retry_at: int | None
    receipts: list[DeliveryReceipt]


class UnsentReason(Enum):
    """Why a claimed message was not sent, or may not have been."""

    PUT_BACK = auto()
    """The upstream has certainly not taken it: it waits again."""
    HELD = auto()
    """The upstream has refused it for the moment."""
    REFUSED = auto()
    """The upstream has refused it for good."""
    UNSURE = auto()
    """It was not answered: the upstream may have it."""
    INTERRUPTED = auto()
    """Parts of it are to be sent again, and others are still under way: it stays the upstream's, and what comes behind
    it waits."""


Flow = tuple[int, str]
"""An account's id and a destination: what goes from the one to the other keeps its order."""


@dataclass(slots=True)
class UnsentMessage:
    """A claimed message that was not accepted.

    `flow`: its account and destination where it waits again, so that nothing passes it; None where nothing could.
    `status`: what the upstream said. `ptt`: where it is REFUSED. `part_statuses`: what it said of parts of a text, by
    their numbers, where it has taken others.
    """

    upstream: int
    message_id: int
    reason: UnsentReason
    flow: Flow | None = None
    status: str = ""
    ptt: int = 0
    part_statuses: Mapping[int, str] | None = None


@dataclass(slots=True)
class SendingResult:
    """What follows from a step: receipts that were queued for customers, and accounts that have nothing more that
    waits.

    `has_released`: whether something may be claimed now that was held up. `next_retry_at`: when (milliseconds) the next
    message is to be tried again, None: there is none. `matched`: for each receipt of an upstream whether its message
    was found.
    """

    receipts: list[DeliveryReceipt] = field(default_factory=list)
    emptied_account_ids: list[int] = field(default_factory=list)
    has_released: bool = False
    next_retry_at: int | None = None
    matched: list[bool] = field(default_factory=list)


class _Step:
    """What is decided about messages inside a `write_transaction()`; its `result` is what follows from that."""

    def __init__(self, conn: sqlite3.Connection, now: int, choose_path: ChoosePath = choose_default_path) -> None:
        self.conn = conn
        self.now = now
        self.choose_path = choose_path
        self.result = SendingResult()

    def release_held_messages(self, message_ids: Collection[int]) -> None:
        """Those of these that were refused before hold up nothing any more."""
        held_ids = queue.find_held_messages(self.conn, message_ids)
        if held_ids:
            self.result.emptied_account_ids += queue.release_held_messages(self.conn, held_ids)
            self.result.has_released = True

    def refuse_messages(self, refused: Sequence[UnsentMessage]) -> None:
        """End messages that upstreams have refused for good."""
        self.result.receipts += outcomes.finish_and_refund_messages(
            self.conn,
            [MessageOutcome(each.message_id, REJECTED, each.ptt, self.now, None, each.status) for each in refused],
            refused_parts={each.message_id: each.part_statuses for each in refused if each.part_statuses is not None},
        )
        self.release_held_messages([each.message_id for each in refused])
        for upstream_id, count in Counter(each.upstream for each in refused).items():
            counters.add_to_counters(self.conn, upstream_id, {"failed": count})

    def resolve_unsure_messages(self, upstream_id: int, message_ids: Sequence[int]) -> None:
        """Decide about messages of which nobody knows whether the upstream has them: by its setting `unanswered`. One
        that was sent MAX_UNANSWERED times without an answer is not sent again.
        """
        # Some have ended meanwhile.
        rows = self.conn.execute(
            f"SELECT id FROM messages WHERE id IN (SELECT value FROM json_each(?)) AND +state = {ENROUTE} ORDER BY id",
            (json.dumps(message_ids),),
        )
        open_ids = [row[0] for row in rows]
        fails = upstreams.get_stored_settings(self.conn, upstream_id).unanswered == FAIL
        failed_ids = [
            each
            for each in open_ids
            if fails
            or not queue.hold_message(self.conn, each, NO_ANSWER, self.now, self.choose_path, is_unanswered=True)
        ]
        self._finish_unsure_messages(upstream_id, failed_ids, len(message_ids), len(open_ids) - len(failed_ids))

    def take_over_texts(
        self, upstream_id: int, texts: Sequence[SubmittedMessage], blacklisted: Collection[Flow]
    ) -> Collection[int]:
        """Decide about texts that another upstream is given, since the one that has taken parts of them was removed:
        they are unsure, by the setting `unanswered` of that one, and counted of this one, as that can't be looked at
        any more. To a number that has been blacklisted nothing is sent from its beginning.

        Returns the ids of those that are not sent.
        """
        failed_ids = set()
        for each in texts:
            assert each.cut is not None
            is_blocked = (each.account_id, each.destination) in blacklisted
            if is_blocked or upstreams.get_stored_settings(self.conn, each.cut.upstream).unanswered == FAIL:
                failed_ids.add(each.id)
            else:
                message_parts.forget_parts(self.conn, each.id)
                queue.count_as_unanswered(self.conn, each.id)
                each.cut = None
        self._finish_unsure_messages(upstream_id, failed_ids, len(texts), len(texts) - len(failed_ids))
        return failed_ids

    def _finish_unsure_messages(self, upstream_id: int, failed_ids: Collection[int], unsure: int, resent: int) -> None:
        """End those of unsure messages that are not sent again, and count what became of all of them."""
        if failed_ids:
            self.result.receipts += outcomes.finish_and_refund_messages(
                self.conn,
                [MessageOutcome(each, UNKNOWN, PTT_UNKNOWN, self.now, None, NO_ANSWER) for each in failed_ids],
            )
            self.release_held_messages(failed_ids)
        amounts = {"unsure": unsure, "resent": resent, "failed": len(failed_ids)}
        counters.add_to_counters(self.conn, upstream_id, amounts)


def claim_messages(
    conn: sqlite3.Connection, claim: Claim, now: int, choose_path: ChoosePath = choose_default_path
) -> ClaimedMessages:
    """Take messages that wait for an upstream; see `claims.claim_message_ids`.

    One to a number that has been blacklisted while it waited is rejected (ptt 53), and what it cost is given back,
    unless an upstream may have it; one whose validity has ended expires. A text of which an upstream has taken parts
    goes on there; where that was removed, its setting `unanswered` says whether the text goes out from its beginning.
    """
    with write_transaction(conn):
        step = _Step(conn, now)
        claimed = claims.claim_message_ids(conn, claim, now, choose_path)
        by_id = {each.id: each for each in outcomes.list_outbound_messages(conn, claimed.message_ids)}
        messages = [by_id[each] for each in claimed.message_ids if each in by_id]
        blacklisted = blacklist.find_blacklisted_destinations(conn, messages) if messages else ()
        blocked, expired, sendable = [], [], []
        for each in messages:
            if (each.account_id, each.destination) in blacklisted and each.cut is None:
                blocked.append(each)
            elif outcomes.is_expired(each, now):
                expired.append(each)
            else:
                sendable.append(each)
        if blocked or expired:
            unsent_ids = {each.id for each in (*blocked, *expired)}
            # Their paths say whose setting refunds them.
            queue.put_back_messages(conn, [each.id for each in expired], now, choose_path)
            conn.executemany(
                "UPDATE messages SET upstream = NULL, bind = NULL WHERE id = ?", [(each,) for each in unsent_ids]
            )
            step.result.receipts += outcomes.reject_blacklisted_messages(conn, blocked, now)
            step.result.receipts += outcomes.expire_messages(conn, [each.id for each in expired], now)
            # What these messages held up can be claimed now.
            step.release_held_messages(unsent_ids)
        begun_elsewhere = []
        for each in sendable:
            each.upstream = claim.upstream_id
            each.is_retry = each.id in claimed.retried_ids
            if each.cut is not None and each.cut.upstream != claim.upstream_id:
                begun_elsewhere.append(each)
        if begun_elsewhere:
            failed_ids = step.take_over_texts(claim.upstream_id, begun_elsewhere, blacklisted)
            sendable = [each for each in sendable if each.id not in failed_ids]
        claimed.emptied_account_ids += step.result.emptied_account_ids
        if len(sendable) < len(messages) or begun_elsewhere:
            claimed.left_count = None
        return ClaimedMessages(sendable, claimed, queue.get_next_retry_time(conn, claim.paths), step.result.receipts)


def store_accepted_messages(conn: sqlite3.Connection, accepted: Sequence[AcceptedMessage]) -> SendingResult:
    """Store what upstreams have accepted. Their receipts may have come already."""
    step = _Step(conn, now_ms())
    with write_transaction(conn):
        whole = [each for each in accepted if each.part is None]
        _STORE_ACCEPTED.run(
            conn,
            [
                (
                    each.message_id,
                    each.upstream_message_id,
                    each.bind,
                    each.sent_at,
                    None if each.use is None else each.use.route_id,
                    _REMAINING_ROOM,
                )
                for each in whole
            ],
        )
        accepted_by = {each.message_id: each.upstream for each in whole}
        used = [(each.message_id, each.use) for each in whole if each.use is not None]
        cut_by = message_parts.store_accepted_parts(conn, accepted) if len(whole) < len(accepted) else {}
        early = receipt_matching.take_early_receipts(
            conn, [(each.upstream, each.upstream_message_id) for each in accepted], now_ms() - EARLY_RECEIPT_MS
        )
        if early:
            step.result.receipts = _end_messages_and_parts(conn, early)
            upstream_ids = {each.message_id: each.upstream for each in accepted}
            ends = Counter(
                (upstream_ids[each.message_id], _name_end(each.state))
                for _, each in early
                if each.message_id in upstream_ids
            )
            for (upstream_id, name), count in ends.items():
                counters.add_to_counters(conn, upstream_id, {name: count})
        if cut_by:
            answered_ids = message_parts.store_answered_messages(conn, [*cut_by])
            used += _store_routes_of_texts(conn, accepted, answered_ids)
            accepted_by |= {message_id: cut_by[message_id] for message_id in answered_ids}
            step.result.receipts += outcomes.finish_cut_messages(conn, [*cut_by], step.now)
        route_usage.count_usage(conn, used)
        for upstream_id, count in Counter(accepted_by.values()).items():
            counters.add_to_counters(conn, upstream_id, {"accepted": count})
        step.release_held_messages([*accepted_by])
    return step.result


def _store_routes_of_texts(
    conn: sqlite3.Connection, accepted: Sequence[AcceptedMessage], answered_ids: Collection[int]
) -> list[tuple[int, RouteUse]]:
    """Store by which routes upstreams have got these texts, and return how, with as many parts as went out: another
    alphabet may have made more of them than their customers were charged for.
    """
    uses = {
        each.message_id: each.use._replace(parts=each.part.total)
        for each in accepted
        if each.part is not None and each.use is not None
    }
    used = [(each, uses[each]) for each in answered_ids if each in uses]
    conn.executemany("UPDATE messages SET route = ? WHERE id = ?", [(use.route_id, each) for each, use in used])
    return used


def store_unsent_messages(
    conn: sqlite3.Connection, unsent: Sequence[UnsentMessage], now: int, choose_path: ChoosePath = choose_default_path
) -> SendingResult:
    """Store what became of claimed messages that were not accepted."""
    step = _Step(conn, now, choose_path)
    with write_transaction(conn):
        by_reason: dict[UnsentReason, list[UnsentMessage]] = defaultdict(list)
        for each in unsent:
            by_reason[each.reason].append(each)
        if by_reason[UnsentReason.INTERRUPTED]:
            interrupted_ids = [each.message_id for each in by_reason[UnsentReason.INTERRUPTED]]
            paths.hold_followers_of_messages(conn, interrupted_ids, choose_path)
        if by_reason[UnsentReason.PUT_BACK]:
            _put_back_messages(conn, by_reason[UnsentReason.PUT_BACK], now, choose_path)
        for each in by_reason[UnsentReason.HELD]:
            queue.hold_message(conn, each.message_id, each.status, now, choose_path)
        if by_reason[UnsentReason.REFUSED]:
            step.refuse_messages(by_reason[UnsentReason.REFUSED])
        ids_by_upstream: dict[int, list[int]] = defaultdict(list)
        for each in by_reason[UnsentReason.UNSURE]:
            ids_by_upstream[each.upstream].append(each.message_id)
        for upstream_id, message_ids in ids_by_upstream.items():
            step.resolve_unsure_messages(upstream_id, message_ids)
        step.result.next_retry_at = queue.get_next_retry_time(conn)
        step.result.has_released = True
    return step.result


def _put_back_messages(
    conn: sqlite3.Connection, unsent: Sequence[UnsentMessage], now: int, choose_path: ChoosePath
) -> None:
    """Let messages wait again, but for what another upstream has meanwhile (see `put_back_abandoned_messages`)."""
    rows = conn.execute(
        "SELECT messages.id FROM json_each(?) AS unsent CROSS JOIN messages"
        " ON messages.id = json_extract(value, '$[0]') AND upstream = json_extract(value, '$[1]')",
        (json.dumps([(each.message_id, each.upstream) for each in unsent]),),
    )
    queue.put_back_messages(conn, [row[0] for row in rows], now, choose_path)


def put_back_abandoned_messages(
    conn: sqlite3.Connection, message_ids: Sequence[int], now: int, choose_path: ChoosePath = choose_default_path
) -> set[tuple[UpstreamPath, int]]:
    """Let messages of simulators that were removed wait again (`outcomes.list_abandoned_message_ids`), but for those
    that do so meanwhile. Returns their paths, with their accounts.
    """
    with write_transaction(conn):
        rows = conn.execute(
            "SELECT messages.id FROM messages JOIN upstreams ON upstreams.id = upstream"
            f" WHERE messages.id IN (SELECT value FROM json_each(?)) AND +state = {ENROUTE}"
            " AND kind = ? AND removed_at IS NOT NULL",
            (json.dumps(message_ids), SIMULATOR),
        ).fetchall()
        return queue.put_back_messages(conn, [row[0] for row in rows], now, choose_path)


def recover_messages(conn: sqlite3.Connection, now: int, choose_path: ChoosePath = choose_default_path) -> DueMessages:
    """Decide about what was under way when the last process ended; once, before anything is claimed.

    What simulators have stays theirs (`outcomes.list_simulated_message_ids`). Returns the receipts that were queued,
    and the paths with the accounts of which something waits there.
    """
    step = _Step(conn, now, choose_path)
    with write_transaction(conn):
        outcomes.mark_last_simulated_message(conn)
        for (upstream_id,) in conn.execute("SELECT id FROM upstreams WHERE kind <> ?", (SIMULATOR,)).fetchall():
            message_ids = list_unanswered_message_ids(conn, upstream_id)
            if message_ids:
                step.resolve_unsure_messages(upstream_id, message_ids)
        return DueMessages(receipts=step.result.receipts, waiting=queue.list_waiting_accounts(conn))


def list_unanswered_message_ids(conn: sqlite3.Connection, upstream_id: int) -> list[int]:
    """The ids of messages that an upstream has, or may have, and has not accepted; oldest first. It is no simulator."""
    rows = conn.execute(
        f"SELECT id FROM messages INDEXED BY messages_upstream WHERE state = {ENROUTE} AND upstream = ?"
        f" AND {UNANSWERED_SQL} AND bind IS NOT {SIMULATED_BIND} ORDER BY id",
        (upstream_id,),
    )
    return [row[0] for row in rows]


# --- receipts


def store_upstream_receipts(
    conn: sqlite3.Connection, receipts: Sequence[UpstreamReceipt], now: int, *, are_kept: bool = False
) -> SendingResult:
    """Store what upstreams say has become of messages; one that matches nothing is kept with what was tried.

    One that ends nothing changes nothing, and neither does another one of a message that has ended.

    Args:
        are_kept: whether they were looked for, and counted, when they came.
    """
    result = SendingResult()
    amounts: dict[int, Counter[str]] = defaultdict(Counter)
    with write_transaction(conn):
        ended: list[tuple[int, MessageOutcome]] = []
        first_ends: dict[tuple[int, int], tuple[int, str]] = {}
        for each, match in zip(receipts, receipt_matching.find_messages(conn, receipts), strict=True):
            result.matched.append(match.message_id is not None)
            if not (each.is_counted or are_kept):
                amounts[each.upstream]["receipts"] += 1
            if match.message_id is not None:
                if each.is_final and each.state is not None:
                    ended_at = _choose_end(match.message_id, each.done_at, now)
                    outcome = MessageOutcome(
                        match.message_id, each.state, each.ptt, ended_at, match.upstream_id, each.status
                    )
                    ended.append((match.number, outcome))
                    first_ends.setdefault((match.message_id, match.number), (each.upstream, _name_end(each.state)))
            elif trial_messages.take_receipt(conn, each, now):
                result.matched[-1] = True
            elif not each.is_repeated:
                amounts[each.upstream]["unmatched"] += 1
                _keep_unmatched_receipt(conn, each, match.tried, now)
        result.receipts = _end_messages_and_parts(conn, ended)
        cut_ids = {outcome.message_id for number, outcome in ended if number}
        if cut_ids:
            result.receipts += outcomes.finish_cut_messages(conn, cut_ids, now)
        for upstream_id, name in first_ends.values():
            amounts[upstream_id][name] += 1
        for upstream_id, amounts_of_upstream in amounts.items():
            counters.add_to_counters(conn, upstream_id, amounts_of_upstream)
            if amounts_of_upstream["unmatched"]:
                unclaimed.remove_too_many(conn, unclaimed.UNMATCHED_RECEIPTS)
    return result


def _name_end(state: int) -> str:
    """As what a message is counted of which a receipt tells the final state."""
    return "delivered" if state == DELIVERED else "undelivered"


def _end_messages_and_parts(
    conn: sqlite3.Connection, ended: Sequence[tuple[int, MessageOutcome]]
) -> list[DeliveryReceipt]:
    """Store what receipts say, each given with the number of the part that it is of; 0: of a whole message."""
    for number, each in ended:
        if number:
            message_parts.end_part(conn, number, each)
    return outcomes.finish_and_refund_messages(conn, [each for number, each in ended if not number])


def _choose_end(message_id: int, done_at: int | None, now: int) -> int:
    """When a message has ended, of which an upstream says so now.

    The upstream's date has no seconds in most cases, so it counts where the receipt is late; and not where it can't be
    true, as in a time zone that isn't what is set.
    """
    if done_at is None or not ids.time_from_id(message_id) <= done_at < now - LATE_RECEIPT_MS:
        return now
    return done_at


def _keep_unmatched_receipt(conn: sqlite3.Connection, receipt: UpstreamReceipt, tried: str, now: int) -> None:
    first_id, other_id = (*receipt.message_ids, None, None)[:2]
    state = receipt.state if receipt.is_final else None
    # The message's text may be one that isn't kept.
    text = _QUOTED_TEXT.split(receipt.text.replace("\0", ""), maxsplit=1)[0].rstrip()
    as_it_came = (receipt.upstream, receipt.source, receipt.destination, receipt.ptt, receipt.status, receipt.done_at)
    conn.execute(
        "INSERT INTO unmatched_receipts (upstream, source, destination, ptt, status, done_at, received_at, message_id,"
        " other_id, state, text, tried) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*as_it_came, now, first_id or "", other_id, state, text, tried),
    )


def store_reported_outcomes(conn: sqlite3.Connection, ended: Sequence[MessageOutcome]) -> SendingResult:
    """Store the outcomes that simulators report."""
    step = _Step(conn, now_ms())
    with write_transaction(conn):
        step.result.receipts = outcomes.finish_and_refund_messages(conn, ended)
        step.release_held_messages([each.message_id for each in ended])
    return step.result
