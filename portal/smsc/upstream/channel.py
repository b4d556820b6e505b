"""One upstream as the dispatcher uses it: how much it may be given, what is on its way there, and what comes of it.

A kind of upstream is a package beside this module with a class that implements `UpstreamConnection`, and tells an
`UpstreamChannel` what comes of it; `Dispatcher` makes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

from portal.core.clock import now_ms
from portal.services.messages.inbound import InboundItem
from portal.services.messages.message_parts import TextPart
from portal.services.messages.receipt_matching import MIN_DIGITS, UpstreamReceipt, may_be_about
from portal.services.messages.sending import AcceptedMessage, Flow, UnsentMessage, UnsentReason
from portal.services.messages.trial_messages import ACCEPTED, REFUSED, UNANSWERED, UNSENT, UpstreamTestAnswer
from portal.services.messages.validation import SubmittedMessage
from portal.services.routing.route_usage import RouteUse
from portal.services.upstreams.binds import BindState
from portal.services.upstreams.health import FAILING, TRYING, UpstreamHealth
from portal.services.upstreams.load import TOO_MANY, UpstreamLoad
from portal.services.upstreams.upstreams import SIMULATOR
from portal.smsc.storage.interface import UpstreamConfig
from portal.smsc.storage.sqlite_outbound import OutboundStorage
from portal.smsc.upstream.health import HealthTracker
from portal.smsc.upstream.pdu_tracer import PduTracer

log = logging.getLogger(__name__)

# Beside what there is room for, so much is claimed as goes out within this time at the upstream's rate.
_AHEAD_SECONDS = 0.05
# Carriers send some receipts twice, and those that were not answered again after a connection has ended. So many of the
# latest ones of each upstream are remembered: by id and handset where their message was found, and otherwise whole;
# as hashes, since the texts would take 17 MiB.
_KNOWN_RECEIPTS = 20_000
# Of those that come again and match nothing, so many are looked for again: their messages may not be answered yet.
_RETRIED_RECEIPTS = 1_000
_NO_ANSWERS = "no answer"
# A command_status has 2^32 values. So many kinds of refusals are told of by their names until the log tells how many.
_MAX_REFUSAL_KINDS = 10

Resolve = Callable[[bool], None]
"""Takes whether something is on disk."""


class UpstreamConnection(Protocol):
    """What takes messages on to their destinations: one upstream. Runs on the event loop and never blocks it."""

    def start(self) -> None:
        """Connect, and stay so."""

    def change_config(self, config: UpstreamConfig) -> None:
        """Go on with other settings."""

    @property
    def is_connected(self) -> bool:
        """Whether it can take messages at all."""

    @property
    def room(self) -> int:
        """How many messages it takes at this moment. A text is one, however many parts it is cut into; once it is
        taken, each of these that waits or is under way takes up a place.
        """

    @property
    def awaits_answer(self) -> bool:
        """Whether it has sent anything that isn't answered."""

    @property
    def window(self) -> int:
        """How many messages may be under way at most."""

    @property
    def rate(self) -> float:
        """How many messages a second it takes at this time; 0: as many as there is room for."""

    def send_messages(self, messages: Sequence[SubmittedMessage]) -> None:
        """Take messages, which are on disk, `room` at most. What comes of each is told to the channel."""

    def cancel_messages(self, message_ids: Sequence[int]) -> list[int]:
        """Send those of these no more with which that is still possible; returns their ids. Nothing is told of them."""

    def take_counters(self) -> Mapping[str, int]:
        """Return what was counted since the last call, by names of `counters.COUNTERS`."""

    def measure(self) -> UpstreamLoad:
        """Return what it does at the moment, but for what went wrong; called once a second."""

    async def close(self, seconds: float) -> None:
        """Take no more, wait for what is under way for so many seconds, and disconnect. What has no answer by then is
        told as lost, but for what a simulator has.
        """


class ChannelOwner(Protocol):
    """What a channel tells the dispatcher.

    put_backs: the accounts and destinations of what is being stored to wait again: nothing later may pass it.
    """

    put_backs: Counter[Flow]

    @property
    def held_account_ids(self) -> frozenset[int]:
        """The accounts on hold: nothing of theirs is sent."""

    def begin_put_back(self, flow: Flow) -> None:
        """A message is being stored to wait again. `put_back_followers` comes before anything else is sent."""

    def choose_route_use(self, message: SubmittedMessage, upstream_id: int) -> RouteUse:
        """How a message takes the route that fits it now, where this upstream sends it."""

    def put_back_followers(self, channel: UpstreamChannel) -> None:
        """What would pass a message of this channel that waits again, waits behind it, whichever channel has it."""

    def handle_room(self, channel: UpstreamChannel) -> None:
        """There may be more room than before, or less."""


class UpstreamChannel:
    """One upstream: its connection, and how much it may be given. It is told what becomes of that.

    is_simulated: whether it sends nothing. After a restart it gets again all that it had, and nothing of it is unsure;
    what it has when it is removed waits again. connection: None where it is disabled, or has been removed. closing: the
    end of the connection before, which comes before another one begins. available: how many more messages may be stored
    as this upstream's. claimable: how many may be claimed for it, some of them ahead of the room. reserved: those that
    are being stored as its. claiming: those that were asked for. unsaved: answers that are not on disk yet.
    last_account_id: whose turn was the last. health: how well it does. trial_id: the message that it was given to see
    whether it is well again, as long as it has not answered that. has_lost_path: whether another one may have taken a
    path over, of which this one may have something still. tracer: of its PDUs, over all connections.
    """

    def __init__(self, config: UpstreamConfig, owner: ChannelOwner, storage: OutboundStorage) -> None:
        self.id = config.upstream.id
        self.is_simulated = config.upstream.kind == SIMULATOR
        self.config = config
        self.connection: UpstreamConnection | None = None
        self.closing: asyncio.Task[None] | None = None
        self.available = self.claimable = self.reserved = self.claiming = self.unsaved = 0
        self.last_account_id = 0
        self.health = HealthTracker(0)
        self.trial_id: int | None = None
        self.has_lost_path = False
        self.tracer = PduTracer(partial(storage.store_traced_pdus, self.id))
        self._owner = owner
        self._storage = storage
        # What is stored as this upstream's, in the order of sending, and waits for room.
        self._ready: deque[SubmittedMessage] = deque()
        # Of what was sent and is not answered, by message id.
        self._flows: dict[int, Flow] = {}
        # How these take their routes.
        self._uses: dict[int, RouteUse] = {}
        self._known_receipts: OrderedDict[int, None] = OrderedDict()
        # With the times (unix milliseconds) at which they came.
        self._retried_receipts: deque[tuple[int, UpstreamReceipt]] = deque(maxlen=_RETRIED_RECEIPTS)
        self._stray_ids: frozenset[int] = frozenset()
        # How often what was said, since the log told last.
        self._refusals: Counter[str] = Counter()
        self._delivery_refusals: Counter[str] = Counter()
        self._unmatched_count = 0
        self._last_error: tuple[str, int | None] = ("", None)
        self._stored_load: UpstreamLoad | None = None

    @property
    def name(self) -> str:
        return self.config.upstream.name

    @property
    def may_send(self) -> bool:
        """Whether it gets messages, as far as it has room."""
        upstream = self.config.upstream
        return upstream.enabled and not upstream.draining

    @property
    def has_unanswered(self) -> bool:
        """Whether it has anything, or is just being given something, of which it is not on disk what became of it."""
        return bool(self._flows or self._ready or self.reserved or self.claiming or self.unsaved)

    @property
    def wants_trial(self) -> bool:
        """Whether it has failed, and is to be given a message to see whether it is well again."""
        return self.health.state == TRYING and self.trial_id is None and not self.claiming and self.claimable > 0

    def begin_health(self, now: float) -> None:
        """A connection begins (seconds, on the event loop's clock): nothing is known of it."""
        old_state = self.health.state
        self.health = HealthTracker(now)
        self._stored_load = None
        if self.health.state != old_state:
            self.record_health()

    def record_health(self) -> None:
        """Store how well it does."""
        self._storage.record_health(self.id, UpstreamHealth(self.health.state, now_ms(), self.health.reason))

    def check_health(self, now: float) -> bool:
        """Look how well it does; returns whether that has changed."""
        connection = self.connection
        # One that is enabled, and could not be made, is not bound.
        if connection is None and (self.closing is not None or not self.config.upstream.enabled):
            return False
        if self.trial_id not in self._flows:
            self.trial_id = None
        return self.health.update(
            now,
            self.config.upstream.settings.failover_seconds,
            is_connected=connection is not None and connection.is_connected,
            has_unanswered=bool(self._flows),
            awaits_answer=connection is not None and connection.awaits_answer,
        )

    def has_flow(self, flow: Flow) -> bool:
        """Whether it has any message of this account to this destination that it has not answered."""
        return flow in self._flows.values() or any((each.account_id, each.destination) == flow for each in self._ready)

    def take_back_messages(self) -> None:
        """What it has not begun with waits again, for another one, where it fails or is to get nothing more."""
        if self.may_send and self.health.state != FAILING:
            return
        # What is being stored as its may still come.
        self.has_lost_path = self.reserved > 0
        connection = self.connection
        if connection is None or self.is_simulated:
            return
        self._take_back(connection, list(self._flows))
        self.put_back_ready_messages()

    def _take_back(self, connection: UpstreamConnection, message_ids: Sequence[int]) -> None:
        for message_id in connection.cancel_messages(message_ids):
            self._put_back(message_id, self._pop_flow(message_id), UnsentReason.PUT_BACK)

    def put_back_followers(self) -> None:
        """What is ready, and would pass a message that waits again, waits behind it."""
        put_backs = self._owner.put_backs
        followers = [each for each in self._ready if (each.account_id, each.destination) in put_backs]
        if followers:
            self._ready = deque(each for each in self._ready if (each.account_id, each.destination) not in put_backs)
            for each in followers:
                self._put_back(each.id, (each.account_id, each.destination), UnsentReason.PUT_BACK)

    def take_back_followers(self) -> None:
        """What the connection has not begun, and would pass a message that waits again, waits behind it."""
        put_backs = self._owner.put_backs
        message_ids = [each for each, flow in self._flows.items() if flow in put_backs]
        if message_ids and self.connection is not None:
            self._take_back(self.connection, message_ids)

    def take_back_held_messages(self) -> None:
        """What it has not begun with of accounts on hold waits again."""
        held_ids = self._owner.held_account_ids
        # What a simulator has is as good as sent.
        if self.connection is not None and not self.is_simulated:
            self._take_back(self.connection, [each for each, flow in self._flows.items() if flow[0] in held_ids])
        self._put_back_held_messages()

    def _put_back_held_messages(self) -> None:
        held_ids = self._owner.held_account_ids
        held = [each for each in self._ready if each.account_id in held_ids]
        if held:
            self._ready = deque(each for each in self._ready if each.account_id not in held_ids)
            self.put_back_messages(held)

    def put_back_messages(self, messages: Iterable[SubmittedMessage]) -> None:
        """These were claimed for it, and wait again."""
        for message in messages:
            self._put_back(message.id, (message.account_id, message.destination), UnsentReason.PUT_BACK)
        self._owner.put_back_followers(self)

    def _get_sender(self) -> UpstreamConnection | None:
        """Return the connection, where messages can go out on it."""
        connection = self.connection
        return connection if connection is not None and connection.is_connected and self.may_send else None

    def update_available(self) -> None:
        """Look how much room there is. After a crash what is under way is unsure: no more than the window, and as many
        that are claimed ahead or whose answers are not on disk.
        """
        connection = self._get_sender()
        if connection is None:
            self.available = self.claimable = 0
            return
        room, window = connection.room, connection.window
        room -= self.reserved + self.claiming + len(self._ready) + max(self.unsaved - window, 0)
        self.available = max(room, 0)
        # A claim takes a commit. Meanwhile there is something to send, but no more than can soon be.
        ahead = window if not connection.rate else min(window, int(connection.rate * _AHEAD_SECONDS))
        self.claimable = max(room + max(ahead - self.unsaved, 0), 0)

    def send_messages(self, messages: Iterable[SubmittedMessage]) -> None:
        """Send what is stored as this upstream's, behind what is ready already."""
        self._ready.extend(messages)
        if self._owner.put_backs:
            # Some were claimed, or stored as this upstream's, before an earlier one of them was refused.
            self.put_back_followers()
        if self._owner.held_account_ids:
            # They were claimed, or stored as this upstream's, in the moment in which their account was held.
            self._put_back_held_messages()
        self.send_ready_messages()

    def send_ready_messages(self) -> None:
        """Send what is ready, as far as there is room."""
        ready, connection = self._ready, self._get_sender()
        if not ready:
            return
        if connection is None:
            self.put_back_ready_messages()
            return
        room = connection.room
        if not room:
            return
        sent = [ready.popleft() for _ in range(min(room, len(ready)))]
        if not self.is_simulated:
            for each in sent:
                each.use = self._uses[each.id] = self._owner.choose_route_use(each, self.id)
                self._flows[each.id] = (each.account_id, each.destination)
        connection.send_messages(sent)

    def send_test_message(self, message: SubmittedMessage) -> None:
        """Send a message of an operator's, whose id is negative: beside all others, whether it is drained or fails."""
        connection = self.connection
        if connection is None or self.is_simulated or not connection.is_connected or not connection.room:
            self._store_test_answer(message.id, UNSENT)
        else:
            connection.send_messages([message])
            self.update_available()

    def _store_test_answer(self, message_id: int, state: str, upstream_id: str = "", status: str = "") -> None:
        self._storage.store_test_answer(UpstreamTestAnswer(-message_id, state, upstream_id, status))

    def cancel_message(self, message_id: int) -> bool:
        """Send a message no more; returns whether that was still possible."""
        message = next((each for each in self._ready if each.id == message_id), None)
        if message is None:
            if self.connection is None or not (self.is_simulated or message_id in self._flows):
                return False
            was_cancelled = bool(self.connection.cancel_messages([message_id]))
            if was_cancelled:
                self._forget(message_id)
            return was_cancelled
        self._ready.remove(message)
        self.update_available()
        return True

    def put_back_ready_messages(self) -> None:
        """What is ready cannot be sent: it waits again, for whichever upstream can."""
        ready, self._ready = self._ready, deque()
        self.put_back_messages(ready)

    def check_strays(self) -> None:
        """Look whether the database has messages as this upstream's that nobody here knows: a commit in doubt leaves
        some. Those that were there the last time, too, may have been sent.
        """
        if self.connection is not None and not self.is_simulated:
            self._storage.find_unanswered_ids(self.id, self._handle_unanswered_found)

    def _handle_unanswered_found(self, message_ids: Sequence[int]) -> None:
        if self.reserved or self.claiming or self.unsaved:
            self._stray_ids = frozenset()  # what is being written may be any of these
            return
        known_ids = {*self._flows, *(each.id for each in self._ready)}
        stray_ids = frozenset(message_ids) - known_ids
        for each in sorted(stray_ids & self._stray_ids):
            log.warning("message %d was %s's, and not under way", each, self.name)
            self._store_unsent(UnsentMessage(self.id, each, UnsentReason.UNSURE))
        self._stray_ids = stray_ids

    def count_refusals(self, status: str, count: int = 1) -> None:
        """Have the log tell of refusals: the first ones at once, the others together."""
        self._note_error(status)
        if status not in self._refusals and len(self._refusals) >= _MAX_REFUSAL_KINDS:
            status = "other statuses"
        if status not in self._refusals:
            log.warning("upstream %s refuses messages: %s", self.name, status)
        self._refusals[status] += count

    def log_counts(self) -> None:
        """Tell of refusals, and of receipts that had no message when they came, since the last time."""
        name = self.name
        for status, count in self._refusals.items():
            if count > 1:
                log.warning("upstream %s has refused %d messages: %s", name, count, status)
        for status, count in self._delivery_refusals.items():
            if count > 1:
                log.warning("%d messages or receipts of upstream %s were refused with %s", count, name, status)
        if self._unmatched_count:
            # Some come before the answer to their submit_sm, and find their message then.
            log.info(
                "%d receipts of upstream %s had no message when they came; those that find none: upstream unmatched %s",
                self._unmatched_count,
                name,
                name,
            )
        self._refusals.clear()
        self._delivery_refusals.clear()
        self._unmatched_count = 0

    def save_counters(self, connection: UpstreamConnection) -> None:
        """Store what a connection of this upstream has counted since the last time."""
        counted = connection.take_counters()
        if counted.get("throttled"):
            self.count_refusals(TOO_MANY, counted["throttled"])
        if counted:
            self._storage.add_upstream_counters(self.id, counted)
        error, error_at = self._last_error
        load = replace(connection.measure(), last_error=error, last_error_at=error_at)
        # What an earlier process has stored as the last error stays, until there is another one.
        if load != (self._stored_load or UpstreamLoad()):
            self._stored_load = load
            self._storage.record_load(self.id, load)

    def _note_error(self, error: str) -> None:
        self._last_error = (error, now_ms())

    # --- what the connection tells, on the event loop; nothing here raises

    def handle_accepted(
        self,
        message_id: int,
        upstream_message_id: str,
        bind: int,
        part: TextPart | None = None,
        *,
        is_complete: bool = True,
    ) -> None:
        """It has taken a message, or a part of one, under an id of its own ("" where it gave none).

        `is_complete`: whether nothing more of that message is under way, or was to be sent.
        """
        self.health.has_answered = True
        if message_id < 0:
            self._store_test_answer(message_id, ACCEPTED, upstream_message_id)
            return
        self.unsaved += 1
        use = self._uses.get(message_id)
        if is_complete:
            self._forget(message_id)
        # Others may share the commit, unless the answers on their way to the disk hold up what could be sent. That a
        # part was accepted is on disk before what becomes of the others.
        is_urgent = part is not None or (self.connection is not None and self.unsaved * 2 > self.connection.window)
        accepted = AcceptedMessage(self.id, message_id, upstream_message_id, bind, now_ms(), part, use)
        self._storage.store_accepted_message(accepted, is_urgent=is_urgent)

    def handle_refused(
        self, message_id: int, status: str, ptt: int, part_statuses: Mapping[int, str] | None = None
    ) -> None:
        """It has refused a message for good; or parts of it, with this, by their numbers."""
        self.health.has_answered = True
        if message_id < 0:
            self._store_test_answer(message_id, REFUSED, status=status)
            return
        self._forget(message_id)
        self.count_refusals(status)
        self._store_unsent(UnsentMessage(self.id, message_id, UnsentReason.REFUSED, None, status, ptt, part_statuses))

    def handle_held(self, message_id: int, status: str) -> None:
        """It has refused a message for the moment."""
        if message_id < 0:
            self._store_test_answer(message_id, REFUSED, status=status)
            return
        flow = self._pop_flow(message_id)
        self.health.note_error(flow[1], status)
        self.count_refusals(status)
        self._put_back(message_id, flow, UnsentReason.HELD, status)
        self._owner.put_back_followers(self)

    def handle_throttled(self, message_id: int, status: str) -> None:
        """It has refused a message as too much at a time, which the connection tries again by itself."""
        if message_id in self._flows:
            self.health.note_error(self._flows[message_id][1], status)

    def handle_interrupted(self, message_id: int) -> None:
        """A message can't be sent whole this time, and parts of it are still under way: nothing may pass it. It is told
        of again once they are not.
        """
        if message_id < 0:
            return
        self._put_back(message_id, self._flows[message_id], UnsentReason.INTERRUPTED)
        self._owner.put_back_followers(self)

    def handle_lost(self, unsure: Sequence[int], unsent: Sequence[int]) -> None:
        """These have no answer, and will have none: some may have arrived, the others certainly haven't."""
        for message_ids, reason in ((unsure, UnsentReason.UNSURE), (unsent, UnsentReason.PUT_BACK)):
            for each in message_ids:
                if each < 0:
                    self._store_test_answer(each, UNANSWERED if reason is UnsentReason.UNSURE else UNSENT)
                    continue
                flow = self._pop_flow(each)
                if reason is UnsentReason.UNSURE:
                    self.health.note_error(flow[1], _NO_ANSWERS)
                self._put_back(each, flow, reason)
        self._owner.put_back_followers(self)
        self._owner.handle_room(self)

    def handle_receipt(self, receipt: UpstreamReceipt, resolve: Resolve) -> None:
        """It says what became of a message."""
        # The id alone doesn't say it: another state follows, and some carriers begin their ids anew.
        flow_key = hash((receipt.message_ids, receipt.source))
        key = hash((flow_key, receipt.status, receipt.text))
        receipt.is_repeated = key in self._known_receipts or flow_key in self._known_receipts
        # Another one may come while this one is being stored.
        self._known_receipts[key] = None
        self._storage.store_upstream_receipt(
            receipt, partial(self._handle_receipt_stored, receipt, flow_key, key, resolve)
        )

    def retry_receipts(self) -> None:
        """Look again for the messages of receipts that came again and matched nothing: where these were not answered
        yet. Called each second.
        """
        if not self._retried_receipts:
            return
        receipts = [*self._retried_receipts]
        self._retried_receipts.clear()
        tails = {destination[-MIN_DIGITS:] for _, destination in self._flows.values()}
        since = now_ms() - self.config.upstream.settings.response_seconds * 1000
        for came_at, receipt in receipts:
            is_open = came_at > since and may_be_about(receipt, tails)
            self._storage.store_upstream_receipt(
                receipt, partial(self._handle_receipt_retried, came_at, receipt, is_open)
            )

    def handle_inbound(self, message: InboundItem, resolve: Resolve) -> None:
        """It brings what a handset has sent."""
        self._storage.store_upstream_message(message, resolve)

    def handle_delivery_refused(self, status: str) -> None:
        """What it has brought, a receipt or what a handset has sent, is not taken: it gets this answer."""
        if status not in self._delivery_refusals:
            log.warning("a message or receipt of upstream %s was refused with %s", self.name, status)
        self._delivery_refusals[status] += 1

    def handle_room(self) -> None:
        """There may be more room than before, or less."""
        self._owner.handle_room(self)

    def handle_binds(self, states: Sequence[BindState]) -> None:
        """The state of a bind has changed; these are all of them."""
        errors = {each.error for each in states if each.error}
        if errors and self._last_error[0] not in errors:
            self._note_error(min(errors))
        # Of a connection that ends, nobody wants to know.
        self._storage.record_bind_states(self.id, states if self.connection else ())

    def _forget(self, message_id: int) -> Flow | None:
        self._uses.pop(message_id, None)
        return self._flows.pop(message_id, None)

    def _pop_flow(self, message_id: int) -> Flow:
        self._uses.pop(message_id, None)
        return self._flows.pop(message_id)

    def _put_back(self, message_id: int, flow: Flow, reason: UnsentReason, status: str = "") -> None:
        self._owner.begin_put_back(flow)
        self._store_unsent(UnsentMessage(self.id, message_id, reason, flow, status))

    def _store_unsent(self, unsent: UnsentMessage) -> None:
        self.unsaved += 1
        self._storage.store_unsent_message(unsent)

    def _handle_receipt_stored(
        self, receipt: UpstreamReceipt, flow_key: int, key: int, resolve: Resolve, is_matched: bool | None
    ) -> None:
        """`is_matched`: None where nothing could be stored, so that it comes again."""
        if is_matched is not False:
            self._known_receipts.pop(key, None)
        if is_matched:
            self._known_receipts[flow_key] = None
        while len(self._known_receipts) > _KNOWN_RECEIPTS:
            self._known_receipts.popitem(last=False)
        if is_matched is False and not receipt.is_repeated:
            self._unmatched_count += 1
        elif is_matched is False:
            # A kill loses it: then its message, if it has any, ends with its validity. It is in doubt for a second.
            receipt.is_counted = True
            self._retried_receipts.append((now_ms(), receipt))
        resolve(is_matched is not None)

    def _handle_receipt_retried(
        self, came_at: int, receipt: UpstreamReceipt, is_open: bool, is_matched: bool | None
    ) -> None:
        """`is_open`: whether something that it may be about was not answered before."""
        if is_matched is None or (is_open and not is_matched):
            self._retried_receipts.append((came_at, receipt))
