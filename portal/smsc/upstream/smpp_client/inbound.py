"""What a carrier brings from handsets, in the services' terms."""

from functools import lru_cache

from portal.core import gsm0338
from portal.services.common.addresses import INTERNATIONAL_NUMBER, normalize_address
from portal.services.messages.inbound import InboundItem, MobileOriginatedMessage
from portal.services.messages.inbound_octets import decode_content, unpack_content
from portal.services.messages.inbound_parts import MAX_PART_OCTETS, InboundPart
from portal.services.messages.validation import Segment, has_room_for_concatenation, parse_concatenation
from portal.services.prices import countries
from portal.smsc.protocol.constants import ESM_CLASS_UDH, MAX_SHORT_CODE_DIGITS, TlvTag
from portal.smsc.protocol.pdu import DataSm, DeliverSm

# 5.2.5: type of number. What stands behind a plus or 00 has its country code, too.
_TON_INTERNATIONAL, _TON_NATIONAL, _TON_ALPHANUMERIC = 1, 2, 5
_SAR_LENGTHS = {TlvTag.SAR_MSG_REF_NUM: 2, TlvTag.SAR_TOTAL_SEGMENTS: 1, TlvTag.SAR_SEGMENT_SEQNUM: 1}


def inbound_from_deliver(message: DeliverSm | DataSm, upstream_id: int, charset: str, country: str) -> InboundItem:
    """Return a message from a handset, or the part of one.

    Args:
        charset: of data_coding 0, the setting `receipt_charset`.
        country: of numbers without its code, the setting `inbound_country`; empty: all have one.
    """
    content, udh = message.body, None
    if message.esm_class & ESM_CLASS_UDH and content and content[0] < len(content):
        udh, content = content[: content[0] + 1], content[content[0] + 1 :]
    if gsm0338.ENCODINGS.get(message.data_coding) is gsm0338.Encoding.GSM:
        content = unpack_content(content, charset, len(udh or b""))
    source = normalize_number(message.source, message.source_ton, country)
    destination = normalize_number(message.destination, message.dest_ton, country)
    segment = (parse_concatenation(udh) if udh else None) or _read_segment(message)
    if segment is not None and len(content) <= MAX_PART_OCTETS and has_room_for_concatenation(udh):
        return InboundPart(source, destination, upstream_id, segment, message.data_coding, charset, udh, content)
    text, data_coding, body = decode_content(content, message.data_coding, udh, charset)
    # What can't be joined is still no beginning.
    opening = "" if segment is not None and segment.number > 1 else None
    return MobileOriginatedMessage(
        source, destination, text, data_coding, udh, body, upstream=upstream_id, opening=opening
    )


def _read_segment(message: DeliverSm | DataSm) -> Segment | None:
    """Return the place of a part that the sar_* parameters name (5.3.2.22 to 24)."""
    values = [message.tlvs.get(tag, b"") for tag in _SAR_LENGTHS]
    if [*map(len, values)] != [*_SAR_LENGTHS.values()]:
        return None
    reference, total, number = map(int.from_bytes, values)
    return Segment(reference, total, number) if 1 <= number <= total and total > 1 else None


@lru_cache(maxsize=10_000)
def normalize_number(address: str, ton: int, country: str) -> str:
    """Return an address as numbers are kept: E.164 digits; a short code, or a name, as it is.

    Args:
        ton: its type of number (5.2.5), which some carriers set, and others don't.
        country: that of national numbers; empty: none is.
    """
    digits = normalize_address(address)
    if (
        not country
        or ton in (_TON_INTERNATIONAL, _TON_ALPHANUMERIC)
        or INTERNATIONAL_NUMBER.fullmatch(address)
        or not (digits.isascii() and digits.isdigit())
    ):
        return digits
    is_national = ton == _TON_NATIONAL
    if len(digits) <= MAX_SHORT_CODE_DIGITS and not is_national:
        return digits
    return countries.complete_number(digits, country.upper(), is_national=is_national)
