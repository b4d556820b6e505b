"""GSM 03.38: every character both ways, and parts counted as handsets count them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.core import gsm0338
from portal.core.gsm0338 import Encoding

ALPHABET = gsm0338.decode(bytes(septet for septet in range(128) if septet != gsm0338.ESCAPE)) + "\f^{}\\[~]|€"
texts = st.text(alphabet=ALPHABET, max_size=400)


def test_each_character_survives_both_ways():
    assert len(set(ALPHABET)) == 127 + 10
    for character in ALPHABET:
        assert gsm0338.decode(gsm0338.encode(character)) == character


@pytest.mark.parametrize(
    ("text", "septets"), [("@", "00"), ("è", "04"), ("Ç", "09"), ("à", "7f"), ("€", "1b65"), ("a[b", "611b3c62")]
)
def test_known_septets(text, septets):
    assert gsm0338.encode(text).hex() == septets


@pytest.mark.parametrize("body", [b"\x80", b"ab\xff", b"\x1b", b"a\x1b", b"\x1bA", b"\x1b\x1b", b"\x1be\xe8"])
def test_undefined_bytes_are_refused(body):
    with pytest.raises(ValueError):
        gsm0338.decode(body)


@pytest.mark.parametrize("text", ["ç", "漢", "😀", "`", "\ufffe", "€ç"])
def test_characters_without_a_place_are_refused(text):
    with pytest.raises(ValueError):
        gsm0338.encode(text)
    assert gsm0338.choose_encoding(text) is Encoding.UCS2


def test_characters_without_a_place_are_named_once_in_their_order():
    assert gsm0338.find_non_gsm_characters("Caffè – “perché no” – 5 €\n📦") == "–“”📦"
    assert gsm0338.find_non_gsm_characters("Caffè, perché no: {5 €}\f") == ""


@given(st.binary(max_size=300))
def test_decoding_any_bytes_gives_a_text_or_a_value_error(body):
    try:
        text = gsm0338.decode(body)
    except ValueError:
        return
    assert gsm0338.encode(text) == body


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("a" * 159 + "€", 2),
        ("a" * 152 + "€" * 77, 3),  # 306 septets, but the escape at 153 may not be torn off
        ("я" * 70, 1),
        ("я" * 71, 2),
        ("я" * 134, 2),
        ("я" * 135, 3),
        ("😀" * 35, 1),
        ("я" * 66 + "😀" * 34, 3),  # 134 units, but the pair at 67 may not be torn apart
    ],
)
def test_parts(text, parts):
    encoding = gsm0338.choose_encoding(text)
    assert gsm0338.count_parts(gsm0338.encode_body(text, encoding), encoding) == parts


@given(texts)
def test_gsm_pieces_are_whole_and_join_to_the_body(text):
    body = gsm0338.encode(text)
    pieces = gsm0338.split_body(body, Encoding.GSM)
    assert b"".join(pieces) == body
    assert "".join(gsm0338.decode(piece) for piece in pieces) == text
    assert len(pieces) == gsm0338.count_parts(body, Encoding.GSM)
    assert all(len(piece) <= (160 if len(pieces) == 1 else 153) for piece in pieces)


@given(st.text(max_size=300))
def test_ucs2_pieces_are_whole_and_join_to_the_body(text):
    body = gsm0338.encode_body(text, Encoding.UCS2)
    pieces = gsm0338.split_body(body, Encoding.UCS2)
    assert "".join(piece.decode("utf-16-be") for piece in pieces) == text
    assert all(len(piece) <= (140 if len(pieces) == 1 else 134) for piece in pieces)


def test_a_header_takes_its_room():
    assert gsm0338.get_part_capacity(Encoding.GSM, 6) == 153
    assert gsm0338.get_part_capacity(Encoding.GSM, 7) == 152
    assert gsm0338.get_part_capacity(Encoding.UCS2, 6) == 134


def test_packing_as_in_the_textbook():
    assert gsm0338.pack_septets(b"hellohello").hex() == "e8329bfd4697d9ec37"
    assert gsm0338.unpack_septets(bytes.fromhex("e8329bfd4697d9ec37"), 10) == b"hellohello"


@given(texts, st.integers(0, 6))
def test_packing_both_ways(text, fill_bits):
    septets = gsm0338.encode(text)
    assert gsm0338.unpack_septets(gsm0338.pack_septets(septets, fill_bits), len(septets), fill_bits) == septets


def test_what_cannot_be_packed_or_unpacked_is_refused():
    with pytest.raises(ValueError):
        gsm0338.pack_septets(b"\x80")
    with pytest.raises(ValueError):
        gsm0338.unpack_septets(b"\x00" * 7, 9)
