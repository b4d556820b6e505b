"""The codec under octets that nobody meant: whatever comes, a PDU or `Malformed`, and what it reads it can write."""

import struct
from random import Random

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE, Status, Tag
from portal.smsc.protocol.pdu import Header, Malformed
from tests.smsc.fuzzing import (
    KINDS,
    UNKNOWN,
    Source,
    command_of,
    fields_of,
    is_consistent,
    make,
    tlv_lengths,
    tlv_values,
    whole_pdus,
)

words = st.integers(0, 0xFFFFFFFF)
WITH_TLVS = [command for command in KINDS if any(field.name == "tlvs" for field in fields_of(command))]
WHOLE = whole_pdus(Random(0), 8)


@st.composite
def tlv(draw):
    """One optional parameter with a value that the standard allows it."""
    tag = draw(st.sampled_from(Tag) | st.integers(0, 0xFFFF))
    lengths, values = tlv_lengths(tag), tlv_values(tag)
    value = st.lists(st.sampled_from(values), min_size=lengths[0], max_size=lengths[-1])
    return int(tag), bytes(draw(value))


@st.composite
def messages_of(draw, command):
    """A PDU of that kind, each field with anything that fits."""
    values = {}
    for field in fields_of(command):
        if field.type is int:
            values[field.name] = draw(st.integers(0, field.limit))
        elif field.type is str:
            values[field.name] = draw(st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=field.limit))
        elif field.type is bytes:
            values[field.name] = draw(st.binary(max_size=field.limit))
        else:
            values[field.name] = dict(draw(st.lists(tlv(), max_size=4)))
    assume(is_consistent(values))
    return make(command, **values)


messages = st.sampled_from(KINDS).flatmap(messages_of)


def read(octets, start=0):
    """The PDU that starts there, and where the next one does."""
    header = pdu.read_header(octets, start)
    assert header is not None
    end = start + header.length
    return pdu.decode(header, bytes(octets[start + pdu.HEADER_LENGTH : end])), end


def framed(command, body, status=0, sequence=1):
    return struct.pack(">IIII", pdu.HEADER_LENGTH + len(body), command, status, sequence) + body


@pytest.mark.parametrize("command", KINDS, ids=hex)
def test_a_whole_pdu_of_each_kind_is_read_as_it_was_written(command):
    @settings(max_examples=60)
    @given(messages_of(command))
    def holds(message):
        octets = message.encode()
        assert read(octets) == (message, len(octets))

    holds()


@pytest.mark.parametrize("command", [each for each in KINDS if each & RESPONSE], ids=hex)
@given(sequence=words, status=st.integers(1, 0xFFFFFFFF))
def test_a_refusal_of_each_kind_keeps_its_status_and_sequence(command, sequence, status):
    refusal, _ = read(pdu.response(command & ~RESPONSE, sequence, status))
    assert (command_of(refusal), refusal.sequence, refusal.status) == (command, sequence, status)


@given(st.lists(messages, min_size=1, max_size=5))
def test_a_stream_is_read_pdu_by_pdu(several):
    octets, start, seen = b"".join(each.encode() for each in several), 0, []
    while start < len(octets):
        message, start = read(octets, start)
        seen.append(message)
    assert seen == several
    assert start == len(octets)


@settings(max_examples=500)
@given(st.sampled_from((*KINDS, *UNKNOWN)) | words, words, words, st.binary(max_size=400))
def test_any_body_gives_a_pdu_or_malformed(command, status, sequence, body):
    is_read_or_malformed(Header(pdu.HEADER_LENGTH + len(body), command, status, sequence), body)


@settings(max_examples=1000)
@given(st.integers(0, 2**64))
def test_a_damaged_pdu_gives_a_pdu_or_malformed(seed):
    octets = Source(Random(seed), WHOLE).next(bad_framing=0)
    header = pdu.read_header(octets, 0)
    assert header is not None
    assert header.length == len(octets)
    is_read_or_malformed(header, octets[pdu.HEADER_LENGTH :])


@given(messages)
def test_a_pdu_cut_anywhere_gives_a_pdu_or_malformed(message):
    whole = message.encode()[pdu.HEADER_LENGTH :]
    for end in range(len(whole)):
        header = Header(pdu.HEADER_LENGTH + end, command_of(message), 0, message.sequence)
        is_read_or_malformed(header, whole[:end])


def is_read_or_malformed(header, body):
    """What is read can be written, and is then read as the same; what is not tells why, and whose it is."""
    try:
        message = pdu.decode(header, body)
    except Malformed as malformed:
        assert malformed.status in Status
        assert malformed.status is not Status.ESME_ROK
        assert (malformed.sequence, malformed.command) == (header.sequence, header.command)
        assert (malformed.status is Status.ESME_RINVCMDID) == (header.command not in KINDS)
        return
    assert message.sequence == header.sequence
    octets = message.encode()
    again, _ = read(octets)
    # Of a refusal no body is written, and a body that was left out is.
    if body and not getattr(message, "status", 0):
        assert again == message
        # Less is written where an optional parameter came twice, or with a bind, which keeps none.
        assert octets[pdu.HEADER_LENGTH :] == body or len(octets) < header.length


@given(st.sampled_from(WITH_TLVS), st.lists(tlv(), max_size=6))
def test_optional_parameters_are_read_in_any_order_and_the_last_of_a_tag_counts(command, tlvs):
    octets = with_tlvs(command, b"".join(struct.pack(">HH", tag, len(value)) + value for tag, value in tlvs))
    message, _ = read(octets)
    assert message.tlvs == dict(tlvs)


@given(st.sampled_from(WITH_TLVS), st.lists(tlv(), min_size=1, max_size=4), st.data())
def test_a_stream_of_optional_parameters_may_end_only_after_one(command, tlvs, data):
    pieces = [struct.pack(">HH", tag, len(value)) + value for tag, value in tlvs]
    ends = [sum(map(len, pieces[:count])) for count in range(len(pieces) + 1)]
    cut = data.draw(st.integers(0, ends[-1]))
    octets = with_tlvs(command, b"".join(pieces)[:cut])
    if cut in ends:
        assert read(octets)[0].tlvs == dict(tlvs[: ends.index(cut)])
    else:
        with pytest.raises(Malformed) as caught:
            read(octets)
        assert caught.value.status is Status.ESME_RINVOPTPARSTREAM


@given(st.sampled_from(WITH_TLVS), st.sampled_from(sorted(pdu._TLV_LENGTHS)), st.binary(max_size=80))
def test_a_known_optional_parameter_has_the_length_of_the_standard(command, tag, value):
    octets = with_tlvs(command, struct.pack(">HH", tag, len(value)) + value)
    if len(value) in tlv_lengths(tag):
        is_read_or_malformed(pdu.read_header(octets, 0), octets[pdu.HEADER_LENGTH :])
    else:
        with pytest.raises(Malformed) as caught:
            read(octets)
        assert caught.value.status is Status.ESME_RINVPARLEN


def with_tlvs(command, stream):
    """A PDU of that kind, empty but for its optional parameters."""
    body = make(command, sequence=1).encode()[pdu.HEADER_LENGTH :]
    return framed(command, body + stream)


@given(words, st.sampled_from(KINDS) | words, words, words, st.binary(max_size=30), st.binary(max_size=30))
@example(pdu.HEADER_LENGTH, 0, 0, 0, b"", b"")
@example(pdu.HEADER_LENGTH - 1, 0, 0, 0, b"", b"")
@example(pdu.MAX_LENGTH, 0, 0, 0, b"", b"")
@example(pdu.MAX_LENGTH + 1, 0, 0, 0, b"", b"")
def test_a_header_is_read_wherever_it_stands_and_its_length_is_checked(
    length, command, status, sequence, before, after
):
    octets = before + struct.pack(">IIII", length, command, status, sequence)
    assert pdu.read_header(octets[:-1], len(before)) is None
    if pdu.HEADER_LENGTH <= length <= pdu.MAX_LENGTH:
        assert pdu.read_header(octets + after, len(before)) == Header(length, command, status, sequence)
    else:
        with pytest.raises(Malformed) as caught:
            pdu.read_header(octets + after, len(before))
        assert caught.value.status is Status.ESME_RINVCMDLEN
        assert (caught.value.sequence, caught.value.command) == (sequence, command)
