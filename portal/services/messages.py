"""Messages: what they are, and the rules for accepting one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from portal import gsm0338
from portal.i18n import N_
from portal.services import prices
from portal.services.directory import AccountConfig
from portal.services.errors import Refused

# SMPP 3.4, 5.2.28: message_state.
ENROUTE, DELIVERED, EXPIRED, DELETED, UNDELIVERABLE, ACCEPTED, UNKNOWN, REJECTED = 1, 2, 3, 4, 5, 6, 7, 8

# What a customer reads as the status of a message ("ptt").
PTT_NONE, PTT_NO_CREDIT, PTT_BLACKLISTED, PTT_PENDING, PTT_EXPIRED, PTT_DELETED = 0, 10, 53, 254, 801, 802

# SMPP 3.4, 5.2.19: data_coding.
GSM, ASCII, LATIN_1, BINARY, UCS2 = 0, 1, 3, 4, 8
ALWAYS = frozenset((GSM, UCS2))
"""The values of data_coding that every account may use."""
BY_SETTING = frozenset((ASCII, LATIN_1, BINARY))
"""Those that an account may be allowed."""

# GSM 03.40, 9.2.3.24.1: a concatenated message counts its parts in one octet.
MOST_PARTS = 255
DAY_MS = 86_400_000
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
    sentence = N_("The text can't be decoded as GSM 03.38.")


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

    `body` is what it carries where that is no text (binary), `subunit` dest_addr_subunit (5.3.2.1: 1 shows it at
    once), `scheduled_at` and `expires_at` are milliseconds, None: now, and VALIDITY_MS.
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
    price_list: Mapping[str, int],
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

    Args:
        price_list: thousandths of a credit a part, by country.
        destination: E.164 digits, with or without a plus.
        esm_class: SMPP 3.4, 5.2.12; only the UDH indicator matters here.
        body: short_message or message_payload, one character a byte for GSM 03.38.
        reference: user_message_reference, given back in the receipt.
        subunit, scheduled_at, expires_at: see `Submit`.
        segment: from sar_*; a UDH that concatenates says so itself.

    Raises:
        InvalidSource, InvalidDestination, UnsupportedDataCoding, NotDecodable, BodyTooLong
    """
    if not account.any_sender and source.removeprefix("+") not in account.senders:
        raise InvalidSource(source=source)
    digits = destination.removeprefix("+")
    country = prices.country_of(digits)
    price = price_list.get(country) if country else None
    if country is None or price is None:
        raise InvalidDestination(destination=destination)
    udh, content = _without_udh(body) if esm_class & _UDH_INDICATOR else (None, body)
    text, parts = _decode(content, len(udh) if udh else 0, data_coding)
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
        data_coding,
        # 5.2.17: bits 0 and 1 ask for the receipt; Kannel sets more (0x11).
        registered_delivery & 0x03,
        reference,
        parts,
        price * parts,
        None,
        subunit,
        _segment(udh) if udh else segment,
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


def _decode(content: bytes, header: int, data_coding: int) -> tuple[str, int]:
    """The text, and in how many parts it travels. A submit with a UDH of its own is one part of a longer message."""
    if data_coding == GSM:
        encoding = gsm0338.Encoding.GSM
        try:
            text = gsm0338.decode(content)
        except ValueError:
            raise NotDecodable() from None
    elif data_coding == UCS2:
        encoding = gsm0338.Encoding.UCS2
        if len(content) % 2:
            raise BodyTooLong()
        # "replace": a lone surrogate is a client's torn emoji; the message goes out as it came, the history shows �.
        text = content.decode("utf-16-be", "replace")
    else:
        raise UnsupportedDataCoding(data_coding=data_coding)
    if header:
        if len(content) > gsm0338.room(encoding, header):
            raise BodyTooLong()
        return text, 1
    parts = gsm0338.part_count(content, encoding)
    if parts > MOST_PARTS:
        raise BodyTooLong()
    return text, parts
