"""The PDUs of SMPP 3.4 (Issue 1.2), octets to objects and back.

Strict: a field longer than the standard allows, a length that points past the end, a terminator that is missing, octets
left over: each raises `MalformedPdu` with the command_status to answer. Nothing else is raised, whatever the octets. Of
a response its command_status decides, and nobody could be told of a flaw, so sessions go by its header and don't have
its body read here. C-octet strings become `str`, octet by octet (latin-1): which characters an address may have is not
the codec's rule.

A class of a PDU is its table of the standard: the fields of the body, in their order, each an `_octet` or a `_string`.
What is read or written once a message does so by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from struct import Struct
from struct import error as StructError
from typing import Any, ClassVar, Self

from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId, CommandStatus, RequestRefused, TlvTag

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
    except RequestRefused as refused:
        raise MalformedPdu(refused.status, header.sequence, header.command, str(refused)) from None


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


def _octet(default: int = 0) -> Any:
    """A field of one octet."""
    return field(default=default, metadata={"limits": (0, CommandStatus.ESME_RINVCMDLEN)})


def _string(limit: int, too_long: CommandStatus = CommandStatus.ESME_RINVPARLEN, *, is_shown: bool = True) -> Any:
    """A C-octet string (3.1) of at most `limit` octets with its terminator; and what a longer one is answered with."""
    return field(default="", repr=is_shown, metadata={"limits": (limit, too_long)})


@cache
def _list_body_fields(pdu_class: type) -> list[tuple[str, int, CommandStatus]]:
    """Return a PDU's fields of the body: their names, limits (0: one octet), and the statuses of longer ones."""
    return [(each.name, *each.metadata["limits"]) for each in fields(pdu_class) if each.metadata]


@dataclass(slots=True)
class _Request:
    """A request of a kind of its own. TLV_LENGTHS: octets of the optional parameters that are used (`_decode_tlvs`)."""

    COMMAND: ClassVar[CommandId]
    TLV_LENGTHS: ClassVar[Mapping[int, int]] = _NO_LENGTHS

    sequence: int

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        return cls(header.sequence, *_decode_fields(cls, body, cls.TLV_LENGTHS))

    def encode(self) -> bytes:
        return encode_pdu(self.COMMAND, CommandStatus.ESME_ROK, self.sequence, _encode_fields(self))


@dataclass(slots=True)
class _Response:
    """A response, as `command` says; without a body where the request is refused."""

    command: int
    sequence: int
    status: int = CommandStatus.ESME_ROK

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        return cls(header.command, header.sequence, header.status, *(_decode_fields(cls, body) if body else ()))

    def encode(self) -> bytes:
        return encode_pdu(self.command, self.status, self.sequence, b"" if self.status else _encode_fields(self))


@dataclass(slots=True)
class HeaderOnlyPdu(_Response):
    """A PDU that is its header alone: unbind, enquire_link, their responses, cancel_sm_resp, generic_nack (4.2, 4.11,
    4.9.2, 4.3).
    """

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        if body:
            raise RequestRefused(CommandStatus.ESME_RINVCMDLEN, "octets after a header that stands alone")
        return cls(header.command, header.sequence, header.status)


@dataclass(slots=True)
class Bind:
    """bind_transmitter, bind_receiver or bind_transceiver (4.1.1, 4.1.3, 4.1.5), as `command` says."""

    command: int
    sequence: int
    system_id: str = _string(16, CommandStatus.ESME_RINVSYSID)
    password: str = _string(9, CommandStatus.ESME_RINVPASWD, is_shown=False)
    system_type: str = _string(13, CommandStatus.ESME_RINVSYSTYP)
    interface_version: int = _octet(INTERFACE_VERSION)
    addr_ton: int = _octet()
    addr_npi: int = _octet()
    address_range: str = _string(41)

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        return cls(header.command, header.sequence, *_decode_fields(cls, body))

    def encode(self) -> bytes:
        return encode_pdu(self.command, CommandStatus.ESME_ROK, self.sequence, _encode_fields(self))


@dataclass(slots=True)
class BindResp(_Response):
    """The answer to a bind (4.1.2, 4.1.4, 4.1.6)."""

    system_id: str = _string(16)
    tlvs: Tlvs = field(default_factory=dict)


@dataclass(slots=True)
class _Message(_Request):
    """What submit_sm, deliver_sm and data_sm begin with."""

    service_type: str = _string(6, CommandStatus.ESME_RINVSERTYP)
    source_ton: int = _octet()
    source_npi: int = _octet()
    source: str = _string(21, CommandStatus.ESME_RINVSRCADR)
    dest_ton: int = _octet()
    dest_npi: int = _octet()
    destination: str = _string(21, CommandStatus.ESME_RINVDSTADR)
    esm_class: int = _octet()


@dataclass(slots=True)
class ShortMessage(_Message):
    """What submit_sm (4.4.1) and deliver_sm (4.6.1) have in common, which is all their fields."""

    protocol_id: int = _octet()
    priority: int = _octet()
    schedule_delivery_time: str = _string(17, CommandStatus.ESME_RINVSCHED)
    validity_period: str = _string(17, CommandStatus.ESME_RINVEXPIRY)
    registered_delivery: int = _octet()
    replace_if_present: int = _octet()
    data_coding: int = _octet()
    default_message_id: int = _octet()
    short_message: bytes = b""
    tlvs: Tlvs = field(default_factory=dict)

    @classmethod
    def decode(cls, header: PduHeader, body: bytes) -> Self:
        # One pass without a call a field: this runs once a message. What is wrong, if anything, the table finds at
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
            _decode_fields(cls, body)  # raises what is wrong with them, but for sm_length, which is none of them
            raise RequestRefused(CommandStatus.ESME_RINVCMDLEN, "the body ends before short_message") from None
        start = validity_end + 6
        end = start + length
        if length > 254 or end > len(body):
            raise RequestRefused(CommandStatus.ESME_RINVMSGLEN, f"sm_length {length}")
        # Some clients write the NUL of their string behind short_message, and don't count it.
        is_over = end == len(body) or (end + 1 == len(body) and not body[end])
        tlvs = _NO_TLVS if is_over else _decode_tlvs(body, end, cls.TLV_LENGTHS)
        if length and tlvs.get(TlvTag.MESSAGE_PAYLOAD):
            raise RequestRefused(CommandStatus.ESME_RINVOPTPARAMVAL, "both short_message and message_payload")
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


@dataclass(slots=True)
class DataSm(_Message):
    """data_sm (4.7.1): a submit_sm whose body is message_payload, and whose options are all TLVs."""

    COMMAND = CommandId.DATA_SM
    TLV_LENGTHS = DATA_TLV_LENGTHS

    # Longer than in the others.
    source: str = _string(65, CommandStatus.ESME_RINVSRCADR)
    destination: str = _string(65, CommandStatus.ESME_RINVDSTADR)
    registered_delivery: int = _octet()
    data_coding: int = _octet()
    tlvs: Tlvs = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        """The user data (5.3.2.32)."""
        return self.tlvs.get(TlvTag.MESSAGE_PAYLOAD, b"")


@dataclass(slots=True)
class QuerySm(_Request):
    """query_sm (4.8.1)."""

    COMMAND = CommandId.QUERY_SM

    message_id: str = _string(65, CommandStatus.ESME_RINVMSGID)
    source_ton: int = _octet()
    source_npi: int = _octet()
    source: str = _string(21, CommandStatus.ESME_RINVSRCADR)


@dataclass(slots=True)
class QuerySmResp(_Response):
    """query_sm_resp (4.8.2). `final_date` is empty until there is one."""

    message_id: str = _string(65)
    final_date: str = _string(17)
    message_state: int = _octet()
    error_code: int = _octet()


@dataclass(slots=True)
class CancelSm(_Request):
    """cancel_sm (4.9.1). Without a message_id it means all messages from `source` to `destination`."""

    COMMAND = CommandId.CANCEL_SM

    service_type: str = _string(6, CommandStatus.ESME_RINVSERTYP)
    message_id: str = _string(65, CommandStatus.ESME_RINVMSGID)
    source_ton: int = _octet()
    source_npi: int = _octet()
    source: str = _string(21, CommandStatus.ESME_RINVSRCADR)
    dest_ton: int = _octet()
    dest_npi: int = _octet()
    destination: str = _string(21, CommandStatus.ESME_RINVDSTADR)


@dataclass(slots=True)
class MessageResp(_Response):
    """submit_sm_resp (4.4.2), data_sm_resp (4.7.2) and deliver_sm_resp (4.6.2); a body may be missing, as clients leave
    it out.
    """

    message_id: str = _string(65)
    tlvs: Tlvs = field(default_factory=dict)


Pdu = HeaderOnlyPdu | Bind | BindResp | SubmitSm | DeliverSm | DataSm | QuerySm | QuerySmResp | CancelSm | MessageResp

_REQUESTS_AND_RESPONSES: Mapping[CommandId, tuple[type[Pdu], type[Pdu]]] = {
    CommandId.BIND_RECEIVER: (Bind, BindResp),
    CommandId.BIND_TRANSMITTER: (Bind, BindResp),
    CommandId.BIND_TRANSCEIVER: (Bind, BindResp),
    CommandId.SUBMIT_SM: (SubmitSm, MessageResp),
    CommandId.DELIVER_SM: (DeliverSm, MessageResp),
    CommandId.DATA_SM: (DataSm, MessageResp),
    CommandId.QUERY_SM: (QuerySm, QuerySmResp),
    CommandId.CANCEL_SM: (CancelSm, HeaderOnlyPdu),
    CommandId.ENQUIRE_LINK: (HeaderOnlyPdu, HeaderOnlyPdu),
    CommandId.UNBIND: (HeaderOnlyPdu, HeaderOnlyPdu),
}
DECODERS: dict[int, Callable[[PduHeader, bytes], Pdu]] = {CommandId.GENERIC_NACK: HeaderOnlyPdu.decode}
"""What decodes each PDU that is known, by its command_id."""
for _command, (_request, _response) in _REQUESTS_AND_RESPONSES.items():
    DECODERS[_command], DECODERS[_command | RESPONSE_BIT] = _request.decode, _response.decode


def _decode_fields(pdu_class: type, body: bytes, tlv_lengths: Mapping[int, int] = _NO_LENGTHS) -> list[Any]:
    """Return the fields of a body, in their order, and its optional parameters where the class has them."""
    values: list[Any] = []
    offset = 0
    for _, limit, too_long_status in _list_body_fields(pdu_class):
        if limit:
            text, offset = _decode_c_octet_string(body, offset, limit, too_long_status)
            values.append(text)
        elif offset < len(body):
            values.append(body[offset])
            offset += 1
        else:
            raise RequestRefused(CommandStatus.ESME_RINVCMDLEN, "the body ends before its last field")
    tlvs = _decode_tlvs(body, offset, tlv_lengths)
    return [*values, tlvs] if hasattr(pdu_class, "tlvs") else values


def _encode_fields(message: Any) -> bytes:
    """Return the body of a PDU."""
    body = bytearray()
    for name, limit, _ in _list_body_fields(message.__class__):
        value = getattr(message, name)
        body += _encode_c_octet_string(value, limit) if limit else bytes((value,))
    return bytes(body) + encode_tlvs(getattr(message, "tlvs", _NO_TLVS))


def _decode_tlvs(body: bytes, offset: int, lengths: Mapping[int, int]) -> Tlvs:
    """Return the optional parameters from `offset` on.

    Args:
        lengths: octets of those that its operation uses (5.3.2). Nothing is asked of the values of others, which it
            ignores (3.3.1).
    """
    tlvs: dict[int, bytes] = {}
    end = len(body)
    while offset < end:
        if end - offset < 4:
            raise RequestRefused(
                CommandStatus.ESME_RINVOPTPARSTREAM, "octets left over after the last optional parameter"
            )
        tag, length = _TLV_HEADER_STRUCT.unpack_from(body, offset)
        offset += 4
        if end - offset < length:
            raise RequestRefused(
                CommandStatus.ESME_RINVOPTPARSTREAM, f"optional parameter 0x{tag:04X} ends after the PDU"
            )
        value = body[offset : offset + length]
        offset += length
        if tag in lengths:
            if length != lengths[tag]:
                raise RequestRefused(
                    CommandStatus.ESME_RINVPARLEN, f"optional parameter 0x{tag:04X} of {length} octets"
                )
            if tag in _COUNTED_FROM_1 and value == b"\0":
                raise RequestRefused(CommandStatus.ESME_RINVOPTPARAMVAL, f"optional parameter 0x{tag:04X} is 0")
        tlvs[tag] = value
    return tlvs


def _decode_c_octet_string(body: bytes, start: int, limit: int, too_long_status: CommandStatus) -> tuple[str, int]:
    """Return the C-octet string at `start` (3.1), at most `limit` octets with its terminator, and where the next field
    starts.
    """
    end = body.find(0, start, start + limit)
    if end >= 0:
        return body[start:end].decode("latin-1"), end + 1
    if len(body) < start + limit:
        raise RequestRefused(CommandStatus.ESME_RINVCMDLEN, "the body ends inside a string")
    raise RequestRefused(too_long_status, f"a string of more than {limit - 1} characters")


def _encode_c_octet_string(text: str, limit: int) -> bytes:
    if not text:
        return b"\0"
    octets = text.encode("latin-1")
    if len(octets) >= limit or 0 in octets:
        raise ValueError(f"{text!r} is not a C-octet string of at most {limit - 1} characters")
    return octets + b"\0"
