"""The storage on one machine: accounts in memory, the rest in SQLite."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from portal.core import db
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.services.accounts import refused_binds, session_records
from portal.services.accounts.refused_binds import RefusedBind
from portal.services.accounts.session_records import Connection, Ending, Progress
from portal.services.messages import deliveries, inbound, intake, outcomes, smpp_config
from portal.services.messages.deliveries import Deliverable, Deliveries, Receipt
from portal.services.messages.inbound import FromHandset
from portal.services.messages.intake import Stored
from portal.services.messages.outcomes import Cancelled, Due, Outcome, Whereabouts
from portal.services.messages.smpp_config import AccountConfig
from portal.services.messages.validation import Submit, ToSend
from portal.services.prices import prices
from portal.services.prices.prices import PriceList
from portal.smsc.storage.delivery_queue import DeliveryQueue
from portal.smsc.storage.interface import BindKind, BindLimit, BindSlot, NoCredit, Refusal, Resolve, Unavailable
from portal.smsc.storage.writer import Kind, Work, Writer

log = logging.getLogger(__name__)

_COMPONENT = "smsc"
_LOOK_SECONDS = 0.25
_READ_AGAIN_MS = 1_000
_DUE_SECONDS = 0.5
_EXPIRE_SECONDS = 600.0
# Shorter than elsewhere: clients wait for their submit_sm_resp meanwhile, and better get an ESME_RSYSERR.
_WRITER_BUSY_MS = 2_000


class SqliteStorage:
    """Implements `Storage`. To be made, started and closed on the event loop.

    `on_death` is called if nothing can be written any more in this process.
    """

    def __init__(
        self, database: Path, keys: Keys, loop: asyncio.AbstractEventLoop, on_death: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._keys = keys
        self._reader = db.connect(database)
        # What takes long to find is looked for by a thread of its own, through a connection of its own.
        self._searching = db.connect(database)
        self._searcher = ThreadPoolExecutor(1, "searcher")
        self._writer_connection = db.connect(database, busy_timeout_ms=_WRITER_BUSY_MS, only_immediate=True)
        self._writer = Writer(self._writer_connection, self._works(), loop, on_death)
        # Sessions that a process which was killed has left behind are no sessions.
        self._writer.put(Kind.CLEAR, None)
        self._accounts: dict[str, AccountConfig] = {}
        self._names: dict[int, str] = {}
        self._prices = prices.NONE
        self._prices_version = -1
        self._version = -1
        self._account_callbacks: list[Callable[[AccountConfig], None]] = []
        self._stored_callbacks: list[Callable[[Sequence[ToSend]], None]] = []
        self._expired_callbacks: list[Callable[[Sequence[int]], None]] = []
        self._simulated_callbacks: list[Callable[[Sequence[FromHandset]], None]] = []
        self._latest_session = 0
        self._simulated_up_to = 0
        self._more_simulated = False
        self._due_asked = False
        self._binds: Counter[BindSlot] = Counter()
        self._delivery_queues: dict[int, DeliveryQueue] = {}
        self._looks: dict[int, asyncio.TimerHandle] = {}
        self._timers: list[asyncio.TimerHandle] = []

    def load(self) -> None:
        """Read accounts and prices. Raises sqlite3.Error where the database can't be read."""
        self._latest_session = session_records.latest_id(self._reader)
        self._refresh()

    def start(self) -> None:
        """Begin to write, and to look for changes."""
        self._writer.start()
        self._look_for_simulated()
        self._every(_LOOK_SECONDS, self.look)
        self._every(_DUE_SECONDS, self._look_for_due)
        self._every(_EXPIRE_SECONDS, lambda: self._writer.put(Kind.EXPIRE, now_ms()))

    def abandon(self) -> None:
        """Let go of the database without having started."""
        self._reader.close()
        self._searching.close()
        self._writer_connection.close()

    def start_heartbeats(self) -> None:
        """Say from now on that the server is ready."""
        started_at = now_ms()
        self._writer.put(Kind.HEARTBEAT, started_at)
        self._every(session_records.HEARTBEAT_MS / 1000, lambda: self._writer.put(Kind.HEARTBEAT, started_at))

    def close(self, timeout: float) -> None:
        """Write what is left, within `timeout` seconds."""
        for timer in (*self._timers, *self._looks.values()):
            timer.cancel()
        if not self._writer.close(timeout):
            log.error("the database could not be written to the end")
        self._searching.interrupt()
        self._searcher.shutdown(cancel_futures=True)
        self._searching.close()
        try:
            session_records.all_closed(self._reader)
            session_records.gone(self._reader, _COMPONENT)
        except sqlite3.Error as error:
            log.error("the database can't be written: %s", error)
        self._reader.close()

    def _every(self, seconds: float, call: Callable[[], None]) -> None:
        slot = len(self._timers)

        def run() -> None:
            self._timers[slot] = self._loop.call_later(seconds, run)
            call()

        self._timers.append(self._loop.call_later(seconds, run))

    # --- accounts and prices

    def look(self) -> None:
        """Take over what has changed in the database, if anything has."""
        try:
            if smpp_config.version(self._reader) != self._version:
                self._refresh()
            elif self._prices.until is not None and self._prices.until <= now_ms():
                self._load_prices()
        except sqlite3.Error as error:
            log.error("the database can't be read: %s", error)

    def _refresh(self) -> None:
        # The version is read first: what changes while the rest is read is then read again at the next look.
        version = smpp_config.version(self._reader)
        changed = smpp_config.load(self._reader, self._version)
        # Hundreds of lists take tens of milliseconds, and far more is changed than prices.
        if prices.version(self._reader) != self._prices_version:
            self._load_prices()
        self._look_for_simulated()
        self._version = version
        for account in changed:
            self._accounts.pop(self._names.get(account.id, ""), None)
            self._accounts[account.name] = account
            self._names[account.id] = account.name
            for callback in self._account_callbacks:
                callback(account)
        if changed:
            self._writer.put(Kind.CONFIRM, {account.id: account.version for account in changed})

    def _load_prices(self) -> None:
        # As in `_refresh`: what changes meanwhile is read again.
        self._prices_version = prices.version(self._reader)
        self._prices = prices.load(self._reader, now_ms())

    def account(self, system_id: str) -> AccountConfig | None:
        return self._accounts.get(system_id)

    def password_digest(self, password: str) -> bytes:
        return self._keys.smpp_digest(password.encode("latin-1"))

    def on_account_change(self, callback: Callable[[AccountConfig], None]) -> None:
        self._account_callbacks.append(callback)

    def price_list(self, account: AccountConfig) -> PriceList:
        return self._prices.of_list(account.price_list)

    # --- binds

    def acquire_bind(self, account: AccountConfig, kind: BindKind) -> BindSlot:
        # A transceiver takes the place of one transmitter and of one receiver.
        both = self._binds[BindSlot(account.id, BindKind.TRANSCEIVER)]
        sending = both + self._binds[BindSlot(account.id, BindKind.TRANSMITTER)]
        receiving = both + self._binds[BindSlot(account.id, BindKind.RECEIVER)]
        if account.binds and max(sending * kind.sends, receiving * kind.receives) >= account.binds:
            raise BindLimit
        slot = BindSlot(account.id, kind)
        self._binds[slot] += 1
        return slot

    def release_bind(self, slot: BindSlot) -> None:
        self._binds[slot] -= 1

    # --- messages

    def accept(self, submit: Submit, resolve: Resolve) -> None:
        self._writer.put(Kind.SUBMIT, (submit, resolve))

    def on_stored(self, callback: Callable[[Sequence[ToSend]], None]) -> None:
        self._stored_callbacks.append(callback)

    def unfinished(self) -> Sequence[int]:
        with self._reading():
            return outcomes.unfinished(self._reader)

    def to_send(self, message_ids: Sequence[int]) -> Sequence[ToSend]:
        with self._reading():
            return outcomes.to_send(self._reader, message_ids)

    def find(self, account_id: int, message_id: int) -> Whereabouts | None:
        with self._reading():
            return outcomes.find(self._reader, account_id, message_id)

    def find_unfinished(
        self,
        account_id: int,
        source: str,
        destination: str,
        resolve: Callable[[Sequence[Whereabouts] | Refusal], None],
    ) -> None:
        # Millions may wait for their date, everybody's together: looking through them takes seconds.
        search = self._loop.run_in_executor(
            self._searcher, outcomes.find_unfinished, self._searching, account_id, source, destination
        )
        search.add_done_callback(partial(_tell, resolve))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            log.error("the database can't be read: %s", error)
            raise Unavailable(str(error)) from error

    def cancel(self, message: Whereabouts, resolve: Callable[[bool | Refusal], None]) -> None:
        self._writer.put(Kind.CANCEL, (message, resolve))

    def put_outcomes(self, outcomes: Sequence[Outcome]) -> None:
        self._writer.defer(Kind.OUTCOME, *outcomes)

    def put_received(self, messages: Sequence[FromHandset]) -> None:
        self._writer.put(Kind.RECEIVED, *messages)

    def on_expired(self, callback: Callable[[Sequence[int]], None]) -> None:
        self._expired_callbacks.append(callback)

    def _look_for_due(self) -> None:
        try:
            if not self._due_asked and outcomes.anything_due(self._reader, now_ms()):
                self._due_asked = True
                self._writer.put(Kind.DUE, None)
        except sqlite3.Error as error:
            log.error("the database can't be read: %s", error)

    def on_simulated(self, callback: Callable[[Sequence[FromHandset]], None]) -> None:
        self._simulated_callbacks.append(callback)

    def _look_for_simulated(self) -> None:
        if not self._simulated_callbacks:
            return  # accounts are loaded before anyone has asked for these
        found = inbound.simulated(self._reader, self._simulated_up_to)
        self._more_simulated = len(found) == inbound.SIMULATED_AT_ONCE
        if found:
            self._simulated_up_to = found[-1].simulated_id or 0
            for callback in self._simulated_callbacks:
                callback(found)

    # --- what waits for receivers

    def attend(self, account_id: int, wake: Callable[[], None]) -> None:
        queue = self._delivery_queues.setdefault(account_id, DeliveryQueue(partial(self._due, account_id)))
        queue.wake = wake
        queue.look_again()

    def attend_no_more(self, account_id: int) -> None:
        self._look_at(account_id, None)
        self._delivery_queues[account_id].wake = None
        self._delivery_queues[account_id].put_down()

    def take(self, account_id: int) -> Deliverable | None:
        return self._delivery_queues[account_id].take()

    def _look_at(self, account_id: int, at: int | None) -> None:
        """Look again at that time (milliseconds), and not at the one said before."""
        timer = self._looks.pop(account_id, None)
        if timer:
            timer.cancel()
        if at is not None:
            delay = max(at - now_ms(), 1) / 1000
            self._looks[account_id] = self._loop.call_later(delay, self._delivery_queues[account_id].look_again)

    def _due(self, account_id: int, how_many: int, but: Collection[int]) -> Deliveries | None:
        now = now_ms()
        try:
            due = deliveries.due(self._reader, account_id, now, how_many, but)
        except sqlite3.Error as error:
            log.error("the database can't be read: %s", error)
            self._look_at(account_id, now + _READ_AGAIN_MS)
            return None
        self._look_at(account_id, due.then)
        return due

    def done(self, deliverable: Deliverable) -> None:
        self._writer.defer(Kind.DELIVERED, deliverable)

    def retry(self, deliverable: Deliverable, at: int) -> None:
        self._delivery_queues[deliverable.account_id].put_off()
        self._writer.put(Kind.DELIVERY_FAILED, (deliverable, at))

    def give_back(self, deliverable: Deliverable) -> None:
        self._delivery_queues[deliverable.account_id].give_back(deliverable)

    # --- what pages show

    def next_session_id(self) -> int:
        self._latest_session += 1
        return self._latest_session

    def session_opened(self, session: Connection) -> None:
        self._writer.put(Kind.OPENED, session)

    def session_progressed(self, progress: Progress) -> None:
        self._writer.put(Kind.PROGRESS, progress)

    def session_closed(self, ending: Ending) -> None:
        self._writer.put(Kind.CLOSED, ending)

    def bind_refused(self, refused: RefusedBind) -> None:
        self._writer.put(Kind.REFUSED, refused)

    # --- what the writer does, and what follows from it

    def _works(self) -> Mapping[Kind, Work]:
        return {
            Kind.CLEAR: Work(lambda conn, _: session_records.all_closed(conn)),
            Kind.OPENED: Work(session_records.opened),
            Kind.SUBMIT: Work(_store, self._stored, _refuse),
            Kind.CANCEL: Work(_cancel, self._cancelled, _refuse),
            Kind.OUTCOME: Work(outcomes.finish, self._finished),
            Kind.DUE: Work(lambda conn, _: outcomes.take_due(conn, now_ms()), self._became_due, self._stayed_due),
            Kind.RECEIVED: Work(inbound.take_in, self._received),
            Kind.DELIVERED: Work(deliveries.done, self._forgotten),
            Kind.DELIVERY_FAILED: Work(deliveries.failed, self._postponed),
            Kind.PROGRESS: Work(session_records.progressed, refused=_ignore),
            Kind.CLOSED: Work(session_records.closed),
            Kind.REFUSED: Work(refused_binds.refused),
            Kind.CONFIRM: Work(_confirm),
            Kind.EXPIRE: Work(lambda conn, times: deliveries.expire(conn, times[-1]), self._expired),
            Kind.HEARTBEAT: Work(
                lambda conn, times: session_records.heartbeat(conn, _COMPONENT, times[-1]), refused=_ignore
            ),
        }

    def _stored(self, items: list[tuple[Submit, Resolve]], stored: Stored) -> None:
        for (_, resolve), message_id in zip(items, stored.ids, strict=True):
            resolve(message_id if message_id is not None else NoCredit())
        self._hand_over(stored.to_send)
        self._wait(stored.waiting)

    def _became_due(self, _: list[None], due: Due) -> None:
        self._due_asked = False
        self._hand_over(due.to_send)
        for callback in self._expired_callbacks:
            callback(due.expired)
        self._wait(due.waiting)
        if due.to_send or due.expired:
            # A campaign has one date for all its messages, and only so many are taken at once.
            self._look_for_due()

    def _stayed_due(self, _: list[None], __: Refusal) -> None:
        # The next look asks again.
        self._due_asked = False

    def _hand_over(self, to_send: list[ToSend]) -> None:
        for callback in self._stored_callbacks:
            callback(to_send)

    def _wait(self, receipts: Sequence[Receipt]) -> None:
        by_account: dict[int, list[Receipt]] = defaultdict(list)
        for each in receipts:
            by_account[each.account_id].append(each)
        for account_id, stored in by_account.items():
            if account_id in self._delivery_queues:
                self._delivery_queues[account_id].stored(stored)

    def _look_again(self, account_id: int) -> None:
        if account_id in self._delivery_queues:
            self._delivery_queues[account_id].look_again()

    def _cancelled(
        self, items: list[tuple[Whereabouts, Callable[[bool | Refusal], None]]], cancelled: Cancelled
    ) -> None:
        for (_, resolve), done in zip(items, cancelled.done, strict=True):
            resolve(done)
        self._wait(cancelled.waiting)

    def _finished(self, _: list[Any], receipts: list[Receipt]) -> None:
        self._wait(receipts)

    def _expired(self, times: list[int], given_up: int) -> None:
        if given_up == deliveries.EXPIRED_AT_ONCE:
            # What is submitted meanwhile has its turn in between.
            self._writer.put(Kind.EXPIRE, times[-1])

    def _received(self, _: list[Any], account_ids: set[int]) -> None:
        for account_id in account_ids:
            self._look_again(account_id)
        if self._more_simulated:
            # Not before these are on disk: a million of them would fill the memory, and hold up everybody.
            with suppress(Unavailable), self._reading():
                self._look_for_simulated()

    def _forgotten(self, accepted: list[Deliverable], _: None) -> None:
        for each in accepted:
            self._delivery_queues[each.account_id].forget(each)

    def _postponed(self, retries: list[tuple[Deliverable, int]], __: None) -> None:
        for each, _ in retries:
            self._delivery_queues[each.account_id].is_put_off(each)


def _tell(
    resolve: Callable[[Sequence[Whereabouts] | Refusal], None], search: asyncio.Future[list[Whereabouts]]
) -> None:
    if search.cancelled():
        return
    error = search.exception()
    if error is None:
        resolve(search.result())
    else:
        log.error("the database can't be read: %s", error)
        resolve(Unavailable(str(error)))


def _store(conn: sqlite3.Connection, items: list[tuple[Submit, Resolve]]) -> Stored:
    return intake.store(conn, [submit for submit, _ in items])


def _refuse(items: list[tuple[Any, Callable[[Any], None]]], refusal: Refusal) -> None:
    for _, resolve in items:
        resolve(refusal)


def _cancel(conn: sqlite3.Connection, items: list[tuple[Whereabouts, Any]]) -> Cancelled:
    return outcomes.cancel(conn, [message for message, _ in items])


def _confirm(conn: sqlite3.Connection, versions: list[Mapping[int, int]]) -> None:
    latest: dict[int, int] = {}
    for each in versions:
        latest.update(each)
    smpp_config.confirm(conn, latest)


def _ignore(_: list[object], __: Refusal) -> None:
    """What was to be written is out of date a moment later."""
