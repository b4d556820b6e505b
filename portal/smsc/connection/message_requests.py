"""What submit_sm, data_sm, query_sm and cancel_sm ask for, in the terms of the services; and the statuses of what is
refused.
"""

import asyncio
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from portal.services.accounts import refused_messages
from portal.services.common.errors import Refused
from portal.services.messages import validation
from portal.services.messages.query_cancel import MessageStatus
from portal.services.messages.smpp_config import AccountConfig
from portal.services.messages.validation import Segment, SubmittedMessage
from portal.services.prices.prices import PriceList
from portal.smsc.protocol import times
from portal.smsc.protocol.constants import CommandId, CommandStatus, RequestRefused, TlvTag
from portal.smsc.protocol.pdu import CancelSm, DataSm, QuerySm, QuerySmResp, SubmitSm, Tlvs
from portal.smsc.storage.interface import StatusCallback, StorageError
from portal.smsc.storage.sqlite import Storage
from portal.smsc.upstream.dispatcher import Dispatcher

# 5.2.12: bits 5 to 2 are the type of message, of which an ESME may send three: a usual one, and two acknowledgements of
# what it has got. The two lowest are the mode: all are stored and forwarded.
_MESSAGE_TYPE_MASK = 0b0011_1100
_ALLOWED_MESSAGE_TYPES = frozenset((0b0000_0000, 0b0000_1000, 0b0001_0000))
# A source address goes back in the receipt, where 4.6.1 has room for no more; that of data_sm may be longer (4.7.1).
_MAX_SOURCE_LENGTH = 20
# 5.3.2.1.
_MAX_SUBUNIT = 4
# 5.2.14: those above it are reserved, and go on to no carrier.
_MAX_PRIORITY = 3


def _get_nothing(message: SubmitSm | DataSm, refused: Any) -> str:
    return ""


def _get_source(message: SubmitSm | DataSm, refused: Any) -> str:
    return message.source


def _get_country(message: SubmitSm | DataSm, refused: Any) -> str:
    return str(refused.country)


def _get_data_coding(message: SubmitSm | DataSm, refused: Any) -> str:
    return str(message.data_coding)


# By what is raised: the command_status to answer, the reason, and what is at fault.
_REFUSALS: Mapping[type[Exception], tuple[CommandStatus, str, Callable[[SubmitSm | DataSm, Any], str]]] = {
    validation.InvalidSource: (CommandStatus.ESME_RINVSRCADR, refused_messages.SENDER, _get_source),
    validation.InvalidDestination: (CommandStatus.ESME_RINVDSTADR, refused_messages.DESTINATION, _get_nothing),
    validation.DestinationWithoutPrice: (CommandStatus.ESME_RINVDSTADR, refused_messages.PRICE, _get_country),
    validation.CountryNotAllowed: (CommandStatus.ESME_RINVDSTADR, refused_messages.COUNTRY, _get_country),
    validation.NationalDestination: (CommandStatus.ESME_RINVDSTTON, refused_messages.NATIONAL_NUMBER, _get_nothing),
    validation.UnsupportedDataCoding: (CommandStatus.ESME_RUNSDATACODING, refused_messages.CODING, _get_data_coding),
    validation.UndecodableText: (CommandStatus.ESME_RINVGSM7CODING, refused_messages.TEXT, _get_data_coding),
    validation.BodyTooLong: (CommandStatus.ESME_RINVMSGLEN, refused_messages.LENGTH, _get_nothing),
}
_REASONS_BY_STATUS = {
    CommandStatus.ESME_RINVMSGLEN: refused_messages.LENGTH,
    CommandStatus.ESME_RINVSCHED: refused_messages.TIME,
    CommandStatus.ESME_RINVEXPIRY: refused_messages.TIME,
}

_MESSAGE_ID_PATTERN = re.compile(r"[1-9][0-9]{0,18}")
_HEX_ID_PATTERN = re.compile(r"[0-9A-Fa-f]{8}")
_MAX_ID = (1 << 63) - 1
_MAX_ERROR_CODE = 0xFF
# What is called back fills the writer's queue, where others' submits wait.
_CANCEL_BATCH_SIZE = 500

_Respond = Callable[[CommandStatus], None]

REFUSALS = (Refused, RequestRefused)
"""Why a message is refused, as it is raised: see `explain_refusal`."""


def explain_refusal(message: SubmitSm | DataSm, refused: Exception) -> tuple[CommandStatus, str, str]:
    """The command_status to answer, the reason (`refused_messages`), and the value at fault."""
    if isinstance(refused, RequestRefused):
        return refused.status, *find_format_reason(refused.status)
    status, reason, get_value = _REFUSALS[type(refused)]
    return status, reason, get_value(message, refused)


def find_format_reason(status: CommandStatus) -> tuple[str, str]:
    """The reason and the value of a message whose PDU is wrong, as its command_status says it."""
    reason = _REASONS_BY_STATUS.get(status)
    return (reason, "") if reason else (refused_messages.FORMAT, status.name)


# --- submit_sm and data_sm (4.4, 4.7)


def submitted_message_from_pdu(
    message: SubmitSm | DataSm, account: AccountConfig, price_list: PriceList, kept_tags: Collection[int] = ()
) -> SubmittedMessage:
    """Return what is to be stored, with its optional parameters of these tags. Raises REFUSALS."""
    if message.esm_class & _MESSAGE_TYPE_MASK not in _ALLOWED_MESSAGE_TYPES:
        raise RequestRefused(CommandStatus.ESME_RINVESMCLASS)
    reference = subunit = segment = kept_tlvs = None
    # This runs once a message, and most have none.
    if tlvs := message.tlvs:
        reference = _get_tlv_int(tlvs, TlvTag.USER_MESSAGE_REFERENCE)
        subunit = _get_tlv_int(tlvs, TlvTag.DEST_ADDR_SUBUNIT)
        if subunit is not None and subunit > _MAX_SUBUNIT:
            subunit = None  # reserved values are read as the default (3.3.1)
        segment = _parse_sar_segment(tlvs)
        if kept_tags:
            kept_tlvs = validation.keep_tlvs(tlvs, kept_tags)
    scheduled_at = expires_at = None
    if isinstance(message, DataSm) or message.schedule_delivery_time or message.validity_period:
        scheduled_at, expires_at = _parse_message_times(message)
    submit = validation.validate_submit(
        account,
        price_list,
        message,
        reference=reference,
        subunit=subunit,
        segment=segment,
        scheduled_at=scheduled_at,
        expires_at=expires_at,
    )
    if isinstance(message, SubmitSm) and message.priority:
        submit.priority = min(message.priority, _MAX_PRIORITY)
    if kept_tlvs is not None:
        submit.tlvs = kept_tlvs
    return submit


def _parse_message_times(message: SubmitSm | DataSm) -> tuple[int | None, int | None]:
    if isinstance(message, SubmitSm):
        return times.parse_schedule_and_validity(message.schedule_delivery_time, message.validity_period)
    if len(message.source) > _MAX_SOURCE_LENGTH:
        raise RequestRefused(CommandStatus.ESME_RINVSRCADR)
    seconds = _get_tlv_int(message.tlvs, TlvTag.QOS_TIME_TO_LIVE)
    return None, None if seconds is None else times.expiry_from_time_to_live(seconds)


def _parse_sar_segment(tlvs: Tlvs) -> Segment | None:
    """The place in a longer text: one of the three sar parameters without the others is ignored (5.3.2.22 to 24)."""
    reference, total, number = (
        _get_tlv_int(tlvs, tag)
        for tag in (TlvTag.SAR_MSG_REF_NUM, TlvTag.SAR_TOTAL_SEGMENTS, TlvTag.SAR_SEGMENT_SEQNUM)
    )
    if reference is None or total is None or number is None:
        return None
    if number > total:
        raise RequestRefused(CommandStatus.ESME_RINVOPTPARAMVAL)
    return Segment(reference, total, number)


def _get_tlv_int(tlvs: Tlvs, tag: TlvTag) -> int | None:
    value = tlvs.get(tag)
    return None if value is None else int.from_bytes(value)


# --- query_sm and cancel_sm: asking after a message, and calling it back (4.8, 4.9)


def answer_query_sm(
    request: QuerySm, account_id: int, storage: Storage, respond: Callable[[QuerySmResp], None]
) -> None:
    """Tell what has become of an account's message.

    ESME_RINVMSGID where it has none with that id, ESME_RQUERYFAIL where it has, but from another source address.
    """

    def respond_with(found: MessageStatus | StorageError | None) -> None:
        response = QuerySmResp(CommandId.QUERY_SM_RESP, request.sequence, message_id=request.message_id)
        if isinstance(found, StorageError):
            response.status = CommandStatus.ESME_RSYSERR
        elif found is None:
            response.status = CommandStatus.ESME_RINVMSGID
        elif not validation.is_same_address(found.source, request.source):
            response.status = CommandStatus.ESME_RQUERYFAIL
        else:
            response.message_state = found.state
            if found.done_at is not None:
                response.final_date = times.format_final_date(found.done_at)
                # error_code has one octet; a ptt code that needs more says what message_state says too.
                response.error_code = found.ptt if found.ptt <= _MAX_ERROR_CODE else 0
        respond(response)

    _find_message_status(request.message_id, account_id, storage, respond_with)


def answer_cancel_sm(
    request: CancelSm, account: AccountConfig, storage: Storage, dispatcher: Dispatcher, respond: _Respond
) -> None:
    """Call back an account's message, or without message_id all of them from source to destination.

    `respond` gets ESME_ROK once at least one of them is called back on disk; ESME_RINVMSGID where the account has
    none with that id, ESME_RCANCELFAIL where it is from or to another address, or none of them can be called back any
    more; ESME_RINVDSTTON where the account refuses the destination's TON.
    """
    destination = ""
    # 4.9.1: it may be left out beside a message_id.
    if request.destination:
        try:
            destination = validation.read_destination(account, request.destination, request.dest_ton)
        except validation.NationalDestination:
            respond(CommandStatus.ESME_RINVDSTTON)
            return
    cancellation = _MessageCancellation(dispatcher, respond)
    if not request.message_id:
        storage.find_unfinished_messages(account.id, request.source, destination, cancellation.start)
        return

    def cancel_found_message(found: MessageStatus | StorageError | None) -> None:
        if isinstance(found, StorageError):
            cancellation.start(found)
        elif found is None:
            respond(CommandStatus.ESME_RINVMSGID)
        else:
            is_same_destination = not request.destination or found.destination == destination
            is_same = is_same_destination and validation.is_same_address(found.source, request.source)
            cancellation.start((found,) if is_same else ())

    _find_message_status(request.message_id, account.id, storage, cancel_found_message)


class _MessageCancellation:
    """Several messages that are called back, some at a time, with one answer."""

    def __init__(self, dispatcher: Dispatcher, respond: _Respond) -> None:
        self._dispatcher = dispatcher
        self._respond = respond
        self._remaining: Iterator[MessageStatus] = iter(())
        self._pending_count = 0
        self._status = CommandStatus.ESME_RCANCELFAIL

    def start(self, messages: Sequence[MessageStatus] | StorageError) -> None:
        if isinstance(messages, StorageError):
            self._respond(CommandStatus.ESME_RSYSERR)
        else:
            self._remaining = iter(messages)
            self._cancel_next_batch()

    def _cancel_next_batch(self) -> None:
        batch = list(islice(self._remaining, _CANCEL_BATCH_SIZE))
        if not batch:
            self._respond(self._status)
        self._pending_count = len(batch)
        for each in batch:
            self._dispatcher.cancel_message(each, self._handle_cancel_result)

    def _handle_cancel_result(self, result: bool | StorageError) -> None:
        if result is True:
            self._status = CommandStatus.ESME_ROK
        elif isinstance(result, StorageError) and self._status is CommandStatus.ESME_RCANCELFAIL:
            self._status = CommandStatus.ESME_RSYSERR
        self._pending_count -= 1
        if not self._pending_count:
            asyncio.get_running_loop().call_soon(self._cancel_next_batch)


def _find_message_status(message_id: str, account_id: int, storage: Storage, resolve: StatusCallback) -> None:
    if _HEX_ID_PATTERN.fullmatch(message_id):
        storage.find_message_status(account_id, message_id, resolve)
    elif not _MESSAGE_ID_PATTERN.fullmatch(message_id) or int(message_id) > _MAX_ID:
        resolve(None)
    else:
        storage.find_message_status(account_id, int(message_id), resolve)
