"""The sessions that are bound, by account, and binds that wait for the place of one.

What changes of an account reaches its sessions, and what they do is shown.

A bind that finds no place waits until it is known whether the sessions that have them all are still alive. A client
whose connection broke without a word comes back at once, while its old session would be taken for alive until it has
been silent for long and hasn't answered an enquire_link. So the silent sessions of the account are asked at once, and
the one that doesn't answer in time has to go.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from operator import attrgetter

from portal.core.clock import DAY_MS, now_ms
from portal.services.accounts.session_records import (
    RATE_SAMPLE_COUNT,
    RATE_SAMPLE_MS,
    SmppSessionEnd,
    SmppSessionProgress,
    SmppSessionRecord,
)
from portal.services.messages.smpp_config import AccountConfig
from portal.smsc.admission.bind_auth import AcceptedBind, NoBindPlace
from portal.smsc.connection.session import SmppSession
from portal.smsc.delivery.delivery import DeliveryScheduler
from portal.smsc.protocol.pdu import Bind
from portal.smsc.storage.interface import BindKind
from portal.smsc.storage.sqlite import Storage

_PROGRESS_INTERVAL_SECONDS = RATE_SAMPLE_MS / 1000
# call_later takes at most what fits into the clock of the event loop; a day is often enough to look again.
_MAX_TIMER_MS = DAY_MS
# In which a bind is checked and its session is there.
_MAX_BIND_MS = 1_000
# Sessions that one bind may have asked, those that have been silent for longest: a dead one is among them soon.
_MAX_PROBED = 50
_CHECK_SECONDS = 0.1
# Until a session has ended that was told to.
_END_SECONDS = 0.01


class SessionRegistry:
    """All sessions of the process that are bound. The process has one of these.

    `sessions_by_account`: by the account's id. `progress_saved_at`: when `save_progress` last did so.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._loop = loop = asyncio.get_running_loop()
        self.sessions_by_account: dict[int, set[SmppSession]] = defaultdict(set)
        self._delivery_schedulers: dict[int, DeliveryScheduler] = {}
        self._expiry_timers: dict[int, asyncio.TimerHandle] = {}
        self._meters_by_session: dict[int, _SessionRateMeter] = {}
        self.progress_saved_at = loop.time()
        self._progress_timer = loop.call_later(_PROGRESS_INTERVAL_SECONDS, self._save_periodically)
        storage.on_account_change(self._apply_account_change)

    def add_session(self, session: SmppSession, accepted_bind: AcceptedBind) -> DeliveryScheduler:
        """Add a session that has just bound; returns the scheduler of its account's deliveries."""
        account = accepted_bind.account
        session.id = self._storage.allocate_session_id()
        self.sessions_by_account[account.id].add(session)
        self._meters_by_session[session.id] = _SessionRateMeter(session)
        now = now_ms()
        address, password_id = str(session.address), accepted_bind.password_id
        self._storage.insert_session(
            SmppSessionRecord(session.id, account.id, address, session.kind, session.tls, password_id, now, now)
        )
        # It may have run out since the bind was checked.
        self._schedule_access_expiry(account, now - _MAX_BIND_MS)
        return self._delivery_schedulers.setdefault(account.id, DeliveryScheduler(account.id, self._storage))

    def remove_session(self, session: SmppSession, account_id: int) -> None:
        """Forget a session that has ended."""
        sessions = self.sessions_by_account[account_id]
        sessions.discard(session)
        del self._meters_by_session[session.id]
        self._storage.close_session(SmppSessionEnd(session.id, now_ms(), session.has_submitted))
        if not sessions:
            del self.sessions_by_account[account_id]
            self._delivery_schedulers.pop(account_id, None)
            if timer := self._expiry_timers.pop(account_id, None):
                timer.cancel()

    def close(self) -> None:
        """Stop saving progress."""
        self._progress_timer.cancel()
        for timer in self._expiry_timers.values():
            timer.cancel()

    def _apply_account_change(self, account: AccountConfig) -> None:
        if account.id not in self.sessions_by_account:
            return
        # Before the sessions look: what runs out meanwhile has to be looked at again.
        now = now_ms()
        for session in list(self.sessions_by_account[account.id]):
            session.apply_account_change(account)
        self._schedule_access_expiry(account, now)

    def _schedule_access_expiry(self, account: AccountConfig, now: int) -> None:
        """Look again when an address or a password that was good at `now` (milliseconds) stops being so."""
        if timer := self._expiry_timers.pop(account.id, None):
            timer.cancel()
        expiry = account.next_access_expiry(now)
        if expiry is not None:
            delay = min(max(expiry - now_ms(), 0), _MAX_TIMER_MS) / 1000
            self._expiry_timers[account.id] = self._loop.call_later(delay, self._apply_account_change, account)

    def _save_periodically(self) -> None:
        self._progress_timer = self._loop.call_later(_PROGRESS_INTERVAL_SECONDS, self._save_periodically)
        self.save_progress(self._loop.time())

    def save_progress(self, now: float) -> None:
        """Save what the sessions have done since the last time. `now` in seconds of the event loop's clock."""
        previous_save, self.progress_saved_at = self.progress_saved_at, now
        for meter in self._meters_by_session.values():
            # Of thousands of sessions most are idle, and asking those too would hold up the others.
            if meter.is_active or meter.session.last_received_at >= previous_save:
                self._storage.update_session_progress(meter.measure_progress(self.progress_saved_at - previous_save))


@dataclass(slots=True)
class _SessionRateMeter:
    """Measures the rate of one session.

    `is_active`: what pages show of it changes even if nothing comes from the client, as its graph moves on.
    """

    session: SmppSession
    is_active: bool = False
    _last_total: int = 0
    _recent_rates: list[str] = field(default_factory=list)

    def measure_progress(self, seconds: float) -> SmppSessionProgress:
        """Return the progress to save, so many seconds after the last time."""
        total = self.session.submitted + self.session.delivered
        rate = f"{(total - self._last_total) / seconds:.1f}".removesuffix(".0")
        self._last_total = total
        self._recent_rates = [*self._recent_rates, rate][-RATE_SAMPLE_COUNT:]
        if not any(each != "0" for each in self._recent_rates):
            self._recent_rates = []
        progress = self.session.get_progress(" ".join(self._recent_rates))
        self.is_active = bool(self._recent_rates or progress.window)
        return progress


# --- binds that wait for a place


@dataclass(slots=True, eq=False)
class _WaitingBind:
    client: SmppSession
    bind: Bind
    no_place: NoBindPlace
    sessions: Sequence[SmppSession]
    ends_at: float
    timer: asyncio.TimerHandle | None = None


class WaitingBinds:
    """The binds that wait. The process has one of these.

    `probe_seconds`: how long a session has been silent that is asked, and how long its answer is waited for.
    `by_client`: those that wait.
    """

    def __init__(self, session_registry: SessionRegistry, probe_seconds: float) -> None:
        self.probe_seconds = probe_seconds
        self._session_registry = session_registry
        self._loop = asyncio.get_running_loop()
        self.by_client: dict[SmppSession, _WaitingBind] = {}
        self._by_account: dict[int, list[_WaitingBind]] = defaultdict(list)

    def is_waiting(self, client: SmppSession) -> bool:
        """Whether a client's bind waits."""
        return client in self.by_client

    def wait_for_place(self, client: SmppSession, bind: Bind, no_place: NoBindPlace) -> bool:
        """Ask the sessions that are silent, and have a bind wait for the place of one.

        Returns whether it waits: not where all sessions were heard a moment ago, or as many binds wait for places of
        that kind as there are sessions that may be dead. It ends with `try_bind` or `refuse_bind`, little more than
        `probe_seconds` later.
        """
        now = self._loop.time()
        # Those that have a place which the bind could have.
        sessions = self._session_registry.sessions_by_account.get(no_place.account_id, ())
        rivals = [each for each in sessions if _need_same_place(each.kind, no_place.kind)]
        silent = (
            each for each in rivals if not (_is_uncertain(each) or each.last_received_at > now - self.probe_seconds)
        )
        for session in nsmallest(_MAX_PROBED, silent, key=attrgetter("last_received_at")):
            session.send_enquire_link()
        uncertain = [each for each in rivals if _is_uncertain(each)][:_MAX_PROBED]
        others = self._by_account[no_place.account_id]
        if sum(_need_same_place(each.no_place.kind, no_place.kind) for each in others) >= len(uncertain):
            return False
        waiting = _WaitingBind(client, bind, no_place, uncertain, now + self.probe_seconds + _CHECK_SECONDS)
        self.by_client[client] = waiting
        others.append(waiting)
        waiting.timer = self._loop.call_later(_CHECK_SECONDS, self._check, waiting)
        return True

    def remove(self, client: SmppSession) -> None:
        """Forget a client that has gone, or was answered; others are none of its business."""
        waiting = self.by_client.pop(client, None)
        if waiting and waiting.timer:
            waiting.timer.cancel()
            self._by_account[waiting.no_place.account_id].remove(waiting)

    def _check(self, waiting: _WaitingBind) -> None:
        """Give a bind the place that there is by now, or one of a session that hasn't answered, or go on waiting."""
        if waiting.client.try_bind(waiting.bind) is None:
            self.remove(waiting.client)
            return
        now = self._loop.time()
        delay = _CHECK_SECONDS
        unanswered = [each for each in waiting.sessions if each.unanswered_since is not None]
        session = min(unanswered, key=attrgetter("unanswered_since", "last_received_at"), default=None)
        if session and (session.unanswered_since or now) <= now - self.probe_seconds:
            waiting.ends_at = max(waiting.ends_at, now + _CHECK_SECONDS)
            session.abort("does not answer enquire_link, and its place is needed")
            delay = _END_SECONDS
        elif now >= waiting.ends_at or not any(_is_uncertain(each) for each in waiting.sessions):
            self.remove(waiting.client)
            waiting.client.refuse_bind(waiting.bind, waiting.no_place)
            return
        waiting.timer = self._loop.call_later(delay, self._check, waiting)


def _need_same_place(first: BindKind, second: BindKind) -> bool:
    return (first.may_submit and second.may_submit) or (first.may_receive and second.may_receive)


def _is_uncertain(session: SmppSession) -> bool:
    """Whether a session's place may be free soon."""
    return session.is_ending or session.unanswered_since is not None
