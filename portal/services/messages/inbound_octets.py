"""What carriers send from handsets as octets, and what these mean. Needs no database."""

import re
from typing import NamedTuple

from portal.core import gsm0338
from portal.services.messages.validation import MAX_PARTS, unpack_body
from portal.services.upstreams.settings import GSM_PACKED, OTHER_CHARSETS

BINARY_DATA_CODING = 4
_ASCII_DATA_CODING = 1
# What no text has that is ASCII. Servers made with the package smpp of npm say data_coding 1 and write GSM 03.38.
_NO_ASCII = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
# What one message holds of them (GSM 03.40, 9.2.3.16).
_PACKED_OCTETS, _PACKED_SEPTETS = 140, 160
# So many characters, or octets, fit in MAX_PARTS whatever they are: a part has room for 33 that take two code units.
_SURELY_SHORT = MAX_PARTS * 33


class DecodedContent(NamedTuple):
    """The fields of these names of a `MobileOriginatedMessage`."""

    text: str
    data_coding: int
    body: bytes | None


def unpack_content(content: bytes, charset: str, header_length: int) -> bytes:
    """The content of a message in GSM 03.38 as unpacked septets.

    Args:
        content: what follows a user data header of so many octets.
        charset: an upstream's `receipt_charset`.
    """
    if charset != GSM_PACKED:
        return content
    # Of a longer one each message's octets by themselves: the work grows with the square of their number.
    whole = range(0, max(len(content) - 1, 0) // _PACKED_OCTETS * _PACKED_OCTETS, _PACKED_OCTETS)
    if header_length or not whole:
        return unpack_body(content[:_PACKED_OCTETS], header_length)
    pieces = [gsm0338.unpack_septets(content[start : start + _PACKED_OCTETS], _PACKED_SEPTETS) for start in whole]
    return b"".join(pieces) + unpack_body(content[whole.stop :], 0)


def decode_content(content: bytes, data_coding: int, udh: bytes | None, charset: str) -> DecodedContent:
    """What a content without its user data header means.

    Args:
        content: octets; of GSM 03.38 unpacked septets.
        data_coding: as it came; one that isn't known is binary.
        charset: that of data_coding 0. A text in one that isn't GSM 03.38 gets the data_coding that customers' clients
            read it by.
    """
    if data_coding == 0 and charset in OTHER_CHARSETS:
        text = content.decode(charset, "replace")
        return DecodedContent(text, int(gsm0338.choose_encoding(text)), None)
    if data_coding == _ASCII_DATA_CODING and _NO_ASCII.search(content):
        data_coding = 0
    data_coding = data_coding if data_coding in gsm0338.ENCODINGS else BINARY_DATA_CODING
    try:
        if udh and gsm0338.has_shift_elements(udh):
            raise ValueError("the text is in the table of a national language")
        return DecodedContent(gsm0338.decode_body(content, gsm0338.ENCODINGS[data_coding]), data_coding, None)
    except ValueError:
        text = gsm0338.decode_as_displayed(content, gsm0338.get_alphabet(data_coding, udh))
        return DecodedContent(text, data_coding, content)


def is_too_long(text: str, data_coding: int, body: bytes | None) -> bool:
    """Whether a content, as decoded, has more parts than a handset can send (GSM 03.40, 9.2.3.24.1): a deliver_sm with
    it may be longer than clients read, or than any can be.
    """
    if len(text if body is None else body) <= _SURELY_SHORT:
        return False
    encoding = gsm0338.ENCODINGS[data_coding]
    octets = gsm0338.encode_body(text, encoding) if body is None else body
    return gsm0338.count_parts(octets, encoding) > MAX_PARTS
