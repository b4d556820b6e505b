"""Submitted messages, and the rules for accepting one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from portal.core import gsm0338
from portal.core.clock import DAY_MS
from portal.core.i18n import N_
from portal.services.accounts.accounts import NATIONAL_IGNORED, NATIONAL_REFUSED
from portal.services.brakes import brakes
from portal.services.common.addresses import normalize_address
from portal.services.common.errors import Refused
from portal.services.messages.message_parts import CutText
from portal.services.messages.smpp_config import AccountConfig
from portal.services.prices import countries
from portal.services.prices.prices import PriceList
from portal.services.routing.route_usage import RouteUse
from portal.services.upstreams.paths import DEFAULT_PATH, UpstreamPath

# GSM 03.40, 9.2.3.24.1: a concatenated message counts its parts in one octet.
MAX_PARTS = 255
DELIVERY_VALIDITY_MS = 7 * DAY_MS
"""How long receipts and messages from handsets (MO) wait for an account's receivers before they are given up."""
DEFAULT_VALIDITY_MS = 3 * DAY_MS
"""How long a message without a validity_period is valid."""
MAX_TLV_OCTETS = 255
"""A longer value of an optional parameter is not passed on."""
_UDH_INDICATOR = 0x40
# SMPP 3.4, 5.2.5.
_TON_NATIONAL = 2
# For what is done once a message: to find a member by its class takes a tenth of a microsecond.
_GSM_ENCODING, _UCS2_ENCODING = gsm0338.Encoding.GSM, gsm0338.Encoding.UCS2
_ENCODINGS = gsm0338.ENCODINGS
_CONCATENATION_8_BIT, _CONCATENATION_16_BIT = 0x00, 0x08
_CONCATENATION_ELEMENT_OCTETS = gsm0338.CONCATENATION_UDH_OCTETS - 1
_ADDED_OCTETS = 6


class InvalidSource(Refused):
    sentence = N_("The sender %(source)s isn't allowed for this account.")


class InvalidDestination(Refused):
    sentence = N_("%(destination)s isn't a number that messages can be sent to.")


class DestinationWithoutPrice(InvalidDestination):
    """`country`: the number's, an ISO 3166 code."""

    def __init__(self, destination: str, country: str) -> None:
        super().__init__(destination=destination)
        self.country = country


class NationalDestination(Refused):
    sentence = N_("%(destination)s is a national number (TON 2), which this account may not send to.")


class CountryNotAllowed(Refused):
    sentence = brakes.COUNTRY_TEXT

    def __init__(self, country: str, name: str = "") -> None:
        """Args: `country`: its code; `name`: in the language in use."""
        super().__init__(country=name or country)
        self.country = country


class UnsupportedDataCoding(Refused):
    sentence = N_("data_coding %(data_coding)s isn't supported: use 0 (GSM 03.38) or 8 (UCS-2).")


class UndecodableText(Refused):
    sentence = N_("The text can't be decoded as its data_coding says.")


class BodyTooLong(Refused):
    sentence = N_("The text is too long.")


class Segment(NamedTuple):
    """The place of a segment in a text that its client has split. `number` counts from 1.

    GSM 03.40, 9.2.3.24.1; SMPP 3.4, 5.3.2.22.
    """

    reference: int
    total: int
    number: int


# Not frozen, because one is created for each message: frozen instances take five times as long to create. Two are the
# same only where they are one, so that looking for one among many compares no fields.
@dataclass(slots=True, eq=False)
class SubmittedMessage:
    """A message that was checked, except for what only the database knows: credits and blacklist.

    `data_coding` is the client's (`gsm0338.ENCODINGS`). `body` has the content where it can't be made of `text` again:
    binary, a part that begins or ends within a character, national languages' tables. `subunit` is dest_addr_subunit
    (5.3.2.1; 1: displayed at once). `scheduled_at`, `expires_at`: milliseconds; None: send it now, and
    DEFAULT_VALIDITY_MS. `session_id`: the session that it came from, if any. `id`: 0 until it is stored; then an
    upstream gets it. `needs_hex_id`: its client needs another id, of eight hexadecimal digits: `hex_id`, None until it
    is stored. `priority`: priority_flag (5.2.14). `upstream`: the one that has it, or has room for it; None: none has,
    and where not `is_queued` the built-in simulator takes it, or its date is still to come. `is_simulated`: that is a
    simulator added by name. `path`: where it `is_queued`, what it waits for. `is_retry`: it was refused for the moment,
    or not answered, before. `cut`: what an upstream has of it already, where that is a part. `tlvs`: optional
    parameters to pass on as they came, by their tags. `use`: the route by which it goes out, once an upstream has it.
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
    id: int = 0
    needs_hex_id: bool = False
    hex_id: int | None = None
    priority: int = 0
    upstream: int | None = None
    is_simulated: bool = False
    is_queued: bool = False
    path: UpstreamPath = DEFAULT_PATH
    is_retry: bool = False
    cut: CutText | None = None
    tlvs: Mapping[int, bytes] | None = None
    use: RouteUse | None = None


_ENCODING_LABELS = {
    gsm0338.Encoding.GSM: "GSM 03.38",
    gsm0338.Encoding.ASCII: "ASCII",
    gsm0338.Encoding.LATIN_1: "Latin-1",
    gsm0338.Encoding.BINARY: N_("Binary"),
    gsm0338.Encoding.UCS2: "UCS-2",
}


def get_encoding_label(data_coding: int) -> str:
    """The name of the encoding that a data_coding names, in English; a key of the translations."""
    return _ENCODING_LABELS[gsm0338.get_alphabet(data_coding, None).encoding]


class SubmittedPdu(Protocol):
    """What `validate_submit` needs of a submit_sm or data_sm (SMPP 3.4, 4.4.1, 4.7.1)."""

    source: str
    source_ton: int
    source_npi: int
    destination: str
    dest_ton: int
    esm_class: int
    data_coding: int
    registered_delivery: int

    @property
    def body(self) -> bytes:
        """short_message or message_payload."""


def validate_submit(
    account: AccountConfig,
    price_list: PriceList,
    message: SubmittedPdu,
    *,
    reference: int | None = None,
    subunit: int | None = None,
    segment: Segment | None = None,
    scheduled_at: int | None = None,
    expires_at: int | None = None,
) -> SubmittedMessage:
    """Check a submit_sm against the account's rules, decode its text and calculate its price. Nothing is stored.

    A part of a longer text is not refused for what only the whole of it can tell: its octets are kept as they came.

    Args:
        price_list: the account's.
        message: of its esm_class only the UDH indicator matters here (5.2.12); GSM 03.38 is as the account's
            `packed_gsm` says.
        reference: user_message_reference, repeated in the receipt.
        subunit, scheduled_at, expires_at: see `SubmittedMessage`.
        segment: from the sar_* parameters; a concatenation header in the UDH comes before it.

    Raises:
        InvalidSource, InvalidDestination, DestinationWithoutPrice, NationalDestination, CountryNotAllowed,
        UnsupportedDataCoding, UndecodableText, BodyTooLong
    """
    source, data_coding, content, udh = message.source, message.data_coding, message.body, None
    check_source(account, source)
    destination, country, price = find_destination(account, price_list, message.destination, message.dest_ton)
    if message.esm_class & _UDH_INDICATOR:
        # GSM 03.40, 9.2.3.24: the first octet of the header is its length.
        if not content or content[0] + 1 > len(content):
            raise BodyTooLong()
        udh, content = content[: content[0] + 1], content[content[0] + 1 :]
    if segment and segment.total == 1:
        segment = None
    header_octets = gsm0338.CONCATENATION_UDH_OCTETS if segment else 0
    if udh:
        concatenation = parse_concatenation(udh)
        # What sar_* say of a segment will be an element of its header.
        header_octets = len(udh) + (_CONCATENATION_ELEMENT_OCTETS if segment and not concatenation else 0)
        segment = concatenation or segment
    text, encoded, encoding, kept_octets = _decode_text(account, content, udh, data_coding, segment)
    parts = _count_parts(encoded, encoding, header_octets)
    if scheduled_at is not None and expires_at is None:
        expires_at = scheduled_at + DEFAULT_VALIDITY_MS
    return SubmittedMessage(
        account.id,
        source,
        message.source_ton,
        message.source_npi,
        destination,
        country,
        text,
        udh,
        data_coding,
        # 5.2.17: bits 0 and 1 ask for the receipt; Kannel sets more (0x11).
        message.registered_delivery & 0x03,
        reference,
        parts,
        price * parts,
        kept_octets,
        subunit,
        segment,
        scheduled_at,
        expires_at,
    )


def check_source(account: AccountConfig, source: str) -> None:
    """Raises: InvalidSource: the account may not send from this address."""
    if not account.any_sender and source not in account.senders and normalize_address(source) not in account.senders:
        raise InvalidSource(source=source)


def find_destination(
    account: AccountConfig, price_list: PriceList, destination: str, ton: int = 0
) -> tuple[str, str, int]:
    """Return a destination address as `read_destination` does, the number's country, and the price of a part.

    Raises:
        InvalidDestination, DestinationWithoutPrice, NationalDestination, CountryNotAllowed
    """
    digits = destination
    found = None if ton == _TON_NATIONAL else price_list.find_price(digits)
    if found is None:
        # No number begins with a plus or 0, so this is seldom.
        digits = read_destination(account, destination, ton)
        if digits != destination or ton == _TON_NATIONAL:
            found = price_list.find_price(digits)
    if found is None:
        country = countries.find_country(digits)
        if country is None:
            raise InvalidDestination(destination=destination)
        raise DestinationWithoutPrice(destination, country)
    if account.countries is not None and found[0] not in account.countries:
        raise CountryNotAllowed(found[0])
    return digits, *found


def keep_tlvs(tlvs: Mapping[int, bytes], tags: Collection[int]) -> Mapping[int, bytes] | None:
    """Return those of a message's optional parameters that have one of these tags and no long value; None: there are
    none.
    """
    return {tag: tlvs[tag] for tag in tags if tag in tlvs and len(tlvs[tag]) <= MAX_TLV_OCTETS} or None


def is_same_address(first: str, second: str) -> bool:
    """Whether two addresses are the same, however they are written."""
    return normalize_address(first) == normalize_address(second)


def read_destination(account: AccountConfig, destination: str, ton: int) -> str:
    """Return a destination address as E.164 digits, as messages keep it, by the account's rules; that there is such a
    number is not checked.

    Args:
        destination: digits, country code first, also behind a plus or 00; or national ones.
        ton: its type of number (SMPP 3.4, 5.2.5). Only 2 may mean something (`Account.national_numbers`); where that
            is a country, not beside a plus or 00, which say that the number is an international one.

    Raises:
        NationalDestination: TON 2, which the account refuses.
    """
    digits = normalize_address(destination)
    if ton != _TON_NATIONAL or account.national_numbers == NATIONAL_IGNORED:
        return digits
    if account.national_numbers == NATIONAL_REFUSED:
        raise NationalDestination(destination=destination)
    return digits if digits != destination else countries.expand_national_number(digits, account.national_numbers)


def parse_concatenation(udh: bytes) -> Segment | None:
    """Find the concatenation element of a user data header; None: it has none, an invalid one, or is not of a part."""
    for identifier, value in gsm0338.iterate_udh_elements(udh):
        if (identifier, len(value)) in ((_CONCATENATION_8_BIT, 3), (_CONCATENATION_16_BIT, 4)):
            *reference, total, number = value
            if 1 <= number <= total and total > 1:
                return Segment(int.from_bytes(bytes(reference)), total, number)
    return None


def has_room_for_concatenation(udh: bytes | None) -> bool:
    """Whether `add_concatenation` can be asked about a user data header: its length is one octet."""
    return not udh or udh[0] + _ADDED_OCTETS <= 255 or parse_concatenation(udh) is not None


def add_concatenation(udh: bytes, segment: Segment) -> bytes:
    """A user data header with the element that gives a segment's place; the same one where it has it already."""
    if parse_concatenation(udh) is not None:
        return udh
    element = bytes((_CONCATENATION_16_BIT, 4)) + segment.reference.to_bytes(2) + bytes((segment.total, segment.number))
    return bytes((udh[0] + len(element),)) + udh[1:] + element


def _decode_text(
    account: AccountConfig, content: bytes, udh: bytes | None, data_coding: int, segment: Segment | None
) -> tuple[str, bytes, gsm0338.Encoding, bytes | None]:
    """Return the text, its octets (GSM: unpacked), their encoding, and the octets again where the text doesn't say them
    all.
    """
    encoding = _ENCODINGS.get(data_coding)
    if encoding is _GSM_ENCODING:
        if account.packed_gsm:
            content = unpack_body(content, len(udh) if udh else 0)
    elif encoding is None or (encoding is not _UCS2_ENCODING and encoding not in account.data_codings):
        raise UnsupportedDataCoding(data_coding=data_coding)
    if not (udh and encoding is _GSM_ENCODING and gsm0338.has_shift_elements(udh)):
        try:
            return gsm0338.decode_body(content, encoding), content, encoding, None
        except ValueError:
            pass
    if segment is None:
        _check_whole_text(content, encoding)
    text = gsm0338.decode_as_displayed(content, gsm0338.get_alphabet(data_coding, udh))
    return text, content, encoding, content


def _check_whole_text(content: bytes, encoding: gsm0338.Encoding) -> None:
    if encoding is _UCS2_ENCODING:
        if len(content) % 2:
            raise BodyTooLong()
    elif encoding is not gsm0338.Encoding.BINARY and (
        not content.isascii() or gsm0338.count_incomplete_octets(content, encoding)
    ):
        raise UndecodableText()


def unpack_body(octets: bytes, udh_length: int) -> bytes:
    """Unpack septets that follow a user data header, which may end within a septet (GSM 03.40, 9.2.3.24)."""
    if not octets:
        return b""
    fill_bits = -8 * udh_length % 7
    count, spare_bits = divmod(max(8 * len(octets) - fill_bits, 0), 7)
    septets = gsm0338.unpack_septets(octets, count, fill_bits)
    # SMPP gives the length in octets, not septets: seven zero bits at the end are one more @, or fill bits. One text in
    # eight ends with such fill bits, and hardly any with an @ at that place.
    if septets and not spare_bits and septets[-1] == 0:
        return septets[:-1]
    return septets


def _count_parts(encoded: bytes, encoding: gsm0338.Encoding, header_octets: int) -> int:
    """Count the parts in which a body is sent. One with a header is itself a part of something longer."""
    if header_octets:
        if len(encoded) > gsm0338.get_part_capacity(encoding, header_octets):
            raise BodyTooLong()
        return 1
    parts = gsm0338.count_parts(encoded, encoding)
    if parts > MAX_PARTS:
        raise BodyTooLong()
    return parts
