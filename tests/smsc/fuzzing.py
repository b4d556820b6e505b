"""What the fuzz tests and `bench/fuzz` share: PDUs of each kind that the codec knows, damage to them, and the
responses that the server owes for any octets.

Kinds come from the codec's own table and their fields from their classes, so a new PDU is fuzzed from its first day.
"""

from __future__ import annotations

import dataclasses
import struct
from collections import Counter
from collections.abc import Mapping
from functools import cache
from random import Random
from types import MethodType
from typing import get_origin, get_type_hints

from portal.smsc.connection.session import MAX_PDUS_BEFORE_BIND
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE_BIT, CommandId, TlvTag
from portal.smsc.protocol.pdu import (
    Bind,
    CancelSm,
    DataSm,
    DeliverSm,
    MalformedPdu,
    Pdu,
    PduHeader,
    QuerySm,
    SubmitSm,
)

COMMAND_IDS: tuple[int, ...] = tuple(pdu.DECODERS)
"""The command_id of each PDU that the codec reads."""
UNKNOWN_COMMAND_IDS = (0x00000000, 0x0000000B, 0x00000102, 0x0000FFFF, 0x80000102, 0xDEADBEEF, 0xFFFFFFFF)
"""Some that it never will: outbind and alert_notification go from server to client, the others are reserved."""

_BIND_COMMANDS = (CommandId.BIND_TRANSMITTER, CommandId.BIND_RECEIVER, CommandId.BIND_TRANSCEIVER)
_INTEGER_MAXIMA = (0xFFFFFFFF, 0xFFFF, 0xFF)
_MAX_STRING_LENGTH = 300
_MAX_OCTETS_LENGTH = 1_000


@dataclasses.dataclass(frozen=True)
class PduField:
    """A field of a PDU: its name, its type (int, str, bytes, or Mapping for optional parameters), and the largest value
    or greatest length that can be written.
    """

    name: str
    type: type
    limit: int = 0


def get_pdu_class(command: int) -> type:
    """Return the class of a PDU."""
    decoder = pdu.DECODERS[command]
    assert isinstance(decoder, MethodType)
    assert isinstance(decoder.__self__, type)
    return decoder.__self__


def get_command_id(message: Pdu) -> int:
    """Return the command_id of a PDU; one that belongs to its class is no field of it."""
    if isinstance(message, SubmitSm | DeliverSm | DataSm | QuerySm | CancelSm):
        return message.COMMAND
    return message.command


@cache
def _get_field_types(pdu_class: type) -> dict[str, type]:
    """Return the types of a class's fields. That takes a while, and thousands of PDUs are made to find limits."""
    return get_type_hints(pdu_class)


@cache
def list_fields(command: int) -> tuple[PduField, ...]:
    """Return the fields of a PDU other than command and command_status, with limits found by trying."""
    hints = _get_field_types(get_pdu_class(command))
    fields = []
    for each in dataclasses.fields(get_pdu_class(command)):
        kind = get_origin(hints[each.name]) or hints[each.name]
        if each.name in ("command", "status"):
            continue
        if kind is int:
            fields.append(
                PduField(
                    each.name, int, next(value for value in _INTEGER_MAXIMA if _is_encodable(command, each.name, value))
                )
            )
        elif kind in (str, bytes):
            unit = "x" if kind is str else b"x"
            longest = _MAX_OCTETS_LENGTH if kind is bytes else _MAX_STRING_LENGTH
            lengths = (longest, *range(_MAX_STRING_LENGTH, -1, -1))
            fields.append(
                PduField(
                    each.name,
                    kind,
                    next(length for length in lengths if _is_encodable(command, each.name, unit * length)),
                )
            )
        elif kind is Mapping or (isinstance(kind, type) and issubclass(kind, Mapping)):
            fields.append(PduField(each.name, Mapping))
    return tuple(fields)


def make_pdu(command: int, **values: object) -> Pdu:
    """Return a PDU. Fields that are not given are zero, empty or their class's default."""
    pdu_class = get_pdu_class(command)
    hints = _get_field_types(pdu_class)
    arguments = dict(values)
    for each in dataclasses.fields(pdu_class):
        if each.name == "command":
            arguments["command"] = command
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            arguments.setdefault(each.name, hints[each.name]())
    made: Pdu = pdu_class(**arguments)
    return made


def _is_encodable(command: int, name: str, value: object) -> bool:
    try:
        make_pdu(command, **{name: value}).encode()
    except (ValueError, OverflowError, struct.error):
        return False
    return True


def are_fields_consistent(values: Mapping[str, object]) -> bool:
    """Whether fields go together: a text is in short_message or in message_payload, not in both (5.3.2.32)."""
    tlvs = values.get("tlvs")
    return not (values.get("short_message") and isinstance(tlvs, Mapping) and tlvs.get(TlvTag.MESSAGE_PAYLOAD))


# Octets of the optional parameters that the server uses, as the standard has them: 5.3.2.1, 17, 22 to 24, and 9.
_SUBMIT_TLV_LENGTHS = {0x0005: 1, 0x0204: 2, 0x020C: 2, 0x020E: 1, 0x020F: 1}
USED_TLV_LENGTHS: Mapping[int, Mapping[int, int]] = {
    CommandId.SUBMIT_SM: _SUBMIT_TLV_LENGTHS,
    CommandId.DATA_SM: {**_SUBMIT_TLV_LENGTHS, 0x0017: 4},
}
"""By command_id the optional parameters of which something is asked, with how many octets they have."""


def valid_tlv_lengths(command: int, tag: int) -> range:
    """Return how many octets an optional parameter of a PDU may have."""
    length = USED_TLV_LENGTHS.get(command, {}).get(tag)
    return range(50) if length is None else range(length, length + 1)


def valid_tlv_octets(command: int, tag: int) -> range:
    """Return what the octets of an optional parameter may be: there is no segment 0, nor a text of none."""
    is_counted = tag in (TlvTag.SAR_TOTAL_SEGMENTS, TlvTag.SAR_SEGMENT_SEQNUM) and command in USED_TLV_LENGTHS
    return range(1 if is_counted else 0, 256)


class PduFuzzer:
    """Makes PDUs, whole and damaged, of a generator of random numbers: the same numbers, the same octets."""

    def __init__(self, random: Random, valid_pdus: list[bytes]) -> None:
        self._random = random
        self._valid_pdus = valid_pdus

    def next_pdu(self, *, bad_framing: float) -> bytes:
        """Return a PDU: three in ten are whole.

        Args:
            bad_framing: the share of those whose command_length is not how long they are.
        """
        random = self._random
        octets = random.choice(self._valid_pdus)
        _, command, status, _ = struct.unpack_from(">IIII", octets)
        # Low numbers now and then: those under which the server itself asks.
        sequence, body = random.choice((random.getrandbits(32), random.randrange(100))), octets[pdu.HEADER_LENGTH :]
        if random.random() < 0.7:
            for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
                body = self._damage_body(body)
            if random.random() < 0.1:
                flipped_command = command ^ 1 << random.randrange(32)
                command = random.choice(
                    (random.choice(COMMAND_IDS), random.choice(UNKNOWN_COMMAND_IDS), flipped_command)
                )
            if random.random() < 0.1:
                status = random.getrandbits(32)
        length = pdu.HEADER_LENGTH + len(body)
        if random.random() < bad_framing:
            length = self._wrong_length(length)
        return struct.pack(">IIII", length, command, status, sequence) + body

    def _wrong_length(self, length: int) -> int:
        random = self._random
        lengths = (0, 1, 15, 16, length - 1, length + 1, 2 * length, 0x10000, 0x10001, 1 << 31, (1 << 32) - 1)
        return random.choice((*lengths, random.getrandbits(32), random.getrandbits(16)))

    def _damage_body(self, body: bytes) -> bytes:
        random = self._random
        damage = random.randrange(11)
        start = random.randrange(len(body) + 1)
        end = min(start + random.randrange(1, 24), len(body))
        if damage == 0 and body:
            at = random.randrange(len(body))
            return body[:at] + bytes((body[at] ^ 1 << random.randrange(8),)) + body[at + 1 :]
        if damage == 1 and body:
            at = random.randrange(len(body))
            return body[:at] + random.choice((b"\0", b"\x01", b"\x7f", b"\x80", b"\xfe", b"\xff")) + body[at + 1 :]
        if damage == 2:
            return body[:start]
        if damage == 3:
            return body[:start] + body[end:]
        if damage == 4:  # a field twice
            return body[:end] + body[start:]
        if damage == 5:  # a terminator less
            return body[:start] + body[start:].replace(b"\0", b"", 1)
        if damage == 6:
            return body[:start] + random.randbytes(random.randrange(1, 40)) + body[start:]
        if damage == 7:  # an overlong string
            return body[:start] + b"x" * random.choice((5, 20, 65, 255, 3_000)) + body[start:]
        if damage == 8:  # the end of another
            other = random.choice(self._valid_pdus)[pdu.HEADER_LENGTH :]
            return body[:start] + other[random.randrange(len(other) + 1) :]
        value = random.randbytes(random.choice((0, 1, 1, 2, 2, 3, 30)))
        tag = random.choice((*TlvTag, random.getrandbits(16)))
        if damage == 9:
            return body + struct.pack(">HH", tag, len(value)) + value
        return (
            body + struct.pack(">HH", tag, random.choice((0, len(value) + 1, 0xFFFF, random.getrandbits(16)))) + value
        )


def make_valid_pdus(random: Random, count: int) -> list[bytes]:
    """Return valid PDUs, as many of each kind, with anything that can be written in their fields."""
    return [_make_random_pdu(random, command).encode() for command in COMMAND_IDS for _ in range(count)]


def _make_random_pdu(random: Random, command: int) -> Pdu:
    values: dict[str, object] = {}
    for each in list_fields(command):
        if each.type is int:
            values[each.name] = random.choice((0, 1, random.randint(0, each.limit), each.limit))
        elif each.type is str:
            octets = bytes(random.randrange(1, 256) for _ in range(_random_length(random, each.limit)))
            values[each.name] = octets.decode("latin-1")
        elif each.type is bytes:
            values[each.name] = random.randbytes(_random_length(random, each.limit))
        else:
            values[each.name] = dict(_random_tlv(random, command) for _ in range(random.choice((0, 0, 1, 3))))
    if not are_fields_consistent(values):
        values["short_message"] = b""
    return make_pdu(command, **values)


def _random_length(random: Random, limit: int) -> int:
    return random.choice((0, random.randint(0, limit), limit))


def _random_tlv(random: Random, command: int) -> tuple[int, bytes]:
    tag = random.choice((*TlvTag, random.getrandbits(16)))
    length = random.choice(valid_tlv_lengths(command, tag))
    return tag, bytes(random.choice(valid_tlv_octets(command, tag)) for _ in range(length))


class ExpectedResponses:
    """What the server owes one client: an answer for each request, and whether it ends the connection.

    Reads what the client sends as `smpp.md` tells it. The responses `required` must come, by command_id and
    sequence_number; those that are `optional` may come too: their requests came after the unbind, or there may have
    been no time for them. `must_close`: the server closes the connection; `must_close_at_once`: and reads nothing more.
    """

    def __init__(self, system_id: str, password: str) -> None:
        self.required: Counter[tuple[int, int]] = Counter()
        self.optional: Counter[tuple[int, int]] = Counter()
        self.is_bound = False
        self.must_close = False
        self.must_close_at_once = False
        self._login = (system_id, password)
        self._octets = bytearray()
        self._pdus_before_bind = 0

    def record_sent(self, octets: bytes) -> None:
        """Count what the client has sent."""
        self._octets += octets
        start = 0
        while not self.must_close_at_once:
            try:
                header = pdu.decode_header(self._octets, start)
            except MalformedPdu as malformed:
                self._expect_response(CommandId.GENERIC_NACK, malformed.sequence)
                self.must_close = self.must_close_at_once = True
                break
            if header is None or start + header.length > len(self._octets):
                break
            self._process_pdu(header, bytes(self._octets[start + pdu.HEADER_LENGTH : start + header.length]))
            start += header.length
        del self._octets[:start]

    def _expect_response(self, command: int, sequence: int) -> None:
        (self.optional if self.must_close else self.required)[command, sequence] += 1

    def _process_pdu(self, header: PduHeader, body: bytes) -> None:
        if not self.is_bound:
            self._pdus_before_bind += 1
            if self._pdus_before_bind > MAX_PDUS_BEFORE_BIND:
                self.optional += self.required
                self.required.clear()
                self.must_close = self.must_close_at_once = True
                return
        if header.command not in COMMAND_IDS:
            self._expect_response(CommandId.GENERIC_NACK, header.sequence)
        elif not header.command & RESPONSE_BIT:
            self._expect_response(header.command | RESPONSE_BIT, header.sequence)
        if header.command == CommandId.UNBIND and self.is_bound and not body:
            self.must_close = True
        if header.command in _BIND_COMMANDS:
            try:
                bind = pdu.decode_pdu(header, body)
            except MalformedPdu:
                return
            assert isinstance(bind, Bind)
            self.is_bound = self.is_bound or (bind.system_id, bind.password) == self._login

    def find_violation(self, received: Counter[tuple[int, int]], *, closed: bool, lossy: bool = False) -> str:
        """Return what the server did that it should not have, "" where it kept its promises.

        Args:
            received: the responses that arrived.
            closed: whether the server has closed the connection.
            lossy: answers may have been lost on their way: what is sent to a closed connection resets it.
        """
        if unexpected := received - self.required - self.optional:
            return f"answered what was not asked: {_format_responses(unexpected)}"
        if closed != self.must_close:
            return "closed without a reason" if closed else "left open"
        missing = self.required - received
        return f"not answered: {_format_responses(missing)}" if missing and not lossy else ""


def _format_responses(responses: Counter[tuple[int, int]]) -> str:
    return ", ".join(f"0x{command:08X} of {sequence} ({count})" for (command, sequence), count in responses.items())
