"""Messages from handsets as carriers bring them."""

from typing import Any

import pytest

from portal.core import gsm0338
from portal.services.messages.inbound import InboundItem, MobileOriginatedMessage
from portal.services.messages.inbound_parts import InboundPart
from portal.services.messages.validation import Segment
from portal.services.upstreams.settings import UpstreamSettings
from portal.smsc.protocol.constants import TlvTag
from portal.smsc.protocol.pdu import DeliverSm
from portal.smsc.upstream.smpp_client.deliver_sm import inbound_from_deliver, normalize_number

SAR: dict[int, bytes] = {
    TlvTag.SAR_MSG_REF_NUM: b"\x01\x07",
    TlvTag.SAR_TOTAL_SEGMENTS: b"\x02",
    TlvTag.SAR_SEGMENT_SEQNUM: b"\x01",
}


def read(message: DeliverSm, charset: str = "auto", country: str = "") -> InboundItem:
    return inbound_from_deliver(message, 3, UpstreamSettings(receipt_charset=charset, inbound_country=country))


def build(body: bytes = b"hello", **values: Any) -> DeliverSm:
    return DeliverSm(1, source="393331234567", destination="44555", short_message=body, **values)


@pytest.mark.parametrize(
    ("address", "ton", "country", "number"),
    [
        ("393331234567", 0, "", "393331234567"),
        ("+393331234567", 0, "", "393331234567"),
        ("00393331234567", 0, "", "393331234567"),
        ("3331234567", 2, "", "3331234567"),
        ("48484", 0, "", "48484"),
        ("ACME", 5, "IT", "ACME"),
        ("", 0, "IT", ""),
        # Of Italy, where all have a code, or some have none.
        ("3331234567", 2, "IT", "393331234567"),
        ("3331234567", 0, "IT", "393331234567"),
        ("3912345678", 0, "IT", "393912345678"),
        ("0399123456", 0, "IT", "390399123456"),
        ("393331234567", 0, "IT", "393331234567"),
        ("393331234567", 1, "IT", "393331234567"),
        ("+3331234567", 0, "IT", "3331234567"),
        ("447700900123", 0, "IT", "447700900123"),
        ("48484", 0, "IT", "48484"),
        ("48484", 3, "IT", "48484"),
        # Of Germany, in small letters, too, where a 0 stands in front of the national number.
        ("01711234567", 2, "de", "491711234567"),
        ("01711234567", 0, "DE", "491711234567"),
        ("1711234567", 2, "DE", "491711234567"),
        ("491711234567", 0, "DE", "491711234567"),
        # What can't be a number of that country stays.
        ("99", 2, "DE", "99"),
    ],
)
def test_numbers_are_kept_as_all_others_are(address, ton, country, number):
    assert normalize_number(address, ton, country) == number


def test_both_numbers_of_a_message_are():
    message = DeliverSm(1, source="01711234567", destination="0305550123", source_ton=2, dest_ton=2, short_message=b"x")
    inbound = read(message, country="DE")
    assert (inbound.source, inbound.destination) == ("491711234567", "49305550123")


def test_a_lone_message():
    assert read(build()) == MobileOriginatedMessage("393331234567", "44555", "hello", 0, upstream=3)
    assert read(build(b"a\xe7o"), "latin-1") == MobileOriginatedMessage("393331234567", "44555", "aço", 8, upstream=3)


@pytest.mark.parametrize(
    ("header", "segment"),
    [
        (bytes((5, 0, 3, 7, 2, 1)), Segment(7, 2, 1)),
        (bytes((6, 8, 4, 1, 7, 3, 2)), Segment(263, 3, 2)),
        (bytes((11, 5, 4, 1, 2, 3, 4, 0, 3, 7, 2, 1)), Segment(7, 2, 1)),
    ],
)
def test_a_part_by_its_header(header, segment):
    part = read(build(header + b"hello", esm_class=0x40))
    assert part == InboundPart("393331234567", "44555", 3, segment, 0, "auto", header, b"hello")


def test_a_part_by_its_tlvs():
    assert read(build(tlvs=SAR)) == InboundPart(
        "393331234567", "44555", 3, Segment(263, 2, 1), 0, "auto", None, b"hello"
    )


@pytest.mark.parametrize(
    ("header", "tlvs"),
    [
        (bytes((5, 0, 3, 7, 1, 1)), {}),
        (bytes((5, 0, 3, 7, 2, 3)), {}),
        (bytes((5, 0, 3, 7, 2, 0)), {}),
        (bytes((6, 5, 4, 1, 2, 3, 4)), {}),
        (b"", {TlvTag.SAR_MSG_REF_NUM: b"\0\7"}),
        (b"", {TlvTag.SAR_MSG_REF_NUM: b"\0\7", TlvTag.SAR_TOTAL_SEGMENTS: b"\1", TlvTag.SAR_SEGMENT_SEQNUM: b"\1"}),
        (b"", {TlvTag.SAR_TOTAL_SEGMENTS: b"\xff\xff", TlvTag.SAR_SEGMENT_SEQNUM: b"\1"}),
        (b"", SAR | {TlvTag.SAR_MSG_REF_NUM: b"\1\0\0"}),
        (b"", SAR | {TlvTag.SAR_MSG_REF_NUM: b"\xff" * 8}),
        (b"", SAR | {TlvTag.SAR_MSG_REF_NUM: b"\7"}),
        (b"", SAR | {TlvTag.SAR_TOTAL_SEGMENTS: b"\0\2"}),
        (b"", SAR | {TlvTag.SAR_SEGMENT_SEQNUM: b"\0\1"}),
        # Its header has no room for the place of the part.
        (bytes((250, 0x70, 248)) + bytes(248), SAR),
    ],
)
def test_what_is_no_part(header, tlvs):
    message = read(build(header + b"hello", esm_class=0x40 if header else 0, tlvs=tlvs))
    assert isinstance(message, MobileOriginatedMessage)
    assert (message.text, message.udh) == ("hello", header or None)


def test_a_part_in_utf_8_has_up_to_two_octets_a_septet():
    header = bytes((5, 0, 3, 7, 2, 1))
    content = ("è" * 153).encode()
    part = read(build(b"", esm_class=0x40, tlvs={TlvTag.MESSAGE_PAYLOAD: header + content}), "utf-8")
    assert isinstance(part, InboundPart)
    assert part.content == content


@pytest.mark.parametrize(("number", "opening"), [(1, None), (2, "")])
def test_what_no_handset_can_send_as_a_part_is_none_and_the_beginning_says_whose_it_is(number, opening):
    header = bytes((5, 0, 3, 7, 2, number))
    tlvs: dict[int, bytes] = {TlvTag.MESSAGE_PAYLOAD: header + b"x" * 321}
    message = read(build(b"", esm_class=0x40, tlvs=tlvs))
    assert isinstance(message, MobileOriginatedMessage)
    assert message.opening == opening


def test_packed_parts_are_unpacked_behind_their_headers():
    header = bytes((5, 0, 3, 7, 2, 1))
    part = read(build(header + gsm0338.pack_septets(b"hello", 1), esm_class=0x40), "gsm-packed")
    assert isinstance(part, InboundPart)
    assert part.content == b"hello"
