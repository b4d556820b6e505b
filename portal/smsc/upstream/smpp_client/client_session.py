"""One connection to a carrier, from its first octet to its last: the ESME's side of SMPP 3.4 (2.2). What it is set to,
what it counts, and the messages on their way there.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto

from portal.core import tls_client
from portal.services.upstreams.settings import UpstreamSettings
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId, CommandStatus, format_status
from portal.smsc.protocol.pdu import Bind, DataSm, DeliverSm, HeaderOnlyPdu, MalformedPdu, PduHeader, SubmitSm
from portal.smsc.protocol.pdu_stream import MAX_SEQUENCE_NUMBER, PduStream
from portal.smsc.upstream.pdu_tracer import PduTracer
from portal.smsc.upstream.smpp_client import pdu_trace

log = logging.getLogger(__name__)

Host = tuple[str, int]
"""A name or address, and a port."""
Respond = Callable[[int], None]
"""Answers a deliver_sm or data_sm with this command_status. Only the first call does; none, once the connection has
ended."""
Renew = Callable[[], SubmitSm | None]
"""Returns a message as it is to be sent by now; None where it has expired."""

_BIND_SEQUENCE = 1
BIND_UNANSWERED = "has not answered the bind"
"""Why a session ends to whose bind no answer came in time."""
_BIND_COMMANDS = {
    "trx": CommandId.BIND_TRANSCEIVER,
    "tx": CommandId.BIND_TRANSMITTER,
    "rx": CommandId.BIND_RECEIVER,
}

# Of what the carrier sends, so much is here at a time that is not answered: then nothing more is read.
_MAX_UNANSWERED_DELIVERIES = 500
_MAX_UNANSWERED_OCTETS = 1024 * 1024
# Within a minute. A carrier that sends one now and then, for months, is no harm.
_MAX_MALFORMED = 100
_MALFORMED_SECONDS = 60.0
_MAX_LOGGED = 10
# Before the end: for the carrier to answer what it was sent, and for the storage to keep what the carrier has sent.
ANSWER_SECONDS = 5.0
_UNBIND_SECONDS = 1.0

_SUBMIT_SM_RESP, _GENERIC_NACK = CommandId.SUBMIT_SM_RESP, CommandId.GENERIC_NACK
_DELIVERIES = (CommandId.DELIVER_SM, CommandId.DATA_SM)
# That a handset can be reached again (4.12). It has no response, and nothing here has asked for it.
_ALERT_NOTIFICATION = 0x102
# What the bind says, in its order (4.1.5).
_BIND_SETTINGS = "system_id password system_type interface_version address_ton address_npi address_range".split()
_CONNECTION_SETTINGS = (
    *_BIND_SETTINGS,
    *"tls tls_verify tls_ca_file tls_server_name tls_certificate tls_key tls_minimum".split(),
)


@dataclass(frozen=True, slots=True)
class ClientSettings(UpstreamSettings):
    """What one upstream is set to, with what isn't among its settings. Times are in seconds.

    name: for the log.
    """

    name: str = ""
    password: str = field(default="", repr=False)

    @property
    def hosts(self) -> list[Host]:
        """The hosts, in their order."""
        first = (self.host, self.port)
        return [first, (self.second_host, self.second_port or self.port)] if self.second_host else [first]

    def needs_other_connection(self, new: ClientSettings, host: Host) -> bool:
        """Whether a connection to `host` (one of `hosts`) that was made with these settings cannot go on with `new`."""
        return host not in new.hosts or any(getattr(self, each) != getattr(new, each) for each in _CONNECTION_SETTINGS)


@dataclass(slots=True, eq=False)
class Submit:
    """A message on its way.

    octets: the submit_sm, with any sequence number. parts: what `throughput` counts it as. renew: is called where it
    had to wait; one that has expired is lost, unsent. None: it stays as it is. is_retry: whether it was given back
    before, so that its refusal says less about others. number: which part of a text it is that is cut, 0: all of it.
    order: counts up as messages are submitted. tries: how often it was refused for being too much; status: with what
    the last time, 0: never. sent_at: seconds of the event loop's clock.
    """

    message_id: int
    destination: str
    octets: bytes
    parts: int = 1
    renew: Renew | None = None
    is_retry: bool = False
    number: int = 0
    order: int = 0
    tries: int = 0
    status: int = 0
    sent_at: float = 0.0

    def renew_octets(self) -> bool:
        """Encode anew what had to wait: how long it is still valid has changed. Returns whether it is to be sent at
        all.
        """
        if self.renew is None:
            return True
        # Other settings may have no room for its addresses any more: then it goes as it could be written before.
        with suppress(ValueError, LookupError, OverflowError):
            message = self.renew()
            if message is None:
                return False
            self.octets = message.encode()
        return True


class SessionOwner:
    """What a session tells the client that it belongs to, which hears what it has a method of its own for.

    counters: what has happened since it was taken last, by names of `counters.COUNTERS`. submitted: submit_sm sent,
    those that were sent again included, which `retried` counts. unknown_answers: responses to nothing that waits for
    one, late and double ones. answers_without_id: accepted messages whose receipt cannot be recognized. malformed: PDUs
    that are not SMPP 3.4. `latencies`: how many seconds the last answers to submit_sm have taken. `tracer`: what traces
    its PDUs, while operators want that; this one never does.
    """

    counters: Counter[str]
    latencies: deque[float]
    tracer = PduTracer(lambda pdus, left_out: None)

    def handle_bound(self, session: ClientSession) -> None:
        """The bind was accepted."""

    def handle_answer(self, session: ClientSession, submit: Submit, status: int, upstream_message_id: str) -> None:
        """A submit was answered."""

    def handle_timeout(self, session: ClientSession, submit: Submit) -> None:
        """A submit was not answered in time, but others were."""

    def handle_writable(self, session: ClientSession) -> None:
        """The carrier has begun to read again what it is sent."""

    def handle_delivery(self, message: DeliverSm | DataSm, respond: Respond) -> None:
        """The carrier has sent a receipt, or a message from a handset. `respond` has to be called once it is stored, or
        cannot be.
        """

    def handle_end(self, session: ClientSession) -> None:
        """The connection is no more; `in_flight` and `pending` have what was not answered and what was not sent."""


def encode_bind(settings: ClientSettings, kind: str) -> bytes:
    """Return the bind PDU.

    Raises ValueError where a field is too long for SMPP, with a text that does not quote it: it may be the password.
    """
    try:
        return Bind(
            _BIND_COMMANDS[kind], _BIND_SEQUENCE, *(getattr(settings, each) for each in _BIND_SETTINGS)
        ).encode()
    except ValueError:
        raise ValueError(
            "system_id (15 characters at most), password (8), system_type (12) or address_range (40) is too long for"
            " SMPP, or has characters that are not Latin-1"
        ) from None


class _State(Enum):
    BINDING = auto()
    BOUND = auto()
    UNBINDING = auto()
    """Nothing more is submitted; what was is still answered."""


_BOUND = _State.BOUND


@dataclass(eq=False, repr=False)
class ClientSession(PduStream):
    """A connection that binds as soon as it is made.

    Args:
        kind: "trx", "tx" or "rx".
        host: whom it is to: one of the settings' `hosts`.
        bind_octets: the bind PDU (`encode_bind`).

    `in_flight`: what was sent and is not answered, by sequence number, in the order of sending. `pending`: what has to
    go out on this connection, and waits for room. `bound`: done when the bind is accepted. `ended`: done when the
    connection is no more. `end_reason`: why, as a sentence without its full stop. `bind_status`: the command_status
    that refused the bind, 0: none did.
    """

    number: int
    kind: str
    _host: Host
    _bind_octets: bytes
    _settings: ClientSettings
    _owner: SessionOwner
    _tracer: PduTracer = field(init=False)
    slow_reader_seconds: float = field(init=False)
    in_flight: dict[int, Submit] = field(default_factory=dict)
    pending: deque[Submit] = field(default_factory=deque)
    bound: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    ended: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    end_reason: str = ""
    bind_status: int = 0
    bound_at: float = 0.0
    _state: _State = _State.BINDING
    _final_octets: bytes | None = None
    _closes_after_final: bool = False
    _last_answer_at: float = 0.0
    _answer_due_from: float = 0.0
    _enquire_link_sent_at: float | None = None
    _unanswered_count: int = 0
    _unanswered_octets: int = 0
    _malformed_count: int = 0
    _malformed_since: float = 0.0
    _logged: int = 0
    _watch_timer: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self._tracer = self._owner.tracer
        self.slow_reader_seconds = self._settings.response_seconds
        self._last_sequence_number = _BIND_SEQUENCE

    # --- the connection

    @property
    def log_name(self) -> str:
        return f"upstream {self._settings.name}, bind {self.number}"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._set_deadline(self._settings.bind_seconds, self.abort, BIND_UNANSWERED)
        self._write(self._bind_octets)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._watch_timer:
            self._watch_timer.cancel()
        self._note_end(self._describe_loss(exc))
        try:
            self._owner.handle_end(self)
        finally:
            # Who waits for it would wait for ever.
            if not self.ended.done():
                self.ended.set_result(None)

    def _describe_loss(self, error: Exception | None) -> str:
        if error is None:
            return "the carrier has closed the connection"
        if isinstance(error, ssl.SSLError):
            # With TLS 1.3 it refuses the client's certificate, or misses it, after the client's part of the handshake.
            why = tls_client.describe_failure(error, shows_certificate=bool(self._settings.tls_certificate))
            return f"the connection was lost: {why}"
        return f"the connection was lost: {error}"

    def abort(self, reason: str) -> None:
        self._note_end(f"the carrier {reason}")
        super().abort(reason)

    def discard(self) -> None:
        """Forget a connection that was given up while it was made: event loops don't tell its end in all cases."""
        self._closed = True
        self._outgoing.clear()
        if self._deadline_timer:
            self._deadline_timer.cancel()
        if self._transport:
            self._transport.abort()

    def _note_end(self, reason: str) -> None:
        self.end_reason = self.end_reason or reason

    def _end_stream(self, malformed: MalformedPdu) -> None:
        self._owner.counters["malformed"] += 1
        self._note_end(f"the carrier has sent what is not SMPP: {malformed}")
        self._write(pdu.encode_generic_nack(malformed.sequence, malformed.status))
        self._flush_and_close()

    def pause_writing(self) -> None:
        # Its answers are read all the same: it may be waiting for that, before it reads what it is sent.
        self._slow_reader_timer = self._loop.call_later(self.slow_reader_seconds, self._abort_slow_reader)

    def _writing_resumed(self) -> None:
        self._owner.handle_writable(self)

    def _may_process_pdu(self, command: int) -> bool:
        if command & RESPONSE_BIT or not (
            # What is answered would be kept in memory, as long as the carrier doesn't read.
            self._slow_reader_timer
            or (
                command in _DELIVERIES
                and (
                    self._unanswered_count >= _MAX_UNANSWERED_DELIVERIES
                    or self._unanswered_octets >= _MAX_UNANSWERED_OCTETS
                )
            )
        ):
            return True
        self._answer_due_from = self._turn_started_at
        self._pause_reading_briefly()
        return False

    # --- PDUs

    def _write(self, octets: bytes) -> None:
        if self._tracer.is_on:
            self._tracer.record_octets(self.number, octets, pdu_trace.describe)
        super()._write(octets)

    def _pdu_received(self, header: PduHeader, body: bytes) -> None:
        if self._tracer.is_on:
            self._tracer.record(self.number, header, body, pdu_trace.describe)
        command = header.command
        if command == _SUBMIT_SM_RESP:
            self._handle_submit_answer(header, body)
        elif command & RESPONSE_BIT:
            self._handle_other_response(header)
        elif command in _DELIVERIES:
            self._handle_delivery(header, body)
        elif command == CommandId.ENQUIRE_LINK:
            self._write(pdu.encode_response(command, header.sequence))
        elif command == CommandId.UNBIND:
            answer = pdu.encode_response(command, header.sequence)
            self._start_unbinding("the carrier has unbound", answer, ANSWER_SECONDS, closes=True)
        elif command != _ALERT_NOTIFICATION:
            self._write(pdu.encode_generic_nack(header.sequence, CommandStatus.ESME_RINVCMDID))
            self._count_malformed(f"command_id 0x{command:08X}")

    def _count_malformed(self, flaw: str) -> None:
        self._owner.counters["malformed"] += 1
        if self._turn_started_at - self._malformed_since > _MALFORMED_SECONDS:
            self._malformed_count, self._malformed_since = 0, self._turn_started_at
        self._malformed_count += 1
        self._log_oddity("malformed PDU: " + flaw)
        if self._malformed_count == _MAX_MALFORMED:
            # What it has been sent is answered before the end: else it would be sent again.
            self.unbind(f"the carrier has sent {_MAX_MALFORMED} PDUs that are not SMPP 3.4, the last for its {flaw}")

    def _log_oddity(self, what: str) -> None:
        self._logged += 1
        if self._logged <= _MAX_LOGGED:
            log.info("%s: %s%s", self.log_name, what, "; no more such lines" if self._logged == _MAX_LOGGED else "")

    def _handle_other_response(self, header: PduHeader) -> None:
        command = header.command
        # A carrier that can't read the bind's sequence_number answers with 0 (4.3).
        if self._state is _State.BINDING and (header.sequence == _BIND_SEQUENCE or command == _GENERIC_NACK):
            self._handle_bind_answer(command, header.status)
        elif command == _GENERIC_NACK:
            # It has no body, and may answer whatever was sent.
            if header.sequence in self.in_flight:
                status = header.status or CommandStatus.ESME_RUNKNOWNERR
                self._handle_submit_answer(PduHeader(header.length, command, status, header.sequence), b"")
            else:
                self._log_oddity(f"generic_nack of {header.sequence} with status 0x{header.status:X}")
        elif command == CommandId.UNBIND_RESP:
            if self._state is _State.UNBINDING:
                self._flush_and_close()
        elif command not in pdu.DECODERS:
            self._count_malformed(f"command_id 0x{command:08X}")

    def _handle_bind_answer(self, command: int, status: int) -> None:
        expected = _BIND_COMMANDS[self.kind] | RESPONSE_BIT
        if command == _GENERIC_NACK or status:
            self.bind_status = status or CommandStatus.ESME_RUNKNOWNERR
            self._note_end(f"the carrier refuses the bind with {format_status(self.bind_status)}")
            self._flush_and_close()
        elif command != expected:
            self.abort(f"has answered the bind with command_id 0x{command:08X}")
        else:
            if self._deadline_timer:
                self._deadline_timer.cancel()
            self._state = _BOUND
            self.bound_at = self._last_answer_at = self._loop.time()
            self._watch_timer = self._loop.call_later(self._watch_delay(self.bound_at), self._watch)
            self.bound.set_result(None)
            self._owner.handle_bound(self)

    def change_settings(self, settings: ClientSettings) -> None:
        """Go on with other settings, or unbind where they are for another connection."""
        old, self._settings = self._settings, settings
        if old.needs_other_connection(settings, self._host):
            self.unbind("its settings have changed")

    # --- messages to the carrier

    @property
    def is_bound(self) -> bool:
        """Whether it is bound, and not about to end."""
        return self._state is _BOUND and not self._closed

    @property
    def free(self) -> int:
        """How many more submits may be sent now."""
        if self._state is not _BOUND or self._slow_reader_timer or self._closed:
            return 0
        return self._settings.window - len(self.in_flight)

    def send_submit(self, submit: Submit, now: float) -> None:
        """Send it; `free` has to be positive."""
        # _next_sequence_number in one step: this is done once a message.
        sequence = self._last_sequence_number = self._last_sequence_number % MAX_SEQUENCE_NUMBER + 1
        submit.sent_at = now
        self.in_flight[sequence] = submit
        octets = submit.octets
        self._write(b"%b%b%b" % (octets[:12], sequence.to_bytes(4), octets[16:]))

    def _handle_submit_answer(self, header: PduHeader, body: bytes) -> None:
        submit = self.in_flight.pop(header.sequence, None)
        owner = self._owner
        if submit is None:
            owner.counters["unknown_answers"] += 1
            self._log_oddity(f"a response with sequence_number {header.sequence}, which waits for none")
            return
        self._last_answer_at = self._turn_started_at
        owner.latencies.append(self._turn_started_at - submit.sent_at)
        message_id = ""
        if not header.status:
            message_id = body.partition(b"\0")[0][:64].decode("latin-1")
            if not message_id:
                # It says that it has the message, and sending it again would double it. No receipt can be matched.
                owner.counters["answers_without_id"] += 1
                self._log_oddity("accepted a message without a message_id, so its receipt will not be recognized")
        owner.handle_answer(self, submit, header.status, message_id)
        if header.status == CommandStatus.ESME_RINVBNDSTS:
            self.unbind("the carrier takes it for not bound")
        elif self._state is not _BOUND:
            self._end_when_answered()

    # --- messages from the carrier

    def _handle_delivery(self, header: PduHeader, body: bytes) -> None:
        if self._state is _State.BINDING or self.kind == "tx":
            self._write_delivery_answer(header, CommandStatus.ESME_RINVBNDSTS)
            self._log_oddity("a message or receipt before the bind, or over a transmitter")
            return
        try:
            message = pdu.decode_pdu(header, body)
        except MalformedPdu as malformed:
            self._write_delivery_answer(header, malformed.status)
            self._count_malformed(str(malformed))
            return
        assert isinstance(message, DeliverSm | DataSm)
        self._unanswered_count += 1
        self._unanswered_octets += header.length
        is_answered = False

        def respond(status: int) -> None:
            nonlocal is_answered
            if not is_answered:
                is_answered = True
                self._answer_delivery(header, status)

        self._owner.handle_delivery(message, respond)

    def _answer_delivery(self, header: PduHeader, status: int) -> None:
        self._unanswered_count -= 1
        self._unanswered_octets -= header.length
        if self._closed:
            return
        self._write_delivery_answer(header, status)
        if self._unanswered_count <= _MAX_UNANSWERED_DELIVERIES // 2:
            self._end_reading_pause()
        if self._state is not _BOUND:
            self._end_when_answered()

    def _write_delivery_answer(self, header: PduHeader, status: int) -> None:
        # With the message_id, which is empty: some take a response without a body for none (4.6.2).
        self._write(pdu.encode_pdu(header.command | RESPONSE_BIT, status, header.sequence, b"\0"))

    # --- silence, and the end

    def _watch(self) -> None:
        """End a connection that is dead, and give up the submits that are not answered."""
        now = self._loop.time()
        if self._enquire_link_sent_at is not None and self._turn_started_at >= self._enquire_link_sent_at:
            self._enquire_link_sent_at = None
        if now >= self._silence_due():
            if self._enquire_link_sent_at is not None:
                self.abort("has not answered enquire_link")
                return
            self._enquire_link_sent_at = now
            self._write_request(CommandId.ENQUIRE_LINK)
        self._give_up_unanswered(now)
        if not self._closed:
            self._watch_timer = self._loop.call_later(self._watch_delay(now), self._watch)

    def _watch_delay(self, now: float) -> float:
        oldest = next(iter(self.in_flight.values()), None)
        answer_due = self._answer_due(oldest) if oldest else now + self._settings.response_seconds
        return max(min(answer_due, self._silence_due()) - now, 0.001)

    def _silence_due(self) -> float:
        """Return when something has to be done about the silence of the carrier."""
        if self._enquire_link_sent_at is None:
            return self._turn_started_at + self._settings.enquire_link_seconds
        return self._enquire_link_sent_at + min(self._settings.response_seconds, self._settings.enquire_link_seconds)

    def _answer_due(self, submit: Submit) -> float:
        # While nothing was read, it could not be seen to have answered.
        return max(submit.sent_at, self._answer_due_from) + self._settings.response_seconds

    def _give_up_unanswered(self, now: float) -> None:
        while self.in_flight:
            sequence, submit = next(iter(self.in_flight.items()))
            if now < self._answer_due(submit):
                break
            if self._last_answer_at <= submit.sent_at:
                self.abort(f"has answered no submit_sm for {self._settings.response_seconds:g} s")
                return
            del self.in_flight[sequence]
            self._log_oddity(f"no answer to sequence_number {sequence} in {self._settings.response_seconds:g} s")
            self._owner.handle_timeout(self, submit)
        if self._state is not _BOUND:
            self._end_when_answered()

    def unbind(self, reason: str, answer_seconds: float = ANSWER_SECONDS) -> None:
        """Submit nothing more, wait so long for the answers to what was, unbind, and close.

        Without a bind, close.
        """
        if self._state is _BOUND:
            unbind = HeaderOnlyPdu(CommandId.UNBIND, self._next_sequence_number()).encode()
            self._start_unbinding(reason, unbind, answer_seconds, closes=False)
        elif self._state is _State.BINDING:
            self._note_end(reason)
            self._flush_and_close()

    def _start_unbinding(self, reason: str, final_octets: bytes, answer_seconds: float, *, closes: bool) -> None:
        self._note_end(reason)
        # One unbind after the other would put the end off.
        if self._state is not _State.UNBINDING:
            self._set_deadline(answer_seconds, self._send_final_octets)
        self._state = _State.UNBINDING
        self._final_octets = final_octets
        self._closes_after_final = closes
        self._end_when_answered()

    def _end_when_answered(self) -> None:
        if not self.in_flight and not self._unanswered_count:
            self._send_final_octets()

    def _send_final_octets(self) -> None:
        final_octets, self._final_octets = self._final_octets, None
        if final_octets is None or self._closed:
            return
        self._write(final_octets)
        if self._closes_after_final:
            self._flush_and_close()
        else:
            self._set_deadline(_UNBIND_SECONDS, self._flush_and_close)
