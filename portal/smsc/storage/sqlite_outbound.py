"""The part of the storage that is about messages on their way out, and about upstreams and routes, which it has in
memory.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.services.brakes import brake_counters
from portal.services.brakes.brake_counters import BrakeCounters
from portal.services.messages import (
    client_ids,
    inbound,
    intake,
    kept_receipts,
    outcomes,
    query_cancel,
    queue_works,
    sending,
    trial_messages,
)
from portal.services.messages.deliveries import DeliveryReceipt
from portal.services.messages.inbound import InboundItem
from portal.services.messages.intake import StoredMessages
from portal.services.messages.outcomes import DueMessages, MessageOutcome
from portal.services.messages.query_cancel import MessageStatus
from portal.services.messages.receipt_matching import UpstreamReceipt
from portal.services.messages.sending import AcceptedMessage, ClaimedMessages, UnsentMessage
from portal.services.messages.trial_messages import UpstreamTestAnswer
from portal.services.messages.validation import SubmittedMessage
from portal.services.routing import route_table
from portal.services.routing.route_table import DecisiveRows, RouteTable
from portal.services.upstreams import binds, counters, health, holds, load, paths, queue, traces, upstreams
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.claims import Claim
from portal.services.upstreams.health import UpstreamHealth
from portal.services.upstreams.load import UpstreamLoad
from portal.services.upstreams.mappings import InvalidEntry, parse_tags
from portal.services.upstreams.paths import ReroutingPosition, UpstreamPath
from portal.services.upstreams.traces import TracedPdu
from portal.services.upstreams.upstreams import UpstreamPasswordUnreadable
from portal.smsc.storage.interface import (
    CancelCallback,
    ClaimCallback,
    CommitInDoubt,
    InsufficientCredits,
    LimitReached,
    MessagesCallback,
    OutboundListener,
    StorageError,
    StorageUnavailable,
    SubmitCallback,
    UpstreamConfig,
    WaitingAccounts,
    WaitingCallback,
)
from portal.smsc.storage.reading import DatabaseSearcher, handle_read_errors
from portal.smsc.storage.writer import DatabaseWriter, WriteJobHandler, WriteJobKind

log = logging.getLogger(__name__)

_BATCH_SIZE = 1_000
# So many times as long as a step of what operators do to what waits took, the next one waits.
_QUEUE_WORK_PAUSE = 15
# Between two batches of kept receipts that are looked for again.
_RECEIPT_RETRY_SECONDS = 0.05

_SubmitJobs = list[tuple[SubmittedMessage, SubmitCallback]]
_ClaimJob = tuple[Claim, ClaimCallback]
_HoldJob = tuple[Collection[int], Sequence[UpstreamPath], WaitingCallback]


@dataclass(eq=False, repr=False)
class OutboundStorage:
    """What the dispatcher asks of the storage, in the order in which a message meets it; a part of `Storage`.

    Args:
        simulated_searcher: looks for what simulators have.
        queue_receipts: takes receipts that are on disk.
        mark_deliveries_due: is told the accounts for which something from a handset is on disk.

    `listener`: is told what happens, from `start` on.
    """

    _read_connection: sqlite3.Connection
    _keys: Keys
    _simulated_searcher: DatabaseSearcher
    _queue_receipts: Callable[[Sequence[DeliveryReceipt]], None]
    _mark_deliveries_due: Callable[[Iterable[int]], None]
    # Whether accounts with automatic re-credit buy the packs that their messages need.
    buys_packs: bool = True
    # Whether no more messages are stored, neither new ones nor those that wait for the writer: nobody could be told in
    # time.
    refuses_submits: bool = False
    # Whether nothing more is looked for: the database is let go of.
    is_closing: bool = False
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _writer: DatabaseWriter = field(init=False)
    listener: OutboundListener = field(init=False)
    _kept_tlv_tags: frozenset[int] = frozenset()
    _upstream_versions: dict[int, int] = field(default_factory=dict)
    _has_ever_had_upstream: bool = False
    _held_account_ids: frozenset[int] = frozenset()
    _route_rows: DecisiveRows = field(default_factory=lambda: DecisiveRows([], {}, None))
    _routes: RouteTable = field(default_factory=lambda: RouteTable([], {}, None))
    _brake_counters: BrakeCounters = field(init=False)
    _last_test_id: int = 0
    # Of those that run, by the ids of their upstreams.
    _trace_ends: Mapping[int, int] = field(default_factory=dict)
    _is_due_job_queued: bool = False
    _is_queue_work_queued: bool = False
    _queue_work_timer: asyncio.TimerHandle | None = None
    _is_receipt_retry_queued: bool = False
    _receipt_retry_timer: asyncio.TimerHandle | None = None
    # When those of upstreams of which it went wrong are looked for again, in the loop's time.
    _receipt_retry_times: dict[int, float] = field(default_factory=dict)
    # Of those who have asked that what waits takes other paths: one pass does it for all.
    _rerouted_callbacks: list[WaitingCallback] = field(default_factory=list)
    _begins_rerouting_anew: bool = False

    def start(self, writer: DatabaseWriter) -> None:
        """Begin to write; before all else about what was under way when the last process ended."""
        self._writer = writer
        self._brake_counters = brake_counters.load_counters(self._read_connection, now_ms())
        self._last_test_id = trial_messages.get_last_test_id(self._read_connection)
        writer.queue_write(WriteJobKind.RECOVER, None)

    # --- upstreams and routes, as they are in memory

    def load_config(self) -> frozenset[int]:
        """Tell the listener of upstreams, routes and accounts on hold where the database has others. Raises
        sqlite3.Error.

        Returns:
            The tags of optional parameters that upstreams pass on.
        """
        self._load_holds()
        self._load_upstreams()
        self._load_routes()
        self._load_queue_works()
        self._load_traces()
        self._load_receipt_retries()
        for each in trial_messages.list_waiting_messages(self._read_connection, self._last_test_id):
            self._last_test_id = -each.id
            self.listener.handle_test_message(each)
        return self._kept_tlv_tags

    def _load_holds(self) -> None:
        account_ids = holds.list_held_account_ids(self._read_connection)
        if account_ids != self._held_account_ids:
            self._held_account_ids = account_ids
            self.listener.handle_holds_changed(account_ids)

    def _load_traces(self) -> None:
        ends = traces.list_running_traces(self._read_connection)
        if ends != self._trace_ends:
            self._trace_ends = ends
            self.listener.handle_traces_changed(ends)

    def _load_receipt_retries(self) -> None:
        if not self._is_receipt_retry_queued:
            self._retry_receipts()

    def _retry_receipts(self) -> None:
        """Look for the messages of some kept receipts; of an upstream of which that went wrong, later."""
        self._is_receipt_retry_queued = False
        if self._receipt_retry_timer:
            self._receipt_retry_timer.cancel()
        waiting = () if self.is_closing else kept_receipts.list_upstreams_to_retry(self._read_connection)
        if not waiting:
            return
        retry_at, upstream_id = min((self._receipt_retry_times.get(each, 0.0), each) for each in waiting)
        pause = retry_at - self._loop.time()
        if pause > 0:
            self._receipt_retry_timer = self._loop.call_later(pause, self._retry_receipts)
        else:
            self._is_receipt_retry_queued = True
            self._writer.queue_write(WriteJobKind.RETRY_RECEIPTS, upstream_id)

    def _load_queue_works(self) -> None:
        if not self._is_queue_work_queued and queue_works.has_open_works(self._read_connection):
            self._queue_work()

    def _queue_work(self) -> None:
        if not self.is_closing:
            self._is_queue_work_queued = True
            self._writer.queue_write(WriteJobKind.QUEUE_WORK, None)

    def _load_upstreams(self) -> None:
        found = upstreams.list_upstreams(self._read_connection)
        versions = {each.id: each.version for each in found}
        has_ever_had = bool(found) or upstreams.has_ever_had_upstream(self._read_connection)
        if (versions, has_ever_had) == (self._upstream_versions, self._has_ever_had_upstream):
            return
        configs = []
        tlv_tags: set[int] = set()
        for each in found:
            try:
                tlv_tags |= parse_tags(each.settings.pass_tlvs) if each.enabled else set()
            except InvalidEntry as error:
                log.error("upstream %s passes no optional parameters on: %s", each.name, error)
            try:
                password = upstreams.get_upstream_password(self._read_connection, self._keys, each)
            except UpstreamPasswordUnreadable as error:
                log.error("%s", error)
                password = None
            configs.append(UpstreamConfig(each, password))
        if has_ever_had and not self._has_ever_had_upstream:
            self._writer.queue_write(WriteJobKind.UPSTREAMS_BEGIN, None)
        self._upstream_versions, self._has_ever_had_upstream = versions, has_ever_had
        self._kept_tlv_tags = frozenset(tlv_tags)
        self.listener.handle_upstreams_changed(configs, has_ever_had=has_ever_had)

    def _load_routes(self) -> None:
        # They are looked at at each change of whatever the server has in memory, and that must not take long.
        before, rows = self._route_rows, route_table.read_decisive_rows(self._read_connection)
        if rows == before:
            return
        self._routes = route_table.load_route_table(self._read_connection)
        self._route_rows = rows
        self.listener.handle_routes_changed(self._routes, moves_waiting=rows.routes != before.routes)

    def choose_path(self, account_id: int, destination: str, country: str, source: str) -> UpstreamPath:
        """The `ChoosePath` of the routes that there are. The writer's thread calls it."""
        return self._routes.choose(account_id, destination, country, source).path

    # --- what the dispatcher asks

    def store_submit(self, submit: SubmittedMessage, resolve: SubmitCallback) -> None:
        """Store a message and its debit; `resolve` is called once both are on disk, or certainly not, or in doubt.

        A callback and not a future: this happens for each message, and a future costs as much again as the rest of its
        way.
        """
        self._writer.queue_write(WriteJobKind.SUBMIT, (submit, resolve))

    def claim_messages(self, claim: Claim, resolve: ClaimCallback) -> None:
        """Take messages that wait for an upstream: see `sending.claim_messages`."""
        self._writer.queue_write(WriteJobKind.CLAIM, (claim, resolve))

    def hold_followers(
        self, upstream_ids: Collection[int], retried_paths: Sequence[UpstreamPath], resolve: WaitingCallback
    ) -> None:
        """Have what upstreams have, and have not answered, hold up what comes behind it to the same destinations, and
        what was refused for the moment on these paths be tried again at once: other upstreams take over from now on.

        All that was asked to be stored or claimed before is among it. `resolve` gets paths with the accounts of which
        something waits there, or holds up others.
        """
        self._writer.queue_write(WriteJobKind.HOLD_FOLLOWERS, (upstream_ids, retried_paths, resolve))

    def reroute_messages(self, resolve: WaitingCallback) -> None:
        """Put what waits on the paths that it takes now; `resolve` gets all paths with the accounts of which something
        waits there. While that is done for another call, it begins anew, and ends for both.
        """
        self._begins_rerouting_anew = bool(self._rerouted_callbacks)
        self._rerouted_callbacks.append(resolve)
        if not self._begins_rerouting_anew:
            self._writer.queue_write(WriteJobKind.REROUTE, ReroutingPosition())

    def store_accepted_message(self, accepted: AcceptedMessage, *, is_urgent: bool) -> None:
        """Store that an upstream has accepted a message; unless it is urgent, together with others."""
        if is_urgent:
            self._writer.queue_write(WriteJobKind.ACCEPTED, accepted)
        else:
            self._writer.queue_deferred_write(WriteJobKind.ACCEPTED, accepted)

    def store_unsent_message(self, unsent: UnsentMessage) -> None:
        """Store what became of a claimed message that was not accepted."""
        self._writer.queue_write(WriteJobKind.UNSENT, unsent)

    def store_outcomes(self, reported: Sequence[MessageOutcome]) -> None:
        """Store what became of messages, and the receipts that were asked for."""
        self._writer.queue_deferred_write(WriteJobKind.OUTCOME, *reported)

    def store_upstream_receipt(self, receipt: UpstreamReceipt, resolve: Callable[[bool | None], None]) -> None:
        """Store what an upstream says; `resolve` gets whether its message is known, None where nothing was stored."""
        self._writer.queue_deferred_write(WriteJobKind.RECEIPT, (receipt, resolve))

    def store_upstream_message(self, message: InboundItem, resolve: Callable[[bool], None]) -> None:
        """Store what a handset has sent, for the accounts that it is meant for, or until its other parts are there;
        `resolve` gets whether it is stored.
        """
        self._writer.queue_patient_write(WriteJobKind.UPSTREAM_MESSAGE, (message, resolve))

    def cancel_message(self, message: MessageStatus, resolve: CancelCallback) -> None:
        """Call a message back, which no upstream sends."""
        self._writer.queue_write(WriteJobKind.CANCEL, (message, resolve))

    def load_message(self, message_id: int, resolve: MessagesCallback) -> None:
        """Give `resolve` a message, where it has no final state, and then an empty sequence as the end; or a
        StorageError.
        """
        self._load_messages([message_id], resolve)

    def load_simulated_messages(self, upstream_id: int | None, resolve: MessagesCallback) -> None:
        """Give `resolve` what a simulator has not ended (None: the built-in one), oldest first, in several calls, of
        which the last one has none, or is a StorageError.
        """

        def load(found: Sequence[int] | StorageError) -> None:
            if isinstance(found, StorageError):
                resolve(found)
            else:
                self._load_messages(found, resolve)

        self._simulated_searcher.search(load, lambda conn: outcomes.list_simulated_message_ids(conn, upstream_id))

    def put_back_abandoned_messages(self) -> None:
        """Queue again the messages of removed simulators; the listener is told as of messages that are due."""

        def put_back(found: Sequence[int] | StorageError) -> None:
            if not isinstance(found, StorageError):
                # Behind the outcomes of some of them, which may be on their way to the disk.
                batches = [found[start : start + _BATCH_SIZE] for start in range(0, len(found), _BATCH_SIZE)]
                self._writer.queue_deferred_write(WriteJobKind.ABANDONED, *batches)

        self._simulated_searcher.search(put_back, outcomes.list_abandoned_message_ids)

    def find_unanswered_ids(self, upstream_id: int, resolve: Callable[[Sequence[int]], None]) -> None:
        """Give `resolve` the ids of what an upstream has and has not accepted, unless that can't be read."""
        with handle_read_errors():
            resolve(sending.list_unanswered_message_ids(self._read_connection, upstream_id))

    def _load_messages(self, message_ids: Sequence[int], resolve: MessagesCallback, start: int = 0) -> None:
        """Load some, from an index on, and the others in other turns of the event loop; at the end none."""
        if self.is_closing:
            return
        end = start + _BATCH_SIZE
        with handle_read_errors(resolve):
            messages = outcomes.list_outbound_messages(self._read_connection, message_ids[start:end])
            is_end = start >= len(message_ids)
            if messages or is_end:
                resolve(messages)
            if not is_end:
                self._loop.call_soon(self._load_messages, message_ids, resolve, end)

    def record_bind_states(self, upstream_id: int, states: Sequence[BindState]) -> None:
        """Store how the binds of an upstream are: all of them."""
        self._writer.queue_write(WriteJobKind.BIND_STATES, (upstream_id, states))

    def record_health(self, upstream_id: int, health: UpstreamHealth) -> None:
        """Store whether an upstream is given messages."""
        self._writer.queue_write(WriteJobKind.UPSTREAM_HEALTH, (upstream_id, health))

    def record_load(self, upstream_id: int, measured: UpstreamLoad) -> None:
        """Store what an upstream does at the moment."""
        self._writer.queue_deferred_write(WriteJobKind.UPSTREAM_LOAD, (upstream_id, measured))

    def store_traced_pdus(self, upstream_id: int, pdus: Sequence[TracedPdu], left_out: int) -> None:
        """Keep PDUs of an upstream, and count those that were left out; not where they can't be written now."""
        self._writer.queue_deferred_write(WriteJobKind.TRACED_PDUS, (upstream_id, pdus, left_out))

    def store_test_answer(self, answer: UpstreamTestAnswer) -> None:
        """Store what came of sending a test message."""
        self._writer.queue_write(WriteJobKind.TEST_ANSWERS, answer)

    def count_unroutable_submits(self, count: int) -> None:
        """Store that so many messages more were refused because no route takes them."""
        self._writer.queue_deferred_write(WriteJobKind.UNROUTABLE, count)

    def add_upstream_counters(self, upstream_id: int, amounts: Mapping[str, int]) -> None:
        """Add to what is counted of an upstream."""
        self._writer.queue_deferred_write(WriteJobKind.UPSTREAM_COUNTERS, (upstream_id, amounts))

    def poll_due_messages(self) -> None:
        """Send the messages whose date has come, or give them up; the writer does so."""
        if self.is_closing:
            return
        with handle_read_errors():
            if not self._is_due_job_queued and outcomes.has_due_messages(self._read_connection, now_ms()):
                self._is_due_job_queued = True
                self._writer.queue_write(WriteJobKind.DUE_MESSAGES, None)

    def release_old_parts(self, now: int) -> None:
        """Let parts of messages from handsets go as they came that have waited for the others too long at `now` (unix
        milliseconds); the writer does so.
        """
        self._writer.queue_write(WriteJobKind.OLD_PARTS, now)

    # --- what the writer does, and what follows from it

    def build_job_handlers(self) -> Mapping[WriteJobKind, WriteJobHandler]:
        """How the writer does the jobs of this part."""
        handle_sending_stored = self._with_receipts(
            lambda stored, result: self.listener.handle_sending_stored(stored, result)
        )
        return {
            WriteJobKind.RECOVER: WriteJobHandler(
                self._recover_messages,
                self._with_receipts(lambda _, recovered: self.listener.handle_recovered(recovered.waiting)),
                is_vital=True,
            ),
            WriteJobKind.UPSTREAMS_BEGIN: WriteJobHandler(lambda conn, _: outcomes.mark_last_simulated_message(conn)),
            WriteJobKind.SUBMIT: WriteJobHandler(
                self._store_messages, self._handle_submits_stored, self._handle_submits_refused
            ),
            WriteJobKind.CANCEL: WriteJobHandler(
                lambda conn, items: query_cancel.cancel_messages(conn, [each for each, _ in items]),
                self._with_receipts(lambda items, cancelled: _resolve_each(items, cancelled.was_cancelled)),
                _resolve_all,
            ),
            WriteJobKind.ACCEPTED: WriteJobHandler(sending.store_accepted_messages, handle_sending_stored),
            WriteJobKind.UNSENT: WriteJobHandler(
                lambda conn, unsent: sending.store_unsent_messages(conn, unsent, now_ms(), self.choose_path),
                handle_sending_stored,
            ),
            WriteJobKind.RECEIPT: WriteJobHandler(
                lambda conn, items: sending.store_upstream_receipts(conn, [each for each, _ in items], now_ms()),
                self._with_receipts(lambda items, result: _resolve_each(items, result.matched)),
                lambda items, _: _resolve_all(items, None),
            ),
            WriteJobKind.OUTCOME: WriteJobHandler(
                sending.store_reported_outcomes, lambda _, result: handle_sending_stored([], result)
            ),
            WriteJobKind.ABANDONED: WriteJobHandler(
                self._put_back_abandoned_messages,
                lambda _, waiting: self.listener.handle_due_messages(DueMessages(waiting=waiting)),
            ),
            WriteJobKind.DUE_MESSAGES: WriteJobHandler(
                lambda conn, _: outcomes.process_due_messages(conn, now_ms(), self.choose_path),
                self._with_receipts(self._handle_due_messages),
                self._handle_due_messages_failure,
            ),
            WriteJobKind.CLAIM: WriteJobHandler(self._claim_messages, self._handle_claimed, self._resolve_failed),
            WriteJobKind.HOLD_FOLLOWERS: WriteJobHandler(self._hold_followers, _resolve_each, is_vital=True),
            WriteJobKind.REROUTE: WriteJobHandler(self._reroute_messages, self._handle_rerouted, is_vital=True),
            WriteJobKind.UPSTREAM_MESSAGE: WriteJobHandler(
                lambda conn, items: inbound.store_inbound_messages(conn, [each for each, _ in items]),
                self._handle_upstream_messages_stored,
                lambda items, _: _resolve_all(items, False),
            ),
            WriteJobKind.OLD_PARTS: WriteJobHandler(
                lambda conn, times: inbound.release_old_parts(conn, times[-1]), self._handle_parts_released
            ),
            WriteJobKind.QUEUE_WORK: WriteJobHandler(
                self._run_queue_step,
                self._handle_queue_step,
                # Also where an error couldn't be stored with its work: nothing was done.
                lambda items, _: self._handle_queue_step(items, (DueMessages(), queue_works.RETRY_MS, 0.0)),
            ),
            WriteJobKind.RETRY_RECEIPTS: WriteJobHandler(
                lambda conn, items: kept_receipts.retry_receipts(conn, items[0]),
                self._handle_receipts_retried,
                self._handle_receipts_not_retried,
            ),
            WriteJobKind.BIND_STATES: WriteJobHandler(_write_each(binds.record_bind_states)),
            WriteJobKind.UPSTREAM_HEALTH: WriteJobHandler(_write_each(health.record_health)),
            WriteJobKind.UPSTREAM_COUNTERS: WriteJobHandler(_write_each(counters.add_to_counters)),
            WriteJobKind.UPSTREAM_LOAD: WriteJobHandler(_write_each(load.record_load)),
            # Of those that can't be written now there would be ever more.
            WriteJobKind.TRACED_PDUS: WriteJobHandler(_write_each(traces.store_pdus), on_refused=lambda *_: None),
            WriteJobKind.TEST_ANSWERS: WriteJobHandler(trial_messages.store_answers),
            WriteJobKind.UNROUTABLE: WriteJobHandler(
                lambda conn, counts: counters.add_unroutable_submits(conn, sum(counts))
            ),
        }

    def _with_receipts(self, tell: Callable[[list[Any], Any], None]) -> Callable[[list[Any], Any], None]:
        """Return what queues the receipts that are among a result, and tells of it."""

        def queue_receipts_and_tell(items: list[Any], result: Any) -> None:
            self._queue_receipts(result.receipts)
            tell(items, result)

        return queue_receipts_and_tell

    def _recover_messages(self, conn: sqlite3.Connection, _: list[None]) -> DueMessages:
        binds.clear_bind_states(conn)
        health.clear_health(conn)
        load.clear_loads(conn)
        trial_messages.give_up_waiting_messages(conn)
        return sending.recover_messages(conn, now_ms(), self.choose_path)

    def _store_messages(self, conn: sqlite3.Connection, items: _SubmitJobs) -> StoredMessages | None:
        if self.refuses_submits:
            return None
        submits = [submit for submit, _ in items]
        return intake.store_messages(conn, submits, buys_packs=self.buys_packs, counters=self._brake_counters)

    def _handle_submits_stored(self, items: _SubmitJobs, stored: StoredMessages | None) -> None:
        if stored is None:
            self._handle_submits_refused(items, StorageUnavailable("the server stops"))
            return
        for (submit, resolve), message_id in zip(items, stored.message_ids, strict=True):
            if message_id is None:
                reason = stored.braked.get(submit.id)
                resolve(InsufficientCredits() if reason is None else LimitReached(reason))
            else:
                resolve(message_id if submit.hex_id is None else client_ids.format_hex_id(submit.hex_id))
        self.listener.handle_submits_stored([submit for submit, _ in items], stored.outbound)
        self._queue_receipts(stored.receipts)

    def _handle_submits_refused(self, items: _SubmitJobs, refusal: StorageError) -> None:
        self._resolve_failed(items, refusal)
        self.listener.handle_submits_stored([submit for submit, _ in items], ())

    def _handle_due_messages(self, _: list[None], due: DueMessages) -> None:
        self._is_due_job_queued = False
        self.listener.handle_due_messages(due)
        if due.outbound or due.waiting or due.expired_ids:
            # A campaign has one date for all its messages, and only so many are taken at once.
            self.poll_due_messages()

    def _handle_due_messages_failure(self, _: list[None], __: StorageError) -> None:
        # The next poll queues it again.
        self._is_due_job_queued = False

    def _put_back_abandoned_messages(self, conn: sqlite3.Connection, batches: list[Sequence[int]]) -> WaitingAccounts:
        now = now_ms()
        return set().union(
            *(sending.put_back_abandoned_messages(conn, each, now, self.choose_path) for each in batches)
        )

    def _claim_messages(self, conn: sqlite3.Connection, items: list[_ClaimJob]) -> list[ClaimedMessages]:
        return [sending.claim_messages(conn, claim, now_ms(), self.choose_path) for claim, _ in items]

    def _hold_followers(self, conn: sqlite3.Connection, items: list[_HoldJob]) -> list[WaitingAccounts]:
        now = now_ms()
        results: list[WaitingAccounts] = []
        for upstream_ids, retried_paths, _ in items:
            results.append(paths.hold_followers(conn, upstream_ids, self.choose_path))
            for each in retried_paths:
                paths.retry_held_messages_now(conn, each, now)
        return results

    def _reroute_messages(
        self, conn: sqlite3.Connection, positions: list[ReroutingPosition]
    ) -> ReroutingPosition | WaitingAccounts:
        (position,) = positions
        next_position = paths.reroute_messages(conn, position, _BATCH_SIZE, self.choose_path)
        return next_position or queue.list_waiting_accounts(conn)

    def _handle_rerouted(self, _: list[ReroutingPosition], result: ReroutingPosition | WaitingAccounts) -> None:
        if self._begins_rerouting_anew:
            self._begins_rerouting_anew = False
            result = ReroutingPosition()
        if isinstance(result, ReroutingPosition):
            # What is submitted meanwhile has its turn in between.
            self._writer.queue_write(WriteJobKind.REROUTE, result)
            return
        callbacks, self._rerouted_callbacks = self._rerouted_callbacks, []
        for resolve in callbacks:
            resolve(result)

    def _run_queue_step(self, conn: sqlite3.Connection, _: list[None]) -> tuple[DueMessages, int | None, float]:
        started_at = time.monotonic()
        due, pause_ms = queue_works.run_queue_step(conn, self._routes, self.choose_path)
        return due, pause_ms, time.monotonic() - started_at

    def _handle_queue_step(self, _: list[None], result: tuple[DueMessages, int | None, float]) -> None:
        due, pause_ms, seconds = result
        # A new work doesn't wait until one that went wrong is tried again.
        self._is_queue_work_queued = pause_ms == 0
        if self._queue_work_timer:
            self._queue_work_timer.cancel()
        if pause_ms is not None:
            # Others have their turn: a million messages wait, and theirs are a part of them.
            pause = seconds * _QUEUE_WORK_PAUSE + pause_ms / 1000
            self._queue_work_timer = self._loop.call_later(pause, self._queue_work)
        self._queue_receipts(due.receipts)
        self.listener.handle_due_messages(due)

    def _handle_receipts_retried(self, upstream_ids: list[int], receipts: Sequence[DeliveryReceipt]) -> None:
        self._receipt_retry_times.pop(upstream_ids[0], None)
        # Others have their turn: a hundred thousand may be kept.
        self._receipt_retry_timer = self._loop.call_later(_RECEIPT_RETRY_SECONDS, self._retry_receipts)
        self._queue_receipts(receipts)

    def _handle_receipts_not_retried(self, upstream_ids: list[int], _: StorageError) -> None:
        self._receipt_retry_times[upstream_ids[0]] = self._loop.time() + queue_works.RETRY_MS / 1000
        self._receipt_retry_timer = self._loop.call_later(_RECEIPT_RETRY_SECONDS, self._retry_receipts)

    def _handle_claimed(self, items: list[_ClaimJob], claimed: list[ClaimedMessages]) -> None:
        for (*_, resolve), each in zip(items, claimed, strict=True):
            self._queue_receipts(each.receipts)
            resolve(each)

    def _resolve_failed(self, items: list[Any], error: StorageError) -> None:
        _resolve_all(items, error)
        if isinstance(error, CommitInDoubt):
            self.listener.handle_commit_in_doubt()

    def _handle_upstream_messages_stored(
        self, items: list[tuple[InboundItem, Callable[[bool], None]]], account_ids: Collection[int]
    ) -> None:
        _resolve_all(items, True)
        self._mark_deliveries_due(account_ids)

    def _handle_parts_released(self, times: list[int], released: tuple[Collection[int], bool]) -> None:
        account_ids, has_more = released
        self._mark_deliveries_due(account_ids)
        if has_more:
            # More than one batch a minute may come that belong to nothing. What is received has its turn in between.
            self.release_old_parts(times[-1])


def _write_each(
    write: Callable[..., None],
) -> Callable[[sqlite3.Connection, list[tuple[Any, ...]]], None]:
    """Return what writes each item, which is something of an upstream."""

    def write_items(conn: sqlite3.Connection, items: list[tuple[Any, ...]]) -> None:
        for item in items:
            write(conn, *item)

    return write_items


def _resolve_each(items: list[tuple[Any, ...]], results: list[Any]) -> None:
    for (*_, resolve), result in zip(items, results, strict=True):
        resolve(result)


def _resolve_all(items: list[tuple[Any, ...]], value: object) -> None:
    for *_, resolve in items:
        resolve(value)
