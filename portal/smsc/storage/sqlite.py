"""All that the SMPP server needs of the rest of the program, on one machine: accounts in memory, the rest in SQLite.

On several machines a replicated broker would answer the same questions, and nothing but the storage would change. So
every method that is asked for something is called on the event loop and returns at once; what takes time comes back by
a callback on the loop.
"""

import asyncio
import logging
import sqlite3
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from portal.core import db
from portal.core.clock import now_ms
from portal.core.crypto import Keys
from portal.services.accounts import refusals, refused_binds, session_records
from portal.services.accounts.refusals import RefusalKey
from portal.services.accounts.refused_binds import RefusedBind
from portal.services.accounts.refused_messages import MessageRefusalCounts, split_counts
from portal.services.accounts.session_records import SmppSessionEnd, SmppSessionProgress, SmppSessionRecord
from portal.services.messages import client_ids, deliveries, inbound, query_cancel, smpp_config
from portal.services.messages.client_ids import ClientIds
from portal.services.messages.deliveries import Deliverable, DeliveryReceipt, DueDeliveries
from portal.services.messages.smpp_config import AccountConfig
from portal.services.prices import prices
from portal.services.prices.prices import PriceList
from portal.smsc.limits import ServerLimits
from portal.smsc.storage.delivery_queue import DeliveryQueue
from portal.smsc.storage.interface import (
    BindKind,
    ClientId,
    CommitInDoubt,
    StatusCallback,
    StatusesCallback,
    StorageError,
)
from portal.smsc.storage.reading import DatabaseSearcher, handle_read_errors
from portal.smsc.storage.sqlite_outbound import OutboundStorage
from portal.smsc.storage.writer import DatabaseWriter, WriteJobHandler, WriteJobKind

log = logging.getLogger(__name__)

_COMPONENT_NAME = "smsc"
_CONFIG_POLL_SECONDS = 0.25
_READ_RETRY_MS = 1_000
_EXPIRY_INTERVAL_SECONDS = 600.0
_OLD_PARTS_SECONDS = 60.0
_REFUSED_MESSAGES_SECONDS = 1.0
_FEW_VALUES, _MANY_VALUES_SECONDS = 500, 10.0
# Shorter than elsewhere: clients wait for their submit_sm_resp meanwhile, and better get an ESME_RSYSERR.
_WRITER_BUSY_TIMEOUT_MS = 2_000
_LAST_BUSY_TIMEOUT_MS = 200


class Storage:
    """What sessions ask of the storage; what the dispatcher asks is its part `outbound`. To be made, started and closed
    on the event loop.

    `on_fatal_error` is called if nothing can be written any more in this process. `kept_tlv_tags`: the tags of optional
    parameters of messages that an upstream passes on.
    """

    def __init__(
        self,
        database: Path,
        keys: Keys,
        server_limits: ServerLimits,
        on_fatal_error: Callable[[], None],
    ) -> None:
        self._server_limits = server_limits
        self._loop = asyncio.get_running_loop()
        self._keys = keys
        self._read_connection = db.connect(database)
        self.kept_tlv_tags: frozenset[int] = frozenset()
        # Clients wait for what is looked for on their behalf, and nobody for what simulators have.
        self._searcher = DatabaseSearcher(database)
        self._simulated_searcher = DatabaseSearcher(database)
        self._writer_connection = db.connect(database, busy_timeout_ms=_WRITER_BUSY_TIMEOUT_MS, only_immediate=True)
        self.outbound = OutboundStorage(
            self._read_connection,
            keys,
            self._simulated_searcher,
            self._queue_receipts,
            self._mark_deliveries_due,
        )
        handlers = {**self.outbound.build_job_handlers(), **self._build_job_handlers()}
        self._writer = DatabaseWriter(self._writer_connection, handlers, on_fatal_error)
        # Sessions that a process which was killed has left behind are no sessions.
        self._writer.queue_write(WriteJobKind.CLEAR_SESSIONS, None)
        self._accounts_by_name: dict[str, AccountConfig] = {}
        self._account_names: dict[int, str] = {}
        self._price_lists = prices.NO_PRICE_LISTS
        self._prices_version = -1
        self._config_version = -1
        self._account_callbacks: list[Callable[[AccountConfig], None]] = []
        self._sent_ids = self._received_ids = ClientIds(0, ())
        self._last_session_id = 0
        self._last_simulated_id = 0
        self._has_more_simulated = False
        self._is_started = False
        self._bind_counts: Counter[tuple[int, BindKind]] = Counter()
        self.refused_messages = MessageRefusalCounts()
        self._refusals_written_at = 0.0
        self._refusals_to_write: deque[Mapping[RefusalKey, int]] = deque()
        self._refusals_taken_at = 0
        self._writes_refusals = False
        self._delivery_queues: dict[int, DeliveryQueue] = {}
        self._retry_timers: dict[int, asyncio.TimerHandle] = {}
        self._periodic_timers: dict[Callable[[], None], asyncio.TimerHandle] = {}

    def load(self) -> None:
        """Read accounts and prices. Raises sqlite3.Error where the database can't be read."""
        self._last_session_id = session_records.get_last_smpp_session_id(self._read_connection)
        self._sent_ids, self._received_ids = (
            client_ids.load_client_ids(self._read_connection, table) for table in ("messages", "received")
        )
        self._load_config_changes()

    def start(self) -> None:
        """Begin to write, and to poll for changes."""
        self._is_started = True
        self._writer.start()
        self.outbound.start(self._writer)
        self.kept_tlv_tags = self.outbound.load_config()
        self._poll_simulated_messages()
        self._run_periodically(_CONFIG_POLL_SECONDS, self.poll_changes)
        self._run_periodically(self._server_limits.due_poll_seconds, self.outbound.poll_due_messages)
        self._run_periodically(_EXPIRY_INTERVAL_SECONDS, lambda: self.expire_deliveries(now_ms()))
        self._run_periodically(_REFUSED_MESSAGES_SECONDS, self._write_refused_messages)
        self._run_periodically(_OLD_PARTS_SECONDS, lambda: self.outbound.release_old_parts(now_ms()))

    def close_db_connections(self) -> None:
        """Let go of the database without having started."""
        self._read_connection.close()
        self._searcher.close()
        self._simulated_searcher.close()
        self._writer_connection.close()

    def start_heartbeats(self) -> None:
        """Record from now on that the server is ready."""
        started_at = now_ms()
        self._writer.queue_write(WriteJobKind.HEARTBEAT, started_at)
        self._run_periodically(
            session_records.HEARTBEAT_MS / 1000, lambda: self._writer.queue_write(WriteJobKind.HEARTBEAT, started_at)
        )

    def close(self, timeout: float) -> None:
        """Write what is left but for messages that nobody can be told of any more, within `timeout` seconds."""
        self.outbound.refuses_submits = True
        # What the writer tells of its last batches is told after that.
        self.outbound.is_closing = True
        self._is_started = False
        for timer in (*self._periodic_timers.values(), *self._retry_timers.values()):
            timer.cancel()
        self._write_refused_messages()
        if not self._writer.close(timeout):
            log.error("the database could not be written to the end")
            # The supervisor does the rest, and waits no longer for this process than that.
            self._read_connection.busy_timeout_ms = _LAST_BUSY_TIMEOUT_MS
        self._searcher.close()
        self._simulated_searcher.close()
        try:
            session_records.close_all_smpp_sessions(self._read_connection)
            session_records.remove_component_heartbeat(self._read_connection, _COMPONENT_NAME)
        except sqlite3.Error as error:
            log.error("the database can't be written: %s", error)
        self._read_connection.close()

    def _run_periodically(self, seconds: float, callback: Callable[[], None]) -> None:
        def run() -> None:
            self._run_periodically(seconds, callback)
            callback()

        self._periodic_timers[callback] = self._loop.call_later(seconds, run)

    # --- accounts and prices

    def poll_changes(self) -> None:
        """Load accounts and prices that have changed in the database, if any have."""
        with handle_read_errors():
            if smpp_config.read_config_version(self._read_connection) != self._config_version:
                self._load_config_changes()
            elif self._price_lists.next_change_at is not None and self._price_lists.next_change_at <= now_ms():
                self._load_prices()

    def _load_config_changes(self) -> None:
        # The version is read first: what changes while the rest is read is then read again at the next poll.
        version = smpp_config.read_config_version(self._read_connection)
        changed = smpp_config.load_account_configs(self._read_connection, self._config_version)
        # Hundreds of lists take tens of milliseconds, and far more is changed than prices.
        if prices.read_prices_version(self._read_connection) != self._prices_version:
            self._load_prices()
        self._poll_simulated_messages()
        if self._is_started:
            self.kept_tlv_tags = self.outbound.load_config()
        self._config_version = version
        for account in changed:
            self._accounts_by_name.pop(self._account_names.get(account.id, ""), None)
            self._accounts_by_name[account.name] = account
            self._account_names[account.id] = account.name
            for callback in self._account_callbacks:
                callback(account)
        if changed:
            self._writer.queue_write(WriteJobKind.CONFIG_APPLIED, {account.id: account.version for account in changed})

    def _load_prices(self) -> None:
        # As in `_load_changes`: what changes meanwhile is read again.
        self._prices_version = prices.read_prices_version(self._read_connection)
        self._price_lists = prices.load_price_lists(self._read_connection, now_ms())

    def find_account(self, system_id: str) -> AccountConfig | None:
        """Return the account of that name, from memory."""
        return self._accounts_by_name.get(system_id)

    def compute_password_digest(self, password: str) -> bytes:
        """Return the digest that `smpp_config.find_password` looks for."""
        return self._keys.digest_smpp_password(password.encode("latin-1"))

    def on_account_change(self, callback: Callable[[AccountConfig], None]) -> None:
        """Have `callback` called with each account that changes, once the change is in force for new binds."""
        self._account_callbacks.append(callback)

    def get_price_list(self, account: AccountConfig) -> PriceList:
        """Return what an account's messages cost at this moment."""
        return self._price_lists.get_or_default(account.price_list_id)

    # --- binds

    def acquire_bind(self, account: AccountConfig, kind: BindKind) -> bool:
        """Take a place; returns whether fewer binds of that kind than the account may have were open."""
        # A transceiver takes the place of one transmitter and of one receiver.
        transceivers = self._bind_counts[account.id, BindKind.TRANSCEIVER]
        transmitters = transceivers + self._bind_counts[account.id, BindKind.TRANSMITTER]
        receivers = transceivers + self._bind_counts[account.id, BindKind.RECEIVER]
        if account.binds and max(transmitters * kind.may_submit, receivers * kind.may_receive) >= account.binds:
            return False
        self._bind_counts[account.id, kind] += 1
        return True

    def release_bind(self, account_id: int, kind: BindKind) -> None:
        """Give the place back."""
        self._bind_counts[account_id, kind] -= 1

    # --- messages

    def find_message_status(self, account_id: int, client_id: ClientId, resolve: StatusCallback) -> None:
        """Find a message of an account, by its id or the one that its client was given; `resolve` gets it, or None."""
        with handle_read_errors(resolve):
            message_id = (
                self._sent_ids.get_row_id(client_id)
                if isinstance(client_id, int)
                else client_ids.find_row_id_by_hex_id(self._read_connection, int(client_id, 16))
            )
            resolve(query_cancel.find_message_status(self._read_connection, account_id, message_id))

    def find_unfinished_messages(
        self, account_id: int, source: str, destination: str, resolve: StatusesCallback
    ) -> None:
        """Search all unfinished messages; `resolve` gets those of an account from `source` to `destination`."""
        # Millions may wait for their date, everybody's together: looking through them takes seconds.
        self._searcher.search(
            resolve, lambda conn: query_cancel.find_unfinished_messages(conn, account_id, source, destination)
        )

    def _poll_simulated_messages(self) -> None:
        if not self._is_started:
            return  # accounts are loaded before that
        messages = inbound.list_simulated_messages(self._read_connection, self._last_simulated_id)
        self._has_more_simulated = len(messages) == inbound.SIMULATED_BATCH_SIZE
        if messages:
            self._last_simulated_id = messages[-1].simulated_id or 0
            self._writer.queue_write(WriteJobKind.INBOUND, *messages)

    def _write_refused_messages(self) -> None:
        """Write what was counted; of ever new values, of which most are soon counted as others, less often."""
        now = self._loop.time()
        is_long_ago = now - self._refusals_written_at >= _MANY_VALUES_SECONDS
        # In memory they take a bounded place; what waits for the writer doesn't.
        must_wait = self._writes_refusals or (len(self.refused_messages) > _FEW_VALUES and not is_long_ago)
        if must_wait and self._is_started:
            return
        self._write_taken_refusals()
        if counts := self.refused_messages.take():
            self._refusals_written_at, self._refusals_taken_at = now, now_ms()
            self._refusals_to_write.extend(split_counts(counts))
            self._write_taken_refusals()

    def _write_taken_refusals(self) -> None:
        """Write a part of them, and the next one after it, so that submits have their turn between; at the end all."""
        while self._refusals_to_write and not (self._writes_refusals and self._is_started):
            self._writes_refusals = True
            part = self._refusals_to_write.popleft(), self._refusals_taken_at
            self._writer.queue_write(WriteJobKind.REFUSED_MESSAGES, part)

    # --- what waits for receivers

    def subscribe_deliveries(self, account_id: int, wake: Callable[[], None]) -> Callable[[], Deliverable | None]:
        """Have `wake` called whenever something may wait for an account's receivers, until `unsubscribe_deliveries`.

        Returns:
            A function that takes the next receipt or message, in their order, and returns it; None where nothing waits
            now. Each is taken once, and again after `retry_delivery`. Until then nothing behind it is taken, unless it
            has used up `deliveries.MAX_BLOCKING_ATTEMPTS`.
        """
        queue = self._delivery_queues.setdefault(
            account_id, DeliveryQueue(partial(self._read_due_deliveries, account_id))
        )
        queue.wake = wake
        queue.mark_due_in_database()
        return queue.dequeue_delivery

    def unsubscribe_deliveries(self, account_id: int) -> None:
        """The account has no receiver any more, so nothing is taken."""
        self._schedule_retry(account_id, None)
        self._delivery_queues[account_id].wake = None
        self._delivery_queues[account_id].discard_ready_deliveries()

    def _schedule_retry(self, account_id: int, retry_at: int | None) -> None:
        """Read what is due at `retry_at` (unix milliseconds; None: not at all), not at the time that was set before."""
        if timer := self._retry_timers.pop(account_id, None):
            timer.cancel()
        if retry_at is not None:
            delay = max(retry_at - now_ms(), 1) / 1000
            self._retry_timers[account_id] = self._loop.call_later(
                delay, self._delivery_queues[account_id].mark_due_in_database
            )

    def _read_due_deliveries(self, account_id: int, limit: int, excluded_ids: Collection[int]) -> DueDeliveries | None:
        now = now_ms()
        with handle_read_errors(lambda _: self._schedule_retry(account_id, now + _READ_RETRY_MS)):
            due = deliveries.list_due_deliveries(self._read_connection, account_id, now, limit, excluded_ids)
            self._schedule_retry(account_id, due.next_attempt_at)
            return due
        return None

    def expire_deliveries(self, now: int) -> None:
        """Give up the deliveries that are too old at `now` (unix milliseconds); the writer does so."""
        self._writer.queue_write(WriteJobKind.EXPIRE_DELIVERIES, now)

    def get_client_id(self, deliverable: Deliverable) -> ClientId:
        """Return the id by which its client knows the message that it is about."""
        if isinstance(deliverable, DeliveryReceipt):
            if deliverable.hex_id is not None:
                return client_ids.format_hex_id(deliverable.hex_id)
            return self._sent_ids.get_client_id(deliverable.message_id)
        return self._received_ids.get_client_id(deliverable.received_id)

    def complete_delivery(self, deliverable: Deliverable) -> None:
        """The ESME has accepted it: forget it."""
        self._writer.queue_deferred_write(WriteJobKind.DELIVERED, deliverable)

    def retry_delivery(self, deliverable: Deliverable, retry_at: int) -> None:
        """The ESME has not accepted it: offer it again at `retry_at` (unix milliseconds). Its attempts are counted."""
        self._delivery_queues[deliverable.account_id].begin_retry()
        self._writer.queue_write(WriteJobKind.DELIVERY_FAILED, (deliverable, retry_at))

    # --- what pages show

    def allocate_session_id(self) -> int:
        """Return an id for a session: it grows, and no message and no page names another session by it."""
        self._last_session_id += 1
        return self._last_session_id

    def insert_session(self, session: SmppSessionRecord) -> None:
        """Store a session that has bound, so that pages show it."""
        self._writer.queue_write(WriteJobKind.SESSION_OPENED, session)

    def update_session_progress(self, progress: SmppSessionProgress) -> None:
        """Store the counters of a session."""
        self._writer.queue_write(WriteJobKind.SESSION_PROGRESS, progress)

    def close_session(self, session_end: SmppSessionEnd) -> None:
        """Store that a session has ended. It is removed where it has submitted no message."""
        self._writer.queue_write(WriteJobKind.SESSION_CLOSED, session_end)

    def record_refused_bind(self, refused_bind: RefusedBind) -> None:
        """Store who was refused and why, for the account's users."""
        self._writer.queue_write(WriteJobKind.BIND_REFUSED, refused_bind)

    # --- what the writer does, and what follows from it

    def _build_job_handlers(self) -> Mapping[WriteJobKind, WriteJobHandler]:
        return {
            WriteJobKind.CLEAR_SESSIONS: WriteJobHandler(lambda conn, _: session_records.close_all_smpp_sessions(conn)),
            WriteJobKind.SESSION_OPENED: WriteJobHandler(session_records.insert_smpp_sessions),
            WriteJobKind.INBOUND: WriteJobHandler(inbound.store_inbound_messages, self._handle_inbound_stored),
            WriteJobKind.DELIVERED: WriteJobHandler(
                deliveries.remove_accepted_deliveries, self._handle_deliveries_completed
            ),
            WriteJobKind.DELIVERY_FAILED: WriteJobHandler(deliveries.schedule_retries, self._handle_retries_stored),
            WriteJobKind.SESSION_PROGRESS: WriteJobHandler(
                session_records.update_smpp_session_progress, on_refused=_ignore_write_failure
            ),
            WriteJobKind.SESSION_CLOSED: WriteJobHandler(session_records.close_smpp_sessions),
            WriteJobKind.BIND_REFUSED: WriteJobHandler(refused_binds.record_refused_binds),
            WriteJobKind.CONFIG_APPLIED: WriteJobHandler(_save_applied_versions),
            WriteJobKind.EXPIRE_DELIVERIES: WriteJobHandler(
                lambda conn, times: deliveries.expire_deliveries(
                    conn, times[-1], batch_size=self._server_limits.expiry_batch_size
                ),
                self._handle_deliveries_expired,
            ),
            WriteJobKind.REFUSED_MESSAGES: WriteJobHandler(
                _record_refused_messages, self._handle_refusals_written, self._handle_refusals_unwritten
            ),
            WriteJobKind.HEARTBEAT: WriteJobHandler(
                lambda conn, times: session_records.record_component_heartbeat(conn, _COMPONENT_NAME, times[-1]),
                on_refused=_ignore_write_failure,
            ),
        }

    def _queue_receipts(self, receipts: Sequence[DeliveryReceipt]) -> None:
        by_account: dict[int, list[DeliveryReceipt]] = defaultdict(list)
        for each in receipts:
            by_account[each.account_id].append(each)
        for account_id, account_receipts in by_account.items():
            if account_id in self._delivery_queues:
                self._delivery_queues[account_id].add_stored(account_receipts)

    def _mark_deliveries_due(self, account_ids: Iterable[int]) -> None:
        for account_id in account_ids:
            if account_id in self._delivery_queues:
                self._delivery_queues[account_id].mark_due_in_database()

    def _handle_deliveries_expired(self, times: list[int], expired_count: int) -> None:
        if expired_count == self._server_limits.expiry_batch_size:
            # What is submitted meanwhile has its turn in between.
            self.expire_deliveries(times[-1])

    def _handle_refusals_written(self, _: list[Any], __: None) -> None:
        self._writes_refusals = False
        self._write_taken_refusals()

    def _handle_refusals_unwritten(
        self, batches: list[tuple[Mapping[RefusalKey, int], int]], error: StorageError
    ) -> None:
        self._writes_refusals = False
        # Where that isn't known they may be counted: none shall be counted twice.
        if not isinstance(error, CommitInDoubt):
            for counts, _ in batches:
                self.refused_messages.put_back(counts)
        while self._refusals_to_write:
            self.refused_messages.put_back(self._refusals_to_write.popleft())

    def _handle_inbound_stored(self, _: list[Any], account_ids: set[int]) -> None:
        self._mark_deliveries_due(account_ids)
        if self._has_more_simulated:
            # Not before these are on disk: a million of them would fill the memory, and hold up everybody.
            with handle_read_errors():
                self._poll_simulated_messages()

    def _handle_deliveries_completed(self, deliverables: list[Deliverable], _: None) -> None:
        for each in deliverables:
            self._delivery_queues[each.account_id].remove_delivery(each)

    def _handle_retries_stored(self, retries: list[tuple[Deliverable, int]], __: None) -> None:
        for each, _ in retries:
            self._delivery_queues[each.account_id].finish_retry(each)


def _save_applied_versions(conn: sqlite3.Connection, versions: list[Mapping[int, int]]) -> None:
    for each in versions:
        smpp_config.save_applied_config_versions(conn, each)


def _record_refused_messages(conn: sqlite3.Connection, batches: list[tuple[Mapping[RefusalKey, int], int]]) -> None:
    for counts, at in batches:
        refusals.record_refusals(conn, counts, at)


def _ignore_write_failure(_: list[object], __: StorageError) -> None:
    """What was to be written is out of date a moment later."""
