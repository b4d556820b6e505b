"""Between what is stored and what sends it: which messages go to which upstream and when, and what came of them.

A message that an upstream has room for is stored as that upstream's, and sent as soon as it is on disk. All others wait
in the database, where they are claimed as room comes: nothing of them is in memory but which accounts have some.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from portal.core.clock import now_ms
from portal.services.messages.inbound import MobileOriginatedMessage
from portal.services.messages.outcomes import DueMessages, MessageOutcome, MessageStatus
from portal.services.messages.sending import (
    AcceptedMessage,
    ClaimedMessages,
    SendingResult,
    UnsentMessage,
    UnsentReason,
    UpstreamReceipt,
)
from portal.services.messages.validation import SubmittedMessage
from portal.services.upstreams.binds import BindState
from portal.smsc.storage.interface import (
    OutboundStorage,
    StorageError,
    SubmitCallback,
    UpstreamConfig,
)
from portal.smsc.upstream.interface import Resolve, UpstreamConnection, UpstreamEvents
from portal.smsc.upstream.simulator.simulator import Simulator

log = logging.getLogger(__name__)

CreateConnection = Callable[[UpstreamConfig, UpstreamEvents, asyncio.AbstractEventLoop], UpstreamConnection]
_CancelCallback = Callable[[bool | StorageError], None]

_BATCH_SIZE = 1_000
_COUNTERS_SECONDS = 1.0
# What is claimed ahead of the room is sent within about so long.
_AHEAD_SECONDS = 0.05
_CLAIM_RETRY_SECONDS = 1.0
# How long what is under way is waited for where an upstream is disabled or removed.
_CLOSE_SECONDS = 5.0
_STRAY_SECONDS = 30.0
# Carriers send some receipts twice. So many ids are known, of each upstream, whose receipt was there.
_MATCHED_IDS = 10_000


class _Lane:
    """One upstream: its connection, and how much it may be given. Hears what becomes of that (`UpstreamEvents`).

    available: how many more messages may be stored as this upstream's. claimable: how many may be claimed for it, some
    of them ahead of the room. reserved: those that are being stored as its. claiming: those that were asked for.
    unsaved: answers that are not on disk yet.
    """

    __slots__ = (
        "_account_ids",
        "_dispatcher",
        "_matched_ids",
        "_ready",
        "_retried_ids",
        "_storage",
        "_stray_ids",
        "available",
        "claimable",
        "claiming",
        "closing",
        "config",
        "connection",
        "last_account_id",
        "reserved",
        "unsaved",
    )

    def __init__(self, config: UpstreamConfig, dispatcher: Dispatcher, storage: OutboundStorage) -> None:
        self.config = config
        self.connection: UpstreamConnection | None = None
        # The end of the connection before, which comes before another one begins.
        self.closing: asyncio.Task[None] | None = None
        self.available = self.claimable = self.reserved = self.claiming = self.unsaved = 0
        # What is stored as this upstream's, in the order of sending, and waits for room.
        self._ready: deque[SubmittedMessage] = deque()
        self.last_account_id = 0
        self._dispatcher = dispatcher
        self._storage = storage
        # Of what is under way: whose it is, and what was refused before.
        self._account_ids: dict[int, int] = {}
        self._retried_ids: set[int] = set()
        self._matched_ids: OrderedDict[str, None] = OrderedDict()
        self._stray_ids: frozenset[int] = frozenset()

    @property
    def id(self) -> int:
        return self.config.upstream.id

    @property
    def may_send(self) -> bool:
        """Whether it gets messages, as far as it has room."""
        upstream = self.config.upstream
        return upstream.enabled and not upstream.draining

    def update_available(self) -> None:
        """Look how much room there is. After a crash what is under way is unsure: no more than the window, and as many
        that are claimed ahead or whose answers are not on disk.
        """
        connection = self.connection
        if connection is None or not connection.is_connected or not self.may_send:
            self.available = self.claimable = 0
            return
        room, window = connection.room, connection.window
        room -= self.reserved + self.claiming + len(self._ready) + max(self.unsaved - window, 0)
        self.available = max(room, 0)
        # A claim takes a commit. Meanwhile there is something to send, but no more than can soon be.
        ahead = window if not connection.rate else min(window, int(connection.rate * _AHEAD_SECONDS))
        self.claimable = max(room + max(ahead - self.unsaved, 0), 0)

    def send_messages(self, messages: Sequence[SubmittedMessage]) -> None:
        """Send what is stored as this upstream's, behind what is ready already."""
        self._ready.extend(messages)
        self.send_ready_messages()

    def send_ready_messages(self) -> None:
        """Send what is ready, as far as there is room."""
        ready, connection = self._ready, self.connection
        if not ready:
            return
        if connection is None or not connection.is_connected or not self.may_send:
            self.put_back_ready_messages()
            return
        room = connection.room
        if not room:
            return
        sent = [ready.popleft() for _ in range(min(room, len(ready)))]
        if connection.remembers_messages:
            for each in sent:
                self._account_ids[each.id] = each.account_id
                if each.was_retried:
                    self._retried_ids.add(each.id)
        connection.send_messages(sent)

    def cancel_message(self, message_id: int) -> bool:
        """Send a message no more; returns whether that was still possible."""
        message = next((each for each in self._ready if each.id == message_id), None)
        if message is None:
            return self.connection is not None and self.connection.cancel_message(message_id)
        self._ready.remove(message)
        self.update_available()
        return True

    def put_back_ready_messages(self) -> None:
        """What is ready cannot be sent: it waits again, for whichever upstream can."""
        while self._ready:
            message = self._ready.popleft()
            self._put_back(message.id, message.account_id, UnsentReason.PUT_BACK)

    def check_strays(self) -> None:
        """Look whether the database has messages for this upstream's that nobody here knows: a commit in doubt leaves
        some. Those that were there the last time, too, may have been sent.
        """
        if self.connection is not None and self.connection.remembers_messages:
            self._storage.find_unanswered_ids(self.id, self._handle_unanswered_found)

    def _handle_unanswered_found(self, message_ids: Sequence[int]) -> None:
        if self.reserved or self.claiming or self.unsaved:
            self._stray_ids = frozenset()  # what is being written may be any of these
            return
        known_ids = {*self._account_ids, *(each.id for each in self._ready)}
        stray_ids = frozenset(message_ids) - known_ids
        for each in sorted(stray_ids & self._stray_ids):
            log.warning("message %d was %s's, and not under way", each, self.config.upstream.name)
            self.unsaved += 1
            self._storage.store_unsent_message(UnsentMessage(self.id, each, None, UnsentReason.UNSURE))
        self._stray_ids = stray_ids

    # --- what the connection tells

    def handle_accepted(self, message_id: int, upstream_message_id: str, bind: int) -> None:
        self.unsaved += 1
        accepted = AcceptedMessage(
            self.id, message_id, upstream_message_id, bind, now_ms(), was_retried=self._forget_message(message_id)
        )
        # Others may share the commit, unless the answers on their way to the disk hold up what could be sent.
        is_urgent = self.connection is not None and self.unsaved * 2 > self.connection.window
        self._storage.store_accepted_message(accepted, is_urgent=is_urgent)

    def handle_refused(self, message_id: int, status: str, ptt: int) -> None:
        self.unsaved += 1
        was_retried = self._forget_message(message_id)
        self._storage.store_unsent_message(
            UnsentMessage(self.id, message_id, None, UnsentReason.REFUSED, status, ptt, was_retried)
        )

    def handle_held(self, message_id: int, status: str) -> None:
        self._put_back(message_id, self._account_ids[message_id], UnsentReason.HELD, status)

    def handle_lost(self, unsure: Sequence[int], unsent: Sequence[int]) -> None:
        for message_ids, reason in ((unsure, UnsentReason.UNSURE), (unsent, UnsentReason.PUT_BACK)):
            for each in message_ids:
                self._put_back(each, self._account_ids[each], reason)
        self._dispatcher.handle_room(self)

    def handle_outcomes(self, outcomes: Sequence[MessageOutcome]) -> None:
        self._storage.store_outcomes(outcomes)

    def handle_receipt(self, receipt: UpstreamReceipt, resolve: Resolve) -> None:
        receipt.is_repeated = any(each in self._matched_ids for each in receipt.message_ids)
        self._storage.store_upstream_receipt(receipt, partial(self._handle_receipt_stored, receipt, resolve))

    def handle_inbound(self, message: MobileOriginatedMessage, resolve: Resolve) -> None:
        self._storage.store_upstream_message(message, resolve)

    def handle_room(self) -> None:
        self._dispatcher.handle_room(self)

    def handle_binds(self, states: Sequence[BindState]) -> None:
        # Of a connection that ends, nobody wants to know.
        self._storage.record_bind_states(self.id, states if self.connection else ())

    def remember_matched(self, upstream_message_ids: Iterable[str]) -> None:
        """Receipts have found the messages of these ids."""
        for each in upstream_message_ids:
            self._matched_ids[each] = None
        while len(self._matched_ids) > _MATCHED_IDS:
            self._matched_ids.popitem(last=False)

    def _forget_message(self, message_id: int) -> bool:
        """It is under way no more; returns whether it was refused before."""
        self._account_ids.pop(message_id, None)
        if message_id not in self._retried_ids:
            return False
        self._retried_ids.remove(message_id)
        return True

    def _put_back(self, message_id: int, account_id: int, reason: UnsentReason, status: str = "") -> None:
        self.unsaved += 1
        self._forget_message(message_id)
        # What its account submits from now on is not to overtake it.
        self._dispatcher.begin_enqueue(account_id)
        self._storage.store_unsent_message(UnsentMessage(self.id, message_id, account_id, reason, status))

    def _handle_receipt_stored(self, receipt: UpstreamReceipt, resolve: Resolve, is_matched: bool | None) -> None:
        """`is_matched`: None where nothing could be stored."""
        if is_matched:
            self.remember_matched(receipt.message_ids)
        resolve(is_matched is not None)


class Dispatcher:
    """Gives upstreams what is stored, and what was stored before the start. One for the process.

    `start`, then `close`. Until there is an upstream the built-in simulator gets everything.

    Args:
        simulator: the built-in one.
        create_connection: makes the connection of an upstream.
    """

    def __init__(
        self,
        storage: OutboundStorage,
        simulator: Simulator,
        create_connection: CreateConnection,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._storage = storage
        self._simulator = simulator
        self._create_connection = create_connection
        self._loop = loop
        self._lanes: dict[int, _Lane] = {}
        self._default_lane: _Lane | None = None
        self._uses_upstreams = False
        self._is_closing = False
        # The accounts of which something may wait: what they submit must not overtake it. And how many of their
        # messages are being stored to wait.
        self._waiting_account_ids: set[int] = set()
        self._pending_enqueues: Counter[int] = Counter()
        # Whether a claim may find something, and how often that has begun anew.
        self._is_recovered = False
        self._may_claim = False
        self._claim_epoch = 0
        self._retry_timer: asyncio.TimerHandle | None = None
        self._retry_at = 0
        self._counters_timer: asyncio.TimerHandle | None = None
        self._strays_timer: asyncio.TimerHandle | None = None
        self._closing_tasks: set[asyncio.Task[None]] = set()
        storage.set_listener(self)

    def start(self) -> None:
        """Give the built-in simulator again what it had not ended before the restart, and connect the upstreams."""
        self._storage.load_simulated_messages(self._simulator.send_messages)
        self._counters_timer = self._loop.call_later(_COUNTERS_SECONDS, self._save_counters)
        self._strays_timer = self._loop.call_later(_STRAY_SECONDS, self._check_strays_periodically)

    async def close(self, seconds: float) -> None:
        """Send nothing more, wait so long for what is under way, and disconnect."""
        self._is_closing = True
        self._default_lane = None
        for lane in self._lanes.values():
            self._close_lane(lane, seconds)
        self._simulator.stop()
        if self._closing_tasks:
            await asyncio.wait(self._closing_tasks)
        for timer in (self._retry_timer, self._counters_timer, self._strays_timer):
            if timer:
                timer.cancel()

    # --- messages from clients

    def store_submit(self, message: SubmittedMessage, resolve: SubmitCallback) -> None:
        """Store a message as that of an upstream that has room, or to wait; see `Storage.store_submit`."""
        if self._uses_upstreams and message.scheduled_at is None:
            lane = self._default_lane
            if (
                lane is not None
                and lane.available > 0
                and self._is_recovered
                and message.account_id not in self._waiting_account_ids
            ):
                lane.available -= 1
                lane.reserved += 1
                message.upstream = lane.id
            else:
                message.is_queued = True
                self.begin_enqueue(message.account_id)
        self._storage.store_submit(message, resolve)

    def handle_submits_stored(self, submits: Sequence[SubmittedMessage], outbound: Sequence[SubmittedMessage]) -> None:
        if not self._uses_upstreams:
            self._simulator.send_messages(outbound)
            return
        lane, reserved_count = None, 0
        for each in submits:
            if each.upstream is not None:
                reserved_count += 1
                lane = self._lanes.get(each.upstream)
                if lane is not None:
                    lane.reserved -= 1
            elif each.is_queued:
                self._finish_enqueue(each.account_id)
        if lane is not None and reserved_count == len(submits) == len(outbound):
            # All of one upstream, as mostly.
            lane.send_messages(outbound)
        else:
            self._send_by_upstream(outbound)
        for each_lane in self._lanes.values():
            each_lane.update_available()
        self._claim()

    def begin_enqueue(self, account_id: int) -> None:
        """A message of an account is being stored to wait."""
        self._waiting_account_ids.add(account_id)
        self._pending_enqueues[account_id] += 1

    def _finish_enqueue(self, account_id: int) -> None:
        self._pending_enqueues[account_id] -= 1
        if not self._pending_enqueues[account_id]:
            del self._pending_enqueues[account_id]
        self._expect_waiting()

    def _send_by_upstream(self, outbound: Sequence[SubmittedMessage]) -> None:
        by_upstream: dict[int | None, list[SubmittedMessage]] = {}
        for each in outbound:
            by_upstream.setdefault(each.upstream, []).append(each)
        for upstream_id, messages in by_upstream.items():
            if upstream_id is None:
                self._simulator.send_messages(messages)
            elif upstream_id in self._lanes:
                self._lanes[upstream_id].send_messages(messages)
            else:
                # It was removed while they were being stored.
                for each in messages:
                    self.begin_enqueue(each.account_id)
                    self._storage.store_unsent_message(
                        UnsentMessage(upstream_id, each.id, each.account_id, UnsentReason.PUT_BACK)
                    )

    def cancel_message(self, message: MessageStatus, resolve: _CancelCallback) -> None:
        """Call a message back: one whose date is still to come, one that waits, or one that a simulator has not ended.

        `resolve` gets whether it was called back.
        """
        if message.is_scheduled or message.is_queued:
            self._storage.cancel_message(message, resolve)
        elif self._cancel_sending(message):
            self._storage.cancel_message(message, partial(self._handle_cancel_result, message, resolve))
        else:
            resolve(False)

    def _cancel_sending(self, message: MessageStatus) -> bool:
        if message.upstream is None:
            return self._simulator.cancel_message(message.id)
        lane = self._lanes.get(message.upstream)
        return lane is not None and lane.cancel_message(message.id)

    def _handle_cancel_result(
        self, message: MessageStatus, resolve: _CancelCallback, result: bool | StorageError
    ) -> None:
        if isinstance(result, StorageError):
            # It could not be written that it was called back, so it has to go on its way again; where it can't even be
            # read, after the next start.
            self._storage.load_message(message.id, partial(self._send_again, message.upstream))
        resolve(result)

    def _send_again(self, upstream_id: int | None, messages: Sequence[SubmittedMessage]) -> None:
        for each in messages:
            each.upstream = upstream_id
        self._send_by_upstream(messages)

    def handle_due_messages(self, due: DueMessages) -> None:
        self._simulator.send_messages(due.outbound)
        for message_id in due.expired_ids:
            self._simulator.cancel_message(message_id)
            for lane in self._lanes.values():
                lane.cancel_message(message_id)
        self._waiting_account_ids.update(due.queued_account_ids)
        # What the expired ones held up goes on.
        self._expect_waiting()
        self._claim()

    # --- what waits

    def _expect_waiting(self) -> None:
        self._may_claim = True
        self._claim_epoch += 1

    def handle_room(self, lane: _Lane) -> None:
        """There may be more room than before, or less."""
        lane.send_ready_messages()
        lane.update_available()
        if lane is self._default_lane:
            self._claim()

    def _claim(self) -> None:
        lane = self._default_lane
        if (
            lane is None
            or not self._may_claim
            or not self._is_recovered
            or lane.claiming
            or lane.claimable <= 0
            or self._is_closing
        ):
            return
        lane.claiming = min(lane.claimable, _BATCH_SIZE)
        lane.update_available()
        self._storage.claim_messages(
            lane.id, lane.claiming, lane.last_account_id, partial(self._handle_claimed, lane, self._claim_epoch)
        )

    def _handle_claimed(self, lane: _Lane, epoch: int, claimed: ClaimedMessages | StorageError) -> None:
        lane.claiming = 0
        if isinstance(claimed, StorageError):
            self._set_retry_timer(now_ms() + int(_CLAIM_RETRY_SECONDS * 1000))
            lane.update_available()
            return
        lane.last_account_id = claimed.last_account_id
        self._forget_waiting(claimed.emptied_account_ids)
        if not claimed.has_more and epoch == self._claim_epoch:
            self._may_claim = False
        self._set_retry_timer(claimed.next_retry_at)
        lane.send_messages(claimed.messages)
        lane.update_available()
        self._claim()

    def _forget_waiting(self, account_ids: Collection[int]) -> None:
        for each in account_ids:
            if each not in self._pending_enqueues:
                self._waiting_account_ids.discard(each)

    def _set_retry_timer(self, retry_at: int | None) -> None:
        """Claim what is to be tried again at `retry_at` (unix milliseconds), or earlier where that was set before."""
        if retry_at is None or self._is_closing or (self._retry_timer and self._retry_at <= retry_at):
            return
        if self._retry_timer:
            self._retry_timer.cancel()
        self._retry_at = retry_at
        self._retry_timer = self._loop.call_later(max(retry_at - now_ms(), 1) / 1000, self._handle_retry_time)

    def _handle_retry_time(self) -> None:
        self._retry_timer = None
        self._expect_waiting()
        self._claim()

    def handle_sending_stored(
        self, stored: Sequence[AcceptedMessage] | Sequence[UnsentMessage], result: SendingResult
    ) -> None:
        for upstream_id, count in Counter([each.upstream for each in stored]).items():
            lane = self._lanes.get(upstream_id)
            if lane is not None:
                lane.unsaved -= count
                lane.update_available()
        for upstream_id, upstream_message_id in result.early_ids:
            if upstream_id in self._lanes:
                self._lanes[upstream_id].remember_matched([upstream_message_id])
        for each in stored:
            if isinstance(each, UnsentMessage) and each.account_id is not None:
                self._finish_enqueue(each.account_id)
        self._forget_waiting(result.emptied_account_ids)
        if result.has_released:
            self._expect_waiting()
        self._set_retry_timer(result.next_retry_at)
        self._claim()

    # --- upstreams

    def handle_recovered(self, waiting_account_ids: Collection[int]) -> None:
        self._waiting_account_ids.update(waiting_account_ids)
        self._is_recovered = True
        self._expect_waiting()
        self._claim()

    def handle_upstreams_changed(self, configs: Sequence[UpstreamConfig], *, has_ever_had: bool) -> None:
        if self._is_closing:
            return
        self._uses_upstreams = has_ever_had
        present_ids = {config.upstream.id for config in configs}
        for upstream_id in [each for each in self._lanes if each not in present_ids]:
            self._close_lane(self._lanes.pop(upstream_id), _CLOSE_SECONDS)
        for config in configs:
            lane = self._lanes.get(config.upstream.id)
            if lane is None:
                lane = self._lanes[config.upstream.id] = _Lane(config, self, self._storage)
            self._apply_config(lane, config)
        default_ids = [config.upstream.id for config in configs if config.upstream.is_default]
        self._default_lane = self._lanes[default_ids[0]] if default_ids else None
        self._expect_waiting()
        self._claim()

    def _apply_config(self, lane: _Lane, config: UpstreamConfig) -> None:
        is_changed = config.upstream.version != lane.config.upstream.version
        lane.config = config
        if not config.upstream.enabled:
            self._close_lane(lane, _CLOSE_SECONDS)
        elif lane.closing is not None:
            pass  # it begins anew when that has ended
        elif lane.connection is None:
            lane.connection = self._create_connection(config, lane, self._loop)
            lane.connection.start()
            if not lane.connection.remembers_messages:
                # What an earlier one, of this process or another, had not ended.
                self._storage.load_unanswered_messages(lane.id, lane.send_messages)
        elif is_changed:
            lane.connection.change_config(config)
        lane.update_available()

    def _close_lane(self, lane: _Lane, seconds: float) -> None:
        connection, lane.connection = lane.connection, None
        lane.put_back_ready_messages()
        lane.update_available()
        if connection is not None:
            lane.closing = self._loop.create_task(connection.close(seconds))
            self._closing_tasks.add(lane.closing)
            lane.closing.add_done_callback(partial(self._handle_lane_closed, lane, connection))

    def _handle_lane_closed(self, lane: _Lane, connection: UpstreamConnection, task: asyncio.Task[None]) -> None:
        self._closing_tasks.discard(task)
        lane.closing = None
        self._save_counters_of(lane, connection)
        self._storage.record_bind_states(lane.id, ())
        if self._lanes.get(lane.id) is lane and not self._is_closing:
            self._apply_config(lane, lane.config)

    def _save_counters(self) -> None:
        for lane in self._lanes.values():
            if lane.connection is not None:
                self._save_counters_of(lane, lane.connection)
        self._counters_timer = self._loop.call_later(_COUNTERS_SECONDS, self._save_counters)

    def check_strays(self) -> None:
        """Look for messages that are an upstream's in the database alone; twice, to find any."""
        for lane in self._lanes.values():
            lane.check_strays()

    def _check_strays_periodically(self) -> None:
        self.check_strays()
        self._strays_timer = self._loop.call_later(_STRAY_SECONDS, self._check_strays_periodically)

    def _save_counters_of(self, lane: _Lane, connection: UpstreamConnection) -> None:
        counted = connection.take_counters()
        if counted:
            self._storage.add_upstream_counters(lane.id, counted)
