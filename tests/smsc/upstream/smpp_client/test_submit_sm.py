"""What a carrier gets of a message."""

from typing import Any

import pytest

from portal.core import gsm0338
from portal.core.clock import DAY_MS
from portal.services.messages.validation import Segment
from portal.services.upstreams.settings import UpstreamSettings
from portal.smsc.protocol.constants import TlvTag
from portal.smsc.protocol.pdu import SubmitSm
from portal.smsc.upstream.smpp_client.submit_sm import build_submit_sm, split_text
from tests.support import prepare_submit

NOW = 1_800_000_000_000


@pytest.fixture
def build(conn, cast):
    """Builds the submit_sm of a message: of a client's fields, and the upstream's settings."""
    conn.execute("UPDATE accounts SET any_sender = 1, data_codings = '1 3 4'")

    def build_from(body: bytes = b"hello", settings: dict[str, Any] | None = None, **fields: Any) -> SubmitSm:
        submit = prepare_submit(conn, cast.smpp_acme_1.id, body, **fields)
        upstream_settings = UpstreamSettings(**settings or {})
        return build_submit_sm(submit, split_text(submit, upstream_settings), upstream_settings, NOW)

    return build_from


@pytest.mark.parametrize(
    ("source", "sent", "ton", "npi"),
    [
        ("ACME", "ACME", 5, 0),
        ("+ACME", "+ACME", 5, 0),
        ("48484", "48484", 3, 1),
        ("393331234567", "393331234567", 1, 1),
        ("+393331234567", "393331234567", 1, 1),
        ("00393331234567", "393331234567", 1, 1),
        ("", "", 0, 0),
    ],
)
def test_a_sender_s_ton_and_npi_are_those_of_its_kind(build, source, sent, ton, npi):
    submit = build(source=source)
    assert (submit.source, submit.source_ton, submit.source_npi) == (sent, ton, npi)


def test_ton_and_npi_as_the_carrier_wants_them(build):
    submit = build(settings={"source_ton": 0, "source_npi": 9, "dest_ton": 2, "dest_npi": 8})
    assert (submit.source_ton, submit.source_npi, submit.dest_ton, submit.dest_npi) == (0, 9, 2, 8)


@pytest.mark.parametrize(("number_format", "prefix"), [("none", ""), ("plus", "+"), ("00", "00")])
def test_numbers_have_in_front_what_the_carrier_wants(build, number_format, prefix):
    submit = build(source="+393331234567", settings={"number_format": number_format})
    assert (submit.source, submit.destination) == (f"{prefix}393331234567", f"{prefix}393401234567")
    # A short code has no country code.
    assert build(source="48484", settings={"number_format": number_format}).source == "48484"


@pytest.mark.parametrize(
    ("data_coding", "body"),
    [
        (0, b"\x00\x02 \x1b\x65"),
        (8, "€ß".encode("utf-16-be")),
        (3, b"caf\xe9"),
        (1, b"ascii"),
        (4, b"\x00\xff"),
        (0x10, b"x"),
    ],
)
def test_texts_go_on_octet_by_octet(build, data_coding, body):
    submit = build(body, data_coding=data_coding)
    assert (submit.data_coding, submit.short_message, submit.esm_class) == (data_coding, body, 0)


def test_a_part_with_its_header_goes_on_as_it_came(build):
    body = bytes.fromhex("050003AB0201") + b"part one"
    submit = build(body, esm_class=0x43)
    assert (submit.esm_class, submit.short_message, submit.tlvs) == (0x40, body, {})


def test_a_part_that_sar_names_has_sar(build):
    submit = build(segment=Segment(300, 3, 2))
    assert submit.tlvs == {
        TlvTag.SAR_MSG_REF_NUM: (300).to_bytes(2),
        TlvTag.SAR_TOTAL_SEGMENTS: b"\x03",
        TlvTag.SAR_SEGMENT_SEQNUM: b"\x02",
    }


def test_sar_beside_another_header_becomes_an_element_of_it(build):
    submit = build(bytes.fromhex("0605040B8423F0") + b"port", esm_class=0x40, segment=Segment(300, 3, 2))
    assert submit.short_message == bytes.fromhex("0C05040B8423F00804012C0302") + b"port"
    assert submit.tlvs == {}


@pytest.fixture
def build_all(conn, cast):
    """Builds all submit_sm of a text: of its octets, and the upstream's settings."""

    def build_from(body: bytes, **settings: Any) -> list[SubmitSm]:
        submit = prepare_submit(conn, cast.smpp_acme_1.id, body)
        upstream_settings = UpstreamSettings(**settings)
        outgoing = split_text(submit, upstream_settings)
        numbers = range(1, len(outgoing.pieces) + 1)
        return [build_submit_sm(submit, outgoing, upstream_settings, NOW, each, 0xABCD) for each in numbers]

    return build_from


def test_a_text_of_more_parts_than_a_header_can_count_goes_as_message_payload(build_all):
    text = b"x" * 255 * 153
    assert len(build_all(text, long_texts="udh8")) == 255
    (submit,) = build_all(text, long_texts="udh16")
    assert (submit.short_message, submit.tlvs) == (b"", {TlvTag.MESSAGE_PAYLOAD: text})


def test_a_text_of_several_parts_goes_as_message_payload_where_that_is_set(build_all):
    (submit,) = build_all(b"x" * 200, long_texts="payload")
    assert (submit.short_message, submit.tlvs) == (b"", {TlvTag.MESSAGE_PAYLOAD: b"x" * 200})


def test_a_text_of_several_parts_is_cut_and_each_part_says_its_place(build_all):
    first, second = build_all(b"x" * 153 + b"y" * 47)
    assert {each.esm_class for each in (first, second)} == {0x40}
    assert first.short_message == bytes((5, 0, 3, 0xCD, 2, 1)) + b"x" * 153
    assert second.short_message == bytes((5, 0, 3, 0xCD, 2, 2)) + b"y" * 47
    assert build_all(b"x" * 160)[0].esm_class == 0


def test_a_text_is_numbered_in_16_bits(build_all):
    first, second = build_all(b"x" * 200, long_texts="udh16")
    assert first.short_message == bytes((6, 8, 4, 0xAB, 0xCD, 2, 1)) + b"x" * 152
    assert second.short_message == bytes((6, 8, 4, 0xAB, 0xCD, 2, 2)) + b"x" * 48


def test_a_text_is_numbered_by_sar(build_all):
    first, second = build_all(b"x" * 200, long_texts="sar")
    assert (first.esm_class, first.short_message, second.short_message) == (0, b"x" * 153, b"x" * 47)
    assert [each.tlvs[TlvTag.SAR_MSG_REF_NUM] for each in (first, second)] == [b"\xab\xcd"] * 2
    assert [each.tlvs[TlvTag.SAR_SEGMENT_SEQNUM] for each in (first, second)] == [b"\1", b"\2"]
    assert first.tlvs[TlvTag.SAR_TOTAL_SEGMENTS] == b"\2"


def test_parts_are_packed_each_behind_its_header(build_all):
    parts = build_all(b"x" * 153 + b"y" * 47, charset="gsm-packed")
    assert len(parts[0].short_message) == 140
    assert parts[1].short_message[6:] == gsm0338.pack_septets(b"y" * 47, 1)


def test_what_a_client_has_cut_is_not_cut_again(build_all, build):
    part = bytes.fromhex("050003AB0201") + b"x" * 153
    assert build(part, esm_class=0x40, settings={"long_texts": "sar"}).short_message == part
    (alone,) = build_all(b"x" * 160)
    assert (alone.short_message, alone.tlvs) == (b"x" * 160, {})


def test_optional_parameters_that_the_carrier_wants(build):
    settings = {"tlvs": "0x1400=0a0B 1401="}
    assert build(subunit=1, settings=settings).tlvs == {
        0x1400: b"\x0a\x0b",
        0x1401: b"",
        TlvTag.DEST_ADDR_SUBUNIT: b"\x01",
    }
    assert build(b"x" * 200, settings=settings).tlvs.keys() == {0x1400, 0x1401}
    # What the message says of itself stays.
    assert build(subunit=1, settings={"tlvs": "0005=03"}).tlvs == {TlvTag.DEST_ADDR_SUBUNIT: b"\x01"}


def test_a_text_that_is_to_be_displayed_at_once_says_so(build):
    assert build(subunit=1).tlvs == {TlvTag.DEST_ADDR_SUBUNIT: b"\x01"}


def test_smpp_3_3_has_no_optional_parameters(build):
    settings = {"interface_version": 0x33}
    part = build(b"part two", segment=Segment(0x1234, 3, 2), subunit=1, settings=settings)
    assert (part.esm_class, part.short_message) == (0x40, bytes.fromhex("050003340302") + b"part two")
    assert part.tlvs == build(subunit=1, settings=settings).tlvs == {}
    longest = build(b"x" * 153, segment=Segment(1, 2, 1), settings=settings | {"charset": "gsm-packed"})
    assert len(longest.short_message) == 140
    with pytest.raises(ValueError, match="no message_payload"):
        build(b"x" * 255 * 153, settings=settings | {"long_texts": "udh16"})


@pytest.mark.parametrize(
    ("expires_in_ms", "settings", "validity"),
    [
        (None, {}, ""),
        (None, {"default_validity_seconds": 3600}, "000000010000000R"),
        (90_061_000, {}, "000001010101000R"),
        (2 * DAY_MS, {"max_validity_seconds": 86_400}, "000001000000000R"),
        (None, {"max_validity_seconds": 86_400}, ""),
        (-5_000, {}, "000000000001000R"),
        (40 * DAY_MS, {}, "270224080000000+"),
    ],
)
def test_how_long_the_carrier_tries(build, expires_in_ms, settings, validity):
    expires_at = None if expires_in_ms is None else NOW + expires_in_ms
    assert build(expires_at=expires_at, settings=settings).validity_period == validity


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_receipts_are_asked_for_as_the_upstream_is_set(build, asked):
    assert build(registered_delivery=0, settings={"registered_delivery": asked}).registered_delivery == asked
