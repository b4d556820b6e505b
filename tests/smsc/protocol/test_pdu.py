"""The codec: what it writes it reads, and whatever it reads, it raises nothing but its own."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId, CommandStatus, TlvTag
from portal.smsc.protocol.pdu import (
    Bind,
    BindResp,
    CancelSm,
    DataSm,
    DeliverSm,
    HeaderOnlyPdu,
    MalformedPdu,
    MessageResp,
    Pdu,
    PduHeader,
    QuerySm,
    SubmitSm,
)

octet = st.integers(0, 255)
sequences = st.integers(0, 0xFFFFFFFF)


def c_string(limit):
    return st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=limit - 1)


short_message_fields = {
    "sequence": sequences,
    "service_type": c_string(6),
    "source_ton": octet,
    "source_npi": octet,
    "source": c_string(21),
    "dest_ton": octet,
    "dest_npi": octet,
    "destination": c_string(21),
    "esm_class": octet,
    "protocol_id": octet,
    "priority": octet,
    "schedule_delivery_time": c_string(17),
    "validity_period": c_string(17),
    "registered_delivery": octet,
    "replace_if_present": octet,
    "data_coding": octet,
    "default_message_id": octet,
    "short_message": st.binary(max_size=254),
    "tlvs": st.dictionaries(st.integers(0x2000, 0xFFFF), st.binary(max_size=50), max_size=4),
}
pdus = st.one_of(
    st.builds(
        HeaderOnlyPdu,
        st.sampled_from([CommandId.UNBIND, CommandId.ENQUIRE_LINK, CommandId.GENERIC_NACK]),
        sequences,
        octet,
    ),
    st.builds(
        Bind,
        st.sampled_from([CommandId.BIND_RECEIVER, CommandId.BIND_TRANSMITTER, CommandId.BIND_TRANSCEIVER]),
        sequences,
        c_string(16),
        c_string(9),
        c_string(13),
        octet,
        octet,
        octet,
        c_string(41),
    ),
    st.builds(BindResp, st.just(CommandId.BIND_RECEIVER_RESP), sequences, st.just(0), c_string(16)),
    st.builds(
        MessageResp,
        st.sampled_from([CommandId.SUBMIT_SM_RESP, CommandId.DELIVER_SM_RESP]),
        sequences,
        st.just(0),
        c_string(65),
    ),
    st.builds(SubmitSm, **short_message_fields),
    st.builds(DeliverSm, **short_message_fields),
)


def read(octets: bytes) -> Pdu:
    header = pdu.decode_header(octets, 0)
    assert header is not None
    assert header.length == len(octets)
    return pdu.decode_pdu(header, octets[pdu.HEADER_LENGTH :])


def submit(body_after_times: bytes = bytes(5), **fields: Any) -> bytes:
    """A submit_sm whose octets from registered_delivery on are given."""
    whole = SubmitSm(1, source="Sender", destination="39333", **fields).encode()[:-5] + body_after_times
    return struct.pack(">I", len(whole)) + whole[4:]


@given(pdus)
def test_what_is_written_is_read(written):
    assert read(written.encode()) == written


@given(st.sampled_from([*CommandId, 0x00000003, 0xDEADBEEF]), octet, sequences, st.binary(max_size=400))
def test_any_octets_give_a_pdu_or_malformed(command, status, sequence, body):
    try:
        pdu.decode_pdu(PduHeader(16 + len(body), command, status, sequence), body)
    except MalformedPdu as malformed:
        assert malformed.sequence == sequence
        assert malformed.status in CommandStatus


@given(pdus, st.data())
def test_a_changed_octet_gives_a_pdu_or_malformed(written, data):
    octets = bytearray(written.encode())
    octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(octet)
    cut = data.draw(st.integers(0, len(octets)))
    try:
        header = pdu.decode_header(octets[:cut], 0)
        if header is not None:
            pdu.decode_pdu(header, bytes(octets[pdu.HEADER_LENGTH : cut]))
    except MalformedPdu as malformed:
        assert malformed.status in CommandStatus


@pytest.mark.parametrize("length", [0, 4, 15, pdu.MAX_PDU_LENGTH + 1, 0xFFFFFFFF])
def test_lengths_that_no_pdu_has(length):
    with pytest.raises(MalformedPdu) as caught:
        pdu.decode_header(struct.pack(">IIII", length, CommandId.ENQUIRE_LINK, 0, 7), 0)
    assert (caught.value.status, caught.value.sequence) == (CommandStatus.ESME_RINVCMDLEN, 7)


def test_half_a_header_is_waited_for():
    assert pdu.decode_header(bytes(15), 0) is None


def bind_body(system_id=b"smpp-a\0", password=b"secret\0", system_type=b"\0", rest=b"\x34\0\0\0"):
    return system_id + password + system_type + rest


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (bind_body(system_id=b"x" * 16 + b"\0"), CommandStatus.ESME_RINVSYSID),
        (bind_body(password=b"x" * 9 + b"\0"), CommandStatus.ESME_RINVPASWD),
        (bind_body(system_type=b"x" * 13 + b"\0"), CommandStatus.ESME_RINVSYSTYP),
        (bind_body(rest=b"\x34\0\0" + b"x" * 41 + b"\0"), CommandStatus.ESME_RINVPARLEN),
        (bind_body(rest=b"\x34\0\0"), CommandStatus.ESME_RINVCMDLEN),
        (bind_body(rest=b"\x34\0\0x"), CommandStatus.ESME_RINVCMDLEN),
        (b"", CommandStatus.ESME_RINVCMDLEN),
        (b"smpp-a", CommandStatus.ESME_RINVCMDLEN),
        (bind_body() + b"\0", CommandStatus.ESME_RINVOPTPARSTREAM),
    ],
)
def test_malformed_binds(body, status):
    with pytest.raises(MalformedPdu) as caught:
        pdu.decode_pdu(PduHeader(16 + len(body), CommandId.BIND_TRANSCEIVER, 0, 3), body)
    assert caught.value.status is status


def tlv(tag, value):
    return struct.pack(">HH", tag, len(value)) + value


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"\0\0\0\0\x05abc", CommandStatus.ESME_RINVMSGLEN),
        (b"\0\0\0\0\xff" + b"a" * 255, CommandStatus.ESME_RINVMSGLEN),
        (b"\0\0\0\0", CommandStatus.ESME_RINVCMDLEN),
        (b"\0\0\0\0\x01ab", CommandStatus.ESME_RINVOPTPARSTREAM),
        (b"\0\0\0\0\x01a\0\0", CommandStatus.ESME_RINVOPTPARSTREAM),
        (b"\0\0\0\0\x01a\0" + tlv(TlvTag.USER_MESSAGE_REFERENCE, b"\0\1"), CommandStatus.ESME_RINVOPTPARSTREAM),
        (b"\0\0\0\0\x01a" + tlv(0x1501, b"ours") + b"\0", CommandStatus.ESME_RINVOPTPARSTREAM),
        (bytes(5) + b"\x04\x24\x00\x09abc", CommandStatus.ESME_RINVOPTPARSTREAM),
        (bytes(5) + tlv(TlvTag.SAR_MSG_REF_NUM, b"a"), CommandStatus.ESME_RINVPARLEN),
        (bytes(5) + tlv(TlvTag.DEST_ADDR_SUBUNIT, b"\x01\x01"), CommandStatus.ESME_RINVPARLEN),
        (bytes(5) + tlv(TlvTag.SAR_TOTAL_SEGMENTS, b"\0"), CommandStatus.ESME_RINVOPTPARAMVAL),
        (b"\0\0\0\0\x01a" + tlv(TlvTag.MESSAGE_PAYLOAD, b"b"), CommandStatus.ESME_RINVOPTPARAMVAL),
    ],
)
def test_malformed_submits(octets, status):
    with pytest.raises(MalformedPdu) as caught:
        read(submit(octets))
    assert caught.value.status is status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"service\0", CommandStatus.ESME_RINVSERTYP),
        (b"\0\x05\0" + b"x" * 21 + b"\0", CommandStatus.ESME_RINVSRCADR),
        (b"\0\x05\0x\0\x01\x01" + b"3" * 21 + b"\0", CommandStatus.ESME_RINVDSTADR),
        (b"\0\x05\0x\0\x01\x013\0\0\0\0" + b"2" * 17 + b"\0", CommandStatus.ESME_RINVSCHED),
        (b"\0\x05\0x\0\x01\x013\0\0\0\0\0" + b"2" * 17 + b"\0", CommandStatus.ESME_RINVEXPIRY),
        (b"\0\x05\0x", CommandStatus.ESME_RINVCMDLEN),
    ],
)
def test_overlong_and_cut_fields_of_a_submit(body, status):
    with pytest.raises(MalformedPdu) as caught:
        pdu.decode_pdu(PduHeader(16 + len(body), CommandId.SUBMIT_SM, 0, 1), body)
    assert caught.value.status is status


@pytest.mark.parametrize("command", [CommandId.SUBMIT_SM, CommandId.DELIVER_SM])
@pytest.mark.parametrize("text", [b"", b"abc", b"ends with a NUL\0"])
def test_one_nul_behind_short_message_is_tolerated(command, text):
    body = submit(b"\0\0\0\0" + bytes((len(text),)) + text)[pdu.HEADER_LENGTH :]
    message = pdu.decode_pdu(PduHeader(17 + len(body), command, 0, 1), body + b"\0")
    assert isinstance(message, SubmitSm | DeliverSm)
    assert (message.short_message, message.tlvs) == (text, {})


@pytest.mark.parametrize(
    "request_pdu",
    [
        Bind(CommandId.BIND_TRANSCEIVER, 1, "smpp-a", "secret"),
        DeliverSm(1, source="Sender", destination="39333"),
        DataSm(1, source="Sender", destination="39333"),
        QuerySm(1, "1", source="Sender"),
        CancelSm(1, "", "1", source="Sender"),
    ],
)
@pytest.mark.parametrize("tag", [0x000D, 0x001E, 0x0201, 0x0426, 0x1401, 0x1402])
@pytest.mark.parametrize("value", [b"", b"\xff", b"x" * 80])
def test_nothing_is_asked_of_optional_parameters_that_an_operation_does_not_use(request_pdu, tag, value):
    octets = request_pdu.encode() + tlv(tag, value)
    assert read(struct.pack(">I", len(octets)) + octets[4:]).sequence == 1


def test_unknown_optional_parameters_are_kept_and_the_payload_is_the_body():
    message = read(submit(bytes(5) + tlv(0x1501, b"ours") + tlv(TlvTag.MESSAGE_PAYLOAD, b"long text")))
    assert isinstance(message, SubmitSm)
    assert message.tlvs[0x1501] == b"ours"
    assert message.body == b"long text"


def test_a_refusal_has_no_body():
    refusal = BindResp(CommandId.BIND_RECEIVER_RESP, 5, CommandStatus.ESME_RINVPASWD, "SMPP-Portal")
    assert read(refusal.encode()) == BindResp(CommandId.BIND_RECEIVER_RESP, 5, CommandStatus.ESME_RINVPASWD)
    assert read(pdu.encode_response(CommandId.SUBMIT_SM, 6, CommandStatus.ESME_RTHROTTLED)) == MessageResp(
        CommandId.SUBMIT_SM | RESPONSE_BIT, 6, CommandStatus.ESME_RTHROTTLED
    )
    assert read(pdu.encode_accepted_message_resp(CommandId.SUBMIT_SM, 7, 1883)) == MessageResp(
        CommandId.SUBMIT_SM_RESP, 7, 0, "1883"
    )


def test_a_password_is_not_shown():
    assert "secret" not in repr(Bind(CommandId.BIND_RECEIVER, 1, "smpp-a", "secret"))


@pytest.mark.parametrize("field", [{"source": "x" * 21}, {"source": "a\0b"}, {"short_message": b"x" * 255}])
def test_what_cannot_be_written_is_refused(field):
    with pytest.raises(ValueError):
        SubmitSm(1, **field).encode()
