"""What submit_sm and data_sm ask for, in the terms of the services; and the statuses of what is refused."""

from __future__ import annotations

from portal.services.common.errors import Refused
from portal.services.messages import validation
from portal.services.messages.smpp_config import AccountConfig
from portal.services.messages.validation import Segment, Submit
from portal.services.prices.prices import PriceList
from portal.smsc.protocol import times
from portal.smsc.protocol.constants import Status, Tag
from portal.smsc.protocol.pdu import DataSm, SubmitSm, Tlvs

# 5.2.12: bits 5 to 2 are the type of message, of which an ESME may send three: a usual one, and two acknowledgements of
# what it has got. The two lowest are the mode: all are stored and forwarded.
_MESSAGE_TYPE = 0b0011_1100
_TYPES = frozenset((0b0000_0000, 0b0000_1000, 0b0001_0000))
# A source address goes back in the receipt, where 4.6.1 has room for no more; that of data_sm may be longer (4.7.1).
_LONGEST_SOURCE = 20

_REFUSALS: dict[type[Refused], Status] = {
    validation.InvalidSource: Status.ESME_RINVSRCADR,
    validation.InvalidDestination: Status.ESME_RINVDSTADR,
    validation.UnsupportedDataCoding: Status.ESME_RUNSDATACODING,
    validation.NotDecodable: Status.ESME_RINVGSM7CODING,
    validation.BodyTooLong: Status.ESME_RINVMSGLEN,
}


class NotTaken(Exception):
    """A message that breaks a rule. `status` is the answer."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


def read(message: SubmitSm | DataSm, account: AccountConfig, price_list: PriceList) -> Submit:
    """Return what is to be stored. Raises NotTaken."""
    if message.esm_class & _MESSAGE_TYPE not in _TYPES:
        raise NotTaken(Status.ESME_RINVESMCLASS)
    reference = subunit = segment = None
    # This runs once a message, and most have none.
    if tlvs := message.tlvs:
        reference = _number(tlvs, Tag.USER_MESSAGE_REFERENCE)
        subunit = _number(tlvs, Tag.DEST_ADDR_SUBUNIT)
        segment = _segment(tlvs)
    scheduled_at = expires_at = None
    try:
        if isinstance(message, DataSm) or message.schedule_delivery_time or message.validity_period:
            scheduled_at, expires_at = _dates(message)
        return validation.prepare(
            account,
            price_list,
            source=message.source,
            source_ton=message.source_ton,
            source_npi=message.source_npi,
            destination=message.destination,
            esm_class=message.esm_class,
            data_coding=message.data_coding,
            registered_delivery=message.registered_delivery,
            body=message.body,
            reference=reference,
            subunit=subunit,
            segment=segment,
            scheduled_at=scheduled_at,
            expires_at=expires_at,
        )
    except times.BadDate as bad:
        raise NotTaken(bad.status) from None
    except Refused as refused:
        raise NotTaken(_REFUSALS.get(type(refused), Status.ESME_RSUBMITFAIL)) from None


def _dates(message: SubmitSm | DataSm) -> tuple[int | None, int | None]:
    if isinstance(message, SubmitSm):
        return times.dates(message.schedule_delivery_time, message.validity_period)
    if len(message.source) > _LONGEST_SOURCE:
        raise NotTaken(Status.ESME_RINVSRCADR)
    seconds = _number(message.tlvs, Tag.QOS_TIME_TO_LIVE)
    return None, None if seconds is None else times.lifetime(seconds)


def _segment(tlvs: Tlvs) -> Segment | None:
    """The place in a longer text: one of the three sar parameters without the others is ignored (5.3.2.22 to 24)."""
    reference, total, number = (
        _number(tlvs, tag) for tag in (Tag.SAR_MSG_REF_NUM, Tag.SAR_TOTAL_SEGMENTS, Tag.SAR_SEGMENT_SEQNUM)
    )
    if reference is None or total is None or number is None:
        return None
    if number > total:
        raise NotTaken(Status.ESME_RINVOPTPARAMVAL)
    return Segment(reference, total, number)


def _number(tlvs: Tlvs, tag: Tag) -> int | None:
    value = tlvs.get(tag)
    return None if value is None else int.from_bytes(value)
