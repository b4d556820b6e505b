"""One client's connection: the states of SMPP 3.4 (2.2) and what each PDU does in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import cast

from portal.config import Limits
from portal.db import now_ms
from portal.services import messages
from portal.services.allowed_ips import Address
from portal.services.connections import Progress
from portal.services.deliveries import Deliverable
from portal.services.directory import AccountConfig
from portal.services.errors import Refused
from portal.smsc import pdu, times
from portal.smsc.backplane import Backplane, InDoubt, NoCredit, Refusal
from portal.smsc.delivery import Delivery, deliver_sm
from portal.smsc.dispatch import Dispatch
from portal.smsc.door import Visit
from portal.smsc.gate import Admission, BindRefused, Gate
from portal.smsc.limits import TokenBucket
from portal.smsc.pdu import Bind, BindResp, Header, Malformed, MessageResp, Pdu, Plain, SubmitSm
from portal.smsc.roster import Roster
from portal.smsc.status import RESPONSE, Command, Status, Tag

log = logging.getLogger(__name__)

SYSTEM_ID = "SMPP-Portal"
"""Who we say we are in bind_resp (5.2.1)."""

_MOST_IN_FLIGHT = 5_000  # where the account has no windowing; it bounds the memory of a session
# PDUs that a client may send at all before it binds, and a second afterwards, beside twice its throughput. Answering
# takes the time of everybody's event loop, even where the answer is no.
_MOST_BEFORE_BIND = 20
_MOST_A_SECOND = 1_000
_HOLD_SECONDS = 0.1
_MALFORMED_LOGGED = 10
_WRITE_BUFFER = 64 * 1024
_UNBIND_SECONDS = 1.0
_FLUSH_SECONDS = 2.0
_DELIVERY_SECONDS = 60.0
_LAST_SEQUENCE = 0x7FFFFFFF

_REFUSALS: dict[type[Refused], Status] = {
    messages.InvalidSource: Status.ESME_RINVSRCADR,
    messages.InvalidDestination: Status.ESME_RINVDSTADR,
    messages.UnsupportedDataCoding: Status.ESME_RUNSDATACODING,
    messages.NotDecodable: Status.ESME_RINVGSM7CODING,
    messages.BodyTooLong: Status.ESME_RINVMSGLEN,
}


class State(Enum):
    """OPEN and BOUND are those of 2.2, where TX, RX and TRX are told apart by the admission's kind."""

    OPEN = auto()
    BOUND = auto()
    LEAVING = auto()
    """unbind was sent or received; what was accepted before is still answered."""
    CLOSED = auto()


@dataclass(slots=True)
class Surroundings:
    """What all sessions of the process share."""

    backplane: Backplane
    gate: Gate
    roster: Roster
    dispatch: Dispatch
    limits: Limits
    loop: asyncio.AbstractEventLoop


class Session(asyncio.Protocol):
    """One connection from its first octet to its last."""

    __slots__ = (
        "_account", "_before_bind", "_bucket", "_buffer", "_deadline", "_delivering", "_delivery", "_enquired_at",
        "_heard_at", "_held", "_in_flight", "_last_words", "_malformed", "_needed", "_out", "_pace", "_paused",
        "_receiving", "_sequence", "_state", "_surroundings", "_transport", "_visit", "_watch_timer", "admission",
        "delivered", "id", "submitted", "tls",
    )  # fmt: skip

    def __init__(self, visit: Visit, surroundings: Surroundings) -> None:
        self.id = 0
        self.tls = ""
        self.admission: Admission | None = None
        self.submitted = 0
        self.delivered = 0
        self._surroundings = surroundings
        self._visit = visit
        self._state = State.OPEN
        self._account: AccountConfig | None = None
        self._bucket: TokenBucket | None = None
        self._pace: TokenBucket | None = None
        self._held: asyncio.TimerHandle | None = None
        self._before_bind = 0
        self._malformed = 0
        self._delivery: Delivery | None = None
        self._receiving = False
        self._in_flight = 0
        self._delivering: dict[int, tuple[Deliverable, float]] = {}
        self._sequence = 0
        self._buffer = bytearray()
        self._needed = pdu.HEADER_LENGTH
        self._out: list[bytes] = []
        self._paused: asyncio.TimerHandle | None = None
        self._last_words: bytes | None = None
        self._heard_at = 0.0
        self._enquired_at: float | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def address(self) -> Address:
        """Where the client is: IPv4 where the socket showed it mapped into IPv6."""
        return self._visit.address

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._visit.begun(self)
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        tls = transport.get_extra_info("ssl_object")
        self.tls = tls.version() if tls else ""
        loop = self._surroundings.loop
        self._heard_at = loop.time()
        self._set_deadline(self._surroundings.limits.bind_seconds, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = State.CLOSED
        for timer in (self._deadline, self._watch_timer, self._paused, self._held):
            if timer:
                timer.cancel()
        if self.admission:
            self._surroundings.backplane.release_bind(self.admission.slot)
            self._surroundings.roster.leave(self, self.admission.account.id)
            self._stop_deliveries()
            for deliverable, _ in self._delivering.values():
                self._surroundings.backplane.give_back(deliverable)
            log.info("%s from %s has ended", self.admission.account.name, self.address)
        self._visit.left()

    def pause_writing(self) -> None:
        # The client does not read its answers, so it gets no new ones for a while; then it is gone.
        assert self._transport
        self._transport.pause_reading()
        self._paused = self._surroundings.loop.call_later(
            self._surroundings.limits.response_seconds, self._reads_too_slowly
        )

    def resume_writing(self) -> None:
        if self._paused and self._transport:
            self._paused.cancel()
            self._paused = None
            if not self._held and not self._transport.is_closing():
                self._transport.resume_reading()
            if self._delivery:
                self._delivery.room()

    def _reads_too_slowly(self) -> None:
        self._abort("does not read what it is sent")

    def make_room(self) -> None:
        """End at once, without a word: others wait to bind."""
        self._abort("has not bound, and its place is needed")

    def _set_deadline(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        """Have `call` called unless something else ends sooner: the time to bind, to be bound, to say farewell."""
        if self._deadline:
            self._deadline.cancel()
        self._deadline = self._surroundings.loop.call_later(seconds, call, *arguments)

    def _write(self, octets: bytes) -> None:
        # Gathered: the answers of a whole batch go out in one system call.
        if not self._out:
            self._surroundings.loop.call_soon(self._flush)
        self._out.append(octets)

    def _flush(self) -> None:
        if self._out and self._transport and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _close(self) -> None:
        """Close once everything written has left, which is given little time."""
        if self._state is State.CLOSED or self._transport is None:
            return
        self._flush()
        self._state = State.CLOSED
        self._transport.close()
        self._set_deadline(_FLUSH_SECONDS, self._transport.abort)

    def _abort(self, why: str) -> None:
        if self._transport and self._state is not State.CLOSED:
            log.warning("%s is cut off: it %s", self.address, why)
            self._state = State.CLOSED
            self._transport.abort()

    # --- octets to PDUs

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._surroundings.loop.time()
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed or self._held:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        try:
            self._read(data)
        except Malformed as malformed:
            # Its length is wrong, so where the next PDU starts is anybody's guess.
            log.warning("%s is cut off: %s", self.address, malformed)
            self._write(pdu.generic_nack(malformed.sequence, malformed.status))
            self._close()

    def _read(self, data: bytes) -> None:
        start = 0
        self._needed = pdu.HEADER_LENGTH
        while self._state is not State.CLOSED:
            header = pdu.read_header(data, start)
            if header is None:
                break
            end = start + header.length
            if end > len(data):
                self._needed = header.length
                break
            if not self._may_go_on():
                break
            self._received(header, data[start + pdu.HEADER_LENGTH : end])
            start = end
        self._buffer += data[start:]

    def _may_go_on(self) -> bool:
        """Whether the client may be heard further at this moment."""
        if self._pace is None:
            self._before_bind += 1
            if self._before_bind > _MOST_BEFORE_BIND:
                self._abort("says much and does not bind")
        elif not self._pace.take(self._heard_at):
            # No refusal but a pause: what it has sent fills its own connection, and the others have their turn.
            assert self._transport
            self._transport.pause_reading()
            self._held = self._surroundings.loop.call_later(_HOLD_SECONDS, self._go_on)
        return self._held is None and self._state is not State.CLOSED

    def _go_on(self) -> None:
        self._held = None
        if self._transport and not self._transport.is_closing():
            if not self._paused:
                self._transport.resume_reading()
            self.data_received(b"")

    def _received(self, header: Header, body: bytes) -> None:
        try:
            message = pdu.decode(header, body)
        except Malformed as malformed:
            self._refuse_malformed(malformed)
            return
        if isinstance(message, SubmitSm):
            self._submit(message)
        else:
            self._dispatch(header, message)

    def _refuse_malformed(self, malformed: Malformed) -> None:
        self._malformed += 1
        if self._malformed <= _MALFORMED_LOGGED:
            log.info("malformed PDU from %s: %s", self.address, malformed)
        if malformed.status is Status.ESME_RINVCMDID:
            self._write(pdu.generic_nack(malformed.sequence, malformed.status))
        elif malformed.command & RESPONSE:
            self._answered(malformed.sequence, malformed.status)
        else:
            self._write(pdu.response(malformed.command, malformed.sequence, malformed.status))

    def _dispatch(self, header: Header, message: Pdu) -> None:
        if isinstance(message, Bind):
            self._bind(message)
        elif isinstance(message, MessageResp):
            self._answered(message.sequence, message.status)
        elif isinstance(message, Plain):
            self._plain(message)
        elif not header.command & RESPONSE:
            self._write(pdu.response(header.command, header.sequence, Status.ESME_RINVBNDSTS))

    def _plain(self, message: Plain) -> None:
        if message.command == Command.ENQUIRE_LINK:
            self._write(pdu.response(message.command, message.sequence))
        elif message.command == Command.GENERIC_NACK:
            self._answered(message.sequence, message.status or Status.ESME_RUNKNOWNERR)
        elif message.command == Command.UNBIND:
            self._unbind_received(message.sequence)
        elif message.command == Command.UNBIND_RESP and self._state is State.LEAVING:
            self._leave(b"")

    # --- binding

    def _bind(self, bind: Bind) -> None:
        if self._state is not State.OPEN:
            status = Status.ESME_RALYBND if self._state is State.BOUND else Status.ESME_RINVBNDSTS
            self._write(pdu.response(bind.command, bind.sequence, status))
            return
        surroundings = self._surroundings
        try:
            admission = surroundings.gate.admit(bind, self.address)
        except BindRefused as refused:
            log.info(
                "bind of %r from %s refused: %s %s", bind.system_id, self.address, refused.status.name, refused.reason
            )
            self._write(pdu.response(bind.command, bind.sequence, refused.status))
            return
        self._begin(admission)
        # A client of an older version does not know optional parameters (3.4.1).
        knows_tlvs = bind.interface_version >= pdu.INTERFACE_VERSION
        tlvs: dict[int, bytes] = {Tag.SC_INTERFACE_VERSION: bytes((pdu.INTERFACE_VERSION,))} if knows_tlvs else {}
        self._write(BindResp(bind.command | RESPONSE, bind.sequence, system_id=SYSTEM_ID, tlvs=tlvs).encode())
        if admission.kind.receives and self._delivery:
            self._receiving = True
            self._delivery.join(self)

    def _begin(self, admission: Admission) -> None:
        surroundings = self._surroundings
        loop, limits = surroundings.loop, surroundings.limits
        account = admission.account
        self.admission = admission
        self._account = account
        self._bucket = TokenBucket(account.throughput, loop.time())
        self._pace = TokenBucket(_pace(account), loop.time())
        self._state = State.BOUND
        self._visit.bound()
        self._set_deadline(limits.session_hours * 3600, self.unbind, "it is time for a new session")
        self._watch_timer = loop.call_later(limits.enquire_link_seconds, self._watch)
        self._delivery = surroundings.roster.join(self, account)
        log.info("%s bound as %s from %s %s", account.name, admission.kind, self.address, self.tls or "unsecured")

    def account_changed(self, account: AccountConfig) -> None:
        """Go on by the account as it is now, or, where it has no place for this session any more, unbind."""
        if self._state is not State.BOUND or self.admission is None or self._bucket is None or self._pace is None:
            return
        self._account = account
        self._bucket.change(account.throughput, self._surroundings.loop.time())
        self._pace.change(_pace(account), self._surroundings.loop.time())
        if not account.still_valid(self.admission.password_id, self.address, now_ms()):
            self.unbind("address, password or account no longer valid")
        elif self.id in account.ending:
            self.unbind("the account's users have asked for its end")

    # --- unbinding and silence

    def unbind(self, why: str) -> None:
        """Send an unbind and close when it is answered, a second later at most. Without a bind, close."""
        if self._state is State.OPEN:
            self._close()
        elif self._state is State.BOUND and self.admission:
            log.info("unbinding %s from %s: %s", self.admission.account.name, self.address, why)
            self._state = State.LEAVING
            self._stop_deliveries()
            self._write(Plain(Command.UNBIND, self._next_sequence()).encode())
            self._set_deadline(_UNBIND_SECONDS, self._close)

    def _unbind_received(self, sequence: int) -> None:
        if self._state is State.OPEN:
            self._write(pdu.response(Command.UNBIND, sequence, Status.ESME_RINVBNDSTS))
            return
        if self._state is State.BOUND:
            self._state = State.LEAVING
            self._stop_deliveries()
        self._leave(pdu.response(Command.UNBIND, sequence))

    def _leave(self, last_words: bytes) -> None:
        """Close once every submit that was taken has been answered."""
        self._last_words = last_words
        if not self._in_flight:
            if last_words:
                self._write(last_words)
            self._close()

    def _watch(self) -> None:
        """Ask a silent client whether it is there, and end with one that does not answer."""
        loop, limits = self._surroundings.loop, self._surroundings.limits
        now = loop.time()
        delay = self._heard_at + limits.enquire_link_seconds - now
        if self._enquired_at is not None and self._heard_at < self._enquired_at:
            self._abort("does not answer enquire_link")
            return
        if self._delivering and next(iter(self._delivering.values()))[1] < now - _DELIVERY_SECONDS:
            self._abort("does not answer deliver_sm")
            return
        self._enquired_at = None
        if delay <= 0:
            self._enquired_at = now
            self._write(Plain(Command.ENQUIRE_LINK, self._next_sequence()).encode())
            delay = limits.response_seconds
        self._watch_timer = loop.call_later(delay, self._watch)

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % _LAST_SEQUENCE + 1
        return self._sequence

    # --- messages from the client

    def _submit(self, message: SubmitSm) -> None:
        sequence = message.sequence
        account, bucket = self._account, self._bucket
        if self._state is not State.BOUND or account is None or bucket is None or not self._may_submit():
            self._refuse_submit(sequence, Status.ESME_RINVBNDSTS)
            return
        if self._in_flight >= (account.windowing or _MOST_IN_FLIGHT) or not bucket.take(self._surroundings.loop.time()):
            self._refuse_submit(sequence, Status.ESME_RTHROTTLED)
            return
        status = times.flaw(message.schedule_delivery_time, message.validity_period)
        if status:
            self._refuse_submit(sequence, status)
            return
        backplane = self._surroundings.backplane
        reference = message.tlvs.get(Tag.USER_MESSAGE_REFERENCE)
        try:
            submit = messages.prepare(
                account,
                backplane.prices(),
                source=message.source,
                source_ton=message.source_ton,
                source_npi=message.source_npi,
                destination=message.destination,
                esm_class=message.esm_class,
                data_coding=message.data_coding,
                registered_delivery=message.registered_delivery,
                body=message.body,
                reference=int.from_bytes(reference) if reference else None,
            )
        except Refused as refused:
            self._refuse_submit(sequence, _REFUSALS.get(type(refused), Status.ESME_RSUBMITFAIL))
            return
        self._in_flight += 1
        backplane.accept(submit, partial(self._stored, sequence))

    def _may_submit(self) -> bool:
        return self.admission is not None and self.admission.kind.sends

    def _refuse_submit(self, sequence: int, status: Status) -> None:
        self._write(pdu.response(Command.SUBMIT_SM, sequence, status))

    def _stored(self, sequence: int, result: int | Refusal) -> None:
        self._in_flight -= 1
        if isinstance(result, int):
            self.submitted += 1
            self._write(pdu.submit_sm_resp(sequence, str(result)))
        elif isinstance(result, InDoubt):
            self._abort("could not be told whether its message is stored")
        else:
            status = Status.ESME_RSUBMITFAIL if isinstance(result, NoCredit) else Status.ESME_RSYSERR
            self._refuse_submit(sequence, status)
        if self._last_words is not None:
            self._leave(self._last_words)

    # --- receipts and messages to the client

    def has_room(self) -> bool:
        """Whether another deliver_sm may be sent: the window is the same as for submits."""
        assert self._account
        return self._paused is None and len(self._delivering) < (self._account.windowing or _MOST_IN_FLIGHT)

    def deliver(self, deliverable: Deliverable) -> None:
        """Send a receipt, or a message from a handset."""
        sequence = self._next_sequence()
        self._delivering[sequence] = (deliverable, self._surroundings.loop.time())
        self._write(deliver_sm(deliverable, sequence).encode())

    def _answered(self, sequence: int, status: int) -> None:
        sent = self._delivering.pop(sequence, None)
        if sent and self._delivery:
            self.delivered += status == Status.ESME_ROK
            self._delivery.answered(sent[0], status)

    def _stop_deliveries(self) -> None:
        """Get nothing more. What is under way may still be answered."""
        if self._receiving and self._delivery:
            self._receiving = False
            self._delivery.leave(self)

    # --- what pages show

    @property
    def heard_at(self) -> float:
        """When the client was last heard, in seconds of the event loop's clock."""
        return self._heard_at

    def progress(self, rates: str) -> Progress:
        """Return the counters as of now, beside the `rates` that the roster counts."""
        idle = self._surroundings.loop.time() - self._heard_at
        # To the second: of a session that does nothing else, the clock alone should not be written again and again.
        seen_at = (now_ms() - int(idle * 1000)) // 1000 * 1000
        return Progress(self.id, seen_at, self.submitted, self.delivered, self._in_flight, rates)


def _pace(account: AccountConfig) -> int:
    """How many PDUs a second a client may send; 0: as many as it likes."""
    return account.throughput and _MOST_A_SECOND + 2 * account.throughput
