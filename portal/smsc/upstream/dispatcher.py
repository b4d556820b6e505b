"""Between what is stored and what sends it: which messages go to which upstream and when, and what came of them.

A message that an upstream has room for is stored as that upstream's, and sent as soon as it is on disk. All others wait
in the database, where they are claimed as room comes: nothing of them is in memory but which accounts have some.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial

from portal.core.clock import now_ms
from portal.services.messages.outcomes import DueMessages
from portal.services.messages.query_cancel import MessageStatus
from portal.services.messages.sending import (
    AcceptedMessage,
    ClaimedMessages,
    SendingResult,
    UnsentMessage,
    UnsentReason,
)
from portal.services.messages.trial_messages import UNSENT, UpstreamTestAnswer
from portal.services.messages.validation import SubmittedMessage
from portal.services.routing.route_table import RouteTable
from portal.services.upstreams.claims import Claim
from portal.services.upstreams.load import UpstreamLoad
from portal.services.upstreams.paths import UpstreamPath
from portal.smsc.storage.interface import (
    CancelCallback,
    NoRoute,
    StorageError,
    StorageUnavailable,
    SubmitCallback,
    UpstreamConfig,
)
from portal.smsc.storage.sqlite_outbound import OutboundStorage
from portal.smsc.upstream.channel import UpstreamChannel, UpstreamConnection
from portal.smsc.upstream.simulator.simulator import Simulator
from portal.smsc.upstream.smpp_client.upstream import SmppUpstream
from portal.smsc.upstream.takers import OutboundPath, PathTakers

log = logging.getLogger(__name__)

_BATCH_SIZE = 1_000
# How often it is looked at how upstreams do, and every how many times more than that.
_HEALTH_SECONDS = 0.25
_COUNTERS_CHECKS, _STRAYS_CHECKS = 4, 120
_CLAIM_RETRY_SECONDS = 1.0
# How long what is under way is waited for where an upstream is disabled or removed.
_CLOSE_SECONDS = 5.0


class Dispatcher:
    """Gives upstreams what is stored, and what was stored before the start. One for the process.

    `start`, then `close`. Until there is an upstream the built-in simulator gets everything.

    Args:
        simulator: the built-in one.
    """

    def __init__(self, storage: OutboundStorage, simulator: Simulator) -> None:
        self._storage = storage
        self._simulator = simulator
        self._loop = asyncio.get_running_loop()
        self._channels: dict[int, UpstreamChannel] = {}
        self._takers = PathTakers(storage, self._channels, self._claim)
        self._default_path = self._takers.default
        self._uses_upstreams = False
        self._is_closing = False
        self.put_backs = self._takers.put_backs
        self.begin_put_back = self._takers.begin_put_back
        self.choose_route_use = self._takers.choose_route_use
        # The simulators of which it is still looked for what they have (None: the built-in one), those of which that
        # is to be read (again), and what is to be called back and may be among that.
        self._resuming_ids: set[int | None] = {None}
        self._unread_ids: set[int | None] = set()
        self._postponed_cancels: list[tuple[MessageStatus, CancelCallback]] = []
        # Messages that no route takes: since the log told last, and since they were counted last.
        self._unroutable_count = self._uncounted_count = 0
        self._retry_timer: asyncio.TimerHandle | None = None
        self._retry_at = 0
        self._checks_timer: asyncio.TimerHandle | None = None
        self._check_count = 0
        self._closing_tasks: set[asyncio.Task[None]] = set()
        self._claims_ended = asyncio.Event()
        self._claims_ended.set()
        storage.listener = self

    def start(self) -> None:
        """Begin to look after the upstreams; the storage tells of them, and of what was under way."""
        self._checks_timer = self._loop.call_later(_HEALTH_SECONDS, self._check_periodically)

    async def close(self, seconds: float) -> None:
        """Send nothing more, wait so long for what is under way, disconnect, and wait as long for what is claimed."""
        self._is_closing = True
        self._takers.stop()
        for _, resolve in self._postponed_cancels:
            resolve(StorageUnavailable("the server stops"))
        self._postponed_cancels.clear()
        for channel in self._channels.values():
            self._close_channel(channel, seconds)
        await self._simulator.close(0)
        if self._closing_tasks:
            await asyncio.wait(self._closing_tasks)
        # What is being claimed at this moment is put back: nothing of it may have arrived.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._claims_ended.wait(), seconds)
        for timer in (self._retry_timer, self._checks_timer):
            if timer:
                timer.cancel()

    # --- messages from clients

    def store_submit(self, message: SubmittedMessage, resolve: SubmitCallback) -> None:
        """Store a message as that of an upstream that has room, or to wait; see `OutboundStorage.store_submit`. One
        that nothing takes is refused.
        """
        if self._uses_upstreams:
            path = self._takers.choose_path(message) if self._takers.is_choosing else self._default_path
            if path is None:
                if not self._unroutable_count:
                    log.warning(
                        "messages are refused, as no route takes their numbers and there is no default upstream"
                    )
                self._unroutable_count += 1
                self._uncounted_count += 1
                self._loop.call_soon(resolve, NoRoute(message.country))
                return
            if message.scheduled_at is None:
                channel = path.direct
                if (
                    channel is not None
                    and channel.available > 0
                    and (message.account_id not in path.waiting_account_ids or path.may_pass(message))
                ):
                    channel.available -= 1
                    channel.reserved += 1
                    message.upstream = channel.id
                    message.is_simulated = channel.is_simulated
                else:
                    message.is_queued = True
                    message.path = path.upstream_ids
                    path.begin_enqueue(message)
        self._storage.store_submit(message, resolve)

    def handle_submits_stored(self, submits: Sequence[SubmittedMessage], outbound: Sequence[SubmittedMessage]) -> None:
        if not self._uses_upstreams:
            self._simulator.send_messages(outbound)
            return
        channels: set[UpstreamChannel] = set()
        for each in submits:
            if each.is_queued:
                self._takers.finish_enqueue(each)
            elif each.upstream in self._channels:
                channel = self._channels[each.upstream]
                channel.reserved -= 1
                channels.add(channel)
        self._send_by_upstream(outbound)
        for channel in channels:
            channel.update_available()
        if len(outbound) < len(submits):
            # Some wait, or have left their room to others.
            self._claim()

    def put_back_followers(self, channel: UpstreamChannel) -> None:
        if not self.put_backs:
            return
        channel.put_back_followers()
        if self._takers.routes.tells_senders_apart:
            # Other upstreams may have messages of other senders to the same number.
            for each in self._channels.values():
                if each is not channel:
                    each.put_back_followers()
                    each.take_back_followers()

    def _send_by_upstream(self, outbound: Sequence[SubmittedMessage]) -> None:
        upstream_ids = {each.upstream for each in outbound}
        for upstream_id in upstream_ids:
            messages = outbound
            if len(upstream_ids) > 1:
                messages = [each for each in outbound if each.upstream == upstream_id]
            if upstream_id is None:
                self._simulator.send_messages(messages)
            elif upstream_id in self._channels:
                self._channels[upstream_id].send_messages(messages)
            else:
                # It was removed while they were being stored.
                for each in messages:
                    flow = (each.account_id, each.destination)
                    self.begin_put_back(flow)
                    self._storage.store_unsent_message(UnsentMessage(upstream_id, each.id, UnsentReason.PUT_BACK, flow))
                for channel in self._channels.values():
                    channel.put_back_followers()

    def cancel_message(self, message: MessageStatus, resolve: CancelCallback) -> None:
        """Call a message back: one whose date is still to come, one that waits, or one that a simulator has not ended.

        `resolve` gets whether it was called back.
        """
        if message.is_scheduled or message.is_queued or self._cancel_sending(message):
            self._storage.cancel_message(message, partial(self._handle_cancel_result, message, resolve))
        elif message.upstream in self._resuming_ids:
            self._postponed_cancels.append((message, resolve))
        else:
            resolve(False)

    def _cancel_sending(self, message: MessageStatus) -> bool:
        if message.upstream is None:
            return bool(self._simulator.cancel_messages([message.id]))
        channel = self._channels.get(message.upstream)
        return channel is not None and channel.cancel_message(message.id)

    def _handle_cancel_result(
        self, message: MessageStatus, resolve: CancelCallback, result: bool | StorageError
    ) -> None:
        if result is True:
            # What it held up goes on.
            self._claim_held_up()
        elif not (message.is_scheduled or message.is_queued):
            # It was not called back, or that could not be written, so it has to go on its way again, unless it has
            # ended; where it can't even be read, after the next start.
            self._storage.load_message(message.id, partial(self._send_again, message.upstream))
        resolve(result)

    def _send_again(self, upstream_id: int | None, messages: Sequence[SubmittedMessage] | StorageError) -> None:
        if isinstance(messages, StorageError):
            return
        for each in messages:
            each.upstream = upstream_id
        self._send_by_upstream(messages)

    def handle_due_messages(self, due: DueMessages) -> None:
        self._simulator.send_messages(due.outbound)
        self._simulator.cancel_messages(due.expired_ids)
        for message_id in due.expired_ids:
            for channel in self._channels.values():
                channel.cancel_message(message_id)
        self._takers.add_waiting(due.waiting)
        # What the expired ones held up goes on.
        self._claim_held_up()

    # --- what waits

    def handle_room(self, channel: UpstreamChannel) -> None:
        """There may be more room than before, or less."""
        channel.send_ready_messages()
        channel.update_available()
        if channel.claimable > 0 and not channel.claiming:
            self._claim_for(channel)

    def _claim(self) -> None:
        for channel in self._channels.values():
            if channel.wants_trial:
                self._claim_for(channel, is_trial=True)
        for channel in self._channels.values():
            if channel.claimable > 0 and not channel.claiming:
                self._claim_for(channel)

    def _claim_held_up(self) -> None:
        """Claim, where something may go on that was held up."""
        self._takers.expect_waiting()
        self._claim()

    def _claim_for(self, channel: UpstreamChannel, *, is_trial: bool = False) -> None:
        """Claim what there is room for; or one message for an upstream that has failed: what becomes of it tells
        whether it is well again.
        """
        paths = self._takers.list_claimable_paths(channel, is_trial=is_trial)
        if not paths or not self._takers.is_recovered or self._is_closing:
            return
        # Room that is kept for a claim is nobody else's, and what is submitted meanwhile would have to wait, too.
        most = sum(_BATCH_SIZE if each.most_waiting is None else each.most_waiting for each in paths)
        limit = 1 if is_trial else min(channel.claimable, most, _BATCH_SIZE)
        self._claims_ended.clear()
        channel.claiming = limit
        channel.update_available()
        for path in paths:
            # Until the answer comes: what is known to wait by then is counted in that.
            path.most_waiting = 0
        claim = Claim(channel.id, [each.upstream_ids for each in paths], limit, channel.last_account_id, is_trial)
        self._storage.claim_messages(claim, partial(self._handle_claimed, channel, paths, is_trial))

    def _handle_claimed(
        self,
        channel: UpstreamChannel,
        paths: Sequence[OutboundPath],
        is_trial: bool,
        claimed: ClaimedMessages | StorageError,
    ) -> None:
        channel.claiming = 0
        if not any(each.claiming for each in self._channels.values()):
            self._claims_ended.set()
        if isinstance(claimed, StorageError):
            for path in paths:
                path.expect_waiting()
            self._set_retry_timer(now_ms() + int(_CLAIM_RETRY_SECONDS * 1000))
            channel.update_available()
            return
        channel.last_account_id = claimed.ids.last_account_id
        self._takers.forget_waiting(claimed.ids.emptied_account_ids, claimed.ids.emptied_paths)
        self._takers.note_held(claimed.ids.held_destinations)
        self._takers.add_waiting(claimed.ids.moved_paths)
        for path in paths:
            path.take_left(claimed.ids.left_count if len(paths) == 1 or not claimed.ids.left_count else None)
        self._set_retry_timer(claimed.next_retry_at)
        may_send = all(path.taker is channel for path in paths)
        if is_trial:
            may_send = not claimed.messages or self._begin_trial(channel, *claimed.messages)
        if may_send:
            channel.send_messages(claimed.messages)
        else:
            channel.put_back_messages(claimed.messages)
        channel.update_available()
        if is_trial:
            self._takers.update()
        self._claim()

    def _begin_trial(self, channel: UpstreamChannel, message: SubmittedMessage) -> bool:
        """Let what comes behind the one message wait for it; returns whether it passes nothing that another upstream
        has.
        """
        channel.trial_id = message.id
        self._takers.expect_held(message)
        flow = (message.account_id, message.destination)
        return not any(each.has_flow(flow) for each in self._channels.values() if each is not channel)

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
        self._claim_held_up()

    def handle_sending_stored(
        self, stored: Sequence[AcceptedMessage] | Sequence[UnsentMessage], result: SendingResult
    ) -> None:
        for upstream_id, count in Counter([each.upstream for each in stored]).items():
            channel = self._channels.get(upstream_id)
            if channel is not None:
                channel.unsaved -= count
                channel.update_available()
        for each in stored:
            if isinstance(each, UnsentMessage) and each.flow is not None:
                self._takers.finish_put_back(each.flow)
        self._takers.forget_waiting(result.emptied_account_ids)
        if result.has_released:
            self._takers.expect_waiting()
        self._set_retry_timer(result.next_retry_at)
        self._claim()

    @property
    def held_account_ids(self) -> frozenset[int]:
        return self._takers.held_account_ids

    def handle_holds_changed(self, account_ids: frozenset[int]) -> None:
        if self._is_closing:
            return
        self._takers.change_holds(account_ids)
        for channel in self._channels.values():
            channel.take_back_held_messages()
        self._claim()

    # --- upstreams

    def handle_recovered(self, waiting: Collection[tuple[UpstreamPath, int]]) -> None:
        if self._is_closing:
            return
        self._takers.handle_recovered(waiting)
        self._resume_simulator(None)
        self._storage.put_back_abandoned_messages()
        self._claim_held_up()

    def handle_upstreams_changed(self, configs: Sequence[UpstreamConfig], *, has_ever_had: bool) -> None:
        if self._is_closing:
            return
        self._uses_upstreams = has_ever_had
        present_ids = {config.upstream.id for config in configs}
        for upstream_id in [each for each in self._channels if each not in present_ids]:
            self._close_channel(self._channels.pop(upstream_id), _CLOSE_SECONDS)
        for config in configs:
            channel = self._channels.get(config.upstream.id)
            if channel is None:
                channel = self._channels[config.upstream.id] = UpstreamChannel(config, self, self._storage)
            self._apply_config(channel, config)
        default_id = next((each.upstream.id for each in configs if each.upstream.is_default), None)
        self._takers.set_default_upstream(default_id)
        self._claim_held_up()

    def handle_traces_changed(self, ends: Mapping[int, int]) -> None:
        for channel in self._channels.values():
            channel.tracer.change_end(ends.get(channel.id, 0))

    def handle_test_message(self, message: SubmittedMessage) -> None:
        channel = self._channels.get(message.upstream or 0)
        if channel is not None:
            channel.send_test_message(message)
        else:
            self._storage.store_test_answer(UpstreamTestAnswer(-message.id, UNSENT))

    def handle_routes_changed(self, routes: RouteTable, *, moves_waiting: bool) -> None:
        if self._is_closing:
            return
        self._takers.change_routes(routes, moves_waiting=moves_waiting)
        self._claim()

    def _apply_config(self, channel: UpstreamChannel, config: UpstreamConfig) -> None:
        try:
            self._change_connection(channel, config)
        except Exception:
            # Another version may have stored what this one doesn't take. The other upstreams go on.
            log.exception("upstream %s can't be as it is set", config.upstream.name)
        channel.update_available()

    def _change_connection(self, channel: UpstreamChannel, config: UpstreamConfig) -> None:
        is_changed = config.upstream.version != channel.config.upstream.version
        channel.config = config
        if not config.upstream.enabled:
            self._close_channel(channel, _CLOSE_SECONDS)
        elif channel.closing is not None:
            pass  # it begins anew when that has ended
        elif channel.connection is None:
            if channel.is_simulated:
                channel.connection = Simulator(self._storage.store_outcomes)
            else:
                channel.connection = SmppUpstream(config, channel)
            channel.begin_health(self._loop.time())
            channel.connection.start()
            if channel.is_simulated:
                self._resume_simulator(channel.id)
        elif is_changed:
            channel.connection.change_config(config)
            channel.send_ready_messages()

    def _resume_simulator(self, upstream_id: int | None) -> None:
        """Give a simulator again what an earlier one, of this process or another, had not ended."""
        self._resuming_ids.add(upstream_id)
        self._storage.load_simulated_messages(upstream_id, partial(self._handle_simulated_loaded, upstream_id))

    def _handle_simulated_loaded(
        self, upstream_id: int | None, messages: Sequence[SubmittedMessage] | StorageError
    ) -> None:
        if isinstance(messages, StorageError):
            # It is looked for again with the strays.
            self._unread_ids.add(upstream_id)
        elif not messages:
            self._resuming_ids.discard(upstream_id)
            cancels, self._postponed_cancels = self._postponed_cancels, []
            for each in cancels:
                self.cancel_message(*each)
        elif upstream_id is None:
            self._simulator.send_messages(messages)
        elif upstream_id in self._channels and (connection := self._channels[upstream_id].connection):
            connection.send_messages(messages)

    def _close_channel(self, channel: UpstreamChannel, seconds: float) -> None:
        connection, channel.connection = channel.connection, None
        channel.put_back_ready_messages()
        channel.update_available()
        if connection is not None:
            channel.closing = self._loop.create_task(connection.close(seconds))
            self._closing_tasks.add(channel.closing)
            channel.closing.add_done_callback(partial(self._handle_channel_closed, channel, connection))

    def _handle_channel_closed(
        self, channel: UpstreamChannel, connection: UpstreamConnection, task: asyncio.Task[None]
    ) -> None:
        self._closing_tasks.discard(task)
        channel.closing = None
        channel.save_counters(connection)
        channel.retry_receipts()
        channel.tracer.flush()
        self._storage.record_bind_states(channel.id, ())
        self._storage.record_load(channel.id, UpstreamLoad())
        if self._is_closing:
            return
        if self._channels.get(channel.id) is channel:
            self._apply_config(channel, channel.config)
        elif channel.is_simulated:
            self._storage.put_back_abandoned_messages()

    def handle_commit_in_doubt(self) -> None:
        self._unread_ids |= {None, *(each.id for each in self._channels.values() if each.is_simulated)}

    def check_strays(self) -> None:
        """Look for messages that are an upstream's in the database alone; twice, to find any. Those that are a
        simulator's are looked for only where there may be some, or where that failed before, as it takes long.
        """
        for channel in self._channels.values():
            channel.check_strays()
        simulator_ids, self._unread_ids = self._unread_ids, set()
        for simulator_id in simulator_ids:
            self._resume_simulator(simulator_id)

    def _check_periodically(self) -> None:
        self._checks_timer = self._loop.call_later(_HEALTH_SECONDS, self._check_periodically)
        self._check_count += 1
        if not self._is_closing:
            self._takers.check_health(self._loop.time())
        if self._check_count % _COUNTERS_CHECKS == 0:
            for channel in self._channels.values():
                channel.retry_receipts()
                if channel.connection is not None:
                    channel.save_counters(channel.connection)
            if self._uncounted_count:
                self._storage.count_unroutable_submits(self._uncounted_count)
                self._uncounted_count = 0
        if self._check_count % _STRAYS_CHECKS == 0:
            for channel in self._channels.values():
                channel.log_counts()
            if self._unroutable_count > 1:
                log.warning("%d messages were refused, as no route takes their numbers", self._unroutable_count)
            self._unroutable_count = 0
            self.check_strays()
