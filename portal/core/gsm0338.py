"""GSM 03.38 (now 3GPP TS 23.038): the default alphabet, and how long a text is in parts.

In SMPP a text with data_coding 0 has one septet in each octet, the high bit clear (*unpacked*); a handset gets packed
septets. All functions here take and return the unpacked form unless their docstring says otherwise.
"""

from __future__ import annotations

import codecs
from enum import IntEnum

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
_EXTENSION_SEPTETS = {character: bytes((ESCAPE, septet)) for septet, character in _EXTENSION_TABLE.items()}
_DEFAULT_SEPTETS = {
    ord(character): septet for septet, character in enumerate(_DEFAULT_ALPHABET) if character != _UNDEFINED
}

_USER_DATA_OCTETS = 140  # TP-User-Data of one short message, GSM 03.40, 9.2.3.24
CONCATENATION_UDH_OCTETS = 6
"""Octets of the usual user data header of a part: 05 00 03 reference total number (GSM 03.40, 9.2.3.24.1)."""


class Encoding(IntEnum):
    """The encoding of a body that is sent to a handset; the values are those of SMPP's data_coding (5.2.19)."""

    GSM = 0
    BINARY = 4
    UCS2 = 8


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


def encode(text: str) -> bytes:
    """Return `text` as unpacked septets, extension characters as two.

    ValueError names the first character that has none.
    """
    try:
        return codecs.charmap_encode(text, "strict", _DEFAULT_SEPTETS)[0]
    except UnicodeEncodeError:
        return b"".join(map(_encode_character, text))


def _encode_character(character: str) -> bytes:
    extension = _EXTENSION_SEPTETS.get(character)
    if extension is not None:
        return extension
    try:
        return codecs.charmap_encode(character, "strict", _DEFAULT_SEPTETS)[0]
    except UnicodeEncodeError:
        raise ValueError(f"{character!r} has no place in GSM 03.38") from None


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

    ValueError where GSM lacks a character, where a surrogate stands alone, and for binary, which is no text.
    """
    if encoding is Encoding.GSM:
        return encode(text)
    if encoding is Encoding.UCS2:
        return text.encode("utf-16-be")
    raise ValueError("a binary body has no text")


def get_part_capacity(encoding: Encoding, header_octets: int = 0) -> int:
    """Return how many bytes of a body fit into one part, next to a user data header of `header_octets` (including its
    length octet).

    For GSM a byte is a septet (160, or 153 with the usual header of six octets), otherwise an octet (140, or 134).
    GSM 03.40, 9.2.3.16.
    """
    octets = max(_USER_DATA_OCTETS - header_octets, 0)
    return octets * 8 // 7 if encoding is Encoding.GSM else octets


_LONE_PART_CAPACITIES = {each: get_part_capacity(each) for each in Encoding}


def split_body(body: bytes, encoding: Encoding) -> list[bytes]:
    """Split `body` (without user data header) into its parts.

    One part alone has up to 160 septets, 140 octets or 70 UCS-2 characters; of several, each has up to 153, 134 or 67,
    because of the concatenation header. An escape and its septet stay together, and so does a surrogate pair.
    """
    if len(body) <= _LONE_PART_CAPACITIES[encoding]:
        return [body]
    limit = get_part_capacity(encoding, CONCATENATION_UDH_OCTETS)
    pieces = []
    start = 0
    while start < len(body):
        end = min(start + limit, len(body))
        if end < len(body):
            end -= _count_split_character_bytes(body, end, encoding)
        pieces.append(body[start:end])
        start = end
    return pieces


def count_parts(body: bytes, encoding: Encoding) -> int:
    """Return in how many parts `body` (without user data header) is sent, at least one; see `split_body`."""
    # This runs once a message, and most have one part.
    if len(body) <= _LONE_PART_CAPACITIES[encoding]:
        return 1
    return len(split_body(body, encoding))


def _count_split_character_bytes(body: bytes, end: int, encoding: Encoding) -> int:
    """Return by how many bytes a split at `end` must move back so that it doesn't divide a character."""
    if encoding is Encoding.GSM and body[end - 1] == ESCAPE:
        return 1
    if encoding is Encoding.UCS2 and 0xD8 <= body[end - 2] <= 0xDB:
        return 2
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
