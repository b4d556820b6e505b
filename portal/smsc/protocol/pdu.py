"""The PDUs of SMPP 3.4 (Issue 1.2), octets to objects and back.

Strict: a field longer than the standard allows, a length that points past the end, a terminator that is missing,
octets left over: each raises `Malformed` with the command_status to answer. Nothing else is raised, whatever the
octets. C-octet strings become `str`, octet by octet (latin-1): which characters an address may have is not the codec's
rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from struct import Struct
from struct import error as StructError
from typing import ClassVar, Self

from portal.smsc.protocol.constants import RESPONSE, Command, Status, Tag

MAX_LENGTH = 64 * 1024
"""Octets of the longest PDU that is read."""
HEADER_LENGTH = 16
INTERFACE_VERSION = 0x34

_HEADER = Struct(">IIII")
_TLV = Struct(">HH")
_AFTER_TIMES = Struct(">5B")

Tlvs = Mapping[int, bytes]
_NO_TLVS: Tlvs = {}


class Malformed(Exception):
    """Octets that are not a PDU of SMPP 3.4.

    `status` is the command_status to answer, `sequence` that of the PDU, `command` its command_id as it came.
    """

    def __init__(self, status: Status, sequence: int, command: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.sequence = sequence
        self.command = command


class _Bad(Exception):
    """A flaw found in a body, before the header it belongs to is known."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status


@dataclass(slots=True)
class Header:
    """The four integers in front of each PDU (3.2.1); `length` counts itself and all that follows."""

    length: int
    command: int
    status: int
    sequence: int


def read_header(buffer: bytes | bytearray, start: int) -> Header | None:
    """Return the header at `start` of `buffer`, None while it is not all there.

    Malformed (ESME_RINVCMDLEN) for a length that no PDU may have: what follows in such a stream cannot be made out any
    more.
    """
    if len(buffer) - start < HEADER_LENGTH:
        return None
    header = Header(*_HEADER.unpack_from(buffer, start))
    if not HEADER_LENGTH <= header.length <= MAX_LENGTH:
        raise Malformed(Status.ESME_RINVCMDLEN, header.sequence, header.command, f"command_length {header.length}")
    return header


def decode(header: Header, body: bytes) -> Pdu:
    """Return the PDU of `header` with the octets that follow it.

    Malformed: ESME_RINVCMDID for a command that is not spoken here, else the status that tells what is wrong with the
    body.
    """
    decoder = _DECODERS.get(header.command)
    if decoder is None:
        raise Malformed(Status.ESME_RINVCMDID, header.sequence, header.command, f"command_id 0x{header.command:08X}")
    try:
        return decoder(header, body)
    except _Bad as bad:
        raise Malformed(bad.status, header.sequence, header.command, str(bad)) from None


def response(command: int, sequence: int, status: int = Status.ESME_ROK) -> bytes:
    """Return the response without a body to request `command`: unbind_resp, enquire_link_resp, or any that refuses."""
    return _HEADER.pack(HEADER_LENGTH, command | RESPONSE, status, sequence)


def generic_nack(sequence: int, status: int) -> bytes:
    """Return generic_nack (4.3.1): the answer to what could not be taken for a request."""
    return _HEADER.pack(HEADER_LENGTH, Command.GENERIC_NACK, status, sequence)


def accepted(command: int, sequence: int, message_id: str) -> bytes:
    """Return submit_sm_resp (4.4.2) or data_sm_resp (4.7.2) for an accepted message.

    `MessageResp.encode` in one step: this is sent once a message.
    """
    body = message_id.encode("latin-1")
    return _HEADER.pack(HEADER_LENGTH + 1 + len(body), command | RESPONSE, 0, sequence) + body + b"\0"


@dataclass(slots=True)
class Plain:
    """A PDU that is its header alone: unbind, enquire_link, their responses, cancel_sm_resp, generic_nack (4.2, 4.11,
    4.9.2, 4.3).
    """

    command: int
    sequence: int
    status: int = Status.ESME_ROK

    @classmethod
    def decode(cls, header: Header, body: bytes) -> Self:
        if body:
            raise _Bad(Status.ESME_RINVCMDLEN, "octets after a header that stands alone")
        return cls(header.command, header.sequence, header.status)

    def encode(self) -> bytes:
        return _HEADER.pack(HEADER_LENGTH, self.command, self.status, self.sequence)


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
    def decode(cls, header: Header, body: bytes) -> Self:
        system_id, at = _text(body, 0, 16, Status.ESME_RINVSYSID)
        password, at = _text(body, at, 9, Status.ESME_RINVPASWD)
        system_type, at = _text(body, at, 13, Status.ESME_RINVSYSTYP)
        if len(body) < at + 4:
            raise _Bad(Status.ESME_RINVCMDLEN, "the body ends before address_range")
        version, ton, npi = body[at : at + 3]
        address_range, at = _text(body, at + 3, 41, Status.ESME_RINVPARLEN)
        _read_tlvs(body, at)
        return cls(header.command, header.sequence, system_id, password, system_type, version, ton, npi, address_range)

    def encode(self) -> bytes:
        body = b"".join(
            (
                _c_octets(self.system_id, 16),
                _c_octets(self.password, 9),
                _c_octets(self.system_type, 13),
                bytes((self.interface_version, self.addr_ton, self.addr_npi)),
                _c_octets(self.address_range, 41),
            )
        )
        return _pdu(self.command, Status.ESME_ROK, self.sequence, body)


@dataclass(slots=True)
class BindResp:
    """The answer to a bind (4.1.2, 4.1.4, 4.1.6); without a body where the bind is refused."""

    command: int
    sequence: int
    status: int = Status.ESME_ROK
    system_id: str = ""
    tlvs: Tlvs = field(default_factory=dict)

    @classmethod
    def decode(cls, header: Header, body: bytes) -> Self:
        if header.status and not body:
            return cls(header.command, header.sequence, header.status)
        system_id, at = _text(body, 0, 16, Status.ESME_RINVSYSID)
        return cls(header.command, header.sequence, header.status, system_id, _read_tlvs(body, at))

    def encode(self) -> bytes:
        if self.status:
            return response(self.command, self.sequence, self.status)
        return _pdu(self.command, self.status, self.sequence, _c_octets(self.system_id, 16) + _write_tlvs(self.tlvs))


@dataclass(slots=True)
class ShortMessage:
    """What submit_sm (4.4.1) and deliver_sm (4.6.1) have in common, which is all their fields."""

    COMMAND: ClassVar[Command]

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
    def decode(cls, header: Header, body: bytes) -> Self:
        # One pass without a call a field: this runs once a message. What is wrong, if anything, _diagnose finds at
        # leisure.
        index = body.index
        try:
            service_end = index(0, 0, 6)
            source_end = index(0, service_end + 3, service_end + 24)
            destination_end = index(0, source_end + 3, source_end + 24)
            schedule_end = index(0, destination_end + 4, destination_end + 21)
            validity_end = index(0, schedule_end + 1, schedule_end + 18)
            registered, replace, coding, default_id, length = _AFTER_TIMES.unpack_from(body, validity_end + 1)
        except (ValueError, StructError):
            raise _diagnose(body) from None
        start = validity_end + 6
        end = start + length
        if length > 254 or end > len(body):
            raise _Bad(Status.ESME_RINVMSGLEN, f"sm_length {length}")
        tlvs = _read_tlvs(body, end) if end < len(body) else _NO_TLVS
        if length and tlvs.get(Tag.MESSAGE_PAYLOAD):
            raise _Bad(Status.ESME_RINVOPTPARAMVAL, "both short_message and message_payload")
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
        body = b"".join(
            (
                _c_octets(self.service_type, 6),
                bytes((self.source_ton, self.source_npi)),
                _c_octets(self.source, 21),
                bytes((self.dest_ton, self.dest_npi)),
                _c_octets(self.destination, 21),
                bytes((self.esm_class, self.protocol_id, self.priority)),
                _c_octets(self.schedule_delivery_time, 17),
                _c_octets(self.validity_period, 17),
                bytes(
                    (
                        self.registered_delivery,
                        self.replace_if_present,
                        self.data_coding,
                        self.default_message_id,
                        len(self.short_message),
                    )
                ),
                self.short_message,
                _write_tlvs(self.tlvs),
            )
        )
        return _pdu(self.COMMAND, Status.ESME_ROK, self.sequence, body)

    @property
    def body(self) -> bytes:
        """The user data, whether in short_message or in message_payload (5.3.2.32)."""
        return self.short_message or self.tlvs.get(Tag.MESSAGE_PAYLOAD, b"")


@dataclass(slots=True)
class SubmitSm(ShortMessage):
    """submit_sm (4.4.1)."""

    COMMAND = Command.SUBMIT_SM


@dataclass(slots=True)
class DeliverSm(ShortMessage):
    """deliver_sm (4.6.1)."""

    COMMAND = Command.DELIVER_SM


@dataclass(slots=True)
class DataSm:
    """data_sm (4.7.1): a submit_sm whose body is message_payload, and whose options are all TLVs."""

    COMMAND: ClassVar[Command] = Command.DATA_SM

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
    def decode(cls, header: Header, body: bytes) -> Self:
        service_type, at = _text(body, 0, 6, Status.ESME_RINVSERTYP)
        source_ton, source_npi, source, at = _address(body, at, 65, Status.ESME_RINVSRCADR)
        dest_ton, dest_npi, destination, at = _address(body, at, 65, Status.ESME_RINVDSTADR)
        esm_class, registered_delivery, data_coding = _octets(body, at, 3)
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
            _read_tlvs(body, at + 3),
        )

    def encode(self) -> bytes:
        body = b"".join(
            (
                _c_octets(self.service_type, 6),
                bytes((self.source_ton, self.source_npi)),
                _c_octets(self.source, 65),
                bytes((self.dest_ton, self.dest_npi)),
                _c_octets(self.destination, 65),
                bytes((self.esm_class, self.registered_delivery, self.data_coding)),
                _write_tlvs(self.tlvs),
            )
        )
        return _pdu(self.COMMAND, Status.ESME_ROK, self.sequence, body)

    @property
    def body(self) -> bytes:
        """The user data (5.3.2.32)."""
        return self.tlvs.get(Tag.MESSAGE_PAYLOAD, b"")


@dataclass(slots=True)
class QuerySm:
    """query_sm (4.8.1)."""

    COMMAND: ClassVar[Command] = Command.QUERY_SM

    sequence: int
    message_id: str = ""
    source_ton: int = 0
    source_npi: int = 0
    source: str = ""

    @classmethod
    def decode(cls, header: Header, body: bytes) -> Self:
        message_id, at = _text(body, 0, 65, Status.ESME_RINVMSGID)
        source_ton, source_npi, source, at = _address(body, at, 21, Status.ESME_RINVSRCADR)
        _read_tlvs(body, at)
        return cls(header.sequence, message_id, source_ton, source_npi, source)

    def encode(self) -> bytes:
        body = b"".join(
            (
                _c_octets(self.message_id, 65),
                bytes((self.source_ton, self.source_npi)),
                _c_octets(self.source, 21),
            )
        )
        return _pdu(self.COMMAND, Status.ESME_ROK, self.sequence, body)


@dataclass(slots=True)
class QuerySmResp:
    """query_sm_resp (4.8.2); without a body where the query is refused. `final_date` is empty until there is one."""

    command: int
    sequence: int
    status: int = Status.ESME_ROK
    message_id: str = ""
    final_date: str = ""
    message_state: int = 0
    error_code: int = 0

    @classmethod
    def decode(cls, header: Header, body: bytes) -> Self:
        if header.status and not body:
            return cls(header.command, header.sequence, header.status)
        message_id, at = _text(body, 0, 65, Status.ESME_RINVMSGID)
        final_date, at = _text(body, at, 17, Status.ESME_RINVPARLEN)
        message_state, error_code = _octets(body, at, 2)
        _read_tlvs(body, at + 2)
        return cls(header.command, header.sequence, header.status, message_id, final_date, message_state, error_code)

    def encode(self) -> bytes:
        if self.status:
            return response(self.command, self.sequence, self.status)
        body = b"".join(
            (
                _c_octets(self.message_id, 65),
                _c_octets(self.final_date, 17),
                bytes((self.message_state, self.error_code)),
            )
        )
        return _pdu(self.command, self.status, self.sequence, body)


@dataclass(slots=True)
class CancelSm:
    """cancel_sm (4.9.1). Without a message_id it means all messages from `source` to `destination`."""

    COMMAND: ClassVar[Command] = Command.CANCEL_SM

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
    def decode(cls, header: Header, body: bytes) -> Self:
        service_type, at = _text(body, 0, 6, Status.ESME_RINVSERTYP)
        message_id, at = _text(body, at, 65, Status.ESME_RINVMSGID)
        source_ton, source_npi, source, at = _address(body, at, 21, Status.ESME_RINVSRCADR)
        dest_ton, dest_npi, destination, at = _address(body, at, 21, Status.ESME_RINVDSTADR)
        _read_tlvs(body, at)
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
                _c_octets(self.service_type, 6),
                _c_octets(self.message_id, 65),
                bytes((self.source_ton, self.source_npi)),
                _c_octets(self.source, 21),
                bytes((self.dest_ton, self.dest_npi)),
                _c_octets(self.destination, 21),
            )
        )
        return _pdu(self.COMMAND, Status.ESME_ROK, self.sequence, body)


@dataclass(slots=True)
class MessageResp:
    """submit_sm_resp (4.4.2), data_sm_resp (4.7.2) and deliver_sm_resp (4.6.2), as `command` says; a body
    may be missing, as clients leave it out.
    """

    command: int
    sequence: int
    status: int = Status.ESME_ROK
    message_id: str = ""
    tlvs: Tlvs = field(default_factory=dict)

    @classmethod
    def decode(cls, header: Header, body: bytes) -> Self:
        if not body:
            return cls(header.command, header.sequence, header.status)
        message_id, at = _text(body, 0, 65, Status.ESME_RINVPARLEN)
        return cls(header.command, header.sequence, header.status, message_id, _read_tlvs(body, at))

    def encode(self) -> bytes:
        if self.status:
            return response(self.command, self.sequence, self.status)
        return _pdu(self.command, self.status, self.sequence, _c_octets(self.message_id, 65) + _write_tlvs(self.tlvs))


Pdu = Plain | Bind | BindResp | SubmitSm | DeliverSm | DataSm | QuerySm | QuerySmResp | CancelSm | MessageResp

_DECODERS: dict[int, Callable[[Header, bytes], Pdu]] = {
    Command.GENERIC_NACK: Plain.decode,
    Command.BIND_RECEIVER: Bind.decode,
    Command.BIND_RECEIVER_RESP: BindResp.decode,
    Command.BIND_TRANSMITTER: Bind.decode,
    Command.BIND_TRANSMITTER_RESP: BindResp.decode,
    Command.QUERY_SM: QuerySm.decode,
    Command.QUERY_SM_RESP: QuerySmResp.decode,
    Command.SUBMIT_SM: SubmitSm.decode,
    Command.SUBMIT_SM_RESP: MessageResp.decode,
    Command.DELIVER_SM: DeliverSm.decode,
    Command.DELIVER_SM_RESP: MessageResp.decode,
    Command.UNBIND: Plain.decode,
    Command.UNBIND_RESP: Plain.decode,
    Command.CANCEL_SM: CancelSm.decode,
    Command.CANCEL_SM_RESP: Plain.decode,
    Command.BIND_TRANSCEIVER: Bind.decode,
    Command.BIND_TRANSCEIVER_RESP: BindResp.decode,
    Command.ENQUIRE_LINK: Plain.decode,
    Command.ENQUIRE_LINK_RESP: Plain.decode,
    Command.DATA_SM: DataSm.decode,
    Command.DATA_SM_RESP: MessageResp.decode,
}

# Octets that the value of a known optional parameter may have (5.3.2). Unknown ones are skipped (3.3).
_TLV_LENGTHS: dict[int, range] = {
    Tag.DEST_ADDR_SUBUNIT: range(1, 2),
    Tag.SOURCE_ADDR_SUBUNIT: range(1, 2),
    Tag.QOS_TIME_TO_LIVE: range(4, 5),
    Tag.PAYLOAD_TYPE: range(1, 2),
    Tag.RECEIPTED_MESSAGE_ID: range(1, 66),
    Tag.PRIVACY_INDICATOR: range(1, 2),
    Tag.USER_MESSAGE_REFERENCE: range(2, 3),
    Tag.SOURCE_PORT: range(2, 3),
    Tag.DESTINATION_PORT: range(2, 3),
    Tag.SAR_MSG_REF_NUM: range(2, 3),
    Tag.LANGUAGE_INDICATOR: range(1, 2),
    Tag.SAR_TOTAL_SEGMENTS: range(1, 2),
    Tag.SAR_SEGMENT_SEQNUM: range(1, 2),
    Tag.SC_INTERFACE_VERSION: range(1, 2),
    Tag.NETWORK_ERROR_CODE: range(3, 4),
    Tag.MORE_MESSAGES_TO_SEND: range(1, 2),
    Tag.MESSAGE_STATE: range(1, 2),
    Tag.OUTGOING_ID: range(1, 66),
    Tag.INCOMING_ID: range(1, 66),
}
# Values that a known optional parameter may have, where not all that its octets can hold.
_TLV_VALUES: dict[int, range] = {
    Tag.DEST_ADDR_SUBUNIT: range(5),
    Tag.SOURCE_ADDR_SUBUNIT: range(5),
    Tag.PRIVACY_INDICATOR: range(4),
    Tag.SAR_TOTAL_SEGMENTS: range(1, 256),
    Tag.SAR_SEGMENT_SEQNUM: range(1, 256),
    Tag.MORE_MESSAGES_TO_SEND: range(2),
}


def _read_tlvs(body: bytes, at: int) -> Tlvs:
    tlvs: dict[int, bytes] = {}
    end = len(body)
    while at < end:
        if end - at < 4:
            raise _Bad(Status.ESME_RINVOPTPARSTREAM, "octets left over after the last optional parameter")
        tag, length = _TLV.unpack_from(body, at)
        at += 4
        if end - at < length:
            raise _Bad(Status.ESME_RINVOPTPARSTREAM, f"optional parameter 0x{tag:04X} ends after the PDU")
        value = body[at : at + length]
        at += length
        if tag in _TLV_LENGTHS and length not in _TLV_LENGTHS[tag]:
            raise _Bad(Status.ESME_RINVPARLEN, f"optional parameter 0x{tag:04X} of {length} octets")
        if tag in _TLV_VALUES and int.from_bytes(value) not in _TLV_VALUES[tag]:
            raise _Bad(Status.ESME_RINVOPTPARAMVAL, f"optional parameter 0x{tag:04X} is {value.hex()}")
        tlvs[tag] = value
    return tlvs


def _write_tlvs(tlvs: Tlvs) -> bytes:
    return b"".join([_TLV.pack(tag, len(value)) + value for tag, value in tlvs.items()])


# The mandatory fields of a short message up to validity_period: octets before the string, its limit with terminator,
# what an overlong one is answered with.
_STRINGS = (
    (0, 6, Status.ESME_RINVSERTYP),
    (2, 21, Status.ESME_RINVSRCADR),
    (2, 21, Status.ESME_RINVDSTADR),
    (3, 17, Status.ESME_RINVSCHED),
    (0, 17, Status.ESME_RINVEXPIRY),
)


def _diagnose(body: bytes) -> _Bad:
    """Return what is wrong with a short message whose mandatory fields could not be read."""
    at = 0
    try:
        for before, limit, overlong in _STRINGS:
            _, at = _text(body, at + before, limit, overlong)
    except _Bad as bad:
        return bad
    return _Bad(Status.ESME_RINVCMDLEN, "the body ends before short_message")


def _text(body: bytes, start: int, limit: int, overlong: Status) -> tuple[str, int]:
    """Return the C-octet string at `start` (3.1), at most `limit` octets with its terminator, and where the next field
    starts.
    """
    end = body.find(0, start, start + limit)
    if end >= 0:
        return body[start:end].decode("latin-1"), end + 1
    if len(body) < start + limit:
        raise _Bad(Status.ESME_RINVCMDLEN, "the body ends inside a string")
    raise _Bad(overlong, f"a string of more than {limit - 1} characters")


def _address(body: bytes, start: int, limit: int, overlong: Status) -> tuple[int, int, str, int]:
    """Return ton, npi and address at `start`, and where the next field starts."""
    ton, npi = _octets(body, start, 2)
    address, at = _text(body, start + 2, limit, overlong)
    return ton, npi, address, at


def _octets(body: bytes, start: int, count: int) -> bytes:
    """Return so many octets, each a field of its own."""
    octets = body[start : start + count]
    if len(octets) < count:
        raise _Bad(Status.ESME_RINVCMDLEN, "the body ends before its last field")
    return octets


def _c_octets(text: str, limit: int) -> bytes:
    octets = text.encode("latin-1")
    if len(octets) >= limit or 0 in octets:
        raise ValueError(f"{text!r} is not a C-octet string of at most {limit - 1} characters")
    return octets + b"\0"


def _pdu(command: int, status: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(HEADER_LENGTH + len(body), command, status, sequence) + body
