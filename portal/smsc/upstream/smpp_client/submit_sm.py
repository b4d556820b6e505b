"""A message as the submit_sm that a carrier gets (SMPP 3.4, 4.4.1): its text in the carrier's charset of data_coding 0,
and cut into parts.

SMPP says of data_coding 0 only that it is the "SMSC default alphabet" (5.2.19). With most carriers that is GSM 03.38,
one septet in each octet; others take it packed, or read Latin-1, ASCII or UTF-8 and write GSM 03.38 themselves.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from portal.core import gsm0338
from portal.core.clock import DAY_MS
from portal.core.gsm0338 import Encoding
from portal.services.common.addresses import normalize_address
from portal.services.messages import validation
from portal.services.messages.validation import Segment, SubmittedMessage
from portal.services.upstreams import mappings
from portal.services.upstreams import settings as choices
from portal.services.upstreams.settings import UpstreamSettings
from portal.smsc.protocol import times
from portal.smsc.protocol.constants import ESM_CLASS_UDH, MAX_SHORT_CODE_DIGITS, TlvTag
from portal.smsc.protocol.pdu import SubmitSm

# 06 08 04 reference reference total number.
_UDH_16_OCTETS = 7
# 5.2.5 and 5.2.6: TON and NPI.
_UNKNOWN, _INTERNATIONAL, _NETWORK_SPECIFIC, _ALPHANUMERIC = (0, 0), (1, 1), (3, 1), (5, 0)
# The longest relative time whose months don't matter (7.1.1.2).
_MAX_RELATIVE_MS = 31 * DAY_MS
# Octets of short_message, its user data header included.
_MAX_SHORT_MESSAGE_OCTETS = 254
_DATA_CODING_UCS2, _DATA_CODING_UCS2_WITH_CLASS = 8, 0x18
# What stands for a character that has no other form of one letter (`unicodedata` knows those with an accent).
_SIMILAR_CHARACTERS = str.maketrans("`‘’‚‛“”„«»‐‑‒–—…ıøØłŁđĐðæÆœŒß", "'''''" + '"' * 5 + "-----.ioOlLdDdaAoOs")
_REPLACEMENT = "?"
_CR = 0x0D


class CharacterMissing(ValueError):
    """The upstream's charset lacks a character of a text, which is not to go out then."""


@dataclass(slots=True)
class CarrierText:
    """A text, or other content, as a carrier gets it.

    `data_coding`, `udh`: those to send; the header is whole, but for the place of a part that is cut here. `encoding`:
    how a handset gets it, which says what a part has room for. `content`: its octets (GSM: one septet in each), or the
    text itself where the carrier reads one of OTHER_CHARSETS and writes GSM 03.38 itself. `charset`: that one, or
    GSM_PACKED; GSM: the octets go out as they are. `pieces`: what `split_text` makes of the content, of each of which
    there is a submit_sm. `piece_parts`: in how many parts a handset gets a piece.
    """

    data_coding: int
    udh: bytes | None
    encoding: Encoding
    content: bytes | str
    charset: str = choices.GSM
    pieces: Sequence[bytes | str] = ()
    piece_parts: int = 1

    def split(self, header_octets: int = gsm0338.CONCATENATION_UDH_OCTETS) -> list[bytes | str]:
        """Return the content in as many parts as a handset gets it in, each beside a header of so many octets."""
        if isinstance(self.content, bytes):
            return [*gsm0338.split_body(self.content, self.encoding, header_octets)]
        return [*_split_text(self.content, self.charset, self.encoding, header_octets)]

    def encode(self, content: bytes | str, udh: bytes | None) -> bytes:
        """Return the octets of the content, or of a part of it, behind a user data header."""
        if isinstance(content, str):
            octets = content.encode(self.charset)
        elif self.charset == choices.GSM_PACKED:
            octets = _pack_septets(content, len(udh) if udh else 0)
        else:
            octets = content
        return octets if udh is None else udh + octets

    def fits_part(self, header_octets: int) -> bool:
        """Whether the content fits one part, and short_message, beside a header of so many octets."""
        size, octets = _measure(self.content, self.charset, self.encoding)
        return (
            size <= gsm0338.get_part_capacity(self.encoding, header_octets)
            and octets + header_octets <= _MAX_SHORT_MESSAGE_OCTETS
        )


def split_text(message: SubmittedMessage, settings: UpstreamSettings) -> CarrierText:
    """Return a message's text in an alphabet that its upstream takes, cut into parts where that is set and needed, and
    where these are no more than a header can count.

    Raises:
        CharacterMissing
        ValueError: the text can't be encoded.
    """
    text = encode_text(message, settings)
    text.pieces = [text.content]
    # A part of a client's is one, however long it is.
    if text.udh is None and message.segment is None:
        header_octets = _UDH_16_OCTETS if settings.long_texts == choices.UDH_16 else gsm0338.CONCATENATION_UDH_OCTETS
        pieces = text.split(header_octets)
        # Such parts may hold less than those that the text was charged by, and no header counts to more.
        if settings.long_texts == choices.PAYLOAD or len(pieces) > validation.MAX_PARTS:
            text.piece_parts = len(pieces)
        else:
            text.pieces = pieces
    return text


def build_submit_sm(
    message: SubmittedMessage,
    text: CarrierText,
    settings: UpstreamSettings,
    now: int,
    number: int = 1,
    reference: int = 0,
) -> SubmitSm:
    """Return the submit_sm of a piece of a message's text, with any sequence number.

    What doesn't fit one part goes as message_payload.

    Args:
        text: from `split_text`.
        now: this moment (milliseconds).
        number: of the piece, from 1.
        reference: by which a handset knows which pieces are of one text, where there are several; in 16 bits.

    Raises:
        ValueError: an address is too long, or SMPP 3.3 has no room for the text.
    """
    pieces = text.pieces
    source, (source_ton, source_npi) = _read_source((message.use and message.use.sender) or message.source, settings)
    udh = text.udh
    tlvs = dict(mappings.parse_tlvs(settings.tlvs)) if settings.tlvs else {}
    if message.tlvs:
        passed_tags = mappings.parse_tags(settings.pass_tlvs)
        tlvs |= {tag: value for tag, value in message.tlvs.items() if tag in passed_tags}
    segment = message.segment
    if len(pieces) > 1:
        segment = Segment(reference, len(pieces), number)
        if settings.long_texts != choices.SAR:
            udh = _build_concatenation_udh(segment, settings.long_texts)
    elif segment is not None and udh is not None:
        udh = validation.add_concatenation(udh, segment)
    if segment is not None and udh is None:
        if settings.interface_version == choices.SMPP_3_3:
            # A part that sar_* number has room for this header.
            udh = _build_concatenation_udh(segment, choices.UDH_8)
        else:
            tlvs[TlvTag.SAR_MSG_REF_NUM] = segment.reference.to_bytes(2)
            tlvs[TlvTag.SAR_TOTAL_SEGMENTS] = segment.total.to_bytes(1)
            tlvs[TlvTag.SAR_SEGMENT_SEQNUM] = segment.number.to_bytes(1)
    if message.subunit is not None and settings.interface_version != choices.SMPP_3_3:
        tlvs[TlvTag.DEST_ADDR_SUBUNIT] = message.subunit.to_bytes(1)
    body = text.encode(pieces[number - 1], udh)
    if text.piece_parts > 1 or len(body) > _MAX_SHORT_MESSAGE_OCTETS:
        if settings.interface_version == choices.SMPP_3_3:
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
        destination=choices.NUMBER_PREFIXES[settings.number_format] + message.destination,
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
    if long_texts == choices.UDH_16:
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
        kind, source = _INTERNATIONAL, choices.NUMBER_PREFIXES[settings.number_format] + digits
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


# --- texts in a carrier's charset


def encode_text(message: SubmittedMessage, settings: UpstreamSettings) -> CarrierText:
    """Return a message's content in an alphabet that its upstream takes.

    Binary and UCS-2 go out as they came. A part that its client has cut, or another one with a user data header, that
    would be too long in UCS-2 has its characters replaced instead.

    Raises:
        CharacterMissing: by the setting `missing_characters`.
        ValueError: the text can't be encoded as its data_coding says.
    """
    encoding = gsm0338.ENCODINGS[message.data_coding]
    udh = message.udh
    has_table = encoding is Encoding.GSM and udh is not None and gsm0338.has_shift_elements(udh)
    if encoding is Encoding.GSM and not has_table:
        keeps = settings.charset in choices.GSM_CHARSETS
    else:
        keeps = encoding in (Encoding.UCS2, Encoding.BINARY) or settings.other_alphabets == choices.KEEP
    if keeps:
        content = gsm0338.encode_body(message.text, encoding) if message.body is None else message.body
        charset = (
            choices.GSM_PACKED if encoding is Encoding.GSM and settings.charset == choices.GSM_PACKED else choices.GSM
        )
        return CarrierText(message.data_coding, udh, encoding, content, charset)
    if has_table and udh is not None:
        udh = gsm0338.remove_shift_elements(udh)
    return _convert_text(message, udh, settings)


def _convert_text(message: SubmittedMessage, udh: bytes | None, settings: UpstreamSettings) -> CarrierText:
    """Return a message's text in the charset of data_coding 0, or in UCS-2 where that lacks a character of it."""
    text, charset = message.text, settings.charset
    is_gsm = gsm0338.ENCODINGS[message.data_coding] is Encoding.GSM
    if _has_missing_characters(text, charset):
        if settings.missing_characters == choices.REFUSE:
            raise CharacterMissing(f"{charset} lacks a character of the text")
        if settings.missing_characters == choices.UCS2:
            data_coding = _DATA_CODING_UCS2
            if message.data_coding >= 0x10:
                data_coding = _DATA_CODING_UCS2_WITH_CLASS | message.data_coding & 3
            in_ucs2 = CarrierText(data_coding, udh, Encoding.UCS2, gsm0338.encode_body(text, Encoding.UCS2))
            header_octets = gsm0338.CONCATENATION_UDH_OCTETS if udh is None else len(udh)
            if (udh is None and message.segment is None) or in_ucs2.fits_part(header_octets):
                return in_ucs2
        text = replace_missing_characters(text, charset)
    data_coding = message.data_coding if is_gsm else 0
    if charset in choices.GSM_CHARSETS:
        return CarrierText(data_coding, udh, Encoding.GSM, gsm0338.encode(text), charset)
    # Where GSM 03.38 lacks a character, a carrier that takes UTF-8 can only send UCS-2.
    encoding = gsm0338.choose_encoding(text) if charset == choices.UTF_8 else Encoding.GSM
    return CarrierText(data_coding, udh, encoding, text, charset)


def _has_missing_characters(text: str, charset: str) -> bool:
    try:
        gsm0338.encode(text) if charset in choices.GSM_CHARSETS else text.encode(charset)
    except ValueError:
        return True
    return False


def replace_missing_characters(text: str, charset: str) -> str:
    """Return a text with a similar character in the place of each that a charset lacks, or a question mark."""
    return "".join(
        each if not _has_missing_characters(each, charset) else _find_similar(each, charset) for each in text
    )


def _find_similar(character: str, charset: str) -> str:
    # A letter with an accent is that letter and a combining accent.
    decomposed = [each for each in unicodedata.normalize("NFKD", character) if not unicodedata.combining(each)]
    similar = decomposed[0] if len(decomposed) == 1 else character
    similar = similar.translate(_SIMILAR_CHARACTERS)
    return _REPLACEMENT if _has_missing_characters(similar, charset) else similar


def _measure(content: bytes | str, charset: str, encoding: Encoding) -> tuple[int, int]:
    """Return what content takes of a part (septets, or octets for UCS-2), and its octets in short_message."""
    if isinstance(content, bytes):
        return len(content), len(content)
    if encoding is Encoding.UCS2:
        size = 2 * len(content) + 2 * sum(each > "\uffff" for each in content)
    else:
        # What GSM 03.38 lacks a carrier replaces by one character.
        size = sum(gsm0338.count_septets(each) or 1 for each in content)
    return size, len(content.encode(charset))


def _split_text(text: str, charset: str, encoding: Encoding, header_octets: int) -> list[str]:
    size, octets = _measure(text, charset, encoding)
    if size <= gsm0338.get_part_capacity(encoding) and octets <= _MAX_SHORT_MESSAGE_OCTETS:
        return [text]
    capacity = gsm0338.get_part_capacity(encoding, header_octets)
    pieces: list[str] = []
    start = size = octets = 0
    for position, character in enumerate(text):
        more = _measure(character, charset, encoding)
        if size + more[0] > capacity or octets + more[1] > _MAX_SHORT_MESSAGE_OCTETS - header_octets:
            pieces.append(text[start:position])
            start, size, octets = position, 0, 0
        size += more[0]
        octets += more[1]
    return [*pieces, text[start:]]


def _pack_septets(septets: bytes, header_octets: int) -> bytes:
    """Pack septets behind a user data header of so many octets (GSM 03.38, 6.1.2.1).

    SMPP gives the length in octets, so seven bits that are left over could be one more @. As 6.1.2.3.1 says for such
    cases, a carriage return fills them.
    """
    fill_bits = -8 * header_octets % 7
    if septets and -(fill_bits + 7 * len(septets)) % 8 == 7:
        septets += bytes((_CR,))
    return gsm0338.pack_septets(septets, fill_bits)
