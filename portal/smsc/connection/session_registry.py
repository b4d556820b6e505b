"""The sessions that are bound, by account: what changes of an account reaches them, and what they do is shown."""

import asyncio
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from portal.core.clock import DAY_MS, now_ms
from portal.services.accounts.allowed_ips import IPAddress
from portal.services.accounts.session_records import (
    RATE_SAMPLE_COUNT,
    RATE_SAMPLE_MS,
    SmppSessionEnd,
    SmppSessionProgress,
    SmppSessionRecord,
)
from portal.services.messages.smpp_config import AccountConfig
from portal.smsc.admission.bind_auth import AcceptedBind
from portal.smsc.delivery.delivery import DeliveryScheduler
from portal.smsc.storage.interface import BindKind, Storage

_PROGRESS_INTERVAL_SECONDS = RATE_SAMPLE_MS / 1000
# call_later takes at most what fits into the clock of the event loop; a day is often enough to look again.
_MAX_TIMER_MS = DAY_MS
# In which a bind is checked and its session is there.
_MAX_BIND_MS = 1_000


class BoundSession(Protocol):
    """What the registry needs of a session that has bound. Its counters begin with the bind.

    `last_received_at`: when the client was last heard, in seconds of the event loop's clock.
    """

    id: int
    address: IPAddress
    kind: BindKind
    tls: str
    submitted: int
    has_submitted: bool
    delivered: int
    last_received_at: float

    @property
    def is_ending(self) -> bool:
        """Whether it unbinds or closes, so that its place will be free in a moment."""

    @property
    def unanswered_since(self) -> float | None:
        """When it was sent an enquire_link since which nothing has come, as `last_received_at`; None: there is none."""

    def send_enquire_link(self) -> None:
        """Ask the client whether it is alive."""

    def abort(self, reason: str) -> None:
        """End at once; `reason` is for the log."""

    def apply_account_change(self, account: AccountConfig) -> None:
        """Go on with the account as it is now, or unbind."""

    def get_progress(self, rates: str) -> SmppSessionProgress:
        """Return the counters as of now, beside the `rates` that are counted here."""


class SessionRegistry:
    """All sessions of the process that are bound. The process has one of these.

    `progress_saved_at`: when `save_progress` last did so.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._loop = loop = asyncio.get_running_loop()
        self._sessions_by_account: dict[int, set[BoundSession]] = defaultdict(set)
        self._delivery_schedulers: dict[int, DeliveryScheduler] = {}
        self._expiry_timers: dict[int, asyncio.TimerHandle] = {}
        self._meters_by_session: dict[int, _SessionRateMeter] = {}
        self.progress_saved_at = loop.time()
        self._progress_timer = loop.call_later(_PROGRESS_INTERVAL_SECONDS, self._save_periodically)
        storage.on_account_change(self._apply_account_change)

    def add_session(self, session: BoundSession, accepted_bind: AcceptedBind) -> DeliveryScheduler:
        """Add a session that has just bound; returns the scheduler of its account's deliveries."""
        account = accepted_bind.account
        session.id = self._storage.allocate_session_id()
        self._sessions_by_account[account.id].add(session)
        self._meters_by_session[session.id] = _SessionRateMeter(session)
        now = now_ms()
        address, password_id = str(session.address), accepted_bind.password_id
        self._storage.insert_session(
            SmppSessionRecord(session.id, account.id, address, session.kind, session.tls, password_id, now, now)
        )
        # It may have run out since the bind was checked.
        self._schedule_access_expiry(account, now - _MAX_BIND_MS)
        scheduler = self._delivery_schedulers.get(account.id)
        if scheduler is None:
            scheduler = self._delivery_schedulers[account.id] = DeliveryScheduler(account.id, self._storage)
        return scheduler

    def list_sessions(self, account_id: int) -> Collection[BoundSession]:
        """Return an account's sessions, in no order."""
        return self._sessions_by_account.get(account_id, ())

    def remove_session(self, session: BoundSession, account_id: int) -> None:
        """Forget a session that has ended."""
        sessions = self._sessions_by_account[account_id]
        sessions.discard(session)
        del self._meters_by_session[session.id]
        self._storage.close_session(SmppSessionEnd(session.id, now_ms(), session.has_submitted))
        if not sessions:
            del self._sessions_by_account[account_id]
            self._delivery_schedulers.pop(account_id, None)
            timer = self._expiry_timers.pop(account_id, None)
            if timer:
                timer.cancel()

    def close(self) -> None:
        """Stop saving progress."""
        self._progress_timer.cancel()
        for timer in self._expiry_timers.values():
            timer.cancel()

    def _apply_account_change(self, account: AccountConfig) -> None:
        if account.id not in self._sessions_by_account:
            return
        # Before the sessions look: what runs out meanwhile has to be looked at again.
        now = now_ms()
        for session in list(self._sessions_by_account[account.id]):
            session.apply_account_change(account)
        self._schedule_access_expiry(account, now)

    def _schedule_access_expiry(self, account: AccountConfig, now: int) -> None:
        """Look again when an address or a password that was good at `now` (milliseconds) stops being so."""
        timer = self._expiry_timers.pop(account.id, None)
        if timer:
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

    session: BoundSession
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
