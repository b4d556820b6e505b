"""An upstream that is reached by SMPP: all its binds, and which message goes out when, and on which of them."""

import asyncio
from bisect import insort
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from operator import attrgetter

from portal.services.upstreams.binds import BindState
from portal.services.upstreams.load import UpstreamLoad
from portal.smsc.protocol.constants import CommandStatus
from portal.smsc.upstream.smpp_client.client_session import ANSWER_SECONDS, ClientSession, ClientSettings, Submit
from portal.smsc.upstream.smpp_client.connector import BindTurns, Connector, ConnectorOwner, HostResolver
from portal.smsc.upstream.smpp_client.pacing import Pacer
from portal.smsc.upstream.smpp_client.status_map import build_status_map

# A message that was refused so often is given back: the last figure is for ESME_RMSGQFUL. That a queue is full may mean
# all of the carrier, or one handset, and is more often the latter the second time.
MAX_TRIES, MAX_TRIES_QUEUE_FULL = 10, 2
# The pauses between are 1, 2, 4, 4, ... times throttle_seconds, and after ESME_RMSGQFUL 2 at first: so others to other
# handsets are sent before it, and show whether all of the carrier is full.
_LONGEST_DELAY_FACTOR = 4
# So many of the last answers say how long they take, and so many of the last seconds how many parts are sent.
_LATENCIES, _RATE_SECONDS = 1_000, 10
# Event loops count in milliseconds.
_MIN_TIMER_SECONDS = 0.001

_get_order = attrgetter("order")


class _DestinationFlow:
    """What is under way to one destination. It goes out on one bind, and nothing later while one waits to be tried
    again.

    under_way: submits that were sent on `session`, or wait there for room. waiting: where one was refused for being too
    much, that and what comes behind it, in its order; None: nothing was. due_at: when the first of these is tried.
    retry: that one, while it is under way. given_back_order: the last one that was under way or waited when one was
    given back: what is refused up to that is given back, too.
    """

    session: ClientSession | None = None
    under_way = 0
    waiting: deque[Submit] | None = None
    due_at = 0.0
    retry: Submit | None = None
    given_back_order = 0

    def __init__(self, destination: str) -> None:
        self.destination = destination

    def take_pending(self) -> list[Submit]:
        """Take back what waits on `session` for room; returns that."""
        session, destination = self.session, self.destination
        pending = [each for each in session.pending if each.destination == destination] if session else []
        if session and pending:
            self.under_way -= len(pending)
            session.pending = deque(each for each in session.pending if each.destination != destination)
        return pending


class SmppClient(ConnectorOwner):
    """One upstream. What becomes of messages a subclass is told, and what the carrier brings (`handle_delivery`).

    All calls are made on the event loop, and none of them blocks it. `counters`: what has happened since they
    were taken. `status_map`: what is done about refusals. `sessions`: the connections that are bound and can send.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self.status_map = build_status_map(settings.status_map)
        self._loop = asyncio.get_running_loop()
        self.counters: Counter[str] = Counter()
        self.resolver = HostResolver()
        self.bind_turns: defaultdict[str, BindTurns] = defaultdict(BindTurns)
        self._connectors: dict[int, Connector] = {}
        self._closing_tasks: set[asyncio.Task[None]] = set()
        self.sessions: list[ClientSession] = []
        self._turn = 0
        self._pacer = Pacer(settings.throughput, settings.throttle_seconds, self._loop.time())
        self._flows: dict[str, _DestinationFlow] = {}
        # Those that have something that waits to be tried again, by destination.
        self._blocked: dict[str, _DestinationFlow] = {}
        self._order = 0
        self._is_closing = False
        self._settling: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._sent_parts = 0
        # When it was measured, and how many parts had been sent by then.
        self._measured: deque[tuple[float, int]] = deque([(self._loop.time(), 0)], maxlen=_RATE_SECONDS + 1)

    # --- what the dispatcher calls

    def start(self) -> None:
        """Connect all binds, and keep them."""
        for number, kind in enumerate(self._settings.bind_kinds, start=1):
            if number not in self._connectors:
                connector = Connector(number, kind, self._settings, self)
                self._connectors[number] = connector
                # A carrier that counts binds would refuse this one while those before it still wait for answers.
                connector.start([*self._closing_tasks])

    def change_settings(self, settings: ClientSettings) -> None:
        """Go on with other settings. Messages that are under way keep their place.

        A connection ends, once all it was sent is answered, only where it has to: another host or password, fewer
        binds. A bind that was refused is tried again at once.
        """
        old, self._settings = self._settings, settings
        self.status_map = build_status_map(settings.status_map)
        if (settings.throughput, settings.throttle_seconds) != (old.throughput, old.throttle_seconds):
            self._pacer.change_settings(settings.throughput, settings.throttle_seconds, self._loop.time())
        if settings.bind != old.bind:
            # These are new ones, and the password may be, too.
            self.bind_turns.clear()
        kept = len(settings.bind_kinds) if settings.bind == old.bind else 0
        for number, connector in list(self._connectors.items()):
            if number <= kept:
                connector.change_settings(settings)
            else:
                del self._connectors[number]
                task = self._loop.create_task(connector.close("its settings have changed", ANSWER_SECONDS))
                self._closing_tasks.add(task)
                task.add_done_callback(self._closing_tasks.discard)
        self.start()
        self._settle_soon()

    @property
    def bind_states(self) -> Sequence[BindState]:
        """How each bind is, in the order of their numbers."""
        return [each.state for each in self._connectors.values()]

    @property
    def is_connected(self) -> bool:
        """Whether it can take messages at all."""
        return bool(self.sessions)

    @property
    def awaits_answer(self) -> bool:
        """Whether anything that was sent on the connections that are bound isn't answered."""
        return any(each.in_flight for each in self.sessions)

    @property
    def rate(self) -> float:
        """Parts a second that may be sent at this time, 0: no limit. Less than `throughput` after refusals."""
        return self._pacer.rate

    def measure(self) -> UpstreamLoad:
        """What it does at the moment; called once a second."""
        now = self._loop.time()
        self._measured.append((now, self._sent_parts))
        since, parts_before = self._measured[0]
        latencies = sorted(self.latencies)
        percentiles = [latencies[int(len(latencies) * share)] * 1000 for share in (0.5, 0.99) if latencies]
        rate = self._pacer.rate
        return UpstreamLoad(
            parts_per_second=round((self._sent_parts - parts_before) / max(now - since, 1.0), 1),
            window_in_use=sum(len(each.in_flight) for each in self.sessions),
            window=self._settings.window * len(self.sessions),
            slowed_to=round(rate, 1) if rate and rate != self._settings.throughput else None,
            latency_p50=round(percentiles[0], 1) if percentiles else None,
            latency_p99=round(percentiles[1], 1) if percentiles else None,
        )

    @property
    def room(self) -> int:
        """How many messages it takes at this moment: 0 unless one bind can send, and the windows and the rate allow."""
        if self._is_closing:
            return 0
        free = -sum(len(each.waiting or ()) for each in self._blocked.values()) if self._blocked else 0
        waiting = 0
        for session in self.sessions:
            free += session.free - len(session.pending)
            waiting += len(session.pending)
        if free <= 0:
            return 0
        return max(min(free, self._pacer.count_available(self._loop.time()) - waiting), 0)

    def submit(self, submit: Submit) -> None:
        """Send a message; only while `room` is positive. `submit_answered` or `submits_lost` tells what came of it.

        Messages to one destination go out in the order in which they come here, and on one bind, as long as one of them
        is under way.
        """
        submit.order = self._order = self._order + 1
        flow = self._flows.get(submit.destination)
        if flow is None:
            flow = self._flows[submit.destination] = _DestinationFlow(submit.destination)
        if flow.waiting is None:
            self._send(submit, flow)
        else:
            flow.waiting.append(submit)
            if len(flow.waiting) > self._longest_flow:
                # What becomes of the first decides about all.
                flow.due_at = 0.0
                self._settle_soon()

    def cancel_waiting(self, message_ids: Iterable[int], *, begun: bool = False) -> list[Submit]:
        """Send those of these messages no more that have waited to be sent (again); returns what isn't sent of them.
        Nothing is told of that any more.

        begun: whether that goes for parts of a text of which others are under way; otherwise all of it goes on.
        """
        wanted = {*message_ids}
        if not begun:
            wanted -= {each.message_id for session in self.sessions for each in session.in_flight.values()}
        queues = [each.pending for each in self.sessions] + [each.waiting or () for each in self._blocked.values()]
        cancelled = [each for queue in queues for each in queue if each.message_id in wanted]
        for session in self.sessions:
            session.pending = deque(each for each in session.pending if each.message_id not in wanted)
        for each in cancelled:
            flow = self._flows[each.destination]
            if flow.waiting is None:
                self._leave_flow(each)
            else:
                self._drop_waiting(each, flow)
        self._settle_soon()
        return cancelled

    async def close(self, seconds: float = ANSWER_SECONDS) -> None:
        """Take no more messages, wait so long for the answers, unbind and disconnect. What is not answered by then is
        reported as lost before it returns.
        """
        self._is_closing = True
        closing = (each.close("the portal closes it", seconds) for each in self._connectors.values())
        await asyncio.gather(*closing, *self._closing_tasks)
        for handle in (self._settling, self._timer):
            if handle:
                handle.cancel()

    # --- what a subclass is told, on the event loop; it may call back, and must not raise

    def submit_answered(self, submit: Submit, status: int, upstream_message_id: str, bind_number: int) -> None:
        """The upstream has decided: command_status 0, and its id for the message ("" where it gave none), or another.

        A status that means too much at a time (bind_number 0): it was tried often enough here, or something before it
        to the same destination was, or too much waits there. What only waited behind it is lost, unsent.
        """
        raise NotImplementedError

    def submit_throttled(self, submit: Submit, status: int) -> None:
        """The upstream has refused it with a command_status that means too much at a time. It is tried again, or told
        of once more, right after this.
        """

    def submits_lost(self, unsure: Sequence[Submit], unsent: Sequence[Submit]) -> None:
        """These will not be answered any more. Both lists are in the order in which they were submitted.

        unsure: sent, but not answered: the upstream may have them. unsent: certainly not taken by the upstream.
        """
        raise NotImplementedError

    def room_changed(self) -> None:
        """There is room, and may be more than before. Comes once a turn of the event loop at most."""

    def state_changed(self, bind: BindState) -> None:
        """A bind has another state, or another reason for it."""

    # --- what connectors and sessions tell

    def handle_state(self, connector: Connector) -> None:
        # Of one that closes, and whose number another has, nothing is told.
        if self._connectors.get(connector.state.number, connector) is connector:
            self.state_changed(connector.state)

    def handle_bound(self, session: ClientSession) -> None:
        if session.kind != "rx":
            self.sessions.append(session)
        self.bind_turns[session.kind].allow_all()
        self._settle_soon()

    def handle_writable(self, session: ClientSession) -> None:
        self._settle_soon()

    def handle_answer(self, session: ClientSession, submit: Submit, status: int, upstream_message_id: str) -> None:
        if status in self.status_map.throttling:
            self._hold(submit, status)
        else:
            self._pacer.record_answer(submit.sent_at, self._loop.time())
            if status in self.status_map.temporary:
                # That holds up what comes behind it to the same destination.
                followers = self._end_flow(submit)
                self.submit_answered(submit, status, upstream_message_id, session.number)
                self._give_back(followers)
            else:
                self._leave_flow(submit)
                self.submit_answered(submit, status, upstream_message_id, session.number)
        self._settle_soon()

    def handle_timeout(self, session: ClientSession, submit: Submit) -> None:
        self._pacer.forget_probe()
        # Nothing may overtake what is lost.
        self._give_back(self._end_flow(submit), unsure=[submit])
        self._settle_soon()

    def handle_end(self, session: ClientSession) -> None:
        if session in self.sessions:
            self.sessions.remove(session)
            self._turn = 0
            self._pacer.forget_probe()
        unsure = list(session.in_flight.values())
        unsent = list(session.pending)
        for submit in (*unsure, *unsent):
            flow = self._flows[submit.destination]
            flow.under_way -= 1
            flow.retry = None
        session.in_flight.clear()
        session.pending.clear()
        # Nothing may overtake what is lost: what waits behind it is given back, too.
        for flow in list(self._blocked.values()):
            if flow.session is session or not self.sessions:
                unsent += self._unblock(flow)
        for flow in list(self._flows.values()):
            self._forget_if_idle(flow)
        if unsure or unsent:
            self.submits_lost(sorted(unsure, key=_get_order), sorted(unsent, key=_get_order))
        self._settle_soon()

    # --- what goes out when

    def _send(self, submit: Submit, flow: _DestinationFlow) -> None:
        """Send it on the bind that has its destination, or keep it there until there is room."""
        session = self._choose_session(flow)
        flow.session = session
        flow.under_way += 1
        now = self._loop.time()
        if session.pending or session.free <= 0 or self._pacer.count_available(now) <= 0:
            session.pending.append(submit)
        else:
            self._transmit(session, submit, now)
        if self._pacer.rate:
            self._settle_soon()

    def _choose_session(self, flow: _DestinationFlow) -> ClientSession:
        """Return the bind that has the destination; where none has, the next in turn that has room."""
        if flow.under_way and flow.session:
            return flow.session
        count = len(self.sessions)
        for _ in range(count):
            self._turn = (self._turn + 1) % count
            session = self.sessions[self._turn]
            if session.free > len(session.pending):
                return session
        return self.sessions[self._turn]

    def _transmit(self, session: ClientSession, submit: Submit, now: float) -> None:
        self._pacer.count_sent(now, submit.parts)
        self.counters["submitted"] += 1
        self._sent_parts += submit.parts
        if submit.tries:
            self.counters["retried"] += 1
        session.send_submit(submit, now)

    def _end_flow(self, submit: Submit) -> Sequence[Submit]:
        """It has to wait, and what is behind it to the same destination, and is not sent, with it; returns that."""
        flow = self._flows[submit.destination]
        flow.under_way -= 1
        flow.retry = None
        flow.given_back_order = self._order
        followers = [*self._unblock(flow), *flow.take_pending()]
        self._forget_if_idle(flow)
        return followers

    def _give_back(self, submits: Iterable[Submit], unsure: Sequence[Submit] = ()) -> None:
        """They go out from here no more. What was sent of them was refused; the others only waited behind it, or behind
        what was not answered. All that is told at once which is lost: something else goes out right after that.
        """
        unsent: list[Submit] = []
        for each in sorted(submits, key=_get_order):
            if each.status:
                self.submit_answered(each, each.status, "", 0)
            else:
                unsent.append(each)
        if unsure or unsent:
            self.submits_lost(unsure, unsent)

    @property
    def _longest_flow(self) -> int:
        """How many may wait behind a refused message: one destination must not take all the room."""
        return max(self._settings.window * len(self.sessions) // 2, 1)

    def _leave_flow(self, submit: Submit) -> None:
        """It is decided, so what waits behind it may follow."""
        flow = self._flows[submit.destination]
        flow.under_way -= 1
        if flow.retry is submit:
            flow.retry = None
            followers = self._unblock(flow)
            if followers:
                flow.session = self._choose_session(flow)
                flow.session.pending.extend(followers)
                flow.under_way += len(followers)
        if not flow.under_way and flow.waiting is None:
            del self._flows[submit.destination]

    def _hold(self, submit: Submit, status: int) -> None:
        """It came too fast: slow down, and try it again, before what comes behind it to the same destination."""
        now = self._loop.time()
        is_queue_full = status == CommandStatus.ESME_RMSGQFUL
        is_first = not (submit.tries or submit.is_retry)
        if is_first or (self._pacer.is_closed and not is_queue_full):
            self._pacer.record_refusal(submit.sent_at, now)
        else:
            # It may be this message alone, as where a handset's queue is full: others show that.
            self._pacer.forget_probe()
        self.counters["throttled"] += 1
        self.submit_throttled(submit, status)
        submit.tries += 1
        submit.status = status
        flow = self._flows[submit.destination]
        flow.under_way -= 1
        if flow.retry is submit:
            flow.retry = None
        if flow.waiting is None:
            flow.waiting = deque(flow.take_pending())
            self._blocked[submit.destination] = flow
        insort(flow.waiting, submit, key=_get_order)
        factor = min(2 ** (submit.tries - 1 + is_queue_full), _LONGEST_DELAY_FACTOR)
        flow.due_at = now + self._settings.throttle_seconds * factor
        is_last_try = submit.tries >= (MAX_TRIES_QUEUE_FULL if is_queue_full else MAX_TRIES)
        if submit.order <= flow.given_back_order or is_last_try or len(flow.waiting) > self._longest_flow:
            given_back = self._unblock(flow)
            flow.given_back_order = self._order
            self._forget_if_idle(flow)
            self._give_back(given_back)

    def _drop_waiting(self, submit: Submit, flow: _DestinationFlow) -> None:
        """What waits to be tried again is not; where nothing else does, nothing waits there any more."""
        assert flow.waiting is not None
        flow.waiting.remove(submit)
        if not flow.waiting and flow.retry is None:
            self._unblock(flow)
            self._forget_if_idle(flow)

    def _unblock(self, flow: _DestinationFlow) -> Sequence[Submit]:
        """Let nothing wait there any more; returns what did, in its order."""
        waiting = list(flow.waiting or ())
        flow.waiting = None
        self._blocked.pop(flow.destination, None)
        return waiting

    def _forget_if_idle(self, flow: _DestinationFlow) -> None:
        if not flow.under_way and flow.waiting is None:
            del self._flows[flow.destination]

    def _send_waiting(self, now: float) -> None:
        """Send what waits, as far as windows and rate allow: first what is tried again, the oldest first. Where only
        one is sent to see, that is rather one that was not refused.
        """
        expired: list[Submit] = []
        senders = [self._send_blocked, self._send_pending]
        for send in reversed(senders) if self._pacer.is_closed else senders:
            send(now, expired)
        if expired:
            self.submits_lost([], sorted(expired, key=_get_order))

    def _send_blocked(self, now: float, expired: list[Submit]) -> None:
        available = self._pacer.count_available(now)
        if not self._blocked or not available:
            return
        due = [each for each in self._blocked.values() if each.due_at <= now and not each.under_way]
        for flow in sorted(due, key=lambda flow: flow.waiting[0].order if flow.waiting else 0):
            session = self._choose_session(flow)
            if session.free <= 0 or available <= 0:
                break
            while flow.waiting and not flow.waiting[0].renew_octets():
                expired.append(flow.waiting[0])
                self._drop_waiting(flow.waiting[0], flow)
            if not flow.waiting:
                continue
            flow.retry = flow.waiting.popleft()
            flow.session = session
            flow.under_way = 1
            self._transmit(session, flow.retry, now)
            available -= flow.retry.parts

    def _send_pending(self, now: float, expired: list[Submit]) -> None:
        available = self._pacer.count_available(now)
        for session in self.sessions:
            while session.pending and available > 0 and session.free > 0:
                submit = session.pending.popleft()
                if not submit.renew_octets():
                    expired.append(submit)
                    self._leave_flow(submit)
                    continue
                self._transmit(session, submit, now)
                available -= submit.parts

    # --- once a turn of the event loop, however much has happened in it

    def _settle_soon(self) -> None:
        if self._settling is None:
            self._settling = self._loop.call_soon(self._settle)

    def _settle(self) -> None:
        self._settling = None
        now = self._loop.time()
        if self.sessions:
            self._send_waiting(now)
        if self.room:
            self.room_changed()
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        """Look again when time alone allows more."""
        # Since it was looked at what waits, the pacer may have been asked again, at a later moment.
        if self._can_send_waiting(now):
            self._settle_soon()
            return
        waits = [flow.due_at - now for flow in self._blocked.values() if flow.due_at > now]
        rate_wait = self._pacer.get_wait(now)
        if rate_wait is not None:
            waits.append(rate_wait)
        if not waits or not self.sessions:
            return
        wait = max(min(waits), _MIN_TIMER_SECONDS)
        if self._timer and self._timer.when() > now + wait:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_later(wait, self._handle_timer)

    def _can_send_waiting(self, now: float) -> bool:
        """Whether something that waits could go out at this moment."""
        if self._pacer.count_available(now) <= 0 or not any(each.free > 0 for each in self.sessions):
            return False
        return any(each.pending and each.free > 0 for each in self.sessions) or any(
            flow.waiting and flow.due_at <= now and not flow.under_way for flow in self._blocked.values()
        )

    def _handle_timer(self) -> None:
        self._timer = None
        self._settle_soon()
