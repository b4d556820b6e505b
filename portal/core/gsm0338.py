"""GSM 03.38 (now 3GPP TS 23.038): the default alphabet, and how long a text is in parts.

In SMPP a text with data_coding 0 has one septet in each octet, the high bit clear (*unpacked*); a handset gets packed
septets. All functions here take and return the unpacked form unless their docstring says otherwise.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

ESCAPE = 0x1B
"""The next septet is one of the extension table (6.2.1.1)."""

_UNDEFINED = "\ufffe"  # the codecs module's mark for "no such character"

# 6.2.1, in the order of the septets. The escape is no character of its own.
_DEFAULT_ALPHABET = (
    "@£$¥èéùìòÇ\nØø\rÅå"
    "Δ_ΦΓΛΩΠΨΣΘΞ" + _UNDEFINED + "ÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION_TABLE = {
    0x0A: "\f",
    0x14: "^",
    0x28: "{",
    0x29: "}",
    0x2F: "\\",
    0x3C: "[",
    0x3D: "~",
    0x3E: "]",
    0x40: "|",
    0x65: "€",
}
_SEPTETS = {
    **{ord(each): bytes((septet,)) for septet, each in enumerate(_DEFAULT_ALPHABET) if each != _UNDEFINED},
    **{ord(each): bytes((ESCAPE, septet)) for septet, each in _EXTENSION_TABLE.items()},
}

# The tables of national languages (annex A) by the language's number (6.2.1.2.4): 1 is Turkish, 2 Spanish, which has no
# locking shift table, 3 Portuguese. Number 0 has the default ones.
_LOCKING_SHIFT_TABLES = {
    0: _DEFAULT_ALPHABET,
    1: (
        "@£$¥€éùıòÇ\nĞğ\rÅå"
        "Δ_ΦΓΛΩΠΨΣΘΞ" + _UNDEFINED + "ŞşßÉ"
        " !\"#¤%&'()*+,-./0123456789:;<=>?"
        "İABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
        "çabcdefghijklmnopqrstuvwxyzäöñüà"
    ),
    3: (
        "@£$¥êéúíóç\nÔô\rÁá"
        "Δ_ªÇÀ∞^\\€Ó|" + _UNDEFINED + "ÂâÊÉ"
        " !\"#º%&'()*+,-./0123456789:;<=>?"
        "ÍABCDEFGHIJKLMNOPQRSTUVWXYZÃÕÚÜ§"
        "~abcdefghijklmnopqrstuvwxyzãõ`üà"
    ),
}
_SINGLE_SHIFT_TABLES = {
    0: _EXTENSION_TABLE,
    1: _EXTENSION_TABLE | dict(zip(b"GIScgis", "ĞİŞçğış", strict=True)),
    2: _EXTENSION_TABLE | dict(zip(b"\x09AIOUaiou", "çÁÍÓÚáíóú", strict=True)),
    3: _EXTENSION_TABLE
    | dict(zip(b"\x05\x09\x0b\x0c\x0e\x0f\x12\x13\x15\x16\x17\x18\x19\x1f", "êçÔôÁáΦΓΩΠΨΣΘÊ", strict=True))
    | dict(zip(b"AIOU[\\aiou{|\x7f", "ÀÍÓÚÃÕÂíóúãõâ", strict=True)),
}
# By octet, for display: a second escape shows a space (6.2.1.1).
_DISPLAYED_CHARACTERS = {
    language: table.replace(_UNDEFINED, " ") + "\ufffd" * 128 for language, table in _LOCKING_SHIFT_TABLES.items()
}
# User data header, GSM 03.40, 9.2.3.24.15 and 16: each names a language in one octet.
_SHIFT_ELEMENTS = _SINGLE_SHIFT_ELEMENT, _LOCKING_SHIFT_ELEMENT = 0x24, 0x25

_USER_DATA_OCTETS = 140  # TP-User-Data of one short message, GSM 03.40, 9.2.3.24
CONCATENATION_UDH_OCTETS = 6
"""Octets of the usual user data header of a part: 05 00 03 reference total number (GSM 03.40, 9.2.3.24.1)."""


class Encoding(IntEnum):
    """The encoding of a body; the values are those of SMPP's data_coding (5.2.19) where that says no more."""

    GSM = 0
    ASCII = 1
    LATIN_1 = 3
    BINARY = 4
    UCS2 = 8


_CODECS = {Encoding.ASCII: "ascii", Encoding.LATIN_1: "latin-1", Encoding.UCS2: "utf-16-be"}
_SEVEN_BIT_ENCODINGS = (Encoding.GSM, Encoding.ASCII)

ENCODINGS = {
    **{int(each): each for each in Encoding},
    **dict.fromkeys(range(0x10, 0x14), Encoding.GSM),
    **dict.fromkeys(range(0x18, 0x1C), Encoding.UCS2),
    **dict.fromkeys(range(0xF0, 0xF4), Encoding.GSM),
    **dict.fromkeys(range(0xF4, 0xF8), Encoding.BINARY),
}
"""The encoding that each data_coding names. Beside those of SMPP there are those of GSM 03.38 with a message class
(section 4): 0001 00cc, 0001 10cc (UCS-2), 1111 00cc and 1111 01cc (8-bit data), where cc is the class."""
FLASH_DATA_CODINGS = frozenset((0x10, 0x18, 0xF0, 0xF4))
"""Those of class 0: a handset displays the message at once, and does not keep it."""


class Alphabet(NamedTuple):
    """What octets mean: their encoding and, for GSM, the languages whose shift tables its header names (0: none)."""

    encoding: Encoding
    locking_shift: int = 0
    single_shift: int = 0

    @property
    def is_text(self) -> bool:
        """Whether they can be shown as text; not so binary, and languages whose tables are not here."""
        return (
            self.encoding is not Encoding.BINARY
            and self.locking_shift in _LOCKING_SHIFT_TABLES
            and self.single_shift in _SINGLE_SHIFT_TABLES
        )


def get_alphabet(data_coding: int, udh: bytes | None) -> Alphabet:
    """Return that of a message with this data_coding and user data header; of an unknown data_coding: binary."""
    encoding = ENCODINGS.get(data_coding, Encoding.BINARY)
    if encoding is not Encoding.GSM or not udh or not has_shift_elements(udh):
        return Alphabet(encoding)
    # Of an element that comes twice the last one counts (GSM 03.40, 9.2.3.24).
    languages = {identifier: value[0] for identifier, value in iterate_udh_elements(udh) if len(value) == 1}
    return Alphabet(encoding, languages.get(_LOCKING_SHIFT_ELEMENT, 0), languages.get(_SINGLE_SHIFT_ELEMENT, 0))


def has_shift_elements(udh: bytes) -> bool:
    """Whether a user data header names a national language."""
    # The octets first: this runs for each part, and few have one of these, for instance as their reference.
    return (_SINGLE_SHIFT_ELEMENT in udh or _LOCKING_SHIFT_ELEMENT in udh) and any(
        identifier in _SHIFT_ELEMENTS for identifier, _ in iterate_udh_elements(udh)
    )


def remove_shift_elements(udh: bytes) -> bytes | None:
    """Return a user data header without the elements that name a national language; None where no other is left."""
    elements = b"".join(
        bytes((identifier, len(value))) + value
        for identifier, value in iterate_udh_elements(udh)
        if identifier not in _SHIFT_ELEMENTS
    )
    return bytes((len(elements),)) + elements if elements else None


def count_septets(character: str) -> int:
    """Return how many septets a character takes in GSM 03.38: two where it is of the extension table, 0 where it has no
    place there.
    """
    return len(_SEPTETS.get(ord(character), b""))


def iterate_udh_elements(udh: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the elements of a user data header, each as (identifier, value); the last value may be cut."""
    offset = 1
    while offset + 1 < len(udh):
        end = offset + 2 + udh[offset + 1]
        yield udh[offset], udh[offset + 2 : end]
        offset = end


def decode(septets: bytes) -> str:
    """Return the text of unpacked `septets`.

    Strict: ValueError for a byte over 0x7F, an escape at the end, or one followed by a septet that the extension table
    lacks.
    """
    try:
        if ESCAPE not in septets:
            return codecs.charmap_decode(septets, "strict", _DEFAULT_ALPHABET)[0]
        first, *escaped = septets.split(b"\x1b")
        pieces = [codecs.charmap_decode(first, "strict", _DEFAULT_ALPHABET)[0]]
        for piece in escaped:
            pieces.append(_EXTENSION_TABLE[piece[0]])
            pieces.append(codecs.charmap_decode(piece[1:], "strict", _DEFAULT_ALPHABET)[0])
    except UnicodeDecodeError as error:
        raise ValueError(f"0x{error.object[error.start]:02X} is not a GSM 03.38 character") from None
    except (KeyError, IndexError):
        raise ValueError("an escape is not followed by a character of the GSM 03.38 extension table") from None
    return "".join(pieces)


def decode_body(octets: bytes, encoding: Encoding) -> str:
    """Return the text of a body, of which `encode_body` makes the same octets; strict, like `decode`.

    ValueError, too, for binary, which is no text.
    """
    if encoding is Encoding.GSM:
        return decode(octets)
    if encoding is Encoding.BINARY:
        raise ValueError("a binary body has no text")
    return octets.decode(_CODECS[encoding])


def decode_as_displayed(octets: bytes, alphabet: Alphabet) -> str:
    """Return what a handset displays of a body, which may be a part that begins or ends within a character.

    An escape before a septet that the extension table lacks shows that of the alphabet, two escapes show a space
    (6.2.1.1), one at the end nothing; U+FFFD stands for what can't be decoded. Empty where `alphabet` is no text.
    """
    if not alphabet.is_text:
        return ""
    if alphabet.encoding is not Encoding.GSM:
        return octets.decode(_CODECS[alphabet.encoding], "replace")
    basic_table = _DISPLAYED_CHARACTERS[alphabet.locking_shift]
    extension_table = _SINGLE_SHIFT_TABLES[alphabet.single_shift]
    characters = []
    remaining = iter(octets)
    for octet in remaining:
        if octet != ESCAPE:
            characters.append(basic_table[octet])
        elif (escaped := next(remaining, None)) is not None:
            characters.append(extension_table.get(escaped) or basic_table[escaped])
    return "".join(characters)


def format_content(text: str, body: bytes | None, alphabet: Alphabet) -> str:
    """Return what is shown of a message: its text, or its octets as hexadecimal digits where they are no text.

    Args:
        text: as it is displayed.
        body: its octets, where they were kept.
    """
    return text if body is None or alphabet.is_text else body.hex(" ")


def encode(text: str) -> bytes:
    """Return `text` as unpacked septets, extension characters as two.

    ValueError names the first character that has none.
    """
    try:
        return codecs.charmap_encode(text, "strict", _SEPTETS)[0]
    except UnicodeEncodeError as error:
        raise ValueError(f"{text[error.start]!r} has no place in GSM 03.38") from None


def choose_encoding(text: str) -> Encoding:
    """Return the encoding in which `text` is shortest: GSM if it has all of its characters, otherwise UCS-2."""
    try:
        encode(text)
    except ValueError:
        return Encoding.UCS2
    return Encoding.GSM


def find_non_gsm_characters(text: str) -> str:
    """Return the characters that GSM 03.38 doesn't have, each once, in their order: they make a text UCS-2."""
    return "".join(each for each in dict.fromkeys(text) if choose_encoding(each) is Encoding.UCS2)


def encode_body(text: str, encoding: Encoding) -> bytes:
    """Return `text` as it travels in short_message: unpacked septets, or UTF-16 big endian for UCS-2.

    ValueError where the encoding lacks a character, where a surrogate stands alone, and for binary, which is no text.
    """
    if encoding is Encoding.GSM:
        return encode(text)
    if encoding is Encoding.BINARY:
        raise ValueError("a binary body has no text")
    return text.encode(_CODECS[encoding])


def get_part_capacity(encoding: Encoding, header_octets: int = 0) -> int:
    """Return how many bytes of a body fit into one part, next to a user data header of `header_octets` (including its
    length octet).

    For GSM and ASCII a byte is a septet (160, or 153 with the usual header of six octets), otherwise an octet (140, or
    134). Below 0 where not even the header fits. GSM 03.40, 9.2.3.16.
    """
    octets = _USER_DATA_OCTETS - header_octets
    return octets * 8 // 7 if encoding in _SEVEN_BIT_ENCODINGS else octets


_LONE_PART_CAPACITIES = {each: get_part_capacity(each) for each in Encoding}


def split_body(body: bytes, encoding: Encoding, header_octets: int = CONCATENATION_UDH_OCTETS) -> list[bytes]:
    """Split `body` (without user data header) into its parts.

    One part alone has up to 160 septets, 140 octets or 70 UCS-2 characters; of several, each has up to 153, 134 or 67,
    because of the concatenation header, where that has the usual six octets. An escape and its septet stay together,
    and so does a surrogate pair.
    """
    if len(body) <= _LONE_PART_CAPACITIES[encoding]:
        return [body]
    limit = get_part_capacity(encoding, header_octets)
    pieces = []
    start = 0
    while start < len(body):
        end = min(start + limit, len(body))
        if end < len(body):
            end -= count_incomplete_octets(body[start:end], encoding)
        pieces.append(body[start:end])
        start = end
    return pieces


def count_parts(body: bytes, encoding: Encoding) -> int:
    """Return in how many parts `body` (without user data header) is sent, at least one; see `split_body`."""
    # This runs once a message, and most have one part.
    if len(body) <= _LONE_PART_CAPACITIES[encoding]:
        return 1
    return len(split_body(body, encoding))


def count_incomplete_octets(octets: bytes, encoding: Encoding) -> int:
    """Return how many of the last octets, which begin with a character, are the beginning of one that is not all there:
    an escape, or half of a UTF-16 code unit or of a surrogate pair.
    """
    if encoding is Encoding.GSM:
        # Two escapes are a character (6.2.1.1).
        return (len(octets) - len(octets.rstrip(b"\x1b"))) % 2
    if encoding is Encoding.UCS2:
        half_unit = len(octets) % 2
        last_unit = octets[-2 - half_unit : len(octets) - half_unit]
        return half_unit + (2 if last_unit and 0xD8 <= last_unit[0] <= 0xDB else 0)
    return 0


def pack_septets(septets: bytes, fill_bits: int = 0) -> bytes:
    """Pack `septets`, eight into seven octets, after `fill_bits` zero bits (which follow a user data header).

    ValueError for a byte over 0x7F. GSM 03.38, 6.1.2.1.1.
    """
    bits = 0
    for position, septet in enumerate(septets):
        if septet > 0x7F:
            raise ValueError(f"0x{septet:02X} is not a septet")
        bits |= septet << (7 * position + fill_bits)
    return bits.to_bytes((7 * len(septets) + fill_bits + 7) // 8, "little")


def unpack_septets(octets: bytes, count: int, fill_bits: int = 0) -> bytes:
    """Unpack the first `count` septets of `octets`, after `fill_bits` bits. ValueError if there are fewer.

    The count is needed: eight octets may contain nine septets, or eight and fill bits.
    """
    if 8 * len(octets) < 7 * count + fill_bits:
        raise ValueError(f"{len(octets)} octets do not hold {count} septets")
    bits = int.from_bytes(octets, "little") >> fill_bits
    return bytes((bits >> (7 * position)) & 0x7F for position in range(count))
