"""Messages: what they are, and the rules for accepting one."""

from dataclasses import dataclass
from typing import NamedTuple

from portal.core import gsm0338
from portal.core.clock import DAY_MS
from portal.core.i18n import N_
from portal.services.accounts.accounts import ASCII, BINARY
from portal.services.common.errors import Refused
from portal.services.messages.smpp_config import AccountConfig
from portal.services.prices.prices import PriceList

# SMPP 3.4, 5.2.19: the values of data_coding that every account may use.
GSM, UCS2 = 0, 8

# GSM 03.40, 9.2.3.24.1: a concatenated message counts its parts in one octet.
MOST_PARTS = 255
DELIVERIES_VALID_MS = 7 * DAY_MS
"""How long what waits for an account's receivers is kept."""
VALIDITY_MS = 3 * DAY_MS
"""The validity of a message whose client names none."""
_UDH_INDICATOR = 0x40
_CONCATENATION_8_BIT, _CONCATENATION_16_BIT = 0x00, 0x08


class InvalidSource(Refused):
    sentence = N_("The sender %(source)s isn't allowed for this account.")


class InvalidDestination(Refused):
    sentence = N_("%(destination)s isn't a number that messages can be sent to.")


class UnsupportedDataCoding(Refused):
    sentence = N_("data_coding %(data_coding)s isn't supported: use 0 (GSM 03.38) or 8 (UCS-2).")


class NotDecodable(Refused):
    sentence = N_("The text can't be decoded as its data_coding says.")


class BodyTooLong(Refused):
    sentence = N_("The text is too long.")


class Segment(NamedTuple):
    """The place of a message in a text that its client has cut up itself (GSM 03.40, 9.2.3.24.1; SMPP 3.4, 5.3.2.22).

    `number` counts from 1.
    """

    reference: int
    total: int
    number: int


# What there is one of for each message isn't frozen: that would make it five times as dear to make.
@dataclass(slots=True)
class Submit:
    """A message that obeys every rule but those that only the database knows: credits, blacklist.

    `data_coding` is the one it goes on in: GSM, UCS2 or BINARY. `body` is what it carries where `text` can't say it:
    binary, and UCS-2 that begins or ends within a character. `subunit` is dest_addr_subunit (5.3.2.1: 1 shows it at
    once). `scheduled_at` and `expires_at` are milliseconds, None: now, and VALIDITY_MS. `session_id`: which
    session it came from, if from any.
    """

    account_id: int
    source: str
    source_ton: int
    source_npi: int
    destination: str
    country: str
    text: str
    udh: bytes | None
    data_coding: int
    registered_delivery: int
    reference: int | None
    parts: int
    price: int
    body: bytes | None = None
    subunit: int | None = None
    segment: Segment | None = None
    scheduled_at: int | None = None
    expires_at: int | None = None
    session_id: int | None = None


@dataclass(slots=True)
class ToSend:
    """What an upstream needs of a message; the fields are those of `Submit`."""

    id: int
    account_id: int
    source: str
    destination: str
    text: str
    udh: bytes | None
    data_coding: int
    body: bytes | None = None
    subunit: int | None = None
    segment: Segment | None = None


def prepare(
    account: AccountConfig,
    price_list: PriceList,
    *,
    source: str,
    source_ton: int,
    source_npi: int,
    destination: str,
    esm_class: int,
    data_coding: int,
    registered_delivery: int,
    body: bytes,
    reference: int | None = None,
    subunit: int | None = None,
    segment: Segment | None = None,
    scheduled_at: int | None = None,
    expires_at: int | None = None,
) -> Submit:
    """Check a submit against the account's rules, decode it and price it. Pure: nothing is stored.

    Latin-1 and ASCII go on as GSM 03.38 where each character has a place there, else as UCS-2: that is the data_coding
    of the result, and what its parts are counted by.

    Args:
        price_list: the account's.
        destination: E.164 digits, with or without a plus.
        esm_class: SMPP 3.4, 5.2.12; only the UDH indicator matters here.
        body: short_message or message_payload; GSM 03.38 as the account's `packed_gsm` says.
        reference: user_message_reference, given back in the receipt.
        subunit, scheduled_at, expires_at: see `Submit`.
        segment: from sar_*; a UDH that concatenates says so itself.

    Raises:
        InvalidSource, InvalidDestination, UnsupportedDataCoding, NotDecodable, BodyTooLong
    """
    if not account.any_sender and source.removeprefix("+") not in account.senders:
        raise InvalidSource(source=source)
    digits = destination.removeprefix("+")
    priced = price_list.of(digits)
    if priced is None:
        raise InvalidDestination(destination=destination)
    country, price = priced
    udh, content = _without_udh(body) if esm_class & _UDH_INDICATOR else (None, body)
    if udh:
        segment = _segment(udh) or segment
    if segment and segment.total == 1:
        segment = None
    text, coded, encoding = _decode(account, content, len(udh) if udh else 0, data_coding)
    parts = _part_count(coded, encoding, len(udh) if udh else gsm0338.CONCATENATION_OCTETS if segment else 0)
    if scheduled_at is not None and expires_at is None:
        expires_at = scheduled_at + VALIDITY_MS
    return Submit(
        account.id,
        source,
        source_ton,
        source_npi,
        digits,
        country,
        text,
        udh,
        int(encoding),
        # 5.2.17: bits 0 and 1 ask for the receipt; Kannel sets more (0x11).
        registered_delivery & 0x03,
        reference,
        parts,
        price * parts,
        # A lone surrogate is a client's torn emoji: it goes out as it came, though the text alone would show �.
        coded if encoding is gsm0338.Encoding.BINARY or "\ufffd" in text else None,
        subunit,
        segment,
        scheduled_at,
        expires_at,
    )


def _without_udh(body: bytes) -> tuple[bytes, bytes]:
    """Split off the user data header, whose first octet is its length (GSM 03.40, 9.2.3.24)."""
    if not body or body[0] + 1 > len(body):
        raise BodyTooLong()
    end = body[0] + 1
    return body[:end], body[end:]


def _segment(udh: bytes) -> Segment | None:
    """What a user data header says of concatenation, None where it says nothing that makes sense."""
    at = 1
    while at + 1 < len(udh):
        kind, length = udh[at], udh[at + 1]
        value = udh[at + 2 : at + 2 + length]
        if (kind, len(value)) in ((_CONCATENATION_8_BIT, 3), (_CONCATENATION_16_BIT, 4)):
            *reference, total, number = value
            if 1 <= number <= total:
                return Segment(int.from_bytes(bytes(reference)), total, number)
        at += 2 + length
    return None


def _decode(
    account: AccountConfig, content: bytes, header: int, data_coding: int
) -> tuple[str, bytes, gsm0338.Encoding]:
    """The text, and its octets in the encoding in which they go on; binary has no text.

    `header` is the length of the user data header.
    """
    if data_coding == GSM:
        septets = _unpacked(content, header) if account.packed_gsm else content
        try:
            return gsm0338.decode(septets), septets, gsm0338.Encoding.GSM
        except ValueError:
            raise NotDecodable() from None
    if data_coding == UCS2:
        if len(content) % 2:
            raise BodyTooLong()
        return content.decode("utf-16-be", "replace"), content, gsm0338.Encoding.UCS2
    if data_coding not in account.data_codings:
        raise UnsupportedDataCoding(data_coding=data_coding)
    if data_coding == BINARY:
        return "", content, gsm0338.Encoding.BINARY
    try:
        text = content.decode("ascii" if data_coding == ASCII else "latin-1")
    except UnicodeDecodeError:
        raise NotDecodable() from None
    encoding = gsm0338.choose(text)
    return text, gsm0338.to_body(text, encoding), encoding


def _unpacked(octets: bytes, header: int) -> bytes:
    """Septets that came packed after a user data header, which ends within a septet (GSM 03.40, 9.2.3.24)."""
    fill_bits = -8 * header % 7
    count, left_over = divmod(max(8 * len(octets) - fill_bits, 0), 7)
    septets = gsm0338.unpack(octets, count, fill_bits)
    # Over SMPP octets are counted, not septets: where seven bits are left over, they make one more @, or are filling.
    # One text in eight ends with such filling, and hardly any with an @ just there.
    if septets and not left_over and septets[-1] == 0:
        return septets[:-1]
    return septets


def _part_count(coded: bytes, encoding: gsm0338.Encoding, header: int) -> int:
    """In how many parts a body travels. One with a header is itself a part of something longer."""
    if header:
        if len(coded) > gsm0338.room(encoding, header):
            raise BodyTooLong()
        return 1
    parts = gsm0338.part_count(coded, encoding)
    if parts > MOST_PARTS:
        raise BodyTooLong()
    return parts
