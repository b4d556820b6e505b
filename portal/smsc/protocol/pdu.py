"""The PDUs of SMPP 3.4 (Issue 1.2), octets to objects and back.

Strict with requests: a field longer than the standard allows, a length that points past the end, a terminator that is
missing, octets left over: each raises `MalformedPdu` with the command_status to answer. Nothing else is raised,
whatever the octets. Of a response its command_status decides, and nobody could be told of a flaw: what there is of its
body is taken. C-octet strings become `str`, octet by octet (latin-1): which characters an address may have is not the
codec's rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from struct import Struct
from struct import error as StructError
from typing import ClassVar, Self

from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId, CommandStatus, TlvTag

MAX_PDU_LENGTH = 64 * 1024
"""Octets of the longest PDU that is read."""
HEADER_LENGTH = 16
INTERFACE_VERSION = 0x34

_HEADER_STRUCT = Struct(">IIII")
_TLV_HEADER_STRUCT = Struct(">HH")
_FIELDS_AFTER_VALIDITY = Struct(">5B")
_SHORT_MESSAGE_FORMAT = b"%b%c%c%b%c%c%b%c%c%c%b%b%c%c%c%c%c%b%b"

Tlvs = Mapping[int, bytes]
_NO_TLVS: Tlvs = {}

SUBMIT_TLV_LENGTHS: Mapping[int, int] = {
    TlvTag.DEST_ADDR_SUBUNIT: 1,
    TlvTag.USER_MESSAGE_REFERENCE: 2,
    TlvTag.SAR_MSG_REF_NUM: 2,
    TlvTag.SAR_TOTAL_SEGMENTS: 1,
    TlvTag.SAR_SEGMENT_SEQNUM: 1,
}
"""Octets that the optional parameters have which submit_sm uses, beside message_payload (5.3.2)."""
DATA_TLV_LENGTHS: Mapping[int, int] = {**SUBMIT_TLV_LENGTHS, TlvTag.QOS_TIME_TO_LIVE: 4}
"""The same of data_sm."""
_NO_LENGTHS: Mapping[int, int] = {}
_COUNTED_FROM_1 = (TlvTag.SAR_TOTAL_SEGMENTS, TlvTag.SAR_SEGMENT_SEQNUM)


class MalformedPdu(Exception):
    """Octets that are not a PDU of SMPP 3.4.

    `status` is the command_status to answer, `sequence` that of the PDU, `command` its command_id as it came.
    """

    def __init__(self, status: CommandStatus, sequence: int, command: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.sequence = sequence
        self.command = command


class _InvalidPduBody(Exception):
    """A flaw found in a body, before the header it belongs to is known."""

    def __init__(self, status: CommandStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(slots=True)
class PduHeader:
    """The four integers in front of each PDU (3.2.1); `length` counts itself and all that follows."""

    length: int
    command: int
    status: int
    sequence: int


def decode_header(buffer: bytes | bytearray, start: int) -> PduHeader | None:
    """Return the header at `start` of `buffer`, None while it is not all there.

    Raises MalformedPdu (ESME_RINVCMDLEN) for a length that no PDU may have: what follows in such a stream cannot be
    made out any more.
    """
    if len(buffer) - start < HEADER_LENGTH:
        return None
    header = PduHeader(*_HEADER_STRUCT.unpack_from(buffer, start))
    if not HEADER_LENGTH <= header.length <= MAX_PDU_LENGTH:
        raise MalformedPdu(
            CommandStatus.ESME_RINVCMDLEN, header.sequence, header.command, f"command_length {header.length}"
        )
    return header


def decode_pdu(header: PduHeader, body: bytes) -> Pdu:
    """Return the PDU of `header` with the octets that follow it.

    Raises MalformedPdu: ESME_RINVCMDID for a command that is not spoken here, else the status that says what is wrong
    with the body.
    """
    decoder = DECODERS.get(header.command)
    if decoder is None:
        raise MalformedPdu(
            CommandStatus.ESME_RINVCMDID, header.sequence, header.command, f"command_id 0x{header.command:08X}"
        )
    try:
        return decoder(header, body)
    except _InvalidPduBody as invalid_body:
        raise MalformedPdu(invalid_body.status, header.sequence, header.command, str(invalid_body)) from None


def encode_pdu(command: int, status: int, sequence: int, body: bytes) -> bytes:
    """Return a PDU: its header (3.2.1), and `body`."""
    return _HEADER_STRUCT.pack(HEADER_LENGTH + len(body), command, status, sequence) + body


def encode_tlvs(tlvs: Tlvs) -> bytes:
    """Return optional parameters (3.2.4.1), in their order."""
    return b"".join([_TLV_HEADER_STRUCT.pack(tag, len(value)) + value for tag, value in tlvs.items()])


def encode_response(command: int, sequence: int, status: int = CommandStatus.ESME_ROK) -> bytes:
    """Return the response without a body to request `command`: unbind_resp, enquire_link_resp, or any that refuses."""
    return _HEADER_STRUCT.pack(HEADER_LENGTH, command | RESPONSE_BIT, status, sequence)


def encode_generic_nack(sequence: int, status: int) -> bytes:
    """Return generic_nack (4.3.1): the answer to what could not be taken for a request."""
    return _HEADER_STRUCT.pack(HEADER_LENGTH, CommandId.GENERIC_NACK, status, sequence)


def encode_accepted_message_resp(command: int, sequence: int, message_id: int | str) -> bytes:
    """Return submit_sm_resp (4.4.2) or data_sm_resp (4.7.2) for an accepted message.

    `MessageResp.encode` in one step: this is sent once a message.
    """
    body = f"{message_id}\0".encode("ascii")
    return _HEADER_STRUCT.pack(HEADER_LENGTH + len(body), command | RESPONSE_BIT, 0, sequence) + body


@dataclass(slots=True)
class HeaderOnlyPdu:
    """A PDU that is its header alone: unbind, enquire_link, their responses, cancel_sm_resp, generic_nack (4.2, 4.11,
    4.9.2, 4.3).
    """

    command: int
    sequence: int
    status: int = CommandStatus.ESME_ROK

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        if body and not header.command & RESPONSE_BIT:
            raise _InvalidPduBody(CommandStatus.ESME_RINVCMDLEN, "octets after a header that stands alone")
        return cls(header.command, header.sequence, header.status)

    def encode(self) -> bytes:
        return _HEADER_STRUCT.pack(HEADER_LENGTH, self.command, self.status, self.sequence)


@dataclass(slots=True)
class Bind:
    """bind_transmitter, bind_receiver or bind_transceiver (4.1.1, 4.1.3, 4.1.5), as `command` says."""

    command: int
    sequence: int
    system_id: str
    password: str = field(repr=False)
    system_type: str = ""
    interface_version: int = INTERFACE_VERSION
    addr_ton: int = 0
    addr_npi: int = 0
    address_range: str = ""

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        system_id, offset = _decode_c_octet_string(body, 0, 16, CommandStatus.ESME_RINVSYSID)
        password, offset = _decode_c_octet_string(body, offset, 9, CommandStatus.ESME_RINVPASWD)
        system_type, offset = _decode_c_octet_string(body, offset, 13, CommandStatus.ESME_RINVSYSTYP)
        if len(body) < offset + 4:
            raise _InvalidPduBody(CommandStatus.ESME_RINVCMDLEN, "the body ends before address_range")
        version, ton, npi = body[offset : offset + 3]
        address_range, offset = _decode_c_octet_string(body, offset + 3, 41, CommandStatus.ESME_RINVPARLEN)
        _decode_tlvs(body, offset, _NO_LENGTHS)
        return cls(header.command, header.sequence, system_id, password, system_type, version, ton, npi, address_range)

    def encode(self) -> bytes:
        body = b"".join(
            (
                _encode_c_octet_string(self.system_id, 16),
                _encode_c_octet_string(self.password, 9),
                _encode_c_octet_string(self.system_type, 13),
                bytes((self.interface_version, self.addr_ton, self.addr_npi)),
                _encode_c_octet_string(self.address_range, 41),
            )
        )
        return encode_pdu(self.command, CommandStatus.ESME_ROK, self.sequence, body)


@dataclass(slots=True)
class BindResp:
    """The answer to a bind (4.1.2, 4.1.4, 4.1.6); without a body where the bind is refused."""

    command: int
    sequence: int
    status: int = CommandStatus.ESME_ROK
    system_id: str = ""
    tlvs: Tlvs = field(default_factory=dict)

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        system_id, rest = _split_response_string(body, 16)
        return cls(header.command, header.sequence, header.status, system_id, _decode_whole_tlvs(rest))

    def encode(self) -> bytes:
        if self.status:
            return encode_response(self.command, self.sequence, self.status)
        return encode_pdu(
            self.command,
            self.status,
            self.sequence,
            _encode_c_octet_string(self.system_id, 16) + encode_tlvs(self.tlvs),
        )


@dataclass(slots=True)
class ShortMessage:
    """What submit_sm (4.4.1) and deliver_sm (4.6.1) have in common, which is all their fields.

    TLV_LENGTHS: octets of the optional parameters that are used (see `_decode_tlvs`).
    """

    COMMAND: ClassVar[CommandId]
    TLV_LENGTHS: ClassVar[Mapping[int, int]]

    sequence: int
    service_type: str = ""
    source_ton: int = 0
    source_npi: int = 0
    source: str = ""
    dest_ton: int = 0
    dest_npi: int = 0
    destination: str = ""
    esm_class: int = 0
    protocol_id: int = 0
    priority: int = 0
    schedule_delivery_time: str = ""
    validity_period: str = ""
    registered_delivery: int = 0
    replace_if_present: int = 0
    data_coding: int = 0
    default_message_id: int = 0
    short_message: bytes = b""
    tlvs: Tlvs = field(default_factory=dict)

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        # One pass without a call a field: this runs once a message. What is wrong, if anything, _diagnose finds at
        # leisure.
        find_octet = body.index
        try:
            service_end = find_octet(0, 0, 6)
            source_end = find_octet(0, service_end + 3, service_end + 24)
            destination_end = find_octet(0, source_end + 3, source_end + 24)
            schedule_end = find_octet(0, destination_end + 4, destination_end + 21)
            validity_end = find_octet(0, schedule_end + 1, schedule_end + 18)
            registered, replace, coding, default_id, length = _FIELDS_AFTER_VALIDITY.unpack_from(body, validity_end + 1)
        except (ValueError, StructError):
            raise _diagnose_short_message(body) from None
        start = validity_end + 6
        end = start + length
        if length > 254 or end > len(body):
            raise _InvalidPduBody(CommandStatus.ESME_RINVMSGLEN, f"sm_length {length}")
        # Some clients write the NUL of their string behind short_message, and don't count it.
        is_over = end == len(body) or (end + 1 == len(body) and not body[end])
        tlvs = _NO_TLVS if is_over else _decode_tlvs(body, end, cls.TLV_LENGTHS)
        if length and tlvs.get(TlvTag.MESSAGE_PAYLOAD):
            raise _InvalidPduBody(CommandStatus.ESME_RINVOPTPARAMVAL, "both short_message and message_payload")
        text = body.decode("latin-1")
        return cls(
            header.sequence,
            text[:service_end],
            body[service_end + 1],
            body[service_end + 2],
            text[service_end + 3 : source_end],
            body[source_end + 1],
            body[source_end + 2],
            text[source_end + 3 : destination_end],
            body[destination_end + 1],
            body[destination_end + 2],
            body[destination_end + 3],
            text[destination_end + 4 : schedule_end],
            text[schedule_end + 1 : validity_end],
            registered,
            replace,
            coding,
            default_id,
            body[start:end],
            tlvs,
        )

    def encode(self) -> bytes:
        if len(self.short_message) > 254:
            raise ValueError("a short_message has at most 254 octets; longer ones go into message_payload")
        body = _SHORT_MESSAGE_FORMAT % (
            _encode_c_octet_string(self.service_type, 6),
            self.source_ton,
            self.source_npi,
            _encode_c_octet_string(self.source, 21),
            self.dest_ton,
            self.dest_npi,
            _encode_c_octet_string(self.destination, 21),
            self.esm_class,
            self.protocol_id,
            self.priority,
            _encode_c_octet_string(self.schedule_delivery_time, 17),
            _encode_c_octet_string(self.validity_period, 17),
            self.registered_delivery,
            self.replace_if_present,
            self.data_coding,
            self.default_message_id,
            len(self.short_message),
            self.short_message,
            encode_tlvs(self.tlvs),
        )
        return encode_pdu(self.COMMAND, CommandStatus.ESME_ROK, self.sequence, body)

    @property
    def body(self) -> bytes:
        """The user data, whether in short_message or in message_payload (5.3.2.32)."""
        return self.short_message or self.tlvs.get(TlvTag.MESSAGE_PAYLOAD, b"")


@dataclass(slots=True)
class SubmitSm(ShortMessage):
    """submit_sm (4.4.1)."""

    COMMAND = CommandId.SUBMIT_SM
    TLV_LENGTHS = SUBMIT_TLV_LENGTHS


@dataclass(slots=True)
class DeliverSm(ShortMessage):
    """deliver_sm (4.6.1)."""

    COMMAND = CommandId.DELIVER_SM
    TLV_LENGTHS = _NO_LENGTHS


@dataclass(slots=True)
class DataSm:
    """data_sm (4.7.1): a submit_sm whose body is message_payload, and whose options are all TLVs."""

    COMMAND: ClassVar[CommandId] = CommandId.DATA_SM

    sequence: int
    service_type: str = ""
    source_ton: int = 0
    source_npi: int = 0
    source: str = ""
    dest_ton: int = 0
    dest_npi: int = 0
    destination: str = ""
    esm_class: int = 0
    registered_delivery: int = 0
    data_coding: int = 0
    tlvs: Tlvs = field(default_factory=dict)

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        service_type, offset = _decode_c_octet_string(body, 0, 6, CommandStatus.ESME_RINVSERTYP)
        source_ton, source_npi, source, offset = _decode_address(body, offset, 65, CommandStatus.ESME_RINVSRCADR)
        dest_ton, dest_npi, destination, offset = _decode_address(body, offset, 65, CommandStatus.ESME_RINVDSTADR)
        esm_class, registered_delivery, data_coding = _decode_octets(body, offset, 3)
        return cls(
            header.sequence,
            service_type,
            source_ton,
            source_npi,
            source,
            dest_ton,
            dest_npi,
            destination,
            esm_class,
            registered_delivery,
            data_coding,
            _decode_tlvs(body, offset + 3, DATA_TLV_LENGTHS),
        )

    def encode(self) -> bytes:
        body = b"".join(
            (
                _encode_c_octet_string(self.service_type, 6),
                bytes((self.source_ton, self.source_npi)),
                _encode_c_octet_string(self.source, 65),
                bytes((self.dest_ton, self.dest_npi)),
                _encode_c_octet_string(self.destination, 65),
                bytes((self.esm_class, self.registered_delivery, self.data_coding)),
                encode_tlvs(self.tlvs),
            )
        )
        return encode_pdu(self.COMMAND, CommandStatus.ESME_ROK, self.sequence, body)

    @property
    def body(self) -> bytes:
        """The user data (5.3.2.32)."""
        return self.tlvs.get(TlvTag.MESSAGE_PAYLOAD, b"")


@dataclass(slots=True)
class QuerySm:
    """query_sm (4.8.1)."""

    COMMAND: ClassVar[CommandId] = CommandId.QUERY_SM

    sequence: int
    message_id: str = ""
    source_ton: int = 0
    source_npi: int = 0
    source: str = ""

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        message_id, offset = _decode_c_octet_string(body, 0, 65, CommandStatus.ESME_RINVMSGID)
        source_ton, source_npi, source, offset = _decode_address(body, offset, 21, CommandStatus.ESME_RINVSRCADR)
        _decode_tlvs(body, offset, _NO_LENGTHS)
        return cls(header.sequence, message_id, source_ton, source_npi, source)

    def encode(self) -> bytes:
        body = b"".join(
            (
                _encode_c_octet_string(self.message_id, 65),
                bytes((self.source_ton, self.source_npi)),
                _encode_c_octet_string(self.source, 21),
            )
        )
        return encode_pdu(self.COMMAND, CommandStatus.ESME_ROK, self.sequence, body)


@dataclass(slots=True)
class QuerySmResp:
    """query_sm_resp (4.8.2); without a body where the query is refused. `final_date` is empty until there is one."""

    command: int
    sequence: int
    status: int = CommandStatus.ESME_ROK
    message_id: str = ""
    final_date: str = ""
    message_state: int = 0
    error_code: int = 0

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        message_id, rest = _split_response_string(body, 65)
        final_date, rest = _split_response_string(rest, 17)
        message_state, error_code = rest[:2].ljust(2, b"\0")
        return cls(header.command, header.sequence, header.status, message_id, final_date, message_state, error_code)

    def encode(self) -> bytes:
        if self.status:
            return encode_response(self.command, self.sequence, self.status)
        body = b"".join(
            (
                _encode_c_octet_string(self.message_id, 65),
                _encode_c_octet_string(self.final_date, 17),
                bytes((self.message_state, self.error_code)),
            )
        )
        return encode_pdu(self.command, self.status, self.sequence, body)


@dataclass(slots=True)
class CancelSm:
    """cancel_sm (4.9.1). Without a message_id it means all messages from `source` to `destination`."""

    COMMAND: ClassVar[CommandId] = CommandId.CANCEL_SM

    sequence: int
    service_type: str = ""
    message_id: str = ""
    source_ton: int = 0
    source_npi: int = 0
    source: str = ""
    dest_ton: int = 0
    dest_npi: int = 0
    destination: str = ""

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        service_type, offset = _decode_c_octet_string(body, 0, 6, CommandStatus.ESME_RINVSERTYP)
        message_id, offset = _decode_c_octet_string(body, offset, 65, CommandStatus.ESME_RINVMSGID)
        source_ton, source_npi, source, offset = _decode_address(body, offset, 21, CommandStatus.ESME_RINVSRCADR)
        dest_ton, dest_npi, destination, offset = _decode_address(body, offset, 21, CommandStatus.ESME_RINVDSTADR)
        _decode_tlvs(body, offset, _NO_LENGTHS)
        return cls(
            header.sequence,
            service_type,
            message_id,
            source_ton,
            source_npi,
            source,
            dest_ton,
            dest_npi,
            destination,
        )

    def encode(self) -> bytes:
        body = b"".join(
            (
                _encode_c_octet_string(self.service_type, 6),
                _encode_c_octet_string(self.message_id, 65),
                bytes((self.source_ton, self.source_npi)),
                _encode_c_octet_string(self.source, 21),
                bytes((self.dest_ton, self.dest_npi)),
                _encode_c_octet_string(self.destination, 21),
            )
        )
        return encode_pdu(self.COMMAND, CommandStatus.ESME_ROK, self.sequence, body)


@dataclass(slots=True)
class MessageResp:
    """submit_sm_resp (4.4.2), data_sm_resp (4.7.2) and deliver_sm_resp (4.6.2), as `command` says; a body
    may be missing, as clients leave it out.
    """

    command: int
    sequence: int
    status: int = CommandStatus.ESME_ROK
    message_id: str = ""
    tlvs: Tlvs = field(default_factory=dict)

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        message_id, rest = _split_response_string(body, 65)
        return cls(header.command, header.sequence, header.status, message_id, _decode_whole_tlvs(rest))

    def encode(self) -> bytes:
        if self.status:
            return encode_response(self.command, self.sequence, self.status)
        return encode_pdu(
            self.command,
            self.status,
            self.sequence,
            _encode_c_octet_string(self.message_id, 65) + encode_tlvs(self.tlvs),
        )


Pdu = HeaderOnlyPdu | Bind | BindResp | SubmitSm | DeliverSm | DataSm | QuerySm | QuerySmResp | CancelSm | MessageResp

DECODERS: dict[int, Callable[[PduHeader, bytes], Pdu]] = {
    CommandId.GENERIC_NACK: HeaderOnlyPdu.decode,
    CommandId.BIND_RECEIVER: Bind.decode,
    CommandId.BIND_RECEIVER_RESP: BindResp.decode,
    CommandId.BIND_TRANSMITTER: Bind.decode,
    CommandId.BIND_TRANSMITTER_RESP: BindResp.decode,
    CommandId.QUERY_SM: QuerySm.decode,
    CommandId.QUERY_SM_RESP: QuerySmResp.decode,
    CommandId.SUBMIT_SM: SubmitSm.decode,
    CommandId.SUBMIT_SM_RESP: MessageResp.decode,
    CommandId.DELIVER_SM: DeliverSm.decode,
    CommandId.DELIVER_SM_RESP: MessageResp.decode,
    CommandId.UNBIND: HeaderOnlyPdu.decode,
    CommandId.UNBIND_RESP: HeaderOnlyPdu.decode,
    CommandId.CANCEL_SM: CancelSm.decode,
    CommandId.CANCEL_SM_RESP: HeaderOnlyPdu.decode,
    CommandId.BIND_TRANSCEIVER: Bind.decode,
    CommandId.BIND_TRANSCEIVER_RESP: BindResp.decode,
    CommandId.ENQUIRE_LINK: HeaderOnlyPdu.decode,
    CommandId.ENQUIRE_LINK_RESP: HeaderOnlyPdu.decode,
    CommandId.DATA_SM: DataSm.decode,
    CommandId.DATA_SM_RESP: MessageResp.decode,
}
"""What decodes each PDU that is known, by its command_id."""


def _decode_tlvs(body: bytes, offset: int, lengths: Mapping[int, int]) -> Tlvs:
    """Return the optional parameters of a request from `offset` on.

    Args:
        lengths: octets of those that its operation uses (5.3.2). Nothing is asked of the values of others, which it
            ignores (3.3.1).
    """
    tlvs: dict[int, bytes] = {}
    end = len(body)
    while offset < end:
        if end - offset < 4:
            raise _InvalidPduBody(
                CommandStatus.ESME_RINVOPTPARSTREAM, "octets left over after the last optional parameter"
            )
        tag, length = _TLV_HEADER_STRUCT.unpack_from(body, offset)
        offset += 4
        if end - offset < length:
            raise _InvalidPduBody(
                CommandStatus.ESME_RINVOPTPARSTREAM, f"optional parameter 0x{tag:04X} ends after the PDU"
            )
        value = body[offset : offset + length]
        offset += length
        if tag in lengths:
            if length != lengths[tag]:
                raise _InvalidPduBody(
                    CommandStatus.ESME_RINVPARLEN, f"optional parameter 0x{tag:04X} of {length} octets"
                )
            if tag in _COUNTED_FROM_1 and value == b"\0":
                raise _InvalidPduBody(CommandStatus.ESME_RINVOPTPARAMVAL, f"optional parameter 0x{tag:04X} is 0")
        tlvs[tag] = value
    return tlvs


def _split_response_string(body: bytes, limit: int) -> tuple[str, bytes]:
    """Return the C-octet string that `body` begins with, at most `limit` octets with its terminator, and what follows.

    Only for responses. A response is not answered, so its sender can't be told that it is malformed: whatever is there
    is taken.
    """
    text, _, rest = body.partition(b"\0")
    return text[: limit - 1].decode("latin-1"), rest


def _decode_whole_tlvs(octets: bytes) -> Tlvs:
    """Return the optional parameters of a response, as far as they are all there."""
    tlvs: dict[int, bytes] = {}
    while len(octets) >= 4:
        tag, length = _TLV_HEADER_STRUCT.unpack_from(octets)
        if len(octets) < 4 + length:
            break
        tlvs[tag], octets = octets[4 : 4 + length], octets[4 + length :]
    return tlvs


# The mandatory fields of a short message up to validity_period: octets before the string, its limit with terminator,
# what an overlong one is answered with.
_SHORT_MESSAGE_STRINGS = (
    (0, 6, CommandStatus.ESME_RINVSERTYP),
    (2, 21, CommandStatus.ESME_RINVSRCADR),
    (2, 21, CommandStatus.ESME_RINVDSTADR),
    (3, 17, CommandStatus.ESME_RINVSCHED),
    (0, 17, CommandStatus.ESME_RINVEXPIRY),
)


def _diagnose_short_message(body: bytes) -> _InvalidPduBody:
    """Return what is wrong with a short message whose mandatory fields could not be read."""
    offset = 0
    try:
        for octets_before, limit, too_long_status in _SHORT_MESSAGE_STRINGS:
            _, offset = _decode_c_octet_string(body, offset + octets_before, limit, too_long_status)
    except _InvalidPduBody as invalid_body:
        return invalid_body
    return _InvalidPduBody(CommandStatus.ESME_RINVCMDLEN, "the body ends before short_message")


def _decode_c_octet_string(body: bytes, start: int, limit: int, too_long_status: CommandStatus) -> tuple[str, int]:
    """Return the C-octet string at `start` (3.1), at most `limit` octets with its terminator, and where the next field
    starts.
    """
    end = body.find(0, start, start + limit)
    if end >= 0:
        return body[start:end].decode("latin-1"), end + 1
    if len(body) < start + limit:
        raise _InvalidPduBody(CommandStatus.ESME_RINVCMDLEN, "the body ends inside a string")
    raise _InvalidPduBody(too_long_status, f"a string of more than {limit - 1} characters")


def _decode_address(body: bytes, start: int, limit: int, too_long_status: CommandStatus) -> tuple[int, int, str, int]:
    """Return ton, npi and address at `start`, and where the next field starts."""
    ton, npi = _decode_octets(body, start, 2)
    address, offset = _decode_c_octet_string(body, start + 2, limit, too_long_status)
    return ton, npi, address, offset


def _decode_octets(body: bytes, start: int, count: int) -> bytes:
    """Return so many octets, each a field of its own."""
    octets = body[start : start + count]
    if len(octets) < count:
        raise _InvalidPduBody(CommandStatus.ESME_RINVCMDLEN, "the body ends before its last field")
    return octets


def _encode_c_octet_string(text: str, limit: int) -> bytes:
    if not text:
        return b"\0"
    octets = text.encode("latin-1")
    if len(octets) >= limit or 0 in octets:
        raise ValueError(f"{text!r} is not a C-octet string of at most {limit - 1} characters")
    return octets + b"\0"
