"""A message as the submit_sm that a carrier gets (SMPP 3.4, 4.4.1)."""

from collections.abc import Sequence
from typing import NamedTuple

from portal.core import gsm0338
from portal.core.clock import DAY_MS
from portal.services.common.addresses import normalize_address
from portal.services.messages import validation
from portal.services.messages.validation import Segment, SubmittedMessage
from portal.services.upstreams import mappings
from portal.services.upstreams.settings import NUMBER_PREFIXES, PAYLOAD, SAR, SMPP_3_3, UDH_8, UDH_16, UpstreamSettings
from portal.smsc.protocol import times
from portal.smsc.protocol.constants import ESM_CLASS_UDH, MAX_SHORT_CODE_DIGITS, TlvTag
from portal.smsc.protocol.pdu import SubmitSm
from portal.smsc.upstream.smpp_client import charsets
from portal.smsc.upstream.smpp_client.charsets import CarrierText

# 06 08 04 reference reference total number.
_UDH_16_OCTETS = 7
# 5.2.5 and 5.2.6: TON and NPI.
_UNKNOWN, _INTERNATIONAL, _NETWORK_SPECIFIC, _ALPHANUMERIC = (0, 0), (1, 1), (3, 1), (5, 0)
# The longest relative time whose months don't matter (7.1.1.2).
_MAX_RELATIVE_MS = 31 * DAY_MS


class OutgoingText(NamedTuple):
    """What a message's text goes out as: `pieces`, of each of which a submit_sm is made.

    `piece_parts`: in how many parts a handset gets a piece.
    """

    text: CarrierText
    pieces: Sequence[bytes | str]
    piece_parts: int


def split_text(message: SubmittedMessage, settings: UpstreamSettings) -> OutgoingText:
    """Return a message's text in an alphabet that its upstream takes, cut into parts where that is set and needed, and
    where these are no more than a header can count.

    Raises:
        charsets.CharacterMissing
        ValueError: the text can't be encoded.
    """
    text = charsets.encode_text(message, settings)
    # A part of a client's is one, however long it is.
    if text.udh is None and message.segment is None:
        header_octets = _UDH_16_OCTETS if settings.long_texts == UDH_16 else gsm0338.CONCATENATION_UDH_OCTETS
        pieces = text.split(header_octets)
        # Such parts may hold less than those that the text was charged by, and no header counts to more.
        if settings.long_texts == PAYLOAD or len(pieces) > validation.MAX_PARTS:
            return OutgoingText(text, [text.content], len(pieces))
        return OutgoingText(text, pieces, 1)
    return OutgoingText(text, [text.content], 1)


def build_submit_sm(
    message: SubmittedMessage,
    outgoing: OutgoingText,
    settings: UpstreamSettings,
    now: int,
    number: int = 1,
    reference: int = 0,
) -> SubmitSm:
    """Return the submit_sm of a piece of a message's text, with any sequence number.

    What doesn't fit one part goes as message_payload.

    Args:
        outgoing: from `split_text`.
        now: this moment (milliseconds).
        number: of the piece, from 1.
        reference: by which a handset knows which pieces are of one text, where there are several; in 16 bits.

    Raises:
        ValueError: an address is too long, or SMPP 3.3 has no room for the text.
    """
    text, pieces, piece_parts = outgoing
    source, (source_ton, source_npi) = _read_source(message.source, settings)
    udh = text.udh
    tlvs = dict(mappings.parse_tlvs(settings.tlvs)) if settings.tlvs else {}
    if message.tlvs:
        passed_tags = mappings.parse_tags(settings.pass_tlvs)
        tlvs |= {tag: value for tag, value in message.tlvs.items() if tag in passed_tags}
    segment = message.segment
    if len(pieces) > 1:
        segment = Segment(reference, len(pieces), number)
        if settings.long_texts != SAR:
            udh = _build_concatenation_udh(segment, settings.long_texts)
    elif segment is not None and udh is not None:
        udh = validation.add_concatenation(udh, segment)
    if segment is not None and udh is None:
        if settings.interface_version == SMPP_3_3:
            # A part that sar_* number has room for this header.
            udh = _build_concatenation_udh(segment, UDH_8)
        else:
            tlvs[TlvTag.SAR_MSG_REF_NUM] = segment.reference.to_bytes(2)
            tlvs[TlvTag.SAR_TOTAL_SEGMENTS] = segment.total.to_bytes(1)
            tlvs[TlvTag.SAR_SEGMENT_SEQNUM] = segment.number.to_bytes(1)
    if message.subunit is not None and settings.interface_version != SMPP_3_3:
        tlvs[TlvTag.DEST_ADDR_SUBUNIT] = message.subunit.to_bytes(1)
    body = text.encode(pieces[number - 1], udh)
    if piece_parts > 1 or len(body) > charsets.MAX_SHORT_MESSAGE_OCTETS:
        if settings.interface_version == SMPP_3_3:
            raise ValueError("SMPP 3.3 has no message_payload")
        tlvs[TlvTag.MESSAGE_PAYLOAD] = body
        body = b""
    return SubmitSm(
        0,
        source_ton=source_ton,
        source_npi=source_npi,
        source=source,
        dest_ton=settings.dest_ton,
        dest_npi=settings.dest_npi,
        destination=NUMBER_PREFIXES[settings.number_format] + message.destination,
        esm_class=ESM_CLASS_UDH if udh else 0,
        priority=message.priority,
        validity_period=_format_validity(message.expires_at, settings, now),
        registered_delivery=settings.registered_delivery,
        data_coding=text.data_coding,
        short_message=body,
        tlvs=tlvs,
    )


def _build_concatenation_udh(segment: Segment, long_texts: str) -> bytes:
    """Return the user data header of a part (GSM 03.40, 9.2.3.24.1 and 8)."""
    if long_texts == UDH_16:
        return validation.add_concatenation(b"\0", segment)
    return bytes((5, 0, 3, segment.reference & 0xFF, segment.total, segment.number))


def _read_source(source: str, settings: UpstreamSettings) -> tuple[str, tuple[int, int]]:
    """Return a sender as the upstream gets it, and its TON and NPI."""
    digits = normalize_address(source)
    if not source:
        kind = _UNKNOWN
    elif not (digits.isascii() and digits.isdigit()):
        kind = _ALPHANUMERIC
    elif len(digits) <= MAX_SHORT_CODE_DIGITS:
        kind, source = _NETWORK_SPECIFIC, digits
    else:
        kind, source = _INTERNATIONAL, NUMBER_PREFIXES[settings.number_format] + digits
    ton, npi = settings.source_ton, settings.source_npi
    return source, (kind[0] if ton is None else ton, kind[1] if npi is None else npi)


def _format_validity(expires_at: int | None, settings: UpstreamSettings, now: int) -> str:
    """Return how long the upstream is to try; "" where that is its own business."""
    remaining = settings.default_validity_seconds * 1000 if expires_at is None else max(expires_at - now, 1000)
    if not remaining:
        return ""
    if settings.max_validity_seconds:
        remaining = min(remaining, settings.max_validity_seconds * 1000)
    if remaining <= _MAX_RELATIVE_MS:
        return times.format_relative_time(remaining)
    return times.format_final_date(now + remaining)
