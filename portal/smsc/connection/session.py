"""One client's connection: the states of SMPP 3.4 (2.2) and what each PDU does in them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Protocol

from portal.core.clock import now_ms
from portal.core.config import Config, LimitSettings
from portal.services.accounts.session_records import SmppSessionProgress
from portal.services.messages.smpp_config import AccountConfig
from portal.smsc.admission.bind_auth import AcceptedBind, BindAuth, BindRefused, NoBindPlace
from portal.smsc.admission.connection_limits import ConnectionSlot
from portal.smsc.admission.rate_limits import TokenBucket
from portal.smsc.connection.message_requests import find_format_reason
from portal.smsc.connection.message_session import MAX_IN_FLIGHT, MessageContext, MessageSession, SessionState
from portal.smsc.delivery.delivery import DeliveryScheduler
from portal.smsc.limits import ServerLimits
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import Bind, BindResp, CancelSm, DataSm, MalformedPdu, Pdu, PduHeader, QuerySm, SubmitSm
from portal.smsc.storage.interface import BindKind

log = logging.getLogger(__name__)

SYSTEM_ID = "SMPP-Portal"
"""The server's name in bind_resp (5.2.1)."""
MAX_PDUS_BEFORE_BIND = 20
"""PDUs that a client may send at all before it binds. Answering takes the time of everybody's event loop, even where
the answer is no."""

# PDUs that a client may send a second once it has bound, beside twice its throughput.
_BASE_PDUS_PER_SECOND = 1_000
_MAX_MALFORMED_LOGGED = 10
# Before an unbind: how long the client's answers to deliver_sm are waited for, and then the writer.
_DELIVERY_ANSWER_SECONDS = 0.5
_SUBMIT_ANSWER_SECONDS = 2.5
_UNBIND_TIMEOUT_SECONDS = 1.0
# The last is submit_multi (4.5), which is not supported.
_SUBMITTING = (CommandId.SUBMIT_SM, CommandId.DATA_SM, 0x00000021)
_HEARD_WHILE_DRAINING = (CommandId.ENQUIRE_LINK, CommandId.UNBIND)

# For what is done once a message: to find a member by its class takes a tenth of a microsecond.
_OPEN, _BOUND, _DRAINING = SessionState.OPEN, SessionState.BOUND, SessionState.DRAINING
_DELIVER_SM_RESP = CommandId.DELIVER_SM_RESP


class BoundSessions(Protocol):
    """What a session asks of `SessionRegistry`, whose module imports this one."""

    def add_session(self, session: SmppSession, accepted_bind: AcceptedBind) -> DeliveryScheduler:
        """Add a session that has just bound; returns the scheduler of its account's deliveries."""

    def remove_session(self, session: SmppSession, account_id: int) -> None:
        """Forget a session that has ended."""


class BindQueue(Protocol):
    """What a session asks of `WaitingBinds`, whose module imports this one."""

    def is_waiting(self, client: SmppSession) -> bool:
        """Whether a client's bind waits."""

    def wait_for_place(self, client: SmppSession, bind: Bind, no_place: NoBindPlace) -> bool:
        """Have a bind wait for a place; returns whether it does."""

    def remove(self, client: SmppSession) -> None:
        """Forget a client that has gone."""


class ServerContext(MessageContext):
    """What all sessions of the process share."""

    config: Config
    server_limits: ServerLimits
    bind_auth: BindAuth
    session_registry: BoundSessions
    waiting_binds: BindQueue


@dataclass(slots=True, eq=False, repr=False)
class SmppSession(MessageSession):
    """One client from its connection to its end.

    `address`: where the client is, IPv4 where the socket showed it mapped into IPv6. `kind`: as what it has bound;
    until then there is none, as there is no account. `has_failed`: a bind was looked at, and wrong, or found no place
    to wait. `is_authorized`: the account of its last bind authorises the address.
    """

    _server_context: ServerContext
    _connection_slot: ConnectionSlot
    slow_reader_seconds: float = field(init=False)
    kind: BindKind = field(init=False)
    accepted_bind: AcceptedBind | None = None
    has_failed: bool = False
    is_authorized: bool = False
    _limits: LimitSettings = field(init=False)
    _pdu_rate_bucket: TokenBucket = field(init=False)
    _pdus_before_bind: int = 0
    _has_waited: bool = False
    _malformed_count: int = 0
    _awaits_delivery_answers: bool = False
    _enquire_link_sent_at: float | None = None
    _liveness_timer: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self._limits = self._server_context.config.limits
        self.slow_reader_seconds = self._limits.response_seconds
        self.address = self._connection_slot.address

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A class with slots is made anew, and super() has the first one.
        MessageSession.connection_made(self, transport)
        self._set_deadline(self._limits.bind_seconds, self._flush_and_close)
        if not self._connection_slot.attach_session(self):
            self.abort("has come too late")

    def connection_lost(self, exc: Exception | None) -> None:
        MessageSession.connection_lost(self, exc)
        self._connection_slot.release()
        if self._liveness_timer:
            self._liveness_timer.cancel()
        if self.awaits_turn:
            self._server_context.bind_auth.turns.remove(self)
        self._server_context.waiting_binds.remove(self)
        if self.accepted_bind:
            self._server_context.storage.release_bind(self._account.id, self.kind)
            self._server_context.session_registry.remove_session(self, self._account.id)
            self._stop_deliveries()
            for deliverable, _ in self._unanswered_deliveries.values():
                self._delivery_scheduler.handle_session_end(deliverable)
            log.info("%s has ended", self.log_name)

    @property
    def awaits_turn(self) -> bool:
        """Whether its bind waits because one was wrong a moment ago."""
        return self._server_context.bind_auth.turns.is_waiting(self)

    @property
    def keeps_place(self) -> bool:
        """Whether it makes no room for others: its bind waits for its turn, at an address that is authorised."""
        return self.is_authorized and self.awaits_turn

    @property
    def log_name(self) -> str:
        if self.accepted_bind is None:
            return str(self.address)
        return f"{self.accepted_bind.account.name} from {self.address}, session {self.id}"

    def _writing_resumed(self) -> None:
        if self._is_receiving:
            self._delivery_scheduler.schedule_run()

    def _may_process_pdu(self, command: int) -> bool:
        if self._state is _DRAINING and not (command & RESPONSE_BIT or command in _HEARD_WHILE_DRAINING):
            # It waits until the unbind has gone out: clients that get a refusal before send the next one at once.
            self._pause_reading_briefly()
            self._awaits_delivery_answers = False
            self._unbind_when_answered()
            return False
        if self._state is _OPEN:
            self._pdus_before_bind += 1
            if self._pdus_before_bind > MAX_PDUS_BEFORE_BIND:
                self.abort("says much and does not bind")
                return False
        elif not self._pdu_rate_bucket.take_token(self._turn_started_at) or (
            self._in_flight >= MAX_IN_FLIGHT and not self._account.windowing
        ):
            self._pause_reading_briefly()
            return False
        return True

    # --- PDUs

    def _pdu_received(self, header: PduHeader, body: bytes) -> None:
        if header.command & RESPONSE_BIT:
            self._handle_response(header)
            return
        try:
            message = pdu.decode_pdu(header, body)
        except MalformedPdu as malformed:
            self._reject_malformed_pdu(malformed)
            return
        if isinstance(message, SubmitSm):
            self._handle_submit(message)
        else:
            self._handle_pdu(header, message)

    def _reject_malformed_pdu(self, malformed: MalformedPdu) -> None:
        self._malformed_count += 1
        if malformed.command in _SUBMITTING:
            reason, value = find_format_reason(malformed.status)
            self.count_refused_message(reason, value)
            if self.id:
                self.keep_refused_pdu(self._account, malformed.command, malformed, malformed.status, reason, value)
        if self._malformed_count <= _MAX_MALFORMED_LOGGED:
            log.info("malformed PDU from %s: %s", self.log_name, malformed)
        if malformed.status is CommandStatus.ESME_RINVCMDID:
            self._write(pdu.encode_generic_nack(malformed.sequence, malformed.status))
        else:
            self._write(pdu.encode_response(malformed.command, malformed.sequence, malformed.status))

    def _handle_pdu(self, header: PduHeader, message: Pdu) -> None:
        if isinstance(message, Bind):
            self._handle_bind(message)
        elif isinstance(message, DataSm):
            self._handle_submit(message)
        elif isinstance(message, QuerySm):
            self._handle_query(message)
        elif isinstance(message, CancelSm):
            self._handle_cancel(message)
        elif header.command == CommandId.ENQUIRE_LINK:
            self._write(pdu.encode_response(header.command, header.sequence))
        elif header.command == CommandId.UNBIND:
            self._handle_unbind(header.sequence)
        else:
            self._write(pdu.encode_response(header.command, header.sequence, CommandStatus.ESME_RINVBNDSTS))

    def _handle_response(self, header: PduHeader) -> None:
        # By its header alone: clients send bodies that are cut, or have octets too many, and mean the command_status.
        command = header.command
        if command == _DELIVER_SM_RESP:
            self._handle_deliver_response(header.sequence, header.status)
        elif command == CommandId.GENERIC_NACK:
            self._handle_deliver_response(header.sequence, header.status or CommandStatus.ESME_RUNKNOWNERR)
        elif command == CommandId.UNBIND_RESP:
            if self._state is SessionState.UNBINDING:
                self._close_when_submits_answered()
        elif command not in pdu.DECODERS:
            self._write(pdu.encode_generic_nack(header.sequence, CommandStatus.ESME_RINVCMDID))

    # --- binding

    def _handle_bind(self, bind: Bind) -> None:
        waiting_binds = self._server_context.waiting_binds
        if self._state is not SessionState.OPEN or self.awaits_turn or waiting_binds.is_waiting(self):
            is_second = self._state in (SessionState.BOUND, SessionState.OPEN)
            status = CommandStatus.ESME_RALYBND if is_second else CommandStatus.ESME_RINVBNDSTS
            self._write(pdu.encode_response(bind.command, bind.sequence, status))
            return
        self._bind_or_wait(bind, is_its_turn=False)
        if self.awaits_turn:
            log.info("bind of %r from %s waits: one was wrong a moment ago", bind.system_id, self.address)
            self._extend_bind_deadline()

    def take_turn(self, bind: Bind) -> None:
        """Try a bind that has waited because one was wrong a moment before."""
        self._bind_or_wait(bind, is_its_turn=True)

    def _bind_or_wait(self, bind: Bind, *, is_its_turn: bool) -> None:
        waiting_binds = self._server_context.waiting_binds
        no_place = self.try_bind(bind, is_its_turn=is_its_turn)
        if no_place is None:
            return
        if waiting_binds.wait_for_place(self, bind, no_place):
            log.info("bind of %r from %s waits: silent sessions are asked", bind.system_id, self.address)
            # It has the right password, so it takes no place from those of whom that isn't known.
            self._connection_slot.mark_authenticated()
            self._extend_bind_deadline()
        else:
            self.refuse_bind(bind, no_place)

    def _extend_bind_deadline(self) -> None:
        """Have time enough for both waits, that for a turn and that for a place, once a connection."""
        if not self._has_waited:
            self._has_waited = True
            context = self._server_context
            longest_seconds = context.bind_auth.turns.longest_seconds + context.server_limits.probe_seconds
            self._set_deadline(longest_seconds + self._limits.bind_seconds, self._flush_and_close)

    def try_bind(self, bind: Bind, *, is_its_turn: bool = True) -> NoBindPlace | None:
        """Bind, answer why not, or wait for a turn; returns why there is no place for a bind that is right."""
        if self._closed:
            return None
        try:
            accepted_bind = self._server_context.bind_auth.authenticate_bind(bind, self, is_its_turn=is_its_turn)
        except NoBindPlace as no_place:
            return no_place
        except BindRefused as refused:
            self.write_bind_refusal(bind, refused)
        else:
            if accepted_bind:
                self._accept_bind(bind, accepted_bind)
        return None

    def refuse_bind(self, bind: Bind, no_place: NoBindPlace) -> None:
        """Answer a bind that has found no place."""
        self._server_context.bind_auth.record_no_place(bind, self.address, no_place)
        self.write_bind_refusal(bind, no_place)

    def write_bind_refusal(self, bind: Bind, refused: BindRefused) -> None:
        """Answer a bind that was refused."""
        log.info("bind of %r from %s refused: %s %s", bind.system_id, self.address, refused.status.name, refused.reason)
        self._write(pdu.encode_response(bind.command, bind.sequence, refused.status))
        account = self._server_context.storage.find_account(bind.system_id)
        if account:
            self.keep_refused_pdu(account, bind.command, bind, refused.status, refused.reason, str(self.address))

    def _accept_bind(self, bind: Bind, accepted_bind: AcceptedBind) -> None:
        self._start_bound_session(accepted_bind)
        # A client of an older version knows no optional parameters (3.4.1), and keeps eight digits of a message_id.
        self._is_smpp_3_4 = bind.interface_version >= pdu.INTERFACE_VERSION
        tlvs: dict[int, bytes] = (
            {TlvTag.SC_INTERFACE_VERSION: bytes((pdu.INTERFACE_VERSION,))} if self._is_smpp_3_4 else {}
        )
        self._write(BindResp(bind.command | RESPONSE_BIT, bind.sequence, system_id=SYSTEM_ID, tlvs=tlvs).encode())
        if self.kind.may_receive:
            self._is_receiving = True
            self._delivery_scheduler.add_receiver(self)

    def _start_bound_session(self, accepted_bind: AcceptedBind) -> None:
        loop, limits = self._loop, self._limits
        account = accepted_bind.account
        self.accepted_bind = accepted_bind
        self._account = account
        self.kind = accepted_bind.kind
        self._may_submit = self.kind.may_submit
        self._throughput_bucket = TokenBucket(account.throughput, loop.time())
        self._pdu_rate_bucket = TokenBucket(_max_pdus_per_second(account), loop.time())
        self._state = SessionState.BOUND
        self._connection_slot.mark_authenticated()
        self._set_deadline(limits.session_hours * 3600, self.unbind, "it is time for a new session")
        self._liveness_timer = loop.call_later(limits.enquire_link_seconds, self._check_liveness)
        self._delivery_scheduler = self._server_context.session_registry.add_session(self, accepted_bind)
        log.info("%s bound as %s, %s", self.log_name, self.kind, self.tls or "unsecured")

    def apply_account_change(self, account: AccountConfig) -> None:
        """Go on with the account as it is now; unbind where it allows this session no more."""
        if self.is_ending or self.accepted_bind is None:
            return
        self._account = account
        self._throughput_bucket.change_rate(account.throughput, self._loop.time())
        self._pdu_rate_bucket.change_rate(_max_pdus_per_second(account), self._loop.time())
        if not account.is_smpp_session_valid(self.accepted_bind.password_id, self.address, now_ms()):
            self.unbind("address, password or account no longer valid")
        elif self.id in account.ending_session_ids:
            self.unbind("the account's users have asked for its end")

    # --- unbinding and silence

    def unbind(self, reason: str) -> None:
        """Accept no more, answer what was accepted, then send an unbind, and close when it is answered.

        In this order, for many clients close as soon as they get an unbind, and send again what was not answered by
        then. Neither answer is waited for without an end. Without a bind, close.
        """
        if self._state is SessionState.OPEN:
            self._flush_and_close()
        elif self._state is SessionState.BOUND and self.accepted_bind and not self._closed:
            log.info("unbinding %s: %s", self.log_name, reason)
            self._state = SessionState.DRAINING
            self._stop_deliveries()
            self._awaits_delivery_answers = True
            self._set_deadline(_DELIVERY_ANSWER_SECONDS, self._stop_awaiting_delivery_answers)
            self._unbind_when_answered()

    def _stop_awaiting_delivery_answers(self) -> None:
        self._awaits_delivery_answers = False
        self._set_deadline(_SUBMIT_ANSWER_SECONDS, self._send_unbind)
        self._unbind_when_answered()

    def _unbind_when_answered(self) -> None:
        if self._state is _DRAINING and not (
            self._in_flight or (self._awaits_delivery_answers and self._unanswered_deliveries)
        ):
            self._send_unbind()

    def _send_unbind(self) -> None:
        if self._state is not SessionState.DRAINING or self._closed:
            return  # the client was first
        self._state = SessionState.UNBINDING
        self._has_sent_unbind = True
        self._write_request(CommandId.UNBIND)
        if self._unanswered_deliveries:
            # Their answers may come behind submits, and the client have closed: they are read before those are refused.
            self._hold_output()
        self._set_deadline(_UNBIND_TIMEOUT_SECONDS, self._flush_and_close)
        self._end_reading_pause()

    def _handle_unbind(self, sequence: int) -> None:
        if self._state is SessionState.OPEN:
            self._write(pdu.encode_response(CommandId.UNBIND, sequence, CommandStatus.ESME_RINVBNDSTS))
            return
        self._start_unbinding()
        self._close_when_submits_answered(pdu.encode_response(CommandId.UNBIND, sequence))

    def _end_stream(self, malformed: MalformedPdu) -> None:
        self._start_unbinding()
        self._set_deadline(self._limits.response_seconds, self._flush_and_close)
        self._close_when_submits_answered(pdu.encode_generic_nack(malformed.sequence, malformed.status))

    def _start_unbinding(self) -> None:
        if self._state in (SessionState.BOUND, SessionState.DRAINING):
            self._state = SessionState.UNBINDING
            self._stop_deliveries()

    def _close_when_submits_answered(self, final_octets: bytes = b"") -> None:
        """Close once every accepted submit is answered; `final_octets` come last, after those of earlier calls."""
        self._final_octets = (self._final_octets or b"") + final_octets
        if not self._in_flight:
            self._write(self._final_octets)
            self._flush_and_close()

    def _check_liveness(self) -> None:
        """Send enquire_link to a silent client, and disconnect one that does not answer."""
        loop, limits = self._loop, self._limits
        now = loop.time()
        delay = self.last_received_at + limits.enquire_link_seconds - now
        if self._enquire_link_sent_at is not None and self.last_received_at < self._enquire_link_sent_at:
            self.abort("does not answer enquire_link")
            return
        if (
            self._unanswered_deliveries
            and next(iter(self._unanswered_deliveries.values()))[1]
            < now - self._server_context.server_limits.deliver_response_seconds
        ):
            self.abort("does not answer deliver_sm")
            return
        self._enquire_link_sent_at = None
        if delay <= 0:
            self.send_enquire_link()
        else:
            self._liveness_timer = loop.call_later(delay, self._check_liveness)

    def send_enquire_link(self) -> None:
        """Ask whether the client is alive; it is disconnected where nothing comes in time."""
        if self._liveness_timer:
            self._liveness_timer.cancel()
        self._enquire_link_sent_at = self._loop.time()
        self._write_request(CommandId.ENQUIRE_LINK)
        self._liveness_timer = self._loop.call_later(self._limits.response_seconds, self._check_liveness)

    @property
    def unanswered_since(self) -> float | None:
        """When the enquire_link was sent since which nothing has come, in seconds of the event loop's clock."""
        sent_at = self._enquire_link_sent_at
        if self.is_ending or self.is_reading_paused or sent_at is None or self.last_received_at >= sent_at:
            return None
        return sent_at

    # --- what others see

    @property
    def is_ending(self) -> bool:
        """Whether it unbinds or closes, so that its place will be free in a moment."""
        return self._closed or self._state is not _BOUND

    def get_progress(self, rates: str) -> SmppSessionProgress:
        """Return the counters as of now, beside the `rates` that the registry counts."""
        idle_seconds = self._loop.time() - self.last_received_at
        # To the second: of a session that does nothing else, the clock alone should not be written again and again.
        seen_at = (now_ms() - int(idle_seconds * 1000)) // 1000 * 1000
        return SmppSessionProgress(
            self.id, seen_at, self.submitted, self.delivered, self._in_flight, rates, self.refused
        )


def _max_pdus_per_second(account: AccountConfig) -> int:
    """How many PDUs a second a client may send; 0: as many as it likes."""
    return account.throughput and _BASE_PDUS_PER_SECOND + 2 * account.throughput
