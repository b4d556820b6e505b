"""One client's connection: the states of SMPP 3.4 (2.2) and what each PDU does in them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

from portal.core.clock import now_ms
from portal.core.config import Limits
from portal.services.accounts.session_records import Progress
from portal.services.messages.deliveries import Deliverable
from portal.services.messages.smpp_config import AccountConfig
from portal.smsc.admission.bind_auth import Admission, BindAuth, BindRefused
from portal.smsc.admission.connection_limits import ConnectionSlot
from portal.smsc.admission.rate_limits import TokenBucket
from portal.smsc.connection import query_cancel, submission
from portal.smsc.connection.pdu_stream import PduStream
from portal.smsc.connection.session_registry import SessionRegistry
from portal.smsc.delivery.delivery import Delivery, deliver_sm
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE, Command, Status, Tag
from portal.smsc.protocol.pdu import (
    Bind,
    BindResp,
    CancelSm,
    DataSm,
    Header,
    Malformed,
    MessageResp,
    Pdu,
    Plain,
    QuerySm,
    SubmitSm,
)
from portal.smsc.storage.interface import InDoubt, NoCredit, Refusal, Storage
from portal.smsc.upstream.dispatcher import Dispatcher

log = logging.getLogger(__name__)

SYSTEM_ID = "SMPP-Portal"
"""Who we say we are in bind_resp (5.2.1)."""

# Where the account has no windowing, so many are in flight, and nothing more is heard until half of them are answered:
# those of other sessions wait in the same queue. It bounds the memory of a session, too.
_MOST_IN_FLIGHT = 1_000
# PDUs that a client may send at all before it binds, and a second afterwards, beside twice its throughput. Answering
# takes the time of everybody's event loop, even where the answer is no.
_MOST_BEFORE_BIND = 20
_MOST_A_SECOND = 1_000
_MALFORMED_LOGGED = 10
_UNBIND_SECONDS = 1.0
_DELIVERY_SECONDS = 60.0
_LAST_SEQUENCE = 0x7FFFFFFF


class State(Enum):
    """OPEN and BOUND are those of 2.2, where TX, RX and TRX are told apart by the admission's kind."""

    OPEN = auto()
    BOUND = auto()
    LEAVING = auto()
    """unbind was sent or received; what was accepted before is still answered."""


@dataclass(slots=True)
class ServerContext:
    """What all sessions of the process share."""

    storage: Storage
    bind_auth: BindAuth
    session_registry: SessionRegistry
    dispatcher: Dispatcher
    limits: Limits
    loop: asyncio.AbstractEventLoop


class SmppSession(PduStream):
    """One client from its connection to its end."""

    __slots__ = (
        "_account", "_before_bind", "_bucket", "_context", "_delivering", "_delivery", "_enquired_at", "_in_flight",
        "_knows_tlvs", "_last_words", "_malformed", "_pace", "_receiving", "_searches", "_sends", "_sequence", "_state",
        "_watch_timer", "admission", "delivered", "has_submitted", "id", "submitted",
    )  # fmt: skip

    def __init__(self, slot: ConnectionSlot, context: ServerContext) -> None:
        super().__init__(slot, context.limits, context.loop)
        self.id = 0
        self.admission: Admission | None = None
        self.submitted = 0
        self.has_submitted = False
        self.delivered = 0
        self._context = context
        self._state = State.OPEN
        self._account: AccountConfig | None = None
        self._knows_tlvs = True
        self._bucket: TokenBucket | None = None
        self._pace: TokenBucket | None = None
        self._before_bind = 0
        self._malformed = 0
        self._delivery: Delivery | None = None
        self._sends = False
        self._searches = False
        self._receiving = False
        self._in_flight = 0
        self._delivering: dict[int, tuple[Deliverable, float]] = {}
        self._sequence = 0
        self._last_words: bytearray | None = None
        self._enquired_at: float | None = None
        self._watch_timer: asyncio.TimerHandle | None = None

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._slot.begun(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._watch_timer:
            self._watch_timer.cancel()
        if self.admission:
            self._context.storage.release_bind(self.admission.slot)
            self._context.session_registry.leave(self, self.admission.account.id)
            self._stop_deliveries()
            for deliverable, _ in self._delivering.values():
                assert self._delivery
                self._delivery.unanswered(deliverable)
            log.info("%s from %s has ended", self.admission.account.name, self.address)

    def _has_room(self) -> None:
        if self._delivery:
            self._delivery.room()

    def _may_go_on(self) -> bool:
        if self._pace is None:
            self._before_bind += 1
            if self._before_bind > _MOST_BEFORE_BIND:
                self._abort("says much and does not bind")
                return False
        elif not self._pace.take(self._heard_at) or self._is_ahead():
            self._hold()
            return False
        return True

    def _is_ahead(self) -> bool:
        return self._in_flight >= _MOST_IN_FLIGHT and not (self._account and self._account.windowing)

    # --- PDUs

    def _received(self, header: Header, body: bytes) -> None:
        try:
            message = pdu.decode(header, body)
        except Malformed as malformed:
            self._refuse_malformed(malformed)
            return
        if isinstance(message, SubmitSm):
            self._submit(message)
        else:
            self._handle_pdu(header, message)

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

    def _handle_pdu(self, header: Header, message: Pdu) -> None:
        if isinstance(message, Bind):
            self._bind(message)
        elif isinstance(message, MessageResp):
            self._answered(message.sequence, message.status)
        elif isinstance(message, Plain):
            self._plain(message)
        elif isinstance(message, DataSm):
            self._submit(message)
        elif isinstance(message, QuerySm):
            self._query(message)
        elif isinstance(message, CancelSm):
            self._cancel(message)
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
            self._leave()

    # --- binding

    def _bind(self, bind: Bind) -> None:
        if self._state is not State.OPEN:
            status = Status.ESME_RALYBND if self._state is State.BOUND else Status.ESME_RINVBNDSTS
            self._write(pdu.response(bind.command, bind.sequence, status))
            return
        try:
            admission = self._context.bind_auth.admit(bind, self.address)
        except BindRefused as refused:
            log.info(
                "bind of %r from %s refused: %s %s", bind.system_id, self.address, refused.status.name, refused.reason
            )
            self._write(pdu.response(bind.command, bind.sequence, refused.status))
            return
        self._begin(admission)
        # A client of an older version does not know optional parameters (3.4.1).
        self._knows_tlvs = bind.interface_version >= pdu.INTERFACE_VERSION
        tlvs: dict[int, bytes] = {Tag.SC_INTERFACE_VERSION: bytes((pdu.INTERFACE_VERSION,))} if self._knows_tlvs else {}
        self._write(BindResp(bind.command | RESPONSE, bind.sequence, system_id=SYSTEM_ID, tlvs=tlvs).encode())
        if admission.kind.receives and self._delivery:
            self._receiving = True
            self._delivery.join(self)

    def _begin(self, admission: Admission) -> None:
        loop, limits = self._loop, self._limits
        account = admission.account
        self.admission = admission
        self._account = account
        self._sends = admission.kind.sends
        self._bucket = TokenBucket(account.throughput, loop.time())
        self._pace = TokenBucket(_pace(account), loop.time())
        self._state = State.BOUND
        self._slot.bound()
        self._set_deadline(limits.session_hours * 3600, self.unbind, "it is time for a new session")
        self._watch_timer = loop.call_later(limits.enquire_link_seconds, self._watch)
        self._delivery = self._context.session_registry.join(self, admission)
        log.info(
            "%s bound as %s from %s %s, session %d",
            account.name,
            admission.kind,
            self.address,
            self.tls or "unsecured",
            self.id,
        )

    def account_changed(self, account: AccountConfig) -> None:
        """Go on by the account as it is now, or, where it has no place for this session any more, unbind."""
        if (
            self._state is not State.BOUND
            or self._closed
            or self.admission is None
            or self._bucket is None
            or self._pace is None
        ):
            return
        self._account = account
        self._bucket.change(account.throughput, self._loop.time())
        self._pace.change(_pace(account), self._loop.time())
        if not account.still_valid(self.admission.password_id, self.address, now_ms()):
            self.unbind("address, password or account no longer valid")
        elif self.id in account.ending:
            self.unbind("the account's users have asked for its end")

    # --- unbinding and silence

    def unbind(self, why: str) -> None:
        """Send an unbind and close when it is answered, a second later at most. Without a bind, close."""
        if self._state is State.OPEN:
            self._close()
        elif self._state is State.BOUND and self.admission and not self._closed:
            log.info("unbinding %s from %s: %s", self.admission.account.name, self.address, why)
            self._state = State.LEAVING
            self._stop_deliveries()
            self._write(Plain(Command.UNBIND, self._next_sequence()).encode())
            self._set_deadline(_UNBIND_SECONDS, self._close)

    def _unbind_received(self, sequence: int) -> None:
        if self._state is State.OPEN:
            self._write(pdu.response(Command.UNBIND, sequence, Status.ESME_RINVBNDSTS))
            return
        self._stop_working()
        self._leave(pdu.response(Command.UNBIND, sequence))

    def _say_last(self, last_words: bytes) -> None:
        self._stop_working()
        self._set_deadline(self._limits.response_seconds, self._close)
        self._leave(last_words)

    def _stop_working(self) -> None:
        if self._state is State.BOUND:
            self._state = State.LEAVING
            self._stop_deliveries()

    def _leave(self, last_words: bytes = b"") -> None:
        """Close once every submit that was taken has been answered, and with `last_words` after any said before."""
        if self._last_words is None:
            self._last_words = bytearray()
        self._last_words += last_words
        if not self._in_flight:
            self._write(bytes(self._last_words))
            self._close()

    def _watch(self) -> None:
        """Ask a silent client whether it is there, and end with one that does not answer."""
        loop, limits = self._loop, self._limits
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

    def _submit(self, message: SubmitSm | DataSm) -> None:
        refusal = self._no_message_now()
        if refusal:
            self._write(pdu.response(message.COMMAND, message.sequence, refusal))
            return
        assert self._account
        storage = self._context.storage
        try:
            submit = submission.read(message, self._account, storage.price_list(self._account))
        except submission.NotTaken as not_taken:
            self._write(pdu.response(message.COMMAND, message.sequence, not_taken.status))
            return
        submit.session_id = self.id
        self.has_submitted = True
        self._in_flight += 1
        storage.accept(submit, partial(self._stored, message.COMMAND, message.sequence))

    def _no_message_now(self) -> Status | None:
        """Why no message can be taken, or called back, at this moment; None where one can."""
        account, bucket = self._account, self._bucket
        if account is None or bucket is None or self._state is not State.BOUND or not self._sends:
            return Status.ESME_RINVBNDSTS
        if 0 < account.windowing <= self._in_flight or not bucket.take(self._loop.time()):
            return Status.ESME_RTHROTTLED
        return None

    def _stored(self, command: Command, sequence: int, result: int | Refusal) -> None:
        if isinstance(result, int):
            self.submitted += 1
            self._write(pdu.accepted(command, sequence, str(result)))
        elif isinstance(result, InDoubt):
            self._abort("could not be told whether its message is stored")
        else:
            status = Status.ESME_RSUBMITFAIL if isinstance(result, NoCredit) else Status.ESME_RSYSERR
            self._write(pdu.response(command, sequence, status))
        self._answered_one()

    def _query(self, message: QuerySm) -> None:
        if self._account is None or self._state is not State.BOUND or not self._sends:
            self._write(pdu.response(message.COMMAND, message.sequence, Status.ESME_RINVBNDSTS))
            return
        self._write(query_cancel.query(message, self._account.id, self._context.storage).encode())

    def _cancel(self, message: CancelSm) -> None:
        refusal = self._no_message_now()
        if not refusal and self._searches and not message.message_id:
            # One at a time: each takes long, and those of others wait for it.
            refusal = Status.ESME_RTHROTTLED
        if refusal:
            self._write(pdu.response(message.COMMAND, message.sequence, refusal))
            return
        assert self._account
        context = self._context
        self._in_flight += 1
        searches = not message.message_id
        self._searches = self._searches or searches
        answer = partial(self._cancelled, message.sequence, searches)
        query_cancel.cancel(message, self._account.id, context.storage, context.dispatcher, answer)

    def _cancelled(self, sequence: int, searched: bool, status: Status) -> None:
        self._searches = self._searches and not searched
        self._write(pdu.response(Command.CANCEL_SM, sequence, status))
        self._answered_one()

    def _answered_one(self) -> None:
        self._in_flight -= 1
        if self._in_flight == _MOST_IN_FLIGHT // 2:
            self._hear_again()
        if self._last_words is not None:
            self._leave()

    # --- receipts and messages to the client

    def has_room(self) -> bool:
        """Whether another deliver_sm may be sent: the window is the same as for submits."""
        assert self._account
        return self._paused is None and len(self._delivering) < (self._account.windowing or _MOST_IN_FLIGHT)

    def deliver(self, deliverable: Deliverable) -> None:
        """Send a receipt, or a message from a handset."""
        sequence = self._next_sequence()
        self._delivering[sequence] = (deliverable, self._loop.time())
        message = deliver_sm(deliverable, sequence)
        if not self._knows_tlvs:
            # All but the body of a long message, which would be lost with its parameter.
            message.tlvs = {tag: value for tag, value in message.tlvs.items() if tag == Tag.MESSAGE_PAYLOAD}
        self._write(message.encode())

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

    def progress(self, rates: str) -> Progress:
        """Return the counters as of now, beside the `rates` that the registry counts."""
        idle = self._loop.time() - self._heard_at
        # To the second: of a session that does nothing else, the clock alone should not be written again and again.
        seen_at = (now_ms() - int(idle * 1000)) // 1000 * 1000
        return Progress(self.id, seen_at, self.submitted, self.delivered, self._in_flight, rates)


def _pace(account: AccountConfig) -> int:
    """How many PDUs a second a client may send; 0: as many as it likes."""
    return account.throughput and _MOST_A_SECOND + 2 * account.throughput
