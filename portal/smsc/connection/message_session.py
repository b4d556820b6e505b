"""The messages of a client's session, both ways: what is in flight, and answered when it is stored or has been sent."""

import logging
from abc import abstractmethod
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial

from portal.core.clock import now_ms
from portal.services.accounts import refused_messages
from portal.services.accounts.allowed_ips import IPAddress
from portal.services.accounts.refused_pdus import RefusedPdu
from portal.services.messages.deliveries import Deliverable
from portal.services.messages.smpp_config import AccountConfig
from portal.smsc.admission.rate_limits import TokenBucket
from portal.smsc.connection import message_requests
from portal.smsc.connection.refused_pdus import RefusedPdus
from portal.smsc.delivery.deliver_sm import encode_deliver_sm
from portal.smsc.delivery.delivery import DeliveryScheduler
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import CommandId, CommandStatus, format_status
from portal.smsc.protocol.pdu import Bind, CancelSm, DataSm, MalformedPdu, QuerySm, SubmitSm
from portal.smsc.protocol.pdu_description import describe_fields, name_command
from portal.smsc.protocol.pdu_stream import PduStream
from portal.smsc.storage.interface import (
    ClientId,
    CommitInDoubt,
    InsufficientCredits,
    LimitReached,
    NoRoute,
    StorageError,
)
from portal.smsc.storage.sqlite import Storage
from portal.smsc.upstream.dispatcher import Dispatcher

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 1_000
"""Where the account has no windowing, so many are in flight, and nothing more is heard until half of them are answered:
those of other sessions wait in the same queue. It bounds the memory of a session, too."""


class SessionState(Enum):
    """OPEN and BOUND are those of 2.2, where TX, RX and TRX are told apart by the kind of the accepted bind."""

    OPEN = auto()
    BOUND = auto()
    DRAINING = auto()
    """An unbind will be sent once all that was accepted is answered; no more is accepted."""
    UNBINDING = auto()
    """unbind was sent or received; what was accepted before is still answered."""


# For what is done once a message: to find a member by its class takes a tenth of a microsecond.
_OPEN, _BOUND, _DRAINING = SessionState.OPEN, SessionState.BOUND, SessionState.DRAINING
_THROTTLED = CommandStatus.ESME_RTHROTTLED


def _describe_storage_refusal(error: StorageError) -> tuple[CommandStatus, str, str]:
    """What a submit is refused with that was not stored, why (empty: the history has it), and what was at fault."""
    if isinstance(error, InsufficientCredits):
        return CommandStatus.ESME_RSUBMITFAIL, "", ""
    if isinstance(error, LimitReached):
        return CommandStatus.ESME_RSUBMITFAIL, str(error), ""
    if isinstance(error, NoRoute):
        return CommandStatus.ESME_RINVDSTADR, refused_messages.ROUTE, str(error)
    return CommandStatus.ESME_RSYSERR, refused_messages.SERVER, ""


class MessageContext:
    """What messages of all sessions of the process need."""

    storage: Storage
    dispatcher: Dispatcher
    refused_pdus: RefusedPdus


@dataclass(slots=True, eq=False, repr=False, kw_only=True)
class MessageSession(PduStream):
    """A session as far as messages go; its subclass binds it and ends it.

    `submitted`, `delivered`: how many messages it has sent and taken. `refused`: how many of its own were refused.
    """

    _server_context: MessageContext
    address: IPAddress = field(init=False)
    id: int = 0
    submitted: int = 0
    has_submitted: bool = False
    delivered: int = 0
    refused: int = 0
    _state: SessionState = SessionState.OPEN
    _account: AccountConfig = field(init=False)
    _is_smpp_3_4: bool = True
    _throughput_bucket: TokenBucket = field(init=False)
    _logged_refusals: set[tuple[str, CommandStatus]] = field(default_factory=set)
    _delivery_scheduler: DeliveryScheduler = field(init=False)
    _may_submit: bool = False
    _has_open_search: bool = False
    _is_receiving: bool = False
    _has_sent_unbind: bool = False
    _in_flight: int = 0
    _unanswered_deliveries: dict[int, tuple[Deliverable, float]] = field(default_factory=dict)
    _final_octets: bytes | None = None

    # --- what a subclass does

    @abstractmethod
    def _unbind_when_answered(self) -> None:
        """Unbind where that was waiting for answers, and there are none to come."""

    @abstractmethod
    def _close_when_submits_answered(self, final_octets: bytes = b"") -> None:
        """Close once every accepted submit is answered; `final_octets` come last, after those of earlier calls."""

    # --- messages from the client

    def _handle_submit(self, message: SubmitSm | DataSm) -> None:
        if self._state is not _BOUND or not self._may_submit:
            reason = refused_messages.ENDING if self._may_submit else refused_messages.RECEIVER
            self._refuse_submit(message, self._get_state_error_status(), refused_messages.STATE, reason)
            return
        if 0 < self._account.windowing <= self._in_flight:
            self._refuse_submit(message, _THROTTLED, refused_messages.WINDOW, str(self._account.windowing))
            return
        if not self._throughput_bucket.take_token(self._loop.time()):
            self._refuse_submit(message, _THROTTLED, refused_messages.THROUGHPUT, str(self._account.throughput))
            return
        storage = self._server_context.storage
        try:
            submit = message_requests.submitted_message_from_pdu(
                message, self._account, storage.get_price_list(self._account), storage.kept_tlv_tags
            )
        except message_requests.REFUSALS as refused:
            self._refuse_submit(message, *message_requests.explain_refusal(message, refused))
            return
        submit.session_id = self.id
        if not self._is_smpp_3_4:
            submit.needs_hex_id = True
        self.has_submitted = True
        self._in_flight += 1
        self._server_context.dispatcher.store_submit(submit, partial(self._handle_submit_result, message))

    def _refuse_submit(
        self, message: SubmitSm | DataSm, status: CommandStatus, reason: str = "", value: str = ""
    ) -> None:
        """Refuse a message, and count it.

        The log tells of it once a session for each reason and status: a client may send nothing else.

        Args:
            reason: a constant of `refused_messages`; empty where the history has the message.
            value: what was at fault.
        """
        self._write(pdu.encode_response(message.COMMAND, message.sequence, status))
        self.count_refused_message(reason, value)
        if self.id and self._account.refused_pdus_until:
            self.keep_refused_pdu(self._account, message.COMMAND, message, status, reason, value)
        if (reason, status) not in self._logged_refusals:
            self._logged_refusals.add((reason, status))
            log.info(
                "message of %s refused: %s (%s %r; sender %r, data_coding %d); others like it are not logged",
                self.log_name,
                format_status(status),
                reason or "no credits",
                value,
                message.source,
                message.data_coding,
            )

    def keep_refused_pdu(
        self,
        account: AccountConfig,
        command: int,
        refused: SubmitSm | DataSm | Bind | MalformedPdu,
        status: CommandStatus,
        reason: str,
        value: str,
    ) -> None:
        """Keep a refused PDU of an account that has asked for it, unless that time is over."""
        now = now_ms()
        if account.refused_pdus_until and now < account.refused_pdus_until:
            fields = {"malformed": str(refused)} if isinstance(refused, MalformedPdu) else describe_fields(refused)
            self._server_context.refused_pdus.record(
                account.id,
                RefusedPdu(
                    at=now,
                    address=str(self.address),
                    session=self.id,
                    command=name_command(command),
                    sequence_number=refused.sequence,
                    status=format_status(status),
                    reason=reason,
                    value=value,
                    fields=fields,
                ),
            )

    def count_refused_message(self, reason: str, value: str) -> None:
        """Count a refused message, see `_refuse_submit`. Before the bind it is nobody's."""
        if self.id:
            self.refused += 1
            if reason:
                self._server_context.storage.refused_messages.add(self._account.id, reason, value)

    def _find_cancel_error_status(self) -> CommandStatus | None:
        """Return why no message can be called back at this moment; None where one can."""
        if self._state is not _BOUND or not self._may_submit:
            return self._get_state_error_status()
        if 0 < self._account.windowing <= self._in_flight or not self._throughput_bucket.take_token(self._loop.time()):
            return _THROTTLED
        return None

    def _get_state_error_status(self) -> CommandStatus:
        """Return what a request is answered that the bind or the state doesn't allow."""
        # What crosses our unbind would have been allowed. Clients send it again after this status, not after the other.
        is_late = self._has_sent_unbind and self._may_submit
        return CommandStatus.ESME_RSYSERR if is_late else CommandStatus.ESME_RINVBNDSTS

    def _handle_submit_result(self, message: SubmitSm | DataSm, result: ClientId | StorageError) -> None:
        if not isinstance(result, StorageError):
            self.submitted += 1
            self._write(pdu.encode_accepted_message_resp(message.COMMAND, message.sequence, result))
        elif isinstance(result, CommitInDoubt):
            self.abort("could not be told whether its message is stored")
        else:
            self._refuse_submit(message, *_describe_storage_refusal(result))
        self._finish_in_flight_request()

    def _handle_query(self, message: QuerySm) -> None:
        if self._state is not SessionState.BOUND or not self._may_submit:
            self._write(pdu.encode_response(message.COMMAND, message.sequence, self._get_state_error_status()))
            return
        message_requests.answer_query_sm(
            message, self._account.id, self._server_context.storage, lambda answer: self._write(answer.encode())
        )

    def _handle_cancel(self, message: CancelSm) -> None:
        refusal_status = self._find_cancel_error_status()
        if not refusal_status and self._has_open_search and not message.message_id:
            # One at a time: each takes long, and those of others wait for it.
            refusal_status = _THROTTLED
        if refusal_status:
            self._write(pdu.encode_response(message.COMMAND, message.sequence, refusal_status))
            return
        context = self._server_context
        self._in_flight += 1
        is_search = not message.message_id
        self._has_open_search = self._has_open_search or is_search
        respond = partial(self._handle_cancel_result, message.sequence, is_search)
        message_requests.answer_cancel_sm(message, self._account, context.storage, context.dispatcher, respond)

    def _handle_cancel_result(self, sequence: int, was_search: bool, status: CommandStatus) -> None:
        self._has_open_search = self._has_open_search and not was_search
        self._write(pdu.encode_response(CommandId.CANCEL_SM, sequence, status))
        self._finish_in_flight_request()

    def _finish_in_flight_request(self) -> None:
        self._in_flight -= 1
        if self._in_flight == MAX_IN_FLIGHT // 2:
            self._end_reading_pause()
        if self._final_octets is not None:
            self._close_when_submits_answered()
        if self._state is _DRAINING:
            self._unbind_when_answered()

    # --- receipts and messages to the client

    def has_window_space(self) -> bool:
        """Whether another deliver_sm may be sent: the window is the same as for submits."""
        return self._slow_reader_timer is None and len(self._unanswered_deliveries) < (
            self._account.windowing or MAX_IN_FLIGHT
        )

    def send_deliver_sm(self, deliverable: Deliverable) -> None:
        """Send a receipt, or a message from a handset. One that no deliver_sm can hold counts as refused for good."""
        sequence = self._next_sequence_number()
        try:
            client_id = self._server_context.storage.get_client_id(deliverable)
            octets = encode_deliver_sm(deliverable, sequence, client_id, supports_tlvs=self._is_smpp_3_4)
        except Exception as error:  # whatever is wrong with one of them must not keep all others from the client
            # The error may quote the text.
            log.error("delivery %d can't be written as a deliver_sm: %s", deliverable.id, type(error).__name__)
            self._delivery_scheduler.handle_response(deliverable, CommandStatus.ESME_RX_P_APPN)
            return
        self._unanswered_deliveries[sequence] = (deliverable, self._loop.time())
        self._write(octets)

    def _handle_deliver_response(self, sequence: int, status: int) -> None:
        sent_delivery = self._unanswered_deliveries.pop(sequence, None)
        if sent_delivery:
            self.delivered += status == CommandStatus.ESME_ROK
            self._delivery_scheduler.handle_response(sent_delivery[0], status)
            self._unbind_when_answered()
            if self._holds_output and not self._unanswered_deliveries:
                self._release_output()

    def _stop_deliveries(self) -> None:
        """Send no more deliver_sm. Those that were sent may still be answered."""
        if self._is_receiving:
            self._is_receiving = False
            self._delivery_scheduler.remove_receiver(self)
