"""What the fuzz tests and `bench/fuzz` share: PDUs of each kind that the codec knows, damage to them, and what the
server owes for any octets.

Kinds come from the codec's own table and their fields from their classes, so a new PDU is fuzzed from its first day.
"""

from __future__ import annotations

import dataclasses
import struct
from collections import Counter
from collections.abc import Mapping
from functools import cache
from random import Random
from typing import get_origin, get_type_hints

from portal.smsc.connection.session import _MOST_BEFORE_BIND
from portal.smsc.protocol import pdu
from portal.smsc.protocol.constants import RESPONSE, Command, Tag
from portal.smsc.protocol.pdu import Header, Malformed, Pdu

KINDS: tuple[int, ...] = tuple(pdu._DECODERS)
"""The command_id of each PDU that the codec reads."""
UNKNOWN = (0x00000000, 0x0000000B, 0x00000102, 0x0000FFFF, 0x80000102, 0xDEADBEEF, 0xFFFFFFFF)
"""Some that it never will: outbind and alert_notification go from server to client, the others are reserved."""

_BINDS = (Command.BIND_TRANSMITTER, Command.BIND_RECEIVER, Command.BIND_TRANSCEIVER)
_LARGEST = (0xFFFFFFFF, 0xFFFF, 0xFF)
_LONGEST_STRING = 300
_UNLIMITED_BYTES = 1_000


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a PDU: its name, its type (int, str, bytes, or Mapping for optional parameters), and the largest value
    or greatest length that can be written.
    """

    name: str
    type: type
    limit: int = 0


def class_of(command: int) -> type:
    """Return the class of a PDU."""
    return pdu._DECODERS[command].__self__


def command_of(message: Pdu) -> int:
    """Return the command_id of a PDU; one that belongs to its class is no field of it."""
    return getattr(message, "command", None) or message.COMMAND


@cache
def fields_of(command: int) -> tuple[Field, ...]:
    """Return the fields of a PDU other than command and command_status, with limits found by trying."""
    hints = get_type_hints(class_of(command))
    fields = []
    for each in dataclasses.fields(class_of(command)):
        kind = get_origin(hints[each.name]) or hints[each.name]
        if each.name in ("command", "status"):
            continue
        if kind is int:
            fields.append(Field(each.name, int, next(value for value in _LARGEST if _fits(command, each.name, value))))
        elif kind in (str, bytes):
            unit = "x" if kind is str else b"x"
            longest = _UNLIMITED_BYTES if kind is bytes else _LONGEST_STRING
            lengths = (longest, *range(_LONGEST_STRING, -1, -1))
            fields.append(
                Field(each.name, kind, next(length for length in lengths if _fits(command, each.name, unit * length)))
            )
        elif kind is Mapping or (isinstance(kind, type) and issubclass(kind, Mapping)):
            fields.append(Field(each.name, Mapping))
    return tuple(fields)


def make(command: int, **values: object) -> Pdu:
    """Return a PDU. Fields that are not given are zero, empty or their class's default."""
    made = class_of(command)
    hints = get_type_hints(made)
    given = dict(values)
    for each in dataclasses.fields(made):
        if each.name == "command":
            given["command"] = command
        elif each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            given.setdefault(each.name, hints[each.name]())
    return made(**given)


def _fits(command: int, name: str, value: object) -> bool:
    try:
        make(command, **{name: value}).encode()
    except (ValueError, OverflowError, struct.error):
        return False
    return True


def is_consistent(values: Mapping[str, object]) -> bool:
    """Whether fields go together: a text is in short_message or in message_payload, not in both (5.3.2.32)."""
    tlvs = values.get("tlvs")
    return not (values.get("short_message") and isinstance(tlvs, Mapping) and tlvs.get(Tag.MESSAGE_PAYLOAD))


def tlv_lengths(tag: int) -> range:
    """Return how many octets an optional parameter may have."""
    return pdu._TLV_LENGTHS.get(tag, range(50))


def tlv_values(tag: int) -> range:
    """Return what the octet of a parameter of one may be."""
    return pdu._TLV_VALUES.get(tag, range(256))


class Source:
    """Makes PDUs, whole and damaged, of a generator of random numbers: the same numbers, the same octets."""

    def __init__(self, random: Random, whole: list[bytes]) -> None:
        self._random = random
        self._whole = whole

    def next(self, *, bad_framing: float) -> bytes:
        """Return a PDU: three in ten are whole.

        Args:
            bad_framing: the share of those whose command_length is not how long they are.
        """
        random = self._random
        octets = random.choice(self._whole)
        _, command, status, _ = struct.unpack_from(">IIII", octets)
        # Low numbers now and then: those under which the server itself asks.
        sequence, body = random.choice((random.getrandbits(32), random.randrange(100))), octets[pdu.HEADER_LENGTH :]
        if random.random() < 0.7:
            for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
                body = self._damage(body)
            if random.random() < 0.1:
                flipped = command ^ 1 << random.randrange(32)
                command = random.choice((random.choice(KINDS), random.choice(UNKNOWN), flipped))
            if random.random() < 0.1:
                status = random.getrandbits(32)
        length = pdu.HEADER_LENGTH + len(body)
        if random.random() < bad_framing:
            length = self._wrong(length)
        return struct.pack(">IIII", length, command, status, sequence) + body

    def _wrong(self, length: int) -> int:
        random = self._random
        wrong = (0, 1, 15, 16, length - 1, length + 1, 2 * length, 0x10000, 0x10001, 1 << 31, (1 << 32) - 1)
        return random.choice((*wrong, random.getrandbits(32), random.getrandbits(16)))

    def _damage(self, body: bytes) -> bytes:
        random = self._random
        way = random.randrange(11)
        start = random.randrange(len(body) + 1)
        end = min(start + random.randrange(1, 24), len(body))
        if way == 0 and body:
            at = random.randrange(len(body))
            return body[:at] + bytes((body[at] ^ 1 << random.randrange(8),)) + body[at + 1 :]
        if way == 1 and body:
            at = random.randrange(len(body))
            return body[:at] + random.choice((b"\0", b"\x01", b"\x7f", b"\x80", b"\xfe", b"\xff")) + body[at + 1 :]
        if way == 2:
            return body[:start]
        if way == 3:
            return body[:start] + body[end:]
        if way == 4:  # a field twice
            return body[:end] + body[start:]
        if way == 5:  # a terminator less
            return body[:start] + body[start:].replace(b"\0", b"", 1)
        if way == 6:
            return body[:start] + random.randbytes(random.randrange(1, 40)) + body[start:]
        if way == 7:  # an overlong string
            return body[:start] + b"x" * random.choice((5, 20, 65, 255, 3_000)) + body[start:]
        if way == 8:  # the end of another
            other = random.choice(self._whole)[pdu.HEADER_LENGTH :]
            return body[:start] + other[random.randrange(len(other) + 1) :]
        value = random.randbytes(random.choice((0, 1, 1, 2, 2, 3, 30)))
        tag = random.choice((*Tag, random.getrandbits(16)))
        if way == 9:
            return body + struct.pack(">HH", tag, len(value)) + value
        return (
            body + struct.pack(">HH", tag, random.choice((0, len(value) + 1, 0xFFFF, random.getrandbits(16)))) + value
        )


def whole_pdus(random: Random, count: int) -> list[bytes]:
    """Return valid PDUs, as many of each kind, with anything that can be written in their fields."""
    return [_whole(random, command).encode() for command in KINDS for _ in range(count)]


def _whole(random: Random, command: int) -> Pdu:
    values: dict[str, object] = {}
    for each in fields_of(command):
        if each.type is int:
            values[each.name] = random.choice((0, 1, random.randint(0, each.limit), each.limit))
        elif each.type is str:
            octets = bytes(random.randrange(1, 256) for _ in range(_length(random, each.limit)))
            values[each.name] = octets.decode("latin-1")
        elif each.type is bytes:
            values[each.name] = random.randbytes(_length(random, each.limit))
        else:
            values[each.name] = dict(_tlv(random) for _ in range(random.choice((0, 0, 1, 3))))
    if not is_consistent(values):
        values["short_message"] = b""
    return make(command, **values)


def _length(random: Random, limit: int) -> int:
    return random.choice((0, random.randint(0, limit), limit))


def _tlv(random: Random) -> tuple[int, bytes]:
    tag = random.choice((*Tag, random.getrandbits(16)))
    length = random.choice(tlv_lengths(tag))
    return tag, bytes(random.choice(tlv_values(tag)) for _ in range(length))


class Debt:
    """What the server owes one client: an answer for each request, and whether it ends the connection.

    Reads what the client sends as `smpp.md` tells it. `answers` are owed, by command_id and sequence_number; `perhaps`
    may come too: they were asked after the farewell, or there may have been no time for them. `ends`: the server closes
    the connection. `cut`: at once, and nothing more is read.
    """

    def __init__(self, system_id: str, password: str) -> None:
        self.answers: Counter[tuple[int, int]] = Counter()
        self.perhaps: Counter[tuple[int, int]] = Counter()
        self.bound = False
        self.ends = False
        self.cut = False
        self._login = (system_id, password)
        self._octets = bytearray()
        self._before_bind = 0

    def sent(self, octets: bytes) -> None:
        """The client has sent this."""
        self._octets += octets
        start = 0
        while not self.cut:
            try:
                header = pdu.read_header(self._octets, start)
            except Malformed as malformed:
                self._owe(Command.GENERIC_NACK, malformed.sequence)
                self.ends = self.cut = True
                break
            if header is None or start + header.length > len(self._octets):
                break
            self._read(header, bytes(self._octets[start + pdu.HEADER_LENGTH : start + header.length]))
            start += header.length
        del self._octets[:start]

    def _owe(self, command: int, sequence: int) -> None:
        (self.perhaps if self.ends else self.answers)[command, sequence] += 1

    def _read(self, header: Header, body: bytes) -> None:
        if not self.bound:
            self._before_bind += 1
            if self._before_bind > _MOST_BEFORE_BIND:
                self.perhaps += self.answers
                self.answers.clear()
                self.ends = self.cut = True
                return
        if header.command not in KINDS:
            self._owe(Command.GENERIC_NACK, header.sequence)
        elif not header.command & RESPONSE:
            self._owe(header.command | RESPONSE, header.sequence)
        if header.command == Command.UNBIND and self.bound and not body:
            self.ends = True
        if header.command in _BINDS:
            try:
                bind = pdu.decode(header, body)
            except Malformed:
                return
            self.bound = self.bound or (bind.system_id, bind.password) == self._login

    def wrong(self, came: Counter[tuple[int, int]], *, closed: bool, lossy: bool = False) -> str:
        """Return what the server did that it should not have, "" where it kept its promises.

        Args:
            came: the answers that arrived.
            closed: whether the server has closed the connection.
            lossy: answers may have been lost on their way: what is sent to a closed connection resets it.
        """
        if unasked := came - self.answers - self.perhaps:
            return f"answered what was not asked: {_named(unasked)}"
        if closed != self.ends:
            return "closed without a reason" if closed else "left open"
        missing = self.answers - came
        return f"not answered: {_named(missing)}" if missing and not lossy else ""


def _named(answers: Counter[tuple[int, int]]) -> str:
    return ", ".join(f"0x{command:08X} of {sequence} ({count})" for (command, sequence), count in answers.items())
