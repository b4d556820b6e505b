"""The codec under octets that nobody meant: whatever comes, a PDU or `MalformedPdu`, and what it reads it can write."""

import struct
from random import Random

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import MalformedPdu, PduHeader
from tests.smsc.fuzzing import (
    COMMAND_IDS,
    UNKNOWN_COMMAND_IDS,
    USED_TLV_LENGTHS,
    PduFuzzer,
    are_fields_consistent,
    get_command_id,
    list_fields,
    make_pdu,
    make_valid_pdus,
    valid_tlv_lengths,
    valid_tlv_octets,
)

words = st.integers(0, 0xFFFFFFFF)
WITH_TLVS = [command for command in COMMAND_IDS if any(field.name == "tlvs" for field in list_fields(command))]
WHOLE = make_valid_pdus(Random(0), 8)


@st.composite
def tlv(draw, command):
    """One optional parameter with a value that a PDU of that kind may have."""
    tag = draw(st.sampled_from(TlvTag) | st.integers(0, 0xFFFF))
    lengths, values = valid_tlv_lengths(command, tag), valid_tlv_octets(command, tag)
    value = st.lists(st.sampled_from(values), min_size=lengths[0], max_size=lengths[-1])
    return int(tag), bytes(draw(value))


@st.composite
def messages_of(draw, command):
    """A PDU of that kind, each field with anything that fits."""
    values = {}
    for field in list_fields(command):
        if field.type is int:
            values[field.name] = draw(st.integers(0, field.limit))
        elif field.type is str:
            values[field.name] = draw(st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=field.limit))
        elif field.type is bytes:
            values[field.name] = draw(st.binary(max_size=field.limit))
        else:
            values[field.name] = dict(draw(st.lists(tlv(command), max_size=4)))
    assume(are_fields_consistent(values))
    return make_pdu(command, **values)


messages = st.sampled_from(COMMAND_IDS).flatmap(messages_of)


def read(octets, start=0):
    """The PDU that starts there, and where the next one does."""
    header = pdu.decode_header(octets, start)
    assert header is not None
    end = start + header.length
    return pdu.decode_pdu(header, bytes(octets[start + pdu.HEADER_LENGTH : end])), end


def framed(command, body, status=0, sequence=1):
    return struct.pack(">IIII", pdu.HEADER_LENGTH + len(body), command, status, sequence) + body


@pytest.mark.parametrize("command", COMMAND_IDS, ids=hex)
def test_a_whole_pdu_of_each_kind_is_read_as_it_was_written(command):
    @settings(max_examples=60)
    @given(messages_of(command))
    def holds(message):
        octets = message.encode()
        assert read(octets) == (message, len(octets))

    holds()


@pytest.mark.parametrize("command", [each for each in COMMAND_IDS if each & RESPONSE_BIT], ids=hex)
@given(sequence=words, status=st.integers(1, 0xFFFFFFFF))
def test_a_refusal_of_each_kind_keeps_its_status_and_sequence(command, sequence, status):
    refusal, _ = read(pdu.encode_response(command & ~RESPONSE_BIT, sequence, status))
    assert (get_command_id(refusal), refusal.sequence, refusal.status) == (command, sequence, status)


@given(st.lists(messages, min_size=1, max_size=5))
def test_a_stream_is_read_pdu_by_pdu(several):
    octets, start, seen = b"".join(each.encode() for each in several), 0, []
    while start < len(octets):
        message, start = read(octets, start)
        seen.append(message)
    assert seen == several
    assert start == len(octets)


@settings(max_examples=500)
@given(st.sampled_from((*COMMAND_IDS, *UNKNOWN_COMMAND_IDS)) | words, words, words, st.binary(max_size=400))
def test_any_body_gives_a_pdu_or_malformed(command, status, sequence, body):
    is_read_or_malformed(PduHeader(pdu.HEADER_LENGTH + len(body), command, status, sequence), body)


@settings(max_examples=1000)
@given(st.integers(0, 2**64))
def test_a_damaged_pdu_gives_a_pdu_or_malformed(seed):
    octets = PduFuzzer(Random(seed), WHOLE).next_pdu(bad_framing=0)
    header = pdu.decode_header(octets, 0)
    assert header is not None
    assert header.length == len(octets)
    is_read_or_malformed(header, octets[pdu.HEADER_LENGTH :])


@given(messages)
def test_a_pdu_cut_anywhere_gives_a_pdu_or_malformed(message):
    whole = message.encode()[pdu.HEADER_LENGTH :]
    for end in range(len(whole)):
        header = PduHeader(pdu.HEADER_LENGTH + end, get_command_id(message), 0, message.sequence)
        is_read_or_malformed(header, whole[:end])


def is_read_or_malformed(header, body):
    """What is read can be written, and is then read as the same; what is not tells why, and whose it is."""
    try:
        message = pdu.decode_pdu(header, body)
    except MalformedPdu as malformed:
        assert malformed.status in CommandStatus
        assert malformed.status is not CommandStatus.ESME_ROK
        assert (malformed.sequence, malformed.command) == (header.sequence, header.command)
        assert (malformed.status is CommandStatus.ESME_RINVCMDID) == (header.command not in COMMAND_IDS)
        return
    assert message.sequence == header.sequence
    octets = message.encode()
    again, _ = read(octets)
    # Of a refusal no body is written, and a body that was left out is.
    if body and not getattr(message, "status", 0):
        assert again == message
        # Less is written where an optional parameter came twice, or with a PDU that keeps none.
        assert octets[pdu.HEADER_LENGTH :] == body or len(octets) < header.length


def lists_of_tlvs(**sizes):
    """The command_id of a PDU with optional parameters, and some of these."""
    return st.sampled_from(WITH_TLVS).flatmap(
        lambda command: st.tuples(st.just(command), st.lists(tlv(command), **sizes))
    )


@given(lists_of_tlvs(max_size=6))
def test_optional_parameters_are_read_in_any_order_and_the_last_of_a_tag_counts(drawn):
    command, tlvs = drawn
    octets = with_tlvs(command, b"".join(struct.pack(">HH", tag, len(value)) + value for tag, value in tlvs))
    message, _ = read(octets)
    assert message.tlvs == dict(tlvs)


@given(lists_of_tlvs(min_size=1, max_size=4), st.data())
def test_a_stream_of_optional_parameters_may_end_only_after_one(drawn, data):
    command, tlvs = drawn
    pieces = [struct.pack(">HH", tag, len(value)) + value for tag, value in tlvs]
    ends = [sum(map(len, pieces[:count])) for count in range(len(pieces) + 1)]
    cut = data.draw(st.integers(0, ends[-1]))
    octets = with_tlvs(command, b"".join(pieces)[:cut])
    if cut in ends:
        assert read(octets)[0].tlvs == dict(tlvs[: ends.index(cut)])
    elif cut == 1 and octets[-1] == 0 and command in (CommandId.SUBMIT_SM, CommandId.DELIVER_SM):
        assert read(octets)[0].tlvs == {}  # the NUL behind short_message
    else:
        with pytest.raises(MalformedPdu) as caught:
            read(octets)
        assert caught.value.status is CommandStatus.ESME_RINVOPTPARSTREAM


@pytest.mark.parametrize("command", WITH_TLVS)
@pytest.mark.parametrize("tag", sorted(USED_TLV_LENGTHS[CommandId.DATA_SM]))
def test_an_optional_parameter_that_is_used_has_the_length_of_the_standard(command, tag):
    for length in range(12):
        value = b"\x01" * length
        octets = with_tlvs(command, struct.pack(">HH", tag, length) + value)
        if length in valid_tlv_lengths(command, tag):
            assert read(octets)[0].tlvs == {tag: value}
        else:
            with pytest.raises(MalformedPdu) as caught:
                read(octets)
            assert caught.value.status is CommandStatus.ESME_RINVPARLEN


def with_tlvs(command, stream):
    """A PDU of that kind, empty but for its optional parameters."""
    body = make_pdu(command, sequence=1).encode()[pdu.HEADER_LENGTH :]
    return framed(command, body + stream)


@given(words, st.sampled_from(COMMAND_IDS) | words, words, words, st.binary(max_size=30), st.binary(max_size=30))
@example(pdu.HEADER_LENGTH, 0, 0, 0, b"", b"")
@example(pdu.HEADER_LENGTH - 1, 0, 0, 0, b"", b"")
@example(pdu.MAX_PDU_LENGTH, 0, 0, 0, b"", b"")
@example(pdu.MAX_PDU_LENGTH + 1, 0, 0, 0, b"", b"")
def test_a_header_is_read_wherever_it_stands_and_its_length_is_checked(
    length, command, status, sequence, before, after
):
    octets = before + struct.pack(">IIII", length, command, status, sequence)
    assert pdu.decode_header(octets[:-1], len(before)) is None
    if pdu.HEADER_LENGTH <= length <= pdu.MAX_PDU_LENGTH:
        assert pdu.decode_header(octets + after, len(before)) == PduHeader(length, command, status, sequence)
    else:
        with pytest.raises(MalformedPdu) as caught:
            pdu.decode_header(octets + after, len(before))
        assert caught.value.status is CommandStatus.ESME_RINVCMDLEN
        assert (caught.value.sequence, caught.value.command) == (sequence, command)
