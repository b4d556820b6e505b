"""What a carrier gets of a text, by the charset that it reads data_coding 0 in."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.core import gsm0338
from portal.core.gsm0338 import Encoding
from portal.services.messages.validation import Segment, SubmittedMessage
from portal.services.upstreams.settings import CHARSETS, UpstreamSettings
from portal.smsc.upstream.smpp_client.submit_sm import (
    CarrierText,
    CharacterMissing,
    encode_text,
    replace_missing_characters,
)

GSM_ALPHABET = gsm0338.decode(bytes(septet for septet in range(128) if septet != gsm0338.ESCAPE)) + "\f^{}\\[~]|€"
PART_HEADER = bytes.fromhex("050003AB0201")
TURKISH = bytes.fromhex("03240101")
DECODERS = {"latin-1": "latin-1", "ascii": "ascii", "utf-8": "utf-8"}
gsm_texts = st.text(alphabet=GSM_ALPHABET, max_size=400)


def prepare(text: str, data_coding: int = 0, **fields: Any) -> SubmittedMessage:
    values: dict[str, Any] = {
        "udh": None,
        "registered_delivery": 1,
        "reference": None,
        "parts": 1,
        "price": 1,
        **fields,
    }
    return SubmittedMessage(1, "ACME", 5, 0, "393401234567", "IT", text, data_coding=data_coding, **values)


def encode(message: SubmittedMessage, charset: str = "gsm", **settings: Any) -> CarrierText:
    return encode_text(message, UpstreamSettings(charset=charset, **settings))


def read_octets(text: CarrierText) -> bytes:
    return text.encode(text.content, text.udh)


def unpack(octets: bytes, header_octets: int = 0) -> str:
    """As a carrier does that knows 6.1.2.3.1 of GSM 03.38."""
    fill_bits = -8 * header_octets % 7
    count, spare_bits = divmod(max(8 * len(octets) - fill_bits, 0), 7)
    septets = gsm0338.unpack_septets(octets, count, fill_bits)
    return gsm0338.decode(septets[:-1] if septets and not spare_bits and septets[-1] == 0x0D else septets)


# Pain 5: "@" became "?", é and ç became others, UCS-2 was read as GSM.
@pytest.mark.parametrize(
    ("charset", "text", "data_coding", "octets"),
    [
        ("gsm", "@", 0, "00"),
        ("gsm", "é", 0, "05"),
        ("gsm", "ç", 8, "00e7"),
        ("gsm", "€", 0, "1b65"),
        ("gsm", "{}", 0, "1b281b29"),
        ("gsm-packed", "@", 0, "00"),
        ("gsm-packed", "é", 0, "05"),
        ("gsm-packed", "ç", 8, "00e7"),
        ("gsm-packed", "€", 0, "9b32"),
        ("gsm-packed", "{}", 0, "1bd42605"),
        ("latin-1", "@", 0, "40"),
        ("latin-1", "é", 0, "e9"),
        ("latin-1", "ç", 0, "e7"),
        ("latin-1", "€", 8, "20ac"),
        ("latin-1", "{}", 0, "7b7d"),
        ("ascii", "@", 0, "40"),
        ("ascii", "é", 8, "00e9"),
        ("ascii", "ç", 8, "00e7"),
        ("ascii", "€", 8, "20ac"),
        ("ascii", "{}", 0, "7b7d"),
        ("utf-8", "@", 0, "40"),
        ("utf-8", "é", 0, "c3a9"),
        ("utf-8", "ç", 0, "c3a7"),
        ("utf-8", "€", 0, "e282ac"),
        ("utf-8", "{}", 0, "7b7d"),
    ],
)
def test_pain_5_each_character_is_what_the_carrier_reads_it_as(charset, text, data_coding, octets):
    # What GSM 03.38 lacks came in Latin-1.
    came_as = 0 if gsm0338.choose_encoding(text) is Encoding.GSM else 3
    sent = encode(prepare(text, came_as), charset, other_alphabets="convert")
    assert (sent.data_coding, read_octets(sent).hex()) == (data_coding, octets)


@pytest.mark.parametrize("charset", CHARSETS)
@pytest.mark.parametrize("settings", [{}, {"missing_characters": "fail", "other_alphabets": "convert"}])
def test_pain_5_ucs2_and_binary_go_out_as_they_came_to_each_carrier(charset, settings):
    sent = encode(prepare("ç€😀", 8), charset, **settings)
    assert (sent.data_coding, read_octets(sent)) == (8, "ç€😀".encode("utf-16-be"))
    binary = encode(prepare("", 4, body=b"\x00\xff\x1b", udh=PART_HEADER), charset, **settings)
    assert (binary.data_coding, read_octets(binary)) == (4, PART_HEADER + b"\x00\xff\x1b")


@given(text=gsm_texts, charset=st.sampled_from(CHARSETS), message_class=st.sampled_from([0, 0x10, 0x13, 0xF0, 0xF2]))
def test_a_text_is_read_as_it_was_written(text, charset, message_class):
    sent = encode(prepare(text, message_class), charset)
    octets = read_octets(sent)
    if sent.encoding is Encoding.UCS2 and charset != "utf-8":
        assert charset in ("latin-1", "ascii")
        assert sent.data_coding == (0x18 | message_class & 3 if message_class else 8)
        assert octets.decode("utf-16-be") == text
        return
    assert sent.data_coding == message_class
    if charset == "gsm-packed":
        # A carriage return at the end may be one that fills an octet.
        assert unpack(octets).rstrip("\r") == text.rstrip("\r")
    else:
        assert (gsm0338.decode(octets) if charset == "gsm" else octets.decode(DECODERS[charset])) == text


@given(
    text=st.text(alphabet=GSM_ALPHABET + "çşğı`😀漢", max_size=700),
    charset=st.sampled_from(CHARSETS),
    header_octets=st.sampled_from([6, 7]),
)
def test_parts_are_whole_characters_that_join_to_the_text_and_fit(text, charset, header_octets):
    sent = encode(prepare(text, 3), charset, other_alphabets="convert")
    parts = sent.split(header_octets)
    assert type(sent.content)().join(parts) == sent.content  # type: ignore[arg-type]
    alone = len(parts) == 1
    for each in parts:
        part = CarrierText(sent.data_coding, None, sent.encoding, each, sent.charset)
        assert part.fits_part(0 if alone else header_octets)
        if sent.encoding is Encoding.UCS2 and isinstance(each, bytes):
            each.decode("utf-16-be")
    if alone:
        return
    # No part could have taken the first character of the next one.
    for this, following in pairwise(parts):
        longer = this + following[: 4 if sent.encoding is Encoding.UCS2 and isinstance(following, bytes) else 2]  # type: ignore[operator]
        assert not CarrierText(sent.data_coding, None, sent.encoding, longer, sent.charset).fits_part(header_octets)


@pytest.mark.parametrize(("charset", "text"), [("gsm", "ç"), ("latin-1", "€"), ("ascii", "é")])
def test_a_character_that_is_missing_may_be_a_reason_not_to_send(charset, text):
    with pytest.raises(CharacterMissing, match=f"^{charset} lacks a character of the text$"):
        encode(prepare(text, 3), charset, missing_characters="fail", other_alphabets="convert")


@pytest.mark.parametrize(
    ("charset", "text", "replaced"),
    [
        ("gsm", "ça, façade – “õ”", 'ca, facade - "o"'),
        ("gsm", "½ `", "? '"),
        ("ascii", "é à Ø ß € Δ", "e a O s ? ?"),
        ("latin-1", "é €", "é ?"),
        ("utf-8", "é € 漢", "é € 漢"),
    ],
)
def test_a_similar_character_stands_for_one_that_is_missing(charset, text, replaced):
    assert replace_missing_characters(text, charset) == replaced
    sent = encode(prepare(text, 3), charset, missing_characters="replace", other_alphabets="convert")
    assert sent.data_coding == 0
    octets = read_octets(sent)
    assert (gsm0338.decode(octets) if charset == "gsm" else octets.decode(DECODERS[charset])) == replaced


def test_other_alphabets_go_out_as_they_came_where_the_upstream_is_set_so():
    latin = encode(prepare("ça", 3))
    assert (latin.data_coding, read_octets(latin)) == (3, b"\xe7a")
    turkish = encode(prepare("ş", 0, body=b"\x1bs", udh=TURKISH))
    assert (turkish.data_coding, read_octets(turkish)) == (0, TURKISH + b"\x1bs")
    packed = encode(prepare("şa", 0, body=b"\x1bsa", udh=TURKISH), "gsm-packed")
    assert read_octets(packed) == TURKISH + gsm0338.pack_septets(b"\x1bsa", 3)


def test_a_national_table_is_turned_into_what_the_upstream_takes():
    message = prepare("şey", 0, body=b"\x1bsey", udh=TURKISH)
    sent = encode(message, other_alphabets="convert")
    assert (sent.data_coding, sent.udh, read_octets(sent)) == (8, None, "şey".encode("utf-16-be"))
    replaced = encode(message, other_alphabets="convert", missing_characters="replace")
    assert (replaced.data_coding, read_octets(replaced)) == (0, b"sey")
    flash = encode(prepare("şey", 0x10, body=b"\x1bsey", udh=TURKISH), other_alphabets="convert")
    assert flash.data_coding == 0x18


def test_a_part_that_is_too_long_in_ucs2_has_its_characters_replaced():
    text = "ş" + "a" * 100
    table = bytes.fromhex("080003AB0201240101")
    for fields in ({"udh": table}, {"udh": TURKISH, "segment": Segment(1, 2, 1)}):
        long = encode(prepare(text, 0, body=b"\x1bs" + b"a" * 100, **fields), other_alphabets="convert")
        assert (long.data_coding, long.content) == (0, b"s" + b"a" * 100)
        short = encode(prepare("şa", 0, body=b"\x1bsa", **fields), other_alphabets="convert")
        assert (short.data_coding, short.content) == (8, "şa".encode("utf-16-be"))
    # What its client hasn't cut may become as long as it wants.
    whole = encode(prepare(text, 0, body=b"\x1bs" + b"a" * 100, udh=TURKISH), other_alphabets="convert")
    assert (whole.data_coding, len(whole.split())) == (8, 2)


def test_octets_that_are_no_text_of_their_own_go_out_as_they_came():
    # A part that ends within a character.
    message = prepare("5 ", body=b"5 \x1b", udh=PART_HEADER, segment=Segment(0xAB, 2, 1))
    assert read_octets(encode(message)) == PART_HEADER + b"5 \x1b"
    packed = read_octets(encode(message, "gsm-packed"))
    assert packed == PART_HEADER + gsm0338.pack_septets(b"5 \x1b", 1)


def test_seven_bits_that_are_left_over_are_no_at_sign():
    octets = read_octets(encode(prepare("1234567"), "gsm-packed"))
    assert gsm0338.decode(gsm0338.unpack_septets(octets, 8)) == "1234567\r"
    assert unpack(octets) == "1234567"
    assert len(read_octets(encode(prepare("a" * 160), "gsm-packed"))) == 140
    full = read_octets(encode(prepare("a" * 153, udh=PART_HEADER, segment=Segment(0xAB, 2, 1)), "gsm-packed"))
    assert len(full) == 140
