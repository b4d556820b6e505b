"""What the octets mean that carriers bring from handsets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.core import gsm0338
from portal.services.messages.inbound_parts import decode_content, unpack_content
from portal.services.upstreams.settings import OTHER_CHARSETS


@pytest.mark.parametrize(
    ("charset", "octets", "text", "data_coding"),
    [
        ("auto", b"\x00 100\x02 \x1be", "@ 100$ €", 0),
        ("gsm", b"\x00 100\x02 \x1be", "@ 100$ €", 0),
        ("latin-1", b"@ 100$ \xe9", "@ 100$ é", 0),
        ("latin-1", b"a\xe7o", "aço", 8),
        ("utf-8", "perché € 😀".encode(), "perché € 😀", 8),
        ("ascii", b"caff\xe8", "caff\ufffd", 8),
    ],
)
def test_the_charset_of_data_coding_0(charset, octets, text, data_coding):
    assert decode_content(octets, 0, None, charset) == (text, data_coding, None)


@pytest.mark.parametrize("charset", [*OTHER_CHARSETS, "auto", "gsm"])
def test_all_others_are_what_they_say(charset):
    assert decode_content("é".encode("utf-16-be"), 8, None, charset) == ("é", 8, None)
    assert decode_content(b"\xe9", 3, None, charset) == ("é", 3, None)
    assert decode_content(b"\x00", 0x10, None, charset) == ("@", 0x10, None)
    assert decode_content(b"a$b\r\n", 1, None, charset) == ("a$b\r\n", 1, None)
    assert decode_content(b"\x00\xff", 4, None, charset) == ("", 4, b"\x00\xff")
    assert decode_content(b"\x00\xff", 0x77, None, charset) == ("", 4, b"\x00\xff")


def test_what_is_called_ascii_and_is_none_is_gsm_03_38():
    assert decode_content(b"a\x00b \x1be", 1, None, "auto") == ("a@b €", 0, None)


@given(st.binary(max_size=700).map(lambda octets: bytes(each & 0x7F for each in octets)))
def test_packed_septets_of_any_length_are_unpacked(septets):
    """What can't be told from fill bits is an @ (0) at the end."""
    pieces = [septets[start : start + 160] for start in range(0, len(septets), 160)]
    packed = b"".join(map(gsm0338.pack_septets, pieces))
    unpacked = unpack_content(packed, "gsm-packed", 0)
    assert unpacked in (septets, septets.removesuffix(b"\0"), septets + b"\0")
    assert unpack_content(packed, "gsm", 0) == packed


def test_packed_septets_behind_a_header():
    packed = gsm0338.pack_septets(b"hello", fill_bits=1)
    assert unpack_content(packed, "gsm-packed", 6) == b"hello"
