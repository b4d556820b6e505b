"""What submit_sm and data_sm ask for, in the terms of the services; and the statuses of what is refused."""

from collections.abc import Collection

from portal.services.common.errors import Refused
from portal.services.messages import validation
from portal.services.messages.smpp_config import AccountConfig
from portal.services.messages.validation import Segment, SubmittedMessage
from portal.services.prices.prices import PriceList
from portal.smsc.protocol import times
from portal.smsc.protocol.constants import CommandStatus, RequestRefused, TlvTag
from portal.smsc.protocol.pdu import DataSm, SubmitSm, Tlvs

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

_STATUS_BY_ERROR: dict[type[Refused], CommandStatus] = {
    validation.InvalidSource: CommandStatus.ESME_RINVSRCADR,
    validation.InvalidDestination: CommandStatus.ESME_RINVDSTADR,
    validation.NationalDestination: CommandStatus.ESME_RINVDSTTON,
    validation.UnsupportedDataCoding: CommandStatus.ESME_RUNSDATACODING,
    validation.UndecodableText: CommandStatus.ESME_RINVGSM7CODING,
    validation.BodyTooLong: CommandStatus.ESME_RINVMSGLEN,
}


def submitted_message_from_pdu(
    message: SubmitSm | DataSm, account: AccountConfig, price_list: PriceList, kept_tags: Collection[int] = ()
) -> SubmittedMessage:
    """Return what is to be stored, with its optional parameters of these tags. Raises RequestRefused."""
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
    try:
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
    except Refused as refused:
        raise RequestRefused(_STATUS_BY_ERROR.get(type(refused), CommandStatus.ESME_RSUBMITFAIL)) from None
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
