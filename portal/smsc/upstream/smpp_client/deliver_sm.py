"""What a carrier brings by deliver_sm or data_sm, in the services' terms: receipts, and messages from handsets.

A receipt has the text of appendix B, TLVs, or both.
"""

import datetime
from collections.abc import Mapping
from functools import lru_cache
from zoneinfo import ZoneInfo

from portal.core import gsm0338
from portal.services.common import message_states
from portal.services.common.addresses import INTERNATIONAL_NUMBER, normalize_address
from portal.services.messages.inbound import InboundItem, MobileOriginatedMessage
from portal.services.messages.inbound_parts import MAX_PART_OCTETS, InboundPart, decode_content, unpack_content
from portal.services.messages.receipt_matching import UpstreamReceipt
from portal.services.messages.validation import Segment, has_room_for_concatenation, parse_concatenation
from portal.services.prices import countries
from portal.services.upstreams import mappings
from portal.services.upstreams.receipt_texts import MAX_ID_LENGTH, find_text_id, parse_receipt_text
from portal.services.upstreams.settings import GSM_CHARSETS, UpstreamSettings
from portal.smsc.protocol import constants, times
from portal.smsc.protocol.constants import TlvTag
from portal.smsc.protocol.pdu import DataSm, DeliverSm
from portal.smsc.upstream.smpp_client.status_map import ptt_from_receipt

# esm_class, 5.2.12: the bits that say what kind of message it is, and the kind that is only a notification.
_ESM_CLASS_TYPE_BITS, _ESM_CLASS_NOTIFICATION = 0x3C, 0x20
_DATA_CODING_UCS2 = 8

# message_state, 5.2.28; 0 and 9 are those that SMPP 5.0 adds, scheduled and skipped.
_STATES_BY_TLV: Mapping[int, int] = {
    0: message_states.ENROUTE,
    **{each: each for each in range(message_states.ENROUTE, message_states.REJECTED + 1)},
    9: message_states.REJECTED,
}
_DATE_FORMATS = {10: "%y%m%d%H%M", 12: "%y%m%d%H%M%S", 14: "%Y%m%d%H%M%S"}
_MAX_WORD_LENGTH = 20
# Longer ones are none.
_MAX_DATE_LENGTH = 16
# Of a text that is looked at: a message_payload has room for 64 KiB, which would take 22 milliseconds.
_MAX_TEXT_LENGTH = 1_000
# Appendix B has less than 200; what a carrier adds is kept for operators.
_MAX_RECEIPT_LENGTH = 500
# 5.2.5: type of number. What stands behind a plus or 00 has its country code, too.
_TON_INTERNATIONAL, _TON_NATIONAL, _TON_ALPHANUMERIC = 1, 2, 5
_SAR_LENGTHS = {TlvTag.SAR_MSG_REF_NUM: 2, TlvTag.SAR_TOTAL_SEGMENTS: 1, TlvTag.SAR_SEGMENT_SEQNUM: 1}


def is_receipt(message: DeliverSm | DataSm) -> bool:
    """Whether it is a receipt, and no message from a handset: by esm_class, or by receipted_message_id. A handset can
    write a receipt's text, but neither of these.
    """
    kind = message.esm_class & _ESM_CLASS_TYPE_BITS
    return kind in (constants.ESM_CLASS_RECEIPT, _ESM_CLASS_NOTIFICATION) or TlvTag.RECEIPTED_MESSAGE_ID in message.tlvs


def parse_receipt(message: DeliverSm | DataSm, upstream_id: int, settings: UpstreamSettings) -> UpstreamReceipt | None:
    """Return the receipt that it is, None where it is a message from a handset.

    The ids are as they came: that of the TLV first, and that of the text where it is another.
    """
    if not is_receipt(message):
        return None
    kind = message.esm_class & _ESM_CLASS_TYPE_BITS
    tlvs = message.tlvs
    text = decode_receipt(message, settings.receipt_charset)
    fields = parse_receipt_text(text)
    stat = fields.get("stat", "")[:_MAX_WORD_LENGTH]
    state_value = tlvs.get(TlvTag.MESSAGE_STATE, b"")
    state = _STATES_BY_TLV.get(state_value[0]) if len(state_value) == 1 else None
    if state is None:
        state = mappings.find_state(stat)
    # network_error_code (5.3.2.31): behind an octet that says which network it is of.
    network_error = tlvs.get(TlvTag.NETWORK_ERROR_CODE, b"")
    has_error = len(network_error) == 3
    error = str(int.from_bytes(network_error[1:])) if has_error else fields.get("err", "")[:_MAX_WORD_LENGTH]
    ptt = ptt_from_receipt(state, error, settings.error_map)
    return UpstreamReceipt(
        upstream_id,
        _find_ids(tlvs, text, fields, settings),
        state,
        ptt,
        state is not None
        and kind != _ESM_CLASS_NOTIFICATION
        and state not in mappings.parse_intermediate_states(settings.intermediate_states),
        # What it says, as the text of one says it.
        f"stat:{stat} err:{error}" if stat or state is None else constants.format_receipt_status(state, ptt),
        _parse_date(fields.get("donedate", "")[: _MAX_DATE_LENGTH + 1], settings.receipt_timezone),
        message.source,
        message.destination,
        text[:_MAX_RECEIPT_LENGTH],
    )


def _find_ids(
    tlvs: Mapping[int, bytes], text: str, fields: Mapping[str, str], settings: UpstreamSettings
) -> tuple[str, ...]:
    """Return the ids that a receipt gives, each once."""
    tlv_id = text_id = ""
    if settings.receipt_id_from != "text":
        tlv_id = tlvs.get(TlvTag.RECEIPTED_MESSAGE_ID, b"").partition(b"\0")[0].decode("latin-1").strip()
    if settings.receipt_id_from != "tlv":
        text_id = find_text_id(text, fields, settings.receipt_id_pattern)
    tlv_id = tlv_id[:MAX_ID_LENGTH]
    if tlv_id and text_id and tlv_id != text_id:
        return tlv_id, text_id
    return (tlv_id or text_id,) if tlv_id or text_id else ()


def decode_receipt(message: DeliverSm | DataSm, charset: str) -> str:
    """Return the text of a receipt, as much of it as is looked at; `charset` is the setting `receipt_charset`."""
    return _decode_text(message, charset)[:_MAX_TEXT_LENGTH]


def _decode_text(message: DeliverSm | DataSm, charset: str) -> str:
    body, header_length = message.body, 0
    if message.esm_class & constants.ESM_CLASS_UDH and body:
        header_length = 1 + body[0]
        body = body[header_length:]
    if message.data_coding != _DATA_CODING_UCS2 and (message.data_coding or charset == "auto"):
        return body.decode("latin-1")
    # To replace what can't be read takes long.
    body = body[: 2 * _MAX_TEXT_LENGTH]
    if message.data_coding:
        return body.decode("utf-16-be", "replace")
    if charset in GSM_CHARSETS:
        content = unpack_content(body, charset, header_length)
        return gsm0338.decode_as_displayed(content, gsm0338.get_alphabet(0, None))
    return body.decode(charset, "replace")


# Most that come within a minute have the same.
@lru_cache(maxsize=1_000)
def _parse_date(text: str, timezone: str) -> int | None:
    """Return a date of appendix B, with or without seconds, which is in a time zone that isn't said; or one as 7.1.1
    has it, which says its own.
    """
    try:
        if text.isascii() and text.isdigit():
            moment = datetime.datetime.strptime(text, _DATE_FORMATS[len(text)]).replace(tzinfo=ZoneInfo(timezone))
            return int(moment.timestamp() * 1000)
        return times.parse_smpp_time(text, 0) if not text.endswith("R") else None
    except (KeyError, ValueError, OverflowError):
        return None


def inbound_from_deliver(message: DeliverSm | DataSm, upstream_id: int, settings: UpstreamSettings) -> InboundItem:
    """Return a message from a handset, or the part of one."""
    charset, country = settings.receipt_charset, settings.inbound_country
    content, udh = message.body, None
    if message.esm_class & constants.ESM_CLASS_UDH and content and content[0] < len(content):
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
    if len(digits) <= constants.MAX_SHORT_CODE_DIGITS and not is_national:
        return digits
    return countries.complete_number(digits, country.upper(), is_national=is_national)
