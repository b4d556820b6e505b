"""A message as the submit_sm that a carrier gets (SMPP 3.4, 4.4.1)."""

from __future__ import annotations

from typing import NamedTuple

from portal.core.clock import DAY_MS
from portal.services.common.addresses import normalize_address
from portal.services.messages import validation
from portal.services.messages.validation import SubmittedMessage
from portal.services.upstreams.settings import NUMBER_PREFIXES, UpstreamSettings, parse_tlvs
from portal.smsc.protocol import times
from portal.smsc.protocol.constants import TlvTag
from portal.smsc.protocol.pdu import SubmitSm
from portal.smsc.upstream.smpp_client import charsets

_UDH_INDICATOR = 0x40
# 5.2.5 and 5.2.6: TON and NPI.
_UNKNOWN, _INTERNATIONAL, _NETWORK_SPECIFIC, _ALPHANUMERIC = (0, 0), (1, 1), (3, 1), (5, 0)
_MAX_SHORT_CODE_DIGITS = 8
# The longest relative time whose months don't matter (7.1.1.2).
_MAX_RELATIVE_MS = 31 * DAY_MS


class OutgoingSubmit(NamedTuple):
    """A submit_sm, with any sequence number, and in how many parts a handset gets what it holds."""

    submit_sm: SubmitSm
    parts: int


def build_submit_sm(message: SubmittedMessage, settings: UpstreamSettings, now: int) -> OutgoingSubmit:
    """Return a message's submit_sm.

    What doesn't fit one part goes as message_payload.

    Args:
        now: this moment (milliseconds).

    Raises:
        charsets.CharacterMissing
        ValueError: the text can't be encoded, or an address is too long.
    """
    text = charsets.encode_text(message, settings)
    source, (source_ton, source_npi) = _read_source(message.source, settings)
    udh = text.udh
    tlvs = dict(parse_tlvs(settings.tlvs) or {}) if settings.tlvs else {}
    if message.segment is not None:
        reference, total, number = message.segment
        if udh is None:
            tlvs[TlvTag.SAR_MSG_REF_NUM] = reference.to_bytes(2)
            tlvs[TlvTag.SAR_TOTAL_SEGMENTS] = total.to_bytes(1)
            tlvs[TlvTag.SAR_SEGMENT_SEQNUM] = number.to_bytes(1)
        else:
            udh = validation.add_concatenation(udh, message.segment)
    if message.subunit is not None:
        tlvs[TlvTag.DEST_ADDR_SUBUNIT] = message.subunit.to_bytes(1)
    body = text.encode(text.content, udh)
    # A part of a client's is one, however long it is.
    parts = 1 if udh or message.segment else len(text.split())
    if parts > 1 or len(body) > charsets.MAX_SHORT_MESSAGE_OCTETS:
        tlvs[TlvTag.MESSAGE_PAYLOAD] = body
        body = b""
    submit_sm = SubmitSm(
        0,
        source_ton=source_ton,
        source_npi=source_npi,
        source=source,
        dest_ton=settings.dest_ton,
        dest_npi=settings.dest_npi,
        destination=NUMBER_PREFIXES[settings.number_format] + message.destination,
        esm_class=_UDH_INDICATOR if udh else 0,
        priority=message.priority,
        validity_period=_format_validity(message.expires_at, settings, now),
        registered_delivery=settings.registered_delivery,
        data_coding=text.data_coding,
        short_message=body,
        tlvs=tlvs,
    )
    return OutgoingSubmit(submit_sm, parts)


def _read_source(source: str, settings: UpstreamSettings) -> tuple[str, tuple[int, int]]:
    """Return a sender as the upstream gets it, and its TON and NPI."""
    digits = normalize_address(source)
    if not source:
        kind = _UNKNOWN
    elif not (digits.isascii() and digits.isdigit()):
        kind = _ALPHANUMERIC
    elif len(digits) <= _MAX_SHORT_CODE_DIGITS:
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
