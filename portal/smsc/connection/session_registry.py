"""The sessions that are bound, by account: what changes of an account reaches them, and what they do is shown."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Protocol

from portal.core.clock import DAY_MS, now_ms
from portal.services.accounts.allowed_ips import Address
from portal.services.accounts.session_records import RATE_MS, RATES_KEPT, Connection, Ending, Progress
from portal.services.messages.smpp_config import AccountConfig
from portal.smsc.admission.bind_auth import Admission
from portal.smsc.delivery.delivery import Delivery
from portal.smsc.storage.interface import Storage

_PROGRESS_SECONDS = RATE_MS / 1000
# call_later takes at most what fits into the clock of the event loop; a day is often enough to look again.
_LONGEST_TIMER_MS = DAY_MS


class BoundSession(Protocol):
    """What is asked of a session that has bound. Its counters begin with the bind."""

    id: int
    tls: str
    submitted: int
    has_submitted: bool
    delivered: int

    @property
    def address(self) -> Address:
        """Where the client is."""

    @property
    def heard_at(self) -> float:
        """When the client was last heard, in seconds of the event loop's clock."""

    def account_changed(self, account: AccountConfig) -> None:
        """Go on by the account as it is now, or unbind."""

    def progress(self, rates: str) -> Progress:
        """Return the counters as of now, beside the `rates` that are counted here."""


class SessionRegistry:
    """One for the process."""

    def __init__(self, storage: Storage, loop: asyncio.AbstractEventLoop) -> None:
        self._storage = storage
        self._loop = loop
        self._sessions: dict[int, set[BoundSession]] = defaultdict(set)
        self._deliveries: dict[int, Delivery] = {}
        self._expiries: dict[int, asyncio.TimerHandle] = {}
        self._meters: dict[int, _Meter] = {}
        self._looked_at = loop.time()
        self._look_timer = loop.call_later(_PROGRESS_SECONDS, self._look_again)
        storage.on_account_change(self._changed)

    def join(self, session: BoundSession, admission: Admission) -> Delivery:
        """Take in a session that has just been bound; returns where its receipts come from."""
        account = admission.account
        session.id = self._storage.next_session_id()
        self._sessions[account.id].add(session)
        self._meters[session.id] = _Meter(session)
        self._storage.session_opened(_row(session, admission))
        self._watch_expiry(account)
        delivery = self._deliveries.get(account.id)
        if delivery is None:
            delivery = self._deliveries[account.id] = Delivery(account.id, self._storage)
        return delivery

    def leave(self, session: BoundSession, account_id: int) -> None:
        """Forget a session that has ended."""
        sessions = self._sessions[account_id]
        sessions.discard(session)
        del self._meters[session.id]
        self._storage.session_closed(Ending(session.id, now_ms(), session.has_submitted))
        if not sessions:
            del self._sessions[account_id]
            self._deliveries.pop(account_id, None)
            timer = self._expiries.pop(account_id, None)
            if timer:
                timer.cancel()

    def close(self) -> None:
        """Stop showing progress."""
        self._look_timer.cancel()
        for timer in self._expiries.values():
            timer.cancel()

    def _changed(self, account: AccountConfig) -> None:
        if account.id not in self._sessions:
            return
        for session in list(self._sessions[account.id]):
            session.account_changed(account)
        self._watch_expiry(account)

    def _watch_expiry(self, account: AccountConfig) -> None:
        """Look again when an address or a password that is good now stops being so."""
        timer = self._expiries.pop(account.id, None)
        if timer:
            timer.cancel()
        now = now_ms()
        expiry = account.next_expiry(now)
        if expiry is not None:
            delay = min(expiry - now, _LONGEST_TIMER_MS) / 1000
            self._expiries[account.id] = self._loop.call_later(delay, self._changed, account)

    def _look_again(self) -> None:
        self._look_timer = self._loop.call_later(_PROGRESS_SECONDS, self._look_again)
        self.look()

    def look(self) -> None:
        """Show what the sessions have done since the last look."""
        last, self._looked_at = self._looked_at, self._loop.time()
        for meter in self._meters.values():
            # Of thousands of sessions most are idle, and asking those too would hold up the others.
            if meter.lively or meter.session.heard_at >= last:
                self._storage.session_progressed(meter.read(self._looked_at - last))


class _Meter:
    """Follows one session.

    `lively`: what it shows changes even if nothing is heard from the client, as its graph moves on.
    """

    __slots__ = ("_rates", "_total", "lively", "session")

    def __init__(self, session: BoundSession) -> None:
        self.session = session
        self.lively = False
        self._total = 0
        self._rates: list[str] = []

    def read(self, seconds: float) -> Progress:
        """Return what there is to show, so many seconds after the last time."""
        total = self.session.submitted + self.session.delivered
        rate = f"{(total - self._total) / seconds:.1f}".removesuffix(".0")
        self._total = total
        self._rates = [*self._rates, rate][-RATES_KEPT:]
        if not any(each != "0" for each in self._rates):
            self._rates = []
        progress = self.session.progress(" ".join(self._rates))
        self.lively = bool(self._rates or progress.window)
        return progress


def _row(session: BoundSession, admission: Admission) -> Connection:
    now = now_ms()
    return Connection(
        session.id,
        admission.account.id,
        str(session.address),
        admission.kind,
        session.tls,
        admission.password_id,
        now,
        now,
    )
