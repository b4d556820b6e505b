"""Texts as a carrier takes them: in its charset of data_coding 0, and cut into parts.

SMPP says of data_coding 0 only that it is the "SMSC default alphabet" (5.2.19). With most carriers that is GSM 03.38,
one septet in each octet; others take it packed, or read Latin-1, ASCII or UTF-8 and write GSM 03.38 themselves.
"""

import unicodedata
from dataclasses import dataclass

from portal.core import gsm0338
from portal.core.gsm0338 import Encoding
from portal.services.messages.validation import SubmittedMessage
from portal.services.upstreams.settings import (
    GSM,
    GSM_CHARSETS,
    GSM_PACKED,
    KEEP,
    REFUSE,
    UCS2,
    UTF_8,
    UpstreamSettings,
)

MAX_SHORT_MESSAGE_OCTETS = 254
"""Octets of short_message, its user data header included (SMPP 3.4, 4.4.1)."""

_DATA_CODING_UCS2, _DATA_CODING_UCS2_WITH_CLASS = 8, 0x18
# What stands for a character that has no other form of one letter (`unicodedata` knows those with an accent).
_SIMILAR_CHARACTERS = str.maketrans("`‘’‚‛“”„«»‐‑‒–—…ıøØłŁđĐðæÆœŒß", "'''''" + '"' * 5 + "-----.ioOlLdDdaAoOs")
_UNKNOWN = "?"
_CR = 0x0D


class CharacterMissing(ValueError):
    """The upstream's charset lacks a character of a text, which is not to go out then."""


@dataclass(slots=True)
class CarrierText:
    """A text, or other content, as a carrier gets it.

    `data_coding`, `udh`: those to send; the header is whole, but for the place of a part that is cut here. `encoding`:
    how a handset gets it, which says what a part has room for. `content`: its octets (GSM: one septet in each), or the
    text itself where the carrier reads one of OTHER_CHARSETS and writes GSM 03.38 itself. `charset`: that one, or
    GSM_PACKED; GSM: the octets go out as they are.
    """

    data_coding: int
    udh: bytes | None
    encoding: Encoding
    content: bytes | str
    charset: str = GSM

    def split(self, header_octets: int = gsm0338.CONCATENATION_UDH_OCTETS) -> list[bytes | str]:
        """Return the content in as many parts as a handset gets it in, each beside a header of so many octets."""
        if isinstance(self.content, bytes):
            return [*gsm0338.split_body(self.content, self.encoding, header_octets)]
        return [*_split_text(self.content, self.charset, self.encoding, header_octets)]

    def encode(self, content: bytes | str, udh: bytes | None) -> bytes:
        """Return the octets of the content, or of a part of it, behind a user data header."""
        if isinstance(content, str):
            octets = content.encode(self.charset)
        elif self.charset == GSM_PACKED:
            octets = _pack_septets(content, len(udh) if udh else 0)
        else:
            octets = content
        return octets if udh is None else udh + octets

    def fits_part(self, header_octets: int) -> bool:
        """Whether the content fits one part, and short_message, beside a header of so many octets."""
        size, octets = _measure(self.content, self.charset, self.encoding)
        return (
            size <= gsm0338.get_part_capacity(self.encoding, header_octets)
            and octets + header_octets <= MAX_SHORT_MESSAGE_OCTETS
        )


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
    if encoding is Encoding.GSM:
        has_table = udh is not None and gsm0338.has_shift_elements(udh)
        keeps = settings.other_alphabets == KEEP if has_table else settings.charset in GSM_CHARSETS
    else:
        has_table = False
        keeps = encoding in (Encoding.UCS2, Encoding.BINARY) or settings.other_alphabets == KEEP
    if keeps:
        content = message.body
        if content is None:
            content = gsm0338.encode_body(message.text, encoding)
        charset = GSM_PACKED if encoding is Encoding.GSM and settings.charset == GSM_PACKED else GSM
        return CarrierText(message.data_coding, udh, encoding, content, charset)
    if has_table:
        assert udh is not None
        udh = gsm0338.remove_shift_elements(udh)
    return _convert_text(message, udh, settings)


def _convert_text(message: SubmittedMessage, udh: bytes | None, settings: UpstreamSettings) -> CarrierText:
    """Return a message's text in the charset of data_coding 0, or in UCS-2 where that lacks a character of it."""
    text, charset = message.text, settings.charset
    is_gsm = gsm0338.ENCODINGS[message.data_coding] is Encoding.GSM
    if _has_missing_characters(text, charset):
        if settings.missing_characters == REFUSE:
            raise CharacterMissing(f"{charset} lacks a character of the text")
        if settings.missing_characters == UCS2:
            data_coding = _DATA_CODING_UCS2
            if message.data_coding >= 0x10:
                data_coding = _DATA_CODING_UCS2_WITH_CLASS | message.data_coding & 3
            in_ucs2 = CarrierText(data_coding, udh, Encoding.UCS2, gsm0338.encode_body(text, Encoding.UCS2))
            if (udh is None and message.segment is None) or in_ucs2.fits_part(_count_header_octets(message, udh)):
                return in_ucs2
        text = replace_missing_characters(text, charset)
    data_coding = message.data_coding if is_gsm else 0
    if charset in GSM_CHARSETS:
        return CarrierText(data_coding, udh, Encoding.GSM, gsm0338.encode(text), charset)
    # Where GSM 03.38 lacks a character, a carrier that takes UTF-8 can only send UCS-2.
    encoding = gsm0338.choose_encoding(text) if charset == UTF_8 else Encoding.GSM
    return CarrierText(data_coding, udh, encoding, text, charset)


def _count_header_octets(message: SubmittedMessage, udh: bytes | None) -> int:
    if udh is not None:
        return len(udh)
    return 0 if message.segment is None else gsm0338.CONCATENATION_UDH_OCTETS


def _has_missing_characters(text: str, charset: str) -> bool:
    try:
        _encode_in_charset(text, charset)
    except ValueError:
        return True
    return False


def _encode_in_charset(text: str, charset: str) -> bytes:
    return gsm0338.encode(text) if charset in GSM_CHARSETS else text.encode(charset)


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
    return _UNKNOWN if _has_missing_characters(similar, charset) else similar


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
    if size <= gsm0338.get_part_capacity(encoding) and octets <= MAX_SHORT_MESSAGE_OCTETS:
        return [text]
    capacity = gsm0338.get_part_capacity(encoding, header_octets)
    pieces: list[str] = []
    start = size = octets = 0
    for position, character in enumerate(text):
        more = _measure(character, charset, encoding)
        if size + more[0] > capacity or octets + more[1] > MAX_SHORT_MESSAGE_OCTETS - header_octets:
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
