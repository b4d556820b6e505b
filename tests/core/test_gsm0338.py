"""GSM 03.38: every character both ways, and parts counted as handsets count them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.core import gsm0338
from portal.core.gsm0338 import Alphabet, Encoding

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


# --- what handsets display


GSM = Alphabet(Encoding.GSM)


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (b"a\x1bAb", "aAb"),  # the extension table has no A
        (b"a\x1b\x1bb", "a b"),
        (b"a\x1b\x1b\x1beb", "a €b"),
        (b"a\x1b", "a"),
        (b"a\xe8", "a\ufffd"),
        (b"\x1b\xe8a", "\ufffda"),
        (b"\x00\x11\x1b<", "@_["),
    ],
)
def test_escapes_without_a_meaning_are_displayed_as_the_standard_says(octets, text):
    assert gsm0338.decode_as_displayed(octets, GSM) == text


@given(texts)
def test_what_is_strictly_a_text_is_displayed_as_that(text):
    assert gsm0338.decode_as_displayed(gsm0338.encode(text), GSM) == text


# Octets as 3GPP TS 23.038, annex A, has them.
@pytest.mark.parametrize(
    ("locking", "single", "octets", "text"),
    [
        (0, 1, "1b471b491b531b631b651b671b691b731b14", "ĞİŞç€ğış^"),
        (1, 0, "04070b0c1c1d40601b65", "€ıĞğŞşİç€"),
        (1, 1, "1b5304070a", "Ş€ı\n"),
        (0, 2, "1b091b411b491b4f1b551b611b651b691b6f1b751b28", "çÁÍÓÚá€íóú{"),
        (0, 3, "1b051b091b0b1b0c1b0e1b0f1b121b131b141b151b161b171b181b191b1f", "êçÔôÁáΦΓ^ΩΠΨΣΘÊ"),
        (0, 3, "1b411b491b4f1b551b5b1b5c1b611b651b691b6f1b751b7b1b7c1b7f", "ÀÍÓÚÃÕÂ€íóúãõâ"),
        (3, 0, "0405060708090b0c0e0f", "êéúíóçÔôÁá"),
        (3, 0, "12131415161718191a1c1d1e1f", "ªÇÀ∞^\\€Ó|ÂâÊÉ"),
        (3, 0, "2324405b5c5d5e5f607b7c7d7e7f", "#ºÍÃÕÚÜ§~ãõ`üà"),
        (3, 3, "1b621b1b04", "b ê"),  # what the single shift table lacks is the locking one's
    ],
)
def test_tables_of_national_languages(locking, single, octets, text):
    assert gsm0338.decode_as_displayed(bytes.fromhex(octets), Alphabet(Encoding.GSM, locking, single)) == text


def test_tables_that_are_not_here_show_no_text():
    for coding in (Alphabet(Encoding.GSM, 0, 4), Alphabet(Encoding.GSM, 2, 0), Alphabet(Encoding.BINARY)):
        assert not coding.is_text
        assert gsm0338.decode_as_displayed(b"abc", coding) == ""


@pytest.mark.parametrize(
    ("data_coding", "udh", "coding"),
    [
        (0, None, GSM),
        (0, "03240101", (Encoding.GSM, 0, 1)),
        (0xF1, "06240102250103", (Encoding.GSM, 3, 2)),
        (0, "0b00032402012401012501ff", (Encoding.GSM, 0xFF, 1)),
        (0, "06240101240103", (Encoding.GSM, 0, 3)),
        (0, "050003240201", GSM),  # a reference of 0x24
        (0, "0424020101", GSM),  # not of one octet
        (0, "0124", GSM),
        (8, "03240101", (Encoding.UCS2, 0, 0)),
        (0x19, None, (Encoding.UCS2, 0, 0)),
        (0xF5, None, (Encoding.BINARY, 0, 0)),
        (0x99, None, (Encoding.BINARY, 0, 0)),
    ],
)
def test_how_a_message_is_read(data_coding, udh, coding):
    assert gsm0338.get_alphabet(data_coding, udh and bytes.fromhex(udh)) == coding


@pytest.mark.parametrize(
    ("octets", "encoding", "incomplete"),
    [
        (b"ab", Encoding.GSM, 0),
        (b"ab\x1b", Encoding.GSM, 1),
        (b"a\x1b\x1b", Encoding.GSM, 0),
        (b"\x1b\x1b\x1b", Encoding.GSM, 1),
        (b"\x00a", Encoding.UCS2, 0),
        (b"\x00a\x00", Encoding.UCS2, 1),
        (b"\xd8\x3d", Encoding.UCS2, 2),
        (b"\x00a\xd8\x3d\xde", Encoding.UCS2, 3),
        (b"\xd8\x3d\xde\x00", Encoding.UCS2, 0),
        (b"\xd8", Encoding.UCS2, 1),
        (b"", Encoding.UCS2, 0),
        (b"\x1b", Encoding.LATIN_1, 0),
    ],
)
def test_a_character_that_is_not_all_there(octets, encoding, incomplete):
    assert gsm0338.count_incomplete_octets(octets, encoding) == incomplete


def test_two_escapes_are_not_torn_apart():
    body = b"x" * 151 + b"\x1b" * 4 + b"x" * 20
    assert [len(piece) for piece in gsm0338.split_body(body, Encoding.GSM)] == [153, 22]
    assert [len(piece) for piece in gsm0338.split_body(b"x" + body, Encoding.GSM)] == [152, 24]


def test_seven_and_eight_bits():
    assert [gsm0338.get_part_capacity(each) for each in Encoding] == [160, 160, 140, 140, 140]
    assert [gsm0338.get_part_capacity(each, 6) for each in Encoding] == [153, 153, 134, 134, 134]


def test_septets_of_single_characters():
    for character in ALPHABET:
        assert gsm0338.count_septets(character) == len(gsm0338.encode(character))
    assert [gsm0338.count_septets(each) for each in "ç漢😀`\x1b"] == [0] * 5


def test_a_header_without_its_national_languages():
    assert gsm0338.remove_shift_elements(bytes.fromhex("03240101")) is None
    assert gsm0338.remove_shift_elements(bytes.fromhex("0B 0003AB0201 250103 240101")) == bytes.fromhex("050003AB0201")


def test_pieces_beside_a_longer_header():
    pieces = gsm0338.split_body(b"a" * 153 * 2, Encoding.GSM, 7)
    assert [len(each) for each in pieces] == [152, 152, 2]
